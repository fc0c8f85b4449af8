"""Gates: the layers that decide, the block that obeys, and what it all costs."""

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_adaptive as ka
from keras_adaptive import graph
from keras_adaptive.gated_costs import BlockCosts, block_costs, gated_costs
from keras_adaptive.layers import ChannelGate, GatedBlock, SkipGate
from keras_adaptive.layers.hard import hard

L = keras.layers
SMALL = {"input_shape": (8, 8, 1), "classes": 10, "exits": 2, "head_channels": 4}
BUILDERS = {
    "resnet": (ka.build_resnet, {**SMALL, "depth": 14, "width": 0.25}),
    "resnet-pre": (ka.build_resnet, {**SMALL, "depth": 14, "width": 0.25, "style": "pre"}),
    "densenet": (ka.build_densenet, {**SMALL, "depth": 16, "growth_rate": 2}),
}
GATES = ("layer", "channel", "both")


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


@pytest.fixture(scope="module", params=[(b, g) for b in BUILDERS for g in GATES], ids=str)
def gated(request):
    """A network whose gates disagree about the images, and its kind of gates."""
    builder, gates = request.param
    build, arguments = BUILDERS[builder]
    keras.utils.set_random_seed(0)
    model = build(**arguments, gates=gates)
    rng = np.random.default_rng(0)
    for layer in model._flatten_layers():
        if layer.name == "decision":  # half of them open
            kernel, bias = layer.get_weights()
            layer.set_weights([rng.normal(0, 20, kernel.shape), rng.normal(0, 0.3, bias.shape)])
    return model, gates


@pytest.fixture(scope="module")
def images():
    rng = np.random.default_rng(1)
    strength = np.geomspace(0.1, 10, 9)[:, None, None, None]
    return (strength * rng.normal(1, 1, (9, 8, 8, 1))).astype("float32")


def test_hard_decides_at_one_half_and_hands_the_gradient_on():
    import tensorflow as tf

    p = tf.constant([0.0, 0.2, 0.5, 0.500001, 0.9, 1.0])
    with tf.GradientTape() as tape:
        tape.watch(p)
        decision = hard(p)
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


def test_a_channel_gate_costs_an_eighth_of_a_block():
    x = keras.Input((16, 16, 64))
    gate = ka.costs.exit_costs([x], [ChannelGate(64)(x)])[0]
    assert gate / (2 * 16 * 16 * 9 * 64 * 64) == pytest.approx(0.125, rel=0.02)


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


def force(model, choice):
    """Rebuilds the network with gates that are forced, sharing nothing."""

    def forced(layer):
        config = layer.get_config()
        if isinstance(layer, SkipGate):
            config["forced"] = choice
        if isinstance(layer, GatedBlock) and config["channel_gate"]:
            config["channel_gate"]["config"]["forced"] = choice
        return type(layer).from_config(config)

    copy = keras.models.clone_model(model, clone_function=forced)
    copy.set_weights(model.get_weights())
    return copy


def test_costs_with_all_gates_open_and_closed(gated, images):
    model, gates = gated
    logits, costs = force(model, True).predict_with_costs(images, verbose=0)
    np.testing.assert_allclose(costs, np.repeat(model.exit_costs()[:, None], 9, axis=1))
    logits, costs = force(model, False).predict_with_costs(images, verbose=0)
    found = gated_costs(model.inputs, model.outputs)
    closed = found.fixed.copy()
    for exit, block in zip(found.exits, found.blocks, strict=True):
        if gates == "channel":
            closed[exit:] += block.gate + block.branch
    np.testing.assert_allclose(costs, np.repeat(closed[:, None], 9, axis=1))


def test_costs_are_those_of_what_is_open(gated, images):
    model, _ = gated
    _, costs = model.predict_with_costs(images, verbose=0)
    assert (costs <= model.exit_costs()[:, None] + 1e-6).all()
    assert (costs.std(axis=1) > 0).any()
    # counted again from the values inside, block by block
    nodes = [n for n in model.operations if isinstance(n, GatedBlock)]
    total = gated_costs(model.inputs, model.outputs).fixed[-1]
    for layer in nodes:
        node = layer._inbound_nodes[0]
        inner = graph.model_of(model.inputs, [*node.input_tensors[2:], *node.outputs[1:]])
        values = keras.tree.flatten(inner.predict(images, verbose=0))
        is_open = values[0][:, 0] if len(node.input_tensors) > 2 else 1.0
        share = values[-1][:, 0] if len(node.outputs) > 1 else 1.0
        part = block_costs(node)
        total = total + is_open * (part.gate + part.branch + share * part.last)
    np.testing.assert_allclose(costs[-1], np.broadcast_to(total, 9), rtol=1e-6)


def test_expected_costs_follow_the_probabilities(gated, images):
    model, _ = gated
    _, hard_costs = model.predict_with_costs(images, verbose=0)
    _, soft = model.predict_with_costs(images, verbose=0, expected=True)
    assert soft.shape == hard_costs.shape
    assert not np.array_equal(soft, hard_costs)
    assert (soft <= model.exit_costs()[:, None] * (1 + 1e-6)).all()


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


def test_gate_loss_is_the_executed_cost(images):
    keras.utils.set_random_seed(0)
    model = ka.build_resnet(**{**SMALL, "exits": None}, depth=14, width=0.25, gates="both")
    for weight in (0.0, 10.0):
        model.compile(gate_loss=ka.training.GateLoss(weight))
        model(images, training=True)
        found = sum(float(loss) for loss in model.losses)
        assert (found == 0) == (weight == 0)
    parts = gated_costs(model.inputs, model.outputs).blocks
    block = parts[0]
    gate, shares = np.array([[1.0], [0.0]]), np.array([[0.5, 0.6], [0.3, 0.2]])
    loss = ka.training.GateLoss(2.0).of_block(block, gate, shares)
    by_hand = 2.0e-6 * (block.gate + block.branch + 0.5 * block.last) / 2
    assert float(loss) == pytest.approx(by_hand)
    target = ka.training.GateLoss(2.0, target=0.5).of_block(block, gate, shares)
    assert float(target) == pytest.approx(2 * (0.25 - 0.5) ** 2)


def test_a_dear_gate_loss_closes_gates_and_a_file_keeps_it(images, tmp_path):
    keras.utils.set_random_seed(0)
    model = ka.build_resnet(**{**SMALL, "exits": None}, depth=14, width=0.25, gates="layer")
    model.compile(keras.optimizers.Adam(0.02), gate_loss=ka.training.GateLoss(1000.0))
    _, before = model.predict_with_costs(images, verbose=0)
    model.fit(images, np.arange(9), epochs=12, verbose=0)
    _, after = model.predict_with_costs(images, verbose=0)
    assert after.mean() < 0.8 * before.mean()
    model.save(tmp_path / "gated.keras")
    again = keras.models.load_model(tmp_path / "gated.keras")
    assert again.gate_loss.get_config() == model.gate_loss.get_config()
    np.testing.assert_array_equal(
        again.predict(images, verbose=0), model.predict(images, verbose=0)
    )


def test_energy_counts_numbers_moved_and_macs():
    from keras_adaptive.energy import EnergyModel

    x = keras.Input((4, 4, 3))
    outputs = [L.Dense(2)(L.Flatten()(L.Conv2D(5, 3, padding="same")(x)))]
    model = EnergyModel(main=10, cache=4, register=2, mac=1, reuse=8)
    conv, dense = 16 * 9 * 3 * 5, 80 * 2
    moved = (48 + 9 * 3 * 5 + 5 + 80) + (80 + 160 + 2 + 2)
    by_hand = 10 * moved + (conv + dense) * (2 / 8 * 4 + 3 * 2 + 1)
    assert ka.costs.exit_costs([x], outputs, model)[0] == by_hand
    assert ka.costs.exit_costs([x], outputs, "energy")[0] > 0


def test_block_costs_are_counted_part_by_part():
    x = keras.Input((4, 4, 2))
    gate = ChannelGate(2, return_probability=True)
    branch = [L.Conv2D(3, 1), L.BatchNormalization(), L.Conv2D(2, 3, padding="same")]
    block = GatedBlock(branch, "add", gate)
    block(x, x)
    (node,) = block._inbound_nodes
    assert block_costs(node) == BlockCosts(2 * 2 * 9 * 2 * 2 + 4, 16 * 6, 16 * 9 * 3 * 2)


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


def test_a_network_without_gates_has_no_gate_loss():
    model = ka.build_resnet(**SMALL, depth=8, width=0.25)
    with pytest.raises(ValueError, match="`gate_loss` must be None"):
        model.compile(gate_loss=ka.training.GateLoss())
    with pytest.raises(TypeError, match="`gate_loss` must be a GateLoss. Received: "):
        model.compile(gate_loss=1.0)
