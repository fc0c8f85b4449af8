"""Loads images and labels in three splits: train, calibrate, test.

The network is fitted on `train`, thresholds are chosen on `calibrate`, results come
from `test`. `calibrate` is cut off the published training split; `test` is the
published test split.
"""

import contextlib
import math
import os
import re
from pathlib import Path

import numpy as np
import tensorflow as tf

from anytime_tflite import pixels
from keras_adaptive._checks import check_choice, integer, integer_sequence
from keras_adaptive._files import as_path
from keras_adaptive.data._dividing import check_part, check_split, held_out
from keras_adaptive.data.image_folder import datasets, local
from keras_adaptive.data.splits import Splits, first, image_blocks

COUNTED = 50_000  # images that mean and standard deviation are taken from
BLOCK = 2**24  # bytes of them at a time


RETRIES = 1  # of a download: without a network, an error at once and not after minutes

# name in tensorflow_datasets: the split with labels that results come from, where not "test"
EVALUATED = {"imagenet2012": "validation", "imagenet_resized": "validation"}

ALIASES = {"downsampled_imagenet": "imagenet_resized"}  # the same images, but with labels

# words in names of data sets of signs, which are others or none when they are mirrored
SIGNS = {
    *("characters", "cmaterdb", "digit", "digits", "emnist", "handwriting", "kmnist", "letters"),
    *("mnist", "numbers", "omniglot", "qmnist", "svhn", "text", "usps"),
}

# name: image size and margin around it, for photographs of many sizes
PHOTOGRAPHS = {"imagenet2012": ((224, 224), 256 / 224)}


def load(
    name="digits",
    *,
    data_dir=None,
    cache_dir=None,
    image_size=None,
    train_limit=None,
    split=(0.7, 0.15, 0.15),
    seed=0,
    calibrate=None,
    flips=None,
    on_error="skip",
):
    """Loads a data set in three splits.

    Local images are read by `anytime_tflite.pixels`, as `keras-adaptive run` and devices read
    them: JPEG, PNG, WebP, BMP, GIF (the first frame), TIFF; turned as the camera says;
    what is transparent lies over white. All files are read once when they are loaded, and kept in
    memory up to 2 GB, or else read again when they are needed; nothing is written, but what a
    tar file unpacks to. One warning names the files that are left out, as they cannot be read or
    are none of the images, and classes of fewer than 5 images. Hidden files and folders, links
    that lead out of the folder, and links to folders are left out.

    Args:
        name: `"digits"`: scikit-learn's handwritten digits, 8x8, which need no network; or
            the path of a folder, a CSV file or a tar file, as `data_dir`; or a name of
            tensorflow_datasets, for example `"cifar10"`, `"cifar100"`, `"imagenet2012"`
            (its two archives have to be fetched by hand, as the error says) or
            `"downsampled_imagenet/32x32"` (read as `imagenet_resized`, which has labels).
            With `data_dir` it is just a name. Results come from the test split, or from the
            validation split where that is the one with labels.
        data_dir: Path of local images.

            - A folder of `train/<class>/*` and `test/<class>/*`, at any depth; a folder
              `validation` or `calibrate` beside them is the calibrate split. Without a folder
              `test` it is the test split.
            - A folder of `<class>/*`, which is divided by `split`.
            - A CSV file, or a folder with one, that names images: columns `path`, inside the
              file's folder, `label`, and, where it is to say the split, `split`.
            - A tar file of one of these. It is unpacked when it is new or has changed.
        cache_dir: Where downloaded and unpacked data is kept. `None`: tensorflow_datasets'
            own place.
        image_size: Integer, or `(height, width)`: images are scaled to cover it and cut
            around their middle. `None`: as they are; then all must be of one size. For
            `"imagenet2012"` `None` is 224, and the shorter side is scaled to 256 / 224 of it
            before the cut, as published.
        train_limit: Integer, use only so many training images. `None`: all.
        split: Shares of train, calibrate and test, for local images that are not divided: of
            every class its share, in a random order, at least one image.
        seed: Integer of at least 0: which local images are in which split, where that is not
            said, and their order.
        calibrate: Share of the training images between 0 and 1, or their number, that
            becomes the calibrate split; of local images and `"digits"` of every class its
            share, at least one; of other named data the last ones. `None`: a tenth, or what
            `split` says; of `"digits"` a quarter.
        flips: Boolean, whether training may mirror images left to right, as every augmentation
            of `Splits.batches` then does with half of them. `None`: yes for photographs; no for
            digits, letters and other signs, which are others or none when they are mirrored: data
            sets named so (the MNIST family but Fashion-MNIST, SVHN, names with the word digits,
            letters or text), local classes that are single characters, and classes that differ
            by "left" and "right".
        on_error: `"skip"`: a local image that cannot be read is left out; `"raise"`: it is an
            error.

    Returns:
        `Splits`.

    Raises:
        ValueError: If the data cannot be found or is not laid out so, if a class has no image in
            a split, if images are of different sizes without `image_size`, or if a tar or CSV
            file leads out of its folder.

    Example:

    >>> digits = load("digits")
    >>> [digits.size(split) for split in ("train", "calibrate", "test")]
    [1077, 360, 360]
    >>> digits.input_shape
    (8, 8, 1)
    >>> digits.flips
    False
    """
    image_size = _size(image_size)
    split, seed = check_split(split), integer("seed", seed, 0)
    calibrate = None if calibrate is None else check_part(calibrate)
    check_choice(("skip", "raise"), on_error=on_error)
    check_choice((None, True, False), flips=flips)
    train_limit = None if train_limit is None else integer("train_limit", train_limit, 1)
    cache_dir = None if cache_dir is None else as_path(cache_dir, "cache_dir")
    margin = 1.0
    if data_dir is None and name != "digits" and _is_path(name):
        name, data_dir = Path(os.path.abspath(name)).name, name  # also of "."
    if data_dir is not None:
        place = as_path(data_dir, "data_dir").expanduser()
        parts = local(place, cache_dir, image_size, split, seed, calibrate, on_error)
        image_size = None  # they are of it
    elif name == "digits":
        parts = _digits(seed, calibrate)
    else:
        given, _, config = name.partition("/")
        base = ALIASES.get(given, given)
        usual, margin = PHOTOGRAPHS.get(base, (None, 1.0))
        image_size = image_size or usual
        named = f"{base}/{config}" if config else base
        parts = _downloaded(named, cache_dir, name, calibrate)
    *splits, class_names = parts
    if train_limit is not None:
        splits[0] = first(splits[0], train_limit)
    train, calibrate, test = splits
    if data_dir is None:
        train, calibrate, test = (_of_one_size(part, image_size, margin) for part in splits)
    mean, std = _pixel_statistics(first(train, COUNTED))
    return Splits(
        train,
        calibrate,
        test,
        class_names,
        mean,
        std,
        flips=_may_mirror(name, class_names, data_dir) if flips is None else bool(flips),
        raw_train=splits[0] if margin > 1 else None,
        margin=margin,
    )


def _may_mirror(name, class_names, data_dir=None):
    """Returns whether a mirrored image shows the same class, as far as names tell."""
    words = set(re.split(r"[^a-z0-9]+", str(name).lower()))
    if words & SIGNS and "fashion" not in words:
        return False
    labels = {label.lower() for label in class_names}
    swapped = {"left": "right", "right": "left"}
    mirrored = {re.sub("left|right", lambda found: swapped[found[0]], label) for label in labels}
    sided = {label for label in labels if "left" in label or "right" in label}
    # classes of named data may be mere numbers; those of local images have been named by somebody
    signs = data_dir is not None and all(len(label) == 1 for label in labels)
    return not signs and not sided & mirrored


def _size(image_size):
    if image_size is None:
        return None
    size = image_size if np.ndim(image_size) else (image_size, image_size)
    must = "a positive integer or (height, width)"
    return integer_sequence("image_size", size, 1, must, length=2)


def _is_path(name):
    """Returns whether a name is that of a file or folder rather than of a known data set."""
    if not isinstance(name, (str, Path)):
        raise TypeError(f"`name` must be a string or a path. Received: name={name!r}")
    if name == "":
        raise ValueError("`name` must be a path or the name of a data set. Received: name=''")
    if isinstance(name, Path) or name.startswith(("/", ".", "~")):
        return True
    if ".tar" in name or name.lower().endswith(".csv"):
        return True
    return Path(name).exists() and not is_known(name)


def is_known(name):
    """Returns whether a name is that of a data set of tensorflow_datasets."""
    base = name.partition("/")[0].partition(":")[0]
    if base in ALIASES:
        return True
    try:
        return base in datasets().list_builders(with_community_datasets=False)
    except ImportError:  # then there are no known names
        return False


def _digits(seed, calibrate):
    from sklearn.datasets import load_digits
    from sklearn.model_selection import train_test_split

    digits = load_digits()
    images = np.round(digits.images * 255 / 16).astype("uint8")[..., None]
    labels = digits.target.astype("int64")
    rest, test = train_test_split(
        np.arange(len(labels)), test_size=0.2, random_state=0, stratify=labels
    )
    if calibrate is None:
        how = {"test_size": 0.25, "random_state": 0, "stratify": labels[rest]}
        parts = train_test_split(rest, **how)
    else:
        rest = np.random.default_rng(seed).permutation(rest)
        cut = held_out(labels[rest], calibrate)
        if cut is None:
            raise ValueError(
                "`calibrate` must be at least 10, one image of every class, and leave as many. "
                f"Received: calibrate={calibrate}"
            )
        parts = rest[~cut], rest[cut]
    splits = [
        tf.data.Dataset.from_tensor_slices((images[rows], labels[rows])) for rows in (*parts, test)
    ]
    return *splits, [str(n) for n in digits.target_names]


def _downloaded(name, cache_dir, asked, calibrate):
    tfds = datasets()
    try:
        with _few_retries():
            builder = tfds.builder(name, data_dir=cache_dir)
            builder.download_and_prepare()
        known = list(builder.info.splits)
        evaluated = EVALUATED.get(builder.name, "test")
        if known and evaluated not in known and "validation" in known:
            evaluated = "validation"
        return _three_splits(builder, evaluated, calibrate)
    except Exception as error:  # what a download can raise has no common class
        reason = " ".join(str(error).split())
        raise ValueError(
            "`name` must be a path, or a data set of labeled images with a train split and a "
            "test or validation split that tensorflow_datasets can load or download. Without a "
            "network, give `data_dir`: a folder or tar file with train/<class>/* and "
            f"test/<class>/*. Received: name={asked} ({type(error).__name__}: {reason[:400]})"
        ) from error


def _three_splits(builder, evaluated, calibrate):
    """The last tenth of the train split, or as much as is asked for, is the calibrate split."""
    part = 0.1 if calibrate is None else calibrate
    percent = 100 * part
    if not isinstance(part, float):
        cut = -part
    elif abs(percent - round(percent)) < 1e-9 and 0 < round(percent) < 100:
        cut = f"{100 - round(percent)}%"
    else:
        cut = -max(round(part * builder.info.splits["train"].num_examples), 1)
    splits = [
        builder.as_dataset(split=split, as_supervised=True)
        for split in (f"train[:{cut}]", f"train[{cut}:]", evaluated)
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
    """Returns a dataset with images of one size, scaled by the rule of `Splits.pixels`."""
    if image_size is None:
        shape = next(iter(dataset.take(1)))[0].shape
    else:
        shape = (*image_size, dataset.element_spec[0].shape[-1])
        rule = pixels.rule(*shape, margin=margin)

    def fit(image, label):
        if image_size is not None:
            image = tf.numpy_function(lambda x: pixels.resize(x, rule), [image], tf.uint8)
        return tf.ensure_shape(image, shape), label

    fitted = dataset.map(fit, num_parallel_calls=tf.data.AUTOTUNE)
    return fitted.apply(tf.data.experimental.assert_cardinality(int(dataset.cardinality())))


def _pixel_statistics(dataset):
    """Returns mean and standard deviation per channel, of pixels divided by 255."""
    *_, channels = shape = dataset.element_spec[0].shape
    counts = np.zeros((channels, 256), np.int64)  # of every level
    for batch in image_blocks(dataset, max(BLOCK // math.prod(shape), 1)):
        for channel in range(channels):
            counts[channel] += np.bincount(batch[..., channel].ravel(), minlength=256)
    levels = np.arange(256) / 255
    shares = counts / counts.sum(1, keepdims=True)
    mean = shares @ levels
    variance = shares @ levels**2 - mean**2
    return mean.tolist(), np.sqrt(np.maximum(variance, 1e-8)).tolist()
