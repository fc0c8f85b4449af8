import fcntl
import gc
import json
import os
import sys
from pathlib import Path

import digits_network
import hypothesis
import keras
import numpy as np
import pytest

import keras_adaptive as ka
from keras_adaptive.inference import latency

os.environ.setdefault("MPLBACKEND", "Agg")
# what JAX compiles in tests runs a few times: compiling it is what takes long
os.environ.setdefault(
    "XLA_FLAGS", "--xla_backend_optimization_level=0 --xla_llvm_disable_expensive_passes=true"
)

# the same examples in every run: a change that breaks a property is found by whoever made it
hypothesis.settings.register_profile("steady", derandomize=True, deadline=None)
hypothesis.settings.load_profile("steady")

TINY = {"input_shape": (8, 8, 1), "classes": 10, "channels": 4, "growth_rate": 2}

GATED = {"input_shape": (8, 8, 1), "classes": 10, "exits": 2, "head_channels": 4}
GATED_NETWORKS = {
    "resnet": (ka.build_resnet, {**GATED, "depth": 14, "width": 0.25}),
    "resnet-pre": (ka.build_resnet, {**GATED, "depth": 14, "width": 0.25, "style": "pre"}),
    "densenet": (ka.build_densenet, {**GATED, "depth": 16, "growth_rate": 2}),
}
GATES = ("layer", "channel", "both")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def pytest_collection_finish(session):
    """What is there now stays to the end: to look for garbage in it takes a tenth of the time."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)


@pytest.fixture(scope="session", autouse=True)
def short_measurements():
    """Measurements are as short as they can be: no test needs times that can be trusted."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(latency, "REPEATS", 1)
        patch.setattr(latency, "SECONDS", 0.0)
        yield


@pytest.fixture(scope="session", autouse=True)
def home(tmp_path_factory):
    """The folder where files of predictors are kept is one of the tests' own."""
    folder = tmp_path_factory.getbasetemp()
    folder = folder.parent if "PYTEST_XDIST_WORKER" in os.environ else folder
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("KERAS_ADAPTIVE_HOME", str(folder / "home"))
        yield folder / "home"


@pytest.fixture(autouse=True)
def no_picture_stays_open():
    yield
    if "matplotlib.pyplot" in sys.modules:
        sys.modules["matplotlib.pyplot"].close("all")


@pytest.fixture
def rng():
    return np.random.default_rng(0)


@pytest.fixture(scope="session")
def goldens():
    return json.loads((Path(__file__).parent / "goldens.json").read_text())


@pytest.fixture(scope="session")
def digits():
    return ka.data.load("digits")


@pytest.fixture(scope="session")
def trained():
    """A small network that has learned the digits. Not to be changed."""
    return digits_network.load()


@pytest.fixture(scope="session")
def calibration(trained, digits):
    """Logits, labels and costs of held-out data."""
    x, y = digits.arrays("calibrate")
    return np.stack(trained.predict(x, verbose=0)), y, trained.exit_costs()


@pytest.fixture(scope="session")
def policy(calibration):
    logits, labels, costs = calibration
    return ka.calibrate(logits, labels, costs, budget=0.6 * costs[-1], method="geometric")


@pytest.fixture(scope="session")
def test_images(digits):
    return digits.arrays("test")


@pytest.fixture(scope="session")
def once(tmp_path_factory):
    """Makes an expensive file once in a run, however many processes the tests are spread over."""
    folder = tmp_path_factory.getbasetemp()
    if "PYTEST_XDIST_WORKER" in os.environ:  # its own folder is inside that of the run
        folder = folder.parent

    def made(name, make):
        path = folder / "once" / name
        path.parent.mkdir(exist_ok=True)
        with (path.parent / f"{name}.lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            if not path.exists():
                make(path)
        return path

    return made


@pytest.fixture(scope="session")
def exported(trained, policy, digits, once):
    """The trained network as a .tflite file. Not to be changed."""
    pixels = {"mean": digits.mean, "std": digits.std}
    names = digits.class_names
    return once(
        "digits.tflite",
        lambda path: ka.export_tflite(
            trained, path, policy, class_names=names, preprocessing=pixels
        ),
    )


@pytest.fixture(scope="session")
def far_from_thresholds():
    """Tells which samples rounding cannot move to another exit."""

    def far(policy, logits):
        distance = np.abs(policy.confidences(logits) - policy.thresholds[:, None])
        return distance.min(axis=0) > 1e-5

    return far


def half_open(builder, gates, **changes):
    """Returns a network whose gates disagree about the images."""
    build, arguments = GATED_NETWORKS[builder]
    keras.utils.set_random_seed(0)
    model = build(**{**arguments, **changes}, gates=gates)
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if layer.name == "decision":  # half of them open
            kernel, bias = layer.get_weights()
            layer.set_weights([rng.normal(0, 20, kernel.shape), rng.normal(0, 0.3, bias.shape)])
    return model


# every builder and every kind of gates once; what is left of the combinations is slow
GATED_ROWS = [("resnet", "both"), ("resnet-pre", "layer"), ("densenet", "channel")]
ALL_ROWS = [
    pytest.param((b, g), marks=[] if (b, g) in GATED_ROWS else pytest.mark.slow, id=f"{b}-{g}")
    for b in GATED_NETWORKS
    for g in GATES
]


@pytest.fixture(scope="module", params=ALL_ROWS)
def gated(request):
    """A network whose gates disagree about the images, and its kind of gates."""
    return half_open(*request.param), request.param[1]


@pytest.fixture(scope="session")
def images():
    """Images of different strength, about which gates disagree."""
    rng = np.random.default_rng(1)
    strength = np.geomspace(0.1, 10, 9)[:, None, None, None]
    return (strength * rng.normal(1, 1, (9, 8, 8, 1))).astype("float32")


@pytest.fixture
def write(tmp_path):
    """A function that writes the bytes of a .tflite file and returns its path."""

    def to_file(content):
        path = tmp_path / "model.tflite"
        path.write_bytes(content)
        return path

    return to_file
