"""Checks of what is to be written into a file, and the form that it has there."""

import keras
import numpy as np

from anytime_tflite.pixels import rule as pixel_rule
from keras_adaptive import _checks, _graph
from keras_adaptive._files import to_json
from keras_adaptive.export._conversion import QUANTIZE
from keras_adaptive.export._inputs import checked_data, count
from keras_adaptive.policy.agreement_policy import AgreementPolicy
from keras_adaptive.policy.exit_policy import ExitPolicy, always_last
from keras_adaptive.policy.learned_policy import LearnedPolicy, pack
from keras_adaptive.policy.patience_policy import PatiencePolicy
from keras_adaptive.training.adaptive_model import check_model

LOOKUPS = (
    keras.layers.HashedCrossing,
    keras.layers.Hashing,
    keras.layers.IntegerLookup,
    keras.layers.StringLookup,
    keras.layers.TextVectorization,
)
POLICIES = (ExitPolicy, LearnedPolicy, PatiencePolicy, AgreementPolicy)


def rule_of(policy, exits):
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


def check(model, policy):
    """Raises an error for a network or a policy that cannot be exported."""
    check_model(model)
    model.exits_of(policy)
    if not isinstance(policy, POLICIES):
        raise TypeError(
            "`policy` must be an ExitPolicy, a LearnedPolicy, a PatiencePolicy or an "
            f"AgreementPolicy. Received: policy={policy!r}"
        )
    classes = model.outputs[-1].shape[-1]
    if isinstance(policy, LearnedPolicy) and policy.networks:
        of_policy = len(policy.networks[0][0][0])
        if of_policy != classes:
            raise ValueError(
                f"`policy` must be for the {classes} classes of the network. Received: a "
                f"LearnedPolicy for {of_policy} classes"
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


def check_for_tflite(model):
    """Raises an error for a network with layers that a .tflite file cannot hold."""
    layers = list(model._flatten_layers(include_self=False))
    for layer in layers:
        if isinstance(layer, LOOKUPS):
            raise ValueError(
                f"`model` must be without {type(layer).__name__}: a file has no tables of words, "
                "and no hashes. Keep the layer outside of the model, which then takes its "
                f"numbers. Received: layer {layer.name!r}"
            )
    wide = [f"layer {x.name!r}" for x in layers if x.compute_dtype == "float64"]
    nodes = _graph.nodes_between(model.inputs, model.outputs)
    wide += [
        f"operation {node.operation.name!r}"
        for node in nodes
        if any(tensor.dtype == "float64" for tensor in node.outputs)
    ]
    if wide:
        raise ValueError(
            "`model` must compute in float32, or in half precision: the operations of a file have "
            f"no float64. Build it under the policy 'float32'. Received: {wide[0]} in float64"
        )


def checked_names(names, classes):
    return None if names is None else _checks.class_names(names, classes)


def checked_preprocessing(preprocessing, inputs):
    """Returns `preprocessing` as Python floats, or `None`."""
    if preprocessing is None:
        return None
    if len(inputs) > 1 or inputs[0]["dtype"] != "float32":
        raise ValueError(
            "`preprocessing` must be None for a network that does not take one float32 image. "
            f"Received: inputs {[(one['name'], one['dtype']) for one in inputs]}"
        )
    return _checks.preprocessing(preprocessing, (inputs[0]["shape"] or [1])[-1])


def checked_pixels(rule, inputs):
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


def checked_calibration(model, inputs, quantize, data, preprocessing):
    """Returns data by name of the input, and labels; either may be `None`.

    Pixels become what they become on the device where the file says how, `preprocessing`.
    """
    _checks.check_choice(QUANTIZE, quantize=quantize)
    if data is None:
        if quantize == "int8":
            raise ValueError(
                '`calibration_data` must be given for `quantize="int8"`: ranges are measured '
                "on it. Received: calibration_data=None"
            )
        return None, None
    x, labels = data if isinstance(data, tuple) and len(data) == 2 else (data, None)
    arrays = checked_data(inputs, _graph.in_order(model, x), preprocessing)
    samples = count(arrays)
    if labels is not None:
        shape = (1, samples, model.outputs[-1].shape[-1])
        try:
            labels = _checks.check_labels_of(labels, shape)
        except ValueError as error:
            raise ValueError(
                f"The labels of `calibration_data` must be {samples} integers, of the "
                f"{shape[-1]} classes. {error}"
            ) from error
    return arrays, labels


def check_stage_ms(stage_ms, stages):
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
