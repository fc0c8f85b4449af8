"""Files of every kind with something wrong in them, made at random, and what opening them does.

    python -m tests.mutants tflite

opens the files whose paths it reads, one a line, and says of each what happened: a program of its
own, since what is opened may end it.
"""

import copy
import hashlib
import io
import json
import os
import select
import subprocess
import sys
import time
from contextlib import redirect_stderr, redirect_stdout
from pathlib import Path

import numpy as np

ROOT = Path(__file__).parent.parent
DIGEST = b'"sha256": "'
SECONDS = 5  # of computing for one file; more is a hang
PATIENCE = 120  # seconds to wait for an answer, however busy the machine is
LETTERS = 2000  # of a message; more says nothing to anybody
NUMBERS = (0, 1, -1, 2, 3, 4, 7, 8, 16, 255, 2**15, 2**20, 2**31 - 1, -(2**31))
HOSTILE = (
    None, True, False, -1, 0, 0.5, 1e308, -1e308, 10**30, "", "NaN", "Infinity", "<script>",
    "../../etc/passwd", "/etc/passwd", "\ud800", "x" * 20000, [], {}, [None], [[[[1]]]], {"a": {}},
)  # fmt: skip

# of the structure of a .tflite file: the likelier to matter, the more often
CHANGES = (
    *["kind", "data"] * 3, *["shape", "option"] * 2, "input", "inputs", "output", "type", "rank",
    "buffer", "scale", "zero", "axis", "order", "twice", "gone", "ends", "signature", "version",
    "grows", "swap", "sizes",
)  # fmt: skip


# ---- bytes


def mutate(content, rng):
    """Returns a changed copy of some bytes, and the name of what was done."""
    kinds = ("flip", "byte", "number", "cut", "insert", "delete", "zero", "copy")
    while True:
        kind = kinds[rng.integers(len(kinds))]
        changed = bytearray(content)
        at, length = int(rng.integers(len(content))), int(rng.integers(1, 64))
        if kind == "flip":
            changed[at] ^= 1 << int(rng.integers(8))
        elif kind == "byte":
            changed[at] = int(rng.integers(256))
        elif kind == "number":  # offsets, sizes and indices are 4 bytes, aligned
            at = at // 4 * 4
            value = int(rng.choice([0, 1, 2, 255, 2**16, 2**31 - 1, 2**31, 2**32 - 1]))
            changed[at : at + 4] = value.to_bytes(4, "little")
        elif kind == "cut":
            del changed[at:]
        elif kind == "insert":
            changed[at:at] = rng.bytes(length)
        elif kind == "delete":
            del changed[at : at + length]
        elif kind == "zero":
            changed[at : at + length] = bytes(min(length, len(content) - at))
        else:
            other = int(rng.integers(len(content)))
            changed[at : at + length] = content[other : other + length]
        if bytes(changed) != content:
            return bytes(changed), kind


def reseal(content):
    """Returns the file with its digest computed anew, as somebody who forges it would."""
    at = content.find(DIGEST)
    if at < 0 or at + len(DIGEST) + 64 > len(content):
        return content
    at += len(DIGEST)
    digest = hashlib.sha256(content[:at] + b"0" * 64 + content[at + 64 :]).hexdigest()
    return content[:at] + digest.encode() + content[at + 64 :]


# ---- JSON


def replace_in_json(value, rng):
    """Returns a copy of what JSON holds in which one part is another, gone, deep or many."""
    value = copy.deepcopy(value)
    places = list(_places(value))
    holder, key = places[rng.integers(len(places))]
    kind = rng.integers(8)
    if kind == 0:
        del holder[key]
    elif kind == 1:
        for _ in range(int(rng.choice([3, 50, 200]))):
            holder[key] = [holder[key]]
    elif kind == 2 and isinstance(holder[key], list):
        holder[key] = holder[key] * int(rng.choice([2, 1000]))
    elif kind == 3:
        other, place = places[rng.integers(len(places))]
        holder[key] = copy.deepcopy(other[place])
    else:
        holder[key] = copy.deepcopy(HOSTILE[rng.integers(len(HOSTILE))])
    return value


def _places(value):
    """Yields what holds each part of what JSON holds, and its key there."""
    keys = range(len(value)) if isinstance(value, list) else list(value)
    for key in keys:
        yield value, key
        if isinstance(value[key], (list, dict)):
            yield from _places(value[key])


# ---- the structure of .tflite files


def options_of(contents):
    """Returns of each kind of operation in some files: options that it may have, and versions."""
    from keras_adaptive.export import _writer as writer

    found = {}
    for content in contents:
        model = writer.read(content)
        for graph in model.subgraphs:
            for each in graph.operators or []:
                code = model.operatorCodes[each.opcodeIndex]
                options = each.builtinOptionsType, each.builtinOptions, code.version
                found.setdefault(code.builtinCode, []).append(options)
    return found


def forge(content, rng, options):
    """Returns a file in which something of the structure is another, its digest right.

    Args:
        content: Bytes of a file.
        rng: A numpy random generator.
        options: As `options_of` returns them.
    """
    from keras_adaptive.export import _writer as writer

    while True:
        model = writer.read(content)
        for _ in range(int(rng.choice([1, 1, 1, 2, 3]))):
            _change(model, rng, options)
        try:
            forged = reseal(writer.write(model))
        except Exception:  # noqa: BLE001, S112  what cannot be written is no file
            continue
        if forged != content:
            return forged


def _change(model, rng, options):
    from keras_adaptive.export._writer import schema

    def one(items):
        return items[rng.integers(len(items))]

    graphs = [g for g in model.subgraphs if g.operators and g.tensors]
    if not graphs:
        return
    graph = one(graphs)
    operator, tensor = one(graph.operators), one(graph.tensors)
    numbers = len(graph.tensors)
    shape = [] if tensor.shape is None else [int(n) for n in tensor.shape]
    kind = one(CHANGES)
    if kind == "kind":
        code = schema.OperatorCodeT()
        code.builtinCode = one(sorted(options))
        number, values, code.version = one(options[code.builtinCode])
        code.deprecatedBuiltinCode = min(code.builtinCode, 127)
        model.operatorCodes.append(code)
        operator.opcodeIndex = len(model.operatorCodes) - 1
        if rng.integers(4):
            operator.builtinOptionsType, operator.builtinOptions = number, copy.copy(values)
    elif kind == "input" and len(operator.inputs):
        operator.inputs = list(operator.inputs)
        operator.inputs[rng.integers(len(operator.inputs))] = int(rng.integers(-1, numbers + 1))
    elif kind == "inputs":
        operator.inputs = [int(n) for n in rng.integers(-1, numbers, rng.integers(0, 5))]
    elif kind == "output":
        kept = list(operator.outputs) if rng.integers(2) else []
        operator.outputs = [*kept, int(rng.integers(numbers))]
    elif kind == "type":
        tensor.type = int(rng.integers(0, 16))
    elif kind == "shape" and shape:
        shape[rng.integers(len(shape))] = one(NUMBERS)
        tensor.shape = shape
    elif kind == "rank":
        tensor.shape = shape[:-1] if rng.integers(2) else [1, *shape]
    elif kind == "buffer":
        tensor.buffer = int(rng.integers(len(model.buffers) + 1))
    elif kind in ("scale", "zero", "axis"):
        found = tensor.quantization or schema.QuantizationParametersT()
        tensor.quantization = found
        if kind == "axis":
            found.quantizedDimension = one(NUMBERS)
        elif kind == "zero":
            found.zeroPoint = [one(NUMBERS)] * int(rng.integers(0, 3))
        else:
            scale = one((1e-38, 1e-20, 1e-6, 1.0, 1e6, 1e20, 3e38, -1.0, 0.0, float("nan")))
            found.scale = [scale] * int(rng.integers(0, 4))
    elif kind == "option" and operator.builtinOptions is not None:
        values = {k: v for k, v in vars(operator.builtinOptions).items() if np.isscalar(v)}
        if values:
            name = one(sorted(values))
            if isinstance(values[name], bool):
                chosen = not values[name]
            elif isinstance(values[name], float):
                chosen = one((0.0, -1.0, 1e30, float("inf"), float("nan")))
            else:
                chosen = one(NUMBERS) if rng.integers(2) else int(rng.integers(-1, 8))
            setattr(operator.builtinOptions, name, chosen)
    elif kind == "data":
        small = [b for b in model.buffers if b.data is not None and len(b.data) in range(4, 65, 4)]
        if small:
            buffer = one(small)
            values = np.array(buffer.data, "u1").view("<i4").copy()
            chosen = one(NUMBERS) if rng.integers(2) else int(rng.integers(-3, 9))
            values[rng.integers(len(values))] = chosen
            buffer.data = values.view("u1")
    elif kind == "order":
        graph.operators = [graph.operators[i] for i in rng.permutation(len(graph.operators))]
    elif kind == "twice":
        graph.operators.insert(int(rng.integers(len(graph.operators))), copy.copy(operator))
    elif kind == "gone":
        graph.operators.remove(operator)
    elif kind == "ends":
        chosen = [int(n) for n in rng.integers(0, numbers, rng.integers(0, 4))]
        setattr(graph, one(("inputs", "outputs")), chosen)
    elif kind == "signature":
        signature = one(model.signatureDefs)
        entries = [*(signature.inputs or []), *(signature.outputs or [])]
        if not rng.integers(3) or not entries:
            signature.subgraphIndex = int(rng.integers(len(model.subgraphs) + 1))
        elif rng.integers(2):
            one(entries).tensorIndex = int(rng.integers(8))
        else:
            one(entries).name = one((b"", b"logits", b"\xff", b"a" * 5000, b"x"))
    elif kind == "version":
        one(model.operatorCodes).version = one(NUMBERS)
    elif kind == "grows":
        tensor.shapeSignature = [-1] * len(shape)
    elif kind == "swap":
        a, b = (int(n) for n in rng.integers(0, numbers, 2))
        graph.tensors[a], graph.tensors[b] = graph.tensors[b], graph.tensors[a]
    elif kind == "sizes":
        old, new = int(rng.choice([1, 2, 3, 4, 6, 8])), one(NUMBERS)
        for each in graph.tensors:
            if each.shape is not None:
                each.shape = [new if int(n) == old else int(n) for n in each.shape]


def forge_info(content, rng):
    """Returns a file whose `info` says something else in one place, its digest right."""
    from keras_adaptive.export import _writer as writer

    model = writer.read(content)
    entry = next(e for e in model.metadata if writer.text(e.name) == writer.METADATA)
    info = replace_in_json(json.loads(bytes(model.buffers[entry.buffer].data)), rng)
    text = json.dumps(info)
    if not rng.integers(8):
        text = text.replace("1", "1" * 6000, 1) if rng.integers(2) else "[" * 5000 + text
    data = np.frombuffer(text.encode("utf-8", "replace"), "u1")
    model.buffers[entry.buffer].data = data
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            if tensor.buffer == entry.buffer:
                tensor.shape = [len(data)]
    return reseal(writer.write(model))


# ---- opening them


def outcomes(way, paths):
    """Opens files in a program of its own, which is begun anew after one that ends it.

    Args:
        way: String, of `WAYS`.
        paths: Sequence of paths.

    Returns:
        List of dictionaries: `outcome`, `"refused"`, `"accepted"`, `"crash"`, `"hang"`,
        `"unnamed"` (the message does not name the thing, or is too long) or `"other"` (an
        exception of another kind); `said`, what was said; `seconds` of computing.
    """
    found = []
    while len(found) < len(paths):
        child = subprocess.Popen(
            [sys.executable, "-m", "tests.mutants", way],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            cwd=ROOT,
            text=True,
        )
        with child:
            for path in paths[len(found) :]:
                child.stdin.write(f"{path}\n")
                child.stdin.flush()
                answered = select.select([child.stdout], [], [], PATIENCE)[0]
                said = child.stdout.readline() if answered else ""
                if not said:
                    kind = "crash" if answered else "hang"
                    found.append({"outcome": kind, "said": path.name, "seconds": None})
                    break
                found.append(json.loads(said))
            child.kill()
    return found


def outcome(way, path):
    """Returns the outcome of one file."""
    return outcomes(way, [path])[0]["outcome"]


def judge(function, path):
    """Returns what opening a file does, as `outcomes` does."""
    start = time.process_time()
    try:
        with redirect_stderr(io.StringIO()) as stderr, redirect_stdout(io.StringIO()):
            function(path)
        kind, said = "accepted", ""
    except (ValueError, OSError) as error:
        kind, said = "refused", str(error)
    except SystemExit as error:
        kind, said = ("refused" if error.code == 2 else "other"), stderr.getvalue()
    except BaseException as error:  # noqa: BLE001  whatever it is, it is counted
        kind, said = "other", repr(error)
    seconds = time.process_time() - start
    if kind == "refused" and not ((path.name in said or "`" in said) and len(said) <= LETTERS):
        kind = "unnamed"
    return {"outcome": "hang" if seconds > SECONDS else kind, "said": said, "seconds": seconds}


def open_tflite(path):
    from anytime_tflite import AnytimeModel

    with AnytimeModel(path, num_threads=1) as device:
        inputs = device._backend.inputs.items()
        zeros = {name: np.zeros(shape, dtype) for name, (shape, dtype) in inputs}
        device.classify(zeros)
        if "predict" in device._backend.signatures:
            device.predict(zeros)


def open_unchecked(path):
    from anytime_tflite import file, flatbuffer

    flatbuffer.check, file.unlike = lambda content: None, lambda info, signatures: None
    open_tflite(path)


def open_operation(path):
    """Runs what the check accepts of a file that is no network."""
    from anytime_tflite import flatbuffer
    from anytime_tflite.backends import interpreter_class

    content = path.read_bytes()
    try:
        flatbuffer.check(content)
        interpreter = interpreter_class()(model_content=content, num_threads=1)
        interpreter.allocate_tensors()
        for key in interpreter.get_signature_list():
            runner = interpreter.get_signature_runner(key)
            for value in (0, 1, -3, 2**30):
                given = {
                    name: np.full(each["shape"], value).astype(each["dtype"])
                    for name, each in runner.get_input_details().items()
                }
                runner(**given)
    except (ValueError, RuntimeError) as error:
        raise ValueError(f"`path` must run. Received: path={path} ({error})") from error


def open_policy(path):
    import keras_adaptive as ka

    ka.ExitPolicy.load(path)


def open_run(path):
    from keras_adaptive.cli import main

    main(["report", str(path)])


def open_images(path):
    import keras_adaptive as ka

    ka.data.load(str(path), cache_dir=path.parent / "cache", image_size=8)


def open_picture(path):
    from anytime_tflite import pixels

    pixels.read(path, pixels.rule(8, 8, 3))


WAYS = {
    "tflite": open_tflite,
    "unchecked": open_unchecked,
    "operation": open_operation,
    "policy": open_policy,
    "run": open_run,
    "images": open_images,
    "picture": open_picture,
}


def main(way):
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # what libraries print is no answer
    if way in ("run", "images"):
        import tensorflow  # noqa: F401  takes longer than opening many files
    for line in sys.stdin:
        answer = judge(WAYS[way], Path(line.rstrip("\n")))
        answer["said"] = answer["said"][:300]
        print(json.dumps(answer), file=answers, flush=True)


if __name__ == "__main__":
    main(sys.argv[1])
