"""Three splits of one data set: train, calibrate, test."""

import math
import random
from dataclasses import dataclass, field

import numpy as np
import tensorflow as tf

from anytime_tflite import pixels
from keras_adaptive._checks import check_choice, integer
from keras_adaptive.data._augmentation import pad_crop_flip, resized_crop_flip

SPLITS = ("train", "calibrate", "test")

AUGMENTATIONS = (None, "pad_crop_flip", "resized_crop_flip")

MEMORY = 2**31  # bytes: a larger training split is read from disk every epoch

SHUFFLED = 50_000  # images, or as many as fit into a quarter of this memory


@dataclass(frozen=True)
class Splits:
    """Three splits of one data set, and how its pixels are standardized.

    Attributes:
        train, calibrate, test: `tf.data.Dataset` of single `(image, label)`: uint8
            `(height, width, channels)` and int64.
        class_names: List of strings.
        mean, std: Lists of one number per channel, of the train split's pixels divided
            by 255.
        flips: Boolean, whether a mirrored image shows the same class.
        raw_train: The train split before it was cropped to one size, or `None`: training
            crops of photographs are taken from these.
        margin: Number, of `pixels`.
    """

    train: tf.data.Dataset
    calibrate: tf.data.Dataset
    test: tf.data.Dataset
    class_names: list
    mean: list
    std: list
    flips: bool = True
    raw_train: tf.data.Dataset | None = None
    margin: float = 1.0
    _memory: dict = field(default_factory=dict, init=False, repr=False, compare=False)

    @property
    def input_shape(self):
        return tuple(self.train.element_spec[0].shape)

    @property
    def pixels(self):
        """How a picture file becomes an image of this data: `anytime_tflite.pixels.rule`.

        `None` where images are neither RGB nor gray.
        """
        *size, channels = self.input_shape
        return pixels.rule(*size, channels, margin=self.margin) if channels in (1, 3) else None

    def size(self, split):
        """Returns the number of samples of a split."""
        return int(split_named(self, split).cardinality())

    def standardize(self, images):
        """Returns `(images / 255 - mean) / std` in float32."""
        mean, std = np.float32(self.mean), np.float32(self.std)
        return (tf.cast(images, tf.float32) / 255.0 - mean) / std

    standardise = standardize  # its name before 0.2; until 0.3

    def batches(
        self,
        split,
        batch_size=64,
        *,
        training=False,
        augmentation="pad_crop_flip",
        seed=0,
        epoch=0,
        step=0,
    ):
        """Returns standardized batches for `fit`, `evaluate` or `predict`.

        With `training=True`, order and augmentation follow from `seed` and the number of the
        epoch alone: not from the batch size, the number of threads, TensorFlow's own seed, or
        what was read before. The result has an attribute `epoch`, the number of the epoch that
        the next pass over it gives; every pass adds one. Setting it, for example in a
        callback's `on_epoch_begin`, goes to any epoch.

        Args:
            split: `"train"`, `"calibrate"` or `"test"`.
            batch_size: Integer.
            training: Boolean: shuffled anew each epoch, and augmented.
            augmentation: `"pad_crop_flip"`: padded by an eighth of the size, cropped at
                random, and mirrored where `flips`; `"resized_crop_flip"`: a random part
                of 8 to 100 % of the area, resized, and mirrored likewise; `None`: as the
                images are.
            seed: Integer of at least 0, of the order and the augmentation. `None`: drawn by
                Python's `random`.
            epoch: Integer of at least 0, the epoch that the first pass gives.
            step: Integer of at least 0, below the number of batches: this many batches at the
                beginning of every pass are left out, without reading their images where the
                split is in memory or in files. With `epoch`, what is left of an epoch that
                was broken off.

        Returns:
            `tf.data.Dataset` of `(images, labels)`: float32 `(batch_size, height, width,
            channels)` and int64 `(batch_size,)`.

        Raises:
            ValueError: If an argument is impossible.

        Example:

        >>> from keras_adaptive import data
        >>> batches = data.load("digits").batches("train", 500, training=True, seed=1)
        >>> first, second = ([labels for _, labels in batches] for _ in range(2))
        >>> batches.epoch
        2
        >>> batches.epoch = 0
        >>> again = [labels for _, labels in batches]
        >>> [bool((a == b).numpy().all()) for a, b in ((first[0], second[0]), (first[0], again[0]))]
        [False, True]
        """
        check_choice(AUGMENTATIONS, augmentation=augmentation)
        batch_size = integer("batch_size", batch_size, 1)
        dataset = split_named(self, split)
        if training:
            seed = random.getrandbits(31) if seed is None else integer("seed", seed, 0)
            epoch, step = integer("epoch", epoch, 0), integer("step", step, 0)
            steps = -(-self.size(split) // batch_size)
            if step >= steps:
                raise ValueError(
                    f"`step` must be below the number of batches, {steps}. Received: step={step}"
                )
            return self._shuffled(split, batch_size, augmentation, seed, epoch, step, steps)
        if epoch or step:
            raise ValueError(
                "`epoch` and `step` are of batches for training. "
                f"Received: epoch={epoch}, step={step}, training=False"
            )
        return self._finished(dataset.batch(batch_size))

    def _finished(self, batches):
        """Returns batches of images that are standardized, a few of them ahead of time."""
        batches = batches.map(lambda x, y: (self.standardize(x), y), num_parallel_calls=2)
        return batches.prefetch(tf.data.AUTOTUNE)

    def _shuffled(self, split, batch_size, augmentation, seed, epoch, step, steps):
        """Returns uint8 batches for training; each pass makes those of the next epoch."""
        source, size = split_named(self, split), self.size(split)
        bytes_each = math.prod(self.input_shape)
        resized = augmentation == "resized_crop_flip"
        if resized and split == "train" and self.raw_train is not None:
            source = self.raw_train
        columns, read = getattr(source, "by_number", (None, None))
        if columns is None and source is not self.raw_train and size * bytes_each <= MEMORY:
            columns = self._whole(split)
        one_by_one = resized or read is not None

        def begin():
            batches.epoch += 1
            return np.int64(batches.epoch - 1)

        def change(sample, draw):
            image, label = sample if columns is None else [tf.gather(x, sample) for x in columns]
            image, label = (image, label) if read is None else read(image, label)
            if resized:
                image = resized_crop_flip(image, draw, self.input_shape[:2], self.flips)
            elif augmentation is not None and not one_by_one:
                image = pad_crop_flip(image, draw, self.flips)
            elif augmentation is not None:
                image = pad_crop_flip(image[tf.newaxis], draw[tf.newaxis], self.flips)[0]
            return image, label

        def one_pass(_):
            number = tf.ensure_shape(tf.numpy_function(begin, [], tf.int64), ())
            order, draws = (
                tf.stack([tf.constant(seed, tf.int64), 2 * number + i]) for i in range(2)
            )
            if columns is None:
                tf.random.set_seed(1)  # of this function alone: the order is that of `seed`
                kept = min(size, SHUFFLED, max(MEMORY // 4 // bytes_each, 1))
                samples = source.shuffle(kept, seed=_random(order, (), tf.int64))
            else:
                order = tf.argsort(_random(order, (size,), tf.int64), stable=True)
                samples = tf.data.Dataset.from_tensor_slices(order)
            draws = tf.data.Dataset.from_tensor_slices(_random(draws, (size, 3), tf.int32))
            samples = tf.data.Dataset.zip(samples, draws).skip(step * batch_size)
            if one_by_one:
                return samples.map(change, tf.data.AUTOTUNE).batch(batch_size)
            return samples.batch(batch_size).map(change, tf.data.AUTOTUNE)

        batches = self._finished(tf.data.Dataset.range(1).flat_map(one_pass))
        batches = batches.apply(tf.data.experimental.assert_cardinality(steps - step))
        batches.epoch = epoch
        return batches

    def _whole(self, split):
        """Returns all images and labels of a split as tensors, read once."""
        if split not in self._memory:
            batches = list(split_named(self, split).batch(1000))
            self._memory[split] = [tf.concat(part, 0) for part in zip(*batches, strict=True)]
        return self._memory[split]

    def arrays(self, split):
        """Returns the whole split in memory: standardized float32 images, labels."""
        batches = list(self.batches(split, 1000).as_numpy_iterator())
        return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])

    def images(self, split, count):
        """Returns the first images as they are, uint8, and their labels."""
        count = integer("count", count, 1)
        pairs = list(split_named(self, split).take(count).as_numpy_iterator())
        return np.stack([x for x, _ in pairs]), np.array([y for _, y in pairs])


def by_number(columns, read=None):
    """Returns a dataset of images and labels of which training reads any one at once.

    Args:
        columns: Two tensors with a row per sample: images, or what `read` makes them of; labels.
        read: Function of a row of each that returns an image and a label. `None`: the rows are.
    """
    dataset = tf.data.Dataset.from_tensor_slices(tuple(columns))
    if read is not None:
        dataset = dataset.map(read, num_parallel_calls=tf.data.AUTOTUNE)
    dataset.by_number = (columns, read)
    return dataset


def first(dataset, count):
    """Returns so many samples of a dataset."""
    if hasattr(dataset, "by_number"):
        columns, read = dataset.by_number
        return by_number([column[:count] for column in columns], read)
    return dataset.take(count)


def image_blocks(dataset, count):
    """Returns an iterator of arrays of images, so many at a time."""
    columns, read = getattr(dataset, "by_number", (None, None))
    if columns is None or read is not None:
        return (images for images, _ in dataset.batch(count).as_numpy_iterator())
    images = columns[0]
    return (images[i : i + count].numpy() for i in range(0, len(images), count))


def split_named(splits, name):
    """Returns the dataset of a split."""
    check_choice(SPLITS, split=name)
    return getattr(splits, name)


def _random(seed, shape, dtype):
    """Returns integers of the whole range, which follow from a seed of two integers alone."""
    return tf.random.stateless_uniform(shape, seed, None, None, dtype, alg="philox")
