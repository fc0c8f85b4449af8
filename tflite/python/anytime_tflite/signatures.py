"""Checks that the signatures of a file are those that its `info` tells of."""

import math
from collections.abc import Mapping
from typing import Any

from anytime_tflite.operations import Tensor

# dtypes of a network's inputs, by the letter of their tensors
DTYPES = {
    "float32": "f", "float16": "h", "uint8": "u", "int8": "c", "int16": "w", "int32": "i",
    "int64": "l", "bool": "b",
}  # fmt: skip
_OLD_INPUT = "input_0"  # its name in files of version 2, and `x` in their single call

Signature = tuple[dict[str, Tensor], dict[str, Tensor]]
"""Inputs and outputs by name."""


def unlike(info: Mapping[str, Any], signatures: Mapping[str, Signature]) -> str | None:
    """Returns what in a file's signatures is not as its `info` says, or `None`.

    Args:
        info: Dictionary, whose own values were checked.
        signatures: Dictionary by name.
    """
    stages = [f"stage_{i}" for i in range(len(info["exits"]))]
    missing = next((key for key in stages if key not in signatures), None)
    if missing is not None:
        return f"there is no signature {missing!r}"
    strange = sorted(set(signatures) - {*stages, "info", "predict"})
    if strange:
        return f"there is a signature {strange[0][:80]!r}"
    old = info["version"] < 3
    named = [{"name": _OLD_INPUT}] if old else info["inputs"]
    inputs: dict[str, Tensor] = {}
    known: dict[str, Tensor] = {}
    classes = signatures[stages[0]][1].get("logits", Tensor("f", ())).shape or (0,)
    for key in stages:
        takes, gives = signatures[key]
        for name, tensor in takes.items():
            if name in known:
                if not _same(tensor, known[name]):
                    return f"{key} reads {name[:80]!r} unlike how it is computed"
            elif name not in [one["name"] for one in named]:
                return f"{key} reads {name[:80]!r}, which nothing computes"
            elif not _same(tensor, inputs.setdefault(name, tensor)):
                return f"the stages read {name[:80]!r} in different forms"
        wrong = _wrong_answer(gives, classes[-1])
        if wrong:
            return f"{key} {wrong}"
        known.update((n, t) for n, t in gives.items() if n not in ("logits", "cost"))
    absent = next((one["name"] for one in named if one["name"] not in inputs), None)
    if absent is not None:
        return f"no stage reads the input {absent!r}"
    for one in named:
        shape, letter = inputs[one["name"]].shape, inputs[one["name"]].letter
        said = (1, *one["shape"]) if "shape" in one else shape
        if shape != said or shape[:1] != (1,) or letter != DTYPES[one.get("dtype", "float32")]:
            return f"its input {one['name']!r} is of shape {shape}, or a type, unlike its info"
    return (
        _wrong_for_classes(info, classes[-1])
        or _wrong_for_pixels(info, list(inputs.values()))
        or _wrong_single_call(info, signatures, inputs, classes[-1])
    )


def _same(tensor: Tensor, other: Tensor) -> bool:
    return (tensor.letter, tensor.shape) == (other.letter, other.shape)


def _wrong_answer(gives: Mapping[str, Tensor], classes: int) -> str | None:
    logits, cost = gives.get("logits"), gives.get("cost")
    if logits is None or logits.letter != "f" or logits.shape != (1, classes) or classes < 2:
        return "does not return logits of two classes or more"
    if cost is not None and (cost.letter, cost.shape) != ("f", (1,)):
        return "does not return its cost as one number"
    return None


def _wrong_for_classes(info: Mapping[str, Any], classes: int) -> str | None:
    names, stopping = info["class_names"], info.get("stopping")
    if names is not None and len(names) != classes:
        return f"class_names are {len(names)} for {classes} classes"
    if any(network[0]["shape"][0] != classes for network in stopping or ()):
        return f"stopping networks are not for {classes} classes"
    return None


def _wrong_for_pixels(info: Mapping[str, Any], inputs: list[Tensor]) -> str | None:
    image = inputs[0]
    shape = (image.shape or ())[1:]
    preprocessing, rule = info["preprocessing"], info.get("pixels")
    if preprocessing is not None:
        channels = shape[-1] if shape else 1
        if len(inputs) > 1 or image.letter != "f" or len(preprocessing["mean"]) != channels:
            return f"preprocessing is not for one float32 image of {channels} channels"
    if rule is not None and shape != (rule["height"], rule["width"], rule["channels"]):
        return f"pixels are not for an image of shape {shape}"
    return None


def _wrong_single_call(
    info: Mapping[str, Any],
    signatures: Mapping[str, Signature],
    inputs: Mapping[str, Tensor],
    classes: int,
) -> str | None:
    if "predict" not in signatures:
        return None
    takes, gives = signatures["predict"]
    wanted = {"x": inputs[_OLD_INPUT]} if info["version"] < 3 else dict(inputs)
    wanted["thresholds"] = Tensor("f", (len(info["exits"]),))
    fits = set(takes) == set(wanted) and all(_same(takes[n], t) for n, t in wanted.items())
    exit_index = gives.get("exit_index")
    if not fits or exit_index is None or not _same(exit_index, Tensor("i", (1,))):
        return "predict does not take the inputs and thresholds, or does not return an exit"
    wrong = _wrong_answer(gives, classes)
    return f"predict {wrong}" if wrong else None


def is_number(value: object) -> bool:
    """Returns whether a value of JSON is a number that computes as a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return math.isfinite(value) and abs(value) < 1e300
