"""Images and labels in three splits: train, calibrate, test.

The network is fitted on `train`, thresholds are chosen on `calibrate`, results come
from `test`. `calibrate` is cut off the published training split; `test` is the
published test split.
"""

import contextlib
import hashlib
import io
import math
import tarfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import tensorflow as tf

SPLITS = ("train", "calibrate", "test")
PAD = 4  # pixels, for augmentation; of a 32-pixel image, and in proportion
AUGMENTATIONS = (None, "pad_crop_flip", "resized_crop_flip")
MEMORY = 2**31  # bytes: a larger training split is read from disk every epoch
SHUFFLED = 50_000  # images, or as many as fit into a quarter of this memory
COUNTED = 50_000  # images that mean and standard deviation are taken from
RETRIES = 1  # of a download: without a network, an error at once and not after minutes
# name in tensorflow_datasets: the split with labels that results come from, where not "test"
EVALUATED = {"imagenet2012": "validation", "imagenet_resized": "validation"}
ALIASES = {"downsampled_imagenet": "imagenet_resized"}  # the same images, but with labels
# name: image size and margin around it, for photographs of many sizes
PHOTOGRAPHS = {"imagenet2012": ((224, 224), 256 / 224)}


@dataclass(frozen=True)
class Splits:
    """Three splits of one data set, and how its pixels are standardised.

    Attributes:
        train, calibrate, test: `tf.data.Dataset` of single `(image, label)`: uint8
            `(height, width, channels)` and int64.
        class_names: List of strings.
        mean, std: Lists of one number a channel, of the train split's pixels divided
            by 255.
        flips: Boolean, whether a mirrored image shows the same class.
        originals: The train split before it was cropped to one size, or `None`: training
            crops of photographs are taken from these.
    """

    train: tf.data.Dataset
    calibrate: tf.data.Dataset
    test: tf.data.Dataset
    class_names: list
    mean: list
    std: list
    flips: bool = True
    originals: tf.data.Dataset | None = None

    @property
    def input_shape(self):
        return tuple(self.train.element_spec[0].shape)

    def size(self, split):
        """Returns the number of samples of a split."""
        return int(_split(self, split).cardinality())

    def standardise(self, images):
        """Returns `(images / 255 - mean) / std` in float32."""
        mean, std = np.float32(self.mean), np.float32(self.std)
        return (tf.cast(images, tf.float32) / 255.0 - mean) / std

    def batches(
        self, split, batch_size=64, *, training=False, augmentation="pad_crop_flip", seed=0
    ):
        """Returns standardised batches for `fit`, `evaluate` or `predict`.

        Args:
            split: `"train"`, `"calibrate"` or `"test"`.
            batch_size: Integer.
            training: Boolean: shuffled anew each epoch, and augmented.
            augmentation: `"pad_crop_flip"`: padded by an eighth of the size, cropped at
                random, and mirrored where `flips`; `"resized_crop_flip"`: a random part
                of 8 to 100 % of the area, resized, and mirrored likewise; `None`: as the
                images are.
            seed: Integer, of shuffling.
        """
        if augmentation not in AUGMENTATIONS:
            raise ValueError(
                f"`augmentation` must be one of {AUGMENTATIONS}. "
                f"Received: augmentation={augmentation}"
            )
        dataset = _split(self, split)
        if training:
            size, bytes_each = self.size(split), math.prod(self.input_shape)
            if augmentation == "resized_crop_flip" and split == "train" and self.originals:
                dataset = self.originals
            elif size * bytes_each <= MEMORY:
                dataset = dataset.cache()
            kept = min(size, SHUFFLED, max(MEMORY // 4 // bytes_each, 1))
            dataset = dataset.shuffle(kept, seed=seed)
            if augmentation is not None:
                change = getattr(self, f"_{augmentation}")
                dataset = dataset.map(change, num_parallel_calls=tf.data.AUTOTUNE)
        dataset = dataset.batch(batch_size)
        dataset = dataset.map(lambda x, y: (self.standardise(x), y), num_parallel_calls=2)
        return dataset.prefetch(tf.data.AUTOTUNE)

    def _resized_crop_flip(self, image, label):
        height, width, _ = self.input_shape
        begin, size, _ = tf.image.sample_distorted_bounding_box(
            tf.shape(image),
            tf.zeros((1, 0, 4)),
            area_range=(0.08, 1.0),
            aspect_ratio_range=(3 / 4, 4 / 3),
            use_image_if_no_bounding_boxes=True,
        )
        image = tf.image.resize(tf.slice(image, begin, size), (height, width))
        image = tf.cast(tf.round(image), tf.uint8)
        return (tf.image.random_flip_left_right(image) if self.flips else image), label

    def _pad_crop_flip(self, image, label):
        height, width, channels = self.input_shape
        pad = [round(PAD * n / 32) for n in (height, width)]
        image = tf.pad(image, [[pad[0]] * 2, [pad[1]] * 2, [0, 0]])
        image = tf.image.random_crop(image, (height, width, channels))
        return (tf.image.random_flip_left_right(image) if self.flips else image), label

    def arrays(self, split):
        """Returns the whole split in memory: standardised float32 images, labels."""
        batches = list(self.batches(split, 1000).as_numpy_iterator())
        return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])

    def images(self, split, count):
        """Returns the first images as they are, uint8, and their labels."""
        pairs = list(_split(self, split).take(count).as_numpy_iterator())
        return np.stack([x for x, _ in pairs]), np.array([y for _, y in pairs])


def _split(splits, name):
    if name not in SPLITS:
        raise ValueError(f"`split` must be one of {SPLITS}. Received: split={name}")
    return getattr(splits, name)


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
            `test/<class>/*` images, at any depth. Read once into tensorflow_datasets
            records.
        cache_dir: Where records are kept. `None`: tensorflow_datasets' own place.
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
    >>> [digits.size(split) for split in SPLITS]
    [1077, 360, 360]
    >>> digits.input_shape
    (8, 8, 1)
    """
    image_size = _size(image_size)
    margin = 1.0
    if data_dir is None and name != "digits" and _is_path(name):
        name, data_dir = Path(name).name, name
    if data_dir is not None:
        parts = _local(Path(data_dir), cache_dir)
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
        splits[0] = splits[0].take(train_limit)
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
        originals=splits[0] if margin > 1 else None,
    )


def _size(image_size):
    if image_size is None:
        return None
    size = image_size if isinstance(image_size, (tuple, list)) else (image_size, image_size)
    whole = all(isinstance(n, int) and not isinstance(n, bool) and n > 0 for n in size)
    if len(size) != 2 or not whole:
        raise ValueError(
            "`image_size` must be a positive integer or (height, width). "
            f"Received: image_size={image_size}"
        )
    return tuple(size)


def _is_path(name):
    """Returns whether a name is that of a file or folder rather than of a known data set."""
    if isinstance(name, Path) or name.startswith(("/", ".", "~")) or ".tar" in name:
        return True
    base = name.partition("/")[0].partition(":")[0]
    return Path(name).exists() and base not in (
        *ALIASES,
        *_datasets().list_builders(with_community_datasets=False),
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


def _datasets():
    try:
        import tensorflow_datasets
    except ImportError as error:
        raise ImportError(
            "Data other than the digits needs tensorflow_datasets: "
            "pip install 'keras_adaptive[data]'"
        ) from error
    return tensorflow_datasets


def _cut(builder, evaluated="test"):
    """The last tenth of the train split becomes the calibrate split."""
    splits = [
        builder.as_dataset(split=split, as_supervised=True)
        for split in ("train[:90%]", "train[90%:]", evaluated)
    ]
    return *splits, list(builder.info.features["label"].names)


def _downloaded(name, cache_dir, asked):
    tfds = _datasets()
    try:
        with _few_retries():
            builder = tfds.builder(name, data_dir=cache_dir)
            builder.download_and_prepare()
        known = list(builder.info.splits)
        evaluated = EVALUATED.get(builder.name, "test")
        if known and evaluated not in known and "validation" in known:
            evaluated = "validation"
        return _cut(builder, evaluated)
    except Exception as error:  # what a download can raise has no common class
        reason = " ".join(str(error).split())
        raise ValueError(
            "`name` must be a path, or a data set of labelled images with a train split and a "
            "test or validation split that tensorflow_datasets can load or download. Without a "
            "network, give `data_dir`: a folder or tar file with train/<class>/* and "
            f"test/<class>/*. Received: name={asked} ({type(error).__name__}: {reason[:400]})"
        ) from error


@contextlib.contextmanager
def _few_retries():
    """Lets tensorflow_datasets give up soon where there is no network."""
    from tensorflow_datasets.core.download import downloader

    kept = downloader.MAX_RETRIES
    downloader.MAX_RETRIES = RETRIES
    try:
        yield
    finally:
        downloader.MAX_RETRIES = kept


def _local(source, cache_dir):
    if not source.exists():
        raise ValueError(
            f"`data_dir` must exist: there is no such folder or file. Received: data_dir={source}"
        )
    tfds = _datasets()
    root = Path(cache_dir or tfds.core.constants.DATA_DIR).expanduser()
    folder = root / "image_folders" / _digest(source)
    prepared = list(folder.glob("image_folders/*/dataset_info.json"))
    if prepared:
        return _cut(tfds.builder_from_directory(prepared[0].parent))

    found = {(split, label) for split, label, _, _ in _images(source, read=False)}
    class_names = sorted({label for _, label in found})
    for split in ("train", "test"):
        if not any(part == split for part, _ in found):
            raise ValueError(
                f"`data_dir` must hold images as {split}/<class>/<image>. "
                f"Received: data_dir={source}, which has none"
            )

    class ImageFolders(tfds.core.GeneratorBasedBuilder, skip_registration=True):
        """Images in folders named by split and class."""

        VERSION = tfds.core.Version("1.0.0")
        name = "image_folders"

        def _info(self):
            features = {
                "image": tfds.features.Image(shape=(None, None, 3)),
                "label": tfds.features.ClassLabel(names=class_names),
            }
            return tfds.core.DatasetInfo(
                builder=self,
                features=tfds.features.FeaturesDict(features),
                supervised_keys=("image", "label"),
            )

        def _split_generators(self, _):
            return {split: self._generate_examples(split) for split in ("train", "test")}

        def _generate_examples(self, wanted):
            for _, label, name, content in _images(source, only=wanted):
                yield f"{label}/{name}", {"image": io.BytesIO(content), "label": label}

    builder = ImageFolders(data_dir=str(folder))
    builder.download_and_prepare()
    return _cut(builder)


def _digest(source):
    """Changes when the file or the folder's listing does."""
    facts = [str(source.resolve())]
    for path in [source] if source.is_file() else sorted(source.rglob("*")):
        stat = path.stat()
        facts.append(f"{path.name} {stat.st_size} {stat.st_mtime_ns}")
    return hashlib.sha256("\n".join(facts).encode()).hexdigest()[:16]


def _images(source, only=None, read=True):
    """Yields `(split, class, file name, content)` from a folder or a tar file."""

    def place(parts):
        known = len(parts) >= 3 and parts[-3] in ("train", "test")
        visible = known and not any(part.startswith(".") for part in parts[-3:])
        return parts[-3:] if visible and only in (None, parts[-3]) else None

    if source.is_dir():
        for path in sorted(source.rglob("*")):
            where = place(path.relative_to(source).parts)
            if where and path.is_file():
                yield *where, path.read_bytes() if read else None
        return
    try:
        with tarfile.open(source) as archive:
            for member in archive:
                where = place(Path(member.name).parts)
                if where and member.isfile():
                    yield *where, archive.extractfile(member).read() if read else None
    except tarfile.ReadError as error:
        raise ValueError(
            f"`data_dir` must be a folder or a tar file. Received: data_dir={source}"
        ) from error


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
    """Returns mean and standard deviation a channel, of pixels divided by 255."""
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
