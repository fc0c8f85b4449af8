"""Adds early exits to any functional Keras model."""

import difflib
import numbers

import keras
import numpy as np

from keras_adaptive import _graph
from keras_adaptive._checks import check_choice, integer
from keras_adaptive.costs.exit_costs import node_costs
from keras_adaptive.layers.early_exit import EarlyExit
from keras_adaptive.models.cascade import check_model
from keras_adaptive.training._logits import (
    in_float32,
    is_half,
    kind_of,
    logits_of,
    random_answers,
)
from keras_adaptive.training.adaptive_model import AdaptiveModel, keeping

FARTHEST = 0.1  # of the whole cost: how far a place may be from the share asked for

MAXIMA = tuple(getattr(keras.layers, f"GlobalMaxPooling{n}D") for n in "123")

RECURRENT = (keras.layers.RNN, keras.layers.Bidirectional)

# what these give is features, as wide as there are classes or not
FEATURES = (
    *RECURRENT,
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
)

# an exit stands before these rather than after them
PASSING = (
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.ZeroPadding3D,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
)


def add_exits(model, at, *, classes=None, head_channels=None, trainable=True, from_logits=None):
    """Adds early exits to a network, beside the output it has.

    Every place in `at` gets an `EarlyExit` that reads the features there; the model's own
    output is the last exit, with the same answer as before. The network is not
    copied: its layers are shared with `model`, so that training one trains both. Only a softmax
    at the end is taken off, since exits give logits; a dense layer that it is part of gives its
    place to one without it that has the same variables. Other probabilities are read by their
    logarithm. Where the output is features instead (`include_top=False`), the last exit is a
    new `EarlyExit` on them.

    Models inside the model are opened: their layers can be named like others, and their own name
    is that of their output. Padding is
    ignored as the model does: a mask that reaches a place reaches the exit there. New heads
    pool as the model does: by the mean, the maximum, the class token or the last step.

    The new heads are not trained yet. `model.fit` trains heads and network together, or the
    heads alone with `trainable=False`. The model comes compiled for training from scratch;
    compile it again with a lower learning rate to refine a trained network.

    Args:
        model: A built `keras.Model`, functional or Sequential, with one output, for example
            of `keras.applications`. Its preprocessing must be part of it, as layers. Channels
            come last. Several inputs, in a list or by name, stay as they are.
        at: Where early exits stand: a sequence of layer names, in any order; a sequence
            of numbers between 0 and 1: after about these shares of the whole network's
            multiply-accumulates, 10 points off at most; an integer: so many exits in all,
            after about equal shares. By shares, exits stand only where one tensor holds all
            that later layers read, for example between two residual blocks. A layer made of
            layers, as a transformer's encoder, is opened where exits must stand inside.
        classes: Integer, the number of classes. `None`: as many as the model's output has; 2
            where that is one number with a sigmoid, whose logits are `[0, z]`.
        head_channels: Integer, channels of two convolutions in every new head, which need
            features of rank 4. `None`: no convolutions, a dense layer on the mean feature.
        trainable: Boolean, whether the given layers learn. False: they are frozen, batch
            statistics included, here and in `model`. `model.trainable = True` thaws them,
            for the one given and for the one returned; compile again then.
        from_logits: Boolean, whether the model's output is logits, or probabilities. `None`:
            as its layers and its answers to random input show, or refused.

    Returns:
        A compiled `AdaptiveModel`.

    Raises:
        TypeError, ValueError: If the model is none that can be cut, it is unclear what it
            answers, or there is no such place in it.

    Example:

    >>> layers = keras.layers
    >>> network = keras.Sequential([
    ...     keras.Input((8, 8, 1)),
    ...     layers.Conv2D(8, 3, activation="relu", name="early"),
    ...     layers.Conv2D(16, 3, activation="relu"),
    ...     layers.GlobalAveragePooling2D(),
    ...     layers.Dense(10, activation="softmax", name="answer"),
    ... ])
    >>> model = add_exits(network, at=["early"], classes=10)
    >>> model.output_names
    ['exit_0', 'answer']
    >>> model.exit_costs().tolist()  # 36 * 72 + 80, then 16 * 1152 + 160 more
    [2672.0, 21264.0]

    Reference:
        [Shallow-Deep Networks (Kaya et al., 2019)](https://arxiv.org/abs/1810.07052).
    """
    check_model(model, "model", several_inputs=True)
    if head_channels is not None:
        head_channels = integer("head_channels", head_channels, 1)
    check_choice((True, False), trainable=trainable)
    check_choice((None, True, False), from_logits=from_logits)
    inputs, (answer,) = _graph.any_batch(model.inputs, [model.outputs[-1]])
    inputs, answer = _graph.opened(inputs, answer)
    classes, stated = _number_of_classes(answer, classes), classes is not None
    features = len(answer.shape) > 2
    if features:
        _check_features(answer, inputs, classes)
    inputs, answer, nodes, places = _opened_at(_within(at, model), inputs, answer)
    names = [f"exit_{k}" for k in range(len(places) + features)]
    half = is_half(answer)
    _check_names(nodes, [*names, f"exit_{len(places)}"] if half else names)
    if not features:
        answer = logits_of(inputs, answer, from_logits, stated=stated)
    pooling, mask = _pooling(nodes, inputs)
    outputs = [
        _head(inputs, place, classes, head_channels, name, pooling, mask)
        for name, place in zip(names, [*places, answer], strict=False)
    ]
    if not features:
        outputs.append(in_float32(answer, f"exit_{len(outputs)}"))
    if not trainable:
        model.trainable = True  # so that what follows reaches every layer
        model.trainable = False
    if len(inputs) > 1:
        inputs = keras.tree.pack_sequence_as(model.input, inputs)
    adaptive = AdaptiveModel(inputs, outputs, name=f"adaptive_{model.name}")
    adaptive.compile()
    same = model.outputs[-1].shape[-1] == classes and not features
    return keeping(adaptive, [model]) if same else adaptive


def _head(inputs, features, classes, head_channels, name, pooling, mask):
    if head_channels is None:
        steps = len(features.shape) == 3
        if not steps and pooling in ("first", "last") or _is_blank(inputs, features, pooling):
            pooling = "mean"
        head = EarlyExit(classes, pooling=pooling, name=name)
        return head(features, mask=_fitting(mask, features))
    if len(features.shape) != 4:
        raise ValueError(
            "`head_channels` must be None where features are not (batch, height, width, channels). "
            f"Received: head_channels={head_channels}, features of shape {tuple(features.shape)}"
        )
    return EarlyExit(classes, (head_channels,) * 2, name=name)(features)


def _is_blank(inputs, features, pooling):
    """Returns whether a class token has not seen the input yet: before the first attention."""
    if pooling != "first" or len(features.shape) != 3:
        return False
    rows = random_answers(inputs, features[:, 0])
    return rows is not None and bool(np.ptp(rows, axis=0).max() == 0)


def _fitting(mask, features):
    """Returns the mask that the model gives its own pooling, for features at an early place."""
    if mask is None or len(features.shape) <= len(mask.shape):
        return None
    if tuple(mask.shape[1:]) == tuple(features.shape[1 : len(mask.shape)]):
        return mask
    raise ValueError(
        "`at` must name places whose steps the mask fits that `model` gives its own pooling. "
        f"Received: {_graph.node_of(features).operation.name!r} of shape {tuple(features.shape)} "
        f"for a mask of shape {tuple(mask.shape)}"
    )


def _check_names(nodes, new):
    named = {}
    for node in nodes:
        operation = node.operation
        if named.setdefault(operation.name, operation) is not operation:
            raise ValueError(
                "The layers of `model` must have names of their own, those of models inside it "
                f"included. Received: two layers with the name {operation.name!r}"
            )
        if operation.name in new:
            raise ValueError(
                f"No layer of `model` may have the name of a new head, {new}. "
                f"Received: a layer with the name {operation.name!r}"
            )


def _number_of_classes(answer, classes):
    if len(answer.shape) < 2:
        raise ValueError(
            "`model` must give logits (batch, classes), or features of rank 3 or more. "
            f"Received: output of shape {tuple(answer.shape)}"
        )
    width = answer.shape[-1] if len(answer.shape) == 2 else None
    width = 2 if width == 1 else width  # no and yes
    classes = integer("classes", width if classes is None else classes, 2)
    if width not in (None, classes):
        raise ValueError(
            "`classes` must be as many as the output of `model` has. For others, give the model "
            "without its last layers (`include_top=False`, `pooling=None`): it gets a new last "
            f"exit. Received: classes={classes}, output of shape {tuple(answer.shape)}"
        )
    return classes


def _check_features(answer, inputs, classes):
    """Raises an error if the output is answers, one for every place, rather than features."""
    kind = kind_of(answer)
    whole = any(answer.shape[1:-1] == tensor.shape[1:-1] for tensor in inputs)
    operation = _graph.node_of(answer).operation
    as_many = answer.shape[-1] == classes and not isinstance(operation, FEATURES)
    if kind in ("softmax", "sigmoid") or as_many or (kind and whole):
        raise ValueError(
            "`model` must answer once for an input, or give features. One that answers for every "
            "place (segmentation, tagging) can be a member of `SegmentationCascade`; its encoder "
            "alone gets exits here. Received: output of shape "
            f"{tuple(answer.shape)} with classes={classes}"
        )


def _pooling(nodes, inputs):
    """Returns how the network itself makes one vector of features at many places.

    By its last layer or operation that does: `"first"` where it reads a class token, `"last"`
    where a recurrent layer gives its last step, else `"max"` or `"mean"`. Beside it the mask that
    somebody gave it as an argument, or multiplied the features with; or `None`.
    """
    for node in reversed(nodes):
        operation, (first, *_) = node.operation, node.input_tensors
        if len(first.shape) <= len(node.outputs[0].shape) or not _is_learned(first, inputs):
            continue
        mask = _graph.given_mask(node)
        if isinstance(operation, MAXIMA):
            return "max", mask
        if isinstance(operation, RECURRENT) and len(first.shape) == 3:
            return "last", mask
        if type(operation).__name__ == "GetItem" and len(first.shape) == 3:
            return {0: "first", -1: "last"}.get(_step(node), "mean"), None
        return "mean", mask if mask is not None else _multiplied_mask(first, inputs)
    return "mean", None


def _is_learned(tensor, inputs):
    """Returns whether weights have a part in a tensor."""
    nodes = _graph.nodes_between(inputs, [tensor])
    return any(getattr(node.operation, "weights", ()) for node in nodes)


def _multiplied_mask(features, inputs):
    """Returns where the steps count that a model multiplies by 0 or 1 to sum them, or `None`."""
    node = _graph.node_of(features)
    if type(node.operation).__name__ != "Multiply":
        return None
    for factor in node.input_tensors:
        steps = factor.shape[-1] == 1 and factor.shape[1:-1] == features.shape[1:-1]
        if steps and not _is_learned(factor, inputs):
            return keras.ops.not_equal(keras.ops.squeeze(factor, axis=-1), 0)
    return None


def _step(node):
    """Returns the step that `x[:, step]` or `x[:, step, :]` reads, or `None`."""
    key = node.arguments.kwargs.get("key", node.arguments.args[-1])
    if not isinstance(key, tuple) or len(key) not in (2, 3):
        return None
    others = (key[0], *key[2:])
    step = key[1]
    whole = all(part == slice(None) for part in others)
    return step if whole and isinstance(step, int) else None


# ---- places


def _within(at, model):
    """Returns places where names of models inside are those of the layers that answer in them."""
    if not isinstance(at, (list, tuple)):
        return at
    networks = {x.name: x for x in model._flatten_layers() if _graph.is_model(x)}
    return [_last_layer(networks, name) if isinstance(name, str) else name for name in at]


def _last_layer(networks, name):
    while name in networks and len(networks[name].outputs) == 1:
        name = networks[name].outputs[0]._keras_history.operation.name
    return name


def _opened_at(at, inputs, answer):
    """Returns inputs, answer, nodes and places; layers made of others are opened if they must."""
    nodes = _graph.nodes_between(inputs, [answer])
    try:
        return inputs, answer, nodes, _places(at, nodes)
    except ValueError:
        within = _graph.opened(inputs, answer, layers=True)
        found = _graph.nodes_between(within[0], [within[1]])
        names = [node.operation.name for node in found]
        if len(found) == len(nodes) or len(set(names)) < len({id(n.operation) for n in found}):
            raise
        return *within, found, _places(at, found)


def _places(at, nodes):
    """Returns the tensors that early exits read, in the order of the network."""
    if isinstance(at, numbers.Integral) and not isinstance(at, bool):
        at = integer("at", at, 1)
        return _at_shares([(k + 1) / at for k in range(at - 1)], nodes, at)
    listed = list(at) if isinstance(at, (list, tuple, np.ndarray)) and np.ndim(at) else []
    if listed and all(_is_share(place) for place in listed):
        if not all(0 < share < 1 for share in listed) or sorted(set(listed)) != listed:
            raise ValueError(
                "`at` as shares of the cost must be ascending and between 0 and 1. "
                f"Received: at={at}"
            )
        return _at_shares(listed, nodes, at)
    if listed and all(isinstance(place, str) for place in listed):
        return _at_layers(listed, nodes)
    raise ValueError(
        "`at` must be an integer, a list of layer names or a list of shares of the cost between "
        f"0 and 1. Received: at={at}"
    )


def _is_share(place):
    return isinstance(place, numbers.Real) and not isinstance(place, numbers.Integral)


def _at_layers(names, nodes):
    calls = {}
    for number, node in enumerate(nodes):
        calls.setdefault(node.operation.name, []).append(number)
    for name in names:
        if name not in calls:
            raise ValueError(
                "`at` must name layers that the output of `model` needs, or be a number of "
                f"exits. Received: {name!r}; near it: {_near(name, nodes)}"
            )
        if len(calls[name]) > 1 or len(nodes[calls[name][0]].outputs) != 1:
            raise ValueError(
                "`at` must name layers that are called once and give one tensor. "
                f"Received: {name!r}"
            )
    numbers = sorted({calls[name][0] for name in names})
    if len(numbers) != len(names):
        raise ValueError(f"`at` must name every layer once. Received: at={names}")
    if numbers[-1] == len(nodes) - 1:
        raise ValueError(
            "`at` must name layers before the output, which is the last exit by itself. "
            f"Received: {nodes[-1].operation.name!r}"
        )
    places = [nodes[number].outputs[0] for number in numbers]
    for place in places:
        if len(place.shape) < 2:
            raise ValueError(
                "`at` must name layers with features (batch, ..., channels). "
                f"Received: {_graph.node_of(place).operation.name!r} of shape {tuple(place.shape)}"
            )
    return places


def _near(name, nodes):
    """Returns names of layers like the one given, those where a network can be cut first."""
    try:
        cuts = _cuts(nodes)[0]
    except ValueError:  # of a layer whose cost is unknown
        cuts = [node.outputs[0] for node in nodes[:-1]]
    places = [_graph.node_of(tensor).operation.name for tensor in cuts]
    inside = [place for place in places if name in place]
    near = difflib.get_close_matches(name, places, n=4, cutoff=0.4)
    return (inside or near or places)[:4]


def _at_shares(shares, nodes, at):
    if not shares:
        return []
    try:
        cuts, costs = _cuts(nodes)
    except ValueError as error:  # names the layer whose cost is unknown
        raise ValueError(
            "`at` must be names of layers where not every layer's cost is known. "
            f"Received: at={at}. {error}"
        ) from error
    found = [int(np.abs(costs - share).argmin()) if cuts else 0 for share in shares]
    off = [abs(costs[i] - share) for i, share in zip(found, shares, strict=True)] if cuts else []
    if not cuts or len(set(found)) < len(found) or max(off) > FARTHEST:
        places = {
            _graph.node_of(cut).operation.name: round(float(cost), 3)
            for cut, cost in zip(cuts, costs, strict=True)
        }
        raise ValueError(
            "`at` must ask for no more exits than there are places for them, each at most "
            f"{FARTHEST:.0%} of the cost away from a place, or name layers. Received: at={at}; "
            f"places at these shares of the cost: {places}"
        )
    return [cuts[i] for i in found]


def _cuts(nodes):
    """Returns the tensors that alone hold what is read later, and their shares of the cost.

    Of several at the same cost (a convolution, its normalization, its activation) the last
    one counts.
    """
    total, last_read = 0, {}
    for number, node in enumerate(nodes):  # masks go along with what they belong to
        read = [t for t in node.input_tensors if keras.backend.standardize_dtype(t.dtype) != "bool"]
        last_read.update((id(tensor), number) for tensor in read)
    needed, cuts = set(), {}  # inputs of the network are at hand everywhere
    computed = {id(tensor) for node in nodes for tensor in node.outputs}
    for number, (node, cost) in enumerate(zip(nodes, node_costs(nodes), strict=True)):
        total += cost
        needed |= {id(tensor) for tensor in node.outputs}
        needed = {key for key in needed & computed if last_read.get(key, -1) > number}
        alone = len(needed) == 1 and id(node.outputs[0]) in needed
        if alone and total and (total not in cuts or not isinstance(node.operation, PASSING)):
            cuts[total] = node.outputs[0]
    cuts.pop(total, None)
    return list(cuts.values()), np.array(list(cuts), "float64") / max(total, 1)
