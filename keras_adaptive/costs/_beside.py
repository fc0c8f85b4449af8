"""What an answer has cost, computed beside it, as an output of the stages of a network."""

import keras
from keras import ops

from keras_adaptive import _graph
from keras_adaptive.costs.gated_costs import gated_costs

NAME = "cost"  # of the output


class Beside(keras.Operation):
    """Gives its arguments back: a cost is then computed wherever the logits are."""

    def call(self, logits, cost):
        return logits, cost

    def compute_output_spec(self, logits, cost):
        return tuple(keras.KerasTensor(t.shape, t.dtype) for t in (logits, cost))


def giving_costs(stages):
    """Returns stages that give the cost behind the logits, where `Beside` has put one.

    Args:
        stages: As `_graph.minimal_stages` returns them.
    """
    return [_giving(*stage) for stage in stages]


def _giving(model, reads, adds):
    nodes = _graph.nodes_between(model.inputs, model.outputs)
    beside = [node for node in nodes if isinstance(node.operation, Beside)]
    if not beside:
        return model, reads, adds
    logits, *features = model.outputs
    outputs = [logits, beside[0].outputs[1], *features]
    return _graph.ListModel(model.inputs, outputs, name=model.name), reads, [NAME, *adds]


def with_spending(inputs, exits):
    """Puts what gated blocks have cost each sample so far beside the logits of every exit.

    Args:
        inputs, exits: As in `gated_costs`.

    Returns:
        List of symbolic logits, for `giving_costs`; and `(exits,)`, what every
        sample spends besides. `exits` itself and `None` for a network without gates.
    """
    found = gated_costs(inputs, exits)
    if found is None:
        return exits, None
    spent, beside = 0.0, []
    for k, logits in enumerate(exits):
        first = (slice(None), *[0] * (len(logits.shape) - 2), slice(0, 1))
        spent = spent + ops.zeros_like(logits[first], dtype="float32")
        parts = zip(found.gates, found.exits, found.blocks, strict=True)
        for (gate, _, shares), block in ((g, block) for g, exit, block in parts if exit == k):
            is_open = 1.0 if gate is None else ops.cast(gate, "float32")
            share = 1.0 if shares is None else ops.cast(shares[:, :1], "float32")
            spent = spent + block.executed(is_open, share)
        logits, spent = Beside()(logits, spent)
        beside.append(logits)
    return beside, found.fixed
