import dataclasses
import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_adaptive import data
from keras_adaptive.data import _augmentation, splits

AUGMENTATIONS = splits.AUGMENTATIONS


def passes(batches, count=1):
    """Returns images and labels of passes over batches."""
    read = [list(batches.as_numpy_iterator()) for _ in range(count)]
    return [[np.concatenate(part) for part in zip(*one, strict=True)] for one in read]


def assert_same(a, b):
    for mine, yours in zip(a, b, strict=True):
        np.testing.assert_array_equal(mine, yours)


def test_digits_come_in_three_splits_that_share_nothing(digits):
    images = {
        s: [x.tobytes() for x, _ in getattr(digits, s).as_numpy_iterator()] for s in data.SPLITS
    }
    assert [len(images[s]) for s in data.SPLITS] == [digits.size(s) for s in data.SPLITS]
    assert sum(map(len, images.values())) == 1797
    everything = [image for s in data.SPLITS for image in set(images[s])]
    assert len(everything) == len(set(everything))


def test_training_pixels_are_standardized(digits):
    x, y = digits.arrays("train")
    assert x.dtype == "float32"
    assert x.mean() == pytest.approx(0, abs=1e-4)
    assert x.std() == pytest.approx(1, abs=1e-3)
    assert set(y) == set(range(10))


def test_rejects_unknown_split(digits):
    with pytest.raises(ValueError, match="Received: split=validation"):
        digits.size("validation")


def test_training_batches_are_shuffled_and_moved_others_are_not(digits):
    x, y = digits.arrays("train")
    training = next(iter(digits.batches("train", 64, training=True)))
    plain = next(iter(digits.batches("train", 64)))
    np.testing.assert_array_equal(plain[0], x[:64])
    assert training[0].shape == (64, 8, 8, 1)
    assert not np.array_equal(training[1], y[:64])
    shifted = sum(any(np.array_equal(image, one) for one in x) for image in training[0].numpy())
    assert shifted < 64


def test_without_augmentation_training_images_are_as_they_are(digits):
    x, _ = digits.arrays("train")
    plain = digits.batches("train", 64, training=True, augmentation=None)
    known = {image.tobytes() for image in x}
    assert all(image.tobytes() in known for image in next(iter(plain))[0].numpy())


SOURCES = ("in memory", "files", "a stream")
QUICK = {("in memory", "pad_crop_flip"), ("files", "pad_crop_flip"), ("a stream", None)}


@pytest.fixture(
    params=[
        pytest.param((kind, a), marks=[] if (kind, a) in QUICK else pytest.mark.slow)
        for kind in SOURCES
        for a in AUGMENTATIONS
    ],
    ids=lambda param: f"{param[0]}-{param[1]}",
)
def source(request, digits, monkeypatch):
    """Digits, as if they were files that are read again, or too many for the memory."""
    kind, augmentation = request.param
    images, labels = (tf.constant(part) for part in digits.images("train", 300))
    train = splits.by_number((images, labels))
    if kind == "files":
        train = splits.by_number((tf.range(300), labels), lambda i, label: (images[i], label))
    elif kind == "a stream":
        train = tf.data.Dataset.from_tensor_slices((images, labels))
        monkeypatch.setattr(splits, "MEMORY", 4 * 64 * 100)
    made = dataclasses.replace(digits, train=train)

    def batches(size, **how):
        return made.batches("train", size, training=True, augmentation=augmentation, **how)

    return batches, augmentation


def test_training_batches_follow_from_seed_and_epoch_alone(source):
    make, augmentation = source
    tf.random.set_seed(1)
    batches = make(100, seed=3)
    epochs = passes(batches, 2)
    assert batches.epoch == 2
    batches.epoch = 0
    assert_same(passes(batches)[0], epochs[0])
    tf.random.set_seed(2)
    rest = make(40, seed=3, epoch=1, step=5)  # in other batches, from one of them on
    assert len(rest) == 8 - 5
    assert_same(passes(rest)[0], [part[200:] for part in epochs[1]])
    for images, labels in (epochs[1], passes(make(100, seed=4))[0]):
        assert not np.array_equal(labels, epochs[0][1])
        assert sorted(labels) == sorted(epochs[0][1])
        if augmentation is not None:  # what is drawn differs, not the order alone
            seen = {image.tobytes() for image in epochs[0][0]}
            assert sum(image.tobytes() in seen for image in images) < 0.9 * len(images)


def test_a_fit_goes_from_epoch_to_epoch(digits):
    class Epochs(keras.callbacks.Callback):
        def on_epoch_begin(self, epoch, logs=None):
            batches.epoch = epoch

    def fit(batches, **how):
        model = keras.Sequential([keras.Input((8, 8, 1)), keras.layers.Flatten()])
        model.add(keras.layers.Dense(10, kernel_initializer="zeros"))
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
        model.compile("sgd", loss, run_eagerly=True)
        return model.fit(batches, verbose=0, shuffle=False, **how).history["loss"][-1:]

    batches = digits.batches("train", 500, training=True, seed=1)
    alone = fit(digits.batches("train", 500, training=True, seed=1, epoch=3), epochs=1)
    assert fit(batches, epochs=1) != alone
    assert batches.epoch == 1
    assert fit(batches, epochs=4, initial_epoch=3, callbacks=[Epochs()]) == alone


def test_files_that_are_left_out_of_a_pass_are_not_read():
    read = []

    def one(i):
        read.append(int(i))
        return np.full((4, 4, 3), i, "uint8")

    def sample(i, label):
        return tf.ensure_shape(tf.numpy_function(one, [i], tf.uint8), (4, 4, 3)), label

    train = splits.by_number((tf.range(20), tf.range(20)), sample)
    three = splits.Splits(train, train, train, ["a", "b"], [0.5] * 3, [0.5] * 3)
    how = {"training": True, "augmentation": None}
    whole = passes(three.batches("train", 2, **how))[0][1]
    read.clear()
    rest = passes(three.batches("train", 2, step=9, **how))[0][1]
    assert rest.tolist() == whole[18:].tolist()
    assert sorted(read) == sorted(rest)
    limited = dataclasses.replace(three, train=splits.first(train, 5))
    assert sorted(passes(limited.batches("train", 2, **how))[0][1]) == list(range(5))
    assert [int(y) for _, y in limited.train] == list(range(5))


def test_without_a_seed_one_is_drawn_by_python(digits):
    labels = []
    for state in (0, 0, 1):
        random.seed(state)
        batches = digits.batches("train", 500, training=True, augmentation=None, seed=None)
        labels.append(passes(batches)[0][1].tolist())
    assert labels[0] == labels[1] != labels[2]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"seed": -1}, "`seed` must be an integer of at least 0. Received: seed=-1"),
        ({"epoch": -1}, "`epoch` must be an integer of at least 0. Received: epoch=-1"),
        ({"epoch": 1.5}, "`epoch` must be an integer"),
        ({"step": 11}, "`step` must be below the number of batches, 11. Received: step=11"),
        ({"augmentation": "spin"}, "`augmentation` must be one of.*Received: .*spin"),
        ({"training": False, "step": 1}, "are of batches for training. Received: epoch=0, step=1"),
    ],
)
def test_rejects_impossible_batches(digits, wrong, message):
    with pytest.raises(ValueError, match=message):
        digits.batches("train", **{"batch_size": 100, "training": True, **wrong})


def test_a_small_memory_shuffles_what_fits(digits, monkeypatch):
    """Then images come from the disk every epoch, and from near their place."""
    monkeypatch.setattr(splits, "MEMORY", 4 * 64 * 10)
    x, _ = digits.arrays("train")
    batches = digits.batches("train", 8, training=True, augmentation=None)
    place = {image.tobytes(): i for i, image in enumerate(x)}
    first = [place[image.tobytes()] for image in next(iter(batches))[0].numpy()]
    assert max(first) < 8 + 10  # ten images are kept


def test_augmentations_keep_size_and_kind(digits):
    for augmentation in AUGMENTATIONS:
        batches = digits.batches("train", 8, training=True, augmentation=augmentation)
        assert batches.element_spec[0].shape.as_list() == [None, 8, 8, 1]
        images, labels = next(iter(batches))
        assert images.shape == (8, 8, 8, 1)
        assert labels.shape == (8,)
        assert np.isfinite(images).all()


def draws(rng, count):
    return rng.integers(-(2**31), 2**31, (count, 3), dtype="int32")


def test_crops_of_the_padded_image_and_mirrors(digits, rng):
    """8 pixels are padded by 1 on each side: there are nine crops, and their mirror images."""
    image = digits.images("train", 1)[0][0]
    padded = np.pad(image, ((1, 1), (1, 1), (0, 0)))
    crops = [padded[i : i + 8, j : j + 8] for i in range(3) for j in range(3)]
    mirrored = [crop[:, ::-1] for crop in crops]
    for flips, expected in ((False, crops), (True, crops + mirrored)):
        batch = np.stack([image] * 400)
        made = _augmentation.pad_crop_flip(batch, draws(rng, 400), flips).numpy()
        counts = {x.tobytes(): 0 for x in expected}
        for x in made:
            counts[x.tobytes()] += 1
        assert min(counts.values()) > 400 / len(expected) / 3


def test_the_shape_may_be_no_square(rng):
    batch = rng.integers(0, 256, (50, 16, 24, 3), dtype="uint8")
    made = _augmentation.pad_crop_flip(batch, draws(rng, 50), False).numpy()
    for image, one in zip(batch, made, strict=True):
        padded = np.pad(image, ((2, 2), (3, 3), (0, 0)))
        crops = (padded[i : i + 16, j : j + 24] for i in range(5) for j in range(7))
        assert any(np.array_equal(one, crop) for crop in crops)


def test_parts_of_the_image_are_resized(rng):
    image = np.full((8, 8, 1), 200, "uint8")
    image[:, :4] = 0

    def made(flips):
        change = _augmentation.resized_crop_flip
        return np.stack([change(image, draw, (8, 8), flips).numpy() for draw in draws(rng, 40)])

    plain = made(flips=False)
    assert plain.dtype == "uint8"
    assert set(plain[..., 0].reshape(40, -1).max(1)) <= {0, *range(100, 201)}
    assert len({x.tobytes() for x in plain}) > 10
    assert not (plain[:, :, 0] > plain[:, :, -1]).any()
    flipped = (made(flips=True)[:, :, 0] > plain[:, :, -1]).any()
    assert flipped


def test_flips_are_those_of_the_splits(digits):
    asymmetric = np.zeros((64, 8, 8, 1), "uint8")
    asymmetric[:, 3:5, 4:] = 100
    train = tf.data.Dataset.from_tensor_slices((asymmetric, np.zeros(64, "int64")))
    for flips in (False, True):
        made = dataclasses.replace(digits, train=train, flips=flips)
        images, _ = passes(made.batches("train", 64, training=True))[0]
        left, right = images[:, :, :2].max((1, 2, 3)), images[:, :, -2:].max((1, 2, 3))
        assert (left > right).any() == flips


def test_all_images_are_read_once_for_training(digits):
    reads = []

    def read(i):
        reads.append(int(i))
        return np.full((8, 8, 1), i, "uint8")

    train = tf.data.Dataset.range(5).map(
        lambda i: (tf.ensure_shape(tf.numpy_function(read, [i], tf.uint8), (8, 8, 1)), i)
    )
    batches = dataclasses.replace(digits, train=train).batches("train", 2, training=True)
    passes(batches, 3)
    assert sorted(reads) == list(range(5))
