"""Layers as a file needs them while it is made: in float32, and for int8 without loops."""

import contextlib

import keras

from keras_adaptive import _graph
from keras_adaptive.export._inputs import at_size

HALF = ("float16", "bfloat16")
STEPS = 64  # of sequences whose recurrent layers are unrolled, step by step


@contextlib.contextmanager
def set_for_file(model, quantize, input_shape):
    """Sets layers for conversion, and back, also if it is interrupted.

    Layers of mixed precision compute in float32, with the weights that they have. For int8, the
    ranges of all features are measured, which TensorFlow cannot do inside of loops: recurrent
    layers of sequences that are not long are unrolled.

    Args:
        model: `AdaptiveModel`.
        quantize: One of `_conversion.QUANTIZE`.
        input_shape: As in `costs.exit_costs`. `None`: as it is.

    Yields:
        Inputs and outputs of the network so set, lists of symbolic tensors.
    """
    layers = list(model._flatten_layers(include_self=False))
    changes = [(x, "dtype_policy", "float32") for x in layers if x.compute_dtype in HALF]
    fixed = all(None not in tensor.shape[1:] for tensor in model.inputs)
    if changes and input_shape is None and fixed:  # so that the network is drawn anew
        input_shape = [tensor.shape[1:] for tensor in model.inputs]
    if quantize == "int8" and _steps(model) <= STEPS:
        changes += [(x, "unroll", True) for x in layers if isinstance(x, keras.layers.RNN)]
    before = [(layer, name, getattr(layer, name)) for layer, name, _ in changes]
    try:
        for layer, name, value in changes:
            setattr(layer, name, value)
        yield at_size(model.inputs, model.outputs, _graph.in_order(model, input_shape))
    finally:
        for layer, name, value in before:
            setattr(layer, name, value)


def _steps(model):
    """Returns the length of the longest sequence that a recurrent layer reads; 0 without any."""
    kinds = (keras.layers.RNN, keras.layers.Bidirectional)
    nodes = _graph.nodes_between(model.inputs, model.outputs)
    read = [node.input_tensors[0] for node in nodes if isinstance(node.operation, kinds)]
    return max((tensor.shape[1] or STEPS + 1 for tensor in read), default=0)
