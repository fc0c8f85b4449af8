"""Loads images and labels in three splits: train, calibrate, test.

The network is fitted on `train`, thresholds are chosen on `calibrate`, results come
from `test`. `calibrate` is cut off the published training split; `test` is the
published test split.
"""

import contextlib
import math
from pathlib import Path

import numpy as np
import tensorflow as tf

from keras_adaptive._checks import integer, integer_sequence
from keras_adaptive.data.image_folder import datasets, local
from keras_adaptive.data.splits import Splits

COUNTED = 50_000  # images that mean and standard deviation are taken from


RETRIES = 1  # of a download: without a network, an error at once and not after minutes

# name in tensorflow_datasets: the split with labels that results come from, where not "test"
EVALUATED = {"imagenet2012": "validation", "imagenet_resized": "validation"}

ALIASES = {"downsampled_imagenet": "imagenet_resized"}  # the same images, but with labels

# name: image size and margin around it, for photographs of many sizes
PHOTOGRAPHS = {"imagenet2012": ((224, 224), 256 / 224)}


def load(name="digits", *, data_dir=None, cache_dir=None, image_size=None, train_limit=None):
    """Loads a data set in three splits.

    Args:
        name: `"digits"`: scikit-learn's handwritten digits, 8x8, which need no network; or
            the path of a folder or tar file, as `data_dir`; or a name of
            tensorflow_datasets, for example `"cifar10"`, `"cifar100"`, `"imagenet2012"`
            (its two archives have to be fetched by hand, as the error says) or
            `"downsampled_imagenet/32x32"` (read as `imagenet_resized`, which has labels).
            With `data_dir` it is just a name. Results come from the test split, or from the
            validation split where that is the one with labels.
        data_dir: Path of a folder or tar file that holds `train/<class>/*` and
            `test/<class>/*` images, at any depth; hidden files and folders are left out. A
            tar file is unpacked once.
        cache_dir: Where downloaded and unpacked data is kept. `None`: tensorflow_datasets'
            own place.
        image_size: Integer, or `(height, width)`: images are scaled to cover it and cut
            around their middle. `None`: as they are; then all must be of one size. For
            `"imagenet2012"` `None` is 224, and the shorter side is scaled to 256 / 224 of it
            before the cut, as published.
        train_limit: Integer, use only so many training images. `None`: all.

    Returns:
        `Splits`.

    Raises:
        ValueError: If the data cannot be found or is not laid out so.

    Example:

    >>> digits = load("digits")
    >>> [digits.size(split) for split in ("train", "calibrate", "test")]
    [1077, 360, 360]
    >>> digits.input_shape
    (8, 8, 1)
    """
    image_size = _size(image_size)
    margin = 1.0
    if data_dir is None and name != "digits" and _is_path(name):
        name, data_dir = Path(name).name, name
    if data_dir is not None:
        parts = local(Path(data_dir), cache_dir)
    elif name == "digits":
        parts = _digits()
    else:
        given, _, config = name.partition("/")
        base = ALIASES.get(given, given)
        usual, margin = PHOTOGRAPHS.get(base, (None, 1.0))
        image_size = image_size or usual
        parts = _downloaded(f"{base}/{config}" if config else base, cache_dir, name)
    *splits, class_names = parts
    if train_limit is not None:
        splits[0] = splits[0].take(integer("train_limit", train_limit, 1))
    train, calibrate, test = (_of_one_size(split, image_size, margin) for split in splits)
    mean, std = _pixel_statistics(train.take(COUNTED))
    return Splits(
        train,
        calibrate,
        test,
        class_names,
        mean,
        std,
        flips=data_dir is not None or name != "digits",
        raw_train=splits[0] if margin > 1 else None,
    )


def _size(image_size):
    if image_size is None:
        return None
    size = image_size if np.ndim(image_size) else (image_size, image_size)
    must = "a positive integer or (height, width)"
    return integer_sequence("image_size", size, 1, must, length=2)


def _is_path(name):
    """Returns whether a name is that of a file or folder rather than of a known data set."""
    if isinstance(name, Path) or name.startswith(("/", ".", "~")) or ".tar" in name:
        return True
    base = name.partition("/")[0].partition(":")[0]
    return Path(name).exists() and base not in (
        *ALIASES,
        *datasets().list_builders(with_community_datasets=False),
    )


def _digits():
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype("uint8")[..., None]
    labels = digits.target.astype("int64")
    rest, test = train_test_split(
        np.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels
    )
    train, calibrate = train_test_split(rest, test_size=0.25, random_state=0, stratify=labels[rest])
    splits = [
        tf.data.Dataset.from_tensor_slices((images[rows], labels[rows]))
        for rows in (train, calibrate, test)
    ]
    return *splits, [str(n) for n in digits.target_names]


def _downloaded(name, cache_dir, asked):
    tfds = datasets()
    try:
        with _few_retries():
            builder = tfds.builder(name, data_dir=cache_dir)
            builder.download_and_prepare()
        known = list(builder.info.splits)
        evaluated = EVALUATED.get(builder.name, "test")
        if known and evaluated not in known and "validation" in known:
            evaluated = "validation"
        return _three_splits(builder, evaluated)
    except Exception as error:  # what a download can raise has no common class
        reason = " ".join(str(error).split())
        raise ValueError(
            "`name` must be a path, or a data set of labeled images with a train split and a "
            "test or validation split that tensorflow_datasets can load or download. Without a "
            "network, give `data_dir`: a folder or tar file with train/<class>/* and "
            f"test/<class>/*. Received: name={asked} ({type(error).__name__}: {reason[:400]})"
        ) from error


def _three_splits(builder, evaluated):
    """The last tenth of the train split becomes the calibrate split."""
    splits = [
        builder.as_dataset(split=split, as_supervised=True)
        for split in ("train[:90%]", "train[90%:]", evaluated)
    ]
    return *splits, list(builder.info.features["label"].names)


@contextlib.contextmanager
def _few_retries():
    """Lets tensorflow_datasets give up soon where there is no network.

    It has no option for this, and retries for minutes. A request of our own beforehand would
    refuse data that was fetched by hand, on a machine without a network.
    """
    from tensorflow_datasets.core.download import downloader

    kept = downloader.MAX_RETRIES
    downloader.MAX_RETRIES = RETRIES
    try:
        yield
    finally:
        downloader.MAX_RETRIES = kept


def _of_one_size(dataset, image_size, margin):
    if image_size is None:
        shape = next(iter(dataset.take(1)))[0].shape
    else:
        shape = (*image_size, dataset.element_spec[0].shape[-1])

    def fit(image, label):
        if image_size is not None:
            image = _covering(image, image_size, margin)
        return tf.ensure_shape(image, shape), label

    fitted = dataset.map(fit, num_parallel_calls=tf.data.AUTOTUNE)
    return fitted.apply(tf.data.experimental.assert_cardinality(int(dataset.cardinality())))


def _covering(image, size, margin):
    """Scales an image until it covers a size times a margin; returns its middle of that size."""
    have = tf.cast(tf.shape(image)[:2], tf.float32)
    want = tf.constant(size, tf.float32)
    scale = margin * tf.reduce_max(want / have)
    scaled = tf.maximum(tf.cast(tf.round(scale * have), tf.int32), size)
    image = tf.image.resize(image, scaled, antialias=True)
    top = (scaled - size) // 2
    image = tf.slice(image, [top[0], top[1], 0], [*size, -1])
    return tf.cast(tf.clip_by_value(tf.round(image), 0, 255), tf.uint8)


def _pixel_statistics(dataset):
    """Returns mean and standard deviation per channel, of pixels divided by 255."""
    channels = dataset.element_spec[0].shape[-1]
    zeros = tf.zeros(channels, tf.float64)

    def add(state, batch):
        pixels = tf.reshape(tf.cast(batch, tf.float64) / 255, (-1, channels))
        return (
            state[0] + tf.cast(tf.shape(pixels)[0], tf.float64),
            state[1] + tf.reduce_sum(pixels, 0),
            state[2] + tf.reduce_sum(pixels**2, 0),
        )

    images = dataset.map(lambda image, label: image).batch(1000)
    count, total, squares = images.reduce((tf.zeros((), tf.float64), zeros, zeros), add)
    mean = total / count
    variance = tf.maximum(squares / count - mean**2, 1e-8)
    return mean.numpy().tolist(), [math.sqrt(v) for v in variance.numpy()]
