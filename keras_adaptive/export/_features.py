"""Lets the stages of an int8 file exchange int8 features instead of float32 ones."""

import numpy as np
from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType

from keras_adaptive.export import _writer

SAME = 1e-5  # relative difference between two scales that differ by rounding alone
RUNTIME = "1.15.0"  # the first runtime that converts integers from one scale to another


def pass_int8(model, stages):
    """Makes the features that pass between stages int8, a quarter of the bytes of float32.

    The converter makes every input and output of a signature float32. Where the stage that
    computes a feature ends in a `DEQUANTIZE`, and every stage that reads it begins with a
    `QUANTIZE`, the first is removed, and the others are removed as well, or only change the
    scale. All other features stay as they are.

    Args:
        model: `schema.ModelT` with the signatures `stage_<i>`; changed in place.
        stages: As `_graph.minimal_stages` returns them.
    """
    found = [_writer.signature(model, f"stage_{i}") for i in range(len(stages))]
    for i, (_, _, outputs) in enumerate(stages):
        for name in outputs:
            writer = _End(model, found[i].outputs, found[i].subgraphIndex, name, is_output=True)
            readers = [
                _End(model, found[j].inputs, found[j].subgraphIndex, name)
                for j, (_, inputs, _) in enumerate(stages)
                if name in inputs
            ]
            if all(end.operator is not None for end in (writer, *readers)):
                writer.remove_conversion()
                for reader in readers:
                    if _same(writer.quantization, reader.quantization):
                        reader.remove_conversion()
                    else:
                        reader.convert_from(model, writer.quantization)


class _End:
    """One end of a feature: an output of the stage that computes it, or an input of another.

    Attributes:
        operator: The conversion between float32 and int8 there, or `None`.
        integers: Number of the int8 tensor on its other side.
    """

    def __init__(self, model, entries, graph, name, is_output=False):
        self.graph, self.is_output = model.subgraphs[graph], is_output
        self.entry = next(e for e in entries if _writer.text(e.name) == name)
        number = self.entry.tensorIndex
        users = [o for o in self.graph.operators if number in [*o.inputs, *o.outputs]]
        self.operator = self.integers = None
        if len(users) == 1:
            code = _writer.code_of(model, users[0])
            integers = int((users[0].inputs if is_output else users[0].outputs)[0])
            wanted = BuiltinOperator.DEQUANTIZE if is_output else BuiltinOperator.QUANTIZE
            if code == wanted and self.graph.tensors[integers].type == TensorType.INT8:
                self.operator, self.integers = users[0], integers

    @property
    def quantization(self):
        return self.graph.tensors[self.integers].quantization

    def remove_conversion(self):
        """Removes the conversion: the input or output becomes the int8 tensor itself."""
        side = "outputs" if self.is_output else "inputs"
        ends = [int(n) for n in getattr(self.graph, side)]
        ends[ends.index(self.entry.tensorIndex)] = self.integers
        setattr(self.graph, side, ends)
        self.graph.operators.remove(self.operator)
        self.entry.tensorIndex = self.integers

    def convert_from(self, model, quantization):
        """Lets the conversion start from integers of this scale, instead of from float32."""
        tensor = self.graph.tensors[self.entry.tensorIndex]
        tensor.type, tensor.quantization = TensorType.INT8, quantization
        self.operator.opcodeIndex = _writer.operation(model, "QUANTIZE", version=2)
        _writer.raise_minimum_runtime(model, RUNTIME)


def _same(mine, theirs):
    """Returns whether integers of both scales stand for the same numbers."""
    return np.array_equal(mine.zeroPoint, theirs.zeroPoint) and np.allclose(
        mine.scale, theirs.scale, rtol=SAME, atol=0
    )
