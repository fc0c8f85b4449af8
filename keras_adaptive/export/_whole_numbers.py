"""Repairs what the converter makes of whole numbers, indices and one-hot vectors, in int8 files."""

import copy

import numpy as np
from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType

from keras_adaptive.export import _writer

INTEGERS = (TensorType.INT32, TensorType.INT64)
MOVES = (BuiltinOperator.RESHAPE, BuiltinOperator.SQUEEZE, BuiltinOperator.EXPAND_DIMS)


def keep_whole_numbers(model):
    """Lets whole numbers stay what they are.

    Indices that are floats for a while would be rounded to int8 and back, and then down to
    another index. And on and off of a one-hot vector are each quantized in a scale of its own,
    while the runtime copies their integers into the vector as they are.

    Args:
        model: `schema.ModelT`; changed in place.
    """
    for graph in model.subgraphs:
        for operator in list(graph.operators):
            code = _writer.code_of(model, operator)
            kind = graph.tensors[operator.outputs[0]].type if len(operator.outputs) else None
            if code == BuiltinOperator.CAST and kind in INTEGERS:
                _keep_floats(model, graph, operator)
            if code == BuiltinOperator.ONE_HOT and kind == TensorType.INT8:
                _fit_one_hot(model, graph, operator)


def _keep_floats(model, graph, cast):
    """Removes int8 between floats and what makes integers of them, which may only be moved."""
    made_by = {int(number): o for o in graph.operators for number in o.outputs}
    back = made_by.get(int(cast.inputs[0]))
    moves, start = [], back
    while start is not None and (start is back or _writer.code_of(model, start) in MOVES):
        moves.append(start)
        start = made_by.get(int(start.inputs[0]))
    is_round_trip = (
        start is not None
        and _writer.code_of(model, back) == BuiltinOperator.DEQUANTIZE
        and _writer.code_of(model, start) == BuiltinOperator.QUANTIZE
        and graph.tensors[start.inputs[0]].type == TensorType.FLOAT32
    )
    if not is_round_trip:
        return
    number = int(start.inputs[0])
    for move in reversed(moves[1:]):  # beside the others, which may be read elsewhere
        again = copy.copy(move)
        moved = copy.copy(graph.tensors[move.outputs[0]])
        moved.type, moved.quantization = TensorType.FLOAT32, None
        graph.tensors.append(moved)
        again.inputs = [number, *(int(n) for n in move.inputs[1:])]
        again.outputs = [number := len(graph.tensors) - 1]
        graph.operators.insert(graph.operators.index(cast), again)
    cast.inputs = [number]
    for each in (*moves, start):
        read = {int(n) for o in graph.operators for n in o.inputs} | {int(n) for n in graph.outputs}
        if int(each.outputs[0]) not in read:
            graph.operators.remove(each)


def _fit_one_hot(model, graph, operator):
    """Writes on and off in the scale of the vector."""
    inputs, vector = [int(n) for n in operator.inputs], graph.tensors[operator.outputs[0]]
    for place in (2, 3):
        graph.tensors.append(_in_scale_of(vector, graph.tensors[inputs[place]], model))
        inputs[place] = len(graph.tensors) - 1
    operator.inputs = inputs


def _in_scale_of(vector, constant, model):
    scale, zero = (float(getattr(vector.quantization, key)[0]) for key in ("scale", "zeroPoint"))
    own = constant.quantization
    integer = np.frombuffer(bytes(model.buffers[constant.buffer].data), "int8")
    number = (integer - float(own.zeroPoint[0])) * float(own.scale[0])
    made = copy.copy(constant)
    made.quantization = vector.quantization
    integer = np.clip(np.rint(number / scale + zero), -128, 127).astype("int8")
    made.buffer = _writer.add_buffer(model, integer.tobytes())
    return made
