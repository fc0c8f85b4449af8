"""Features of an int8 file pass between its stages as they are, not by way of float32."""

import numpy as np
from ai_edge_litert.schema_py_generated import BuiltinOperator, TensorType

from keras_adaptive.export import _writer

SAME = 1e-5  # relative difference of two scales that are one, but for rounding
RUNTIME = "1.15.0"  # the first that goes from one scale of integers to another


def pass_int8(model, stages):
    """Lets the stages give and take integers, a quarter of the bytes.

    The converter lets every signature give and take float32. Where the stage that gives a
    feature ends in a `DEQUANTIZE`, and every stage that takes it begins with a `QUANTIZE`,
    the first goes, and the others do as well, or only change the scale. What is not so
    stays as it is.

    Args:
        model: `schema.ModelT` with the signatures `stage_<i>`; changed in place.
        stages: As `graph.minimal_stages` gives them.
    """
    found = [_writer.signature(model, f"stage_{i}") for i in range(len(stages))]
    for i, (_, _, gives) in enumerate(stages):
        for name in gives:
            giver = _End(model, found[i].outputs, found[i].subgraphIndex, name, gives=True)
            takers = [
                _End(model, found[j].inputs, found[j].subgraphIndex, name)
                for j, (_, takes, _) in enumerate(stages)
                if name in takes
            ]
            if all(end.operator is not None for end in (giver, *takers)):
                giver.take_out()
                for taker in takers:
                    if _same(giver.quantization, taker.quantization):
                        taker.take_out()
                    else:
                        taker.take_integers(model, giver.quantization)


class _End:
    """Where a feature leaves a stage (`gives`) or comes into one.

    Attributes:
        operator: The conversion there. `None`: there is none, or something else.
        integers: Number of the tensor on its other side.
    """

    def __init__(self, model, entries, graph, name, gives=False):
        self.graph, self.gives = model.subgraphs[graph], gives
        self.entry = next(e for e in entries if _writer.text(e.name) == name)
        number = self.entry.tensorIndex
        users = [o for o in self.graph.operators if number in [*o.inputs, *o.outputs]]
        self.operator = self.integers = None
        if len(users) == 1:
            code = model.operatorCodes[users[0].opcodeIndex].builtinCode
            integers = int((users[0].inputs if gives else users[0].outputs)[0])
            wanted = BuiltinOperator.DEQUANTIZE if gives else BuiltinOperator.QUANTIZE
            if code == wanted and self.graph.tensors[integers].type == TensorType.INT8:
                self.operator, self.integers = users[0], integers

    @property
    def quantization(self):
        return self.graph.tensors[self.integers].quantization

    def take_out(self):
        """Takes out the conversion: the stage's end is the integers themselves."""
        side = "outputs" if self.gives else "inputs"
        ends = [int(n) for n in getattr(self.graph, side)]
        ends[ends.index(self.entry.tensorIndex)] = self.integers
        setattr(self.graph, side, ends)
        self.graph.operators.remove(self.operator)
        self.entry.tensorIndex = self.integers

    def take_integers(self, model, quantization):
        """Lets the conversion begin from integers of this scale."""
        tensor = self.graph.tensors[self.entry.tensorIndex]
        tensor.type, tensor.quantization = TensorType.INT8, quantization
        self.operator.opcodeIndex = _writer.operation(model, "QUANTIZE", version=2)
        _writer.raise_minimum_runtime(model, RUNTIME)


def _same(mine, theirs):
    """Tells whether integers of both scales mean the same numbers."""
    return np.array_equal(mine.zeroPoint, theirs.zeroPoint) and np.allclose(
        mine.scale, theirs.scale, rtol=SAME, atol=0
    )
