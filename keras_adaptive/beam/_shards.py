"""The files that a pattern names, and the shards into which their samples are divided."""

import fnmatch
import glob
import itertools
import os
from typing import NamedTuple

from anytime_tflite import pixels
from keras_adaptive._files import is_hidden, shown
from keras_adaptive.beam import _samples


class Shard(NamedTuple):
    """Samples that are computed together, and whose answers are one file.

    Attributes:
        number: Integer, from 0.
        kind: "picture", "tfrecord" or "parquet".
        files: Tuple of names: of pictures, or of the one file that the samples are in.
        start: Integer, of a TFRecord file the byte at which the first sample begins.
        first: Integer, the number of the first sample in its file.
        count: Integer, how many samples there are.
    """

    number: int
    kind: str
    files: tuple[str, ...]
    start: int
    first: int
    count: int

    @property
    def name(self):
        """The name of the file of answers."""
        return f"part-{self.number:05d}.parquet"


def files_of(pattern, without=None):
    """Yields name and size of the files that a pattern names, in an order that is always the same.

    No more is held than the names in one folder and in those above it.

    Args:
        pattern: String: a file; a folder, of which all pictures, TFRecord and Parquet files
            count; or a pattern of names with `*`, `?`, `[...]`, and `**` once, for any folders.
        without: Path of a folder whose files do not count.

    Raises:
        ValueError: If it holds `**` more than once.
    """
    without = None if without is None else os.path.realpath(without)
    if os.path.isdir(pattern):
        known = (f for f in _walked(pattern, ["**", "*"], without) if _is_known(f[0]))
        yield from known
        return
    if os.path.isfile(pattern):
        yield pattern, os.path.getsize(pattern)
        return
    parts = pattern.split("/")
    if parts.count("**") > 1:
        raise ValueError(f"`pattern` must hold ** once at most. Received: {shown(pattern)}")
    fixed = list(itertools.takewhile(lambda part: not glob.has_magic(part), parts))
    folder = "/".join(fixed) or ("/" if pattern[:1] == "/" else "")
    yield from _walked(folder, parts[len(fixed) :], without)


def _is_known(name):
    suffix = os.path.splitext(name)[1].lower()
    return _samples.kind_of(name) != "picture" or suffix in pixels.SUFFIXES


def _walked(folder, parts, without):
    """Yields the files below a folder whose names fit the parts of a pattern."""
    if not parts or (without is not None and os.path.realpath(folder or ".") == without):
        return
    part, rest = parts[0], parts[1:]
    if part == "**":
        yield from _walked(folder, rest or ["*"], without)
        for name, entry in _entries(folder):
            if not is_hidden(name) and entry.is_dir(follow_symlinks=False):
                yield from _walked(os.path.join(folder, name), parts, without)
        return
    for name, entry in _entries(folder):
        hidden = is_hidden(name) and not part.startswith(name[0])
        if hidden or not fnmatch.fnmatchcase(name, part):
            continue
        if rest:
            if entry.is_dir():
                yield from _walked(os.path.join(folder, name), rest, without)
        elif entry.is_file():
            yield os.path.join(folder, name), entry.stat().st_size
        elif not entry.is_dir() and _samples.kind_of(name) == "picture":
            yield os.path.join(folder, name), 0  # a link to nowhere: an error when it is read


def _entries(folder):
    try:
        with os.scandir(folder or ".") as found:
            entries = sorted((entry.name, entry) for entry in found)
    except FileNotFoundError:
        return []
    return entries


def shards_of(files, size):
    """Yields the shards of files.

    Args:
        files: Iterable of pairs, as `files_of` yields them.
        size: Integer, the most samples of a shard.

    Raises:
        ValueError: If there are pictures beside files with many samples.
    """
    number, first_kind = itertools.count(), None
    names = []
    for name, _ in files:
        kind = _samples.kind_of(name)
        first_kind = first_kind or (kind, name)
        if (kind == "picture") != (first_kind[0] == "picture"):
            raise ValueError(
                "`pattern` must name pictures, or files of TFRecord or Parquet, not both. "
                f"Received: {shown(first_kind[1])} and {shown(name)}"
            )
        if kind == "picture":
            names.append(name)
            if len(names) == size:
                yield Shard(next(number), kind, tuple(names), 0, 0, len(names))
                names = []
            continue
        within = _in_tfrecord if kind == "tfrecord" else _in_parquet
        for start, first, count in within(name, size):
            yield Shard(next(number), kind, (name,), start, first, count)
    if names:
        yield Shard(next(number), "picture", tuple(names), 0, 0, len(names))


def _in_tfrecord(name, size):
    """Yields start, first number and count of the shards in a file, of which headers are read."""
    start = first = at = number = 0
    with open(name, "rb") as opened:
        try:
            file = _samples.unpacked(opened)
            while (record := _samples.next_record(file, at, number)) is not None:
                at, number = at + 16 + record.size, number + 1
                file.seek(at)
                if number - first == size:
                    yield start, first, size
                    start, first = at, number
        except (ValueError, *_samples.CUT_OFF):
            number += 1  # read again with the shard, where the error is kept
    if number > first:
        yield start, first, number - first


def _in_parquet(name, size):
    """Yields start (0), first number and count of the shards in a file."""
    try:
        with open(name, "rb") as file:
            total = _samples.opened_parquet(file).metadata.num_rows
    except ValueError:
        yield 0, 0, 1  # read again with the shard, where the error is kept
        return
    for first in range(0, total, size):
        yield 0, first, min(size, total - first)


class Reading:
    """Reads shards; one that follows another in a file goes on where that ended.

    Args:
        columns: `Columns`.
    """

    def __init__(self, columns):
        self._columns, self._items, self._next = columns, None, None

    def items(self, shard):
        """Yields the samples of a shard as `Item`, and what cannot be read with its error."""
        if shard.kind == "picture":
            yield from map(_samples.picture, shard.files)
            return
        (name,) = shard.files
        if self._next != (name, shard.first):
            self._items = self._all(shard, name)
        read, self._next = 0, None
        for item in itertools.islice(self._items, shard.count):
            yield item
            read += 1
        if read == shard.count and not isinstance(item.content, Exception):
            self._next = name, shard.first + read

    def _all(self, shard, name):
        """Yields the samples of a file from the beginning of a shard on."""
        try:
            with open(name, "rb") as file:
                if shard.kind == "tfrecord":
                    where = shard.start, shard.first
                    yield from _samples.records(file, name, self._columns, *where)
                else:
                    yield from _samples.rows(file, name, self._columns, shard.first)
        except OSError as error:
            yield _samples.Item(f"{_samples.text(name)}:{shard.first}", None, error)
