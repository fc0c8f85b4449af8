"""Reads and checks the metadata of a .tflite file."""

import base64
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from anytime_tflite import flatbuffer, pixels
from anytime_tflite.rule import CONFIDENCES, Array, Network

_FORMAT = "keras_adaptive.tflite"
_VERSIONS = (2, 3)
_METADATA = "keras_adaptive"
_DIGEST = b'"sha256": "'
_KEYS = {
    "exits",
    "confidence",
    "thresholds",
    "temperatures",
    "patience",
    "class_names",
    "preprocessing",
    "stage_ms",
    "sha256",
}
_ADDED = {"log_odds", "agreement", "inputs", "pixels", "macs"}  # by version 3
DTYPES = ("float32", "float16", "uint8", "int8", "int16", "int32", "int64", "bool")


class _Readable(Protocol):
    def read(self) -> bytes: ...


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


def content_of(source: Source) -> tuple[bytes, str]:
    """Returns the content of a file, and what to call the file in errors."""
    if isinstance(source, str | os.PathLike):
        path = Path(source)
        if not path.is_file():
            raise ValueError(f"`path` must be a file. Received: path={path}")
        return path.read_bytes(), str(path)
    if callable(getattr(source, "read", None)):
        content, name = source.read(), f"a {type(source).__name__}"
    elif callable(getattr(source, "open", None)):
        with source.open("rb") as file:
            content, name = file.read(), str(source)
    else:
        content, name = source, f"a {type(source).__name__}"
    try:
        return bytes(memoryview(content)), name
    except TypeError as error:
        raise TypeError(
            "`path` must be a path, bytes, or an object whose `read` or `open` gives bytes. "
            f"Received: path={source!r}, a {type(source).__name__}"
        ) from error


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
        flatbuffer.check(content)
    except flatbuffer.Damaged as error:
        raise ValueError(
            f"`path` must be a whole TFLite model. Received: path={path} ({error})"
        ) from error
    return info


def _parse(content: bytes, start: int, length: int, path: str) -> dict[str, Any]:
    try:
        info: Any = json.loads(content[start : start + length].decode())
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise ValueError(
            f"`path` must be a file whose info is JSON. Received: path={path} ({error})"
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
            f"Received: path={path} of version {version}"
        )
    wrong = _wrong(info)
    if wrong:
        raise ValueError(
            f"`path` must be a file whose info is complete. Received: path={path} with {wrong}"
        )
    if "quantisation" in info:  # the key in files written before 0.2
        info["quantization"] = info.pop("quantisation")
    return info


def _wrong(info: dict[str, Any]) -> str | None:
    """Returns what is wrong with the info, or `None`."""
    added = _ADDED if info["version"] >= 3 else set()
    missing = sorted((_KEYS | added) - set(info))
    if missing:
        return f"no {', '.join(missing)}"
    exits, temperatures, patience = info["exits"], info["temperatures"], info["patience"]
    names, digest = info["class_names"], info["sha256"]
    try:
        thresholds = [float(t) for t in info["thresholds"]]
        fits = {
            "confidence": info["confidence"] in (*CONFIDENCES, "learned"),
            "stopping": len(stopping_networks(info) or ())
            == (len(thresholds) if info["confidence"] == "learned" else 0),
            "exits": exits == sorted(set(exits))
            and 0 <= exits[0] <= exits[-1] < len(thresholds)
            and all(type(k) is int for k in exits),
            "thresholds": not any(math.isnan(t) for t in thresholds),
            "temperatures": len(temperatures) == len(thresholds)
            and all(0 < float(t) < math.inf for t in temperatures),
            "patience": patience is None or (type(patience) is int and patience >= 2),
            "class_names": names is None
            or (isinstance(names, list) and all(isinstance(name, str) for name in names)),
            "preprocessing": _preprocessing_fits(info["preprocessing"]),
            "stage_ms": info["stage_ms"] is None
            or (len(info["stage_ms"]) == len(exits) and min(info["stage_ms"]) > 0),
            "sha256": isinstance(digest, str) and len(digest) == 64,
        }
        if added:
            odds = [float(t) for t in info["log_odds"]]
            fits |= {
                "log_odds": len(odds) == len(thresholds) and not any(map(math.isnan, odds)),
                "agreement": info["agreement"] is None or _agreement_fits(info["agreement"]),
                "inputs": _inputs_fit(info["inputs"]),
                "pixels": info["pixels"] is None or bool(pixels.rule(**info["pixels"])),
                "macs": len(info["macs"]) == len(exits)
                and all(0 <= float(cost) < math.inf for cost in info["macs"]),
            }
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        return str(error)
    return next((f"{key}={info.get(key)!r}" for key, good in fits.items() if not good), None)


def _agreement_fits(agreement: Any) -> bool:
    if not isinstance(agreement, dict) or set(agreement) != {"members", "share"}:
        return False
    members, share = agreement["members"], agreement["share"]
    return type(members) is int and members >= 2 and bool(0 < float(share) <= 1)


def _inputs_fit(inputs: Any) -> bool:
    if not all(isinstance(one, dict) and set(one) == {"name", "shape", "dtype"} for one in inputs):
        return False
    names = [one["name"] for one in inputs]
    return 0 < len(names) == len(set(names)) and all(
        isinstance(one["name"], str)
        and one["dtype"] in DTYPES
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


def _preprocessing_fits(preprocessing: dict[str, Any] | None) -> bool:
    if preprocessing is None:
        return True
    mean, std = preprocessing["mean"], preprocessing["std"]
    finite = all(math.isfinite(float(value)) for value in (*mean, *std))
    return finite and len(mean) == len(std) and bool(min(std) > 0)


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
