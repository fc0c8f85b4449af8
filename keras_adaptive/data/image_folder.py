"""Images in folders named by split and class, or in a tar file of such folders.

`tensorflow_datasets.ImageFolder` is not used: it wants the splits at the top of the folder,
takes hidden folders for splits and classes, and cannot cut a split in two.
"""

import hashlib
import random
import tarfile
import tempfile
from pathlib import Path

import tensorflow as tf

from keras_adaptive._checks import needs_extra


def datasets():
    with needs_extra("data"):
        import tensorflow_datasets
    return tensorflow_datasets


def local(source, cache_dir):
    """Returns train, calibrate and test split of a folder or tar file, and the class names.

    The last tenth of the training images, in a random order that is always the same, is the
    calibrate split.
    """
    if not source.exists():
        raise ValueError(
            f"`data_dir` must exist: there is no such folder or file. Received: data_dir={source}"
        )
    found = {"train": [], "test": []}
    folder = source if source.is_dir() else _unpacked(source, cache_dir)
    for path in sorted(folder.rglob("*")):
        *above, split, label, name = ("", "", *path.relative_to(folder).parts)
        hidden = any(part.startswith(".") for part in (*above, split, label, name))
        if split in found and not hidden and path.is_file():
            found[split].append((str(path), label))
    for split, images in found.items():
        if not images:
            raise ValueError(
                f"`data_dir` must hold images as {split}/<class>/<image>. "
                f"Received: data_dir={source}, which has none"
            )
        random.Random(0).shuffle(images)  # no longer class by class
    train, test = found.values()
    class_names = sorted({label for _, label in train + test})
    kept = round(0.9 * len(train))
    parts = (train[:kept], train[kept:], test)
    return *(_dataset(images, class_names) for images in parts), class_names


def _dataset(images, class_names):
    numbers = {name: i for i, name in enumerate(class_names)}
    paths = tf.constant([path for path, _ in images], tf.string)
    labels = tf.constant([numbers[label] for _, label in images], tf.int64)
    dataset = tf.data.Dataset.from_tensor_slices((paths, labels))
    return dataset.map(_read, num_parallel_calls=tf.data.AUTOTUNE)


def _read(path, label):
    image = tf.io.decode_image(tf.io.read_file(path), channels=3, expand_animations=False)
    return tf.ensure_shape(image, (None, None, 3)), label


def _unpacked(archive, cache_dir):
    """Returns the folder that a tar file is unpacked to, once."""
    root = Path(cache_dir or datasets().core.constants.DATA_DIR).expanduser() / "image_folders"
    stat = archive.stat()
    facts = f"{archive.resolve()} {stat.st_size} {stat.st_mtime_ns}"
    folder = root / hashlib.sha256(facts.encode()).hexdigest()[:16]
    if folder.is_dir():
        return folder
    root.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=root) as part:  # a folder is there whole, or not at all
        images = Path(part) / "images"
        images.mkdir()
        try:
            with tarfile.open(archive) as opened:
                opened.extractall(images, filter="data")
        except (tarfile.TarError, EOFError) as error:
            raise ValueError(
                f"`data_dir` must be a folder or a tar file. Received: data_dir={archive} ({error})"
            ) from error
        images.rename(folder)
    return folder
