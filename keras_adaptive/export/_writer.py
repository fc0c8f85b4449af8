"""Edits .tflite files: adds tensors, subgraphs, signatures, the metadata `info` and its digest."""

import copy
import hashlib
import json

import flatbuffers
import numpy as np
from ai_edge_litert import schema_py_generated as schema

METADATA = "keras_adaptive"  # name of the metadata entry that holds `info`
NO_DIGEST = "0" * 64  # the digest's own field while the digest is computed


def read(content):
    """Returns the file as a tree of objects."""
    return schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))


def write(model):
    """Returns the bytes of a tree of objects."""
    builder = flatbuffers.Builder(1 << 20)
    builder.Finish(model.Pack(builder), b"TFL3")
    return bytes(builder.Output())


def add_buffer(model, data):
    """Adds constant data; returns the number of its buffer."""
    buffer = schema.BufferT()
    buffer.data = np.frombuffer(data, "uint8")
    model.buffers.append(buffer)
    return len(model.buffers) - 1


def tensor(name, shape, dtype, buffer=0):
    """Returns a tensor; buffer 0 is empty: the values come at run time."""
    made = schema.TensorT()
    made.name, made.shape, made.buffer = name, list(shape), buffer
    made.type = getattr(schema.TensorType, dtype.upper())
    return made


def subgraph(name, tensors, inputs, outputs, operators=()):
    """Returns a subgraph; inputs and outputs are numbers of tensors."""
    made = schema.SubGraphT()
    made.name, made.tensors, made.operators = name, list(tensors), list(operators)
    made.inputs, made.outputs = list(inputs), list(outputs)
    return made


def code_of(model, operator):
    """Returns which builtin operation an operator is: a value of `schema.BuiltinOperator`."""
    return model.operatorCodes[operator.opcodeIndex].builtinCode


def operation(model, name, version=1):
    """Returns the number of a builtin operation in the model, adding it if it is new."""
    code = schema.OperatorCodeT()
    code.builtinCode = getattr(schema.BuiltinOperator, name)
    code.deprecatedBuiltinCode, code.version = code.builtinCode, version
    return operation_number(model, code)


def operation_number(model, code):
    """Returns the number of an operation of another file, adding it if it is new."""
    for number, known in enumerate(model.operatorCodes):
        if (known.builtinCode, known.version) == (code.builtinCode, code.version):
            return number
    model.operatorCodes.append(copy.copy(code))
    return len(model.operatorCodes) - 1


def add_signature(model, key, graph, inputs, outputs):
    """Adds a subgraph, last, and a signature for it.

    Last, since XNNPACK is not applied to a file whose first subgraph has nothing to
    compute: every stage would then take twice to three times as long.

    Args:
        inputs, outputs: Dictionaries, name to number of the tensor.
    """
    model.subgraphs.append(graph)
    made = schema.SignatureDefT()
    made.signatureKey, made.subgraphIndex = key, len(model.subgraphs) - 1
    made.inputs, made.outputs = _map(inputs), _map(outputs)
    model.signatureDefs.append(made)


def signature(model, key):
    """Returns the signature of this name."""
    return next(found for found in model.signatureDefs if text(found.signatureKey) == key)


def _map(names):
    entries = []
    for name, number in names.items():
        entry = schema.TensorMapT()
        entry.name, entry.tensorIndex = name, number
        entries.append(entry)
    return entries


def minimum_runtime(model):
    """Returns the oldest runtime that has all operations, for example `"1.11.0"`."""
    for entry in model.metadata or []:
        if text(entry.name) == "min_runtime_version":
            return bytes(model.buffers[entry.buffer].data).rstrip(b"\0").decode()
    return "1.5.0"  # the converter's default where it writes no entry


def raise_minimum_runtime(model, version):
    """Records in the file that it needs at least this runtime."""
    if _version(version) > _version(minimum_runtime(model)):
        data = np.frombuffer(version.encode().ljust(16, b"\0"), "uint8")
        for entry in model.metadata or []:
            if text(entry.name) == "min_runtime_version":
                model.buffers[entry.buffer].data = data


def _version(version):
    return tuple(int(n) for n in version.split("."))


def text(name):
    return name.decode() if isinstance(name, bytes) else name


def add_info(model, info):
    """Adds `info` as JSON: a signature of this name, and metadata; both are one buffer."""
    # the first of this name is the digest: details of the policy may hold others
    content = json.dumps({"sha256": NO_DIGEST, **info}, allow_nan=False).encode()
    buffer = add_buffer(model, content)
    entry = schema.MetadataT()
    entry.name, entry.buffer = METADATA, buffer
    model.metadata = [*(model.metadata or []), entry]
    tensors = [
        tensor("unused", [1], "int32"),
        tensor("json", [len(content)], "uint8", buffer),
    ]
    graph = subgraph("info", tensors, [0], [1])
    add_signature(model, "info", graph, {"unused": 0}, {"json": 1})


def seal(content):
    """Returns the file with its SHA-256 in `info`, computed while that field is zeros.

    It detects damage, not forgery: whoever changes a file can compute it anew.
    """
    field = f'"sha256": "{NO_DIGEST}"'.encode()
    if field not in content:
        raise RuntimeError("The file must hold `sha256`; nothing was written.")
    digest = hashlib.sha256(content).hexdigest()
    return content.replace(field, field.replace(NO_DIGEST.encode(), digest.encode()), 1), digest
