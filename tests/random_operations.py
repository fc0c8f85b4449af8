"""Files of one operation, made at random, among those that the device's check accepts.

What the check accepts must not end an interpreter; this is how the table in
`anytime_tflite.operations` is tried.
"""

import functools
import itertools

import numpy as np

from anytime_tflite import operations
from anytime_tflite.operations import Operation, Tensor, Unlike
from keras_adaptive.export import _writer as writer
from keras_adaptive.export._writer import schema

TYPES = {
    "f": ("float32", "<f4"), "h": ("float16", "<f2"), "i": ("int32", "<i4"), "l": ("int64", "<i8"),
    "w": ("int16", "<i2"), "u": ("uint8", "u1"), "b": ("bool", "?"), "c": ("int8", "i1"),
    "q": ("int8", "i1"), "Q": ("int8", "i1"),
}  # fmt: skip
SHAPES = ((1, 6, 6, 4), (1, 5, 5, 3), (2, 3), (4,), (1, 4, 4, 4, 2), (3, 4, 5), (2, 4, 4, 8))
SCALES = (0.01, 0.05, 1 / 256, 0.5, 2.0, 1e-6, 100.0)
# kind: the axis of the weights that is the number of outputs
WEIGHTS = {3: 0, 4: 3, 9: 0, 67: 0, 132: 4, 141: 3}
TRANSPOSED, BLOCKS = (67, 141), (37, 38)
SUMS = (0, 18, 41, 42, 54, 55, 57, 58, 61, 62, 63, 71, 72, 78, 90, 95, 99)  # of two alike
TRIES = 3000


class Options:
    """Options that the check has asked for, as the schema's writer takes them."""

    def __init__(self):
        self.asked = {}

    def Pack(self, builder):  # noqa: N802  the schema's name
        builder.StartObject(10)
        for field, (kind, value, default) in sorted(self.asked.items()):
            slot = builder.PrependInt8Slot if kind == "<b" else builder.PrependInt32Slot
            slot(field, value, default)
        return builder.EndObject()


@functools.cache
def letters_of(kind):
    """Returns what a kind of operation may read and write, as pairs of letters."""
    pattern = operations._PATTERNS[kind]
    if kind == 48:  # the second output is integers
        return [((letter, "i"), letter + "i") for letter in "filq"]
    letters = sorted(set(pattern.pattern) & {*TYPES, "-"})
    return [
        (reads, out * count)
        for length in range(1, 5)
        for reads in itertools.product(letters, repeat=length)
        for out in letters
        for count in (1, 2, 3)
        if out != "-" and pattern.fullmatch("".join(reads) + ">" + out * count)
    ]


def random_operation(rng, kind):
    """Returns the bytes of a file with one operation of a kind; `None` if none was found."""
    for _ in range(TRIES):
        letters = letters_of(kind)
        reads, writes = letters[rng.integers(len(letters))]
        if kind in (2, 83, 106) and rng.integers(2):
            reads = reads[:1] * int(rng.integers(1, 6))
        base = SHAPES[rng.integers(len(SHAPES))] if kind not in BLOCKS else (4, 6, 6, 4)
        inputs, datas = [], []
        for n, letter in enumerate(reads):
            tensor, data = _input(rng, kind, n, letter, base, inputs, len(writes))
            inputs.append(tensor)
            datas.append(data)
        outputs = [
            Tensor(letter, None, scale=float(rng.choice(SCALES)) if letter == "q" else 0.0)
            for letter in writes
        ]
        options = Options()
        number = _numbers(rng, kind, options, len(inputs), len(outputs))
        made = Operation(kind, inputs, outputs, number, lambda field: ())
        try:
            for tensor, shape in zip(outputs, operations._KINDS[kind][4](made), strict=True):
                tensor.shape = shape
            operations.check(made)
        except (Unlike, ValueError):
            continue
        return _file(rng, kind, inputs, outputs, datas, options)
    return None


def _numbers(rng, kind, options, inputs, outputs):
    def number(field, code="<i", default=0):
        if field not in options.asked:
            if kind in (56, 77, 79):
                value = rng.choice([2, 4])
            elif code == "<b":
                value = rng.choice([0, 0, 1, 1, 2] if rng.integers(20) else [5, 127, -1])
            elif kind == 45:  # bits
                value = rng.choice([0, 0, 0, 1, 2, 3, 7]) if field in (0, 1, 4) else 0
            elif rng.integers(30):
                value = rng.choice([0, 0, 1, 1, 1, 2, 3, -1, inputs, outputs, default])
            else:
                value = rng.choice([2**31 - 1, -(2**31), 1000, 70000])
            options.asked[field] = code, int(value), default
        return options.asked[field][1]

    return number


def _input(rng, kind, n, letter, base, before, outputs):
    """Returns an input and, if it is a constant, its values."""
    if letter == "-":
        return None, None
    shape, parameter = _shape(rng, kind, n, letter, base, before, outputs)
    constant = letter in "hQ" or parameter or not rng.integers(3)
    constant |= n == 1 and kind in WEIGHTS
    data = _values(rng, kind, n, letter, shape, base, before) if constant else None
    tensor = Tensor(letter, tuple(int(size) for size in shape), constant)
    if data is not None and letter in "iluwcqQ":
        tensor.data = memoryview(data.tobytes())
        if letter in "il" and data.size <= 64:
            tensor.values = [(None, int(value)) for value in data]
    if letter == "q":
        tensor.scale = float(rng.choice(SCALES))
    if letter == "Q" and shape:
        tensor.dimension = min(WEIGHTS.get(kind, 0), len(shape) - 1)
    return tensor, data


def _shape(rng, kind, n, letter, base, before, outputs):
    """Returns a shape, and whether the input says how the operation works."""
    if kind in WEIGHTS and n == 1:
        c, (a, b, d) = base[-1], (int(k) for k in rng.choice([1, 2, 3], 3))
        many = int(rng.choice([1, 2, 3, 4, 8]))
        return {
            3: (many, a, b, c), 4: (1, a, b, c * (1 + many % 2)), 9: (many, c),
            67: (many, a, b, c), 132: (a, b, d, c, many), 141: (a, b, d, many, c),
        }[kind], False  # fmt: skip
    if kind in WEIGHTS and n == (3 if kind in TRANSPOSED else 2):
        return (before[1].shape[WEIGHTS[kind]],), False
    if kind in TRANSPOSED:
        return (base, False) if n else ((len(base),), True)
    if kind in BLOCKS and n:
        return ((len(base) - 2,), (len(base) - 2, 2))[n - 1], True
    if kind == 102 and n:
        return ((outputs,), ())[n - 1], True
    if letter in "il" and (n or kind in (49, 94, 122)) and not (kind in SUMS and n < 2):
        rank = len(base)
        shapes = [(), (1,), (2,), (rank,), (rank,), (rank, 2), (rank, 2), (3,), (2, 2), (4,), (5,)]
        return shapes[rng.integers(len(shapes))], True
    kept = rng.integers(10)
    if kept < 4 or not base:
        return base, False
    if kept < 6:
        place = rng.integers(len(base))
        return (*base[:place], int(rng.choice([1, 1, 2, 3])), *base[place + 1 :]), False
    if kept < 8:
        return (base[1:] if kept < 7 else ()), False
    return tuple(int(size) for size in rng.choice([1, 2, 3, 4, 5, 8], rng.integers(0, 6))), False


def _values(rng, kind, n, letter, shape, base, before):
    dtype, size = TYPES[letter][1], int(np.prod(shape))
    if letter in "fh":
        return rng.normal(0, 2, size).astype(dtype)
    if letter == "b":
        return rng.integers(0, 2, size).astype(dtype)
    if kind in TRANSPOSED and n == 0:
        grown = [s * int(rng.integers(1, 3)) + int(rng.integers(3)) for s in base[1:-1]]
        return np.array([base[0], *grown, rng.choice([1, 2, 3, 4, 8])], dtype)
    if kind == 102 and n == 1 and before[0].shape:
        return np.array([max(max(before[0].shape) - size + 1, 0)] + [1] * (size - 1), dtype)
    if kind in BLOCKS and n == 2:
        return rng.integers(0, 2, size).astype(dtype)
    if size == len(base) and not rng.integers(3):
        return rng.permutation(size).astype(dtype)
    if size == len(base) and not rng.integers(4):
        return np.array(base, dtype)
    low = 0 if letter == "u" else rng.choice([-2, 0, 0, 1])
    values = rng.integers(low, rng.choice([2, 3, 6]), size).astype(dtype)
    if size and letter in "il" and not rng.integers(30):
        values[rng.integers(size)] = rng.choice([2**31 - 1, -(2**31), 2**20, -1])
    return values


def _file(rng, kind, inputs, outputs, datas, options):
    model = schema.ModelT()
    model.version, model.metadata, model.signatureDefs = 3, [], []
    model.buffers, model.subgraphs = [schema.BufferT()], []
    tensors, reads, given = [], [], {}
    datas = [*datas, *[None] * len(outputs)]
    for n, (tensor, data) in enumerate(zip([*inputs, *outputs], datas, strict=True)):
        if tensor is None:
            reads.append(-1)
            continue
        filled = data is not None and data.size
        buffer = writer.add_buffer(model, data.tobytes()) if filled else 0
        made = writer.tensor(f"t{n}", tensor.shape, TYPES[tensor.letter][0], buffer)
        if tensor.letter in "qQ":
            made.quantization = found = schema.QuantizationParametersT()
            each = tensor.letter == "Q" and tensor.shape  # a scale of its own
            many = tensor.shape[tensor.dimension] if each else 1
            found.scale, found.zeroPoint = [tensor.scale or 0.01] * many, [0] * many
            found.quantizedDimension = tensor.dimension
        tensors.append(made)
        if n < len(inputs):
            reads.append(len(tensors) - 1)
            if data is None:
                given[f"t{n}"] = len(tensors) - 1
    code = schema.OperatorCodeT()
    code.builtinCode, code.deprecatedBuiltinCode = kind, min(kind, 127)
    code.version = int(rng.integers(1, 6)) if not rng.integers(5) else 1
    operator = schema.OperatorT()
    writes = list(range(len(tensors) - len(outputs), len(tensors)))
    operator.inputs, operator.outputs = reads, writes
    number, must = operations.OPTIONS[kind]
    if number and (must or options.asked):
        operator.builtinOptionsType, operator.builtinOptions = number, options
    model.operatorCodes = [code]
    graph = writer.subgraph("main", tensors, given.values(), writes, [operator])
    writer.add_signature(model, "main", graph, given, {f"t{n}": n for n in writes})
    return writer.write(model)
