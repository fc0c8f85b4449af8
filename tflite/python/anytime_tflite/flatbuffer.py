"""Reads the metadata of a .tflite file and checks the structure of the rest.

A file that was cut or damaged would crash the interpreter, and the program with it: in a
file that `check` accepts, every offset is inside the file and every number of a tensor,
buffer, operation or subgraph within its list. It follows the public schema of TFLite.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from typing import Any

# bytes a number of each tensor type takes; 0: less than one, or not fixed
_TYPE_BYTES = (4, 2, 4, 1, 8, 0, 1, 2, 8, 1, 8, 16, 8, 0, 0, 4, 2, 0, 2, 0)
_DEPTH = 64  # of subgraphs that call subgraphs


class Damaged(ValueError):
    """The structure of the file is damaged."""


class Table:
    """A flatbuffer table: a record whose fields may be absent."""

    def __init__(self, content: bytes, position: int) -> None:
        self.content, self.position = content, position
        self._fields = position - _read(content, "<i", position)
        if self._fields < 0:
            raise Damaged("an offset points before the file")
        self._size = _read(content, "<H", self._fields)
        if self._size < 4 or self._fields + self._size > len(content):
            raise Damaged("a table is cut")

    def _at(self, field: int) -> int:
        """Returns where a field is, or 0."""
        if 6 + 2 * field > self._size:
            return 0
        offset = _read(self.content, "<H", self._fields + 4 + 2 * field)
        return offset and self.position + offset

    def number(self, field: int, kind: str = "<i", default: int = 0) -> int:
        """Returns a number; `kind` as in `struct`."""
        at = self._at(field)
        return _read(self.content, kind, at) if at else default

    def table(self, field: int) -> "Table | None":
        """Returns a table, or `None`."""
        at = self._at(field)
        return Table(self.content, _follow(self.content, at)) if at else None

    def vector(self, field: int, size: int = 1) -> tuple[int, int]:
        """Returns start and length of a vector of numbers of `size` bytes, or `(0, 0)`."""
        at = self._at(field)
        if not at:
            return 0, 0
        start = _follow(self.content, at)
        length = _read(self.content, "<I", start)
        if start + 4 + size * length > len(self.content):
            raise Damaged("a list is longer than the file")
        return start + 4, length

    def data(self, field: int) -> bytes:
        """Returns the bytes of a vector of bytes, or of a string."""
        start, length = self.vector(field)
        return bytes(self.content[start : start + length])

    def numbers(self, field: int, code: str = "i") -> tuple[Any, ...]:
        """Returns a vector of numbers as a tuple."""
        start, length = self.vector(field, struct.calcsize("<" + code))
        return struct.unpack_from(f"<{length}{code}", self.content, start)

    def tables(self, field: int) -> "list[Table]":
        """Returns a vector of tables as a list."""
        start, length = self.vector(field, 4)
        return [Table(self.content, _follow(self.content, start + 4 * i)) for i in range(length)]


def _read(content: bytes, kind: str, position: int) -> int:
    try:
        number: int = struct.unpack_from(kind, content, position)[0]
    except struct.error as error:
        raise Damaged("an offset points behind the file") from error
    return number


def _follow(content: bytes, position: int) -> int:
    return position + _read(content, "<I", position)


def root(content: bytes) -> Table:
    """Returns the table of the whole model."""
    return Table(content, _follow(content, 0))


def metadata(content: bytes, name: str) -> tuple[int, int] | None:
    """Returns start and length of the metadata of a name, or `None`."""
    model = root(content)
    for entry in model.tables(6):
        if entry.data(0) == name.encode():
            buffers = model.tables(4)
            number = entry.number(1, "<I")
            if number >= len(buffers):
                raise Damaged("metadata is missing")
            return buffers[number].vector(0)
    return None


def check(content: bytes) -> None:
    """Raises `Damaged` if an interpreter could not read the file safely."""
    model = root(content)
    buffers = [buffer.vector(0)[1] for buffer in model.tables(4)]
    for buffer in model.tables(4):
        if buffer.number(1, "<Q") or buffer.number(2, "<Q"):
            raise Damaged("data lies outside the model")
    codes = model.tables(1)
    for code in codes:
        code.data(1)
    subgraphs = model.tables(2)
    if not subgraphs:
        raise Damaged("there is no subgraph")
    tensors: list[list[Table]] = []
    calls: list[list[int]] = []
    silent: set[int] = set()
    for graph in subgraphs:
        tensors.append(graph.tables(0))
        for tensor in tensors[-1]:
            _check_tensor(tensor, buffers)
        called, computed = _check_operators(graph, tensors[-1], buffers, codes, len(subgraphs))
        if not computed:
            silent.add(len(calls))
        calls.append(called)
        graph.data(4)
    _check_calls(calls)
    if not silent <= _passing(calls, subgraphs):
        raise Damaged("nothing computes an output")
    for signature in model.tables(7):
        number = signature.number(4, "<I")
        _within([number], len(subgraphs), "a subgraph")
        if number in silent:
            raise Damaged("nothing computes an output")
        signature.data(2)
        for field in (0, 1):
            for entry in signature.tables(field):
                entry.data(0)
                _within([entry.number(1, "<I")], len(tensors[number]), "a tensor")
    for entry in model.tables(6):
        entry.data(0)
        _within([entry.number(1, "<I")], len(buffers), "a buffer")


def _within(numbers: Iterable[int], length: int, what: str, least: int = 0) -> None:
    if any(not least <= number < length for number in numbers):
        raise Damaged(f"{what} is missing")


def _check_tensor(tensor: Table, buffers: Sequence[int]) -> None:
    shape = tensor.numbers(0)
    kind = tensor.number(1, "<b")
    _within([kind], len(_TYPE_BYTES), "a type of numbers")
    buffer = tensor.number(2, "<I")
    _within([buffer], len(buffers), "a buffer")
    if any(not 0 <= size < 2**28 for size in shape) or math.prod(shape) >= 2**31:
        raise Damaged("a tensor has an impossible shape")
    needed = math.prod(shape) * _TYPE_BYTES[kind]
    if buffer and buffers[buffer] and needed and buffers[buffer] != needed:
        raise Damaged("a constant is not as long as its shape says")
    tensor.data(3)
    tensor.numbers(7)
    if tensor.table(6) is not None:
        raise Damaged("sparse constants are not written by the exporter")
    quantization = tensor.table(4)
    if quantization is None:
        return
    scales, zeros = quantization.numbers(2, "f"), quantization.numbers(3, "q")
    if len(zeros) not in (0, len(scales)) or any(not 0 < s < math.inf for s in scales):
        raise Damaged("a scale is impossible")
    if len(scales) > 1:
        dimension = quantization.number(6)
        _within([dimension], len(shape), "a dimension")
        if len(scales) != shape[dimension]:
            raise Damaged("there is not one scale per channel")


def _check_operators(
    graph: Table,
    tensors: Sequence[Table],
    buffers: Sequence[int],
    codes: Sequence[Table],
    subgraphs: int,
) -> tuple[list[int], bool]:
    """Checks what operations read and write.

    Returns:
        Subgraphs that they call, and whether all outputs are computed.
    """
    inputs, outputs = graph.numbers(1), graph.numbers(2)
    _within([*inputs, *outputs], len(tensors), "a tensor")
    known = set(inputs)
    for i, tensor in enumerate(tensors):
        if buffers[tensor.number(2, "<I")] or 0 in tensor.numbers(0):
            known.add(i)  # a constant
    calls: list[int] = []
    for operator in graph.tables(3):
        _within([operator.number(0, "<I")], len(codes), "an operation")
        reads, writes = operator.numbers(1), operator.numbers(2)
        _within(reads, len(tensors), "a tensor", least=-1)
        _within(writes, len(tensors), "a tensor")
        if -1 in reads[:2]:  # a bias may be missing, an image or weights may not
            raise Damaged("an operation reads what is not there")
        if not set(reads) - {-1} <= known:
            raise Damaged("an operation reads what nothing has computed")
        if set(writes) & known:
            raise Damaged("an operation overwrites a tensor")
        known.update(writes)
        operator.data(5)
        code = codes[operator.number(0, "<I")]
        kind = max(code.number(0, "<b"), code.number(3))
        options = operator.table(4)
        if kind in _OPTIONS:
            calls += _check_options(*_OPTIONS[kind], operator.number(3, "<B"), options)
    _within(calls, subgraphs, "a subgraph")
    return calls, set(outputs) <= known


def _check_options(
    name: str,
    expected: int,
    counts: Iterable[tuple[int, int]],
    found: int,
    options: Table | None,
) -> list[int]:
    """Checks an operation's options; returns the subgraphs they name."""
    if options is None or found != expected:
        raise Damaged(f"{name} has no options of its own")
    if any(not 0 < options.number(field, default=default) < 2**16 for field, default in counts):
        raise Damaged(f"{name} has an impossible option")
    return [options.number(0), options.number(1)] if name == "IF" else []


# operation: name, type of its options, (field, default) of those that must be positive
_OPTIONS: dict[int, tuple[str, int, tuple[tuple[int, int], ...]]] = {
    1: ("AVERAGE_POOL_2D", 5, ((1, 0), (2, 0), (3, 0), (4, 0))),
    3: ("CONV_2D", 1, ((1, 0), (2, 0), (4, 1), (5, 1))),
    4: ("DEPTHWISE_CONV_2D", 2, ((1, 0), (2, 0), (3, 0), (5, 1), (6, 1))),
    17: ("MAX_POOL_2D", 5, ((1, 0), (2, 0), (3, 0), (4, 0))),
    118: ("IF", 92, ()),
}


def _passing(calls: Sequence[Sequence[int]], subgraphs: Sequence[Table]) -> set[int]:
    """Returns the branches that only pass values on: those of a stage that a sample skips.

    What the stage would have given has a place in the caller's memory, where nothing is
    written and nobody reads. So it may only be called where a condition holds.
    """
    yes = {branch for branches in calls for branch in branches[::2]}
    no = {branch for branches in calls for branch in branches[1::2]}
    return {i for i in yes - no if i and not subgraphs[i].tables(3)}


def _check_calls(calls: Sequence[Sequence[int]]) -> None:
    """Raises `Damaged` if a subgraph calls itself."""
    running: list[int] = []

    def visit(graph: int) -> None:
        if graph in running or len(running) > _DEPTH:
            raise Damaged("a subgraph calls itself")
        running.append(graph)
        for called in set(calls[graph]):
            visit(called)
        running.pop()

    for graph in range(len(calls)):
        visit(graph)
