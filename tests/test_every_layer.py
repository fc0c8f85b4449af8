"""What holds for every layer. A new layer is one row of the table."""

import json

import keras
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert.interpreter import Interpreter

from keras_adaptive import layers


def gated_block(merge, channel_gate=None, **how):
    """A gated block with layers of its own, as precise as itself."""
    inner = {"dtype": how.get("dtype")}
    branch = [
        layers.BatchNormalization(**inner),
        keras.layers.Conv2D(3, 3, padding="same", **inner),
    ]
    if channel_gate:
        how["channel_gate"] = layers.ChannelGate(3, return_probability=True, **inner)
    return layers.GatedBlock(branch, merge, **how)


GATED = [(5, 8, 6, 3), (5, 8, 6, 3), (5, 1)]
LAYERS = {
    # name: (class, arguments, shapes of the inputs)
    "CombinedExit-product": (
        layers.CombinedExit,
        {"combine": "product", "exits": 4},
        [(5, 3, 10)],
    ),
    "CombinedExit-weighted": (
        layers.CombinedExit,
        {"combine": "weighted", "exits": 4},
        [(5, 3, 10)],
    ),
    "EarlyExit-image": (layers.EarlyExit, {"classes": 10}, [(5, 8, 6, 16)]),
    "EarlyExit-vector": (layers.EarlyExit, {"classes": 10}, [(5, 16)]),
    "EarlyExit-convolutions": (
        layers.EarlyExit,
        {"classes": 10, "convolutions": (6, 7)},
        [(5, 8, 6, 16)],
    ),
    "EarlyExit-identity": (
        layers.EarlyExit,
        {"classes": 10, "collaboration": "identity"},
        [(5, 8, 6, 16), (5, 10)],
    ),
    "EarlyExit-boosted": (
        layers.EarlyExit,
        {"classes": 10, "collaboration": "identity", "collaboration_weight": 0.5},
        [(5, 8, 6, 16), (5, 10)],
    ),
    "EarlyExit-dense": (
        layers.EarlyExit,
        {"classes": 10, "collaboration": "dense", "stop_gradient": False},
        [(5, 8, 6, 16), (5, 10)],
    ),
    "BatchNormalization": (layers.BatchNormalization, {}, [(5, 8, 6, 3)]),
    "BatchNormalization-fused": (layers.BatchNormalization, {}, [(5, 8, 6, 16)]),
    "SkipGate": (layers.SkipGate, {"units": 4}, [(5, 8, 6, 3)]),
    "SkipGate-projected": (layers.SkipGate, {"units": 4}, [(5, 4)]),
    "SkipGate-feedforward": (layers.SkipGate, {"kind": "feedforward"}, [(5, 8, 6, 3)]),
    "SkipGate-deep": (layers.SkipGate, {"kind": "feedforward_deep"}, [(5, 8, 6, 3)]),
    "ChannelGate": (layers.ChannelGate, {"channels": 5}, [(5, 8, 6, 3)]),
    "ChannelGate-light": (
        layers.ChannelGate,
        {"channels": 5, "bottleneck": 4},
        [(5, 8, 6, 3)],
    ),
    "ChannelGate-probability": (
        layers.ChannelGate,
        {"channels": 5, "return_probability": True},
        [(5, 8, 6, 3)],
    ),
    "GatedBlock": (gated_block, {"merge": "add_relu"}, GATED),
    "GatedBlock-open": (gated_block, {"merge": "add"}, GATED[:2]),
    "GatedBlock-channels": (gated_block, {"merge": "replace", "channel_gate": True}, GATED),
    "GradientScale": (layers.GradientScale, {"scale": 0.5}, [(5, 8, 6, 3)]),
    "RunningMean-probs": (layers.RunningMean, {"average": "probs", "count": 3}, [(5, 10), (5, 10)]),
    "RunningMean-first": (layers.RunningMean, {"average": "probs", "count": 1}, [(5, 10)]),
    "RunningMean-logits": (
        layers.RunningMean,
        {"average": "logits", "count": 3},
        [(5, 10), (5, 10)],
    ),
    "SkipGate-everything": (
        layers.SkipGate,
        {"units": 4, "return_probability": True, "return_state": True},
        [(5, 8, 6, 3)],
    ),
    "StoppingPolicy": (layers.StoppingPolicy, {"units": 4}, [(5, 10)]),
}

NO_GRADIENT = {
    # name: what gets none, or one of zero, and why
    "EarlyExit-identity": ["input 1"],  # the exit before is shielded
    "EarlyExit-boosted": ["input 1"],
    "EarlyExit-dense": ["previous_dense/bias"],  # normalization takes a bias out again
    "SkipGate": ["cell/recurrent_kernel"],  # the state is zero at first
    "SkipGate-projected": ["cell/recurrent_kernel"],
    "SkipGate-everything": ["cell/recurrent_kernel"],
}


@pytest.fixture(params=LAYERS)
def name(request):
    return request.param


@pytest.fixture
def row(name):
    keras.utils.set_random_seed(0)
    return LAYERS[name]


@pytest.fixture
def make(row):
    return lambda **more: row[0](**row[1], **more)


@pytest.fixture
def inputs(row, rng):
    return [rng.normal(size=shape).astype("float32") for shape in row[2]]


def flat(outputs):
    return keras.tree.flatten(outputs)


def as_model(layer, inputs):
    symbolic = [keras.Input(x.shape[1:], name=f"x{i}") for i, x in enumerate(inputs)]
    return keras.Model(symbolic, layer(*symbolic))


def test_every_public_layer_has_a_row():
    assert {name.split("-")[0] for name in LAYERS} == set(layers.__all__)


def test_config_restores_the_layer(make):
    layer = make(name="mine")
    again = type(layer).from_config(layer.get_config())
    assert again.get_config() == layer.get_config()
    assert again.name == "mine"


def as_numpy(value):
    return value if value is None or isinstance(value, str) else np.asarray(value)[()]


def test_numpy_arguments_give_the_config_of_pythons(row):
    build, arguments, _ = row
    configs = []
    for convert in (as_numpy, lambda value: value):
        keras.utils.clear_session(free_memory=False)  # names are counted anew
        layer = build(**{name: convert(value) for name, value in arguments.items()})
        configs.append(json.dumps(layer.get_config()))
    assert configs[0] == configs[1]


def test_symbolic_shape_equals_eager_shape(make, inputs):
    layer = make()
    symbolic = flat(layer(*[keras.KerasTensor(x.shape) for x in inputs]))
    assert [tuple(t.shape) for t in symbolic] == [tuple(t.shape) for t in flat(layer(*inputs))]


def test_saved_model_gives_the_same_output(make, inputs, tmp_path):
    model = as_model(make(), inputs)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    for found, expected in zip(flat(again(inputs)), flat(model(inputs)), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_every_weight_and_input_receives_a_gradient(name, make, inputs, rng):
    layer = make()
    inputs = [tf.constant(x) for x in inputs]
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        outputs = flat(layer(*inputs, training=True))
        # the mean of normalized features is what it is: each counts differently
        loss = sum(tf.reduce_sum(y * rng.normal(size=y.shape).astype("float32")) for y in outputs)
    sources = {f"input {i}": x for i, x in enumerate(inputs)}
    sources |= {v.path.split("/", 1)[-1]: v.value for v in layer.trainable_variables}
    without = [
        source
        for source, gradient in tape.gradient(loss, sources).items()
        if gradient is None or np.abs(gradient).max() < 1e-5
    ]
    assert without == NO_GRADIENT.get(name, [])


def test_computes_in_half_precision_and_stores_float32(make, inputs):
    layer = make(dtype="mixed_float16")
    outputs = flat(layer(*inputs))
    half = {"float32"} if isinstance(layer, layers.EarlyExit) else {"float16"}  # logits are exact
    assert {keras.backend.standardize_dtype(y.dtype) for y in outputs} == half
    assert {w.dtype for w in layer.weights} <= {"float32"}


QUICK = {"EarlyExit", "SkipGate", "GatedBlock"}
FIRST = {name.split("-")[0]: name for name in reversed(LAYERS)}  # the first row of each class
CONVERTED = [row for name, row in FIRST.items() if name in QUICK]  # the others are slow


@pytest.mark.parametrize(
    "name",
    [pytest.param(name, marks=[] if name in CONVERTED else pytest.mark.slow) for name in LAYERS],
)
def test_litert_agrees_with_keras(make, inputs, tmp_path):
    inputs = [x[:1] for x in inputs]
    model = as_model(make(), inputs)
    path = tmp_path / "model.tflite"
    model.export(path, format="litert", verbose=False)
    runner = Interpreter(str(path)).get_signature_runner()
    names = sorted(runner.get_input_details())
    found = runner(**dict(zip(names, inputs, strict=True)))
    for key, expected in zip(sorted(found), flat(model(inputs)), strict=True):
        np.testing.assert_allclose(found[key], expected, atol=1e-5)
