"""Verifies a written .tflite file: reads it back and compares it with the network."""

import json

import numpy as np
from ai_edge_litert import schema_py_generated as schema

from anytime_tflite import AnytimeModel
from anytime_tflite.backends import InterpreterBackend, interpreter_class
from keras_adaptive.costs._beside import NAME
from keras_adaptive.export import _writer
from keras_adaptive.export._inputs import count, rows_of
from keras_adaptive.export._recalibration import relative_error

RUNTIMES = {"litert": (2, 21), "tflite-2.14": (2, 14)}  # the newest operations they know
# of float32 logits, relative to the largest: rounding causes about 1e-6, and in deep networks more:
# an untrained MobileNetV2 in Keras is 1.6e-5 off the same in float64
TOLERANCE = 1e-4
SAME = 1e-5  # of logits that the same operations give
SPREAD = 0.5  # of quantized logits, in standard deviations; a damaged file has 1 or more
TRIALS = 3  # random inputs
LARGE = 1024  # numbers in a constant; the converter leaves smaller ones as they are
BYTES = {None: 4, "float16": 2, "dynamic": 1, "int8": 1}
HEAVY = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "CONV_3D")
PRODUCTS = (*HEAVY, "BATCH_MATMUL")


def file_answers(backend, stages, data):
    """Returns what the stages of a file give, as the runtime runs them.

    Args:
        backend: `InterpreterBackend` of the file.
        stages: Integer, how many it has.
        data: Dictionary: name of each input to an array `(samples, ...)`.

    Returns:
        Dictionary of arrays: `logits`, `(exits, samples, classes)`, and `cost`,
        `(exits, samples)`, `None` where the file does not give it.
    """
    logits, costs = [], []
    for row in range(count(data)):
        backend.start(rows_of(data, slice(row, row + 1)))
        answers = [(backend.run(i), backend.cost) for i in range(stages)]
        logits.append([z for z, _ in answers])
        costs.append([cost for _, cost in answers])
    cost = None if backend.cost is None else np.transpose(costs)
    return {"logits": np.swapaxes(logits, 0, 1), "cost": cost}


def file_logits(content, stages, data):
    """Returns the logits of a file that is in memory; arguments as in `file_answers`."""
    backend = InterpreterBackend(content, 1, stages, list(data))
    return file_answers(backend, stages, data)["logits"]


def keras_answers(stages, data, batch_size=100):
    """Returns what the Keras stages give, as `file_answers` does.

    Args:
        stages: As `_graph.minimal_stages` returns them.
        data: Dictionary: name of each input to an array `(samples, ...)`.
    """
    parts = []
    few = count(data) <= TRIALS  # tracing takes longer than running them one by one
    for start in range(0, count(data), batch_size):
        tensors = rows_of(data, slice(start, start + batch_size))
        part = []
        for stage, inputs, outputs in stages:
            given = [tensors[name] for name in inputs]
            answers = stage(given, training=False) if few else stage.predict_on_batch(given)
            answers = [np.asarray(answer) for answer in answers]
            tensors.update(zip(["logits", *outputs], answers, strict=True))
            part.append((tensors["logits"], tensors.get(NAME)))
        parts.append(part)
    logits, costs = zip(*(zip(*part, strict=True) for part in parts), strict=True)
    cost = None if costs[0][0] is None else np.concatenate(costs, axis=1)[..., 0]
    return {"logits": np.concatenate(logits, axis=1), "cost": cost}


def check_model(model, size, stages, quantize, runtime):
    """Raises a RuntimeError unless a file's operations, weights and version are as required.

    Args:
        model: `schema.ModelT`.
        size: Bytes of the file.
        stages: As `_graph.minimal_stages` returns them.
        quantize: How the weights must be stored.
        runtime: Name of the runtime that must know the operations.
    """
    builtin = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    for code in model.operatorCodes:
        name = builtin[code.builtinCode]
        if code.customCode is not None or name in ("VAR_HANDLE", "READ_VARIABLE"):
            raise RuntimeError(
                f"The file must hold stateless builtin operations only. It holds {name} "
                f"{code.customCode or ''}; nothing was written."
            )
    weights = {id(v): v for stage, _, _ in stages for v in stage.trainable_variables}
    # batch normalization is folded into the convolutions; kernels stay
    kernels = sum(int(np.prod(v.shape)) for v in weights.values() if len(v.shape) > 1)
    least = BYTES[quantize] * kernels
    if size < least:
        raise RuntimeError(
            f"The file must hold its weights, {least} bytes or more. It has {size}; "
            "nothing was written."
        )
    needed = _writer.minimum_runtime(model)
    newest = RUNTIMES[runtime]
    if tuple(int(n) for n in needed.split(".")[:2]) > newest:
        raise RuntimeError(
            f"The file must run on version {'.'.join(map(str, newest))} of the runtime. "
            f"It needs {needed}; nothing was written."
        )


def check_weights(model, quantize):
    """Raises a RuntimeError if a large weight, or a heavy operation, of a stage stayed float32.

    Biases stay float32, and with ranges measured on the device also what is added or looked up.

    Args:
        model: `schema.ModelT` of the stages alone.
        quantize: How the weights must be stored.
    """
    if quantize is None:
        return
    builtin = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    for graph in model.subgraphs:
        products = [
            int(number)
            for operator in graph.operators
            if builtin[_writer.code_of(model, operator)] in PRODUCTS
            for number in operator.inputs
        ]
        for number, tensor in enumerate(graph.tensors):
            data = model.buffers[tensor.buffer].data
            large = data is not None and len(data) >= 4 * LARGE and len(tensor.shape) > 1
            quantized = quantize != "dynamic" or number in products
            if large and quantized and tensor.type == schema.TensorType.FLOAT32:
                _raise_float(quantize, tensor)
        if quantize != "int8":
            continue
        for operator in graph.operators:
            weight = graph.tensors[operator.inputs[1]] if len(operator.inputs) > 1 else None
            heavy = builtin[_writer.code_of(model, operator)] in HEAVY
            if heavy and weight.type != schema.TensorType.INT8:
                _raise_float(quantize, weight)


def _raise_float(quantize, tensor):
    raise RuntimeError(
        f"Every weight must be stored as {quantize}. The converter left "
        f"{_writer.text(tensor.name)!r}, of shape {[int(n) for n in tensor.shape]}, in "
        "float32, as it does where an operation has no such form (convolutions in three "
        'dimensions have none in int8); nothing was written. `quantize="float16"` has one for all.'
    )


def check_answers(content, stages, info, data):
    """Raises a RuntimeError unless the runtime opens the file and gives the network's answers.

    Args:
        content: Bytes of the file.
        stages: As `_graph.minimal_stages` returns them.
        info: Dictionary, the metadata that the file must hold.
        data: Dictionary: name of each input to an array to compare on.
    """
    interpreter = interpreter_class()(model_content=content)
    read = interpreter.get_signature_runner("info")(unused=np.zeros(1, "int32"))["json"]
    if json.loads(bytes(read).decode()) != json.loads(json.dumps(info)):
        raise RuntimeError("The file must hold its info. It does not; nothing was written.")
    backend = InterpreterBackend(content, 1, len(stages), list(data))
    data = rows_of(data, slice(TRIALS if info["quantize"] is None else 100))
    expected, found = keras_answers(stages, data), file_answers(backend, len(stages), data)
    for k, z, y in zip(info["exits"], expected["logits"], found["logits"], strict=True):
        if info["quantize"] is None:
            error, limit = np.abs(y - z).max(), TOLERANCE * max(1, np.abs(z).max())
        else:
            error, limit = relative_error(z[None], y[None])[0], SPREAD
        if not error <= limit:
            raise RuntimeError(
                f"Exit {k} of the file must equal Keras. It differs by "
                f"{error:.3g}; nothing was written."
            )
    exact = info["quantize"] is None and expected["cost"] is not None
    if exact and not np.allclose(found["cost"], expected["cost"], rtol=1e-4):
        raise RuntimeError(
            f"The file must give what an answer costs, {expected['cost'].tolist()}. "
            f"It gives {found['cost']}; nothing was written."
        )
    if "predict" in backend.signatures:
        agreeing = info["patience"] is not None or info["agreement"] is not None
        _check_single_call(backend, info["exits"], rows_of(data, slice(TRIALS)), found, agreeing)
    try:
        AnytimeModel(content, num_threads=1).close()
    except ValueError as error:
        raise RuntimeError(
            f"The file must open on a device. It does not; nothing was written. {error}"
        ) from error


def _check_single_call(backend, exits, data, found, agreeing):
    """Raises an error unless the single call computes the stages' answers.

    Where answers that agree end it, `agreeing`, it may leave before its thresholds say so.
    """
    for row in range(count(data)):
        for i, exit in enumerate(exits):
            thresholds = np.full(len(exits), np.inf, "float32")
            thresholds[i] = -np.inf
            try:
                given = {**rows_of(data, slice(row, row + 1)), "thresholds": thresholds}
                logits, left = backend.predict(given)
            except RuntimeError as error:
                raise ValueError(
                    "`single_call=True` needs a model whose shapes are known before it runs, "
                    f"except for the batch. Received: a model for which the runtime says "
                    f"{str(error).strip()!r}; nothing was written."
                ) from error
            i_left = exits.index(left) if left in exits else -1
            same = i_left == i or (agreeing and 0 <= i_left < i)
            same = same and np.abs(logits - found["logits"][i_left, row]).max() <= SAME
            if found["cost"] is not None:
                same = same and backend.cost == found["cost"][i_left, row]
            if not same:
                raise RuntimeError(
                    f"The single call must leave at exit {exit} with its logits. It left at "
                    f"{left}; nothing was written."
                )
