"""Pictures as a network sees them: one reader and one rule of scaling, in training and on devices.

`read(source, rule)` decodes a picture, scales it until it covers a size, and cuts that size out of
its middle. The steps, exact enough for any other program to repeat them within one level of 255
from the decoded picture on:

1. Decoded: the first frame, 8 bits per channel. Gray of 16 bits: `(v + 128) // 257`; color of
   16 bits: the high byte. Color profiles are not applied.
2. Turned and mirrored as the EXIF orientation says.
3. What is transparent lies over white: `(a * v + (255 - a) * 255) / 255`, rounded.
4. RGB, or gray if the rule has one channel. CMYK: `r = (255 - c) * (255 - k) / 255`, rounded,
   likewise g and b. Gray from RGB: `(19595 * r + 38470 * g + 7471 * b + 32768) >> 16`. RGB from
   gray: three times the same.
5. Scaled to cover. Of `H x W` pixels, `h x w` are wanted. The rows decide if `h * W >= w * H`,
   the columns otherwise. With the deciding wanted side `s` and its side `S` of the picture, each
   side `L`, of which `l` pixels are wanted, becomes `max(l, floor(margin * s * L / S + 0.5))`,
   computed in 64 bits from left to right.
6. Bilinear with antialiasing: along a side scaled from `L` to `n`, pixel `i` is the mean of the
   pixels `j` with the weights `max(0, 1 - |j + 0.5 - (i + 0.5) * L / n| / max(1, L / n))`, divided
   by their sum over the pixels that there are. First along the rows, rounded to 8 bits, then along
   the columns, rounded likewise. Half a level is rounded up.
7. Cut: of `n` scaled pixels `l` are kept, from `(n - l) // 2` on.

Pillow does all of this; it is imported when the first picture is read.
"""

from __future__ import annotations

import contextlib
import io
import math
import operator
import os
import threading
import warnings
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

if TYPE_CHECKING:
    from PIL import Image

FORMATS = ("AVIF", "BMP", "GIF", "JPEG", "MPO", "PNG", "PPM", "TIFF", "WEBP")

# files with these names are meant to be pictures: one that cannot be read is damaged
SUFFIXES = {
    *(".avif", ".bmp", ".dib", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jpeg", ".jpg"),
    *(".mpo", ".pbm", ".pgm", ".png", ".pnm", ".ppm", ".tif", ".tiff", ".webp"),
}

# bounds, so that the work is known before it begins
PIXELS = 2**27  # of a picture: a camera of 108 megapixels is below
BYTES = 2**28  # of a file
SCANS = 500  # of a progressive JPEG; usual are ten
SIDE = 2**14  # of what a rule asks for
MARGIN = 16.0

WHITE = 255  # what transparent pixels lie over

# EXIF orientation: the method of PIL.Image.Transpose that undoes it
ORIENTATIONS = {
    2: "FLIP_LEFT_RIGHT",
    3: "ROTATE_180",
    4: "FLIP_TOP_BOTTOM",
    5: "TRANSPOSE",
    6: "ROTATE_270",
    7: "TRANSVERSE",
    8: "ROTATE_90",
}

_warning = threading.Lock()  # Python's filters of warnings are those of all threads


def rule(
    height: int,
    width: int,
    channels: int,
    *,
    margin: float = 1.0,
    resize: str = "cover",
    filter: str = "bilinear",
    antialias: bool = True,
) -> dict[str, Any]:
    """Returns how pictures become pixels, as JSON can hold it.

    Args:
        height, width: Integers, the size of the result.
        channels: 3 for RGB, or 1 for gray.
        margin: Number of at least 1: pictures are scaled until they cover this many times the
            size. 256 / 224 is usual for photographs.
        resize, filter, antialias: As they are, `"cover"`, `"bilinear"` and `True`.

    Returns:
        Dictionary with the names of the arguments.

    Raises:
        ValueError: If there is no such rule.

    Example:

    >>> rule(224, 224, 3, margin=8 / 7)["resize"]
    'cover'
    """
    sides = {"height": _integer(height), "width": _integer(width)}
    for name, side in sides.items():
        if side is None or not 1 <= side <= SIDE:
            raise ValueError(
                f"`{name}` of a rule must be an integer from 1 to {SIDE}. "
                f"Received: {name}={_short(side)}"
            )
    if _integer(channels) not in (1, 3):
        raise ValueError(
            "`channels` of a rule must be 3, for RGB, or 1, for gray. "
            f"Received: channels={_short(channels)}"
        )
    try:
        factor = math.nan if isinstance(margin, (bool, str)) else float(margin)
    except (TypeError, ValueError, OverflowError):
        factor = math.nan
    if not 1 <= factor <= MARGIN:
        raise ValueError(
            f"`margin` of a rule must be a number from 1 to {MARGIN:.0f}. "
            f"Received: margin={_short(margin)}"
        )
    if (resize, filter, antialias) != ("cover", "bilinear", True):
        raise ValueError(
            'A rule must have resize="cover", filter="bilinear" and antialias=True. '
            f"Received: resize={_short(resize)}, filter={_short(filter)}, "
            f"antialias={_short(antialias)}"
        )
    return {
        **sides,
        "channels": operator.index(channels),
        "resize": "cover",
        "filter": "bilinear",
        "antialias": True,
        "margin": factor,
    }


def check_rule(found: Mapping[str, Any]) -> dict[str, Any]:
    """Returns a rule that was read from a file, checked.

    Args:
        found: Dictionary, as `rule` makes it; what has a default may be missing.

    Raises:
        ValueError: If it is none.
    """
    try:
        return rule(**found)
    except TypeError as error:
        raise ValueError(
            f"A rule must be what `rule` makes. Received: {_short(found)} ({error})"
        ) from error


def rule_of(
    info: Mapping[str, Any], shapes: Sequence[Sequence[int]], name: Any = "the file"
) -> dict[str, Any]:
    """Returns how pictures become a network's input: the rule in its file, or the usual one.

    Args:
        info: Dictionary, what the file says of itself; see `read_info`.
        shapes: The shapes of the network's inputs, without the batch.
        name: What errors call the file.

    Raises:
        ValueError: If the network takes no pictures, or the rule is another's.

    Example:

    >>> rule_of({"pixels": None}, [(32, 32, 3)])["height"]
    32
    """
    given = [tuple(shape) for shape in shapes]
    if len(given) != 1 or len(given[0]) != 3 or given[0][2] not in (1, 3):
        raise ValueError(
            "The file must classify pictures: its one input must be (height, width, channels) "
            f"with 1 or 3 channels. Received: {name}, whose inputs are of shape {given}"
        )
    sides = ("height", "width", "channels")
    found = check_rule(info.get("pixels") or dict(zip(sides, given[0], strict=True)))
    if tuple(found[side] for side in sides) != given[0]:
        raise ValueError(
            f"The pixel rule of a file must be of its input's shape, {given[0]}. "
            f"Received: {name}, whose rule is {found}"
        )
    return found


def read(source: Any, rule: Mapping[str, Any]) -> np.ndarray:
    """Decodes a picture and returns the pixels that a rule asks for.

    Args:
        source: Path of a file; or its content, as bytes or as a file object; or a
            `PIL.Image.Image`. JPEG, PNG, WebP, BMP, GIF, TIFF, PPM and AVIF are read, as far as
            Pillow has them.
        rule: Dictionary, as `rule` makes it.

    Returns:
        uint8 `(height, width, channels)`.

    Raises:
        ValueError: If it is no picture, is damaged or cut off, or is larger than 2**27 pixels or
            2**28 bytes. The error names the file and the reason.
        ImportError: If Pillow is missing.

    Example:

    >>> from PIL import Image
    >>> photo = Image.new("RGB", (640, 480), "red")
    >>> read(photo, rule(32, 32, 3))[0, 0].tolist()
    [255, 0, 0]
    """
    rule = check_rule(rule)
    return _scaled(_decoded(source, rule["channels"]), rule)


def decode(source: Any, channels: int = 3) -> np.ndarray:
    """Decodes a picture and returns all of its pixels, not scaled.

    Args:
        source: As in `read`.
        channels: 3 for RGB, or 1 for gray.

    Returns:
        uint8 `(height, width, channels)`.

    Raises:
        ValueError, ImportError: As `read` does.
    """
    channels = rule(1, 1, channels)["channels"]
    return _array(_decoded(source, channels))


def resize(array: np.ndarray, rule: Mapping[str, Any]) -> np.ndarray:
    """Scales and cuts pixels as a rule says.

    Args:
        array: uint8 `(height, width, channels)`, with 1 channel, gray, with 3, or with 4, the
            last of which says how opaque a pixel is; or `(height, width)`, gray.
        rule: Dictionary, as `rule` makes it.

    Returns:
        uint8 `(height, width, channels)` of the rule's size.

    Raises:
        ValueError: If the array is not of such a kind.
        ImportError: If Pillow is missing.
    """
    rule = check_rule(rule)
    array = np.asarray(array)
    gray = array.ndim == 2 or (array.ndim == 3 and array.shape[2] == 1)
    if array.dtype != np.uint8 or not (gray or (array.ndim == 3 and array.shape[2] in (3, 4))):
        raise ValueError(
            "`array` must be uint8 of shape (height, width, channels) with 1, 3 or 4 channels. "
            f"Received: dtype {array.dtype}, shape {array.shape}"
        )
    if not array.size > 0:
        raise ValueError(f"`array` must not be empty. Received: shape {array.shape}")
    image = _pillow().fromarray(array.reshape(array.shape[:2]) if gray else array)
    return _scaled(_in_channels(image, rule["channels"]), rule)


def _integer(value: object) -> int | None:
    try:
        return None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        return None


def _short(value: object, length: int = 80) -> str:
    """Returns what a value is, in so many letters at most."""
    text = repr(value)
    return text if len(text) <= length else text[: length - 3] + "..."


def _pillow() -> Any:
    try:
        from PIL import Image
    except ImportError as error:
        raise ImportError("Reading pictures needs Pillow: pip install pillow") from error
    return Image


# ---- decoding


def _decoded(source: Any, channels: int) -> Image.Image:
    """Returns a picture as Pillow's RGB or L."""
    pillow = _pillow()
    given = isinstance(source, pillow.Image)
    name = "an image" if given else _name(source)
    try:
        image = source if given else _opened(_content(source), pillow)
        _check_size(image)
        # Pillow turns TIFFs when they are loaded, takes the orientation away, and may warn
        with _quietly() if image.format == "TIFF" else contextlib.nullcontext():
            image.load()
        orientation = _orientation(image)
        image = _in_channels(image, channels)
        turn = ORIENTATIONS.get(orientation)
        return image.transpose(getattr(pillow.Transpose, turn)) if turn else image
    except Exception as error:  # what decoders raise has no common class
        reason = " ".join(str(error).split()) or type(error).__name__
        raise ValueError(
            f"A picture must be an image file that can be read. Received: {name} ({reason[:200]})"
        ) from error


def _name(source: Any) -> str:
    if isinstance(source, (str, os.PathLike)):
        return os.fsdecode(source)
    if isinstance(source, (bytes, bytearray, memoryview)):
        return f"{len(source)} bytes"
    if hasattr(source, "read"):
        return str(getattr(source, "name", type(source).__name__))
    raise TypeError(
        "`source` must be a path, bytes, a file object or a PIL image. "
        f"Received: source={_short(source)}"
    )


def _content(source: Any) -> bytes:
    """Returns the content of a file, if it is not too long."""
    if isinstance(source, (bytes, bytearray, memoryview)):
        content = bytes(source) if len(source) <= BYTES else b""
        too_long = len(source) > BYTES
    else:
        if isinstance(source, (str, os.PathLike)):
            path = Path(os.fsdecode(source))
            if not path.is_file():  # not a device or a pipe, which have no end
                raise ValueError("no such file" if not path.exists() else "no file")
            with open(path, "rb") as file:  # no more memory than it takes is asked for
                content = file.read(min(path.stat().st_size, BYTES) + 1)
        else:
            content = source.read(BYTES + 1)
        if not isinstance(content, (bytes, bytearray)):
            raise ValueError("it is text, not bytes")
        too_long = len(content) > BYTES
    if too_long:
        raise ValueError(f"more than {BYTES} bytes")
    if not content:
        raise ValueError("it is empty")
    if content.startswith(b"\xff\xd8") and content.count(b"\xff\xda") > SCANS:
        raise ValueError(f"a JPEG of more than {SCANS} scans")
    return bytes(content)


def _opened(content: bytes, pillow: Any) -> Image.Image:
    """Returns a picture whose header alone has been read."""
    pillow.init()
    formats = [name for name in FORMATS if name in pillow.OPEN]
    with _quietly():
        try:
            return pillow.open(io.BytesIO(content), formats=formats)
        except pillow.DecompressionBombError as error:
            raise ValueError("too many pixels: it could be a decompression bomb") from error
        except OSError as error:
            raise ValueError("not a known image format, or damaged") from error


def _check_size(image: Image.Image) -> None:
    width, height = image.size
    if not 0 < width * height <= PIXELS:
        raise ValueError(
            f"it has {width}x{height} pixels; there must be 1 to {PIXELS}, no decompression bomb"
        )


@contextlib.contextmanager
def _quietly() -> Iterator[None]:
    """Lets nothing in its `with` block warn: sizes are checked here, and what is read is used."""
    with _warning, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


def _orientation(image: Image.Image) -> int:
    with _quietly():
        try:
            return int(image.getexif().get(0x0112, 1))
        except Exception:  # damaged EXIF data says nothing, and the picture is there
            return 1


def _in_channels(image: Image.Image, channels: int) -> Image.Image:
    """Returns a loaded picture as L or RGB of 8 bits, nothing of it transparent."""
    pillow = _pillow()
    mode = image.mode
    if mode.startswith("I;16") or (mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.int64)
        image = pillow.fromarray(((values + 128) // 257).astype(np.uint8))
    elif mode in ("I", "F"):
        raise ValueError(f"its pixels must have 8 or 16 bits, and have 32: mode {mode}")
    elif mode in ("LA", "PA", "RGBA", "La", "RGBa") or "transparency" in image.info:
        straight = {"La": "LA", "RGBa": "RGBA"}.get(mode, mode)
        opaque = image.convert(straight).convert("RGBA")
        image = pillow.new("RGB", image.size, (WHITE,) * 3)
        image.paste(opaque, mask=opaque.getchannel("A"))
    if image.mode not in ("RGB", "L"):
        image = image.convert("RGB")
    wanted = "RGB" if channels == 3 else "L"
    return image if image.mode == wanted else image.convert(wanted)


# ---- scaling


def _scaled(image: Image.Image, rule: Mapping[str, Any]) -> np.ndarray:
    """Scales and cuts in one step: only the pixels that stay are computed."""
    width, height = image.size
    by_rows = rule["height"] * width >= rule["width"] * height
    ratio = (rule["height"], height) if by_rows else (rule["width"], width)
    top, bottom = _kept(height, rule["height"], rule["margin"], *ratio)
    left, right = _kept(width, rule["width"], rule["margin"], *ratio)
    size = (rule["width"], rule["height"])
    box = (left, top, right, bottom)
    return _array(image.resize(size, _pillow().Resampling.BILINEAR, box=box))


def _kept(
    side: int, wanted: int, margin: float, numerator: int, denominator: int
) -> tuple[float, float]:
    """Returns where the kept part of a side begins and ends, in pixels of the picture."""
    scaled = max(wanted, math.floor(margin * numerator * side / denominator + 0.5))
    first = (scaled - wanted) // 2
    return first * side / scaled, (first + wanted) * side / scaled


def _array(image: Image.Image) -> np.ndarray:
    array = np.array(image)
    return array if array.ndim == 3 else array[..., np.newaxis]
