"""Reads the metadata of a .tflite file and checks the structure of the rest.

A file that was cut, damaged or forged would crash the interpreter, and the program with it: in a
file that `check` accepts, every offset is inside the file, every number of a tensor, buffer,
operation or subgraph within its list, and every operation as the exporter writes it. The check's
own work is bounded, whatever the file says. It follows the public schema of TFLite.
"""

import math
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import Any

from anytime_tflite import operations
from anytime_tflite.operations import IF, WHILE, Operation, Tensor, Unlike, needs

# by the number of a type: its letter, see `operations.Tensor`, and its bytes
_TYPES = {
    0: ("f", 4),
    1: ("h", 2),
    2: ("i", 4),
    3: ("u", 1),
    4: ("l", 8),
    6: ("b", 1),
    7: ("w", 2),
    9: ("c", 1),
}
# what is more than this was not written by the exporter
_WORK = 200_000  # tables and, per 64, numbers that the check reads
_OPERATIONS = 20_000
_EXPANDED = 200_000  # operations, counted once per path of calls that leads to them
_SUBGRAPHS = 5_000
_KINDS = 1_000  # of operations, versions counted
_SIGNATURES = 1_100
_METADATA = 100
_DEPTH = 64  # of subgraphs that call subgraphs
_INPUT = 2**24  # numbers of an input of the network
_LONGEST = 2**16  # steps of a loop
_MOST_WORK = 2**39  # multiplications of a signature
_MOST_BYTES = 2**32  # of what a device must hold at once
_NAME = 1000  # letters of a signature's name, or of its inputs and outputs


class Damaged(ValueError):
    """The structure of the file is damaged."""


class _File:
    """The bytes of a file, and how much work reading it may still cost."""

    def __init__(self, content: bytes) -> None:
        self.content, self.left = content, _WORK

    def spend(self, work: int) -> None:
        self.left -= work
        if self.left < 0:
            raise Damaged("it has more parts than the exporter ever writes")

    def read(self, kind: str, position: int) -> int:
        try:
            number: int = struct.unpack_from(kind, self.content, position)[0]
        except struct.error as error:
            raise Damaged("an offset points behind the file") from error
        return number

    def follow(self, position: int) -> int:
        return position + self.read("<I", position)


class Table:
    """A flatbuffer table: a record whose fields may be absent."""

    def __init__(self, file: _File, position: int) -> None:
        file.spend(1)
        self.file, self.position = file, position
        self._fields = position - file.read("<i", position)
        if self._fields < 0:
            raise Damaged("an offset points before the file")
        self._size = file.read("<H", self._fields)
        if self._size < 4 or self._fields + self._size > len(file.content):
            raise Damaged("a table is cut")

    def _at(self, field: int) -> int:
        """Returns where a field is, or 0."""
        if 6 + 2 * field > self._size:
            return 0
        offset = self.file.read("<H", self._fields + 4 + 2 * field)
        return offset and self.position + offset

    def number(self, field: int, kind: str = "<i", default: int = 0) -> int:
        """Returns a number; `kind` as in `struct`."""
        at = self._at(field)
        return self.file.read(kind, at) if at else default

    def table(self, field: int) -> "Table | None":
        """Returns a table, or `None`."""
        at = self._at(field)
        return Table(self.file, self.file.follow(at)) if at else None

    def vector(self, field: int, size: int = 1) -> tuple[int, int]:
        """Returns start and length of a vector of numbers of `size` bytes, or `(0, 0)`."""
        at = self._at(field)
        if not at:
            return 0, 0
        start = self.file.follow(at)
        length = self.file.read("<I", start)
        if start + 4 + size * length > len(self.file.content):
            raise Damaged("a list is longer than the file")
        return start + 4, length

    def text(self, field: int) -> bytes:
        """Returns the bytes of a string."""
        start, length = self.vector(field)
        if length > _NAME:
            raise Damaged("a name is too long")
        return bytes(self.file.content[start : start + length])

    def numbers(self, field: int, code: str = "i") -> tuple[Any, ...]:
        """Returns a vector of numbers as a tuple."""
        start, length = self.vector(field, struct.calcsize("<" + code))
        self.file.spend(length // 64)
        return struct.unpack_from(f"<{length}{code}", self.file.content, start)

    def tables(self, field: int, most: int = _WORK) -> "list[Table]":
        """Returns a vector of at most so many tables as a list."""
        start, length = self.vector(field, 4)
        if length > min(most, self.file.left):
            raise Damaged("it has more parts than the exporter ever writes")
        return [Table(self.file, self.file.follow(start + 4 * i)) for i in range(length)]

    def refuse(self, fields: Iterable[int], what: str) -> None:
        """Raises `Damaged` if one of some vectors, which the exporter leaves out, has a length."""
        if any(self.vector(field)[1] for field in fields):
            raise Damaged(f"{what} is not written by the exporter")


def root(content: bytes) -> Table:
    """Returns the table of the whole model."""
    file = _File(content)
    return Table(file, file.follow(0))


def metadata(content: bytes, name: str) -> tuple[int, int] | None:
    """Returns start and length of the metadata of a name, or `None`."""
    model = root(content)
    wanted = name.encode()
    for entry in model.tables(6, _METADATA):
        if entry.vector(0)[1] == len(wanted) and entry.text(0) == wanted:
            buffers = model.tables(4)
            number = entry.number(1, "<I")
            _within([number], len(buffers), "metadata")
            return buffers[number].vector(0)
    return None


@dataclass
class _Call:
    """An operation of a subgraph; `calls` are the subgraphs that it runs."""

    kind: int
    reads: tuple[int, ...]
    writes: tuple[int, ...]
    options: Table | None
    calls: tuple[int, ...]


@dataclass
class _Graph:
    """A subgraph.

    Attributes:
        silent: Whether nothing computes one of its outputs.
        counters: Dictionary, in the body of a loop: place of an input that counts its steps to
            the least and greatest number it has.
        work, bytes: Integers, what running it once takes.
    """

    tensors: list[Tensor]
    inputs: tuple[int, ...]
    outputs: tuple[int, ...]
    operations: list[_Call]
    silent: bool = False
    counters: dict[int, tuple[int, int]] | None = None
    work: int = 0
    bytes: int = 0
    repeats: dict[int, int] = field(default_factory=dict)


def check(content: bytes) -> dict[str, tuple[dict[str, Tensor], dict[str, Tensor]]]:
    """Returns the inputs and outputs of every signature, by name.

    Raises:
        Damaged: If an interpreter could not read the file safely.
    """
    model = root(content)
    model.refuse((8, 9), "data in other files")
    buffers = [_buffer(table) for table in model.tables(4)]
    codes = [_kind(table) for table in model.tables(1, _KINDS)]
    tables = model.tables(2, _SUBGRAPHS)
    if not tables:
        raise Damaged("there is no subgraph")
    graphs: list[_Graph] = []
    for table in tables:
        graphs.append(_graph(table, buffers, codes, len(tables)))
        if sum(len(graph.operations) for graph in graphs) > _OPERATIONS:
            raise Damaged("it has more operations than the exporter ever writes")
    order = _callers_first([[g for o in graph.operations for g in o.calls] for graph in graphs])
    for number in order:
        _check_graph(graphs, number)
    _check_work(graphs, order)
    silent = {i for i, graph in enumerate(graphs) if graph.silent}
    if not silent <= _passing(graphs):
        raise Damaged("nothing computes an output")
    for entry in model.tables(6, _METADATA):
        entry.vector(0)
        _within([entry.number(1, "<I")], len(buffers), "a buffer")
    found = {}
    for signature in model.tables(7, _SIGNATURES):
        name = _name(signature, 2)
        if name in found:
            raise Damaged("a signature is there twice")
        found[name] = _signature(signature, graphs)
    return found


def _within(numbers: Iterable[int], length: int, what: str, least: int = 0) -> None:
    if any(not least <= number < length for number in numbers):
        raise Damaged(f"{what} is missing")


def _buffer(table: Table) -> tuple[int, int]:
    """Returns where the data of a buffer is, and how long."""
    if table.number(1, "<Q") or table.number(2, "<Q"):
        raise Damaged("data lies outside the model")
    return table.vector(0)


def _kind(code: Table) -> int:
    """Returns the number of a builtin operation."""
    code.refuse([1], "a custom operation")
    return max(code.number(0, "<b"), code.number(3))


def _name(table: Table, field: int) -> str:
    try:
        return table.text(field).decode()
    except UnicodeDecodeError as error:
        raise Damaged("a name is no text") from error


def _signature(
    signature: Table, graphs: Sequence[_Graph]
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    number = signature.number(4, "<I")
    _within([number], len(graphs), "a subgraph")
    graph = graphs[number]
    if graph.silent:
        raise Damaged("nothing computes an output")
    if any(graph.tensors[i].size > _INPUT for i in graph.inputs):
        raise Damaged("an input is larger than any that the exporter writes")
    sides = []
    for side, wanted in enumerate((graph.inputs, graph.outputs)):
        entries = signature.tables(side)
        numbers = [entry.number(1, "<I") for entry in entries]
        names = [_name(entry, 0) for entry in entries]
        if len(set(names)) < len(names) or not set(numbers) <= set(wanted):
            raise Damaged("a signature names a tensor that its subgraph does not pass")
        if side == 0 and sorted(numbers) != sorted(wanted):
            raise Damaged("a signature leaves out an input")
        sides.append({n: graph.tensors[i] for n, i in zip(names, numbers, strict=True)})
    return sides[0], sides[1]


# ---- tensors


def _tensor(table: Table, buffers: Sequence[tuple[int, int]]) -> Tensor:
    shape = table.numbers(0)
    kind = table.number(1, "<b")
    if kind not in _TYPES:
        raise Damaged("a tensor is of a type that the exporter does not write")
    letter, size = _TYPES[kind]
    buffer = table.number(2, "<I")
    _within([buffer], len(buffers), "a buffer")
    if len(shape) > 8 or any(not 0 <= n < 2**28 for n in shape) or math.prod(shape) >= 2**31:
        raise Damaged("a tensor has an impossible shape")
    start, length = buffers[buffer]
    if length and length != size * math.prod(shape):
        raise Damaged("a constant is not as long as its shape says")
    table.vector(3)
    table.refuse([9], "a tensor of variants")
    if table.table(6) is not None or table.number(5, "<b") or table.number(10, "<I"):
        raise Damaged("a tensor is of a kind that the exporter does not write")
    grows = any(n < 0 for n in table.numbers(7))
    constant = bool(length) or (0 in shape and not grows)
    tensor = Tensor(letter, None if grows and not length else shape, constant)
    if constant and letter in "iluwc":
        tensor.data = memoryview(table.file.content)[start : start + length]
        table.file.spend(length // 4096)
        if letter in "il" and math.prod(shape) <= 64:
            tensor.values = [(None, int(n)) for n in tensor.integers().ravel()]
    _quantize(tensor, table.table(4), shape)
    return tensor


def _quantize(tensor: Tensor, quantization: Table | None, shape: Sequence[int]) -> None:
    """Checks the scales of a tensor and keeps what operations need of them."""
    if quantization is None:
        return
    if quantization.number(4, "<B"):
        raise Damaged("a tensor is of a kind that the exporter does not write")
    quantization.vector(0, 4)
    quantization.vector(1, 4)
    scales, zeros = quantization.numbers(2, "f"), quantization.numbers(3, "q")
    if len(zeros) not in (0, len(scales)) or any(not 1e-30 < s < 1e30 for s in scales):
        raise Damaged("a scale is impossible")
    if len(scales) > 1:
        tensor.dimension = quantization.number(6)
        _within([tensor.dimension], len(shape), "a dimension")
        if len(scales) != shape[tensor.dimension]:
            raise Damaged("there is not one scale per channel")
    if scales and tensor.letter == "c":
        if len(zeros) != len(scales) or any(not -128 <= zero <= 127 for zero in zeros):
            raise Damaged("a zero point is impossible")
        tensor.letter, tensor.scale = ("q", scales[0]) if len(scales) == 1 else ("Q", 0.0)


# ---- subgraphs


def _graph(
    table: Table, buffers: Sequence[tuple[int, int]], codes: Sequence[int], subgraphs: int
) -> _Graph:
    """Returns a subgraph; every number in it is within its list."""
    tensors = [_tensor(tensor, buffers) for tensor in table.tables(0)]
    inputs, outputs = table.numbers(1), table.numbers(2)
    table.vector(4)
    _within([*inputs, *outputs], len(tensors), "a tensor")
    if len(set(inputs)) < len(inputs) or any(tensors[i].constant for i in inputs):
        raise Damaged("an input is a constant, or there twice")
    operations = [_call(operator, tensors, codes, subgraphs) for operator in table.tables(3)]
    return _Graph(tensors, inputs, outputs, operations)


def _call(
    operator: Table, tensors: Sequence[Tensor], codes: Sequence[int], subgraphs: int
) -> _Call:
    number = operator.number(0, "<I")
    _within([number], len(codes), "an operation")
    kind = codes[number]
    if kind not in operations.NAMES:
        raise Damaged(f"operation {kind} is none that the exporter writes")
    reads, writes = operator.numbers(1), operator.numbers(2)
    _within(reads, len(tensors), "a tensor", least=-1)
    _within(writes, len(tensors), "a tensor")
    operator.refuse((5, 7, 8), "an operation of its own kind")
    if operator.number(9, "<Q") or operator.number(10, "<Q") or operator.number(11, "<B"):
        raise Damaged("an operation has options that the exporter does not write")
    expected, must = operations.OPTIONS[kind]
    options, found = operator.table(4), operator.number(3, "<B")
    if (options is None) != (found == 0) or found not in ((expected,) if must else (0, expected)):
        raise Damaged(f"{operations.NAMES[kind]} has no options of its own")
    calls: tuple[int, ...] = ()
    if options is not None and kind in (IF, WHILE):
        calls = options.number(0), options.number(1)
        _within(calls, subgraphs, "a subgraph")
    return _Call(kind, reads, writes, options, calls)


def _check_graph(graphs: Sequence[_Graph], number: int) -> None:
    """Checks what the operations of a subgraph read and write; its callers were before it."""
    graph = graphs[number]
    tensors = graph.tensors
    counters = graph.counters or {}
    for place in counters:
        tensors[graph.inputs[place]].values = [(place, 0)]
    known = {i for i, tensor in enumerate(tensors) if tensor.constant} | set(graph.inputs)
    for place, call in enumerate(graph.operations):
        if not set(call.reads) - {-1} <= known:
            raise Damaged("an operation reads what nothing has computed")
        if set(call.writes) & known or len(set(call.writes)) < len(call.writes):
            raise Damaged("an operation overwrites a tensor")
        known.update(call.writes)
        reads = [None if i < 0 else tensors[i] for i in call.reads]
        writes = [tensors[i] for i in call.writes]
        try:
            if call.calls:
                needs(number not in call.calls, "calls itself")
                graph.repeats[place] = _check_call(graphs, call, reads, writes)
            else:
                number_of, vector_of = _no_number, _no_vector
                if call.options is not None:
                    number_of, vector_of = _number_of(call.options), call.options.numbers
                graph.work += operations.check(
                    Operation(call.kind, reads, writes, number_of, vector_of, counters)
                )
        except Unlike as error:
            name = operations.NAMES[call.kind]
            raise Damaged(f"operation {place} of subgraph {number}, {name}, {error}") from error
    graph.silent = not set(graph.outputs) <= known
    graph.bytes = _most_bytes(graph)


def _no_number(field: int, kind: str = "<i", default: int = 0) -> int:
    return default


def _no_vector(field: int) -> tuple[int, ...]:
    return ()


def _number_of(options: Table) -> Any:
    return options.number


def _most_bytes(graph: _Graph) -> int:
    """Returns how many bytes of a subgraph's tensors are needed at once."""
    sizes = dict(_TYPES.values()) | {"q": 1, "Q": 1}
    last = {i: n for n, call in enumerate(graph.operations) for i in call.reads}
    held = {i: graph.tensors[i] for i in (*graph.inputs, *graph.outputs)}
    now = most = sum(sizes[tensor.letter] * tensor.size for tensor in held.values())
    for n, call in enumerate(graph.operations):
        for i in set(call.writes) - set(held):
            now += sizes[graph.tensors[i].letter] * graph.tensors[i].size
        most = max(most, now)
        for i in {i for i in (*call.reads, *call.writes) if last.get(i, n) == n} - set(held):
            if i >= 0 and not graph.tensors[i].constant:
                now -= sizes[graph.tensors[i].letter] * graph.tensors[i].size
    return most


# ---- subgraphs that run others


def _check_call(
    graphs: Sequence[_Graph],
    call: _Call,
    reads: Sequence[Tensor | None],
    writes: Sequence[Tensor],
) -> int:
    """Checks a branch or a loop; returns how often it may run what it calls."""
    first, second = (graphs[i] for i in call.calls)
    tensors = [
        [g.tensors[i] for i in numbers]
        for g in (first, second)
        for numbers in (g.inputs, g.outputs)
    ]
    into, given, into_body, given_by_body = tensors
    if call.kind == IF:
        condition, passed = (reads[0] if reads else None), reads[1:]
        needs(condition is not None and condition.letter == "b", "has no condition")
        needs(condition is not None and condition.size == 1, "has several conditions")
        for graph in (first, second):
            needs(graph.counters is None, "runs the body of a loop")
        for taken, returned in ((into, given), (into_body, given_by_body)):
            operations.check_call("it", passed, taken)
            operations.check_call("it", writes, returned)
        return 1
    needs(len(given) == 1 and given[0].letter == "b" and given[0].size == 1, "has no condition")
    for taken in (into, into_body, given_by_body, writes):
        operations.check_call("it", reads, taken)
    counters = _counters(first, second, reads)
    needs(bool(counters), "does not count its steps")
    needs(second.counters in (None, counters), "runs the body of another loop")
    second.counters = counters
    steps = min(high - low + 1 for low, high in counters.values())
    needs(steps <= _LONGEST, "takes more steps than the exporter ever writes")
    return max(steps, 0)


def _counters(
    condition: _Graph, body: _Graph, reads: Sequence[Tensor | None]
) -> dict[int, tuple[int, int]]:
    """Returns the inputs of a loop that count its steps: from a constant on, to below another."""
    makers = {i: call for call in condition.operations for i in call.writes}
    ends: dict[int, int] = {}
    asked = list(condition.outputs)
    for number in asked:  # grows: both sides of an AND must hold
        call = makers.get(number)
        if call is None or len(asked) > _DEPTH or len(call.reads) != 2:
            continue
        if operations.NAMES[call.kind] == "LOGICAL_AND":
            asked += call.reads
        elif operations.NAMES[call.kind] == "LESS" and call.reads[0] in condition.inputs:
            end = _only(condition.tensors[call.reads[1]])
            if end is not None:
                place = condition.inputs.index(call.reads[0])
                ends[place] = min(end, ends.get(place, end))
    steps = {
        call.writes[0]: call.reads
        for call in body.operations
        if operations.NAMES[call.kind] == "ADD" and len(call.writes) == 1 and len(call.reads) == 2
    }
    found = {}
    for place, end in ends.items():
        a, b = steps.get(body.outputs[place], (-1, -1))
        tensor = reads[place]
        start = None if tensor is None else _only(tensor)
        counts = a == body.inputs[place] and b >= 0 and _only(body.tensors[b]) == 1
        if counts and start is not None:
            found[place] = start, end - 1
    return found


def _only(tensor: Tensor) -> int | None:
    """Returns the number that a constant is, or `None`."""
    values = tensor.values
    return values[0][1] if values and len(values) == 1 and values[0][0] is None else None


def _passing(graphs: Sequence[_Graph]) -> set[int]:
    """Returns the branches that only pass values on: those of a stage that a sample skips.

    What the stage would have given has a place in the caller's memory, where nothing is
    written and nobody reads. So it may only be called where a condition holds.
    """
    calls = [call.calls for graph in graphs for call in graph.operations if call.calls]
    yes, no = {then for then, _ in calls}, {otherwise for _, otherwise in calls}
    return {i for i in yes - no if i and not graphs[i].operations}


def _callers_first(calls: Sequence[Sequence[int]]) -> list[int]:
    """Returns the numbers of subgraphs, callers before what they call.

    Raises:
        Damaged: If one calls itself, or calls go too deep.
    """
    finished: list[int] = []
    depths: dict[int, int] = {}  # of calls below; -1 while it is being visited

    def visit(number: int, above: int) -> int:
        if depths.get(number) == -1 or above > _DEPTH:
            raise Damaged("a subgraph calls itself")
        if number not in depths:
            depths[number] = -1
            depth = max((visit(i, above + 1) for i in set(calls[number])), default=-1) + 1
            depths[number] = depth
            finished.append(number)
        if above + depths[number] > _DEPTH:
            raise Damaged("subgraphs call each other too deep")
        return depths[number]

    for number in range(len(calls)):
        visit(number, 0)
    return finished[::-1]


def _check_work(graphs: Sequence[_Graph], order: Sequence[int]) -> None:
    """Raises `Damaged` if running the file takes more than any device has."""
    works, counts = [0] * len(graphs), [0] * len(graphs)
    for number in reversed(order):
        graph = graphs[number]
        works[number], counts[number] = graph.work, 1 + len(graph.operations)
        for place, times in graph.repeats.items():
            calls = graph.operations[place].calls
            works[number] += times * sum(works[i] for i in calls)
            counts[number] += sum(counts[i] for i in calls)
        if works[number] > _MOST_WORK or counts[number] > _EXPANDED:
            raise Damaged("it takes more work than any that the exporter writes")
    if sum(graph.bytes for graph in graphs) > _MOST_BYTES:
        raise Damaged("it takes more memory than any that the exporter writes")
