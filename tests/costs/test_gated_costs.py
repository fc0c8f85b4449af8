import keras
import numpy as np
import pytest
from shared import GATED_NETWORKS, GATES

import keras_adaptive as ka
from keras_adaptive import _graph as graph
from keras_adaptive.costs.gated_costs import BlockCosts, GatedCosts, block_costs, gated_costs
from keras_adaptive.layers import ChannelGate, GatedBlock, SkipGate

L = keras.layers


def quick_on(*rows):
    """Gated networks and kinds of gates: these in the quick suite, the others in the slow one."""
    return pytest.mark.parametrize(
        "gated",
        [
            pytest.param(
                (network, gates),
                marks=[] if (network, gates) in rows else pytest.mark.slow,
                id=f"{network}-{gates}",
            )
            for network in GATED_NETWORKS
            for gates in GATES
        ],
        indirect=True,
        scope="module",
    )


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


@pytest.mark.slow
@quick_on(("densenet", "channel"))
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


@quick_on(("resnet", "both"))
def test_costs_are_those_of_what_is_open(gated, images):
    model, _ = gated
    _, costs = model.predict_with_costs(images, verbose=0)
    assert (costs <= model.exit_costs()[:, None] + 1e-6).all()
    assert (costs.std(axis=1) > 0).any()
    # counted again from the values inside, block by block
    nodes = [n for n in model.operations if isinstance(n, GatedBlock)]
    total = gated_costs(model.inputs, model.outputs).fixed[-1]
    nodes = [layer._inbound_nodes[0] for layer in nodes]
    inner = [[*node.input_tensors[2:], *node.outputs[1:]] for node in nodes]
    found = iter(graph.model_of(model.inputs, sum(inner, [])).predict(images, verbose=0))
    for node, tensors in zip(nodes, inner, strict=True):
        values = [next(found) for _ in tensors]
        is_open = values[0][:, 0] if len(node.input_tensors) > 2 else 1.0
        share = values[-1][:, 0] if len(node.outputs) > 1 else 1.0
        part = block_costs(node)
        total = total + is_open * (part.gate + part.branch + share * part.last)
    np.testing.assert_allclose(costs[-1], np.broadcast_to(total, 9), rtol=1e-6)


@quick_on(("resnet", "both"))
def test_expected_costs_follow_the_probabilities(gated, images):
    model, _ = gated
    _, hard_costs = model.predict_with_costs(images, verbose=0)
    _, soft = model.predict_with_costs(images, verbose=0, expected=True)
    assert soft.shape == hard_costs.shape
    assert not np.array_equal(soft, hard_costs)
    assert (soft <= model.exit_costs()[:, None] * (1 + 1e-6)).all()


def test_block_costs_are_counted_part_by_part():
    x = keras.Input((4, 4, 2))
    gate = ChannelGate(2, return_probability=True)
    branch = [L.Conv2D(3, 1), L.BatchNormalization(), L.Conv2D(2, 3, padding="same")]
    block = GatedBlock(branch, "add", gate)
    block(x, x)
    (node,) = block._inbound_nodes
    assert block_costs(node) == BlockCosts(2 * 2 * 9 * 2 * 2 + 4, 16 * 6, 16 * 9 * 3 * 2)


def by_hand():
    """A network whose answers and costs are easy to compute: images of one value `v`.

    The first block is for `v > 0`, the second for `|v| > 1.5`; an open block multiplies its
    input by 3. Every logit is the sum of two channels.
    """
    image = keras.Input((4, 4, 1))
    v = keras.ops.mean(image, axis=(1, 2))
    decisions = [v > 0, keras.ops.absolute(v) > 1.5]
    x = L.Conv2D(2, 1, use_bias=False, kernel_initializer="ones")(image)
    logits = []
    for k, decision in enumerate(decisions):
        branch = L.Conv2D(2, 1, use_bias=False, name=f"branch_{k}")
        gate = keras.ops.cast(decision, "float32")
        x = GatedBlock([branch], "add")(x, x, gate)
        branch.set_weights([2 * np.eye(2)[None, None]])
        head = L.Dense(3, use_bias=False, kernel_initializer="ones", name=f"exit_{k}")
        logits.append(head(L.GlobalAveragePooling2D()(x)))
    return ka.AdaptiveModel(image, logits)


def test_open_closed_and_mixed_gates_are_as_computed_by_hand():
    values = np.array([-1.0, 1.0, -2.0, 2.0], "float32")  # none, the first, the second, both
    first, second = np.array([0, 1, 0, 1]), np.array([0, 0, 1, 1])
    x = np.broadcast_to(values[:, None, None, None], (4, 4, 4, 1))
    model = by_hand()
    np.testing.assert_array_equal(model.predict_gates(x, verbose=0), [first, second])
    logits, costs = model.predict_with_costs(x, verbose=0)
    answers = [2 * values * 3**first, 2 * values * 3**first * 3**second]
    np.testing.assert_allclose(logits, np.repeat(np.array(answers)[:, :, None], 3, axis=2))
    # 16 pixels: 1 x 2 of the first convolution, 2 x 2 of a block; 2 x 3 of a head
    expected = [32 + 6 + 64 * first, 32 + 12 + 64 * (first + second)]
    np.testing.assert_array_equal(costs, expected)
    np.testing.assert_array_equal(model.exit_costs(), [102, 172])
    found = ka.AdaptivePredictor(model, ka.ExitPolicy([np.inf, 0], worst_case=110)).predict(x)
    np.testing.assert_array_equal(found.exits, [1, 1, 1, 0])  # the last would cost 172
    np.testing.assert_array_equal(found.costs, [44, 108, 108, 102])
    np.testing.assert_allclose(found.probabilities, 1 / 3)


def test_a_network_without_gates_skips_nothing():
    with pytest.raises(ValueError, match="must have gates. Received: "):
        ka.build_resnet((8, 8, 1), depth=8, width=0.25).predict_gates(np.zeros((1, 8, 8, 1)))


def test_costs_of_gates_by_hand():
    gate, probability, shares, others = (object() for _ in range(4))
    found = GatedCosts(
        fixed=np.array([10.0, 30.0, 60.0]),
        gates=[
            (gate, probability, None),  # a block as a whole
            (gate, probability, shares),  # the same gate, and one for each channel
            (None, None, others),  # channels only
        ],
        exits=[0, 1, 2],
        blocks=[BlockCosts(0, 1, 2), BlockCosts(4, 8, 16), BlockCosts(100, 200, 400)],
    )
    assert found.tensors == [gate, probability, shares, others]
    values = [
        [[1.0], [0.0]],
        [[0.75], [0.25]],
        [[0.5, 0.625], [0.25, 0.375]],
        [[1.0, 0.9], [0.0, 0.1]],
    ]
    first, second = np.array([3.0, 0.0]), np.array([4 + 8 + 0.5 * 16, 0.0])
    third = np.array([700.0, 300.0])
    expected = [10 + first, 30 + first + second, 60 + first + second + third]
    np.testing.assert_allclose(found.per_sample(values), expected)
    first, second = np.array([0.75, 0.25]) * 3, np.array([0.75 * 22, 0.25 * 18])
    third = np.array([660.0, 340.0])
    expected = [10 + first, 30 + first + second, 60 + first + second + third]
    np.testing.assert_allclose(found.per_sample(values, expected=True), expected)
    np.testing.assert_allclose(found.open_shares(values), [[1, 0], [0.5, 0], [1, 0]])


@pytest.mark.parametrize("unit", ["Energy", "params", None])
def test_rejects_unknown_units(unit):
    block = GatedBlock([L.Dense(3)], "add")
    x = keras.Input((3,))
    y = block(x, x)
    with pytest.raises(ValueError, match=f"`unit` must be one of .*Received: unit={unit}"):
        gated_costs([x], [y], unit)
    with pytest.raises(ValueError, match=f"`unit` must be one of .*Received: unit={unit}"):
        block_costs(graph.node_of(y), unit)
