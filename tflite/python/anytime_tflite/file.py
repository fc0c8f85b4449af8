"""Reads and checks the metadata of a .tflite file."""

import base64
import hashlib
import json
import math
import os
from pathlib import Path
from typing import Any

import numpy as np

from anytime_tflite import flatbuffer
from anytime_tflite.rule import CONFIDENCES, Array, Network

_FORMAT = "keras_adaptive.tflite"
_VERSION = 2
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


def read_info(path: str | os.PathLike[str]) -> dict[str, Any]:
    """Checks that a file is complete and returns its metadata; needs no interpreter.

    Args:
        path: Path of a file written by `keras_adaptive.export_tflite`.

    Returns:
        Dictionary, its keys described in tflite/README.md. Infinite thresholds are the texts
        `"Infinity"` and `"-Infinity"`.

    Raises:
        ValueError: If the file is missing, cut, changed, of another kind, or of a version
            that is not supported.

    Example:

    ```python
    read_info("model.tflite")["class_names"]
    ```
    """
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"`path` must be a file. Received: path={path}")
    content = path.read_bytes()
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


def _parse(content: bytes, start: int, length: int, path: Path) -> dict[str, Any]:
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
    if version != _VERSION:
        older = isinstance(version, int) and version < _VERSION
        advice = "export it again" if older else "update anytime_tflite"
        raise ValueError(
            f"`path` must be of version {_VERSION}: {advice}. Received: path={path} of "
            f"version {version}"
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
    missing = sorted(_KEYS - set(info))
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
    except (TypeError, ValueError, KeyError, IndexError, OverflowError) as error:
        return str(error)
    return next((f"{key}={info.get(key)!r}" for key, good in fits.items() if not good), None)


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


def _check_digest(content: bytes, start: int, length: int, expected: str, path: Path) -> None:
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
