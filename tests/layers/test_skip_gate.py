import keras
import numpy as np
import pytest
from shared import sigmoid
from test_early_exit import padded_convolution

import keras_adaptive as ka
from keras_adaptive.layers import SkipGate
from keras_adaptive.layers._straight_through import straight_through


def test_hard_decides_at_one_half_and_hands_the_gradient_on():
    import tensorflow as tf

    p = tf.constant([0.0, 0.2, 0.5, 0.500001, 0.9, 1.0])
    with tf.GradientTape() as tape:
        tape.watch(p)
        decision = straight_through(p)
        loss = tf.reduce_sum(decision * tf.range(6.0))
    np.testing.assert_array_equal(decision, [0, 0, 0, 1, 1, 1])
    np.testing.assert_array_equal(tape.gradient(loss, p), np.arange(6))


def test_recurrent_gate_is_its_formula(rng):
    gate = SkipGate(3, return_probability=True, return_state=True)
    features = rng.normal(size=(5, 4, 4, 2)).astype("float32")
    state = [rng.normal(size=(5, 3)).astype("float32") for _ in range(2)]
    decision, probability, h, c = (np.array(t) for t in gate(features, state))
    projected = features.mean((1, 2)) @ gate.projection.kernel.numpy()
    kernel, recurrent, bias = gate.cell.get_weights()
    i, f, g, o = np.split(projected @ kernel + state[0] @ recurrent + bias, 4, axis=1)
    memory = sigmoid(f) * state[1] + sigmoid(i) * np.tanh(g)
    hidden = sigmoid(o) * np.tanh(memory)
    np.testing.assert_allclose(c, memory, atol=1e-6)
    np.testing.assert_allclose(h, hidden, atol=1e-6)
    weights, bias = gate.decision.get_weights()
    np.testing.assert_allclose(probability, sigmoid(hidden @ weights + bias), atol=1e-6)
    np.testing.assert_array_equal(decision, probability > 0.5)


@pytest.mark.parametrize("shape", [(40, 4, 4, 2), (40, 3)])
@pytest.mark.parametrize("forced", [None, True, False])
def test_the_fused_form_decides_the_same(rng, shape, forced):
    keras.utils.set_random_seed(0)
    gate = SkipGate(3, return_probability=True, return_state=True, forced=forced)
    features = rng.normal(size=shape).astype("float32")
    gate(features)
    gate.cell.set_weights([rng.normal(size=w.shape) for w in gate.cell.get_weights()])
    gate.decision.set_weights([9 * rng.normal(size=(3, 1)), np.zeros(1)])
    output = np.array(gate(features)[2])
    middle = -np.median(output @ gate.decision.kernel)  # half of them open at first
    gate.decision.bias.assign([middle])
    fused, states, decisions = gate.fused(), [None, None], []
    for _ in range(3):  # the state is handed on
        outputs = [
            layer(features, state) for layer, state in zip((gate, fused), states, strict=True)
        ]
        for expected, found in zip(*outputs, strict=True):
            np.testing.assert_allclose(found, expected, atol=1e-5)
        states = [output[2:] for output in outputs]
        decisions.append(np.array(outputs[0][0]))
    assert (np.ptp(decisions) > 0) == (forced is None)
    seen = keras.layers.Dense(shape[-1], bias_initializer="ones")
    fused = gate.fused()
    outputs = gate(seen(features)), fused(features, projection=fused.folding(seen))
    for expected, found in zip(*outputs, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-5)
    feedforward = SkipGate(kind="feedforward")
    assert feedforward.fused() is feedforward


@pytest.mark.slow
def test_gates_of_skipnet_have_their_published_size(goldens):
    base = ka.build_resnet(depth=38).exit_costs("params")[0]
    gated = ka.build_resnet(depth=38, gates="layer").exit_costs("params")[0]
    # 571,913 in PyTorch, whose LSTM has a second bias (40) and whose last gate is never read
    assert gated - base == 571_913 - 564_122 - 40 - 650


@pytest.mark.parametrize(
    ("kind", "params", "macs"),
    [("feedforward_deep", 4_706, 737_312), ("feedforward", 2_370, 589_856)],
)
def test_feedforward_gates_of_skipnet_have_their_published_size(kind, params, macs):
    x = keras.Input((32, 32, 16))
    gate = SkipGate(kind=kind)
    outputs = [gate(x)]
    one = 17  # SkipNet has two logits and a softmax where one and a sigmoid do
    assert ka.costs.exit_costs([x], outputs, "params")[0] == params - one
    assert ka.costs.exit_costs([x], outputs)[0] == macs - 16


@pytest.mark.parametrize("kind", ["feedforward", "feedforward_deep"])
def test_feedforward_gate_is_its_formula(rng, kind):
    keras.utils.set_random_seed(0)
    gate = SkipGate(kind=kind, return_probability=True)
    x = rng.normal(size=(5, 8, 12, 3)).astype("float32")
    decision, probability = (np.array(t) for t in gate(x))
    kernels = [np.asarray(v) for v in gate.weights if v.path.split("/")[-1] == "kernel"]
    *convolutions, dense = sorted(kernels, key=lambda kernel: -kernel.ndim)
    features = x
    if kind == "feedforward_deep":
        features = x.reshape(5, 4, 2, 6, 2, 3).max(axis=(2, 4))
        first, last = (
            layer.kernel.numpy() for layer in gate.convolutions if hasattr(layer, "kernel")
        )
        features = padded_convolution(features, first, 1)
        features = np.maximum(features / np.sqrt(1 + 1e-5), 0)
    else:
        (last,) = convolutions
    features = np.maximum(padded_convolution(features, last, 2) / np.sqrt(1 + 1e-5), 0)
    expected = sigmoid(features.mean(axis=(1, 2)) @ dense + 2)  # open at first
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    np.testing.assert_array_equal(decision, expected > 0.5)


@pytest.mark.parametrize("kind", ["recurrent", "feedforward"])
@pytest.mark.parametrize("forced", [True, False])
def test_a_forced_gate_says_one_thing_whatever_it_thinks(rng, kind, forced):
    gate = SkipGate(3, kind=kind, return_probability=True, forced=forced)
    x = rng.normal(size=(4, 6, 6, 2)).astype("float32")
    gate(x)
    for bias in (-50.0, 50.0):
        gate.decision.bias.assign([bias])
        decision, probability = gate(x)
        np.testing.assert_array_equal(decision, np.full((4, 1), float(forced)))
        np.testing.assert_allclose(probability, np.full((4, 1), float(bias > 0)), atol=1e-6)


@pytest.mark.parametrize(
    ("arguments", "shape"),
    [
        ({}, (2, 3, 10)),
        ({"kind": "feedforward"}, (2, 10)),
        ({"kind": "feedforward_deep"}, (2, 1, 1, 4)),
        ({"units": 4}, (2, 5)),
    ],
)
def test_refuses_features_it_cannot_read(arguments, shape):
    with pytest.raises(ValueError, match="`features` .*Received: shape"):
        SkipGate(**arguments)(np.zeros(shape, "float32"))


@pytest.mark.parametrize("layer", [ka.layers.SkipGate, ka.layers.ChannelGate])
def test_a_soft_gate_is_its_probability_while_it_learns(layer, rng):
    gate = layer(3, return_probability=True, soft=True)
    x = rng.normal(size=(5, 4, 4, 3)).astype("float32")
    soft, probability = (np.asarray(part) for part in gate(x, training=True))
    hard, same = (np.asarray(part) for part in gate(x, training=False))
    np.testing.assert_array_equal(soft, probability)
    np.testing.assert_array_equal(same, probability)
    np.testing.assert_array_equal(hard, probability > 0.5)
    assert layer.from_config(gate.get_config()).soft
