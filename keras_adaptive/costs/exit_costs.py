"""The cost of leaving at each exit: multiply-accumulates, energy or parameters.

A network's cost is the sum over the operations that are executed. Composite
layers are opened by calling them symbolically, so a layer needs no code of its
own to be counted, as long as it is made of operations that are.
"""

import functools
import math
import re

import keras
import numpy as np

from keras_adaptive import _graph
from keras_adaptive.costs.energy_model import EnergyModel

UNITS = ("macs", "reference_flops", "params", "energy")  # or an EnergyModel

BLOCK = re.compile(r"block_(\d+)_layer_\d+_scale_\d+")

FREE = (
    keras.layers.InputLayer,
    keras.layers.BatchNormalization,
    keras.layers.LayerNormalization,
    keras.layers.Normalization,
    keras.layers.Rescaling,
    keras.layers.Dropout,
    keras.layers.SpatialDropout2D,
    keras.layers.GaussianNoise,
    keras.layers.Flatten,
    keras.layers.Reshape,
    keras.layers.Permute,
    keras.layers.Identity,
    keras.layers.ZeroPadding1D,
    keras.layers.ZeroPadding2D,
    keras.layers.ZeroPadding3D,
    keras.layers.Cropping2D,
    keras.layers.UpSampling2D,
    keras.layers.Resizing,
    keras.layers.Concatenate,
    keras.layers.Add,
    keras.layers.Subtract,
    keras.layers.Multiply,
    keras.layers.Average,
    keras.layers.Maximum,
)

KERNELS = (
    keras.layers.Conv1D,
    keras.layers.Conv2D,
    keras.layers.Conv3D,
    keras.layers.DepthwiseConv1D,
    keras.layers.DepthwiseConv2D,
)

TRANSPOSED = (
    keras.layers.Conv1DTranspose,
    keras.layers.Conv2DTranspose,
    keras.layers.Conv3DTranspose,
)

SEPARABLE = (keras.layers.SeparableConv1D, keras.layers.SeparableConv2D)

WEIGHTED = (*KERNELS, *TRANSPOSED, *SEPARABLE, keras.layers.Dense)

LEAVES = (*WEIGHTED, keras.layers.LSTMCell)

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


def _size(tensor):
    """Numbers in a symbolic tensor, for one sample."""
    return math.prod(tensor.shape[1:])


def _positions(layer, tensor):
    channels = tensor.shape[1 if layer.data_format == "channels_first" else -1]
    return _size(tensor) // channels


def node_cost(node, unit):
    """Counts one call of one operation, for one sample.

    Args:
        node: A node of a functional graph.
        unit: `"macs"`, `"reference_flops"`, `"energy"` or an `EnergyModel`.

    Raises:
        ValueError: If the operation cannot be counted, named.
    """
    if unit == "energy":
        unit = EnergyModel()
    if isinstance(unit, EnergyModel):
        return _node_energy(node, unit)
    layer = node.operation
    inputs, outputs = node.input_tensors, node.outputs
    everything = unit == "reference_flops"
    if isinstance(layer, FREE):
        return 0
    if isinstance(layer, TRANSPOSED):
        return _positions(layer, inputs[0]) * math.prod(layer.kernel.shape)
    if isinstance(layer, SEPARABLE):
        kernels = sum(math.prod(k.shape) for k in (layer.depthwise_kernel, layer.pointwise_kernel))
        return _positions(layer, outputs[0]) * kernels
    if isinstance(layer, KERNELS):
        return _positions(layer, outputs[0]) * math.prod(layer.kernel.shape)
    if isinstance(layer, keras.layers.LSTMCell):
        return math.prod(layer.kernel.shape) + math.prod(layer.recurrent_kernel.shape)
    if isinstance(layer, keras.layers.Dense):
        rows = _size(outputs[0]) // layer.units
        bias = layer.units if everything and layer.use_bias else 0
        return rows * (math.prod(layer.kernel.shape) + bias)
    if isinstance(layer, ACTIVATIONS):
        return _size(outputs[0]) if everything else 0
    if isinstance(layer, POOLS):
        return _size(outputs[0]) * math.prod(layer.pool_size) if everything else 0
    if isinstance(layer, GLOBAL_POOLS) or type(layer).__name__ == "Mean":
        return _size(inputs[0]) if everything else 0
    if isinstance(layer, keras.Model) and hasattr(layer, "operations"):
        return _model_cost(layer, inputs, unit)
    if isinstance(layer, keras.layers.Layer) and list(layer._flatten_layers(include_self=False)):
        return _opened_cost(node, unit)
    if isinstance(layer, keras.layers.Layer) and layer.weights:
        raise ValueError(
            "Every layer with weights must be one whose cost is known, or be made of such. "
            f"Received: layer {layer.name!r} of type {type(layer).__name__}"
        )
    if type(layer).__name__ in ("Matmul", "Einsum", "Dot", "Tensordot", "Conv"):
        raise ValueError(
            "A product must be computed by a layer for its cost to be counted. "
            f"Received: operation {layer.name!r} of type {type(layer).__name__}"
        )
    return 0  # element by element, or moving data


def _model_cost(model, inputs, unit):
    """The cost of a functional model, at the size of these inputs."""
    nodes = _graph.nodes_between(model.inputs, model.outputs)
    if [t.shape[1:] for t in model.inputs] != [t.shape[1:] for t in inputs]:
        starts = [keras.Input(batch_shape=t.shape, dtype=t.dtype) for t in inputs]
        places = {id(old): new for old, new in zip(model.inputs, starts, strict=True)}
        ends = _graph.call_again(nodes, places, model.outputs)
        nodes = _graph.nodes_between(starts, ends)
    return sum(node_cost(inner, unit) for inner in nodes)


def _node_energy(node, model):
    """The energy of one call: that of its layers with weights, wherever they are inside."""
    layer = node.operation
    if isinstance(layer, keras.Model) and hasattr(layer, "operations"):
        return _model_cost(layer, node.input_tensors, model)
    composite = isinstance(layer, keras.layers.Layer) and not isinstance(layer, LEAVES)
    if composite and list(layer._flatten_layers(include_self=False)):
        return _opened_cost(node, model)
    macs = node_cost(node, "macs")
    if not macs:
        return 0.0
    numbers = sum(_size(tensor) for tensor in (*node.input_tensors, *node.outputs))
    weights = sum(math.prod(weight.shape) for weight in layer.weights)
    return model.energy(macs, numbers + weights)


def _opened_cost(node, unit):
    """The cost of a composite layer: that of what its `call` does."""
    arguments = {}

    def placeholder(tensor):
        arguments.setdefault(id(tensor), keras.Input(batch_shape=tensor.shape, dtype=tensor.dtype))
        return arguments[id(tensor)]

    replaced = {id(t): placeholder(t) for t in node.input_tensors}
    args, kwargs = node.arguments.fill_in(replaced)
    kwargs = {k: v for k, v in kwargs.items() if v is not None and k != "training"}
    outputs = keras.tree.flatten(node.operation.call(*args, **kwargs))
    nodes = _graph.nodes_between(list(replaced.values()), outputs)
    return sum(node_cost(inner, unit) for inner in nodes)


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


def exit_costs(inputs, exits, unit="macs", lazy=True):
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

    Returns:
        Float array `(exits,)`, for one sample; of a network with gates, with all of them
        open: the most that a sample can cost.

    Raises:
        ValueError: If the unit is unknown or an operation cannot be counted.
    """
    if not isinstance(unit, EnergyModel) and unit not in UNITS:
        raise ValueError(f"`unit` must be one of {UNITS}, or an EnergyModel. Received: unit={unit}")
    stages = _graph.split(inputs, exits)
    groups = [s.nodes for s in stages] if lazy else _stages_with_whole_blocks(stages)
    if unit == "params":
        count = functools.partial(_params, seen=set())
    else:

        def count(nodes):
            return sum(node_cost(node, unit) for node in nodes)

    return np.cumsum([count(nodes) for nodes in groups]).astype("float64")
