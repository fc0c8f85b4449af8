"""`export_tflite`: writes a network and its policy into one .tflite file."""

import keras
import numpy as np

from keras_adaptive import _graph
from keras_adaptive._checks import check_choice
from keras_adaptive._files import to_json, write_whole
from keras_adaptive.export import _verification, _writer
from keras_adaptive.export._conversion import QUANTIZE, convert
from keras_adaptive.export._features import pass_int8
from keras_adaptive.export._recalibration import compare, recalibrate
from keras_adaptive.export._single_call import add_single_call
from keras_adaptive.policy.exit_policy import ExitPolicy
from keras_adaptive.policy.learned_policy import LearnedPolicy, pack
from keras_adaptive.policy.patience_policy import PatiencePolicy
from keras_adaptive.training.adaptive_model import AdaptiveModel

FORMAT = "keras_adaptive.tflite"
VERSION = 2


def export_tflite(
    model,
    path,
    policy,
    *,
    quantize=None,
    calibration_data=None,
    single_call=False,
    class_names=None,
    runtime="litert",
    preprocessing=None,
    stage_ms=None,
):
    """Writes a network and its policy into one .tflite file with an answer after every stage.

    The file holds a signature `stage_0`, `stage_1`, ... for every exit the policy
    uses, and `info`: a JSON text with thresholds, temperatures, costs and class names.
    A stage reads named tensors (`input_0` is the image) and returns `logits` and the
    named `features_<i>` that later stages read, int8 ones in an int8 file. Exits that the
    policy closes (+inf) are left out, with their heads. Confidence is not in the stages:
    `anytime_tflite`, or the app, computes it from the logits.

    The file is read back before it gets its name, and verified: builtin operations only,
    every weight inside and of the requested type, no state, no operation newer than the
    runtime, and every exit equal to Keras: up to rounding in float32, roughly if quantized.
    Needs the TensorFlow backend.

    Quantized logits differ from Keras's. With `calibration_data` the thresholds are moved
    so that as many of these images leave at each exit as before (`info["policy"]` keeps the
    old thresholds; a guarantee about risk does not hold for the new ones), and
    `info["quantization"]` says what changed at each exit.

    Args:
        model: An `AdaptiveModel` with one input of fixed shape.
        path: Path of the file to write.
        policy: An `ExitPolicy` with one threshold per exit, a `LearnedPolicy` (whose networks
            are stored in `info`: they are too small for a stage, and int8 would spoil the
            probabilities), or a `PatiencePolicy`.
        quantize: `None`: float32; `"float16"`: weights of half the size, computed in
            float32; `"dynamic"`: int8 weights, ranges of features measured on the device;
            `"int8"`: int8 weights and features, ranges measured on `calibration_data`.
        calibration_data: Array `(samples, ...)` of the model's inputs, or a tuple of it
            and integer labels `(samples,)`. Use held-out data. Needed for `"int8"`; not used
            if `quantize` is `None`.
        single_call: Boolean, whether to add a signature `predict(x, thresholds)` that chooses
            the exit itself: it returns `logits` and `exit_index`, the first exit whose
            confidence reaches its threshold (float32, one per stage of the file). The runtime
            prepares every stage but the first anew at each call, which takes about as long as
            calling the stages one by one. The weights are stored once, but the runtime unpacks
            them for each form: a program that loads the file needs up to twice the memory for
            weights.
        class_names: List of strings, one per class, or `None`.
        runtime: `"litert"`, or `"tflite-2.14"`: the last tflite-runtime, of 2023.
        preprocessing: Dictionary `{"mean": ..., "std": ...}` of one number per channel:
            how uint8 pixels become inputs, `(pixel / 255 - mean) / std`. `None`: the
            app passes floats.
        stage_ms: Sequence of one number per stage of the file, milliseconds measured on the
            device, to be stored in `info`; or `None`.

    Returns:
        Dictionary, the content of `info`.

    Raises:
        TypeError, ValueError: If an argument does not fit.
        RuntimeError: If the conversion fails or the file does not compute what the model
            computes. Then nothing is written.

    Example:

    >>> import tempfile
    >>> from pathlib import Path
    >>> from keras_adaptive.layers.early_exit import EarlyExit
    >>> image = keras.Input((8, 8, 1))
    >>> features = keras.layers.Conv2D(4, 3)(image)
    >>> model = AdaptiveModel(image, [EarlyExit(10)(image), EarlyExit(10)(features)])
    >>> path = Path(tempfile.mkdtemp(), "digits.tflite")
    >>> info = export_tflite(model, path, ExitPolicy([0.9, 0.0]))
    >>> info["exits"]
    [0, 1]
    """
    preprocessing = _check(model, policy, class_names, preprocessing)
    images, labels = _check_data(model, quantize, calibration_data)
    check_choice(tuple(_verification.RUNTIMES), runtime=runtime)
    patience = None
    if isinstance(policy, PatiencePolicy):
        patience = policy.patience
        policy = ExitPolicy(np.full(model.exits, np.inf))
        exits = list(range(model.exits))
    else:
        exits = policy.used_exits
    outputs = [model.outputs[k] for k in exits]
    stages = _graph.minimal_stages(model.inputs, outputs)
    # what a gate closes is not computed on the device; a batch of one can branch
    branching = _graph.minimal_stages(model.inputs, outputs, skipping="if")
    _check_stage_ms(stage_ms, len(stages))

    content = convert(branching, quantize, runtime == "tflite-2.14", images, stages)
    file = _writer.read(content)
    if quantize == "int8":
        pass_int8(file, stages)
    details, report = policy.details, None
    if quantize is not None and images is not None:
        before = policy
        logits = _verification.keras_logits(stages, images)
        quantized = _verification.FileStages(_writer.write(file), stages).logits(images)
        policy = recalibrate(before, exits, logits, quantized)
        report = compare(logits, quantized, labels)
        details = {
            "recalibrated_on": len(images),
            "thresholds_before": [to_json(t) for t in before.thresholds],
            "before": details,
        }
    if single_call:
        add_single_call(file, stages, exits, policy)
    info = {
        "format": FORMAT,
        "version": VERSION,
        "model": model.name,
        "quantize": quantize,
        "runtime": runtime,
        "minimum_runtime": _writer.minimum_runtime(file),
        "exits": exits,
        "confidence": policy.confidence,
        "thresholds": [to_json(t) for t in policy.thresholds],
        "temperatures": policy.temperatures.tolist(),
        "patience": patience,
        "stopping": pack(policy.networks) if isinstance(policy, LearnedPolicy) else None,
        "macs": model.exit_costs(exits=exits).tolist(),
        "stage_ms": None if stage_ms is None else [float(ms) for ms in stage_ms],
        "class_names": None if class_names is None else [str(name) for name in class_names],
        "preprocessing": preprocessing,
        "quantization": report,
        "policy": details,
    }
    _writer.add_info(file, info)
    content, info["sha256"] = _writer.seal(_writer.write(file))
    _verification.check_model(file, len(content), stages, quantize, runtime)
    _verification.check_answers(content, stages, info, images)
    write_whole(path, content)
    return info


def _check(model, policy, class_names, preprocessing):
    """Raises an error for an impossible argument; returns `preprocessing` as Python floats."""
    if not isinstance(model, AdaptiveModel):
        raise TypeError(f"`model` must be an AdaptiveModel. Received: model={model!r}")
    if not isinstance(policy, (ExitPolicy, PatiencePolicy)):
        raise TypeError(
            f"`policy` must be an ExitPolicy or a PatiencePolicy. Received: policy={policy!r}"
        )
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "The Keras backend must be tensorflow to export. Save the model and load it with "
            f"KERAS_BACKEND=tensorflow. Received: backend {keras.backend.backend()}"
        )
    if isinstance(policy, ExitPolicy):
        policy.validate_stagewise()
        if len(policy.thresholds) != model.exits:
            raise ValueError(
                "`policy` must have one threshold per exit of the model. Received: "
                f"{len(policy.thresholds)} thresholds, {model.exits} exits"
            )
    if len(model.inputs) != 1 or None in model.inputs[0].shape[1:]:
        raise ValueError(
            "`model` must have one input of fixed shape. Received: inputs "
            f"{[tuple(tensor.shape) for tensor in model.inputs]}"
        )
    if any(len(logits.shape) != 2 for logits in model.outputs):
        raise ValueError(
            "`model` must give one answer per sample, logits of shape (batch, classes). "
            f"Received: outputs {[tuple(logits.shape) for logits in model.outputs]}"
        )
    classes = model.outputs[0].shape[-1]
    if class_names is not None and len(class_names) != classes:
        raise ValueError(
            f"`class_names` must be {classes} names, one per class. "
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


def _check_data(model, quantize, data):
    """Returns images and labels, either of which may be `None`."""
    check_choice(QUANTIZE, quantize=quantize)
    if data is None:
        if quantize == "int8":
            raise ValueError(
                '`calibration_data` must be given for `quantize="int8"`: ranges are measured '
                "on it. Received: calibration_data=None"
            )
        return None, None
    images, labels = data if isinstance(data, tuple) else (data, None)
    images = np.asarray(images)
    shape = tuple(model.inputs[0].shape[1:])
    if images.shape[1:] != shape or not len(images) or images.dtype.kind not in "fiu":
        raise ValueError(
            "`calibration_data` must be numbers of shape "
            f"(samples, {', '.join(map(str, shape))}), or a tuple of them and labels. "
            f"Received: dtype {images.dtype}, shape {images.shape}"
        )
    if not np.isfinite(images).all():
        raise ValueError("`calibration_data` must be finite. Received: NaN or infinite values")
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != images.shape[:1] or labels.dtype.kind not in "iu":
            raise ValueError(
                f"The labels of `calibration_data` must be {len(images)} integers. "
                f"Received: dtype {labels.dtype}, shape {labels.shape}"
            )
    return _verification.as_input(images, model.inputs[0].dtype), labels


def _check_stage_ms(stage_ms, stages):
    if stage_ms is None:
        return
    try:
        fits = len(stage_ms) == stages and all(0 < float(ms) < np.inf for ms in stage_ms)
    except (TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"`stage_ms` must be {stages} positive numbers, one per stage of the file. "
            f"Received: stage_ms={stage_ms}"
        )
