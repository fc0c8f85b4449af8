"""Pictures are read and scaled as the module says, compared with numpy and TensorFlow."""

import base64
import io
import json
import struct
import subprocess
import sys
import zlib
from pathlib import Path

import numpy as np
import picture_vectors
import pytest
from PIL import Image, PngImagePlugin

from anytime_tflite import pixels

RGB = picture_vectors.picture(40, 30)


def saved(image, kind="PNG", **how):
    """Returns the content of a picture file."""
    file = io.BytesIO()
    image.save(file, kind, **how)
    return file.getvalue()


def png(array, color, palette=b"", transparency=b""):
    """Returns a PNG, put together by hand: Pillow writes no colors of 16 bits."""
    height, width = array.shape[:2]
    array = array.astype(array.dtype.newbyteorder(">"))
    rows = b"".join(b"\0" + row.tobytes() for row in array)
    depth = 8 * array.itemsize
    chunks = [(b"IHDR", struct.pack(">IIBBBBB", width, height, depth, color, 0, 0, 0))]
    chunks += [(b"PLTE", palette)] * bool(palette) + [(b"tRNS", transparency)] * bool(transparency)
    chunks += [(b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    parts = [
        struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))
        for name, body in chunks
    ]
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


GRAY, COLOR, PALETTE, GRAY_ALPHA, COLOR_ALPHA = 0, 2, 3, 4, 6
DEEP = (np.arange(12 * 5).reshape(5, 12) * 65535 // 59).astype(">u2")
DEEP_RGB = np.stack([DEEP, DEEP[::-1], DEEP[:, ::-1]], -1)


def over_white(values, alpha):
    alpha = alpha[..., np.newaxis].astype("float64")
    return (values * alpha + 255 * (255 - alpha)) / 255


def gray(values):
    return values @ np.array([0.299, 0.587, 0.114])


ALPHA = np.linspace(0, 255, 30 * 40).round().reshape(30, 40).astype("uint8")
CMYK = np.concatenate([RGB, ALPHA[..., None]], -1)
PALETTE_OF = np.random.default_rng(1).integers(0, 256, (4, 3), dtype="uint8")
INDICES = np.random.default_rng(2).integers(0, 4, (5, 12), dtype="uint8")


# name: content, and what it shows as RGB, in full precision
def cases():
    image = Image.fromarray(RGB)
    straight = np.concatenate([RGB, ALPHA[..., None]], -1)
    first = image.resize((8, 6))
    yield "png", saved(image), RGB
    yield "bmp", saved(image, "BMP"), RGB
    yield "webp", saved(image, "WEBP", lossless=True), RGB
    yield "tiff", saved(image, "TIFF", compression="tiff_lzw"), RGB
    yield "ppm", saved(image, "PPM"), RGB
    flat = Image.new("RGB", (40, 30), (200, 30, 90))
    yield "jpeg", saved(flat, "JPEG", quality=100), np.array(flat)
    frames = [Image.new("RGB", (9, 7), color) for color in ("red", "blue")]
    gif = saved(frames[0], "GIF", save_all=True, append_images=frames[1:])
    yield "gif of two frames", gif, np.array(frames[0])
    webp = saved(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    yield "webp of two frames", webp, np.array(frames[0])
    yield "gray", saved(Image.fromarray(RGB[..., 0])), np.stack([RGB[..., 0]] * 3, -1)
    bits = RGB[..., 0] > 127
    yield "one bit", saved(Image.fromarray(bits)), np.stack([bits * 255] * 3, -1)
    yield "palette", png(INDICES, PALETTE, PALETTE_OF.tobytes()), PALETTE_OF[INDICES]
    clear = np.array([255, 128, 0, 255], "uint8")
    shown = over_white(PALETTE_OF[INDICES], clear[INDICES])
    content = png(INDICES, PALETTE, PALETTE_OF.tobytes(), clear.tobytes())
    yield "transparent palette", content, shown
    yield "rgba", saved(Image.fromarray(straight)), over_white(RGB, ALPHA)
    yield (
        "rgba webp",
        saved(Image.fromarray(straight), "WEBP", lossless=True, exact=True),
        (over_white(RGB, ALPHA)),
    )
    pair = np.stack([RGB[..., 0], ALPHA], -1)
    shown = over_white(np.stack([RGB[..., 0]] * 3, -1), ALPHA)
    yield "gray and alpha", png(pair, GRAY_ALPHA), shown
    key = RGB[3, 4]
    shown = np.where((key == RGB).all(-1, keepdims=True), 255, RGB)
    transparency = key.astype(">u2").tobytes()
    yield "one transparent color", png(RGB, COLOR, transparency=transparency), shown
    yield "16 bits gray", png(DEEP, GRAY), np.stack([DEEP / 257] * 3, -1)
    yield "16 bits color", png(DEEP_RGB, COLOR), DEEP_RGB / 257
    deep_alpha = np.concatenate([DEEP_RGB, DEEP[..., None]], -1).astype(">u2")
    shown = over_white(DEEP_RGB / 257, DEEP / 257)
    yield "16 bits color and alpha", png(deep_alpha, COLOR_ALPHA), shown
    pair = np.stack([DEEP, DEEP[::-1]], -1)
    shown = over_white(np.stack([DEEP / 257] * 3, -1), DEEP[::-1] / 257)
    yield "16 bits gray and alpha", png(pair, GRAY_ALPHA), shown
    deep = Image.fromarray(DEEP.astype("<u2"))
    yield "16 bits tiff", saved(deep, "TIFF"), np.stack([DEEP / 257] * 3, -1)
    pgm = b"P5\n12 5\n65535\n" + DEEP.tobytes()
    yield "16 bits pgm", pgm, np.stack([DEEP / 257] * 3, -1)
    shown = (255.0 - CMYK[..., :3]) * (255.0 - CMYK[..., 3:]) / 255
    yield "cmyk tiff", saved(Image.fromarray(CMYK, "CMYK"), "TIFF"), shown
    flat = np.full((16, 16, 4), (10, 200, 60, 40), "uint8")
    shown = (255.0 - flat[..., :3]) * (255.0 - flat[..., 3:]) / 255
    yield "cmyk jpeg", saved(Image.fromarray(flat, "CMYK"), "JPEG", quality=100), shown
    exif = Image.Exif()
    exif[0x0112] = 6
    yield "png turned", saved(image, exif=exif), np.rot90(RGB, -1)
    assert first.size == (8, 6)


CASES = {name: rest for name, *rest in cases()}


@pytest.mark.parametrize("name", CASES)
def test_decodes_to_8_bits_of_rgb_or_gray(name, tmp_path):
    content, shown = CASES[name]
    found = pixels.decode(content)
    assert found.dtype == "uint8"
    assert found.shape == shown.shape
    np.testing.assert_allclose(found, shown, atol=2 if "jpeg" in name else 1.01)
    one = pixels.decode(content, 1)
    assert one.shape == (*shown.shape[:2], 1)
    np.testing.assert_allclose(one[..., 0], gray(shown), atol=2 if "jpeg" in name else 1.51)
    (tmp_path / "Bär.picture").write_bytes(content)
    rule = pixels.rule(6, 5, 3)
    expected = pixels.resize(found, rule)
    for source in (tmp_path / "Bär.picture", str(tmp_path / "Bär.picture"), io.BytesIO(content)):
        np.testing.assert_array_equal(pixels.read(source, rule), expected)
    np.testing.assert_array_equal(pixels.read(Image.open(io.BytesIO(content)), rule), expected)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
def test_pictures_are_turned_as_the_camera_says(kind):
    """Each of the eight orientations, undone by numpy."""
    undone = {
        1: lambda x: x,
        2: np.fliplr,
        3: lambda x: np.rot90(x, 2),
        4: np.flipud,
        5: lambda x: np.swapaxes(x, 0, 1),
        6: lambda x: np.rot90(x, -1),
        7: lambda x: np.rot90(np.swapaxes(x, 0, 1), 2),
        8: np.rot90,
    }
    image = Image.fromarray(RGB)
    how = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}}.get(kind, {})
    for orientation, undo in undone.items():
        exif = Image.Exif()
        exif[0x0112] = orientation
        found = pixels.decode(saved(image, kind, exif=exif, **how))
        without = pixels.decode(saved(image, kind, **how))
        np.testing.assert_array_equal(found, undo(without))
    assert undone[6](RGB).shape == (40, 30, 3)


def test_a_turned_16_bit_picture_with_damaged_exif():
    exif = Image.Exif()
    exif[0x0112] = 3
    deep = Image.fromarray(DEEP.astype("<u2"))
    found = pixels.decode(saved(deep, exif=exif), 1)
    np.testing.assert_array_equal(found[..., 0], np.rot90((DEEP.astype(int) + 128) // 257, 2))
    found = pixels.decode(saved(Image.fromarray(RGB), exif=b"Exif\0\0II*\0\xff\xff\xff\xff"))
    np.testing.assert_array_equal(found, RGB)


@pytest.mark.parametrize("seed", range(40))
def test_scales_as_numpy_does(seed):
    rng = np.random.default_rng(seed)
    height, width = (int(n) for n in np.exp(rng.uniform(0, 5, 2)).round())
    wanted = [int(n) for n in np.exp(rng.uniform(0, 4.5, 2)).round()]
    margin = float(rng.choice([1.0, 1.0, 8 / 7, 1.5]))
    array = rng.integers(0, 256, (height, width, 3), dtype="uint8")
    rule = pixels.rule(*wanted, 3, margin=margin)
    expected = picture_vectors.scaled(array, rule)
    found = pixels.resize(array, rule)
    assert found.shape == (*wanted, 3)
    assert np.abs(found.astype(int) - expected.astype(int)).max() <= 1


@pytest.mark.parametrize(
    ("shape", "wanted", "margin"),
    [
        ((100, 200), (56, 56), 64 / 56),
        ((480, 640), (224, 224), 1.0),
        ((31, 47), (64, 64), 1.0),
        ((300, 200), (96, 128), 256 / 224),
        ((5, 400), (32, 32), 1.0),
    ],
)
def test_scales_as_tensorflow_does(shape, wanted, margin):
    import tensorflow as tf

    array = picture_vectors.picture(*shape[::-1])
    scale = margin * max(w / have for w, have in zip(wanted, shape, strict=True))
    size = [max(w, round(scale * have)) for w, have in zip(wanted, shape, strict=True)]
    whole = tf.image.resize(array, size, antialias=True).numpy()
    top, left = ((n - w) // 2 for n, w in zip(size, wanted, strict=True))
    expected = whole[top : top + wanted[0], left : left + wanted[1]]
    found = pixels.resize(array, pixels.rule(*wanted, 3, margin=margin))
    np.testing.assert_allclose(found, expected, atol=1.01)


def test_a_picture_that_fits_stays_as_it_is():
    np.testing.assert_array_equal(pixels.resize(RGB, pixels.rule(30, 40, 3)), RGB)
    np.testing.assert_array_equal(pixels.resize(RGB, pixels.rule(30, 20, 3)), RGB[:, 10:30])
    np.testing.assert_array_equal(pixels.resize(RGB, pixels.rule(11, 40, 3)), RGB[9:20])


def test_arrays_of_any_number_of_channels():
    rule = pixels.rule(30, 40, 3)
    plane = RGB[..., 1]
    for array in (plane, plane[..., None]):
        np.testing.assert_array_equal(pixels.resize(array, rule), np.stack([plane] * 3, -1))
        one = pixels.resize(array, pixels.rule(30, 40, 1))
        np.testing.assert_array_equal(one[..., 0], plane)
    both = np.concatenate([RGB, ALPHA[..., None]], -1)
    np.testing.assert_allclose(pixels.resize(both, rule), over_white(RGB, ALPHA), atol=0.51)
    weights = np.array([19595, 38470, 7471])
    expected = (RGB.astype(int) @ weights + 32768) >> 16
    one = pixels.resize(RGB, pixels.rule(30, 40, 1))[..., 0]
    np.testing.assert_array_equal(one, expected)


@pytest.mark.parametrize(
    "array",
    [
        np.zeros((4, 4, 3)),
        np.zeros((4, 4, 2), "uint8"),
        np.zeros((0, 4, 3), "uint8"),
        np.zeros(4, "uint8"),
        np.zeros((1, 4, 4, 3), "uint8"),
    ],
    ids=lambda array: f"{array.dtype}-{array.shape}",
)
def test_rejects_arrays_that_are_no_pictures(array):
    with pytest.raises(ValueError, match="`array` must .* Received: "):
        pixels.resize(array, pixels.rule(2, 2, 3))


# ---- what is damaged or hostile


def huge_png(width, height):
    """Returns a small file that says to be a huge picture."""
    header = struct.pack(">IIBBBBB", width, height, 8, COLOR, 0, 0, 0)
    content = png(RGB, COLOR)
    crc = struct.pack(">I", zlib.crc32(b"IHDR" + header))
    return content[:16] + header + crc + content[33:]


GOOD = saved(Image.fromarray(RGB))
NOISE = np.random.default_rng(3).integers(0, 256, (64, 64, 3), dtype="uint8")
JPEG = saved(Image.fromarray(NOISE), "JPEG")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (b"", "empty"),
        (b"no picture", "not a known image format"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "not a known image format"),
        (b"<svg xmlns='http://www.w3.org/2000/svg'/>", "not a known image format"),
        (GOOD[:20], "not a known|damaged"),
        (GOOD[: len(GOOD) // 2], "truncated|broken"),
        (JPEG[: len(JPEG) // 2], "truncated"),
        (huge_png(20_000, 20_000), "bomb"),
        (huge_png(12_000, 12_000), "bomb"),
        (huge_png(2**31 - 1, 1), "bomb"),
        (huge_png(0, 7), "not a known|pixels"),
        (b"\xff\xd8" + b"\xff\xda\0\0" * 600, "more than 500 scans"),
        (saved(Image.fromarray(np.zeros((4, 4), "float32")), "TIFF"), "8 or 16 bits"),
        (saved(Image.fromarray(np.zeros((4, 4), "int32")), "TIFF"), "8 or 16 bits"),
    ],
)
def test_names_files_that_cannot_be_read(content, reason, tmp_path):
    path = tmp_path / "Käse.png"
    path.write_bytes(content)
    for call in (lambda: pixels.decode(path), lambda: pixels.read(path, pixels.rule(4, 4, 3))):
        with pytest.raises(ValueError, match=rf"Received: .*Käse.png \(.*({reason})"):
            call()
    with pytest.raises(ValueError, match=f"Received: {len(content)} bytes"):
        pixels.decode(content)


def outcome(content):
    """Returns what a file shows, or why it cannot be read."""
    try:
        return pixels.decode(content)
    except ValueError as error:
        return str(error)


def test_every_damaged_file_is_named_or_read():
    rng = np.random.default_rng(4)
    read = named = 0
    for content, _ in CASES.values():
        for _ in range(15):
            bad = bytearray(content)
            for place in rng.integers(0, len(bad), 3):
                bad[place] = rng.integers(256)
            bad = bytes(bad[: rng.integers(1, len(bad) + 1)] if rng.random() < 0.5 else bad)
            found = outcome(bad)
            read += isinstance(found, np.ndarray)
            named += f"Received: {len(bad)} bytes (" in found if isinstance(found, str) else 0
    assert read + named == 15 * len(CASES)
    assert min(read, named) > 50


def test_what_is_no_file_is_refused(tmp_path, monkeypatch):
    for path, reason in ((tmp_path / "none.png", "no such file"), (tmp_path, "no file")):
        with pytest.raises(ValueError, match=rf"Received: .* \({reason}\)"):
            pixels.decode(path)
    with pytest.raises(ValueError, match="no file"):
        pixels.decode("/dev/zero")
    with pytest.raises(TypeError, match="`source` must be a path, bytes"):
        pixels.decode(7)
    with pytest.raises(ValueError, match="text, not bytes"):
        pixels.decode(io.StringIO("text"))
    monkeypatch.setattr(pixels, "BYTES", 100)
    (tmp_path / "long.png").write_bytes(GOOD)
    for source in (GOOD, io.BytesIO(GOOD), tmp_path / "long.png"):
        with pytest.raises(ValueError, match="more than 100 bytes"):
            pixels.decode(source)


def test_long_texts_in_a_picture_do_not_matter():
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * 10**6, zip=True)
    np.testing.assert_array_equal(pixels.decode(saved(Image.fromarray(RGB), pnginfo=info)), RGB)
    info.add_text("bomb", "x" * 10**7, zip=True)
    bomb = outcome(saved(Image.fromarray(RGB), pnginfo=info))
    assert isinstance(bomb, np.ndarray) or "Received: " in bomb


# ---- the rule


def test_the_rule_is_what_a_file_holds():
    rule = pixels.rule(np.int64(32), 48, 3, margin=np.float32(1.5))
    assert json.loads(json.dumps(rule)) == {
        "height": 32,
        "width": 48,
        "channels": 3,
        "resize": "cover",
        "filter": "bilinear",
        "antialias": True,
        "margin": 1.5,
    }
    assert pixels.rule(**rule) == rule


@pytest.mark.parametrize(
    "wrong",
    [
        {"height": 0},
        {"height": 2**20},
        {"width": 2.5},
        {"width": True},
        {"channels": 4},
        {"channels": "3"},
        {"margin": 0.5},
        {"margin": float("nan")},
        {"margin": "1"},
        {"margin": 10**400},
        {"resize": "squash"},
        {"filter": "nearest"},
        {"antialias": False},
        {"height": "9" * 10**5},
    ],
    ids=lambda wrong: str(wrong)[:40],
)
def test_rejects_impossible_rules(wrong):
    (name,) = wrong
    found = {**pixels.rule(4, 4, 3), **wrong}
    for call in (lambda: pixels.rule(**found), lambda: pixels.resize(RGB, found)):
        with pytest.raises(ValueError, match=f"{name}.* Received: .*{name}=") as error:
            call()
        assert len(str(error.value)) < 400


@pytest.mark.parametrize("wrong", [{}, {"height": 4}, {**pixels.rule(4, 4, 3), "crop": 1}])
def test_rejects_rules_with_other_names(wrong):
    with pytest.raises(ValueError, match="A rule must be what `rule` makes. Received: "):
        pixels.resize(RGB, wrong)


# ---- other languages


def test_the_vectors_are_those_the_script_writes():
    found = json.loads(picture_vectors.PATH.read_text())
    expected = json.loads(picture_vectors.content())
    for case in found["decoded"] + expected["decoded"]:
        case.pop("file")  # its bytes are those of a version of Pillow
    assert found == expected


def test_follows_the_vectors():
    def array(found):
        return np.frombuffer(base64.b64decode(found["pixels"]), "uint8").reshape(found["shape"])

    found = json.loads(picture_vectors.PATH.read_text())
    for case in found["scaled"]:
        shown = pixels.resize(array(case["picture"]), case["rule"])
        difference = np.abs(shown.astype(int) - array(case["expected"]))
        assert difference.max() <= 1, case["rule"]
    for case in found["decoded"]:
        shown = pixels.decode(base64.b64decode(case["file"]), case["channels"])
        difference = np.abs(shown.astype(int) - array(case["expected"]))
        assert difference.max() <= case["tolerance"], case["name"]


@pytest.mark.subprocess
def test_pillow_is_imported_when_it_is_needed():
    program = (
        "import sys\nfrom anytime_tflite import pixels\npixels.rule(4, 4, 3)\n"
        "assert 'PIL' not in sys.modules\nsys.modules['PIL'] = None\n"
        "try:\n    pixels.decode('x.png')\n"
        "except ImportError as error:\n    print(error)"
    )
    folder = Path(pixels.__file__).parent.parent
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=folder
    )
    assert run.stdout.strip() == "Reading pictures needs Pillow: pip install pillow"
