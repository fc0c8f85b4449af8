"""ONNX files of stages, run in ONNX Runtime, give Keras's answers and the policy's exits."""

import json

import keras
import numpy as np
import onnxruntime
import pytest

import keras_adaptive as ka
from keras_adaptive.export import onnx as module


def several_inputs():
    image, facts = keras.Input((6, 6, 2), name="image"), keras.Input((3,), name="facts")
    x = keras.layers.Conv2D(4, 3, activation="relu")(image)
    first = ka.layers.EarlyExit(5, name="exit_0")(x)
    x = keras.layers.Concatenate()([keras.layers.GlobalAveragePooling2D()(x), facts])
    return ka.AdaptiveModel([image, facts], [first, keras.layers.Dense(5, name="exit_1")(x)])


def tokens():
    words = keras.Input((7,), dtype="int32")
    x = keras.layers.Embedding(11, 8)(words)
    outputs = []
    for k in range(2):
        x = keras.layers.Add()([x, keras.layers.MultiHeadAttention(2, 4)(x, x)])
        outputs.append(ka.layers.EarlyExit(3, name=f"exit_{k}")(x))
    return ka.AdaptiveModel(words, outputs)


def grouped():
    image = keras.Input((4, 4, 4))
    x = keras.layers.Conv2D(4, 3, groups=2, padding="same", activation="gelu")(image)
    return ka.AdaptiveModel(image, [ka.layers.EarlyExit(3, name="exit_0")(x)])


NETWORKS = {
    "grouped": grouped,
    "msdnet": lambda: ka.build_msdnet((8, 8, 1), 4, blocks=3, channels=4, growth_rate=2),
    "gated": lambda: ka.build_resnet((8, 8, 1), 4, depth=8, gates="layer", exits=(1,)),
    "inputs": several_inputs,
    "tokens": tokens,
}
QUICK = ("inputs", "grouped")


def run(files, data):
    """Returns the logits of every stage, by names alone."""
    known, logits = dict(data), []
    for file in files:
        session = onnxruntime.InferenceSession(file)
        names = [one.name for one in session.get_outputs()]
        found = session.run(None, {one.name: known[one.name] for one in session.get_inputs()})
        known.update(zip(names, found, strict=True))
        logits.append(known["logits"])
    return logits


@pytest.mark.parametrize(
    "name",
    [n if n in QUICK else pytest.param(n, marks=pytest.mark.slow) for n in NETWORKS],
)
def test_every_exit_equals_keras(name, tmp_path):
    keras.utils.set_random_seed(1)
    model = NETWORKS[name]()
    exits = model.num_exits
    policy = ka.ExitPolicy([0.7] * (exits - 1) + [0.0], temperatures=[1.5] * exits)
    files = ka.export_onnx(model, tmp_path / "files", policy, class_names=None)
    rng = np.random.default_rng(0)
    info = json.loads(
        onnxruntime.InferenceSession(files[0]).get_modelmeta().custom_metadata_map["keras_adaptive"]
    )
    data = {}
    for one in info["inputs"]:
        shape = (9, *one["shape"])
        whole = one["dtype"] == "int32"
        values = rng.integers(0, 11, shape) if whole else rng.normal(size=shape)
        data[one["name"]] = values.astype(one["dtype"])
    given = list(data.values())
    expected = model.predict(given if len(given) > 1 else given[0], verbose=0)
    for z, found in zip(expected, run(files, data), strict=True):
        np.testing.assert_allclose(found, z, atol=1e-4)
    assert [float(t) for t in info["thresholds"]] == policy.thresholds.tolist()
    assert [float(t) for t in info["log_odds"]] == policy.log_odds.tolist()
    assert info["temperatures"] == [1.5] * exits
    assert info["macs"] == model.exit_costs().tolist()


@pytest.mark.slow
def test_closed_exits_are_left_out_and_the_models_own_facts_written(tmp_path):
    model = NETWORKS["msdnet"]()
    model.class_names = list("abcd")
    files = ka.export_onnx(model, tmp_path / "files", ka.ExitPolicy([np.inf, 0.5, 0.0]))
    assert [file.name for file in files] == ["stage_0.onnx", "stage_1.onnx"]
    kept = onnxruntime.InferenceSession(files[0]).get_modelmeta().custom_metadata_map
    info = json.loads(kept["keras_adaptive"])
    assert info["exits"] == [1, 2]
    assert info["class_names"] == list("abcd")
    contents = b"".join(file.read_bytes() for file in files)
    assert b"exit_1" in contents
    assert b"exit_0" not in contents


def test_what_does_not_fit_is_refused_before_work(tmp_path, monkeypatch):
    model, policy = several_inputs(), ka.ExitPolicy([0.5, 0.0])
    monkeypatch.setattr(module, "_converted", lambda *_: pytest.fail("work began"))
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "notes.txt").write_text("mine")
    (tmp_path / "file").write_text("mine")
    for path in ("full", "file"):
        with pytest.raises(ValueError, match="`path` must be a folder that is not there"):
            ka.export_onnx(model, tmp_path / path, policy)
    with pytest.raises(ValueError, match="The folder of `path` must exist"):
        ka.export_onnx(model, tmp_path / "none" / "files", policy)
    with pytest.raises(TypeError, match="`path` must be a string or a path"):
        ka.export_onnx(model, None, policy)
    with pytest.raises(ValueError, match="`opset` must be"):
        ka.export_onnx(model, tmp_path / "new", policy, opset=3)
    with pytest.raises(ValueError, match="`class_names` must be 5 names"):
        ka.export_onnx(model, tmp_path / "new", policy, class_names=["a"])
    with pytest.raises(ValueError, match="`policy` must be given"):
        ka.export_onnx(model, tmp_path / "new")
    assert sorted(p.name for p in tmp_path.rglob("*")) == ["file", "full", "notes.txt"]


def test_operations_that_onnx_lacks_are_named(tmp_path):
    x = keras.Input((3,))
    logits = keras.layers.Dense(3, name="exit_0")(keras.ops.erfinv(keras.ops.tanh(x)))
    with pytest.raises(RuntimeError, match="must be one that ONNX has. Received: Erfinv at"):
        ka.export_onnx(ka.AdaptiveModel(x, [logits]), tmp_path / "new", ka.ExitPolicy([0.0]))
    assert not list(tmp_path.iterdir())


def test_a_file_that_computes_something_else_is_not_written(tmp_path, monkeypatch):
    model, policy = several_inputs(), ka.ExitPolicy([0.5, 0.0])
    answers = module._verification.keras_answers
    monkeypatch.setattr(
        module._verification,
        "keras_answers",
        lambda *given: {"logits": answers(*given)["logits"] + [[[0.1]], [[0.0]]]},
    )
    with pytest.raises(RuntimeError, match="Exit 0 of the files must equal Keras"):
        ka.export_onnx(model, tmp_path / "new", policy)
    assert not list(tmp_path.iterdir())
