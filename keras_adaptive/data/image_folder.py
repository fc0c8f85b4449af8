"""Images in a folder, in a tar file of a folder, or named by a CSV file, in three splits.

`tensorflow_datasets.ImageFolder` is not used: it wants the splits at the top of the folder,
takes hidden folders for splits and classes, cannot cut a split in two, and fails on one file that
is no image.
"""

import functools
import os
import random
import warnings
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import tensorflow as tf

from anytime_tflite import pixels
from keras_adaptive._checks import needs_extra
from keras_adaptive._files import is_utf8, shown
from keras_adaptive._progress import progress
from keras_adaptive.data import _archive, _layout, splits
from keras_adaptive.data._dividing import held_out
from keras_adaptive.data._layout import Stray
from keras_adaptive.data.splits import SPLITS, by_number

CHANNELS = 3

FEW = 5  # images of a class: fewer are warned of

NAMED = 20  # files that a warning names

BLOCK = 512  # images that are read at a time, before any is forgotten


def datasets():
    with needs_extra("data"):
        import tensorflow_datasets
    return tensorflow_datasets


def local(source, cache_dir, image_size, split, seed, calibrate, on_error):
    """Returns train, calibrate and test split of local images, and the class names.

    Args:
        source: Path of a folder, a tar file or a CSV file.
        cache_dir: Where a tar file is unpacked to.
        image_size: `(height, width)`, or `None`.
        split: Three shares, for images that are not divided.
        seed: Integer, of what is cut off.
        calibrate: Share or number of training images, or `None`.
        on_error: "skip" or "raise".
    """
    if not source.exists():
        raise ValueError(
            f"`data_dir` must exist: there is no such folder or file. Received: data_dir={source}"
        )
    folder, entries, strays, in_table = _found(source, cache_dir)
    classes = _classes(entries, in_table)
    _check_classes(entries, classes, source, strays)
    strict = on_error == "raise"
    read = functools.partial(_read, image_size=image_size)
    entries, images, shape, broken = _readable(entries, folder, read, strict, in_table)
    strays += broken
    class_names = _in_order({*classes, *(entry.label for entry in entries)}, in_table)
    counts = _check_classes(entries, class_names, source, strays)
    divided = _divided(entries, source, split, seed, calibrate)
    _warn(source, strays, {name: counts[name] for name in class_names})
    numbers = {name: i for i, name in enumerate(class_names)}
    parts = []
    for part in divided:
        labels = tf.constant([numbers[entry.label] for entry in part], tf.int64)
        if images is not None:
            stacked = np.stack([images.pop(entry.name) for entry in part])
            parts.append(by_number((tf.constant(stacked), labels)))
        else:
            paths = [os.fsencode(folder / entry.name) for entry in part]
            parts.append(by_number((tf.constant(paths), labels), _reader(read, shape)))
    return *parts, class_names


# ---- which files there are


def _found(source, cache_dir):
    """Returns a source's folder, its images, other files, and whether a table names the images."""
    if source.suffix.lower() == ".csv" and not source.is_dir():
        return source.parent.resolve(), _layout.listed(source, source.parent), [], True
    if source.is_dir():
        folder = source.resolve()
        names, strays = _layout.files_in(folder)
    else:
        names, strays = _archive.names_in(source), []
    entries, others = _layout.arranged(names)
    table = _table(names) if len(_classes(entries)) < 2 else None
    if not source.is_dir():
        if table is None:  # before anything is written
            _check_classes(entries, _classes(entries), source, others)
        folder = _archive.unpacked(source, cache_dir, names)
    if table is None:
        return folder, entries, strays + others, False
    place = (folder / table).parent
    above = place.relative_to(folder)
    entries = _layout.listed(folder / table, place)
    entries = [entry._replace(name=(above / entry.name).as_posix()) for entry in entries]
    return folder, entries, strays, True


def _table(names):
    """Returns the name of the CSV file at the top of a folder, if there is one."""
    top = min((name.count("/") for name in names), default=0)
    tables = [n for n in names if n.lower().endswith(".csv") and n.count("/") == top]
    return tables[0] if len(tables) == 1 else None


def _is_picture(name):
    return Path(name).suffix.lower() in pixels.SUFFIXES


def _classes(entries, in_table=False):
    """Returns the names of the classes as far as names tell: folders without pictures are none."""
    labels = {e.label for e in entries if in_table or _is_picture(e.name)}
    return _in_order(labels or {e.label for e in entries}, in_table)


def _in_order(labels, in_table):
    """Returns the classes in the order of their numbers: whole numbers in a table by their size."""
    if in_table and all(label.isascii() and label.isdigit() for label in labels):
        return sorted(labels, key=lambda label: (int(label), label))
    return sorted(labels)


def _check_classes(entries, classes, source, strays):
    """Returns how many images every class has, if every split has images of every class."""
    for name in classes:
        if not is_utf8(name):
            raise ValueError(
                "A class must have a name in UTF-8: rename its folder. "
                f"Received: data_dir={source}, {ascii(name)}"
            )
    divided = any(entry.split for entry in entries)
    found = {name: Counter() for name in (SPLITS if divided else (None,))}
    for entry in entries:
        if entry.label in classes:
            found[entry.split][entry.label] += 1
    left_out = f"; left out: {_named(strays, 3)}" if strays else ""
    for split in ("train", "test") if divided else ():
        if not found[split]:
            raise ValueError(
                f"`data_dir` must hold images as {split}/<class>/<image>, or as <class>/<image> "
                f"to be divided. Received: data_dir={source}, which has none{left_out}"
            )
    if len(classes) < 2 or not any(found.values()):
        raise ValueError(
            "`data_dir` must hold images of two classes or more, as <class>/<image>, or as "
            "train/<class>/<image> and test/<class>/<image>, or named by a CSV file. Received: "
            f"data_dir={source}, which has {len(classes) if any(found.values()) else 0}{left_out}"
        )
    for split, here in found.items():
        if split == "calibrate" and not here:
            continue  # it will be cut off
        least = {None: 3, "train": 1 if found.get("calibrate") else 2}.get(split, 1)
        for label in classes:
            if here[label] < least:
                raise ValueError(_too_few(label, here[label], least, split, source) + left_out)
    return sum(found.values(), Counter())


def _too_few(label, count, least, split, source):
    if split is None:
        must = "Every class must have at least 3 images, one for each split"
    elif least == 2:
        must = "Every class must have at least 2 images in train, one of them for calibrate"
    else:
        must = f"Every class must have images in {split}"
    where = f" in {split}" if split else ""
    return f"{must}. Received: data_dir={source}, {shown(label)} has {count}{where}"


# ---- reading


def _read(path, image_size):
    if image_size is None:
        return pixels.decode(path, CHANNELS)
    return pixels.read(path, pixels.rule(*image_size, CHANNELS))


def _readable(entries, folder, read, strict, in_table):
    """Returns the entries that are pictures, their pixels by name, their shape, and the others.

    Every file is read, so that none can break a training later. The pixels are `None` where they
    do not fit into memory.
    """

    def attempt(entry):
        try:
            return read(folder / entry.name)
        except ValueError as error:
            return error

    good, images, shape, strays = [], {}, None, []
    with (
        ThreadPoolExecutor(os.cpu_count()) as pool,
        progress(total=len(entries), unit="file", desc="reading images") as bar,
    ):
        for start in range(0, len(entries), BLOCK):
            block = entries[start : start + BLOCK]
            for entry, image in zip(block, pool.map(attempt, block), strict=True):
                bar.update()
                if isinstance(image, ValueError):
                    if strict and (in_table or _is_picture(entry.name)):
                        raise image
                    strays.append(Stray(entry.name, shown(str(image.__cause__), 100)))
                    continue
                if shape is None:
                    shape = image.shape
                    if image.nbytes * len(entries) > splits.MEMORY:
                        images = None
                if image.shape != shape:
                    raise _of_two_sizes(good[0].name, shape, entry.name, image.shape)
                good.append(entry)
                if images is not None:
                    images[entry.name] = image
    return good, images, shape, strays


class DifferentSizesError(ValueError):
    """Images are of different sizes, and `image_size` is not given."""


def _of_two_sizes(first, shape, other, other_shape):
    return DifferentSizesError(
        "`image_size` must be given, for example image_size=64, where images are of different "
        "sizes: they are scaled to cover it, and cut. Received: image_size=None, "
        f"{shown(first)} of {shape[1]}x{shape[0]} and {shown(other)} of "
        f"{other_shape[1]}x{other_shape[0]} pixels"
    )


def _reader(read, shape):
    """Returns the function of a dataset that reads one file."""

    def one(path):
        return read(os.fsdecode(path))

    def sample(path, label):
        return tf.ensure_shape(tf.numpy_function(one, [path], tf.uint8), shape), label

    return sample


def _warn(source, strays, counts):
    """Says in one warning what is left out, and which classes have few images."""
    texts = []
    if strays:
        files = "1 file is" if len(strays) == 1 else f"{len(strays)} files are"
        texts.append(f"{files} left out: {_named(strays, NAMED)}")
    few = [f"{shown(name)} ({count})" for name, count in counts.items() if count < FEW]
    if few:
        more = f" and {len(few) - NAMED} more" if len(few) > NAMED else ""
        texts.append(f"fewer than {FEW} images of {', '.join(few[:NAMED])}{more}")
    if texts:
        warnings.warn(f"{source}: {'; '.join(texts)}", stacklevel=4)


def _named(strays, most):
    names = [f"{shown(stray.name)} ({stray.reason})" for stray in strays[:most]]
    more = f" and {len(strays) - most} more" if len(strays) > most else ""
    return ", ".join(names) + more


# ---- splits


def _divided(entries, source, split, seed, calibrate):
    """Returns the entries of train, calibrate and test, each in a random order."""
    mixed = {}
    for entry in entries:
        mixed.setdefault(entry.split, []).append(entry)
    for part in mixed.values():
        random.Random(seed).shuffle(part)  # no longer class by class
    if "calibrate" in mixed:
        if calibrate is not None:
            raise ValueError(
                "`calibrate` must be None where there is a calibrate split. "
                f"Received: calibrate={calibrate}, data_dir={source}"
            )
        return [mixed[name] for name in SPLITS]
    if None in mixed:
        train, test = _cut(mixed[None], split[2], left=2)
        if calibrate is None:
            calibrate = split[1] / (split[0] + split[1])
    else:
        train, test = mixed["train"], mixed["test"]
    return *_cut(train, 0.1 if calibrate is None else calibrate), test


def _cut(entries, part, left=1):
    """Returns what stays and what is cut off, class by class."""
    labels = [entry.label for entry in entries]
    cut = held_out(labels, part, left)
    if cut is None:
        classes = len(set(labels))
        raise ValueError(
            f"`calibrate` must be at least {classes}, one image of every class, and at most "
            f"{len(labels) - left * classes}. Received: calibrate={part}"
        )
    return tuple([e for e, c in zip(entries, cut, strict=True) if c == side] for side in (0, 1))
