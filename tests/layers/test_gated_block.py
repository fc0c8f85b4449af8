import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import sigmoid
from test_early_exit import padded_convolution

import keras_adaptive as ka
from keras_adaptive import _graph as graph
from keras_adaptive.layers import ChannelGate, GatedBlock, SkipGate, StoppingPolicy

L = keras.layers


@given(st.lists(st.booleans(), min_size=1, max_size=6), st.integers(0, 99))
@settings(max_examples=10)
def test_a_block_is_its_formula_and_skipping_gives_the_same(decisions, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(size=(len(decisions), 4, 4, 2)).astype("float32")
    instead = rng.normal(size=x.shape).astype("float32")
    gate = np.array(decisions, "float32")[:, None]
    for merge, formula in (
        ("add_relu", lambda y: np.maximum(instead + y, 0)),
        ("add", lambda y: instead + y),
        ("replace", lambda y: y),
    ):
        convolution = L.Conv2D(2, 3, padding="same")
        block = GatedBlock([convolution], merge)
        found = np.array(block(x, instead, gate))
        expected = np.where(gate[:, :, None, None] > 0, formula(np.array(convolution(x))), instead)
        np.testing.assert_array_equal(found, expected)
        gathered = block.to_skipping("gather")(x, instead, gate)
        np.testing.assert_allclose(gathered, found, atol=1e-6)
        one = block.to_skipping("cond")(x[:1], instead[:1], gate[:1])
        np.testing.assert_allclose(one, found[:1], atol=1e-6)


def test_closed_channels_hand_the_input_on(rng):
    x = rng.normal(size=(2, 4, 4, 3)).astype("float32")
    channel_gate = ChannelGate(3, return_probability=True)
    block = GatedBlock([L.Conv2D(3, 3, padding="same")], "replace", channel_gate)
    block(x, x)
    channel_gate.decision.set_weights([np.zeros((3, 3)), np.array([9.0, -9.0, 9.0])])
    output, shares = (np.array(t) for t in block(x, x, np.ones((2, 1), "float32")))
    np.testing.assert_array_equal(output[..., 1], x[..., 1])
    np.testing.assert_array_equal(output[..., [0, 2]], np.array(block.branch[0](x))[..., [0, 2]])
    np.testing.assert_allclose(shares, [[2 / 3, sigmoid(np.array([9, -9, 9])).mean()]] * 2)


def test_normalization_is_not_disturbed_by_the_images_skipped(rng):
    x = rng.normal(size=(6, 4, 4, 2)).astype("float32")
    gate = np.array([1, 0, 1, 1, 0, 1], "float32")[:, None]
    norms = [L.BatchNormalization(momentum=0.0) for _ in range(2)]
    full, part = GatedBlock(norms[:1], "replace"), GatedBlock(norms[1:], "replace")
    disturbed = x + 1000 * (1 - gate[:, :, None, None])  # only images that are skipped
    kept = gate[:, 0] > 0
    expected = full(x[kept], x[kept], gate[kept], training=True)
    found = part(disturbed, disturbed, gate, training=True)
    np.testing.assert_allclose(found[kept], expected, atol=1e-4)
    for a, b in zip(norms[0].get_weights(), norms[1].get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_with_every_gate_closed_normalization_uses_all(rng):
    x = rng.normal(size=(6, 4, 4, 2)).astype("float32")
    norm = L.BatchNormalization(momentum=0.0)
    GatedBlock([norm], "replace")(x, x, np.zeros((6, 1), "float32"), training=True)
    np.testing.assert_allclose(norm.get_weights()[2], x.mean((0, 1, 2)), atol=1e-5)


@pytest.mark.parametrize("skipping", ["gather", pytest.param("cond", marks=pytest.mark.slow)])
def test_skipping_stages_equal_the_network(gated, images, skipping):
    model, _ = gated
    expected = model.predict(images, verbose=0)
    size = len(images) if skipping == "gather" else 1
    for i in range(0, 2 * size if size == 1 else size, size):
        tensors = {"input_0": images[i : i + size]}
        stages = graph.minimal_stages(model.inputs, model.outputs, skipping)
        for k, (stage, takes, gives) in enumerate(stages):
            found, *features = stage([tensors[name] for name in takes])
            np.testing.assert_allclose(found, expected[k][i : i + size], atol=1e-4)
            tensors.update(zip(gives, features, strict=True))


def test_a_channel_gate_costs_an_eighth_of_a_block():
    x = keras.Input((16, 16, 64))
    gate = ka.costs.exit_costs([x], [ChannelGate(64)(x)])[0]
    assert gate / (2 * 16 * 16 * 9 * 64 * 64) == pytest.approx(0.125, rel=0.02)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: SkipGate(0), "`units`"),
        (lambda: SkipGate(True), "`units`"),
        (lambda: SkipGate(2.0), "`units`"),
        (lambda: ChannelGate(True), "`channels`"),
        (lambda: GatedBlock([5]), "`branch`"),
        (lambda: GatedBlock([L.ReLU()], channel_gate=L.ReLU()), "`channel_gate`"),
        (lambda: StoppingPolicy(0), "`units`"),
        (lambda: StoppingPolicy(True), "`units`"),
        (lambda: ka.training.GateLoss(float("nan")), "`weight`"),
        (lambda: ka.training.GateLoss(target=-0.1), "`target`"),
        (lambda: SkipGate(kind="random"), "`kind`"),
        (lambda: SkipGate(kind="feedforward", return_state=True), "`return_state`"),
        (lambda: SkipGate(forced="open"), "`forced`"),
        (lambda: SkipGate()(np.zeros((2, 3), "float32")), "`features`"),
        (lambda: ChannelGate(0), "`channels`"),
        (lambda: ChannelGate(4, bottleneck=0), "`bottleneck`"),
        (lambda: ChannelGate(4, forced=2), "`forced`"),
        (lambda: GatedBlock([]), "`branch`"),
        (lambda: GatedBlock([L.ReLU()], "subtract"), "`merge`"),
        (lambda: GatedBlock([L.ReLU()], channel_gate=ChannelGate(3)), "`channel_gate`"),
        (lambda: GatedBlock([L.Dense(3)])(np.ones((1, 2)), np.ones((1, 2))), "`instead`"),
        (lambda: GatedBlock([L.ReLU()]).to_skipping("away"), "`mode`"),
        (lambda: ka.training.GateLoss(-1), "`weight`"),
        (lambda: ka.training.GateLoss(unit="params"), "`unit`"),
        (lambda: ka.training.GateLoss(target=2), "`target`"),
    ],
)
def test_refuses_impossible_arguments(make, message):
    with pytest.raises(ValueError, match=f"{message}.*Received: "):
        make()


def test_a_channel_gate_is_its_formula(rng):
    keras.utils.set_random_seed(0)
    x = rng.normal(size=(5, 8, 6, 3)).astype("float32")
    gate = ChannelGate(4, return_probability=True)
    decision, probability = (np.array(t) for t in gate(x))
    (convolution,) = [layer for layer in gate.convolutions if hasattr(layer, "kernel")]
    kernel, bias = convolution.get_weights()
    assert kernel.shape == (3, 3, 3, 3)
    features = np.maximum(padded_convolution(x, kernel, 2) + bias, 0).mean(axis=(1, 2))
    weights, offset = gate.decision.get_weights()
    assert (offset == 2).all()  # open at first
    expected = sigmoid(features @ weights + offset)
    np.testing.assert_allclose(probability, expected, atol=1e-5)
    np.testing.assert_array_equal(decision, expected > 0.5)
    gate.decision.set_weights([weights, offset - 2])
    np.testing.assert_array_equal(gate(x)[0], sigmoid(features @ weights) > 0.5)


def test_a_light_channel_gate_is_its_formula(rng):
    x = rng.normal(size=(5, 8, 6, 3)).astype("float32")
    gate = ChannelGate(4, bottleneck=2, return_probability=True)
    _, probability = gate(x)
    narrow, wide = (x.get_weights()[0] for x in gate.convolutions if hasattr(x, "kernel"))
    assert (narrow.shape, wide.shape) == ((1, 1, 3, 2), (3, 3, 2, 4))

    def norm_relu(features):
        return np.maximum(features / np.sqrt(1 + 1e-5), 0)

    features = norm_relu(norm_relu(x)[:, ::2, ::2] @ narrow[0, 0])
    features = padded_convolution(features, wide, 1).mean(axis=(1, 2))
    weights, offset = gate.decision.get_weights()
    np.testing.assert_allclose(probability, sigmoid(features @ weights + offset), atol=1e-5)


@pytest.mark.parametrize("forced", [True, False])
def test_a_forced_channel_gate_has_all_channels_open_or_none(rng, forced):
    gate = ChannelGate(4, forced=forced)
    x = rng.normal(size=(5, 8, 6, 3)).astype("float32")
    np.testing.assert_array_equal(gate(x), np.full((5, 4), float(forced)))


@pytest.mark.parametrize("mode", ["cond", "if"])
def test_a_single_image_is_skipped_or_forced_through(rng, mode):
    x, instead = rng.normal(size=(2, 1, 4, 4, 2)).astype("float32")
    channel_gate = ChannelGate(2, return_probability=True)
    block = GatedBlock([L.Conv2D(2, 1)], "replace", channel_gate)
    gates = {is_open: np.array([[is_open]], "float32") for is_open in (0, 1)}
    computed = [np.array(t) for t in block(x, instead, gates[1])]
    skipping = block.to_skipping(mode)
    for gate, forced, runs in ((0, None, False), (1, None, True), (0, True, True)):
        output, shares = skipping(x, instead, gates[gate], forced=forced)
        np.testing.assert_allclose(output, computed[0] if runs else instead, atol=1e-6)
        np.testing.assert_allclose(shares, computed[1] if runs else [[0, 0]], atol=1e-6)
    for found, expected in zip(skipping(x, instead), computed, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-6)  # without a gate it is open


def test_gates_and_branch_learn_from_what_was_chosen(rng):
    x, instead = tf.constant(rng.normal(size=(2, 3, 4)), "float32")
    gate = tf.constant([[1.0], [0.0], [1.0]])
    block = GatedBlock([L.Dense(4)], "add")
    block(x, instead, gate)
    with tf.GradientTape() as tape:
        tape.watch([gate, instead])
        loss = tf.reduce_sum(block(x, instead, gate))
    kernel = block.branch[0].kernel
    by_gate, by_instead, by_kernel = tape.gradient(loss, [gate, instead, kernel.value])
    branch = np.array(block.branch[0](x))
    np.testing.assert_allclose(by_gate[:, 0], branch.sum(axis=1), atol=1e-5)
    np.testing.assert_allclose(by_instead, np.ones((3, 4)), atol=1e-6)
    expected = np.repeat(x.numpy()[[0, 2]].sum(axis=0)[:, None], 4, axis=1)
    np.testing.assert_allclose(by_kernel, expected, atol=1e-5)


def test_without_a_gate_every_image_is_computed(rng):
    x = rng.normal(size=(3, 4)).astype("float32")
    block = GatedBlock([L.Dense(4)], "add")
    np.testing.assert_allclose(block(x, x), x + np.array(block.branch[0](x)), atol=1e-6)
