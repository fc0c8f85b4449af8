"""Files of pictures, TFRecord and Parquet for the tests, written without the library."""

import io
import struct

import file_vectors
import google_crc32c
import numpy as np
from PIL import Image

FILES = file_vectors.FOLDER
CLASSES = ("cat", "dog", "fox", "owl", "élan")  # of float32.tflite


def images(count, seed=0):
    """Pictures of different strength, 8 x 8, gray, so that they leave at different exits."""
    rng = np.random.default_rng(seed)
    strength = np.geomspace(0.05, 1, count)[:, None, None, None]
    noise = rng.normal(0, 100, (count, 8, 8, 1))
    return np.clip(128 + strength * noise, 0, 255).astype("uint8")


def png(image):
    file = io.BytesIO()
    Image.fromarray(image[..., 0]).save(file, "PNG")
    return file.getvalue()


def varint(number):
    out = b""
    while number > 127:
        out, number = out + bytes([number & 127 | 128]), number >> 7
    return out + bytes([number])


def field(number, content):
    return varint(number << 3 | 2) + varint(len(content)) + content


def example(**features):
    """Returns a serialized tf.train.Example of bytes, floats or integers."""
    entries = b""
    for name, value in features.items():
        if isinstance(value, bytes):
            found = field(1, field(1, value))
        elif np.asarray(value).dtype.kind == "f":
            found = field(2, field(1, np.asarray(value, "<f4").tobytes()))
        else:
            found = field(3, field(1, b"".join(varint(int(v) % 2**64) for v in np.ravel(value))))
        entries += field(1, field(1, name.encode()) + field(2, found))
    return field(1, entries)


def crc(content):
    found = google_crc32c.value(content)
    return struct.pack("<I", (((found >> 15) | (found << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def tfrecord(records):
    """Returns the content of a TFRecord file."""
    content = b""
    for record in records:
        size = struct.pack("<Q", len(record))
        content += size + crc(size) + record + crc(record)
    return content


def folder(place, count, bad=0):
    """Writes pictures into a folder per class, and files that are none beside them."""
    for i, image in enumerate(images(count)):
        path = place / CLASSES[i % 5] / f"{i:03}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(png(image))
    for i in range(bad):
        (place / CLASSES[0] / f"bad_{i}.png").write_bytes(b"no picture")
