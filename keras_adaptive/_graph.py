"""Stages of a functional network: the operations that each exit needs.

A stage is what an exit needs and no earlier exit has computed. It is found by
walking back from the exit's logits, so it holds nothing that the exit could do
without (MSDNet's lazy evaluation), whatever the network looks like.
"""

import contextlib
import inspect
import itertools
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
        trainable = kwargs.pop("trainable", True)
        super().__init__(inputs, outputs, name=name, **kwargs)
        self.supports_masking = True
        if not trainable:  # True, as it is saved, would thaw layers that are frozen
            self.trainable = False

    def __setattr__(self, name, value):
        # on TensorFlow an attribute that does not change is not set, so that `trainable = True`
        # would not reach the layers that were frozen one by one, nor variables of others
        if name == "trainable":
            for layer in self._flatten_layers():
                keras.layers.Layer.trainable.fset(layer, value)
        else:
            super().__setattr__(name, value)

    def compute_mask(self, inputs, mask=None):
        return None  # outputs are logits, or features beside their masks

    def call(self, inputs, training=None, mask=None, **kwargs):
        inputs, mask = (in_order(self, each) for each in (inputs, mask))
        tensors = keras.tree.flatten(inputs)
        if len(tensors) == len(self.inputs):  # a tensor, or a list of one: both are fine
            inputs = keras.tree.pack_sequence_as(self.input, tensors)
        outputs = super().call(inputs, training=training, mask=mask, **kwargs)
        return list(outputs) if isinstance(outputs, (list, tuple)) else [outputs]


def free_name(name, taken):
    """Returns a name, with a number behind it where it is taken."""
    numbered = (f"{name}_{i}" for i in itertools.count(1))
    return next(each for each in itertools.chain([name], numbered) if each not in taken)


def freeze_inside(model):
    """Freezes what is inside of frozen layers, where they come from a config.

    Keras freezes layers inside only when `trainable` is set, so that in a network that is loaded
    or cloned they would learn. Where some of them are frozen, it is as somebody has set it.
    """
    for layer in model._flatten_layers(include_self=False):
        inside = list(layer._flatten_layers(include_self=False))
        if inside and not layer.trainable and all(each.trainable for each in inside):
            keras.layers.Layer.trainable.fset(layer, False)  # it is False, and would not be set


def input_keys(model):
    """Returns what each input is called when a network is given a dictionary.

    The keys of the dictionary that it was built with, otherwise the names of its inputs.
    """
    given = model.input if isinstance(model.input, dict) else {}
    keys = {id(tensor): key for key, tensor in given.items()}
    return [keys.get(id(tensor), tensor.name) for tensor in model.inputs]


def in_order(model, given):
    """Returns a dictionary by `input_keys` as a list in the inputs' order; others as they are."""
    if not isinstance(given, dict):
        return given
    keys = input_keys(model)
    return [given[key] for key in keys] if set(given) == set(keys) else given


class _Masked(keras.layers.Layer):
    """Puts a mask on a tensor."""

    def __init__(self, **kwargs):
        super().__init__(autocast=False, **kwargs)
        self.supports_masking = True

    def call(self, x, mask=None):
        return x


@keras.saving.register_keras_serializable(package="keras_adaptive")
class TensorsAlone(keras.layers.Wrapper):
    """Gives the tensors that a layer gives, without the `None` beside them.

    Keras takes such a layer inside another one, but not in a graph.

    Args:
        layer: A `keras.layers.Layer`.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        inputs: The first argument of the layer, and further ones by their names.
    """

    def call(self, inputs, **arguments):
        found = keras.tree.flatten(self.layer(inputs, **arguments))
        tensors = [x for x in found if x is not None]
        return tensors if len(tensors) > 1 else tensors[0]


@contextlib.contextmanager
def tensors_alone():
    """Lets layers that give `None` beside tensors be called symbolically, which Keras refuses.

    Yields:
        List, to which such layers are added when they are called.
    """
    node = type(node_of(keras.Input(())))
    start, found = node.__init__, []

    def start_with_tensors(self, operation, call_args=None, call_kwargs=None, outputs=None):
        flat = keras.tree.flatten(outputs)
        tensors = [x for x in flat if x is not None]
        if len(tensors) < len(flat):
            found.append(operation)
        start(self, operation, call_args, call_kwargs, tensors)

    node.__init__ = start_with_tensors
    try:
        yield found
    finally:
        node.__init__ = start


def node_of(tensor):
    """Returns the node (one call of one operation) that computes a symbolic tensor."""
    operation, node_index, _ = tensor._keras_history
    return operation._inbound_nodes[node_index]


def masked_inputs(node):
    """Returns the tensors whose masks a call reads without having them as arguments.

    Keras hands a mask on as an attribute of a tensor, and writes it down as an argument only
    where a layer is called with one tensor alone. Where a network is cut, attributes are lost.

    Returns:
        List of tensors; their `_keras_mask` is what is read.
    """
    if not any(_mask(tensor) is not None for tensor in node.arguments.keras_tensors):
        return []
    if not isinstance(node.operation, keras.layers.Layer):
        return []
    arguments, parameters = _bound(node.operation, node.arguments.args, node.arguments.kwargs)
    given = {name: value for name, value in arguments.items() if value is not None}
    read = [name for name, value in given.items() if _tensors(value)]
    places = {"mask": read[0]} if len(read) == 1 else {f"{name}_mask": name for name in read}
    known = {}
    return [
        tensor
        for place, name in places.items()
        if place in parameters and place not in given
        for tensor in _tensors(given[name])
        if _carries_mask(tensor, node, known)
    ]


def _carries_mask(tensor, reader, known):
    """Returns whether the mask of a tensor is still on it when a node reads it.

    Attention takes the mask off what it reads, for all who read it later; it does so where
    numbers are computed, but not where the graph is drawn.
    """
    if _mask(tensor) is None:
        return False
    maker = node_of(tensor)
    for other in tensor._keras_history.operation._outbound_nodes:
        takes = isinstance(other.operation, keras.layers.MultiHeadAttention)
        takes = takes and any(tensor is x for x in other.input_tensors)
        if takes and other is not reader and other in _before(reader, maker):
            return False
    if id(maker) not in known:
        # a mask that is an argument is computed, whatever became of attributes
        explicit = any(_mask(tensor) is x for x in maker.input_tensors)
        masked = [x for x in maker.input_tensors if _mask(x) is not None]
        if isinstance(maker.operation, keras.layers.MultiHeadAttention):
            masked = masked[:1]  # the query's
        known[id(maker)] = explicit or all(_carries_mask(x, maker, known) for x in masked)
    return known[id(maker)]


def _before(node, first):
    """Returns the nodes that a node needs, back to `first`."""
    return nodes_between(first.outputs, node.input_tensors)


def _bound(layer, args, kwargs):
    """Returns the arguments of a call by their names, and the names that there are."""
    signature = inspect.signature(layer.call)
    unknown = set(getattr(layer, "_call_context_args", ())) - set(signature.parameters)
    kwargs = {name: value for name, value in kwargs.items() if name not in unknown}
    return dict(signature.bind(*args, **kwargs).arguments), signature.parameters


def _mask(tensor):
    return getattr(tensor, "_keras_mask", None)


def _tensors(structure):
    return [x for x in keras.tree.flatten(structure) if isinstance(x, keras.KerasTensor)]


def given_mask(node):
    """Returns the mask that somebody gave a call, rather than Keras, or `None`."""
    if not isinstance(node.operation, keras.layers.Layer):
        return None
    arguments, _ = _bound(node.operation, node.arguments.args, node.arguments.kwargs)
    mask = arguments.get("mask")
    by_hand = isinstance(mask, keras.KerasTensor)
    return mask if by_hand and not any(_mask(x) is mask for x in node.input_tensors) else None


def reads(node):
    """Returns the tensors that a node needs, masks included."""
    return [*node.input_tensors, *(_mask(tensor) for tensor in masked_inputs(node))]


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
            todo.extend((parent, False) for parent in reversed(reads(node)))
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
        read = {id(tensor): tensor for node in nodes for tensor in reads(node)}
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
    again = call_again(nodes, tensors, outputs, skipping, cut=True)
    return ListModel(list(tensors.values()), again, name=name)


def has_batch(tensor):
    """Returns whether the size of a batch is fixed; Keras fixes it in some Sequential models."""
    return bool(tensor.shape) and tensor.shape[0] is not None


def any_batch(inputs, outputs):
    """Returns inputs and outputs of the same layers for batches of any size.

    Args:
        inputs: List of symbolic tensors.
        outputs: List of symbolic tensors.

    Raises:
        ValueError: If an operation of the network fixes the size.
    """
    if not any(map(has_batch, inputs)):
        return inputs, outputs
    again = [keras.Input(t.shape[1:], dtype=t.dtype, name=t.name) for t in inputs]
    tensors = {id(old): new for old, new in zip(inputs, again, strict=True)}
    nodes = nodes_between(inputs, outputs)
    if any(getattr(node.operation, "stateful", False) for node in nodes):
        raise _fixed(inputs, "a stateful layer")
    try:
        found = call_again(nodes, tensors, outputs)
    except Exception as error:  # whatever a layer raises
        raise _fixed(inputs, error) from error
    pairs = zip(outputs, found, strict=True)
    if any(has_batch(new) or new.shape[1:] != old.shape[1:] for old, new in pairs):
        raise _fixed(inputs, "operations that fix its size")
    return again, found


def _fixed(inputs, why):
    return ValueError(
        "The network must take batches of any size: samples leave it one by one. Build it with "
        "`keras.Input(shape)`, without `batch_shape` and `batch_size`. Received: inputs of shape "
        f"{', '.join(str(tuple(t.shape)) for t in inputs)}, and {why}"
    )


def is_model(operation):
    """Returns whether an operation is a model whose inside is a graph, and that alone."""
    if not isinstance(operation, keras.Model) or not getattr(operation, "outputs", None):
        return False
    # a class with a `call` of its own may do anything
    return type(operation).call.__module__.partition(".")[0] in ("keras", "keras_adaptive")


def check_channels_last(inputs, outputs, argument="model"):
    """Raises an error where a layer has its channels first, which no exit here can read."""
    for node in nodes_between(inputs, outputs):
        operation = node.operation
        if is_model(operation):
            check_channels_last(operation.inputs, operation.outputs, argument)
        layer = getattr(operation, "layer", operation)  # of a wrapper, the layer inside
        if getattr(layer, "data_format", None) == "channels_first":
            raise ValueError(
                f"Every layer of `{argument}` must have data_format='channels_last'. Build the "
                "network so, and keras.layers.Permute an input whose channels come first. "
                f"Received: layer {layer.name!r} with data_format='channels_first'"
            )


def call_again(
    nodes, tensors, outputs, skipping=None, *, opened=False, instead=None, context=None, cut=False
):
    """Applies the operations of some nodes to other tensors.

    Args:
        nodes: Nodes, each after all it reads.
        tensors: Dictionary: id of a tensor that the nodes read to the one in its place.
        outputs: Tensors of the nodes, or read by them.
        skipping: As in `stage_models`.
        opened: Boolean, whether the operations of a model inside are applied one by one;
            `"layers"`: also those of layers made of others.
        instead: Dictionary: id of an operation to the one in its place.
        context: Dictionary of arguments, as `training`, that operations which know them get.
        cut: Boolean, whether `tensors` are new inputs, which have lost their masks.

    Returns:
        List of tensors: what `outputs` has become.
    """
    tensors, instead, fused = dict(tensors), instead or {}, {}
    for node in nodes:
        operation = instead.get(id(node.operation), node.operation)
        masked = _masked(node, tensors) if cut else {}
        args, kwargs = node.arguments.fill_in({**tensors, **masked} if masked else tensors)
        kwargs = {**kwargs, **_known(context, operation)}
        if opened and is_model(operation):
            places, inner = _handed_in(operation, args, kwargs)
            inside = nodes_between(operation.inputs, operation.outputs)
            found = call_again(
                inside,
                places,
                operation.outputs,
                skipping,
                opened=opened,
                instead=instead,
                context=inner,
            )
        else:
            if skipping is not None and hasattr(operation, "to_skipping"):
                operation = operation.to_skipping(skipping)
            elif skipping in ("gather", "cond") and hasattr(operation, "fused"):
                operation = fused.setdefault(id(operation), operation.fused())
                before = node_of(node.input_tensors[0])
                if operation is not node.operation and _is_projection(before, tensors):
                    args = (tensors[id(before.input_tensors[0])], *args[1:])
                    kwargs = {**kwargs, "projection": operation.folding(before.operation)}
            found = _inside(operation, args, kwargs) if opened == "layers" else None
            if found is None:
                found = keras.tree.flatten(operation(*args, **kwargs))
        tensors.update((id(old), new) for old, new in zip(node.outputs, found, strict=True))
    return [tensors[id(t)] for t in outputs]


def _masked(node, tensors):
    """Returns tensors with the masks that a call reads and that were lost."""
    return {
        id(t): _Masked()(tensors[id(t)], mask=tensors[id(_mask(t))])
        for t in masked_inputs(node)
        if id(_mask(t)) in tensors and _mask(tensors[id(t)]) is None
    }


def opened(inputs, answer, layers=False):
    """Returns inputs and output of the same layers, those of models inside included.

    Args:
        inputs: List of symbolic tensors.
        answer: Symbolic tensor.
        layers: Boolean, whether layers made of others are opened too, one level of them, where
            what they do is the calls of their layers in training and at rest alike.
    """
    nodes = nodes_between(inputs, [answer])
    if not layers and not any(is_model(node.operation) for node in nodes):
        return inputs, answer
    again = [keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name) for t in inputs]
    tensors = {id(old): new for old, new in zip(inputs, again, strict=True)}
    (answer,) = call_again(nodes, tensors, [answer], opened="layers" if layers else True)
    return again, answer


def _inside(layer, args, kwargs):
    """Returns the outputs of a layer made of others, as its inner layers give them, or `None`.

    `None` for Keras's own layers, for variables used outside of layers, which a graph would not
    keep, and for a `call` that does other things in training.
    """
    if not isinstance(layer, keras.layers.Layer) or isinstance(layer, keras.Model):
        return None
    own = type(layer).__module__.partition(".")[0] not in ("keras", "keras_adaptive")
    if not own or not list(layer._flatten_layers(include_self=False)):
        return None
    read = [t for t in keras.tree.flatten((args, kwargs)) if isinstance(t, keras.KerasTensor)]
    if any(_mask(tensor) is not None for tensor in read):
        return None
    known = "training" in inspect.signature(layer.call).parameters
    traces = []
    for training in (True, None) if known else (None,):
        given = {**kwargs, "training": training} if known else kwargs
        try:
            with tensors_alone() as wrapped:
                found = keras.tree.flatten(layer.call(*args, **given))
            nodes = nodes_between(read, _tensors(found))
        except Exception:  # whatever the call of somebody's layer raises
            return None
        traces.append([_kind(node.operation) for node in nodes])
    values = [v for node in nodes for v in keras.tree.flatten(_arguments(node))]
    if traces[0] != traces[-1] or any(isinstance(v, keras.Variable) for v in values):
        return None
    if wrapped:
        instead = {id(each): _calling(TensorsAlone(each, name=each.name)) for each in wrapped}
        places = {id(tensor): tensor for tensor in read}
        kept = _tensors(found)
        again = dict(
            zip(map(id, kept), call_again(nodes, places, kept, instead=instead), strict=True)
        )
        found = [again.get(id(x), x) for x in found]
    return found


def _calling(wrapper):
    """Returns a function that calls the wrapper of a layer as the layer is called."""

    def call(*args, **kwargs):
        given, _ = _bound(wrapper.layer, args, kwargs)
        given = {**given, **given.pop("kwargs", {})}
        inputs = given.pop(next(iter(given)))
        return wrapper(inputs, **given)

    return call


def _kind(operation):
    """Returns what tells calls apart: the layer itself, or the type of an operation."""
    is_layer = isinstance(operation, keras.layers.Layer)
    return id(operation) if is_layer else type(operation)


def _arguments(node):
    return node.arguments.args, node.arguments.kwargs


def _known(context, operation):
    """Returns those of the arguments that this operation takes, as a model hands them on."""
    known = getattr(operation, "_call_context_args", ())
    return {name: value for name, value in (context or {}).items() if name in known}


def _handed_in(model, args, kwargs):
    """Returns what a call of a model puts in the place of its inputs, and its other arguments."""
    given, _ = _bound(model, args, kwargs)
    read = keras.tree.flatten(given.pop("inputs"))
    mask = given.pop("mask", None)
    for tensor, known in zip(read, keras.tree.flatten(mask), strict=False):
        if known is not None:
            tensor._keras_mask = known
    places = {id(old): new for old, new in zip(model.inputs, read, strict=True)}
    context = {**given.pop("kwargs", {}), **given}
    return places, {name: value for name, value in context.items() if value is not None}


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
