"""Writes a network and its policy as one .tflite file with one signature a stage."""

import json
import tempfile

import keras
import numpy as np
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter

from keras_adaptive import graph
from keras_adaptive.files import write_whole
from keras_adaptive.policy import ExitPolicy, to_json
from keras_adaptive.training import AdaptiveModel

FORMAT = "keras_adaptive.tflite"
VERSION = 1
TOLERANCE = 1e-5  # of logits, relative to the largest; rounding gives about 1e-6
OLDEST_RUNTIME = (2, 14)  # the last release of tflite-runtime
TRIALS = 3


def export_tflite(model, path, policy, *, class_names=None, preprocessing=None):
    """Writes one .tflite file that gives an answer after every stage.

    The file holds a signature `stage_0`, `stage_1`, ... for every exit the policy
    uses, and `info`: a JSON text with thresholds, temperatures, costs and class names.
    A stage takes named tensors (`input_0` is the image) and gives `logits` and the
    named `features_<i>` that later stages take. Exits that the policy closes (+inf)
    are left out, with their heads. Confidence is not in the file: `anytime_tflite`,
    or the app, computes it from the logits.

    What was written is read back before it gets its name: builtin operations only,
    every weight inside, no state, old enough for the runtime, and every exit equal to
    Keras on random inputs. Only the TensorFlow backend exports.

    Args:
        model: An `AdaptiveModel` with one input of fixed shape.
        path: Where to.
        policy: An `ExitPolicy` with one threshold an exit.
        class_names: List of strings, one a class, or `None`.
        preprocessing: Dictionary `{"mean": ..., "std": ...}` of one number a channel:
            how uint8 pixels become inputs, `(pixel / 255 - mean) / std`. `None`: the
            app gives floats.

    Returns:
        Dictionary, the content of `info`.

    Raises:
        TypeError, ValueError: If an argument does not fit.
        RuntimeError: If the conversion fails or the file does not do what the model
            does. Then nothing is written.

    Example:

    >>> from keras_adaptive import build_msdnet
    >>> model = build_msdnet((8, 8, 1), 10, blocks=2, channels=4, growth_rate=2)
    >>> from pathlib import Path
    >>> path = Path(tempfile.mkdtemp(), "digits.tflite")
    >>> info = export_tflite(model, path, ExitPolicy([0.9, 0.0]))
    >>> info["exits"]
    [0, 1]
    """
    preprocessing = _check(model, policy, class_names, preprocessing)
    exits = policy.used_exits
    stages = graph.lean_models(model.inputs, [model.outputs[k] for k in exits])
    info = {
        "format": FORMAT,
        "version": VERSION,
        "model": model.name,
        "exits": exits,
        "confidence": policy.confidence,
        "thresholds": [to_json(t) for t in policy.thresholds],
        "temperatures": policy.temperatures.tolist(),
        "macs": model.exit_costs(exits=exits).tolist(),
        "class_names": None if class_names is None else [str(name) for name in class_names],
        "preprocessing": preprocessing,
        "policy": policy.details,
    }
    content = _convert(stages, info)
    _verify(content, stages, info)
    write_whole(path, content)
    return info


def _check(model, policy, class_names, preprocessing):
    """Raises an error for what does not fit; returns `preprocessing` in plain numbers."""
    if not isinstance(model, AdaptiveModel):
        raise TypeError(f"`model` must be an AdaptiveModel. Received: model={model!r}")
    if not isinstance(policy, ExitPolicy):
        raise TypeError(f"`policy` must be an ExitPolicy. Received: policy={policy!r}")
    policy.check_thresholds_suffice()
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "The Keras backend must be tensorflow to export. Save the model and load it with "
            f"KERAS_BACKEND=tensorflow. Received: backend {keras.backend.backend()}"
        )
    if len(policy.thresholds) != model.exits:
        raise ValueError(
            "`policy` must have one threshold an exit of the model. Received: "
            f"{len(policy.thresholds)} thresholds, {model.exits} exits"
        )
    if len(model.inputs) != 1 or None in model.inputs[0].shape[1:]:
        raise ValueError(
            "`model` must have one input of fixed shape. Received: inputs "
            f"{[tuple(tensor.shape) for tensor in model.inputs]}"
        )
    classes = model.outputs[0].shape[-1]
    if class_names is not None and len(class_names) != classes:
        raise ValueError(
            f"`class_names` must be {classes} names, one a class. "
            f"Received: {len(class_names)} names"
        )
    channels = model.inputs[0].shape[-1]
    if preprocessing is None:
        return None
    try:
        plain = {key: [float(v) for v in values] for key, values in preprocessing.items()}
        fits = set(plain) == {"mean", "std"} and min(plain["std"]) > 0
        fits = fits and all(len(values) == channels for values in plain.values())
    except (AttributeError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"`preprocessing` must be a dictionary of `mean` and `std`, {channels} numbers "
            f"each, with positive `std`. Received: preprocessing={preprocessing}"
        )
    return plain


def _convert(stages, info):
    """Returns the bytes of the file."""
    module = tf.Module()
    # Keras's own variable objects would be converted to a file without their values
    module.values = list(
        {id(v): v.value for stage, _, _ in stages for v in stage.variables}.values()
    )
    signatures = {f"stage_{i}": _stage_function(*stage) for i, stage in enumerate(stages)}
    signatures["info"] = _info_function(info)
    try:
        with tempfile.TemporaryDirectory() as folder:
            tf.saved_model.save(module, folder, signatures=signatures)
            converter = tf.lite.TFLiteConverter.from_saved_model(
                folder, signature_keys=list(signatures)
            )
            converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
            return converter.convert()
    except Exception as error:  # the converter's errors have no common class
        raise RuntimeError(
            f"Converting the {len(stages)} stages of {info['model']!r} failed: {error}"
        ) from error


def _stage_function(stage, takes, gives):
    specs = {
        name: tf.TensorSpec((1, *tensor.shape[1:]), tensor.dtype, name=name)
        for name, tensor in zip(takes, stage.inputs, strict=True)
    }

    def run(**tensors):
        logits, *features = stage([tensors[name] for name in takes], training=False)
        return {"logits": logits, **dict(zip(gives, features, strict=True))}

    return tf.function(run, autograph=False).get_concrete_function(**specs)


def _info_function(info):
    text = np.frombuffer(json.dumps(info, allow_nan=False).encode(), "uint8")

    @tf.function(input_signature=[tf.TensorSpec((1,), tf.int32, name="unused")])
    def read(unused):
        return {"json": tf.constant(text)}

    return read


def _verify(content, stages, info):
    """Raises a RuntimeError unless the file is whole and does what the model does."""
    model = schema.ModelT.InitFromObj(schema.Model.GetRootAs(content, 0))
    builtin = {value: name for name, value in vars(schema.BuiltinOperator).items()}
    for code in model.operatorCodes:
        name = builtin[code.builtinCode]
        if code.customCode is not None or name in ("VAR_HANDLE", "READ_VARIABLE"):
            raise RuntimeError(
                f"The file must hold stateless builtin operations only. It holds {name} "
                f"{code.customCode or ''}; nothing was written."
            )
    weights = {id(v): v for stage, _, _ in stages for v in stage.trainable_variables}
    # batch normalisation disappears into the convolutions; kernels stay
    least = sum(4 * int(np.prod(v.shape)) for v in weights.values() if len(v.shape) > 1)
    if len(content) < least:
        raise RuntimeError(
            f"The file must hold its weights, {least} bytes or more. It has {len(content)}; "
            "nothing was written."
        )
    for entry in model.metadata or []:
        if entry.name == b"min_runtime_version":
            needed = bytes(model.buffers[entry.buffer].data).rstrip(b"\0").decode()
            if tuple(int(n) for n in needed.split(".")[:2]) > OLDEST_RUNTIME:
                raise RuntimeError(
                    "The file must run on version "
                    f"{'.'.join(map(str, OLDEST_RUNTIME))} of the runtime. It needs {needed}; "
                    "nothing was written."
                )
    interpreter = Interpreter(model_content=content)
    interpreter.allocate_tensors()
    read = interpreter.get_signature_runner("info")(unused=np.zeros(1, "int32"))["json"]
    if json.loads(bytes(read).decode()) != json.loads(json.dumps(info)):
        raise RuntimeError("The file must hold its info. It does not; nothing was written.")
    rng = np.random.default_rng(0)
    for _ in range(TRIALS):
        tensors = {"input_0": rng.normal(size=(1, *stages[0][0].inputs[0].shape[1:]))}
        tensors["input_0"] = tensors["input_0"].astype("float32")
        found = dict(tensors)
        for i, (stage, takes, gives) in enumerate(stages):
            given = [tf.convert_to_tensor(tensors[name]) for name in takes]
            logits, *features = stage(given, training=False)
            tensors.update(zip(gives, features, strict=True))
            runner = interpreter.get_signature_runner(f"stage_{i}")
            found.update(runner(**{name: found[name] for name in takes}))
            expected = keras.ops.convert_to_numpy(logits)
            error = np.abs(found["logits"] - expected).max()
            if not error <= TOLERANCE * max(1, np.abs(expected).max()):
                raise RuntimeError(
                    f"Exit {info['exits'][i]} of the file must equal Keras. It differs by "
                    f"{error:.3g}; nothing was written."
                )
