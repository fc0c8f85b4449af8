"""The cost of leaving at each exit: multiply-accumulates, energy or parameters.

A network's cost is the sum over the operations that are executed. Composite
layers are opened by calling them symbolically, so a layer needs no code of its
own to be counted, as long as it is made of operations that are.
"""

import functools
import inspect
import math
import re
from typing import NamedTuple

import keras
import numpy as np

from keras_adaptive import _graph
from keras_adaptive._checks import did_you_mean, finite, integer
from keras_adaptive.costs._formulas import FREE, LAYERS, OPERATIONS, UNKNOWN
from keras_adaptive.costs._tracing import tracing
from keras_adaptive.costs.energy_model import EnergyModel

WORK = ("macs", "reference_flops", "energy")  # units that operations are counted in
UNITS = (*WORK, "params")

SIZES = (224, 64, 32, 8)  # tried in the place of open ones, where shares of the cost are asked

BLOCK = re.compile(r"block_(\d+)_layer_\d+_scale_\d+")

POOLS = (
    keras.layers.MaxPooling1D,
    keras.layers.MaxPooling2D,
    keras.layers.MaxPooling3D,
    keras.layers.AveragePooling1D,
    keras.layers.AveragePooling2D,
    keras.layers.AveragePooling3D,
)

GLOBAL_POOLS = (
    keras.layers.GlobalAveragePooling1D,
    keras.layers.GlobalAveragePooling2D,
    keras.layers.GlobalAveragePooling3D,
    keras.layers.GlobalMaxPooling1D,
    keras.layers.GlobalMaxPooling2D,
    keras.layers.GlobalMaxPooling3D,
)

ACTIVATIONS = (
    keras.layers.ReLU,
    keras.layers.LeakyReLU,
    keras.layers.PReLU,
    keras.layers.ELU,
    keras.layers.Activation,
    keras.layers.Softmax,
)


def register(layer_class, macs):
    """Says what a layer costs that cannot be opened.

    The cost of a layer is asked here first, then built-in layers are counted by formula, then
    the `call` of others is opened: what is written in `keras.ops` and layers needs no
    registration. A second registration replaces the first; subclasses inherit it.

    Args:
        layer_class: Class, a subclass of `keras.layers.Layer`.
        macs: Function `(layer, input_shape, output_shape)` to the multiply-accumulates for one
            sample. Shapes are tuples, with `None` for the batch; lists of them where the layer
            has several inputs or outputs.

    Raises:
        TypeError: If `layer_class` is no layer's class, or `macs` no function.

    Example:

    >>> class Correlation(keras.layers.Layer):
    ...     pass
    >>> register(Correlation, lambda layer, input_shape, output_shape: 9 * output_shape[-1])
    """
    if not (isinstance(layer_class, type) and issubclass(layer_class, keras.layers.Layer)):
        raise TypeError(
            "`layer_class` must be a subclass of keras.layers.Layer. "
            f"Received: layer_class={layer_class!r}"
        )
    if not callable(macs):
        raise TypeError(
            "`macs` must be a function (layer, input_shape, output_shape) -> number. "
            f"Received: macs={macs!r}"
        )
    _REGISTERED[layer_class] = macs


_REGISTERED = {}


class _Call(NamedTuple):
    """One call of one operation; shapes are those of one sample, with a batch of 1."""

    operation: object
    arguments: object  # Keras's `SymbolicArguments`
    inputs: list  # shapes of all tensors and variables that it was called with
    outputs: list  # shapes


def _shape(tensor):
    """Returns the shape of a tensor for one sample: the batch, if it is open, is 1."""
    shape = tuple(tensor.shape)
    shape = (1, *shape[1:]) if shape and shape[0] is None else shape
    if None in shape:
        raise ValueError(
            "`input_shape` must be given where the network's inputs have open sizes: "
            "`exit_costs(input_shape=(224, 224, 3))`. Received: a tensor of shape "
            f"{tuple(tensor.shape)}"
        )
    return shape


def _has_several(tensor):
    """Returns whether a tensor is fixed to batches of several samples."""
    return _graph.has_batch(tensor) and tensor.shape[0] > 1


def _call_of(node):
    values = keras.tree.flatten((node.arguments.args, node.arguments.kwargs))
    read = [value for value in values if hasattr(value, "shape") and hasattr(value, "dtype")]
    return _Call(
        node.operation,
        node.arguments,
        [_shape(tensor) for tensor in read],
        [_shape(tensor) for tensor in node.outputs],
    )


def check_unit(unit, units=WORK):
    """Checks that a unit of cost is one of these, or an `EnergyModel`."""
    if not isinstance(unit, EnergyModel) and not (isinstance(unit, str) and unit in units):
        raise ValueError(
            f"`unit` must be one of {units}, or an EnergyModel. "
            f"Received: unit={unit}{did_you_mean(unit, units)}"
        )


def node_cost(node, unit):
    """Counts one call of one operation, for one sample.

    Args:
        node: A node of a functional graph.
        unit: `"macs"`, `"reference_flops"`, `"energy"` or an `EnergyModel`.

    Raises:
        ValueError: If the unit is none of these, or the operation cannot be counted, named.
    """
    check_unit(unit)
    operation, unit = node.operation, EnergyModel() if unit == "energy" else unit
    if isinstance(unit, EnergyModel) and unit.counts:
        counted = unit.energy_counted(operation.name)
        if counted is not None:
            return counted
    if _registered(operation) is None:
        if _is_free(operation):
            return 0
        if _graph.is_model(operation) or isinstance(operation, keras.Function):
            return _graph_cost(operation, node, unit)
    call = _call_of(node)
    steps = _steps(call, unit)
    if steps is not None:
        return steps
    macs = _macs(call)
    if macs is None:
        return _opened_cost(call, unit)
    if isinstance(unit, EnergyModel):
        weights = sum(math.prod(weight.shape) for weight in getattr(operation, "weights", ()))
        numbers = sum(map(math.prod, (*call.inputs, *call.outputs)))
        return unit.energy(macs, numbers + weights) if macs else 0.0
    return macs + (_reference_extra(call) if unit == "reference_flops" else 0)


def _macs(call):
    """Returns what is known without opening the operation; `None`: it must be opened."""
    operation = call.operation
    registered = _registered(operation)
    if registered is not None:
        return _as_registered(registered, call)
    if isinstance(operation, keras.layers.Layer):
        if type(operation).call is keras.layers.MultiHeadAttention.call:
            return _multi_head_attention(call)
        formula = _formula(operation)
        if formula is not None:
            return formula(operation, call.inputs, call.outputs)
        return 0 if isinstance(operation, (*ACTIVATIONS, *POOLS, *GLOBAL_POOLS)) else None
    name = type(operation).__name__
    if not type(operation).__module__.startswith("keras."):
        return None
    if name in UNKNOWN:
        raise _refusal(operation)
    return OPERATIONS[name](operation, call.inputs, call.outputs) if name in OPERATIONS else 0


def _registered(operation):
    """Returns the function that was registered for a layer, or `None`."""
    classes = type(operation).__mro__ if _REGISTERED else ()
    return next((_REGISTERED[each] for each in classes if each in _REGISTERED), None)


def _as_registered(macs, call):
    def public(shapes):
        shapes = [(None, *shape[1:]) for shape in shapes]
        return shapes[0] if len(shapes) == 1 else shapes

    layer = call.operation
    given = macs(layer, public(call.inputs), public(call.outputs))
    try:
        count = finite(given, "macs")
    except ValueError:
        count = -1
    if count < 0:
        raise ValueError(
            "The function registered for a layer must return a number of at least 0. "
            f"Received: {given!r} for layer {layer.name!r} of type {type(layer).__name__}"
        )
    return count


def _formula(layer):
    """Returns the formula of a layer that computes as a built-in one, or `None`."""
    known = next((each for each in type(layer).__mro__ if each in LAYERS), None)
    return LAYERS[known] if known and type(layer).call is known.call else None


def _multi_head_attention(call):
    """Returns the MACs of attention over sequences; `None` for tensors of more axes.

    Queries, keys and values are mapped to heads, each query is multiplied with each key, and
    weights with values; then the heads are mapped to the output.
    """
    layer, arguments = call.operation, call.arguments
    given = inspect.signature(layer.call).bind(*arguments.args, **arguments.kwargs).arguments
    query, value = (_shape(given[name]) for name in ("query", "value"))
    key = value if given.get("key") is None else _shape(given["key"])
    if not len(query) == len(value) == len(key) == 3:
        return None
    heads, key_dim = layer.num_heads, layer.key_dim
    value_dim = layer.value_dim
    asked, known = query[0] * query[1], value[0] * value[1]
    maps = asked * query[2] * key_dim + known * (key[2] * key_dim + value[2] * value_dim)
    products = asked * value[1] * (key_dim + value_dim)
    output = asked * value_dim * math.prod(call.outputs[0][2:])
    return heads * (maps + products + output)


def _is_free(operation):
    """Returns whether a layer computes as a built-in one without products, or is our own."""
    kind = type(operation)
    known = next((each for each in kind.__mro__ if each in FREE), None)
    own = kind.__module__.startswith("keras_adaptive.")
    return known is not None and (own or kind.call is known.call)


def _reference_extra(call):
    """Returns what the reference counts beside MACs."""
    layer = call.operation
    if isinstance(layer, keras.layers.Dense):
        return math.prod(call.outputs[0]) if layer.use_bias else 0
    if isinstance(layer, ACTIVATIONS):
        return math.prod(call.outputs[0])
    if isinstance(layer, POOLS):
        return math.prod(call.outputs[0]) * math.prod(layer.pool_size)
    if isinstance(layer, GLOBAL_POOLS) or type(layer).__name__ == "Mean":
        return math.prod(call.inputs[0])
    return 0


def _steps(call, unit):
    """Returns the cost of a layer that computes step by step; `None` for other layers."""
    layer = call.operation
    if _registered(layer) is not None:
        return None
    if isinstance(layer, keras.layers.Bidirectional):
        steps = keras.Input(batch_shape=call.inputs[0])
        with tracing():
            both = [layer.forward_layer(steps), layer.backward_layer(steps)]
        nodes = _graph.nodes_between([steps], keras.tree.flatten(both))
        return sum(node_cost(node, unit) for node in nodes)
    if not isinstance(layer, (keras.layers.RNN, keras.layers.TimeDistributed)):
        return None
    batch, steps, *shape = call.inputs[0]
    step = keras.Input(batch_shape=(batch, *shape))
    with tracing():
        if isinstance(layer, keras.layers.TimeDistributed):
            outputs = layer.layer(step)
        else:
            zeros = layer.get_initial_state(batch_size=batch)
            states = keras.tree.map_structure(
                lambda state: keras.Input(batch_shape=tuple(state.shape)), zeros
            )
            outputs = layer.cell(step, states)[0]
            step = [step, *keras.tree.flatten(states)]
        nodes = _graph.nodes_between(keras.tree.flatten(step), keras.tree.flatten(outputs))
    return steps * sum(node_cost(node, unit) for node in nodes)


def _graph_cost(model, node, unit):
    """The cost of a functional model, at the size of its inputs here."""
    inputs = keras.tree.flatten(model.inputs)
    outputs = keras.tree.flatten(model.outputs)
    nodes = _graph.nodes_between(inputs, outputs)
    others = [t.shape[1:] for t in inputs] != [t.shape[1:] for t in node.input_tensors]
    if others or any(map(_has_several, inputs)):
        nodes = _graph.nodes_between(
            *_at_sizes(inputs, outputs, [_shape(t) for t in node.input_tensors])
        )
    return sum(node_cost(inner, unit) for inner in nodes)


def _opened_cost(call, unit):
    """The cost of a layer made of others and of keras.ops: that of what its `call` does."""
    placed, layer = {}, call.operation

    def place(value):
        if not isinstance(value, keras.KerasTensor):
            return value
        if id(value) not in placed:
            placed[id(value)] = keras.Input(batch_shape=_shape(value), dtype=value.dtype)
        return placed[id(value)]

    args, kwargs = call.arguments.convert(place)
    kwargs = {k: v for k, v in kwargs.items() if v is not None and k != "training"}
    try:
        with tracing():
            found = layer.call(*args, **kwargs)
        outputs = [t for t in keras.tree.flatten(found) if isinstance(t, keras.KerasTensor)]
        nodes = _graph.nodes_between(list(placed.values()), outputs)
    except Exception as error:  # whatever the call of somebody's layer raises
        raise _refusal(layer, f" ({type(error).__name__}: {_short(error)})") from error
    return sum(node_cost(inner, unit) for inner in nodes)


def _short(error):
    lines = str(error).strip().splitlines() or [""]
    return lines[0][:200]


def _refusal(operation, why=""):
    """Returns the error for what cannot be counted, with the line to write."""
    kind = type(operation).__name__
    if isinstance(operation, keras.layers.Layer):
        return ValueError(
            f"The cost of layer {operation.name!r} of type {kind} is not known: its `call` must "
            "be written in keras.ops and layers to be counted. Say what it costs: "
            f"`ka.costs.register({kind}, lambda layer, input_shape, output_shape: macs)`. "
            f"Received: layer {operation.name!r} of type {kind}{why}"
        )
    return ValueError(
        "A computation must be a product, a convolution or element by element for its cost to "
        "be counted; put others into a layer and say what it costs: `ka.costs.register(MyLayer, "
        "lambda layer, input_shape, output_shape: macs)`. Received: operation "
        f"{operation.name!r} of type {kind}"
    )


def _params(nodes, seen):
    """Trainable numbers of the nodes' layers, each layer counted once."""
    total = 0
    for node in nodes:
        for variable in getattr(node.operation, "weights", ()):
            statistic = variable.name.startswith("moving_")
            if id(variable) not in seen and not statistic and "seed" not in variable.name:
                seen.add(id(variable))
                total += math.prod(variable.shape)
    return total


def _stages_with_whole_blocks(stages):
    """Moves nodes to where a program without lazy evaluation computes them.

    Such a program computes every scale of a block before the block's exit. Layers
    called `block_<i>_layer_<j>_scale_<k>...` belong to block `i`, whoever needs them.
    """
    eager = [[] for _ in stages]
    for i, stage in enumerate(stages):
        for node in stage.nodes:
            block = BLOCK.match(node.operation.name)
            eager[min(i, int(block.group(1))) if block else i].append(node)
    return eager


def sized(inputs, exits, input_shape=None):
    """Returns inputs and exits of the network at a given size of its inputs.

    Args:
        inputs, exits: Lists of symbolic tensors.
        input_shape: As in `exit_costs`; `None`: as it is.

    Raises:
        ValueError: If the shape does not fit the inputs, or sizes are open and none is given.
    """
    if input_shape is None:
        shapes = [(1, *_shape(tensor)[1:]) for tensor in inputs]
    else:
        shapes = [(1, *shape) for shape in input_shapes(inputs, input_shape)]
    inner = [t for node in _graph.nodes_between(inputs, exits) for t in node.outputs]
    several = any(map(_has_several, inputs))  # costs are those of one sample
    if not several and not any(None in tensor.shape[1:] for tensor in (*inputs, *inner)):
        return inputs, exits
    return _at_sizes(inputs, exits, shapes)


def _at_sizes(inputs, outputs, shapes):
    """Returns inputs of these shapes, and what the outputs become with them."""
    starts = [
        keras.Input(batch_shape=shape, dtype=tensor.dtype, name=tensor.name)
        for shape, tensor in zip(shapes, inputs, strict=True)
    ]
    places = {id(old): new for old, new in zip(inputs, starts, strict=True)}
    nodes = _graph.nodes_between(inputs, outputs)
    with tracing():
        return starts, _graph.call_again(nodes, places, outputs)


def node_costs(nodes):
    """Returns the multiply-accumulates of some nodes, each after all it reads.

    Where sizes are open they are those of a usual size: 224 of an image's sides, or of a
    sequence's steps, less where the network takes less.

    Raises:
        ValueError: As `node_cost`.
    """
    tensors = [tensor for node in nodes for tensor in node.outputs]
    computed = {id(tensor) for tensor in tensors}
    read = {id(t): t for node in nodes for t in _graph.reads(node) if id(t) not in computed}
    inputs = list(read.values())
    if any(None in tensor.shape[1:] for tensor in (*inputs, *tensors)):
        for size in SIZES:
            shapes = [(1, *(n or size for n in tensor.shape[1:])) for tensor in inputs]
            try:
                _, again = _at_sizes(inputs, tensors, shapes)
                return [node_cost(node, "macs") for node in _makers(tensors, again)]
            except Exception:  # whatever a network raises for a size that it cannot take
                continue
    return [node_cost(node, "macs") for node in nodes]


def _makers(tensors, again):
    """Returns the nodes of tensors that nodes became, one for each node."""
    found = {}
    for old, new in zip(tensors, again, strict=True):
        found.setdefault(id(_graph.node_of(old)), _graph.node_of(new))
    return list(found.values())


def input_shapes(inputs, given):
    """Returns one shape per input, checked against the network."""
    names = [tensor.name for tensor in inputs]
    by_name = isinstance(given, dict) and set(given) == set(names)
    try:
        shapes = [given[name] for name in names] if by_name else [*given]
        several = len(inputs) > 1 or any(isinstance(size, (list, tuple)) for size in shapes)
        shapes = shapes if several else [shapes]
        shapes = [tuple(integer("input_shape", n, 1) for n in shape) for shape in shapes]
    except (TypeError, ValueError):
        shapes = []
    fits = len(shapes) == len(inputs) and all(
        len(shape) == len(tensor.shape) - 1
        and all(old in (None, new) for old, new in zip(tensor.shape[1:], shape, strict=True))
        for shape, tensor in zip(shapes, inputs, strict=False)
    )
    if not fits:
        open_shapes = {name: t.shape[1:] for name, t in zip(names, inputs, strict=True)}
        raise ValueError(
            "`input_shape` must hold a size for every axis of the inputs but the batch, as they "
            f"are: {open_shapes}. Received: input_shape={given}"
        )
    return shapes


def exit_costs(inputs, exits, unit="macs", lazy=True, input_shape=None):
    """Returns the cost of leaving at each exit, earlier heads included.

    Args:
        inputs: List of the network's symbolic inputs.
        exits: List of the symbolic logits, first exit first.
        unit: `"macs"`: multiply-accumulates of convolutions and dense layers.
            `"reference_flops"`: as the public MSDNet implementation counts: MACs,
            plus one per ReLU element, plus the pooling window per pooled element,
            plus the biases of dense layers. `"params"`: parameters, without
            batch statistics. `"energy"`, or an `EnergyModel`: see there.
        lazy: Boolean. True: only what this exit or an earlier one needs.
            False: blocks are computed whole, every scale, needed yet or not.
        input_shape: Tuple of integers, the shape of one input, without the batch; needed where
            sizes are open, as in `Input((None, None, 3))`. With several inputs a list of
            them, or a dictionary by the inputs' names.

    What is counted: convolutions, dense layers, products of `keras.ops` (attention among them),
    recurrent layers step by step, at every place where they are called, biases not. Lookups
    (`Embedding`), normalizations and what works element by element count 0. Own layers that
    are written in `keras.ops` are opened; others need `register`.

    Returns:
        Float array `(exits,)`, for one sample; of a network with gates, with all of them
        open: the most that a sample can cost.

    Raises:
        ValueError: If the unit is unknown or an operation cannot be counted.
    """
    check_unit(unit, UNITS)
    inputs, exits = sized(inputs, exits, input_shape)
    stages = _graph.split(inputs, exits)
    groups = [s.nodes for s in stages] if lazy else _stages_with_whole_blocks(stages)
    if unit == "params":
        count = functools.partial(_params, seen=set())
    else:

        def count(nodes):
            return sum(node_cost(node, unit) for node in nodes)

    return np.cumsum([count(nodes) for nodes in groups]).astype("float64")
