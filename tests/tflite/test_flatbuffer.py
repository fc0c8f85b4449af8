"""What is refused before an interpreter sees a byte: damage, forgery, and too much work."""

import json
import struct
import time
from collections import Counter
from pathlib import Path

import mutants
import numpy as np
import pytest
import random_operations

from anytime_tflite import flatbuffer, operations, read_info
from keras_adaptive.export import _writer as writer
from keras_adaptive.export._writer import schema

ROOT = Path(__file__).parent.parent.parent
FILES = ROOT / "tflite" / "testdata" / "files"
KEPT = [*FILES.glob("*.tflite"), *(ROOT / "tests" / "data" / "before_layout").glob("*.tflite")]


@pytest.fixture(scope="module")
def content():
    return (FILES / "float32.tflite").read_bytes()


@pytest.fixture(autouse=True)
def soon():
    start = time.process_time()
    yield
    assert time.process_time() - start < 20  # of many files; a hang is a minute or more


@pytest.mark.parametrize("path", KEPT, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_what_the_exporter_wrote_is_accepted(path):
    found = flatbuffer.check(path.read_bytes())
    assert {"stage_0", "info"} <= set(found)
    assert found["stage_0"][1]["logits"].letter == "f"


def test_metadata_is_found_as_the_schema_says(content):
    start, length = flatbuffer.metadata(content, "keras_adaptive")
    assert json.loads(content[start : start + length])["format"] == "keras_adaptive.tflite"
    assert flatbuffer.metadata(content, "something else") is None


# ---- one part of the structure is another


def operator(model, options):
    return next(
        each
        for graph in model.subgraphs
        for each in graph.operators or []
        if isinstance(each.builtinOptions, options)
    )


def convolution(model):
    return operator(model, schema.Conv2DOptionsT)


def break_operator(model):
    model.subgraphs[0].operators[1].inputs = [1_000_000]


def break_weights(model):
    """A missing bias is fine; where weights are missing, LiteRT 2.1 crashes."""
    found = convolution(model)
    found.inputs = [found.inputs[0], -1, found.inputs[2]]


def break_buffer(model):
    model.subgraphs[0].tensors[1].buffer = 1_000_000


def break_constant(model):
    graph = model.subgraphs[0]
    constant = next(t for t in graph.tensors if model.buffers[t.buffer].data is not None)
    constant.shape = [*constant.shape[:-1], constant.shape[-1] + 1]


def break_shape(model):
    graph = model.subgraphs[0]
    written = graph.tensors[graph.operators[0].outputs[0]]
    written.shape = [int(n) + 1 for n in written.shape]


def break_type(model):
    graph = model.subgraphs[0]
    graph.tensors[graph.operators[0].outputs[0]].type = schema.TensorType.INT8


def break_strings(model):
    graph = model.subgraphs[0]
    graph.tensors[graph.operators[0].outputs[0]].type = schema.TensorType.STRING


def break_signature(model):
    model.signatureDefs[0].subgraphIndex = 77


def break_name(model):
    model.signatureDefs[0].inputs[0].name = b"a" * 5000


def break_opcode(model):
    model.subgraphs[0].operators[0].opcodeIndex = 77


def break_output(model):
    model.subgraphs[0].outputs = [1_000_000]


def break_input(model):
    """An input that is a constant: what is passed would be written into the file."""
    graph = model.subgraphs[0]
    number = next(
        i for i, t in enumerate(graph.tensors) if model.buffers[t.buffer].data is not None
    )
    graph.inputs = [*graph.inputs, number]


def break_stride(model):
    convolution(model).builtinOptions.strideW = 0


def break_activation(model):
    convolution(model).builtinOptions.fusedActivationFunction = 77


def break_options(model):
    found = convolution(model)
    found.builtinOptionsType = schema.BuiltinOptions.AddOptions
    found.builtinOptions = schema.AddOptionsT()


def break_order(model):
    model.subgraphs[0].operators = model.subgraphs[0].operators[::-1]


def break_place(model):
    model.buffers[1].offset, model.buffers[1].size = 2**40, 8


def break_variable(model):
    model.subgraphs[0].tensors[0].isVariable = True


def break_custom(model):
    model.operatorCodes[0].customCode = b"Flex"


def break_scale(model):
    model.subgraphs[0].tensors[0].quantization = found = schema.QuantizationParametersT()
    found.scale, found.zeroPoint = [float("nan")], [0]


BREAKS = [value for name, value in sorted(globals().items()) if name.startswith("break_")]


@pytest.mark.parametrize("change", BREAKS, ids=lambda change: change.__name__)
def test_what_would_lead_an_interpreter_astray_is_refused(content, write, change):
    model = writer.read(content)
    change(model)
    path = write(mutants.reseal(writer.write(model)))
    with pytest.raises(ValueError, match="must be a whole TFLite model. Received: path=") as error:
        read_info(path)
    assert str(path) in str(error.value)
    assert len(str(error.value)) < 1000


IN_PLACE = """
    SLICE SPLIT STRIDED_SLICE BATCH_MATMUL ASSIGN_VARIABLE VAR_HANDLE READ_VARIABLE CALL_ONCE CUSTOM
    DELEGATE UNIDIRECTIONAL_SEQUENCE_LSTM SVDF TRANSPOSE GATHER_ND IF WHILE
"""


@pytest.mark.parametrize("kind", IN_PLACE.split())  # noqa: SIM905
def test_no_operation_stands_in_the_place_of_another(content, kind):
    model = writer.read(content)
    code = schema.OperatorCodeT()
    code.version, code.builtinCode = 1, getattr(schema.BuiltinOperator, kind)
    code.deprecatedBuiltinCode = min(code.builtinCode, 127)
    model.operatorCodes.append(code)
    places = [o for graph in model.subgraphs for o in graph.operators or []]
    for place in places[::4]:
        before, place.opcodeIndex = place.opcodeIndex, len(model.operatorCodes) - 1
        with pytest.raises(flatbuffer.Damaged):
            flatbuffer.check(writer.write(model))
        place.opcodeIndex = before


def test_forged_structure_is_refused_or_accepted_and_nothing_else():
    contents = [(FILES / f"{name}.tflite").read_bytes() for name in ("float32", "int8")]
    options, rng = mutants.options_of(contents), np.random.default_rng(0)
    refused = 0
    for i in range(24):
        forged = mutants.forge(contents[i % 2], rng, options)
        try:
            flatbuffer.check(forged)
        except flatbuffer.Damaged:
            refused += 1
    assert 12 < refused < 24


# ---- too much work


def many(content, field, count, inside=0):
    """Returns a file in which a list of the model has many tables, all the same.

    Args:
        content: Bytes of a file.
        field: Integer, of the model.
        count: Integer.
        inside: Integer, how long a list each of them has as its first field.
    """

    def repeated(count, then):
        """A list of offsets to what follows it."""
        return (
            struct.pack("<I", count) + (4 * np.arange(count, 0, -1)).astype("<u4").tobytes() + then
        )

    table = struct.pack("<HHi", 4, 4, 4)  # its fields, none, and itself
    if inside:
        table = struct.pack("<HHHHiI", 6, 8, 4, 0, 8, 4) + repeated(inside, table)
    lists = struct.pack("<I", count)
    start = 8 if inside else 4  # of the table behind its fields
    lists += (4 * np.arange(count, 0, -1) + start).astype("<u4").tobytes() + table
    content = bytearray(content + bytes(-len(content) % 4))
    root = struct.unpack_from("<I", content, 0)[0]
    fields = root - struct.unpack_from("<i", content, root)[0]
    at = root + struct.unpack_from("<H", content, fields + 4 + 2 * field)[0]
    struct.pack_into("<I", content, at, len(content) - at)
    return bytes(content + lists)


@pytest.mark.parametrize(
    ("field", "count", "inside"),
    [
        (6, 250_000, 0),  # metadata
        (6, 3_000_000, 0),
        (1, 600_000, 0),  # kinds of operations
        (4, 600_000, 0),  # buffers
        (7, 600_000, 0),  # signatures
        (2, 600_000, 0),  # subgraphs
        (2, 2_000, 5_000),  # subgraphs that share their tensors
    ],
)
def test_more_parts_than_the_exporter_writes_are_refused_soon(content, field, count, inside):
    forged = many(content, field, count, inside)
    start = time.process_time()
    with pytest.raises(flatbuffer.Damaged):
        flatbuffer.check(forged)
    assert time.process_time() - start < 5


def test_metadata_is_looked_for_no_longer_than_the_check_takes(content):
    with pytest.raises(flatbuffer.Damaged, match="more parts than"):
        flatbuffer.metadata(many(content, 6, 3_000_000), "keras_adaptive")


def calling(calls):
    """Returns a file of subgraphs that pass a boolean on; each calls two others, or none."""
    model = schema.ModelT()
    model.version, model.operatorCodes, model.metadata = 3, [], []
    model.buffers, model.subgraphs, model.signatureDefs = [schema.BufferT()], [], []
    for i, called in enumerate(calls):
        tensors = [writer.tensor("in", [1], "bool"), writer.tensor("out", [1], "bool")]
        made = schema.OperatorT()
        made.inputs, made.outputs = [0], [1]
        if called is None:
            made.opcodeIndex = writer.operation(model, "LOGICAL_NOT")
        else:
            made.opcodeIndex, made.inputs = writer.operation(model, "IF"), [0, 0]
            made.builtinOptionsType = schema.BuiltinOptions.IfOptions
            made.builtinOptions = options = schema.IfOptionsT()
            options.thenSubgraphIndex, options.elseSubgraphIndex = called
        model.subgraphs.append(writer.subgraph(f"g{i}", tensors, [0], [1], [made]))
    return writer.write(model)


def test_calls_are_accepted_where_they_end():
    flatbuffer.check(calling([(1, 2), None, None]))
    flatbuffer.check(calling([(1, 1), (2, 2), (3, 3), None]))


@pytest.mark.parametrize(
    ("calls", "message"),
    [
        ([(0, 1), None], "calls itself"),
        ([(1, 2), (0, 2), None], "calls itself"),
        ([(1, 2), (2, 3), (3, 1), None], "calls itself"),
        ([*((i + 1, i + 1) for i in range(59)), None], "more work"),
        ([*((i + 1, i + 1) for i in range(90)), None], "too deep|calls itself"),
        ([(1, 7), None], "a subgraph is missing"),
    ],
)
def test_calls_that_do_not_end_or_explode_are_refused(calls, message):
    start = time.process_time()
    with pytest.raises(flatbuffer.Damaged, match=message):
        flatbuffer.check(calling(calls))
    assert time.process_time() - start < 1


def looping(start=0, end=3, step=1, compared="LESS", size=4):
    """Returns a file with a loop that counts from a number to another."""
    model = schema.ModelT()
    model.version, model.operatorCodes, model.metadata = 3, [], []
    model.buffers, model.subgraphs, model.signatureDefs = [schema.BufferT()], [], []

    def constant(number):
        buffer = writer.add_buffer(model, np.int32(number).tobytes())
        return writer.tensor("number", [], "int32", buffer)

    def made(name, reads, writes, options=None):
        found = schema.OperatorT()
        found.opcodeIndex, found.inputs, found.outputs = (
            writer.operation(model, name),
            reads,
            writes,
        )
        if options is not None:
            kind = type(options).__name__[:-1]
            found.builtinOptionsType = getattr(schema.BuiltinOptions, kind)
            found.builtinOptions = options
        return found

    i, x = (writer.tensor("i", [], "int32"), writer.tensor("x", [1, size], "float32"))
    loop = schema.WhileOptionsT()
    loop.condSubgraphIndex, loop.bodySubgraphIndex = 1, 2
    whole = [constant(start), x, i, x]
    condition = [i, x, constant(end), writer.tensor("goes_on", [], "bool")]
    body = [i, x, constant(step), i, x]
    model.subgraphs = [
        writer.subgraph("main", whole, [1], [3], [made("WHILE", [0, 1], [2, 3], loop)]),
        writer.subgraph("cond", condition, [0, 1], [3], [made(compared, [0, 2], [3])]),
        writer.subgraph(
            "body",
            body,
            [0, 1],
            [3, 4],
            [made("ADD", [0, 2], [3], schema.AddOptionsT()), made("ABS", [1], [4])],
        ),
    ]
    return writer.write(model)


def test_a_loop_that_counts_its_steps_is_accepted():
    flatbuffer.check(looping())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"step": 0}, "does not count its steps"),
        ({"step": -1}, "does not count its steps"),
        ({"compared": "GREATER"}, "does not count its steps"),
        ({"end": 2**31 - 1}, "takes more steps"),
        ({"start": -(2**31)}, "takes more steps"),
        ({"end": 60_000, "size": 2**24}, "more work"),
    ],
)
def test_a_loop_that_may_not_end_is_refused(changes, message):
    with pytest.raises(flatbuffer.Damaged, match=message):
        flatbuffer.check(looping(**changes))


# ---- what is accepted runs


@pytest.mark.subprocess
def test_that_a_crash_would_be_seen(content, write):
    """An operation reads a tensor that is not there."""
    model = writer.read(content)
    break_operator(model)
    path = write(mutants.reseal(writer.write(model)))
    assert mutants.outcome("unchecked", path) in ("crash", "refused")
    with pytest.raises(ValueError, match="a tensor is missing"):
        read_info(path)


@pytest.mark.subprocess
def test_files_with_a_forged_digest_do_not_crash(content, tmp_path):
    rng, paths = np.random.default_rng(1), []
    for i in range(25):
        paths.append(tmp_path / f"{i}.tflite")
        paths[-1].write_bytes(mutants.reseal(mutants.mutate(content, rng)[0]))
    found = Counter(each["outcome"] for each in mutants.outcomes("tflite", paths))
    assert set(found) <= {"refused", "accepted"}, found
    assert found["refused"] >= 5


@pytest.mark.slow
@pytest.mark.subprocess
def test_operations_that_are_accepted_do_not_crash(tmp_path):
    rng, paths = np.random.default_rng(0), []
    for kind in sorted(operations._KINDS):
        content = random_operations.random_operation(rng, kind)
        if content is not None:
            paths.append(tmp_path / f"{kind}.tflite")
            paths[-1].write_bytes(content)
    found = Counter(each["outcome"] for each in mutants.outcomes("operation", paths))
    assert set(found) <= {"refused", "accepted"}, found
    assert found["accepted"] > len(paths) / 2 > 40
