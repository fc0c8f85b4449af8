"""Samples in files, one at a time: pictures, records of TFRecord files, rows of Parquet files.

Each is read from an open file, so that it may be of any file system. Sizes are bounded before
anything is read. What cannot be read is an item too, whose content is the error.
"""

import functools
import gzip
import math
import os
import re
import struct
import zlib
from collections.abc import Iterator
from typing import Any, NamedTuple

import numpy as np

from anytime_tflite import AnytimeModel, pixels, read_info
from anytime_tflite.inputs import Inputs
from keras_adaptive._checks import needs_extra
from keras_adaptive._files import in_one_spelling, shown
from keras_adaptive.beam._example import features_of

IMAGES = ("image", "image/encoded", "picture", "x")  # usual names, the first that there is
LABELS = ("label", "labels")
KEYS = ("key", "id", "image/filename", "filename")
TFRECORD = re.compile(r"\.tfrecords?(\.gz)?(-\d+-of-\d+)?(\.gz)?$", re.IGNORECASE)
PARQUET = re.compile(r"\.(parquet|pq)$", re.IGNORECASE)
LARGEST = 2 * pixels.BYTES  # of a record
ROWS = 256  # of Parquet that are read at a time
CUT_OFF = (OSError, EOFError, zlib.error)  # what reading a damaged file raises


class Item(NamedTuple):
    """A sample as a file holds it.

    Attributes:
        key: String, its name.
        label: Integer, its class, or a string, the class's name; `None`: it has none.
        content: Path of a picture, bytes, an array, or the exception why there is nothing.
    """

    key: str
    label: Any
    content: Any


class Columns(NamedTuple):
    """The names of what is read; `None`: the first usual name that there is."""

    image: str | None = None
    label: str | None = None
    key: str | None = None


def kind_of(name):
    """Returns how the file of a name is read."""
    if TFRECORD.search(name):
        return "tfrecord"
    return "parquet" if PARQUET.search(name) else "picture"


# ---- pictures


def picture(path):
    """Returns a picture, whose class is that of its folder if there is one of that name."""
    folder = os.path.basename(os.path.dirname(path))
    return Item(text(path), folder or None, path)


def text(path):
    """Returns a path as UTF-8 can hold it."""
    return os.fsencode(path).decode("utf-8", "backslashreplace")


# ---- TFRecord


class Record(NamedTuple):
    """A record of a file: where it begins, and its number."""

    start: int
    number: int
    size: int


def unpacked(file):
    """Returns an open file as it is, or as its content if it is compressed by gzip."""
    start = file.read(2)
    file.seek(0)
    return gzip.GzipFile(fileobj=file) if start == b"\x1f\x8b" else file


def next_record(file, start, number):
    """Returns the record that begins at `start`, where the file is; `None` at its end.

    Raises:
        ValueError: If it is damaged.
    """
    try:
        header = file.read(12)
        if not header:
            return None
        (size, check), where = struct.unpack("<QI", header), f"record {number}"
    except (struct.error, *CUT_OFF) as error:
        raise ValueError(f"record {number} is cut off ({error})") from error
    if check != masked_crc(header[:8]):
        raise ValueError(f"{where} is damaged, and what follows cannot be found")
    if size > LARGEST:
        raise ValueError(f"{where} has {size:,} bytes, more than {LARGEST:,}")
    return Record(start, number, size)


def records(file, name, columns, start=0, first=0) -> Iterator[Item]:
    """Yields the samples of a TFRecord file, whose records are `tf.train.Example`.

    Args:
        file: Open file.
        name: String.
        columns: `Columns`.
        start, first: Integers, the byte at which the first record begins, and its number.
    """
    file = unpacked(file)
    try:
        file.seek(start)
        while (record := next_record(file, start, first)) is not None:
            content, check = file.read(record.size), file.read(4)
            if len(content) < record.size or len(check) < 4:
                raise ValueError(f"record {first} is cut off")
            key = f"{text(name)}:{first}"
            if check == struct.pack("<I", masked_crc(content)):
                yield _record(content, key, columns)
            else:
                yield Item(key, None, ValueError(f"record {first} is damaged"))
            start, first = start + 16 + record.size, first + 1
    except (ValueError, *CUT_OFF) as error:
        yield Item(f"{text(name)}:{first}", None, error)  # the others cannot be found


def _record(content, key, columns):
    try:
        features = features_of(content)
        image = _one_of(features, columns.image, IMAGES, "image")
        label = _one_of(features, columns.label, LABELS, "label")
        named = _one_of(features, columns.key, KEYS, "key")
        if image is None or not len(image):
            raise ValueError(f"no image: a record of {shown(sorted(features))}")
        image = image[0] if isinstance(image[0], bytes) else image
        key = _key(named[0]) if named is not None and len(named) == 1 else key
        return Item(key, _label(label), image)
    except ValueError as error:
        return Item(key, None, error)


def masked_crc(content):
    """Returns the checksum of TFRecord, CRC-32C."""
    crc = _crc()(content)
    return (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF


@functools.cache
def _crc():
    try:
        from google_crc32c import value
    except ImportError:  # a hundred times as slow
        return slow_crc
    return value


def slow_crc(content):
    """Returns the CRC-32C of bytes."""
    crc = 0xFFFFFFFF
    for byte in content:
        crc = _TABLE[(crc ^ byte) & 0xFF] ^ (crc >> 8)
    return crc ^ 0xFFFFFFFF


def _crc_of(byte):
    for _ in range(8):
        byte = (byte >> 1) ^ (0x82F63B78 if byte & 1 else 0)
    return byte


_TABLE = [_crc_of(byte) for byte in range(256)]


# ---- Parquet


def opened_parquet(file):
    """Returns an open Parquet file.

    Raises:
        ValueError: If it is none.
    """
    with needs_extra("beam"):
        import pyarrow
        import pyarrow.parquet
    try:
        return pyarrow.parquet.ParquetFile(file)
    except (pyarrow.ArrowException, OSError) as error:
        raise ValueError(f"no Parquet file: {shown(str(error))}") from error


def rows(file, name, columns, first=0) -> Iterator[Item]:
    """Yields the samples of a Parquet file.

    Args:
        file, name, columns: As in `records`.
        first: Integer, the number of the first row.
    """
    number = first
    try:
        table = opened_parquet(file)
        names = [field.name for field in table.schema_arrow]
        image = _column(names, columns.image, IMAGES, "image")
        if image is None:
            raise ValueError(f"no column with images, of {shown(names)}")
        label = _column(names, columns.label, LABELS, "label")
        key = _column(names, columns.key, KEYS, "key")
        wanted = [column for column in (image, label, key) if column is not None]
        for batch in _batches(table, wanted, first):
            images, labels, keys = (
                None if column is None else batch.column(column) for column in (image, label, key)
            )
            for i in range(batch.num_rows):
                named = None if keys is None else keys[i].as_py()
                called = f"{text(name)}:{number}" if named is None else _key(named)
                found = None if labels is None else labels[i].as_py()
                yield Item(called, _label(found), _image(images[i]))
                number += 1
    except Exception as error:  # what the reader of a damaged file raises has no common class
        yield Item(f"{text(name)}:{number}", None, error)


def _batches(table, columns, first):
    """Yields record batches from row `first` on; whole groups before it are not read."""
    groups, before = [], 0
    for group in range(table.num_row_groups):
        size = table.metadata.row_group(group).num_rows
        if groups or before + size > first:
            groups.append(group)
        else:
            before += size
    skip = first - before
    for batch in table.iter_batches(batch_size=ROWS, row_groups=groups, columns=columns):
        if skip < batch.num_rows:
            yield batch.slice(skip)
        skip = max(0, skip - batch.num_rows)


def _image(value):
    """Returns a picture's bytes, an array, or an error, from a cell of Parquet."""
    found = value.as_py() if value.type.num_fields == 0 else value
    if hasattr(found, "as_py"):
        if "bytes" in {value.type.field(i).name for i in range(value.type.num_fields)}:
            found = value["bytes"].as_py()  # as `datasets` writes pictures
        else:
            values = getattr(value, "values", None)
            if values is not None and values.type.num_fields == 0 and not values.null_count:
                return values.to_numpy(zero_copy_only=False)
            found = value.as_py()
    if found is None:
        return ValueError("no image: the cell is empty")
    return found if isinstance(found, bytes) else np.asarray(found)


def _column(names, wanted, usual, what):
    """Returns the name of a column: the wanted one, or the first usual one that there is."""
    if wanted is None:
        return next((name for name in usual if name in names), None)
    if wanted not in names:
        raise ValueError(f"no {what} named {shown(wanted)}, of {shown(sorted(names))}")
    return wanted


def _one_of(features, wanted, usual, what):
    return features.get(_column(list(features), wanted, usual, what))


def _key(value):
    if isinstance(value, bytes):
        return value.decode("utf-8", "backslashreplace")
    return str(value).encode("utf-8", "backslashreplace").decode()


def _label(found):
    """Returns a label as an integer or a string; what is neither is none."""
    if hasattr(found, "__len__") and not isinstance(found, (str, bytes)):
        found = found[0] if len(found) == 1 else None
    if isinstance(found, bytes):
        return found.decode("utf-8", "backslashreplace")
    if isinstance(found, str) or found is None:
        return found
    if isinstance(found, (float, np.floating)) and np.isfinite(found) and found == int(found):
        return int(found)  # pandas writes whole numbers so where some are missing
    return int(found) if isinstance(found, (int, np.integer)) else None


# ---- what the network takes


def described(source):
    """Returns what a file says of itself, and its inputs, of which files of version 2 say nothing.

    Args:
        source: Path of a file, or its content.
    """
    info = read_info(source)
    if "inputs" not in info:
        with AnytimeModel(source, num_threads=1) as model:
            inputs = model.inputs.items()
        info["inputs"] = [
            {"name": name, "shape": list(shape), "dtype": str(dtype)}
            for name, (shape, dtype) in inputs
        ]
    return info


def picture_rule(info, name):
    """Returns how pictures become pixels, of the file that says this of itself."""
    return pixels.rule_of(info, [one["shape"] for one in info["inputs"]], shown(name))


class Preparation:
    """Turns the content of items into what a network takes.

    Args:
        info: Dictionary, of `described`.
        name: String, the file's.

    Raises:
        ValueError: If the network has several inputs.
    """

    def __init__(self, info, name):
        self._info, self._name, self._rule = info, name, None
        if len(info["inputs"]) != 1:
            raise ValueError(
                "The file must have one input. Received: "
                f"{shown(name)}, with {[one['name'] for one in info['inputs']]}"
            )
        self._shape = tuple(info["inputs"][0]["shape"])
        self._dtype = np.dtype(info["inputs"][0]["dtype"])
        shapes = {info["inputs"][0]["name"]: (self._shape, self._dtype)}
        self._inputs = Inputs(shapes, info["preprocessing"])
        self._classes = {}
        for i, name in enumerate(info.get("class_names") or ()):
            name = in_one_spelling(name)  # what two classes are called is the name of neither
            self._classes[name] = None if name in self._classes else i

    def rule(self):
        """Returns the pixel rule.

        Raises:
            ValueError: If the network takes no pictures.
        """
        if self._rule is None:
            self._rule = picture_rule(self._info, self._name)
        return self._rule

    def array(self, content):
        """Returns the array of a sample.

        Raises:
            ValueError: If it cannot be read, or is of another shape.
        """
        if isinstance(content, Exception):
            raise content if isinstance(content, ValueError) else ValueError(str(content))
        if isinstance(content, (str, bytes)):
            if isinstance(content, bytes) and len(content) == math.prod(self._shape):
                try:
                    return pixels.read(content, self.rule())
                except ValueError:  # no picture, so these are pixels
                    return np.frombuffer(content, np.uint8).reshape(self._shape)
            return pixels.read(content, self.rule())
        try:
            array = np.asarray(content).reshape(self._shape)
        except ValueError as error:
            raise ValueError(
                f"it has {np.size(content)} numbers, not those of {self._shape}"
            ) from error
        if array.dtype.kind in "iub" and array.dtype != self._dtype:
            # Parquet and TFRecord know no uint8 lists but as wider integers
            dtype = np.dtype("uint8") if self._dtype.kind == "f" else self._dtype
            limits = (0, 1) if dtype.kind == "b" else (np.iinfo(dtype).min, np.iinfo(dtype).max)
            low, high = int(array.min()), int(array.max())
            if not limits[0] <= low <= high <= limits[1]:
                what = "pixels" if self._dtype.kind == "f" else f"numbers of {dtype}"
                raise ValueError(
                    f"{what} must be {limits[0]} to {limits[1]}, and are {low} to {high}"
                )
            array = array.astype(dtype)
        return array.astype(np.float32) if array.dtype.kind == "f" else array

    def check(self, array):
        """Raises a ValueError if the network cannot take the array of a sample."""
        if array.dtype != np.uint8 or self._info["preprocessing"] is None:
            self._inputs.one(array, "image")

    def label(self, label, classes):
        """Returns the number of a label's class, or `None`: of no class, or of two of one name."""
        if isinstance(label, str):
            return self._classes.get(in_one_spelling(label))
        return label if label is not None and 0 <= label < classes else None
