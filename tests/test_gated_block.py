import keras
import numpy as np
import pytest
from conftest import sigmoid
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_adaptive as ka
from keras_adaptive import graph
from keras_adaptive.layers import ChannelGate, GatedBlock, SkipGate

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
        gathered = block.skipping("gather")(x, instead, gate)
        np.testing.assert_allclose(gathered, found, atol=1e-6)
        one = block.skipping("cond")(x[:1], instead[:1], gate[:1])
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


def test_normalisation_is_not_disturbed_by_the_images_skipped(rng):
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


def test_with_every_gate_closed_normalisation_goes_by_all(rng):
    x = rng.normal(size=(6, 4, 4, 2)).astype("float32")
    norm = L.BatchNormalization(momentum=0.0)
    GatedBlock([norm], "replace")(x, x, np.zeros((6, 1), "float32"), training=True)
    np.testing.assert_allclose(norm.get_weights()[2], x.mean((0, 1, 2)), atol=1e-5)


@pytest.mark.parametrize("skipping", ["gather", "cond"])
def test_skipping_stages_equal_the_network(gated, images, skipping):
    model, _ = gated
    expected = model.predict(images, verbose=0)
    size = len(images) if skipping == "gather" else 1
    for i in range(0, 2 * size if size == 1 else size, size):
        tensors = {"input_0": images[i : i + size]}
        stages = graph.lean_models(model.inputs, model.outputs, skipping)
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
        (lambda: GatedBlock([L.ReLU()]).skipping("away"), "`way`"),
        (lambda: ka.training.GateLoss(-1), "`weight`"),
        (lambda: ka.training.GateLoss(unit="params"), "`unit`"),
        (lambda: ka.training.GateLoss(target=2), "`target`"),
    ],
)
def test_refuses_impossible_arguments(make, message):
    with pytest.raises(ValueError, match=f"{message}.*Received: "):
        make()
