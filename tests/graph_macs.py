"""Multiply-accumulates of a network, counted in the graph that TensorFlow runs.

The oracle for `costs`: it knows nothing of layers, but finds products and convolutions among
TensorFlow's own operations, with the shapes that they have there. The body of a loop counts as
often as the loop runs.
"""

import copy
import math
import re

import keras
import numpy as np
import tensorflow as tf
from tensorflow.python.framework.convert_to_constants import (
    convert_variables_to_constants_v2,
)
from tensorflow.python.framework.function_def_to_graph import function_def_to_graph


def graph_macs(inputs, outputs, shapes=None):
    """Returns the MACs of one sample, from symbolic inputs to outputs.

    Args:
        inputs, outputs: Lists of symbolic tensors.
        shapes: Shapes of the inputs without the batch, where sizes are open.
    """
    model = keras.Model(inputs, outputs)
    shapes = shapes or [tensor.shape[1:] for tensor in inputs]
    spec = [
        tf.TensorSpec((1, *shape), tensor.dtype)
        for shape, tensor in zip(shapes, inputs, strict=True)
    ]
    function = tf.function(lambda *x: model(list(x), training=False), autograph=False)
    concrete = function.get_concrete_function(*spec)
    frozen = convert_variables_to_constants_v2(concrete, lower_control_flow=False)
    _run_where_shapes_are_unknown(frozen, spec)
    library = {f.signature.name: f for f in frozen.graph.as_graph_def().library.function}
    return _count(frozen.graph, library)


def _run_where_shapes_are_unknown(frozen, spec):
    """Sets the shapes that are known only when the graph runs: behind what XLA compiles."""
    graph = frozen.graph
    unknown = [
        tensor
        for operation in graph.get_operations()
        for tensor in operation.outputs
        if not tensor.shape.is_fully_defined() and operation.type not in ("While", "StatelessWhile")
        if tensor.dtype.is_floating
    ]
    if not unknown:
        return
    with graph.as_default():
        shapes = [tf.shape(tensor) for tensor in unknown]
    zeros = {
        tensor.name: np.zeros(one.shape, one.dtype.as_numpy_dtype)
        for tensor, one in zip(frozen.inputs, spec, strict=True)
    }
    with tf.compat.v1.Session(graph=graph) as session:
        found = session.run(shapes, zeros)
    for tensor, shape in zip(unknown, found, strict=True):
        tensor.set_shape(shape)


def _count(graph, library):
    total = 0
    for operation in graph.get_operations():
        if operation.type in ("While", "StatelessWhile"):
            body = _body(operation, "body", library)
            total += _trips(operation) * _count(body, library)
        elif operation.type in ("PartitionedCall", "StatefulPartitionedCall"):
            total += _count(_body(operation, "f", library), library)
        elif operation.type in PRODUCTS:
            total += PRODUCTS[operation.type](operation)
        elif re.search("MatMul|Conv|Einsum", operation.type):
            raise AssertionError(f"an operation that is not counted: {operation.type}")
    return total


def _body(operation, name, library):
    """Returns the graph of a function that is called, with the shapes of this call."""
    function = copy.deepcopy(library[operation.get_attr(name).name])
    for i, tensor in enumerate(operation.inputs):
        shapes = function.arg_attr[i].attr["_output_shapes"].list
        del shapes.shape[:]
        shapes.shape.append(tensor.shape.as_proto())
    return function_def_to_graph(function)


def _trips(operation):
    """Returns how often a loop over a sequence runs: the length of the list that it reads."""
    (length,) = {
        int(tensor.op.inputs[0].shape[0])
        for tensor in operation.inputs
        if tensor.op.type == "TensorListFromTensor"
    }
    return length


def _size(tensor):
    return math.prod(tensor.shape.as_list())


def _matmul(operation):
    kernel = operation.inputs[1].shape.as_list()
    rows = operation.outputs[0].shape[0] or 1  # within a loop: one sample's
    return rows * math.prod(kernel)


def _batch_matmul(operation):
    a, transposed = operation.inputs[0], operation.get_attr("adj_x")
    return _size(operation.outputs[0]) * a.shape[-2 if transposed else -1]


def _conv(operation):
    kernel = operation.inputs[1].shape.as_list()
    return _size(operation.outputs[0]) * math.prod(kernel[:-1])


def _depthwise(operation):
    kernel = operation.inputs[1].shape.as_list()
    return _size(operation.outputs[0]) * math.prod(kernel[:2])


def _transposed_conv(operation):
    kernel = operation.inputs[1].shape.as_list()
    gradient = operation.inputs[2]
    return _size(gradient) // gradient.shape[-1] * math.prod(kernel)


def _einsum(operation):
    equation = operation.get_attr("equation").decode()
    left, right = equation.split("->")
    sizes = {}
    for term, tensor in zip(left.split(","), operation.inputs, strict=True):
        shape = tensor.shape.as_list()
        if "..." in term:
            before, after = term.split("...")
            hidden = len(shape) - len(before) - len(after)
            term = before + "".join("0123456789"[:hidden][::-1]) + after
        for index, size in zip(term, shape, strict=True):
            sizes[index] = max(sizes.get(index, 1), size)
    terms = left.split(",")
    lone = {i for i in sizes if i not in right and sum(i in term for term in terms) == 1}
    used = [size for index, size in sizes.items() if index not in lone]
    return math.prod(used) if len(operation.inputs) > 1 else 0


PRODUCTS = {
    "MatMul": _matmul,
    "BatchMatMulV2": _batch_matmul,
    "BatchMatMulV3": _batch_matmul,
    "Conv2D": _conv,
    "Conv3D": _conv,
    "DepthwiseConv2dNative": _depthwise,
    "Conv2DBackpropInput": _transposed_conv,
    "Conv3DBackpropInputV2": _transposed_conv,
    "Einsum": _einsum,
}
