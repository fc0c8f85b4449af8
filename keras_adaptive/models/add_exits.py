"""Adds early exits to any functional Keras model."""

import difflib
import numbers

import keras
import numpy as np

from keras_adaptive import _graph
from keras_adaptive._checks import check_choice, integer
from keras_adaptive.costs.exit_costs import node_cost
from keras_adaptive.layers.early_exit import EarlyExit
from keras_adaptive.models.cascade import check_model, is_softmax
from keras_adaptive.training.adaptive_model import AdaptiveModel

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


def add_exits(model, at, *, classes=None, head_channels=None, trainable=True):
    """Adds early exits to a network, beside the output it has.

    Every place in `at` gets an `EarlyExit` that reads the features there; the model's own
    output is the last exit, with the same answer as before. The network is not
    copied: its layers, and so its weights, are shared with `model`. Only a softmax at the
    end is taken off, since exits give logits, and the dense layer it is part of becomes
    one with equal weights. Where the output is features instead (`include_top=False`),
    the last exit is a new `EarlyExit` on them.

    Models inside the model are opened: their layers can be named like others.

    The new heads are not trained yet. `model.fit` trains heads and network together, or the
    heads alone with `trainable=False`. The model comes compiled for training from scratch;
    compile it again with a lower learning rate to refine a trained network.

    Args:
        model: A built `keras.Model`, functional or Sequential, with one input and one
            output, for example of `keras.applications`. Its preprocessing must be part
            of it, as layers.
        at: Where early exits stand: a sequence of layer names, in any order; a sequence
            of numbers between 0 and 1: after about these shares of the whole network's
            multiply-accumulates; an integer: so many exits in all, after about equal
            shares. By shares, exits stand only where one tensor holds all that later
            layers read, for example between two residual blocks.
        classes: Integer, the number of classes. `None`: as many as the model's output has.
        head_channels: Integer, channels of two convolutions in every new head, which need
            features of rank 4. `None`: no convolutions, a dense layer on the mean feature.
        trainable: Boolean, whether the given layers learn. False: they are frozen, batch
            statistics included, here and in `model`.

    Returns:
        A compiled `AdaptiveModel`.

    Raises:
        TypeError, ValueError: If the model is none that can be cut, or there is no such
            place in it.

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
    check_model(model, "model")
    if head_channels is not None:
        head_channels = integer("head_channels", head_channels, 1)
    check_choice((True, False), trainable=trainable)
    inputs, answer = _opened(model)
    nodes = _graph.nodes_between(inputs, [answer])
    classes = _number_of_classes(answer, classes)
    places = _places(at, nodes)
    features = len(answer.shape) > 2
    names = [f"exit_{k}" for k in range(len(places) + features)]
    _check_names(nodes, names)
    if not features:
        answer = _logits(answer)
    if not trainable:
        for node in _graph.nodes_between(inputs, [answer]):
            if isinstance(node.operation, keras.layers.Layer):
                node.operation.trainable = False
    outputs = [
        _head(place, classes, head_channels, name)
        for name, place in zip(names, [*places, answer], strict=False)
    ]
    if not features:
        outputs.append(answer)
    adaptive = AdaptiveModel(inputs, outputs, name=f"adaptive_{model.name}")
    adaptive.compile()
    return adaptive


def _head(features, classes, head_channels, name):
    if head_channels is None:
        return EarlyExit(classes, name=name)(features)
    if len(features.shape) != 4:
        raise ValueError(
            "`head_channels` must be None where features are not (batch, height, width, channels). "
            f"Received: head_channels={head_channels}, features of shape {tuple(features.shape)}"
        )
    return EarlyExit(classes, (head_channels,) * 2, name=name)(features)


def _opened(model):
    """Returns inputs and output of the same layers, those of models inside included."""
    nodes = _graph.nodes_between(model.inputs, model.outputs[-1:])
    if not any(_graph.is_model(node.operation) for node in nodes):
        return model.inputs, model.outputs[-1]
    inputs = [keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name) for t in model.inputs]
    tensors = {id(old): new for old, new in zip(model.inputs, inputs, strict=True)}
    (answer,) = _graph.call_again(nodes, tensors, model.outputs[-1:], opened=True)
    return inputs, answer


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
    if classes is None and len(answer.shape) == 2:
        classes = answer.shape[-1]
    classes = integer("classes", classes, 2)
    if len(answer.shape) < 2:
        raise ValueError(
            "`model` must give logits (batch, classes), or features of rank 3 or more. "
            f"Received: output of shape {tuple(answer.shape)}"
        )
    if len(answer.shape) == 2 and answer.shape[-1] != classes:
        raise ValueError(
            "`classes` must be as many as the output of `model` has. For others, give the model "
            "without its last layers (`include_top=False`): it gets a new last exit. "
            f"Received: classes={classes}, output of shape {tuple(answer.shape)}"
        )
    return classes


def _logits(answer):
    """Returns the logits behind a softmax, or what gives logits already."""
    node = _graph.node_of(answer)
    layer = node.operation
    activation = getattr(layer, "activation", None)
    if not is_softmax(layer):
        if activation not in (None, keras.activations.linear):
            raise ValueError(
                "`model` must end in logits or a softmax. "
                f"Received: layer {layer.name!r} with the activation {activation.__name__!r}"
            )
        return answer
    (before,) = node.input_tensors
    if not layer.weights:
        return before
    bare = type(layer).from_config({**layer.get_config(), "activation": "linear"})
    logits = bare(before)
    bare.set_weights(layer.get_weights())
    return logits


# ---- places


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
    places = [_graph.node_of(tensor).operation.name for tensor in _cuts(nodes)[0]]
    inside = [place for place in places if name in place]
    near = difflib.get_close_matches(name, places, n=4, cutoff=0.4)
    return (inside or near or places)[:4]


def _at_shares(shares, nodes, at):
    cuts, costs = _cuts(nodes)
    found = [int(np.abs(costs - share).argmin()) if len(cuts) else 0 for share in shares]
    if len(set(found)) < len(found) or (shares and not cuts):
        raise ValueError(
            "`at` must ask for no more exits than there are places for them, or name layers. "
            f"Received: at={at}; places at these shares of the cost: {costs.round(3).tolist()}"
        )
    return [cuts[i] for i in found]


def _cuts(nodes):
    """Returns the tensors that alone hold what is read later, and their shares of the cost.

    Of several at the same cost (a convolution, its normalization, its activation) the last
    one counts.
    """
    total, last_read = 0, {}
    for number, node in enumerate(nodes):
        last_read.update((id(tensor), number) for tensor in node.input_tensors)
    needed = {id(tensor) for node in nodes for tensor in node.input_tensors}
    needed -= {id(tensor) for node in nodes for tensor in node.outputs}  # the inputs
    cuts = {}
    for number, node in enumerate(nodes):
        total += node_cost(node, "macs")
        needed |= {id(tensor) for tensor in node.outputs}
        needed = {key for key in needed if last_read.get(key, -1) > number}
        alone = len(needed) == 1 and id(node.outputs[0]) in needed
        if alone and total and (total not in cuts or not isinstance(node.operation, PASSING)):
            cuts[total] = node.outputs[0]
    cuts.pop(total, None)
    return list(cuts.values()), np.array(list(cuts), "float64") / max(total, 1)
