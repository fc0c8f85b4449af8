"""`export_tflite`: writes a network and its policy into one .tflite file."""

from keras_adaptive import _graph
from keras_adaptive._checks import check_choice
from keras_adaptive._files import as_json, path_to_write, to_json, write_whole
from keras_adaptive.costs._beside import NAME, giving_costs
from keras_adaptive.export import _arguments, _costs, _verification, _writer
from keras_adaptive.export._conversion import convert
from keras_adaptive.export._features import pass_int8
from keras_adaptive.export._inputs import (
    count,
    inputs_of,
    random_data,
    renamed,
)
from keras_adaptive.export._recalibration import compare, recalibrate, reference_of
from keras_adaptive.export._settings import set_for_file
from keras_adaptive.export._single_call import add_single_call
from keras_adaptive.export._whole_numbers import keep_whole_numbers
from keras_adaptive.policy.exit_policy import ExitPolicy

FORMAT = "keras_adaptive.tflite"
VERSION = 3


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
    A stage reads named tensors (the network's inputs, under the keys of its dictionary, their own
    names, or as `input_0`, `input_1`, ...) and returns `logits` and the named `features_<i>` that
    later stages read, int8 ones in an int8 file; of a network with gates also `cost`, what this
    image's answer has cost. Exits that the policy closes (+inf) are left out, with their heads.
    Confidence is not in the stages: `anytime_tflite`, or the app, computes it from the logits.

    The file is opened as on a device before it gets its name, and verified: builtin operations
    only, every weight inside and of the requested type, no state, no operation newer than the
    runtime, and every exit equal to Keras: up to rounding in float32, roughly if quantized.
    Layers of mixed precision compute in float32 in the file, and are compared so. For int8,
    recurrent layers are unrolled, up to 64 steps, and masks close attention by -20, not by the
    -1e9 that would take the whole range of a score. Needs the TensorFlow backend.

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
            by name, or a list), or a tuple of it and labels as `fit` takes them. Use held-out
            data. With `preprocessing`, uint8 pixels, which it standardizes, or standardized
            floats. Needed for `"int8"`; not used if `quantize` is `None`.
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
    >>> import keras
    >>> from keras_adaptive import AdaptiveModel
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
    _arguments.check(model, policy)
    _arguments.check_for_tflite(model)
    path = path_to_write(path)
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
    inputs = inputs_of(tensors, _graph.input_keys(model))
    policy.validate_stagewise(most=model.exit_costs(input_shape=input_shape)[-1])
    class_names = _arguments.checked_names(given["class_names"], outputs[0].shape[-1])
    preprocessing = _arguments.checked_preprocessing(given["preprocessing"], inputs)
    pixels = _arguments.checked_pixels(given["pixels"], inputs)
    data, labels = _arguments.checked_calibration(
        model, inputs, quantize, calibration_data, preprocessing
    )
    check_choice(tuple(_verification.RUNTIMES), runtime=runtime)
    details = as_json(policy.details, "details")
    exits = model.exits_of(policy)
    _arguments.check_stage_ms(stage_ms, len(exits))

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
        keep_whole_numbers(file)
        pass_int8(file, stages)
    report = None
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
        **_arguments.rule_of(policy, model.num_exits),
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
