"""Verifies a written .tflite file: reads it back and compares it with the network."""

import json

import keras
import numpy as np
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from keras_adaptive.export import _writer
from keras_adaptive.export._recalibration import relative_error

RUNTIMES = {"litert": (2, 21), "tflite-2.14": (2, 14)}  # the newest operations they know
TOLERANCE = 1e-5  # of float32 logits, relative to the largest; rounding causes about 1e-6
SPREAD = 0.5  # of quantized logits, in standard deviations; a damaged file has 1 or more
TRIALS = 3  # random inputs
LARGE = 1024  # numbers in a constant; the converter leaves smaller ones as they are
BYTES = {None: 4, "float16": 2, "dynamic": 1, "int8": 1}
HEAVY = ("CONV_2D", "DEPTHWISE_CONV_2D", "TRANSPOSE_CONV", "FULLY_CONNECTED", "CONV_3D")


class FileStages:
    """Runs the stages of a file that is in memory.

    Args:
        content: Bytes of the file.
        stages: As `_graph.minimal_stages` returns them; only their names are used.
    """

    def __init__(self, content, stages):
        self.interpreter = Interpreter(model_content=content)
        self.interpreter.allocate_tensors()
        self._stages = [
            (self.interpreter.get_signature_runner(f"stage_{i}"), inputs)
            for i, (_, inputs, _) in enumerate(stages)
        ]

    def logits(self, images):
        """Returns the logits of every exit, `(exits, samples, classes)`."""
        rows = []
        for image in images:
            tensors = {"input_0": image[None]}
            row = []
            for runner, inputs in self._stages:
                tensors.update(runner(**{name: tensors[name] for name in inputs}))
                row.append(tensors["logits"][0].copy())
            rows.append(row)
        return np.swapaxes(rows, 0, 1)


def keras_logits(stages, images, batch_size=100):
    """Returns the logits of the Keras stages, `(exits, samples, classes)`."""
    parts = []
    for start in range(0, len(images), batch_size):
        tensors = {"input_0": images[start : start + batch_size]}
        part = []
        for stage, inputs, outputs in stages:
            logits, *features = stage.predict_on_batch([tensors[name] for name in inputs])
            tensors.update(zip(outputs, features, strict=True))
            part.append(logits)
        parts.append(np.stack(part))
    return np.concatenate(parts, axis=1)


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
    if quantize is not None:
        _check_weights(model, quantize, builtin)


def _check_weights(model, quantize, builtin):
    """Raises a RuntimeError if a large weight, or a heavy operation, stayed float32."""
    for graph in model.subgraphs:
        for tensor in graph.tensors:
            data = model.buffers[tensor.buffer].data
            large = data is not None and len(data) >= 4 * LARGE
            if large and tensor.type == schema.TensorType.FLOAT32:
                _raise_float(quantize, tensor)
        if quantize != "int8":
            continue
        for operator in graph.operators:
            weight = graph.tensors[operator.inputs[1]] if len(operator.inputs) > 1 else None
            heavy = builtin[model.operatorCodes[operator.opcodeIndex].builtinCode] in HEAVY
            if heavy and weight.type != schema.TensorType.INT8:
                _raise_float(quantize, weight)


def _raise_float(quantize, tensor):
    raise RuntimeError(
        f"Every weight must be stored as {quantize}. The converter left "
        f"{_writer.text(tensor.name)!r}, of shape {[int(n) for n in tensor.shape]}, in "
        "float32; nothing was written."
    )


def check_answers(content, stages, info, images=None):
    """Raises a RuntimeError unless the file computes the same answers as the network.

    Args:
        content: Bytes of the file.
        stages: As `_graph.minimal_stages` returns them.
        info: Dictionary, the metadata that the file must hold.
        images: Array of inputs to compare on. `None`: random ones.
    """
    file = FileStages(content, stages)
    interpreter = file.interpreter
    read = interpreter.get_signature_runner("info")(unused=np.zeros(1, "int32"))["json"]
    if json.loads(bytes(read).decode()) != json.loads(json.dumps(info)):
        raise RuntimeError("The file must hold its info. It does not; nothing was written.")
    if images is None:
        shape = (TRIALS, *stages[0][0].inputs[0].shape[1:])
        images = np.random.default_rng(0).normal(size=shape).astype("float32")
    images = images[:TRIALS] if info["quantize"] is None else images[:100]
    expected, found = keras_logits(stages, images), file.logits(images)
    for k, z, y in zip(info["exits"], expected, found, strict=True):
        if info["quantize"] is None:
            error, limit = np.abs(y - z).max(), TOLERANCE * max(1, np.abs(z).max())
        else:
            error, limit = relative_error(z[None], y[None])[0], SPREAD
        if not error <= limit:
            raise RuntimeError(
                f"Exit {k} of the file must equal Keras. It differs by "
                f"{error:.3g}; nothing was written."
            )
    if "predict" in interpreter.get_signature_list():
        _check_single_call(interpreter, info["exits"], images[:TRIALS], found)


def _check_single_call(interpreter, exits, images, logits):
    """Raises an error unless the single call computes the stages' answers."""
    runner = interpreter.get_signature_runner("predict")
    for row, image in enumerate(images):
        for i, exit in enumerate(exits):
            thresholds = np.full(len(exits), np.inf, "float32")
            thresholds[i] = -np.inf
            try:
                answer = runner(x=image[None], thresholds=thresholds)
            except RuntimeError as error:
                raise ValueError(
                    "`single_call=True` needs a model whose shapes are known before it runs, "
                    f"except for the batch. Received: a model for which the runtime says "
                    f"{str(error).strip()!r}; nothing was written."
                ) from error
            same = np.abs(answer["logits"][0] - logits[i, row]).max() <= TOLERANCE
            if answer["exit_index"].tolist() != [exit] or not same:
                raise RuntimeError(
                    f"The single call must leave at exit {exit} with its logits. It left at "
                    f"{answer['exit_index'].tolist()}; nothing was written."
                )


def as_input(images, dtype):
    """Returns images as an array of the network's input dtype."""
    return np.asarray(images).astype(keras.backend.standardize_dtype(dtype), copy=False)
