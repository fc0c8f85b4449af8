"""Files of networks of mixed precision, and int8 files of recurrent networks."""

import subprocess
import types

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_adaptive as ka
from anytime_tflite import AnytimeModel
from keras_adaptive.export import _in_child
from keras_adaptive.export._settings import set_for_file

POLICY = ka.ExitPolicy([0.5, 0])
L = keras.layers


def two_exits(first, last, shape=(6, 3)):
    """An exit behind each of two layers that give steps, or the last one."""
    series = keras.Input(shape)
    x = first(series)
    outputs = [ka.layers.EarlyExit(4, name="exit_0")(x)]
    return ka.AdaptiveModel(series, [*outputs, ka.layers.EarlyExit(4, name="exit_1")(last(x))])


def mixed(policy):
    keras.utils.set_random_seed(0)
    first = L.Conv1D(5, 3, padding="same", activation="relu", dtype=policy)
    return two_exits(first, L.LSTM(6, dtype=policy))


def largest_difference(model, path, x):
    """Returns how far the probabilities of a file are from those of a network."""
    wanted = ka.policy.softmax(np.stack(model.predict(x, verbose=0)))
    with AnytimeModel(path, num_threads=1) as device:
        found = [[answer.probabilities for answer in device.stream(row)] for row in x]
    return np.abs(np.swapaxes(found, 0, 1) - wanted).max()


@pytest.mark.parametrize(
    "policy", ["mixed_float16", pytest.param("mixed_bfloat16", marks=pytest.mark.slow)]
)
def test_a_network_of_mixed_precision_becomes_a_float32_file(policy, rng, tmp_path):
    model, path = mixed(policy), tmp_path / "model.tflite"
    exact = mixed("float32")
    exact.set_weights(model.get_weights())
    x = rng.normal(size=(4, 6, 3)).astype("float32")
    ka.export_tflite(model, path, POLICY)
    assert largest_difference(exact, path, x) < 1e-6
    assert {layer.compute_dtype for layer in model.layers[1:3]} == {policy.removeprefix("mixed_")}


def test_layers_are_set_back_when_a_file_fails():
    model = mixed("mixed_float16")
    lstm = next(x for x in model.layers if isinstance(x, L.LSTM))
    found = []

    def fail():
        with set_for_file(model, "int8", None) as (_, outputs):
            found.extend([lstm.compute_dtype, lstm.unroll, {z.dtype for z in outputs}])
            raise KeyError

    with pytest.raises(KeyError):
        fail()
    assert found == ["float32", True, {"float32"}]
    assert (lstm.compute_dtype, lstm.unroll) == ("float16", False)


@pytest.mark.filterwarnings("ignore:Layer .* does not have a .quantize. method")
def test_half_weights_and_quantized_layers_are_refused(tmp_path):
    path = tmp_path / "model.tflite"
    model = two_exits(L.Dense(5, dtype="float16"), L.GlobalAveragePooling1D())
    with pytest.raises(ValueError, match="must have float32 weights.*'mixed_float16'.*kernel"):
        ka.export_tflite(model, path, POLICY)
    model = two_exits(L.Dense(5), L.GlobalAveragePooling1D())
    model.quantize("int8")
    with pytest.raises(ValueError, match="must not be quantized by Keras.*with 'int8'"):
        ka.export_tflite(model, path, POLICY)
    assert not path.exists()
    plain = keras.Sequential([keras.Input((3,)), L.Dense(4, name="a"), L.Dense(2)])
    plain.quantize("int8")
    for build in (lambda: ka.add_exits(plain, at=["a"]), lambda: ka.build_cascade([plain])):
        with pytest.raises(ValueError, match="must not be quantized by Keras.*layer 'a'"):
            build()


RECURRENT = {
    "LSTM": lambda: (L.LSTM(6, return_sequences=True), L.LSTM(6)),
    "both ways": lambda: (L.Bidirectional(L.GRU(4, return_sequences=True)), L.SimpleRNN(6)),
    "padding": lambda: (L.Masking(), L.GRU(5)),
}


@pytest.mark.slow
@pytest.mark.parametrize("kind", RECURRENT)
def test_recurrent_networks_in_int8(kind, rng, tmp_path):
    keras.utils.set_random_seed(0)
    model, path = two_exits(*RECURRENT[kind]()), tmp_path / "model.tflite"
    x = rng.normal(size=(40, 6, 3)).astype("float32")
    x[::2, 4:] = 0
    ka.export_tflite(model, path, POLICY, quantize="int8", calibration_data=x)
    assert largest_difference(model, path, x[:8]) < 0.05
    assert path.stat().st_size < 4e5


@pytest.mark.slow
def test_video_in_int8(rng, tmp_path):
    keras.utils.set_random_seed(0)
    layers = L.ConvLSTM2D(3, 3, return_sequences=True), L.ConvLSTM2D(3, 3)
    model, path = two_exits(*layers, shape=(3, 8, 8, 2)), tmp_path / "model.tflite"
    x = rng.normal(size=(20, 3, 8, 8, 2)).astype("float32")
    ka.export_tflite(model, path, POLICY, quantize="int8", calibration_data=x)
    assert largest_difference(model, path, x[:4]) < 0.05


@pytest.mark.slow
@pytest.mark.subprocess
def test_long_sequences_in_int8_are_refused_and_python_lives(rng, tmp_path):
    model, path = two_exits(L.LSTM(4, return_sequences=True), L.LSTM(4), (80, 3)), tmp_path / "m"
    x = rng.normal(size=(8, 80, 3)).astype("float32")
    with pytest.raises(RuntimeError, match='longer sequences give "dynamic" or "float16"'):
        ka.export_tflite(model, path, POLICY, quantize="int8", calibration_data=x)
    assert not path.exists()


@pytest.mark.parametrize(
    ("code", "stderr", "why"), [(-11, "", "signal 11"), (1, "line\nlast line\n", "last line")]
)
def test_a_child_that_dies_is_an_error_with_a_way_out(code, stderr, why, tmp_path, monkeypatch):
    def run(command, **_):
        assert command[1:3] == ["-m", "keras_adaptive.export._in_child"]
        return types.SimpleNamespace(returncode=code, stderr=stderr)

    monkeypatch.setattr(subprocess, "run", run)
    with pytest.raises(RuntimeError, match=f'give "dynamic" or "float16".*ended with {why}'):
        _in_child.convert_in_child(tmp_path, ["a"], False, [("a", {"x": np.zeros(1)})])


def test_loops_are_found_also_in_functions_that_are_called():
    def loop(x):
        return tf.while_loop(lambda x: x < 3, lambda x: x + 1, [x])[0]

    inner = tf.function(loop, autograph=False)
    calling = tf.function(lambda x: inner(x) + 1)
    spec = tf.TensorSpec((), "float32")
    for function, found in ((inner, True), (calling, True), (tf.function(tf.abs), False)):
        assert _in_child.has_loop(function.get_concrete_function(spec)) == found
