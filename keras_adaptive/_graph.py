"""Stages of a functional network: the operations that each exit needs.

A stage is what an exit needs and no earlier exit has computed. It is found by
walking back from the exit's logits, so it holds nothing that the exit could do
without (MSDNet's lazy evaluation), whatever the network looks like.
"""

from typing import NamedTuple

import keras


class Stage(NamedTuple):
    """The part of a network between two exits, in the network's own tensors."""

    nodes: list  # in an order in which they can be computed
    inputs: list  # tensors this stage reads: the network's inputs or an earlier stage's
    logits: object
    outputs: list  # tensors computed here that a later stage reads


class ListModel(keras.Model):
    """A functional model that gives a list, also when there is one output only."""

    def __init__(self, inputs, outputs, name=None, **kwargs):
        super().__init__(inputs, outputs, name=name, **kwargs)

    def call(self, inputs, training=None, mask=None, **kwargs):
        tensors = keras.tree.flatten(inputs)
        if len(tensors) == len(self.inputs):  # a tensor, or a list of one: both are fine
            inputs = keras.tree.pack_sequence_as(self.input, tensors)
        outputs = super().call(inputs, training=training, mask=mask, **kwargs)
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def node_of(tensor):
    """Returns the node (one call of one operation) that computes a symbolic tensor."""
    operation, node_index, _ = tensor._keras_history
    return operation._inbound_nodes[node_index]


def nodes_between(inputs, outputs, computed=()):
    """Returns the nodes needed for `outputs`, each after all it reads.

    Args:
        inputs: Tensors where the walk back ends.
        outputs: Tensors that are wanted.
        computed: Nodes that need not be computed again.
    """
    known = {id(tensor) for tensor in inputs}
    seen = {id(node) for node in computed}
    ordered = []
    todo = [(tensor, False) for tensor in reversed(outputs)]
    while todo:
        tensor, parents_done = todo.pop()
        if id(tensor) in known:
            continue
        node = node_of(tensor)
        if parents_done:
            if id(node) not in seen:
                seen.add(id(node))
                ordered.append(node)
        elif id(node) not in seen and not node.is_input:
            todo.append((tensor, True))
            todo.extend((parent, False) for parent in reversed(node.input_tensors))
    return ordered


def split(inputs, exits):
    """Cuts a network into stages, one per exit.

    Args:
        inputs: List of the network's symbolic inputs.
        exits: List of symbolic logits, from the first exit to the last.

    Returns:
        List of `Stage`.
    """
    computed, groups = [], []
    for logits in exits:
        groups.append(nodes_between(inputs, [logits], computed))
        computed += groups[-1]

    stages, read_later = [], set()
    for nodes, logits in zip(reversed(groups), reversed(exits), strict=True):
        own = {id(tensor): tensor for node in nodes for tensor in node.outputs}
        read = {id(tensor): tensor for node in nodes for tensor in node.input_tensors}
        from_before = [tensor for key, tensor in read.items() if key not in own]
        for_later = [tensor for key, tensor in own.items() if key in read_later]
        stages.append(Stage(nodes, from_before, logits, for_later))
        read_later |= {id(tensor) for tensor in from_before}
    return stages[::-1]


def _rebuild(nodes, inputs, outputs, name, skipping=None):
    """Returns a model of some nodes, from `inputs` to `outputs`, with the same layers.

    Keras can cut a model at inner tensors itself, but not where one of them is also
    an output, or is an output twice. With `skipping`, gated blocks are replaced by what
    leaves their work out in that way.
    """
    tensors = {
        id(t): keras.Input(batch_shape=t.shape, dtype=t.dtype, name=f"{name}_input_{i}")
        for i, t in enumerate(inputs)
    }
    again = call_again(nodes, tensors, outputs, skipping)
    return ListModel(list(tensors.values()), again, name=name)


def is_model(operation):
    """Returns whether an operation is a model whose inside is a graph."""
    return isinstance(operation, keras.Model) and bool(getattr(operation, "outputs", None))


def call_again(nodes, tensors, outputs, skipping=None, *, opened=False, instead=None):
    """Applies the operations of some nodes to other tensors.

    Args:
        nodes: Nodes, each after all it reads.
        tensors: Dictionary: id of a tensor that the nodes read to the one in its place.
        outputs: Tensors of the nodes, or read by them.
        skipping: As in `stage_models`.
        opened: Boolean, whether the operations of a model inside are applied one by one.
        instead: Dictionary: id of an operation to the one in its place.

    Returns:
        List of tensors: what `outputs` has become.
    """
    tensors, instead, fused = dict(tensors), instead or {}, {}
    for node in nodes:
        operation = instead.get(id(node.operation), node.operation)
        if opened and is_model(operation):
            read = [tensors[id(tensor)] for tensor in node.input_tensors]
            places = {id(old): new for old, new in zip(operation.inputs, read, strict=True)}
            inside = nodes_between(operation.inputs, operation.outputs)
            found = call_again(
                inside, places, operation.outputs, skipping, opened=opened, instead=instead
            )
        else:
            args, kwargs = node.arguments.fill_in(tensors)
            if skipping is not None and hasattr(operation, "to_skipping"):
                operation = operation.to_skipping(skipping)
            elif skipping in ("gather", "cond") and hasattr(operation, "fused"):
                operation = fused.setdefault(id(operation), operation.fused())
                before = node_of(node.input_tensors[0])
                if operation is not node.operation and _is_projection(before, tensors):
                    args = (tensors[id(before.input_tensors[0])], *args[1:])
                    kwargs = {**kwargs, "projection": operation.folding(before.operation)}
            found = keras.tree.flatten(operation(*args, **kwargs))
        tensors.update((id(old), new) for old, new in zip(node.outputs, found, strict=True))
    return [tensors[id(t)] for t in outputs]


def _is_projection(node, tensors):
    """Returns whether a node is one dense layer without activation, of a known tensor."""
    layer = node.operation
    linear = isinstance(layer, keras.layers.Dense) and layer.activation is keras.activations.linear
    return linear and id(node.input_tensors[0]) in tensors


def model_of(inputs, outputs):
    """Returns the model of any inner tensors, with the same layers."""
    return _rebuild(nodes_between(inputs, outputs), list(inputs), outputs, "inner")


def stage_models(inputs, exits, skipping=None):
    """Returns one model per stage, so made that they can be chained.

    The first maps the network's inputs to `[logits, *features]`; each later one reads
    the list of features of the one before. A tensor that is read
    two stages later passes through the stage between unchanged.

    Args:
        inputs: List of the network's symbolic inputs.
        exits: List of symbolic logits, from the first exit to the last.
        skipping: How gated blocks are left out where their gate is closed: `"gather"`,
            `"cond"` (for batches of one), `"if"` (the same for the device, with gates as
            they are built, which suits int8), or `None`: computed and not used.
    """
    stages = split(inputs, exits)
    models, features = [], list(inputs)
    for i, stage in enumerate(stages):
        wanted = {id(tensor) for later in stages[i + 1 :] for tensor in later.inputs}
        onward = [tensor for tensor in features + stage.outputs if id(tensor) in wanted]
        models.append(
            _rebuild(stage.nodes, features, [stage.logits, *onward], f"stage_{i}", skipping)
        )
        features = onward
    return models


def minimal_stages(inputs, exits, skipping=None):
    """Returns one model per stage, which reads and returns only what it must.

    Args:
        inputs, exits, skipping: As in `stage_models`.

    Returns:
        List of `(model, inputs, outputs)`. The model maps the tensors named in `inputs`
        to the logits, then those named in `outputs`; the names are the same in all stages,
        so that a program can keep the tensors in a dictionary.
    """
    names = {id(tensor): f"input_{i}" for i, tensor in enumerate(inputs)}
    models = []
    for i, stage in enumerate(split(inputs, exits)):
        for tensor in stage.outputs:
            names[id(tensor)] = f"features_{len(names) - len(inputs)}"
        ends = [stage.logits, *stage.outputs]
        model = _rebuild(stage.nodes, stage.inputs, ends, f"stage_{i}", skipping)
        reads, adds = ([names[id(t)] for t in some] for some in (stage.inputs, stage.outputs))
        models.append((model, reads, adds))
    return models


def external_inputs(inputs, outputs):
    """Returns the names that stages in a row read and none of them computes, as first read.

    Args:
        inputs, outputs: One list of names per stage, as in `minimal_stages`.

    Example:

    >>> external_inputs([["a", "b"], ["c", "b", "d"]], [["c"], []])
    ['a', 'b', 'd']
    """
    computed = {name for names in outputs for name in names}
    return [name for name in dict.fromkeys(sum(map(list, inputs), [])) if name not in computed]
