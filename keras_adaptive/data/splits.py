"""Three splits of one data set: train, calibrate, test."""

import math
from dataclasses import dataclass

import numpy as np
import tensorflow as tf

from keras_adaptive._checks import check_choice, integer

SPLITS = ("train", "calibrate", "test")

PAD = 4  # pixels, for augmentation; of a 32-pixel image, and in proportion

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
    """

    train: tf.data.Dataset
    calibrate: tf.data.Dataset
    test: tf.data.Dataset
    class_names: list
    mean: list
    std: list
    flips: bool = True
    raw_train: tf.data.Dataset | None = None

    @property
    def input_shape(self):
        return tuple(self.train.element_spec[0].shape)

    def size(self, split):
        """Returns the number of samples of a split."""
        return int(split_named(self, split).cardinality())

    def standardize(self, images):
        """Returns `(images / 255 - mean) / std` in float32."""
        mean, std = np.float32(self.mean), np.float32(self.std)
        return (tf.cast(images, tf.float32) / 255.0 - mean) / std

    standardise = standardize  # its name before 0.2; until 0.3

    def batches(
        self, split, batch_size=64, *, training=False, augmentation="pad_crop_flip", seed=0
    ):
        """Returns standardized batches for `fit`, `evaluate` or `predict`.

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
        check_choice(AUGMENTATIONS, augmentation=augmentation)
        batch_size = integer("batch_size", batch_size, 1)
        dataset = split_named(self, split)
        if training:
            size, bytes_each = self.size(split), math.prod(self.input_shape)
            if augmentation == "resized_crop_flip" and split == "train" and self.raw_train:
                dataset = self.raw_train
            elif size * bytes_each <= MEMORY:
                dataset = dataset.cache()
            kept = min(size, SHUFFLED, max(MEMORY // 4 // bytes_each, 1))
            dataset = dataset.shuffle(kept, seed=seed)
            if augmentation is not None:
                change = getattr(self, f"_{augmentation}")
                dataset = dataset.map(change, num_parallel_calls=tf.data.AUTOTUNE)
        dataset = dataset.batch(batch_size)
        dataset = dataset.map(lambda x, y: (self.standardize(x), y), num_parallel_calls=2)
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
        """Returns the whole split in memory: standardized float32 images, labels."""
        batches = list(self.batches(split, 1000).as_numpy_iterator())
        return np.concatenate([x for x, _ in batches]), np.concatenate([y for _, y in batches])

    def images(self, split, count):
        """Returns the first images as they are, uint8, and their labels."""
        count = integer("count", count, 1)
        pairs = list(split_named(self, split).take(count).as_numpy_iterator())
        return np.stack([x for x, _ in pairs]), np.array([y for _, y in pairs])


def split_named(splits, name):
    """Returns the dataset of a split."""
    check_choice(SPLITS, split=name)
    return getattr(splits, name)
