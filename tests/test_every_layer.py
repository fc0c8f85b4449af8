"""Promises that every layer keeps. A new layer is one row of the table."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_adaptive import layers

LAYERS = {
    # name: (class, arguments, shapes of the inputs)
    "EarlyExit-image": (layers.EarlyExit, {"classes": 10}, [(2, 8, 8, 16)]),
    "EarlyExit-vector": (layers.EarlyExit, {"classes": 10}, [(2, 16)]),
    "EarlyExit-convolutions": (
        layers.EarlyExit,
        {"classes": 10, "convolutions": (6, 7)},
        [(2, 8, 8, 16)],
    ),
    "EarlyExit-identity": (
        layers.EarlyExit,
        {"classes": 10, "collaboration": "identity"},
        [(2, 8, 8, 16), (2, 10)],
    ),
    "EarlyExit-dense": (
        layers.EarlyExit,
        {"classes": 10, "collaboration": "dense", "stop_gradient": False},
        [(2, 8, 8, 16), (2, 10)],
    ),
    "BatchNormalization": (layers.BatchNormalization, {}, [(2, 8, 8, 3)]),
    "BatchNormalization-fused": (layers.BatchNormalization, {}, [(2, 8, 8, 16)]),
    "SkipGate": (layers.SkipGate, {"units": 4}, [(2, 8, 8, 3)]),
    "SkipGate-projected": (layers.SkipGate, {"units": 4}, [(2, 4)]),
    "SkipGate-feedforward": (layers.SkipGate, {"kind": "feedforward"}, [(2, 8, 8, 3)]),
    "SkipGate-deep": (layers.SkipGate, {"kind": "feedforward_deep"}, [(2, 8, 8, 3)]),
    "ChannelGate": (layers.ChannelGate, {"channels": 5}, [(2, 8, 8, 3)]),
    "ChannelGate-light": (
        layers.ChannelGate,
        {"channels": 5, "bottleneck": 4},
        [(2, 8, 8, 3)],
    ),
    "GradientScale": (layers.GradientScale, {"scale": 0.5}, [(2, 8, 8, 3)]),
    "RunningMean-first": (layers.RunningMean, {"of": "probs", "count": 1}, [(2, 10)]),
    "RunningMean-logits": (layers.RunningMean, {"of": "logits", "count": 3}, [(2, 10), (2, 10)]),
    "RunningMean-probs": (layers.RunningMean, {"of": "probs", "count": 3}, [(2, 10), (2, 10)]),
    "StoppingPolicy": (layers.StoppingPolicy, {"units": 4}, [(2, 10)]),
}


@pytest.fixture(params=LAYERS.values(), ids=LAYERS.keys())
def row(request):
    return request.param


@pytest.fixture
def make(row):
    return lambda **more: row[0](**row[1], **more)


@pytest.fixture
def inputs(row, rng):
    return [rng.normal(size=shape).astype("float32") for shape in row[2]]


def as_model(layer, inputs):
    symbolic = [keras.Input(x.shape[1:], name=f"x{i}") for i, x in enumerate(inputs)]
    return keras.Model(symbolic, layer(*symbolic))


def test_config_restores_the_layer(make):
    layer = make(name="mine")
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert again.name == "mine"


def test_symbolic_shape_equals_eager_shape(make, inputs):
    layer = make()
    symbolic = layer(*[keras.KerasTensor(x.shape) for x in inputs])
    assert tuple(symbolic.shape) == tuple(layer(*inputs).shape)


def test_saved_model_gives_the_same_output(make, inputs, tmp_path):
    model = as_model(make(), inputs)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    np.testing.assert_array_equal(
        again.predict(inputs, verbose=0), model.predict(inputs, verbose=0)
    )


def test_every_weight_receives_a_gradient(make, inputs):
    layer = make()
    with tf.GradientTape() as tape:
        output = layer(*inputs, training=True) if layer.weights else layer(*inputs)
        loss = tf.reduce_sum(output**2)
    for weight, gradient in zip(
        layer.trainable_variables,
        tape.gradient(loss, [v.value for v in layer.trainable_variables]),
        strict=True,
    ):
        assert gradient is not None, weight.path


def test_computes_in_half_precision_and_stores_float32(make, inputs):
    layer = make(dtype="mixed_float16")
    output = layer(*inputs)
    assert keras.backend.standardize_dtype(output.dtype) == "float16"
    assert {w.dtype for w in layer.weights} <= {"float32"}


def test_litert_agrees_with_keras(make, inputs, tmp_path):
    model = as_model(make(), [x[:1] for x in inputs])
    path = tmp_path / "model.tflite"
    model.export(path, format="litert", verbose=False)
    interpreter = Interpreter(str(path))
    runner = interpreter.get_signature_runner()
    names = sorted(runner.get_input_details())
    found = runner(**{name: x[:1] for name, x in zip(names, inputs, strict=True)})
    expected = model.predict([x[:1] for x in inputs], verbose=0)
    np.testing.assert_allclose(next(iter(found.values())), expected, atol=1e-5)
