"""Reads and checks the metadata of a .tflite file."""

import base64
import hashlib
import json
import math
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple, Protocol

import numpy as np

from anytime_tflite import flatbuffer, pixels
from anytime_tflite.rule import CONFIDENCES, Array, Network
from anytime_tflite.signatures import DTYPES, is_number, unlike

_FORMAT = "keras_adaptive.tflite"
_VERSIONS = (2, 3)
_METADATA = "keras_adaptive"
_MOST = 2**31  # bytes of a file, which the format itself cannot exceed
_LARGEST = 2**24  # bytes of its info
_DEEPEST = 100  # lists and objects within each other there
_DIGITS = 40  # of an integer there
_EXITS = 1000
_DIGEST = b'"sha256": "'


class _Readable(Protocol):
    def read(self, size: int = -1) -> bytes: ...


class _Openable(Protocol):
    def open(self, mode: str) -> Any: ...


Source = str | os.PathLike[str] | bytes | bytearray | memoryview | _Readable | _Openable
"""A path, the bytes of a file, or an object that has `read` or `open`."""


def read_info(path: Source) -> dict[str, Any]:
    """Checks that a file is complete and returns its metadata; needs no interpreter.

    Args:
        path: Path of a file written by `keras_adaptive.export_tflite`, or its content: bytes,
            or an object with `read`, as an open file has it, or with `open`, as
            `zipfile.Path` has it.

    Returns:
        Dictionary, its keys described in tflite/README.md. Infinite thresholds are the texts
        `"Infinity"` and `"-Infinity"`.

    Raises:
        TypeError: If `path` is none of these.
        ValueError: If the file is missing, cut, changed, of another kind, or of a version
            that is not supported.

    Example:

    ```python
    read_info("model.tflite")["class_names"]
    ```
    """
    return check_content(*content_of(path))


class Checked(NamedTuple):
    """A file that was checked.

    Attributes:
        info: Dictionary, what it says of itself; thresholds are floats.
        name: String, what to call it in errors.
        source: Its path, where it has one: an interpreter then maps it into memory. Else its
            content, which interpreters share.
    """

    info: dict[str, Any]
    name: str
    source: str | bytes


def checked(path: Source) -> Checked:
    """Returns a file that `read_info` accepts."""
    content, name = content_of(path)
    info = check_content(content, name)
    for key in ("thresholds", "log_odds"):
        if key in info:
            info[key] = [float(t) for t in info[key]]
    return Checked(info, name, name if isinstance(path, str | os.PathLike) else content)


def content_of(source: Source) -> tuple[bytes, str]:
    """Returns the content of a file, and what to call the file in errors."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if not path.is_file():
            raise ValueError(f"`path` must be a file. Received: path={path}")
        with path.open("rb") as file:
            content, name = file.read(_MOST + 1), str(path)
    elif callable(getattr(source, "read", None)):
        content, name = source.read(_MOST + 1), f"a {type(source).__name__}"
    elif callable(getattr(source, "open", None)):
        with source.open("rb") as file:
            content, name = file.read(_MOST + 1), str(source)
    else:
        content, name = source, f"a {type(source).__name__}"
    try:
        found = bytes(memoryview(content))
    except TypeError as error:
        raise TypeError(
            "`path` must be a path, bytes, or an object whose `read` or `open` gives bytes. "
            f"Received: path={source!r}, a {type(source).__name__}"
        ) from error
    if len(found) > _MOST:
        raise ValueError(f"`path` must be a file of at most {_MOST:,} bytes. Received: path={name}")
    return found, name


def check_content(content: bytes, path: str) -> dict[str, Any]:
    """Returns the metadata of a file; raises a ValueError unless it is complete.

    Args:
        content: Bytes of the file.
        path: String, what errors call it.
    """
    if content[4:8] != b"TFL3":
        raise ValueError(f"`path` must be a TFLite model. Received: path={path}")
    try:
        place = flatbuffer.metadata(content, _METADATA)
    except flatbuffer.Damaged as error:
        raise ValueError(
            f"`path` must be a whole TFLite model. Received: path={path} ({error})"
        ) from error
    if place is None:
        raise ValueError(
            "`path` must be a file of `keras_adaptive.export_tflite`. Received: "
            f"path={path}, which is another TFLite model"
        )
    info = _parse(content, *place, path)
    _check_digest(content, *place, info["sha256"], path)
    try:
        wrong = unlike(info, flatbuffer.check(content))
    except flatbuffer.Damaged as error:
        wrong = str(error)
    if wrong:
        raise ValueError(f"`path` must be a whole TFLite model. Received: path={path} ({wrong})")
    return info


def _parse(content: bytes, start: int, length: int, path: str) -> dict[str, Any]:
    try:
        info = _json(content[start : start + min(length, _LARGEST + 1)])
    except (ValueError, RecursionError) as error:
        raise ValueError(
            f"`path` must be a file whose info is JSON. Received: path={path} ({_brief(error)})"
        ) from error
    if not isinstance(info, dict) or info.get("format") != _FORMAT:
        raise ValueError(
            f'`path` must be a file whose info says "format": "{_FORMAT}". Received: path={path}'
        )
    version = info.get("version")
    if type(version) is not int or version not in _VERSIONS:
        older = isinstance(version, int) and version < _VERSIONS[0]
        advice = "export it again" if older else "update anytime_tflite"
        raise ValueError(
            f"`path` must be of version {' or '.join(map(str, _VERSIONS))}: {advice}. "
            f"Received: path={path} of version {_brief(version)}"
        )
    wrong = _wrong(info)
    if wrong:
        raise ValueError(
            f"`path` must be a file whose info is complete. Received: path={path} with {wrong}"
        )
    if version < 3:  # what version 3 added was not checked, but for what is shown alone
        info = {key: value for key, value in info.items() if key not in {*_FITS_ADDED} - {"macs"}}
    if "quantisation" in info:  # the key in files written before 0.2
        info["quantization"] = info.pop("quantisation")
    return info


def _json(content: bytes) -> Any:
    """Returns what JSON says; size, nesting and digits are bounded before it is parsed."""
    if len(content) > _LARGEST:
        raise ValueError(f"more than {_LARGEST:,} bytes")
    depth = 0
    for found in re.finditer(rb'"(?:[^"\\]|\\.?)*+(?:"|\Z)|[\[\]{}]', content, re.DOTALL):
        bracket = content[found.start()]
        if bracket in b"[{":
            depth += 1
        elif bracket in b"]}":
            depth -= 1
        if depth > _DEEPEST:
            raise ValueError(f"nested more than {_DEEPEST} deep")
    return json.loads(content.decode(), parse_int=_integer, parse_constant=_no_constant)


def _integer(digits: str) -> int:
    if len(digits) > _DIGITS:
        raise ValueError(f"an integer of {len(digits)} digits")
    return int(digits)


def _no_constant(name: str) -> None:
    raise ValueError(f"{name}, which is no JSON")


def _brief(value: object, most: int = 200) -> str:
    """Returns a value as one line of an error shows it."""
    text = str(value) if isinstance(value, Exception) else repr(value)
    return text if len(text) <= most else f"{text[: most - 3]}..."


def _wrong(info: dict[str, Any]) -> str | None:
    """Returns what is wrong with the info, or `None`."""
    version_3 = info["version"] >= 3
    checks = _FITS | (_FITS_ADDED if version_3 else {})
    missing = sorted(set(checks) - set(info))
    if missing:
        return f"no {', '.join(missing)}"
    for key, fits in checks.items():
        try:
            if not fits(info[key], info):
                return f"{key}={_brief(info[key])}"
        except (TypeError, ValueError, KeyError, IndexError, OverflowError, AttributeError) as e:
            return f"{key}={_brief(info[key])} ({_brief(e, 80)})"
    return None


def _limits_fit(limits: Any, info: dict[str, Any]) -> bool:
    numbers = isinstance(limits, list) and all(
        is_number(t) or t in ("Infinity", "-Infinity") for t in limits
    )
    return numbers and 0 < len(limits) <= _EXITS and len(limits) == len(info["thresholds"])


def _exits_fit(exits: Any, info: dict[str, Any]) -> bool:
    whole = isinstance(exits, list) and all(type(k) is int for k in exits) and len(exits) > 0
    return (
        whole
        and exits == sorted(set(exits))
        and 0 <= exits[0] <= exits[-1] < len(info["thresholds"])
    )


def _numbers_fit(count: int, numbers: Any, above: float = -math.inf) -> bool:
    return (
        isinstance(numbers, list)
        and len(numbers) == count
        and all(is_number(n) and n > above for n in numbers)
    )


def _stopping_fits(confidence: Any, info: dict[str, Any]) -> bool:
    if confidence not in (*CONFIDENCES, "learned"):
        return False
    exits = len(info["thresholds"]) if confidence == "learned" else 0
    return len(stopping_networks(info) or ()) == exits


def _names_fit(names: Any, info: dict[str, Any]) -> bool:
    return names is None or (
        isinstance(names, list) and all(isinstance(name, str) for name in names)
    )


def _preprocessing_fits(preprocessing: Any, info: dict[str, Any]) -> bool:
    if preprocessing is None:
        return True
    mean, std = preprocessing["mean"], preprocessing["std"]
    return len(mean) > 0 and _numbers_fit(len(mean), mean) and _numbers_fit(len(mean), std, 0)


def _stage_ms_fit(stage_ms: Any, info: dict[str, Any]) -> bool:
    return stage_ms is None or _numbers_fit(len(info["exits"]), stage_ms, 0)


def _digest_fits(digest: Any, info: dict[str, Any]) -> bool:
    return isinstance(digest, str) and re.fullmatch("[0-9a-f]{64}", digest) is not None


def _at_least_2(number: Any) -> bool:
    return type(number) is int and 2 <= number < 2**31


def _agreement_fits(agreement: Any, info: dict[str, Any]) -> bool:
    if agreement is None:
        return True
    members, share = agreement["members"], agreement["share"]
    return _at_least_2(members) and is_number(share) and bool(0 < share <= 1)


# what each key must be: functions of its value and of all the info
_FITS: dict[str, Callable[[Any, dict[str, Any]], bool]] = {
    "thresholds": _limits_fit,
    "exits": _exits_fit,
    "confidence": _stopping_fits,
    "temperatures": lambda value, info: _numbers_fit(len(info["thresholds"]), value, 0),
    "patience": lambda value, info: value is None or _at_least_2(value),
    "class_names": _names_fit,
    "preprocessing": _preprocessing_fits,
    "stage_ms": _stage_ms_fit,
    "sha256": _digest_fits,
}
_FITS_ADDED: dict[str, Callable[[Any, dict[str, Any]], bool]] = {
    "log_odds": _limits_fit,
    "agreement": _agreement_fits,
    "inputs": lambda value, info: _inputs_fit(value),
    "pixels": lambda value, info: value is None or bool(pixels.rule(**value)),
    "macs": lambda value, info: _numbers_fit(len(info["exits"]), value) and min(value) >= 0,
}


def _inputs_fit(inputs: Any) -> bool:
    if not all(isinstance(one, dict) and set(one) == {"name", "shape", "dtype"} for one in inputs):
        return False
    names = [one["name"] for one in inputs]
    return 0 < len(names) == len(set(names)) and all(
        isinstance(one["name"], str)
        and one["dtype"] in DTYPES
        and isinstance(one["shape"], list)
        and all(type(size) is int and size > 0 for size in one["shape"])
        for one in inputs
    )


def stopping_networks(info: dict[str, Any]) -> list[Network | None] | None:
    """Returns the networks of a learned policy, one per exit, or `None` if there are none.

    The last exit, which always stops, has none.

    Raises:
        ValueError: If they are damaged.
    """
    packed = info.get("stopping")
    if packed is None:
        return None
    networks: list[Network | None] = []
    for network in packed:
        layers = [(_numbers(x["kernel"]).reshape(x["shape"]), _numbers(x["bias"])) for x in network]
        shapes = [w.shape for w, _ in layers]
        fits = len(layers) == 3 and all(
            w.ndim == 2 and b.shape == w.shape[1:] and np.isfinite(w).all() and np.isfinite(b).all()
            for w, b in layers
        )
        if not fits or [s[0] for s in shapes[1:]] + [2] != [s[1] for s in shapes]:
            raise ValueError(f"stopping networks of shapes {shapes}")
        networks.append(layers)
    return [*networks, None]


def _numbers(text: str) -> Array:
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype("float64")


def _check_digest(content: bytes, start: int, length: int, expected: str, path: str) -> None:
    """Raises a ValueError unless the file has its digest, computed while that field is zeros."""
    at = content.find(_DIGEST, start, start + length)
    zeroed = hashlib.sha256()
    if at >= 0:
        at += len(_DIGEST)
        view = memoryview(content)
        for part in (view[:at], b"0" * 64, view[at + 64 :]):
            zeroed.update(part)
    if at < 0 or zeroed.hexdigest() != expected:
        raise ValueError(
            "`path` must be unchanged since it was exported, by its SHA-256. Received: "
            f"path={path}, which is damaged or was changed"
        )
