"""The cost of an answer as an output of the stages, where gates decide what is computed."""

import keras

from keras_adaptive import _graph
from keras_adaptive.costs._beside import Beside
from keras_adaptive.costs.gated_costs import gated_costs
from keras_adaptive.export._forcing import decisive


def with_costs(inputs, exits):
    """Returns the logits of a network with gates, computed beside what each answer costs.

    The cost is cumulative, in multiply-accumulates, `(batch, 1)`. It is added up in integers,
    which a conversion to int8 leaves alone.

    Args:
        inputs: List of the network's symbolic inputs.
        exits: List of symbolic logits.

    Returns:
        List of symbolic logits; `exits` itself for a network without gates.
    """
    found = gated_costs(inputs, exits)
    if found is None:
        return exits
    ops = keras.ops
    before, fixed, beside = None, 0, []
    for k, logits in enumerate(exits):
        amount = ops.zeros_like(logits[:, :1], dtype="int64") + round(found.fixed[k] - fixed)
        fixed = found.fixed[k]
        for (gate, _, shares), exit, block in zip(
            found.gates, found.exits, found.blocks, strict=True
        ):
            if exit == k:
                amount = amount + _executed(gate, shares, block)
        if before is not None:
            amount = amount + ops.cast(before, "int64")
        logits, before = Beside()(logits, ops.cast(amount, "float32"))
        beside.append(logits)
    return beside


def _executed(gate, shares, block):
    """Returns what a block costs each sample, as integers `(batch, 1)`."""
    ops = keras.ops
    if shares is None:
        amount = round(block.gate + block.branch + block.last)
    else:
        channels = _graph.node_of(shares).operation.channel_gate.channels
        open_channels = ops.cast(ops.round(shares[:, :1] * channels), "int64")
        amount = open_channels * round(block.last / channels) + round(block.gate + block.branch)
    if gate is None:
        return amount
    amount = ops.cast(amount, "int64")
    return ops.where(decisive(gate) > 0.5, amount, ops.zeros_like(amount))
