"""`export_tflite`: writes a network and its policy into one .tflite file."""

import keras
import numpy as np

from anytime_tflite.pixels import rule as pixel_rule
from keras_adaptive import _graph
from keras_adaptive._checks import check_choice
from keras_adaptive._files import to_json, write_whole
from keras_adaptive.costs._beside import NAME, giving_costs
from keras_adaptive.export import _costs, _verification, _writer
from keras_adaptive.export._conversion import QUANTIZE, convert
from keras_adaptive.export._features import pass_int8
from keras_adaptive.export._inputs import (
    checked_data,
    count,
    inputs_of,
    random_data,
    renamed,
)
from keras_adaptive.export._recalibration import compare, recalibrate, reference_of
from keras_adaptive.export._settings import set_for_file
from keras_adaptive.export._single_call import add_single_call
from keras_adaptive.policy.agreement_policy import AgreementPolicy
from keras_adaptive.policy.exit_policy import ExitPolicy, always_last
from keras_adaptive.policy.learned_policy import LearnedPolicy, pack
from keras_adaptive.policy.patience_policy import PatiencePolicy
from keras_adaptive.training.adaptive_model import AdaptiveModel

FORMAT = "keras_adaptive.tflite"
VERSION = 3
POLICIES = (ExitPolicy, LearnedPolicy, PatiencePolicy, AgreementPolicy)


def export_tflite(
    model,
    path,
    policy=None,
    *,
    quantize=None,
    calibration_data=None,
    single_call=False,
    class_names=None,
    runtime="litert",
    preprocessing=None,
    pixels=None,
    stage_ms=None,
    input_shape=None,
):
    """Writes a network and its policy into one .tflite file with an answer after every stage.

    The file holds a signature `stage_0`, `stage_1`, ... for every exit the policy
    uses, and `info`: a JSON text with thresholds, temperatures, costs and class names.
    A stage reads named tensors (the network's inputs, under their own names or as `input_0`,
    `input_1`, ...) and returns `logits` and the named `features_<i>` that later stages read,
    int8 ones in an int8 file; of a network with gates also `cost`, what this image's answer has
    cost. Exits that the policy closes (+inf) are left out, with their heads. Confidence is not
    in the stages: `anytime_tflite`, or the app, computes it from the logits.

    The file is opened as on a device before it gets its name, and verified: builtin operations
    only, every weight inside and of the requested type, no state, no operation newer than the
    runtime, and every exit equal to Keras: up to rounding in float32, roughly if quantized.
    Layers of mixed precision compute in float32 in the file, and are compared so. For int8,
    recurrent layers are unrolled, up to 64 steps. Needs the TensorFlow backend.

    Quantized logits differ from Keras's. With `calibration_data` the thresholds are moved
    so that as many of these images leave at each exit as before (`info["policy"]` keeps the
    old thresholds; a guarantee about risk does not hold for the new ones), and
    `info["quantization"]` says what changed at each exit.

    Args:
        model: An `AdaptiveModel` with inputs of fixed shape, of float32, integers or booleans.
        path: Path of the file to write.
        policy: An `ExitPolicy` with one threshold per exit, a `LearnedPolicy` (whose networks
            are stored in `info`: they are too small for a stage, and int8 would spoil the
            probabilities), a `PatiencePolicy` or an `AgreementPolicy`. `None`: `model.policy`.
        quantize: `None`: float32; `"float16"`: weights of half the size, computed in
            float32; `"dynamic"`: int8 weights, ranges of features measured on the device;
            `"int8"`: int8 weights and features, ranges measured on `calibration_data`.
        calibration_data: Array `(samples, ...)` of the model's inputs (of several a dictionary
            by name, or a list), or a tuple of it and integer labels `(samples,)`. Use held-out
            data. Needed for `"int8"`; not used if `quantize` is `None`.
        single_call: Boolean, whether to add a signature `predict(<inputs>, thresholds)` that
            chooses the exit itself: it returns `logits` and `exit_index`, the first exit at
            which the policy leaves (thresholds: log-odds, float32, one per stage of the file;
            a policy that compares answers leaves by them, too). The runtime
            prepares every stage but the first anew at each call, which takes about as long as
            calling the stages one by one. The weights are stored once, but the runtime unpacks
            them for each form: a program that loads the file needs up to twice the memory for
            weights.
        class_names: List of strings, one per class. `None`: `model.class_names`, if it has any.
        runtime: `"litert"`, or `"tflite-2.14"`: the last tflite-runtime, of 2023.
        preprocessing: Dictionary `{"mean": ..., "std": ...}` of one number per channel:
            how uint8 pixels become inputs, `(pixel / 255 - mean) / std`. `None`: as
            `model.preprocessing` says, and where it says nothing the app passes floats.
        pixels: Dictionary, how a picture of any size becomes the network's pixels; see
            `anytime_tflite.pixels`. `None`: as `model.pixels` says, if it does.
        stage_ms: Sequence of one number per stage of the file, milliseconds measured on the
            device, to be stored in `info`; or `None`.
        input_shape: Tuple of integers, the shape of an image, for a network that takes any; as
            in `AdaptiveModel.exit_costs`.

    Returns:
        The policy that is in the file: with thresholds that were moved, if it is quantized.

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
    >>> export_tflite(model, path, ExitPolicy([0.9, 0.0]))
    ExitPolicy([0.9, -inf], confidence='max_prob')
    """
    policy = getattr(model, "policy", None) if policy is None else policy
    given = {"class_names": class_names, "preprocessing": preprocessing, "pixels": pixels}
    given = {
        name: getattr(model, name, None) if value is None else value
        for name, value in given.items()
    }
    _check(model, policy)
    with set_for_file(model, quantize, input_shape) as (tensors, outputs):
        return _export(
            model,
            tensors,
            outputs,
            path,
            policy,
            given,
            quantize=quantize,
            calibration_data=calibration_data,
            single_call=single_call,
            runtime=runtime,
            stage_ms=stage_ms,
            input_shape=input_shape,
        )


def _export(
    model,
    tensors,
    outputs,
    path,
    policy,
    given,
    *,
    quantize,
    calibration_data,
    single_call,
    runtime,
    stage_ms,
    input_shape,
):
    """Writes the file of a network whose layers are set for it; returns the policy in it."""
    inputs = inputs_of(tensors)
    policy.validate_stagewise(most=model.exit_costs(input_shape=input_shape)[-1])
    class_names = _check_names(given["class_names"], outputs[0].shape[-1])
    preprocessing = _check_preprocessing(given["preprocessing"], inputs)
    pixels = _check_pixels(given["pixels"], inputs)
    data, labels = _check_data(inputs, quantize, calibration_data)
    check_choice(tuple(_verification.RUNTIMES), runtime=runtime)
    exits = model.exits_of(policy)
    _check_stage_ms(stage_ms, len(exits))

    stages, branching = (
        renamed(giving_costs(found), inputs)
        for found in _stages(tensors, [outputs[k] for k in exits])
    )
    # what no stage in the file reads is not an input of it
    inputs = [one for one in inputs if any(one["name"] in reads for _, reads, _ in stages)]
    data = None if data is None else {one["name"]: data[one["name"]] for one in inputs}
    content = convert(branching, quantize, runtime == "tflite-2.14", data, stages)
    file = _writer.read(content)
    _verification.check_weights(file, quantize)
    if quantize == "int8":
        pass_int8(file, stages)
    details, report = policy.details, None
    if quantize is not None and data is not None:
        logits = _verification.keras_answers(stages, data)["logits"]
        quantized = _verification.file_logits(_writer.write(file), len(stages), data)
        report = compare(logits, quantized, labels)
        gated = NAME in stages[0][2]  # an exit costs another amount for each sample
        if isinstance(policy, ExitPolicy):
            before, policy = policy, recalibrate(policy, exits, logits, quantized)
            policy.details = details = {
                "recalibrated_on": count(data),
                "thresholds_before": [to_json(t) for t in before.thresholds],
                "before": details,
                "reference": None if gated else reference_of(policy, exits, quantized),
            }
    names = [one["name"] for one in inputs]
    if single_call:
        add_single_call(file, stages, names, exits, policy)
    info = {
        "format": FORMAT,
        "version": VERSION,
        "model": model.name,
        "quantize": quantize,
        "runtime": runtime,
        "minimum_runtime": _writer.minimum_runtime(file),
        "exits": exits,
        **_rule_of(policy, model.num_exits),
        "macs": model.exit_costs(exits=exits, input_shape=input_shape).tolist(),
        "stage_ms": None if stage_ms is None else [float(ms) for ms in stage_ms],
        "class_names": class_names,
        "inputs": inputs,
        "preprocessing": preprocessing,
        "pixels": pixels,
        "quantization": report,
        "policy": details,
    }
    _writer.add_info(file, info)
    content, info["sha256"] = _writer.seal(_writer.write(file))
    _verification.check_model(file, len(content), stages, quantize, runtime)
    if data is None:
        data = random_data(inputs, _verification.TRIALS)
    _verification.check_answers(content, stages, info, data)
    write_whole(path, content)
    return policy


def _stages(inputs, outputs):
    """Returns the stages of a network for batches, and for one image: these can branch.

    On the device what a gate closes is not computed.
    """
    exits = _costs.with_costs(inputs, outputs)
    return [_graph.minimal_stages(inputs, exits, skipping=way) for way in (None, "if")]


def _rule_of(policy, exits):
    """Returns what `info` says of the policy."""
    by_confidence = isinstance(policy, ExitPolicy)
    never = always_last(exits)
    agreement = isinstance(policy, AgreementPolicy)
    return {
        "confidence": policy.confidence if by_confidence else "max_prob",
        "thresholds": [to_json(t) for t in (policy.thresholds if by_confidence else never)],
        "log_odds": [to_json(t) for t in (policy.log_odds if by_confidence else never)],
        "temperatures": policy.temperatures.tolist() if by_confidence else [1.0] * exits,
        "patience": policy.patience if isinstance(policy, PatiencePolicy) else None,
        "agreement": {"members": policy.members, "share": policy.share} if agreement else None,
        "stopping": pack(policy.networks) if isinstance(policy, LearnedPolicy) else None,
    }


def _check(model, policy):
    """Raises an error for a network or a policy that cannot be exported."""
    if not isinstance(model, AdaptiveModel):
        raise TypeError(f"`model` must be an AdaptiveModel. Received: model={model!r}")
    if policy is None:
        raise ValueError(
            "`policy` must be given where `model.policy` is None: calibrate the model, or give "
            "one made by hand. Received: policy=None"
        )
    if not isinstance(policy, POLICIES):
        raise TypeError(
            "`policy` must be an ExitPolicy, a LearnedPolicy, a PatiencePolicy or an "
            f"AgreementPolicy. Received: policy={policy!r}"
        )
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "The Keras backend must be tensorflow to export. Save the model and load it with "
            f"KERAS_BACKEND=tensorflow. Received: backend {keras.backend.backend()}"
        )
    if any(len(logits.shape) != 2 or logits.shape[-1] < 2 for logits in model.outputs):
        raise ValueError(
            "`model` must give one answer per sample, logits of shape (batch, classes) of at "
            f"least two classes. Received: outputs {[tuple(z.shape) for z in model.outputs]}"
        )
    for layer in model._flatten_layers(include_self=False):
        if getattr(layer, "quantization_mode", None) is not None:
            raise ValueError(
                "`model` must not be quantized by Keras: a file is quantized when it is written, "
                'export_tflite(quantize="int8"). Give the model as it was before `quantize`. '
                f"Received: layer {layer.name!r} with {layer.quantization_mode!r}"
            )
    halved = [v.path for v in model.weights if v.dtype in ("float16", "bfloat16")]
    if halved:
        raise ValueError(
            "`model` must have float32 weights. Build it under the policy 'mixed_float16' or "
            "'mixed_bfloat16', which computes in half precision and keeps them. "
            f"Received: weight {halved[0]!r} of half precision"
        )
    model.exits_of(policy)


def _check_names(names, classes):
    if names is None:
        return None
    if isinstance(names, (str, bytes)) or len(names) != classes:
        raise ValueError(
            f"`class_names` must be {classes} names, one per class. Received: "
            + (repr(names) if isinstance(names, (str, bytes)) else f"{len(names)} names")
        )
    return [str(name) for name in names]


def _check_preprocessing(preprocessing, inputs):
    """Returns `preprocessing` as Python floats, or `None`."""
    if preprocessing is None:
        return None
    if len(inputs) > 1 or inputs[0]["dtype"] != "float32":
        raise ValueError(
            "`preprocessing` must be None for a network that does not take one float32 image. "
            f"Received: inputs {[(one['name'], one['dtype']) for one in inputs]}"
        )
    channels = (inputs[0]["shape"] or [1])[-1]
    try:
        plain = {key: [float(v) for v in values] for key, values in preprocessing.items()}
        fits = set(plain) == {"mean", "std"} and min(plain["std"]) > 0
        fits = fits and all(len(values) == channels for values in plain.values())
        fits = fits and all(np.isfinite(values).all() for values in plain.values())
    except (AttributeError, TypeError, ValueError):
        fits = False
    if not fits:
        raise ValueError(
            f"`preprocessing` must be a dictionary of `mean` and `std`, {channels} numbers "
            f"each, with positive `std`. Received: preprocessing={preprocessing}"
        )
    return plain


def _check_pixels(rule, inputs):
    """Returns the rule of pixels as `info` holds it, or `None`."""
    if rule is None:
        return None
    try:
        found = pixel_rule(**rule)
    except TypeError as error:
        raise ValueError(
            f"`pixels` must be a rule of `anytime_tflite.pixels.rule`. Received: pixels={rule} "
            f"({error})"
        ) from error
    shape = [found["height"], found["width"], found["channels"]]
    if [one["shape"] for one in inputs] != [shape]:
        raise ValueError(
            "`pixels` must be a rule for the network's image, of shape "
            f"{[one['shape'] for one in inputs]}. Received: a rule for {shape}"
        )
    return found


def _check_data(inputs, quantize, data):
    """Returns data by name of the input, and labels; either may be `None`."""
    check_choice(QUANTIZE, quantize=quantize)
    if data is None:
        if quantize == "int8":
            raise ValueError(
                '`calibration_data` must be given for `quantize="int8"`: ranges are measured '
                "on it. Received: calibration_data=None"
            )
        return None, None
    x, labels = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    arrays = checked_data(inputs, x)
    samples = count(arrays)
    if labels is not None:
        labels = np.asarray(labels)
        if labels.shape != (samples,) or labels.dtype.kind not in "iu":
            raise ValueError(
                f"The labels of `calibration_data` must be {samples} integers. "
                f"Received: dtype {labels.dtype}, shape {labels.shape}"
            )
    return arrays, labels


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
