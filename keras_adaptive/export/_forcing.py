"""Switches that force gated blocks open during int8 conversion, and are removed afterwards.

The converter measures int8 ranges while it runs the network on calibration images. A block
that none of them opens would stay float32, and its gate could never open: a logit that was
always negative has a range that ends at 0. So, while converting, every stage has one more
input, booleans that open its blocks whatever the gates say; in the file they are the constant
false. The ranges of the gates' logits are made symmetric.
"""

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema

from keras_adaptive import _graph
from keras_adaptive.export import _writer
from keras_adaptive.layers.gated_block import GatedBlock, _SkippingBlock
from keras_adaptive.layers.skip_gate import SkipGate

SWITCHES = "open_blocks"  # the input's name
Op = schema.BuiltinOperator
PASSING = (Op.STRIDED_SLICE, Op.RESHAPE)  # from a probability to the comparison


def with_switches(stages):
    """Returns the stages with switches, and how many each has.

    Args:
        stages: As `_graph.minimal_stages` returns them: for batches, whose switches are
            booleans `(batch, blocks)`; or with gated blocks skipping by `"if"`, for batches
            of one. A stage without gated blocks stays as it is.
    """
    switched, counts = [], []
    for stage, inputs, outputs in stages:
        nodes = _graph.nodes_between(stage.inputs, stage.outputs)
        blocks = [node for node in nodes if _is_gated(node)]
        counts.append(len(blocks))
        if blocks:
            stage, inputs = _switched(stage, nodes, blocks), [*inputs, SWITCHES]
        switched.append((stage, inputs, outputs))
    return switched, counts


def _is_gated(node):
    is_block = isinstance(node.operation, (GatedBlock, _SkippingBlock))
    return is_block and len(node.input_tensors) > 2


def _switched(stage, nodes, blocks):
    inputs = [keras.Input(batch_shape=t.shape, dtype=t.dtype) for t in stage.inputs]
    switches = keras.Input((len(blocks),), dtype="bool", name=SWITCHES)
    tensors = {id(old): new for old, new in zip(stage.inputs, inputs, strict=True)}
    for node in nodes:
        args, kwargs = node.arguments.fill_in(tensors)
        if node in blocks:
            i = blocks.index(node)
            x, instead, gate = args
            if isinstance(node.operation, GatedBlock):
                switch = keras.ops.cast(switches[:, i : i + 1], gate.dtype)
                args = (x, instead, keras.ops.maximum(gate, switch))
            else:
                args = (x, instead, tensors[id(decisive(node.input_tensors[2]))])
                kwargs = {**kwargs, "forced": switches[0, i]}
        outputs = keras.tree.flatten(node.operation(*args, **kwargs))
        tensors.update((id(old), new) for old, new in zip(node.outputs, outputs, strict=True))
    outputs = [tensors[id(t)] for t in stage.outputs]
    return _graph.ListModel([*inputs, switches], outputs, name=stage.name)


def decisive(gate):
    """Returns a gate's probability where the gate's 0 and 1 might lie outside its int8 range.

    A probability is quantized in steps of 1/256, whatever the images.
    """
    node = _graph.node_of(gate)
    source = node.operation
    if isinstance(source, SkipGate) and source.return_probability and source.forced is None:
        return node.outputs[1]
    return gate


def gates_of(stage):
    """Returns the model that computes the gates of a stage's blocks, in the switches' order."""
    nodes = _graph.nodes_between(stage.inputs, stage.outputs)
    return _graph.model_of(stage.inputs, [x.input_tensors[2] for x in nodes if _is_gated(x)])


def without_switches(content):
    """Returns the file with every switch a constant, false, and no longer an input."""
    file = _writer.read(content)
    for signature in file.signatureDefs:
        inputs = {_writer.text(entry.name): entry for entry in signature.inputs}
        entry = inputs.get(SWITCHES)
        if entry is None:
            continue
        subgraph = file.subgraphs[signature.subgraphIndex]
        tensor = subgraph.tensors[entry.tensorIndex]
        off = np.zeros(tensor.shape, bool)
        tensor.buffer = _writer.add_buffer(file, off.tobytes())
        subgraph.inputs = [i for i in subgraph.inputs if i != entry.tensorIndex]
        signature.inputs = [other for other in signature.inputs if other is not entry]
        _widen(file, subgraph)
    return _writer.write(file)


def _widen(file, subgraph):
    """Makes the int8 range of every logit symmetric whose sigmoid is compared with a number."""
    code = {id(op): _writer.code_of(file, op) for op in subgraph.operators}
    readers = {}
    for op in subgraph.operators:
        for i in op.inputs:
            readers.setdefault(int(i), []).append(op)

    def compared(tensor):
        for op in readers.get(int(tensor), ()):
            if code[id(op)] == Op.GREATER:
                return True
            if code[id(op)] in PASSING and compared(op.outputs[0]):
                return True
        return False

    for op in subgraph.operators:
        if code[id(op)] == Op.LOGISTIC and compared(op.outputs[0]):
            logit = subgraph.tensors[op.inputs[0]]
            if logit.type == schema.TensorType.INT8:
                scale, zero = (
                    float(logit.quantization.scale[0]),
                    int(logit.quantization.zeroPoint[0]),
                )
                largest = scale * max(127 - zero, 128 + zero)
                logit.quantization.scale, logit.quantization.zeroPoint = [largest / 127.5], [0]
