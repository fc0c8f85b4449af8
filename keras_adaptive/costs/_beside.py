"""What an answer has cost, computed beside it, as an output of the stages of a network."""

import keras

from keras_adaptive import _graph

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
