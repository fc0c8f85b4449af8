"""The long training of the network that comes with the library, on CPUs and on one GPU."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile

import keras
import numpy as np
import pytest
from PIL import Image

import keras_adaptive as ka
from benchmarks import _long_training, networks
from keras_adaptive import data


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(0)
    return rng.integers(1, 256, (40, 16, 16, 3), dtype="uint8"), rng.integers(0, 3, 40)


def training(path, images, batch_size=16, **facts):
    keras.utils.set_random_seed(0)
    image = keras.Input((16, 16, 3))
    x = keras.layers.BatchNormalization()(keras.layers.Conv2D(4, 3, strides=4)(image))
    x = keras.layers.GlobalAveragePooling2D()(x)
    outputs = [keras.layers.Dense(3, name=f"exit_{k}")(x) for k in range(2)]
    model = ka.AdaptiveModel(image, outputs)
    rates = ka.training.Recipe(schedule="one_cycle").optimizer(6)
    model.compile(rates, metrics=None, run_eagerly=True)
    return _long_training.LongTraining(
        model,
        *images,
        lambda pixels: np.float32(pixels) / 255 - 0.5,
        path,
        epochs=3,
        batch_size=batch_size,
        facts=facts,
    )


def weights(run):
    return [np.array(v) for v in [*run.model.weights, *run.model.optimizer.variables]]


def accuracies():
    return [0.25, 0.5]


@pytest.mark.slow
def test_goes_on_exactly_where_it_was_broken_off(images, tmp_path):
    unbroken = training(tmp_path / "unbroken.npz", images)
    assert unbroken.run(accuracies)
    first = training(tmp_path / "run.npz", images)
    first.model.train_on_batch = ended_after(first, 4)
    assert not first.run(accuracies)
    second = training(tmp_path / "run.npz", images)
    assert second.run(accuracies)
    for one, other in zip(weights(unbroken), weights(second), strict=True):
        np.testing.assert_array_equal(one, other)
    lines = (tmp_path / "run.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "1", "2", "3"]
    assert all(line.endswith(",0.25,0.5") for line in lines[1:])


def ended_after(run, steps):
    """`train_on_batch` that gets a SIGTERM in the middle of its last step."""
    inner = run.model.train_on_batch

    def one(*arguments, **how):
        if run.step == steps - 1:
            os.kill(os.getpid(), signal.SIGTERM)
        return inner(*arguments, **how)

    return one


def test_checkpoints_of_another_training_are_refused(images, tmp_path):
    path = tmp_path / "run.npz"
    run = training(path, images)
    run.keep()
    x, y = images
    training(path, (x[::-1], y[::-1])).restore()  # the same images, read in another order
    with pytest.raises(ValueError, match="of the same training.*data differ"):
        training(path, (x[:-1], y[:-1])).restore()
    with pytest.raises(ValueError, match="of the same training.*batch_size, network differ"):
        training(path, images, batch_size=8, network={"blocks": 2}).restore()


def test_every_epoch_takes_each_image_once_and_changes_it(images, tmp_path):
    run = training(tmp_path / "run.npz", images, batch_size=8)
    run.standardize = lambda pixels: np.float32(pixels)
    labels = np.concatenate([run.batch(step)[1] for step in range(5)])
    assert sorted(labels) == sorted(images[1])
    x, _ = run.batch(2)
    np.testing.assert_array_equal(x, run.batch(2)[0])
    assert not np.array_equal(x, run.batch(7)[0])
    for picture in x:
        empty = (picture == 0).all(-1)
        assert empty.any()
        kept = picture[~empty]  # what is left are pixels of one of the images
        assert any(
            {tuple(p) for p in kept} <= {tuple(p) for p in source.reshape(-1, 3)}
            for source in run.images
        )


def test_logits_stay_float32():
    model = ka.build_msdnet((8, 8, 1), 3, blocks=2, channels=4, growth_rate=2, head_channels=4)
    _long_training.in_bfloat16(model)
    assert [z.dtype for z in model(np.zeros((1, 8, 8, 1)))] == ["float32", "float32"]
    assert model.get_layer("exit_0").units[0].compute_dtype == "bfloat16"


# ---- one GPU

SMALL = {
    "cifar10": {
        "blocks": 2,
        "step_mode": "even",
        "channels": 4,
        "growth_rate": 2,
        "growth_factors": [1, 2],
        "bottleneck_factors": [1, 2],
        "head_channels": 4,
    },
    "cifar10_resnet9": {"at": ["block_0"], "head_channels": 4, "widths": [4, 8, 8]},
}


@pytest.fixture(scope="module")
def tar(tmp_path_factory):
    """Made JPEG files of three classes, bright in a channel of their own."""
    path, rng = tmp_path_factory.mktemp("made") / "made.tar.xz", np.random.default_rng(1)
    with tarfile.open(path, "w:xz") as archive:
        for split, count in (("train", 20), ("test", 10)):
            for label, name in enumerate(("ant", "bee", "cow")):
                for number in rng.permutation(count):
                    pixels = rng.integers(0, 128, (16, 16, 3), dtype="uint8")
                    pixels[..., label] += 127
                    file = io.BytesIO()
                    Image.fromarray(pixels).save(file, "JPEG")
                    member = tarfile.TarInfo(f"made/{split}/{name}/{number:04}.jpg")
                    member.size = file.tell()
                    file.seek(0)
                    archive.addfile(member, file)
    return path


@pytest.mark.slow
@pytest.mark.jax
@pytest.mark.subprocess
@pytest.mark.parametrize("name", SMALL)
def test_one_gpu_trains_measures_and_goes_on(name, tar, tmp_path):
    pytest.importorskip("jax")
    program = """
import sys
sys.modules["tensorflow"] = None  # as where it is not installed
from benchmarks.gpu import train
for epochs in ("10", "12"):
    sys.argv[2:4] = ["--epochs", epochs]
    train.main()
"""
    command = [sys.executable, "-c", program, name, "--epochs", "", "--data", str(tar)]
    command += ["--out", str(tmp_path / "out"), "--batch-size", "9"]
    command += ["--network", json.dumps(SMALL[name])]
    env = {**os.environ, "KERAS_BACKEND": "jax", "JAX_PLATFORMS": "cpu"}
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "goes on from step 60 of 72" in done.stdout
    row = json.loads((tmp_path / "out" / "table.json").read_text())
    assert row["epochs"] == 12
    accuracies = [each["accuracy"] for each in row["exits"]]
    assert len(accuracies) == 2
    assert max(accuracies) > 60  # of three classes
    lines = (tmp_path / "out" / f"{name}.csv").read_text().splitlines()
    assert [line.split(",")[0] for line in lines] == ["epoch", "10", "12"]
    build, *_ = networks.LONG[name]
    model = build((16, 16, 3), 3, **SMALL[name])
    model = networks.with_weights(model, tmp_path / "out" / f"{name}.weights.h5")
    splits = data.load(data_dir=tar, cache_dir=tmp_path)
    x, y = splits.arrays("test")
    found = [100 * float((z.argmax(-1) == y).mean()) for z in model.predict(x, verbose=0)]
    np.testing.assert_allclose(found, accuracies, atol=4)  # one image of thirty, or float16


@pytest.mark.slow
@pytest.mark.jax
def test_one_gpu_splits_the_images_as_the_library_does(tar, tmp_path, monkeypatch):
    pytest.importorskip("jax")
    monkeypatch.setenv("KERAS_BACKEND", keras.backend.backend())
    from benchmarks.gpu import train

    parts = train.read(tar)
    splits = data.load(data_dir=tar, cache_dir=tmp_path)
    for name, (images, labels) in parts.items():
        expected = splits.images(name, splits.size(name))
        assert len(images) == len(expected[0])
        found = {(image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True)}
        assert found == {
            (image.tobytes(), int(label)) for image, label in zip(*expected, strict=True)
        }
