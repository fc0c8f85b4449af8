import contextlib
import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from tiny import three_exits, two_exits

import keras_adaptive as ka
from anytime_tflite import AnytimeModel, pixels, read_info
from keras_adaptive.export import _verification as verification
from keras_adaptive.export import _writer as flatbuffer
from keras_adaptive.export import tflite

PIXELS = {"mean": [0.5], "std": [0.25]}


@pytest.fixture(scope="module")
def interpreter(exported):
    return Interpreter(str(exported))


def test_has_a_signature_per_stage_and_info(interpreter, trained):
    names = {"info", *(f"stage_{k}" for k in range(trained.exits))}
    assert set(interpreter.get_signature_list()) == names


def test_holds_builtin_operations_only(exported):
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(exported.read_bytes(), 0))
    assert all(code.customCode is None for code in model.operatorCodes)
    codes = {code.builtinCode for code in model.operatorCodes}
    assert schema.BuiltinOperator.VAR_HANDLE not in codes
    assert schema.BuiltinOperator.CONV_2D in codes


def test_info_says_what_a_device_needs(exported, interpreter, trained, policy, digits):
    text = interpreter.get_signature_runner("info")(unused=np.zeros(1, "int32"))["json"]
    info = json.loads(bytes(text).decode())
    assert info["exits"] == [0, 1, 2]
    assert [float(t) for t in info["thresholds"]] == policy.thresholds.tolist()
    assert info["temperatures"] == [1.0, 1.0, 1.0]
    assert info["confidence"] == "max_prob"
    assert info["macs"] == trained.exit_costs().tolist()
    assert info["class_names"] == list("0123456789")
    assert info["preprocessing"] == {"mean": digits.mean, "std": digits.std}


def test_logits_of_every_exit_equal_keras(interpreter, trained, test_images):
    interpreter.allocate_tensors()
    for image in test_images[0][:20]:
        tensors = {"image": image[None]}
        for k, expected in enumerate(trained(image[None])):
            runner = interpreter.get_signature_runner(f"stage_{k}")
            tensors.update(runner(**{n: tensors[n] for n in runner.get_input_details()}))
            np.testing.assert_allclose(tensors["logits"], expected, atol=1e-5)


def test_preprocessing_may_be_arrays(small, tmp_path):
    preprocessing = {"mean": np.array([0.5]), "std": np.array([0.25])}
    ka.export_tflite(small, tmp_path / "m.tflite", POLICY, preprocessing=preprocessing)
    info = read_info(tmp_path / "m.tflite")
    assert info["preprocessing"] == {"mean": [0.5], "std": [0.25]}


def test_weights_are_stored_once(exported, trained):
    kernels = sum(4 * int(np.prod(v.shape)) for v in trained.variables if len(v.shape) > 1)
    assert kernels < exported.stat().st_size < kernels + 150_000


def test_closed_exits_are_left_out(tmp_path):
    path = tmp_path / "model.tflite"
    ka.export_tflite(three_exits(), path, ka.ExitPolicy([np.inf, 0.9, 0]))
    assert read_info(path)["exits"] == [1, 2]
    signatures = Interpreter(str(path)).get_signature_list()
    assert set(signatures) == {"info", "stage_0", "stage_1"}
    tensors = flatbuffer.read(path.read_bytes()).subgraphs[0].tensors
    assert not any(b"exit_0" in tensor.name for tensor in tensors)


# ---- what the verification is for: each trap is set, and must be caught


@pytest.fixture(scope="module")
def small():
    """A network of two exits that is converted soon. Not to be changed."""
    keras.utils.set_random_seed(0)
    return two_exits()


POLICY = ka.ExitPolicy([0.9, 0])


def stages_only(path):
    """Returns what the converter gave, before `info` was added."""
    model = flatbuffer.read(path.read_bytes())
    model.subgraphs.pop()
    model.signatureDefs.pop()
    model.metadata.pop()
    return flatbuffer.write(model)


def test_a_file_without_weights_is_refused(small, tmp_path, monkeypatch):
    class Forgetful(tf.Module):
        """Tracks Keras's variable objects, not TensorFlow's: converts without a word."""

        def __init__(self):
            super().__init__()
            self.values = list(small.variables)

    monkeypatch.setattr(tf, "Module", Forgetful)
    scope = keras.StatelessScope

    def without_values(*values):  # as they are given to what is converted
        return contextlib.nullcontext() if values else scope()

    monkeypatch.setattr(keras, "StatelessScope", without_values)
    with pytest.raises(RuntimeError, match="stateless builtin operations only.* VAR_HANDLE"):
        ka.export_tflite(small, tmp_path / "model.tflite", POLICY)
    assert list(tmp_path.iterdir()) == []


def test_a_file_that_answers_otherwise_is_refused(small, tmp_path, monkeypatch):
    other = tmp_path / "other.tflite"
    ka.export_tflite(two_exits(), other, POLICY)
    monkeypatch.setattr(tflite, "convert", lambda *_: stages_only(other))
    with pytest.raises(RuntimeError, match="Exit 0 of the file must equal Keras"):
        ka.export_tflite(small, tmp_path / "model.tflite", POLICY)
    assert list(tmp_path.iterdir()) == [other]


def test_a_file_smaller_than_its_weights_is_refused(small, tmp_path, monkeypatch):
    tiny = tmp_path / "tiny.tflite"
    image = keras.Input((8, 8, 1))
    x = keras.layers.GlobalAveragePooling2D()(image)
    model = ka.AdaptiveModel(image, [keras.layers.Dense(10)(x), keras.layers.Dense(10)(x)])
    ka.export_tflite(model, tiny, POLICY)
    monkeypatch.setattr(tflite, "convert", lambda *_: stages_only(tiny))
    with pytest.raises(RuntimeError, match="must hold its weights"):
        ka.export_tflite(small, tmp_path / "model.tflite", POLICY)


def test_a_file_for_a_newer_runtime_is_refused(small, tmp_path, monkeypatch):
    monkeypatch.setitem(verification.RUNTIMES, "litert", (1, 0))
    with pytest.raises(RuntimeError, match="must run on version 1.0"):
        ka.export_tflite(small, tmp_path / "model.tflite", POLICY)
    assert list(tmp_path.iterdir()) == []


def test_operations_outside_the_runtime_are_refused(tmp_path):
    image = keras.Input((8, 8, 1), name="image")
    x = keras.layers.Flatten()(image)
    first = keras.layers.Dense(3, name="exit_0")(x)
    last = keras.layers.Dense(3, name="exit_1")(keras.ops.erfinv(keras.ops.tanh(x)))
    model = ka.AdaptiveModel(image, [first, last])
    with pytest.raises(RuntimeError, match="one that a file has. Received: Erfinv at 'erfinv'"):
        ka.export_tflite(model, tmp_path / "model.tflite", POLICY)
    assert list(tmp_path.iterdir()) == []


def stopping(classes):
    shapes = ((classes, 4), (4, 4), (4, 2))
    return ka.LearnedPolicy([[(np.zeros(shape), np.zeros(shape[1])) for shape in shapes]])


@pytest.mark.parametrize("digest", ["0" * 64, "f" * 64])
def test_details_may_hold_digests_of_their_own(small, tmp_path, digest):
    """The file's is the first of this name."""
    details = {"sha256": digest, "data": [{"sha256": digest}], "samples": np.int64(3)}
    path = tmp_path / "model.tflite"
    ka.export_tflite(small, path, ka.ExitPolicy([0.5, 0], details=details))
    info = read_info(path)
    assert info["policy"] == {**details, "samples": 3}
    assert info["sha256"] != digest
    path.write_bytes(path.read_bytes().replace(b'"samples": 3', b'"samples": 4'))
    with pytest.raises(ValueError, match="which is damaged or was changed"):
        read_info(path)


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"model": "net"}, TypeError, "`model` must be an AdaptiveModel"),
        ({"policy": [0.5, 0]}, TypeError, "`policy` must be an ExitPolicy, a LearnedPolicy"),
        ({"policy": ka.ExitPolicy([0.5, 0.5, 0])}, ValueError, "one threshold per exit"),
        ({"policy": None}, ValueError, "`policy` must be given where `model.policy` is None"),
        ({"class_names": ["a"]}, ValueError, "`class_names` must be 10 names"),
        ({"class_names": "0123456789"}, ValueError, "`class_names` must be 10 names"),
        ({"preprocessing": {"mean": [0.5]}}, ValueError, "`preprocessing` must be"),
        ({"preprocessing": {"mean": 0.5, "std": 1.0}}, ValueError, "`preprocessing` must be"),
        ({"preprocessing": {"mean": [0], "std": [0]}}, ValueError, "with positive `std`"),
        ({"preprocessing": {"mean": [0, 0], "std": [1, 1]}}, ValueError, "1 numbers each"),
        ({"preprocessing": {"mean": [127.5], "std": [127.5]}}, ValueError, "divided by 255"),
        ({"class_names": dict(enumerate("0123456789"))}, ValueError, "by number give"),
        (
            {"calibration_data": np.full((1, 8, 8, 1), 255.0), "preprocessing": PIXELS},
            ValueError,
            "which no pixel becomes",
        ),
        ({"path": "missing/model.tflite"}, ValueError, "folder of `path` must exist"),
        (
            {"policy": stopping(5)},
            ValueError,
            "for the 10 classes .* a LearnedPolicy for 5 classes",
        ),
        ({"input_shape": 8}, ValueError, "`input_shape` must hold a size for every axis"),
        ({"input_shape": (8, 8, 1.5)}, ValueError, "`input_shape` must hold a size for every axis"),
        ({"quantize": "int4"}, ValueError, "`quantize` must be one of"),
        ({"quantize": "int8"}, ValueError, "`calibration_data` must be given"),
        ({"runtime": "onnx"}, ValueError, "`runtime` must be one of .* runtime=onnx"),
        ({"calibration_data": np.zeros((2, 8, 8))}, ValueError, r"\(samples, 8, 8, 1\)"),
        ({"calibration_data": np.full((1, 8, 8, 1), np.nan)}, ValueError, "must be finite"),
        ({"calibration_data": (np.zeros((1, 8, 8, 1)), [0.5])}, ValueError, "must be 1 integers"),
        ({"calibration_data": (np.zeros((1, 8, 8, 1)), [10])}, ValueError, "labels from 10 to 10"),
        ({"stage_ms": [1.0]}, ValueError, "`stage_ms` must be 2 positive numbers"),
        ({"stage_ms": [1.0, 0.0]}, ValueError, "`stage_ms` must be 2 positive numbers"),
    ],
)
def test_rejects_impossible_arguments(small, tmp_path, arguments, error, message):
    arguments = {"model": small, "path": "model.tflite", "policy": POLICY, **arguments}
    arguments["path"] = tmp_path / arguments["path"]
    with pytest.raises(error, match=message):
        ka.export_tflite(**arguments)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("path", "error", "message"),
    [
        (None, TypeError, "`path` must be a string or a path. Received: path=None"),
        ("", ValueError, "which is a folder"),
        (".", ValueError, "which is a folder"),
        ("none/model.tflite", ValueError, "The folder of `path` must exist"),
    ],
)
def test_the_path_is_looked_at_before_converting(small, path, error, message, monkeypatch):
    monkeypatch.setattr(tflite, "convert", None)
    with pytest.raises(error, match=message):
        ka.export_tflite(small, path, POLICY)


def test_needs_a_fixed_input_shape(tmp_path):
    image = keras.Input((None, None, 1))
    x = keras.layers.GlobalAveragePooling2D()(image)
    model = ka.AdaptiveModel(image, [keras.layers.Dense(2)(x), keras.layers.Dense(2)(x)])
    with pytest.raises(ValueError, match="must have inputs of fixed shape"):
        ka.export_tflite(model, tmp_path / "model.tflite", POLICY)


def test_needs_one_answer_per_sample(tmp_path):
    image = keras.Input((8, 8, 1))
    dense = keras.layers.Conv2D(3, 1)
    model = ka.AdaptiveModel(image, [dense(image), dense(image)])
    with pytest.raises(ValueError, match="one answer per sample"):
        ka.export_tflite(model, tmp_path / "model.tflite", POLICY)


def test_the_first_subgraph_computes_something(exported):
    """XNNPACK is not applied to a file whose first subgraph has nothing to compute."""
    model = flatbuffer.read(exported.read_bytes())
    assert [flatbuffer.text(graph.name) for graph in model.subgraphs] == [
        *(f"stage_{i}" for i in range(3)),
        "info",
    ]
    interpreter = Interpreter(str(exported))
    interpreter.allocate_tensors()
    assert "DELEGATE" in {operation["op_name"] for operation in interpreter._get_ops_details()}


def test_info_is_stored_once_as_signature_and_as_metadata(exported):
    content = exported.read_bytes()
    assert content.count(b'"format": "keras_adaptive.tflite"') == 1
    assert read_info(exported)["model"] == "msdnet"


def test_a_patience_policy_uses_every_exit(small, tmp_path):
    path = tmp_path / "model.tflite"
    policy = ka.PatiencePolicy(2)
    assert ka.export_tflite(small, path, policy) is policy
    info = read_info(path)
    assert (info["exits"], info["patience"]) == ([0, 1], 2)


# ---- what the model says, and the policy that is returned


def test_what_is_not_given_is_asked_of_the_model(tmp_path, monkeypatch):
    model, path = two_exits(), tmp_path / "model.tflite"
    names, rule = [f"class {k}" for k in range(10)], pixels.rule(8, 8, 1)
    policy = ka.ExitPolicy([0.7, -np.inf])
    for name, value in {
        "policy": policy,
        "class_names": names,
        "preprocessing": {"mean": [0.5], "std": [0.25]},
        "pixels": rule,
    }.items():
        setattr(model, name, value)
    assert ka.export_tflite(model, path) is policy
    info = read_info(path)
    assert (info["thresholds"][0], info["class_names"], info["pixels"]) == (0.7, names, rule)
    assert info["preprocessing"] == {"mean": [0.5], "std": [0.25]}
    other = ka.ExitPolicy([0.6, -np.inf])
    assert ka.export_tflite(model, path, other, class_names=names[::-1]) is other
    info = read_info(path)
    assert (info["thresholds"][0], info["class_names"]) == (0.6, names[::-1])


@pytest.mark.parametrize("name", ["policy", "learned"])
def test_a_quantized_file_and_the_returned_policy_leave_alike(name, small, rng, tmp_path):
    images = rng.normal(size=(60, 8, 8, 1)).astype("float32")
    logits = np.stack(small.predict(images, verbose=0))
    if name == "learned":
        network = [(rng.normal(size=s), np.zeros(s[1])) for s in ((10, 4), (4, 4), (4, 2))]
        middle = np.median(ka.LearnedPolicy([network]).confidences(logits)[0])
        policy = ka.LearnedPolicy([network], [middle, -np.inf])
    else:
        policy = ka.ExitPolicy(np.median(ka.policy.confidence(logits), axis=1), details={"a": 1})
    path = tmp_path / "model.tflite"
    how = {"quantize": "int8", "calibration_data": images}
    found = ka.export_tflite(small, path, policy, **how)
    assert type(found) is type(policy)
    assert found.thresholds[0] != policy.thresholds[0]
    with AnytimeModel(path, num_threads=1) as device:
        assert device.info["thresholds"] == found.thresholds.tolist()
        assert device.info["log_odds"] == found.log_odds.tolist()
        assert device.info["policy"] == found.details
        exits, quantized = [], []
        for image in images:
            exits.append(device.classify(image).exit)
            device._backend.start(device._prepare(image))
            quantized.append([device._backend.run(k) for k in range(2)])
    assert exits == found.decide(np.swapaxes(quantized, 0, 1)).tolist()
    assert found.details["before"] == policy.details
    assert abs(exits.count(0) - 30) <= 2
    ka.ExitPolicy.load(_saved(found, tmp_path))  # its details are JSON


def _saved(policy, folder):
    policy.save(folder / "policy.json")
    return folder / "policy.json"


def test_a_worst_case_that_cannot_bind_is_no_hindrance(small, tmp_path):
    most = small.exit_costs()[-1]
    path = tmp_path / "model.tflite"
    ka.export_tflite(small, path, ka.ExitPolicy([0.7, 0], worst_case=most))
    with pytest.raises(ValueError, match="`policy` must have no `worst_case`"):
        ka.export_tflite(small, path, ka.ExitPolicy([0.7, 0], worst_case=0.9 * most))
    in_milliseconds = ka.ExitPolicy([0.7, 0], worst_case=2 * most)
    in_milliseconds.unit = "ms"
    with pytest.raises(ValueError, match="`worst_case` must be in MACs.*Received: .* in 'ms'"):
        ka.export_tflite(small, path, in_milliseconds)


def test_a_file_that_the_runtime_cannot_open_is_refused(small, tmp_path, monkeypatch):
    def fails(content, **how):
        raise ValueError("no such thing here")

    monkeypatch.setattr(verification, "AnytimeModel", fails)
    with pytest.raises(RuntimeError, match="must open on a device.*no such thing here"):
        ka.export_tflite(small, tmp_path / "model.tflite", POLICY)
    assert list(tmp_path.iterdir()) == []


def test_a_finite_threshold_keeps_its_exit_even_if_nobody_reaches_it(small, tmp_path):
    path = tmp_path / "model.tflite"
    ka.export_tflite(small, path, ka.ExitPolicy([1.0, 0]))  # no probability is above
    info = read_info(path)
    assert (info["exits"], info["log_odds"][0]) == ([0, 1], "Infinity")
    answer = AnytimeModel(path).classify(np.zeros((8, 8, 1), "float32"), deadline_ms=0)
    assert (answer.exit, answer.stopped_by) == (0, "deadline")
