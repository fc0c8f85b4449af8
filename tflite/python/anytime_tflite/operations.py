"""What each operation of a .tflite file may read and write.

An interpreter trusts the file: a kernel reads as many inputs, of such types and shapes, as the
converter gives its operation, and looks beyond the end of memory where it finds others. So each
kind that the exporter writes is here with the types of its tensors and the shapes that follow
from them; a file with anything else is refused before an interpreter sees it.
"""

import math
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

Shape = tuple[int, ...]
Value = tuple[int | None, int]
"""An integer that is known: a number, or a counter (its input's place) plus a number."""

_LARGEST = 2**28  # numbers of a tensor
_DTYPES = {"i": "<i4", "l": "<i8", "w": "<i2", "u": "u1", "c": "i1", "q": "i1", "Q": "i1"}


class Unlike(ValueError):
    """An operation is not as the exporter writes it."""


@dataclass
class Tensor:
    """A tensor as an operation sees it.

    Attributes:
        letter: String, its type: f float32, h float16, i int32, l int64, w int16, u uint8, b
            boolean; c int8 that counts, q int8 of one scale, Q int8 of a scale per channel.
        shape: Its shape; `None`: a part of a list, which grows from step to step.
        constant: Whether its values are in the file.
        values: What is known of it, if it is a constant of few integers, or a counter.
        scale: Float, of q.
        dimension: Integer, the axis of Q's scales.
        data: Its bytes, if it is a constant of integers.
        part: Of a list: the list, "head" or "tail", and where they part.
    """

    letter: str
    shape: Shape | None
    constant: bool = False
    values: list[Value] | None = None
    scale: float = 0.0
    dimension: int = 0
    data: memoryview | None = None
    part: tuple["Tensor", str, Value] | None = None

    @property
    def size(self) -> int:
        return math.prod(self.shape or ())

    def integers(self) -> Any:
        """Returns the array of a constant of integers."""
        return np.frombuffer(self.data or b"", _DTYPES[self.letter])

    @property
    def bounds(self) -> tuple[int, int] | None:
        """The least and the greatest integer of a constant of integers."""
        if self.data is None or not len(self.data):
            return None
        array = self.integers()
        return int(array.min()), int(array.max())


@dataclass
class Operation:
    """An operation with its tensors; `options` maps a field to its number.

    Attributes:
        counters: Dictionary: place of a counter to its least and greatest number, in the body
            of a loop.
    """

    kind: int
    inputs: list[Tensor | None]
    outputs: list[Tensor]
    options: Callable[..., int]
    option_vector: Callable[[int], tuple[int, ...]]
    counters: dict[int, tuple[int, int]] = field(default_factory=dict)

    def given(self, number: int) -> Tensor:
        tensor = self.inputs[number]
        if tensor is None:
            raise Unlike("reads what is not there")
        return tensor

    def shape(self, number: int = 0) -> Shape:
        shape = self.given(number).shape
        if shape is None:
            raise Unlike("reads a part of a list")
        return shape

    def has(self, number: int) -> bool:
        return number < len(self.inputs) and self.inputs[number] is not None

    def numbers(self, number: int, length: int | None = None) -> list[int]:
        """Returns the values of a constant, a vector or one number."""
        tensor = self.given(number)
        values = tensor.values
        if values is None or any(counter is not None for counter, _ in values):
            raise Unlike("does not read a constant where it must")
        if len(tensor.shape or ()) > 2 or (length is not None and len(values) != length):
            raise Unlike("reads a constant of another length")
        return [value for _, value in values]

    def number(self, number: int) -> int:
        return self.numbers(number, 1)[0]


def needs(condition: bool, what: str) -> None:
    if not condition:
        raise Unlike(what)


# ---- shapes: what the outputs must be, and the multiplications that they cost

Rule = Callable[[Operation], list[Shape]]


def _axis(axis: int, rank: int) -> int:
    needs(-rank <= axis < rank, "has an axis that is not there")
    return axis % rank


def _same(o: Operation) -> list[Shape]:
    return [o.shape()]


def _last(o: Operation) -> list[Shape]:
    needs(len(o.shape()) >= 1, "reads a single number")
    return [o.shape()]


def _all_same(o: Operation) -> list[Shape]:
    needs(all(o.shape(i) == o.shape() for i in range(len(o.inputs))), "reads different shapes")
    return [o.shape()]


def _broadcast(*shapes: Shape) -> Shape:
    rank = max(map(len, shapes))
    padded = [(1,) * (rank - len(shape)) + shape for shape in shapes]
    found = []
    for sizes in zip(*padded, strict=True):
        wide = {size for size in sizes if size != 1}
        needs(len(wide) < 2, "reads shapes that do not fit each other")
        found.append(wide.pop() if wide else 1)
    return tuple(found)


def _broadcasting(rank: int) -> Rule:
    def rule(o: Operation) -> list[Shape]:
        shapes = [o.shape(i) for i in range(len(o.inputs))]
        found = _broadcast(*shapes)
        needs(
            len(found) <= rank or all(shape == found for shape in shapes),
            "reads shapes of too many dimensions",
        )
        return [found]

    return rule


def _compare(o: Operation) -> list[Shape]:
    needs(all(o.given(i).scale < 1 for i in (0, 1)), "has an impossible scale")
    return _broadcasting(4)(o)


def _add(o: Operation) -> list[Shape]:
    out = o.outputs[0]
    if out.letter == "q":  # the runtime ends the program where this is 1 or more
        needs(
            2 * max(o.given(0).scale, o.given(1).scale) < 2**20 * out.scale,
            "has scales that do not fit each other",
        )
    return _broadcasting(6)(o)


def _squared_difference(o: Operation) -> list[Shape]:
    out = o.outputs[0]
    if out.letter == "q":
        twice = 2 * max(o.given(0).scale, o.given(1).scale)
        needs(twice**2 < 2**14 * out.scale, "has scales that do not fit each other")
    return _broadcasting(4)(o)


def _divide(rank: int) -> Rule:
    def rule(o: Operation) -> list[Shape]:
        divisor = o.given(1)
        if divisor.letter in "ilwcu":  # division by 0, and of the least number by -1, is a crash
            needs(divisor.bounds is not None and divisor.bounds[0] > 0, "may divide by 0")
        return _broadcasting(rank)(o)

    return rule


def _select(o: Operation) -> list[Shape]:
    condition, a, b = o.shape(0), o.shape(1), o.shape(2)
    needs(a == b and condition in (a, ()), "reads different shapes")
    return [a]


def _prelu(o: Operation) -> list[Shape]:
    found = _broadcasting(4)(o)
    needs(found == [o.shape()], "reads shapes that do not fit each other")
    return found


def _slid(size: int, kernel: int, stride: int, dilation: int, padding: int) -> int:
    needs(
        min(size, kernel, stride, dilation) > 0 and max(kernel, stride, dilation) < 2**16,
        "has an impossible option",
    )
    needs(padding in (0, 1), "has an impossible option")
    if padding == 0:
        return -(-size // stride)
    reach = (kernel - 1) * dilation + 1
    needs(reach <= size, "slides a kernel that is larger than what it slides on")
    return (size - reach) // stride + 1


def _weights(o: Operation, number: int, channels: int, axis: int) -> None:
    """Checks that weights of integers are constants, with scales along their outputs, and bias."""
    weights = o.given(number)
    if weights.letter in "qQ":
        needs(weights.constant or weights.letter == o.outputs[0].letter, "has weights that change")
        needs(weights.letter == "q" or weights.dimension == axis, "has scales of another axis")
    bias = 2 if number == 1 and o.kind not in _TRANSPOSED else 3
    needs(not o.has(bias) or o.shape(bias) == (channels,), "has a bias of another length")


def _conv(o: Operation) -> list[Shape]:
    x, w = o.shape(0), o.shape(1)
    needs(len(x) == len(w) == 4 and min(*x, *w) > 0, "reads shapes of other dimensions")
    groups, left = divmod(x[3], w[3])
    needs(groups > 0 and left == 0 and w[0] % groups == 0, "has weights for other channels")
    _weights(o, 1, w[0], 0)
    padding = o.options(0, "<b")
    high = _slid(x[1], w[1], o.options(2), o.options(5, default=1), padding)
    wide = _slid(x[2], w[2], o.options(1), o.options(4, default=1), padding)
    return [(x[0], high, wide, w[0])]


def _depthwise(o: Operation) -> list[Shape]:
    x, w = o.shape(0), o.shape(1)
    needs(len(x) == len(w) == 4 and min(*x, *w) > 0, "reads shapes of other dimensions")
    needs(w[0] == 1 and w[3] == x[3] * o.options(3), "has weights for other channels")
    _weights(o, 1, w[3], 3)
    padding = o.options(0, "<b")
    high = _slid(x[1], w[1], o.options(2), o.options(6, default=1), padding)
    wide = _slid(x[2], w[2], o.options(1), o.options(5, default=1), padding)
    return [(x[0], high, wide, w[3])]


def _conv_3d(o: Operation) -> list[Shape]:
    x, w = o.shape(0), o.shape(1)
    needs(len(x) == len(w) == 5 and min(*x, *w) > 0, "reads shapes of other dimensions")
    needs(x[4] == w[3], "has weights for other channels")
    _weights(o, 1, w[4], 4)
    return [(x[0], *_slid_3d(o, x[1:4], w), w[4])]


def _slid_3d(o: Operation, sizes: Shape, w: Shape) -> Shape:
    steps = [o.options(i) for i in (1, 3, 2)]
    apart = [o.options(i, default=1) for i in (5, 7, 6)]
    padding = o.options(0, "<b")
    found = zip(sizes, w, steps, apart, strict=False)
    return tuple(_slid(size, k, step, d, padding) for size, k, step, d in found)


def _transposed_conv(o: Operation) -> list[Shape]:
    out, w, x = tuple(o.numbers(0, 4)), o.shape(1), o.shape(2)
    needs(len(x) == len(w) == 4 and min(*x, *w, *out) > 0, "reads shapes of other dimensions")
    needs(x[3] == w[3] and out[3] == w[0] and out[0] == x[0], "has weights for other channels")
    _weights(o, 1, w[0], 0)
    padding = o.options(0, "<b")
    high = _slid(out[1], w[1], o.options(2), 1, padding)
    wide = _slid(out[2], w[2], o.options(1), 1, padding)
    needs((high, wide) == x[1:3], "writes another shape than it says")
    return [out]


def _transposed_conv_3d(o: Operation) -> list[Shape]:
    out, w, x = tuple(o.numbers(0, 5)), o.shape(1), o.shape(2)
    needs(len(x) == len(w) == 5 and min(*x, *w, *out) > 0, "reads shapes of other dimensions")
    needs(x[4] == w[4] and out[4] == w[3] and out[0] == x[0], "has weights for other channels")
    _weights(o, 1, w[3], 3)
    needs(_slid_3d(o, out[1:4], w) == x[1:4], "writes another shape than it says")
    return [out]


def _pool(o: Operation) -> list[Shape]:
    x = o.shape()
    needs(len(x) == 4, "reads shapes of other dimensions")
    padding = o.options(0, "<b")
    high = _slid(x[1], o.options(4), o.options(2), 1, padding)
    wide = _slid(x[2], o.options(3), o.options(1), 1, padding)
    return [(x[0], high, wide, x[3])]


def _dense(o: Operation) -> list[Shape]:
    x, w = o.shape(0), o.shape(1)
    needs(len(w) == 2 and len(x) >= 1 and min(*x, *w) > 0, "reads shapes of other dimensions")
    needs(o.options(1, "<b") == 0, "has an impossible option")
    _weights(o, 1, w[0], 0)
    if o.options(2, "<b"):
        needs(x[-1] == w[1], "has weights for other channels")
        return [(*x[:-1], w[0])]
    rows, left = divmod(math.prod(x), w[1])
    needs(left == 0, "has weights for other channels")
    return [(rows, w[0])]


def _matmul(o: Operation) -> list[Shape]:
    x, y, out = o.shape(0), o.shape(1), o.outputs[0]
    if out.letter == "q":  # the runtime prepares no kernel for more, and runs it all the same
        needs(
            o.given(0).scale * o.given(1).scale < 2**8 * out.scale,
            "has scales that do not fit each other",
        )
    needs(2 <= len(x) <= 5 and 2 <= len(y) <= 5, "reads shapes of other dimensions")
    needs(o.given(1).letter == o.given(0).letter or o.given(1).constant, "has weights that change")
    rows, inner = x[-2:] if not o.options(0, "<b") else x[:-3:-1]
    inside, columns = y[-2:] if not o.options(1, "<b") else y[:-3:-1]
    needs(inner == inside, "reads shapes that do not fit each other")
    return [(*_broadcast(x[:-2], y[:-2]), rows, columns)]


def _reduce(o: Operation) -> list[Shape]:
    x = o.shape()
    axes = {_axis(a, len(x)) for a in o.numbers(1)} if x or o.numbers(1) else set()
    needs(len(o.numbers(1)) <= 8, "has too many axes")
    if o.options(0, "<b"):
        return [tuple(1 if i in axes else n for i, n in enumerate(x))]
    return [tuple(n for i, n in enumerate(x) if i not in axes)]


def _arg(o: Operation) -> list[Shape]:
    x = o.shape()
    axis = _axis(o.number(1), len(x))
    needs(x[axis] > 0, "reads nothing")
    _written_as(o)
    return [x[:axis] + x[axis + 1 :]]


def _written_as(o: Operation) -> None:
    letter = {2: "i", 4: "l"}.get(o.options(0, "<b"))
    needs(letter == o.outputs[0].letter, "writes another type than its option says")


def _reshape(o: Operation) -> list[Shape]:
    size = math.prod(o.shape())
    found = tuple(o.numbers(1)) if o.has(1) else o.option_vector(0)
    known = math.prod(n for n in found if n != -1)
    if found.count(-1) == 1 and known > 0:
        found = tuple(size // known if n == -1 else n for n in found)
    needs(min(found, default=0) >= 0 and math.prod(found) == size, "reshapes to another size")
    return [found]


def _squeeze(o: Operation) -> list[Shape]:
    x = o.shape()
    axes = {_axis(a, len(x)) for a in o.option_vector(0)}
    axes = axes or {i for i, n in enumerate(x) if n == 1}
    needs(all(x[a] == 1 for a in axes), "leaves out an axis that is not single")
    return [tuple(n for i, n in enumerate(x) if i not in axes)]


def _expand(o: Operation) -> list[Shape]:
    x = o.shape()
    axis = _axis(o.number(1), len(x) + 1)
    return [(*x[:axis], 1, *x[axis:])]


def _transpose(o: Operation) -> list[Shape]:
    x = o.shape()
    order = o.numbers(1)
    needs(sorted(order) == list(range(len(x))) and len(x) <= 6, "has an impossible order")
    return [tuple(x[a] for a in order)]


def _slice(o: Operation) -> list[Shape]:
    x = o.shape()
    values = [o.given(i).values for i in (1, 2)]
    if any(v is not None and any(c is not None for c, _ in v) for v in values):
        return [_part(o, x, values)]
    begin, size = o.numbers(1, len(x)), o.numbers(2, len(x))
    needs(len(x) <= 5, "reads shapes of too many dimensions")
    found = tuple(n - b if s == -1 else s for n, b, s in zip(x, begin, size, strict=True))
    fits = all(min(b, s) >= 0 and b + s <= n for n, b, s in zip(x, begin, found, strict=True))
    needs(fits, "takes a part that is not there")
    return [found]


def _part(o: Operation, x: Shape, values: list[list[Value] | None]) -> Shape:
    """Marks the part of a list before, or behind, the place that a step of a loop writes."""
    out, (begin, size) = o.outputs[0], values
    needs(begin is not None and size is not None and out.shape is None, "takes an unknown part")
    assert begin is not None
    assert size is not None
    needs(len(begin) == len(size) == len(x), "takes an unknown part")
    plain, rest = [(None, 0)] * len(x), [(None, -1)] * len(x)
    is_head = begin == plain and size[1:] == rest[1:]
    is_tail = size == rest and begin[1:] == plain[1:]
    needs(is_head or is_tail, "takes an unknown part")
    counter, number = (size if is_head else begin)[0]
    needs(counter in o.counters, "takes an unknown part")
    assert counter is not None
    low, high = o.counters[counter]
    needs(low + number >= 0 and high + number <= x[0], "takes a part that is not there")
    out.part = o.given(0), "head" if is_head else "tail", (counter, number)
    return x


def _strided_slice(o: Operation) -> list[Shape]:
    x = o.shape()
    begin = o.numbers(1)
    end, step = o.numbers(2, len(begin)), o.numbers(3, len(begin))
    begins, ends, ellipsis, new, shrink = (o.options(i) for i in range(5))
    offset = o.options(5, "<b")
    needs(not (ellipsis or new or offset) and len(begin) <= len(x) <= 5, "has an impossible option")
    found = []
    for i, n in enumerate(x):
        if i >= len(begin):
            found.append(n)
            continue
        needs(step[i] != 0, "has an impossible option")
        if shrink >> i & 1:
            needs(step[i] > 0, "has an impossible option")
            place = 0 if begins >> i & 1 else begin[i]
            needs(-n <= place < n, "takes a part that is not there")
            continue
        first = None if begins >> i & 1 else begin[i]
        last = None if ends >> i & 1 else end[i]
        found.append(len(range(*slice(first, last, step[i]).indices(n))))
    return [tuple(found)]


def _pad(o: Operation) -> list[Shape]:
    x = o.shape()
    needs(o.shape(1) == (len(x), 2) and len(x) <= 5, "has impossible margins")
    margins = o.numbers(1)
    needs(min(margins, default=0) >= 0, "has impossible margins")
    needs(o.kind != 60 or o.given(2).size == 1, "pads with several numbers")
    if o.kind == 100:
        mode = o.options(0, "<b")
        needs(mode in (0, 1), "has an impossible option")
        most = [n - 1 + mode for n in x for _ in range(2)]
        needs(all(m <= n for m, n in zip(margins, most, strict=True)), "has impossible margins")
    return [tuple(n + margins[2 * i] + margins[2 * i + 1] for i, n in enumerate(x))]


def _concatenate(o: Operation) -> list[Shape]:
    parts = [tensor.part for tensor in o.inputs if tensor is not None]
    if any(parts):
        return [_set_in_list(o, parts)]
    x = o.shape()
    axis = _axis(o.options(0), len(x))
    shapes = [o.shape(i) for i in range(len(o.inputs))]
    fits = all(
        len(s) == len(x) and s[:axis] + s[axis + 1 :] == x[:axis] + x[axis + 1 :] for s in shapes
    )
    needs(fits, "reads shapes that do not fit each other")
    if len(x) == 1 and all(t is not None and t.values is not None for t in o.inputs):
        o.outputs[0].values = [v for t in o.inputs if t is not None for v in t.values or ()]
    return [(*x[:axis], sum(s[axis] for s in shapes), *x[axis + 1 :])]


def _set_in_list(o: Operation, parts: list[tuple[Tensor, str, Value] | None]) -> Shape:
    """Returns the shape of a list of which a step of a loop has written one element anew."""
    needs(len(parts) == 3 and parts[1] is None and None not in (parts[0], parts[2]), "joins parts")
    assert parts[0] is not None
    assert parts[2] is not None
    (whole, head, place), (other, tail, behind) = parts[0], parts[2]
    needs(
        (head, tail) == ("head", "tail")
        and whole is other
        and behind == (place[0], place[1] + 1)
        and o.options(0) == 0
        and whole.shape is not None
        and o.shape(1) == (1, *(whole.shape or ())[1:]),
        "joins parts that do not fit each other",
    )
    return whole.shape or ()


def _pack(o: Operation) -> list[Shape]:
    x = _all_same(o)[0]
    needs(o.options(0) == len(o.inputs), "has an impossible option")
    axis = _axis(o.options(1), len(x) + 1)
    if not x and all(t is not None and t.values is not None for t in o.inputs):
        o.outputs[0].values = [v for t in o.inputs if t is not None for v in t.values or ()]
    return [(*x[:axis], len(o.inputs), *x[axis:])]


def _unpack(o: Operation) -> list[Shape]:
    x = o.shape()
    axis = _axis(o.options(1), len(x))
    needs(o.options(0) == x[axis] == len(o.outputs), "has an impossible option")
    return [x[:axis] + x[axis + 1 :]] * len(o.outputs)


def _split(o: Operation) -> list[Shape]:
    x, many = o.shape(1), len(o.outputs)
    axis = _axis(o.number(0), len(x))
    needs(o.options(0) == many and x[axis] % many == 0, "splits into another number of parts")
    return [(*x[:axis], x[axis] // many, *x[axis + 1 :])] * many


def _split_unequal(o: Operation) -> list[Shape]:
    x, many = o.shape(), len(o.outputs)
    axis, sizes = _axis(o.number(2), len(x)), o.numbers(1, many)
    needs(o.options(0) == many, "splits into another number of parts")
    if sizes.count(-1) == 1:
        sizes = [x[axis] - sum(sizes) - 1 if s == -1 else s for s in sizes]
    needs(min(sizes) >= 0 and sum(sizes) == x[axis], "splits into other sizes")
    return [(*x[:axis], size, *x[axis + 1 :]) for size in sizes]


def _gather(o: Operation) -> list[Shape]:
    x, index, batch = o.shape(0), o.shape(1), o.options(1)
    axis, bounds = _axis(o.options(0), len(x)), o.given(1).bounds
    needs(0 <= batch <= min(axis, len(index)) and x[:batch] == index[:batch], "has other batches")
    needs(bounds is None or 0 <= bounds[0] <= bounds[1] < x[axis], "takes what is not there")
    return [(*x[:axis], *index[batch:], *x[axis + 1 :])]


def _gather_nd(o: Operation) -> list[Shape]:
    x, index = o.shape(0), o.shape(1)
    needs(len(index) >= 1 and 1 <= index[-1] <= len(x), "takes what is not there")
    return [(*index[:-1], *x[index[-1] :])]


def _tile(o: Operation) -> list[Shape]:
    x = o.shape()
    many = o.numbers(1, len(x))
    needs(min(many, default=1) > 0, "has an impossible option")
    return [tuple(n * m for n, m in zip(x, many, strict=True))]


def _broadcast_to(o: Operation) -> list[Shape]:
    found = tuple(o.numbers(1))
    needs(_broadcast(o.shape(), found) == found, "reads shapes that do not fit each other")
    return [found]


def _fill(o: Operation) -> list[Shape]:
    needs(o.given(1).size == 1, "fills with several numbers")
    return [tuple(o.numbers(0))]


def _resize(o: Operation) -> list[Shape]:
    x, size = o.shape(), o.numbers(1, 2)
    aligned = 2 if o.kind == 23 else 0
    needs(len(x) == 4 and min(size) > 0, "reads shapes of other dimensions")
    both = o.options(aligned, "<b") and o.options(aligned + 1, "<b")
    needs(not both, "has an impossible option")
    return [(x[0], *size, x[3])]


def _space_to_depth(o: Operation) -> list[Shape]:
    x, block = o.shape(), o.options(0)
    needs(len(x) == 4 and block > 0, "has an impossible option")
    if o.kind == 26:
        needs(x[1] % block == x[2] % block == 0, "has an impossible option")
        return [(x[0], x[1] // block, x[2] // block, x[3] * block**2)]
    needs(x[3] % block**2 == 0, "has an impossible option")
    return [(x[0], x[1] * block, x[2] * block, x[3] // block**2)]


def _space_to_batch(o: Operation) -> list[Shape]:
    x, block = o.shape(), o.numbers(1)
    needs(len(x) in (3, 4) and len(block) == len(x) - 2, "reads shapes of other dimensions")
    needs(o.shape(2) == (len(block), 2) and min(block) > 0, "has an impossible option")
    edges = o.numbers(2)
    needs(min(edges) >= 0, "has impossible margins")
    many = math.prod(block)
    ends = [edges[2 * i] + edges[2 * i + 1] for i in range(len(block))]
    inner = x[1 : 1 + len(block)]
    if o.kind == 38:
        fits = all((n + e) % b == 0 for n, e, b in zip(inner, ends, block, strict=True))
        needs(fits, "has impossible margins")
        sizes = [(n + e) // b for n, e, b in zip(inner, ends, block, strict=True)]
        return [(x[0] * many, *sizes, x[-1])]
    sizes = [n * b - e for n, e, b in zip(inner, ends, block, strict=True)]
    needs(x[0] % many == 0 and min(sizes) > 0, "has impossible margins")
    return [(x[0] // many, *sizes, x[-1])]


def _one_hot(o: Operation) -> list[Shape]:
    x, depth = o.shape(), o.number(1)
    axis = _axis(o.options(0), len(x) + 1)
    needs(depth >= 0 and o.given(2).size == o.given(3).size == 1, "has an impossible option")
    return [(*x[:axis], depth, *x[axis:])]


def _top_k(o: Operation) -> list[Shape]:
    x, k = o.shape(), o.number(1)
    needs(len(x) >= 1 and 0 < k <= x[-1], "takes more than there is")
    return [(*x[:-1], k)] * 2


def _along(o: Operation) -> list[Shape]:
    x = o.shape()
    axes = o.numbers(1)
    found = {_axis(axis, len(x)) for axis in axes}
    needs(0 < len(found) == len(axes) <= 8, "has no axis, or one twice")
    return [x]


def _scatter(o: Operation) -> list[Shape]:
    index, found = o.shape(0), tuple(o.numbers(2))
    needs(len(index) >= 1 and 1 <= index[-1] <= len(found), "writes what is not there")
    needs(min(found) > 0, "writes what is not there")
    needs(o.shape(1) == (*index[:-1], *found[index[-1] :]), "reads shapes that do not fit")
    return [found]


def _segments(o: Operation) -> list[Shape]:
    x, ids, many = o.shape(0), o.shape(1), o.number(2)
    bounds = o.given(1).bounds
    needs(many > 0 and x[: len(ids)] == ids, "reads shapes that do not fit each other")
    needs(bounds is not None and 0 <= bounds[0] <= bounds[1] < many, "writes what is not there")
    return [(many, *x[len(ids) :])]


def _update(o: Operation) -> list[Shape]:
    x, new = o.shape(0), o.shape(1)
    needs(o.shape(2) == (len(x),), "has a place of other dimensions")
    fits = len(new) == len(x) and all(n <= m for n, m in zip(new, x, strict=True))
    needs(fits, "writes what is not there")
    return [x]


def _shape(o: Operation) -> list[Shape]:
    _written_as(o)
    return [(len(o.shape()),)]


def _response(o: Operation) -> list[Shape]:
    needs(len(o.shape()) == 4 and 0 <= o.options(0) < 2**16, "has an impossible option")
    return [o.shape()]


# ---- the table

_ANY = "([fiulbwqc])"
_MUST = True  # its options must be there; others may be left out where they say nothing

# operation: its name, the number of its options, whether they must be there, the letters of what
# it reads and writes (- for what is left out), and the shapes that follow
_KINDS: dict[int, tuple[str, int, bool, str, Rule]] = {
    0: ("ADD", 11, _MUST, r"([filq])\1>\1", _add),
    1: ("AVERAGE_POOL_2D", 5, _MUST, r"([fq])>\1", _pool),
    2: ("CONCATENATION", 10, _MUST, _ANY + r"\1*>\1", _concatenate),
    3: ("CONV_2D", 1, _MUST, "f[fqQ][f-]?>f|q[qQ][i-]?>q", _conv),
    4: ("DEPTHWISE_CONV_2D", 2, _MUST, "f[fqQ]f>f|q[qQ]i>q", _depthwise),
    5: ("DEPTH_TO_SPACE", 94, _MUST, r"([fiulqc])>\1", _space_to_depth),
    6: ("DEQUANTIZE", 38, False, "[hqQ]>f", _same),
    8: ("FLOOR", 0, False, "f>f", _same),
    9: ("FULLY_CONNECTED", 8, _MUST, "f[fqQ][f-]?>f|q[qQ][i-]?>q", _dense),
    11: ("L2_NORMALIZATION", 12, _MUST, r"([fq])>\1", _last),
    13: ("LOCAL_RESPONSE_NORMALIZATION", 13, _MUST, "f>f", _response),
    14: ("LOGISTIC", 0, False, r"([fq])>\1", _same),
    17: ("MAX_POOL_2D", 5, _MUST, r"([fq])>\1", _pool),
    18: ("MUL", 21, _MUST, r"([filq])\1>\1", _broadcasting(6)),
    19: ("RELU", 0, False, r"([fq])>\1", _same),
    20: ("RELU_N1_TO_1", 0, False, r"([fq])>\1", _same),
    21: ("RELU6", 0, False, r"([fq])>\1", _same),
    22: ("RESHAPE", 17, False, _ANY + r"i?>\1", _reshape),
    23: ("RESIZE_BILINEAR", 15, _MUST, r"([fq])i>\1", _resize),
    25: ("SOFTMAX", 9, _MUST, r"([fq])>\1", _last),
    26: ("SPACE_TO_DEPTH", 19, _MUST, r"([fiulqc])>\1", _space_to_depth),
    28: ("TANH", 0, False, r"([fq])>\1", _same),
    34: ("PAD", 22, False, _ANY + r"[il]>\1", _pad),
    36: ("GATHER", 23, _MUST, _ANY + r"[il]>\1", _gather),
    37: ("BATCH_TO_SPACE_ND", 24, False, r"([filuq])ii>\1", _space_to_batch),
    38: ("SPACE_TO_BATCH_ND", 25, False, r"([filuq])ii>\1", _space_to_batch),
    39: ("TRANSPOSE", 26, False, _ANY + r"i>\1", _transpose),
    40: ("MEAN", 27, _MUST, r"([filq])i>\1", _reduce),
    41: ("SUB", 28, _MUST, r"([filq])\1>\1", _add),
    42: ("DIV", 29, _MUST, r"([fiq])\1>\1", _divide(5)),
    43: ("SQUEEZE", 30, _MUST, _ANY + r">\1", _squeeze),
    45: ("STRIDED_SLICE", 32, _MUST, _ANY + r"iii>\1", _strided_slice),
    47: ("EXP", 33, False, r"([fq])>\1", _same),
    48: ("TOPK_V2", 34, False, r"([filq])i>\1i", _top_k),
    49: ("SPLIT", 35, _MUST, "i" + _ANY + r">\1+", _split),
    50: ("LOG_SOFTMAX", 36, False, r"([fq])>\1", _last),
    53: ("CAST", 37, False, "[filubwc]>[filubwc]", _same),
    54: ("PRELU", 0, False, r"([fq])\1>\1", _prelu),
    55: ("MAXIMUM", 39, False, r"([filuwq])\1>\1", _broadcasting(5)),
    56: ("ARG_MAX", 40, _MUST, "[fiuqb][il]>[il]", _arg),
    57: ("MINIMUM", 39, False, r"([filuwq])\1>\1", _broadcasting(5)),
    58: ("LESS", 41, False, r"([filq])\1>b", _compare),
    59: ("NEG", 42, False, r"([fil])>\1", _same),
    60: ("PADV2", 43, False, _ANY + r"[il]\1>\1", _pad),
    61: ("GREATER", 44, False, r"([filq])\1>b", _compare),
    62: ("GREATER_EQUAL", 45, False, r"([filq])\1>b", _compare),
    63: ("LESS_EQUAL", 46, False, r"([filq])\1>b", _compare),
    64: ("SELECT", 47, False, r"b([filubwq])\1>\1", _select),
    65: ("SLICE", 48, False, _ANY + r"([il])\2>\1", _slice),
    66: ("SIN", 0, False, "f>f", _same),
    67: ("TRANSPOSE_CONV", 49, _MUST, "i[fqQ]f[f-]?>f|i[qQ]q[i-]?>q", _transposed_conv),
    69: ("TILE", 51, False, _ANY + r"[il]>\1", _tile),
    70: ("EXPAND_DIMS", 52, False, _ANY + r"[il]>\1", _expand),
    71: ("EQUAL", 53, False, r"([filbq])\1>b", _compare),
    72: ("NOT_EQUAL", 54, False, r"([filbq])\1>b", _compare),
    73: ("LOG", 0, False, r"([fq])>\1", _same),
    74: ("SUM", 27, _MUST, r"([filq])i>\1", _reduce),
    75: ("SQRT", 0, False, "f>f", _same),
    76: ("RSQRT", 0, False, r"([fq])>\1", _same),
    77: ("SHAPE", 55, _MUST, "[fiulbwqc]>[il]", _shape),
    78: ("POW", 56, False, r"([fi])\1>\1", _broadcasting(4)),
    79: ("ARG_MIN", 57, _MUST, "[fiuqb][il]>[il]", _arg),
    81: ("REDUCE_PROD", 27, _MUST, r"([filq])i>\1", _reduce),
    82: ("REDUCE_MAX", 27, _MUST, r"([filuq])i>\1", _reduce),
    83: ("PACK", 59, _MUST, _ANY + r"\1*>\1", _pack),
    84: ("LOGICAL_OR", 60, False, "bb>b", _broadcasting(4)),
    85: ("ONE_HOT", 61, _MUST, r"[il]i([filubq])\1>\1", _one_hot),
    86: ("LOGICAL_AND", 62, False, "bb>b", _broadcasting(4)),
    87: ("LOGICAL_NOT", 63, False, "b>b", _same),
    88: ("UNPACK", 64, _MUST, _ANY + r">\1+", _unpack),
    89: ("REDUCE_MIN", 27, _MUST, r"([filuq])i>\1", _reduce),
    90: ("FLOOR_DIV", 65, False, r"([fiwc])\1>\1", _divide(4)),
    91: ("REDUCE_ANY", 27, _MUST, "bi>b", _reduce),
    92: ("SQUARE", 66, False, "f>f", _same),
    93: ("ZEROS_LIKE", 67, False, r"([fil])>\1", _same),
    94: ("FILL", 68, False, r"[il]([filubwqc])>\1", _fill),
    95: ("FLOOR_MOD", 72, False, r"([filwc])\1>\1", _divide(4)),
    97: ("RESIZE_NEAREST_NEIGHBOR", 74, _MUST, r"([fq])i>\1", _resize),
    98: ("LEAKY_RELU", 75, _MUST, r"([fq])>\1", _same),
    99: ("SQUARED_DIFFERENCE", 76, False, r"([fiq])\1>\1", _squared_difference),
    100: ("MIRROR_PAD", 77, _MUST, _ANY + r"[il]>\1", _pad),
    101: ("ABS", 78, False, r"([fiq])>\1", _same),
    102: ("SPLIT_V", 79, _MUST, _ANY + r"[il]i>\1+", _split_unequal),
    104: ("CEIL", 0, False, "f>f", _same),
    105: ("REVERSE_V2", 81, False, _ANY + r"i>\1", _along),
    106: ("ADD_N", 82, False, r"([fi])\1*>\1", _all_same),
    107: ("GATHER_ND", 83, False, _ANY + r"[il]>\1", _gather_nd),
    108: ("COS", 84, False, "f>f", _same),
    111: ("ELU", 0, False, r"([fq])>\1", _same),
    114: ("QUANTIZE", 89, False, "[fq]>q", _same),
    116: ("ROUND", 0, False, "f>f", _same),
    117: ("HARD_SWISH", 91, False, r"([fq])>\1", _same),
    122: ("SCATTER_ND", 97, False, r"i([filubq])i>\1", _scatter),
    123: ("SELECT_V2", 98, False, r"b([filubwq])\1>\1", _broadcasting(5)),
    126: ("BATCH_MATMUL", 101, _MUST, "f[fq]>f|qq>q", _matmul),
    128: ("CUMSUM", 102, _MUST, r"([fil])i>\1", _along),
    130: ("BROADCAST_TO", 104, False, _ANY + r"[il]>\1", _broadcast_to),
    132: ("CONV_3D", 106, _MUST, "ff[f-]?>f", _conv_3d),
    140: ("REDUCE_ALL", 27, _MUST, "bi>b", _reduce),
    141: ("CONV_3D_TRANSPOSE", 106, _MUST, "iff[f-]?>f", _transposed_conv_3d),
    147: ("BUCKETIZE", 115, _MUST, "[fil]>i", _same),
    150: ("GELU", 116, _MUST, r"([fq])>\1", _same),
    151: ("DYNAMIC_UPDATE_SLICE", 117, False, r"([filbq])\1[il]>\1", _update),
    152: ("RELU_0_TO_1", 0, False, r"([fq])>\1", _same),
    153: ("UNSORTED_SEGMENT_PROD", 118, False, r"([fi])ii>\1", _segments),
    154: ("UNSORTED_SEGMENT_MAX", 119, False, r"([fi])ii>\1", _segments),
    155: ("UNSORTED_SEGMENT_SUM", 121, False, r"([fi])ii>\1", _segments),
    156: ("ATAN2", 122, False, "ff>f", _all_same),
    157: ("UNSORTED_SEGMENT_MIN", 120, False, r"([fi])ii>\1", _segments),
    158: ("SIGN", 123, False, "f>f", _same),
}
_TRANSPOSED = (67, 141)
_PATTERNS = {kind: re.compile(row[3]) for kind, row in _KINDS.items()}
# where the activation is, that an operation applies at its end
_ACTIVATION = {
    0: 0, 1: 5, 2: 1, 3: 3, 4: 4, 9: 0, 11: 0, 17: 5, 18: 0, 41: 0, 42: 0, 67: 3, 132: 4, 141: 4
}  # fmt: skip
_ACTIVATIONS = 4  # none, relu, relu from -1 to 1, relu6
# what each number of the output is multiplied from: an input and the axes that are summed over
_SUMS = {
    3: (1, (1, 2, 3)), 4: (1, (1, 2)), 9: (1, (1,)), 67: (1, (1, 2, 3)),
    132: (1, (0, 1, 2, 3)), 141: (1, (0, 1, 2, 4)),
}  # fmt: skip
IF, WHILE = 118, 119
NAMES = {IF: "IF", WHILE: "WHILE", **{kind: row[0] for kind, row in _KINDS.items()}}
OPTIONS = {IF: (92, True), WHILE: (93, True), **{k: row[1:3] for k, row in _KINDS.items()}}


def check(o: Operation) -> int:
    """Raises `Unlike` if an operation's tensors are not as its kernel takes them for granted.

    Returns:
        About how many multiplications and moves it takes.
    """
    reads = "".join("-" if t is None else t.letter for t in o.inputs)
    writes = "".join(t.letter for t in o.outputs)
    if not _PATTERNS[o.kind].fullmatch(f"{reads}>{writes}"):
        raise Unlike("reads or writes tensors of other types, or another number of them")
    if o.kind in _ACTIVATION:
        activation = o.options(_ACTIVATION[o.kind], "<b")
        needs(0 <= activation < _ACTIVATIONS, "has an impossible option")
    found = _KINDS[o.kind][4](o)
    for shape, out in zip(found, o.outputs, strict=True):
        needs(math.prod(shape) <= _LARGEST, "writes more than a device can hold")
        if out.part is None:
            needs(out.shape == shape, f"writes {list(out.shape or ())} where it computes {shape}")
    _pass_on(o)
    work = sum(t.size for t in [*o.inputs, *o.outputs] if t is not None)
    if o.kind == 126:
        work += math.prod(found[0]) * max(o.shape(0)[-2:])
    if o.kind in _SUMS:
        number, axes = _SUMS[o.kind]
        summed = math.prod(o.shape(number)[a] for a in axes)
        moved = o.shape(2) if o.kind in _TRANSPOSED else found[0]
        work += math.prod(moved) * summed
    return work


def _pass_on(o: Operation) -> None:
    """Keeps what is known of a counter: one more than it, or the same in another shape."""
    out = o.outputs[0]
    if o.kind == 22 and o.given(0).values is not None:
        out.values = o.given(0).values
    elif o.kind == 0 and out.letter in "il" and out.size == 1:
        a, b = (o.given(i).values for i in (0, 1))
        if a and b and len(a) == len(b) == 1 and (a[0][0] is None or b[0][0] is None):
            counter = a[0][0] if a[0][0] is not None else b[0][0]
            if counter is not None:
                out.values = [(counter, a[0][1] + b[0][1])]


def check_call(name: str, given: Sequence[Any], taken: Sequence[Any]) -> None:
    """Raises `Unlike` unless tensors that pass into or out of a subgraph are as it has them."""
    needs(len(given) == len(taken), f"{name} passes another number of tensors")
    for a, b in zip(given, taken, strict=True):
        needs(a is not None and b is not None and a.shape is not None, f"{name} passes nothing")
        same = a.shape == b.shape and a.letter.replace("c", "q") == b.letter.replace("c", "q")
        needs(same, f"{name} passes tensors of other shapes or types")
