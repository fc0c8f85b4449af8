"""Vectors of the rule of pictures, for every language: made by numpy, in full precision.

python -m tests.picture_vectors
"""

import base64
import io
import json
import math
from pathlib import Path

import numpy as np

PATH = Path(__file__).parent.parent / "tflite" / "testdata" / "pixels.json"

# height and width of a picture; the rule's height, width, channels and margin
SCALED = [
    ((12, 16), (6, 8, 3, 1.0)),  # half
    ((12, 16), (8, 8, 3, 1.0)),  # cut left and right
    ((16, 12), (8, 8, 3, 1.0)),  # cut above and below
    ((12, 16), (12, 16, 3, 1.0)),  # as it is
    ((12, 16), (9, 12, 3, 8 / 7)),  # with a margin
    ((5, 7), (20, 20, 3, 1.0)),  # enlarged
    ((3, 40), (8, 8, 3, 1.0)),  # a strip
    ((1, 1), (4, 4, 3, 1.0)),
    ((13, 17), (7, 5, 1, 1.0)),  # gray
    ((30, 21), (11, 9, 3, 256 / 224)),
]


def picture(width, height):
    """Returns a picture with edges, slopes and noise, uint8 (height, width, 3)."""
    rng = np.random.default_rng(width * 1000 + height)
    rows, columns = np.mgrid[:height, :width]
    planes = [columns * 255 / max(width - 1, 1), 255 * ((rows // 3 + columns // 4) % 2)]
    planes.append(rng.integers(0, 256, (height, width)))
    return np.stack(planes, -1).round().astype("uint8")


def scaled(array, rule):
    """Returns what the rule makes of a picture: scaled whole, then cut."""
    if rule["channels"] == 1:
        red, green, blue = np.moveaxis(array.astype(int), -1, 0)
        array = ((19595 * red + 38470 * green + 7471 * blue + 32768) >> 16)[..., np.newaxis]
    have, want = array.shape[:2], (rule["height"], rule["width"])
    decides = 0 if want[0] * have[1] >= want[1] * have[0] else 1
    side, wanted = have[decides], want[decides]
    sizes = [
        max(w, math.floor(rule["margin"] * wanted * n / side + 0.5))
        for n, w in zip(have, want, strict=True)
    ]
    array = np.floor(_along_columns(array, sizes[1]) + 0.5)
    array = _along_columns(array.swapaxes(0, 1), sizes[0]).swapaxes(0, 1)
    array = np.floor(array + 0.5)
    top, left = ((n - w) // 2 for n, w in zip(sizes, want, strict=True))
    return array[top : top + want[0], left : left + want[1]].astype("uint8")


def _along_columns(array, size):
    length = array.shape[1]
    scale = length / size
    centers = (np.arange(size) + 0.5) * scale
    distances = np.abs(np.arange(length) + 0.5 - centers[:, np.newaxis]) / max(1.0, scale)
    weights = np.maximum(0, 1 - distances)
    weights /= weights.sum(1, keepdims=True)
    return np.einsum("hwc,nw->hnc", array.astype("float64"), weights)


def _packed(array):
    text = base64.b64encode(np.ascontiguousarray(array)).decode()
    return {"shape": list(array.shape), "pixels": text}


def _decoded():
    """Yields small files: name, content, channels, what they show, and how exact that is."""
    from PIL import Image

    rgb = picture(9, 7)
    image = Image.fromarray(rgb)
    alpha = np.linspace(0, 255, 63).round().reshape(7, 9, 1).astype("uint8")
    deep = (np.arange(63).reshape(7, 9) * 1057).astype("uint16")
    over_white = (rgb * (alpha / 255) + 255 * (1 - alpha / 255)).round().astype("uint8")

    def saved(image, kind="PNG", **how):
        file = io.BytesIO()
        image.save(file, kind, **how)
        return file.getvalue()

    yield "png", saved(image), 3, rgb, 0
    yield "bmp", saved(image, "BMP"), 3, rgb, 0
    yield (
        "png with alpha",
        saved(Image.fromarray(np.concatenate([rgb, alpha], -1))),
        3,
        (over_white),
        1,
    )
    eight = ((deep.astype(int) + 128) // 257).astype("uint8")[..., np.newaxis]
    yield "gray of 16 bits", saved(Image.fromarray(deep)), 1, eight, 1
    flat = Image.new("RGB", (8, 16), (200, 30, 90))
    flat.paste((20, 130, 240), (0, 8, 8, 16))
    exif = Image.Exif()
    exif[0x0112] = 6
    content = saved(flat, "JPEG", quality=100, exif=exif, subsampling=0)
    yield "jpeg to be turned right", content, 3, np.rot90(np.array(flat), -1), 3


def vectors():
    """Returns the content of `tflite/testdata/pixels.json`."""
    cases = []
    for shape, (height, width, channels, margin) in SCALED:
        array = picture(*shape[::-1])
        rule = {"height": height, "width": width, "channels": channels, "resize": "cover"}
        rule |= {"filter": "bilinear", "antialias": True, "margin": margin}
        expected = _packed(scaled(array, rule))
        cases.append({"rule": rule, "picture": _packed(array), "expected": expected})
    decoded = [
        {
            "name": name,
            "file": base64.b64encode(content).decode(),
            "channels": channels,
            "expected": _packed(shown),
            "tolerance": tolerance,
        }
        for name, content, channels, shown, tolerance in _decoded()
    ]
    return {"tolerance": 1, "scaled": cases, "decoded": decoded}


def content():
    """Returns `vectors()` as JSON."""
    return json.dumps(vectors(), indent=1) + "\n"


if __name__ == "__main__":
    PATH.write_text(content(), encoding="utf-8")
