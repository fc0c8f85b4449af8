"""What `training.fit` takes as data, and what it refuses before anything learns."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from eager import eagerly

import keras_adaptive as ka
from keras_adaptive.training import _training_data as training_data
from keras_adaptive.training.recipes import Recipe

eagerly = pytest.fixture(autouse=True)(eagerly)

X = np.arange(24, dtype="float32").reshape(6, 4) / 24
M = X[:, :2]
Y = np.array([0, 1, 2, 0, 1, 2])
W = np.array([1.0, 2.0, 3.0, 1.0, 2.0, 3.0])


def two_inputs(as_dictionary=False):
    """A network of two exits, whose second input comes first in the alphabet."""
    keras.utils.set_random_seed(0)
    x, more = keras.Input((4,), name="picture"), keras.Input((2,), name="numbers")
    first = keras.layers.Dense(3, name="exit_0")(x)
    both = keras.layers.Concatenate()([x, more])
    inputs = {"picture": x, "numbers": more} if as_dictionary else [x, more]
    return ka.AdaptiveModel(inputs, [first, keras.layers.Dense(3, name="exit_1")(both)])


def net():
    keras.utils.set_random_seed(0)
    x = keras.Input((4,))
    return ka.AdaptiveModel(x, [keras.layers.Dense(3, name=f"exit_{k}")(x) for k in range(2)])


def weights_after(model, train, validation=None, **how):
    recipe = Recipe(learning_rate=0.1, batch_size=4)
    how = {"epochs": 1, "recipe": recipe, "seed": 1, "verbose": 0, **how}
    ka.training.fit(model, train, validation, **how)
    return np.concatenate([w.ravel() for w in model.get_weights()])


def dataset(x, y, size=4):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(size)


class Batches(keras.utils.PyDataset):
    """Batches in memory, which counts the epochs that have begun."""

    def __init__(self, batches):
        super().__init__()
        self.batches, self.begun = batches, 0

    def __len__(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]

    def on_epoch_begin(self):
        self.begun += 1


@pytest.mark.parametrize(
    ("train", "same"),
    [
        ((X, [Y, Y]), (X, (Y, Y))),
        ((X, Y, [W, W]), (X, Y, (W, W))),
        ([X, Y.tolist(), W.tolist()], (X, Y, W)),
        ((X, [Y.tolist(), Y.tolist()]), (X, Y)),
        ((X, {"exit_0": Y.tolist(), "exit_1": Y}), (X, Y)),
    ],
)
def test_lists_of_labels_and_weights_are_taken_as_tuples_are(train, same):
    batches = iter([train])
    np.testing.assert_array_equal(weights_after(net(), train, batches), weights_after(net(), same))


def test_lists_of_inputs_are_taken_as_tuples_are():
    expected = weights_after(two_inputs(), ((X, M), Y))
    found = weights_after(two_inputs(), ([X, M], Y), iter([([X, M], Y)]))
    np.testing.assert_array_equal(found, expected)


def test_batches_of_the_user_may_hold_lists():
    lists, tuples = Batches([[[X, M], [Y, Y]]] * 2), Batches([((X, M), (Y, Y))] * 2)
    expected = weights_after(two_inputs(), tuples)
    np.testing.assert_array_equal(weights_after(two_inputs(), lists, lists), expected)
    assert lists.begun == 2 * tuples.begun > 0  # in training and validation


@pytest.mark.parametrize("as_dictionary", [False, True])
def test_inputs_are_found_by_name(as_dictionary):
    named, wrong = {"numbers": M, "picture": X}, {"numbers": M, "image": X}
    model = two_inputs(as_dictionary)
    found = weights_after(model, (named, Y), (named, Y))
    as_list = [X, M] if not as_dictionary else [M, X]  # Keras sorts the keys
    expected = weights_after(two_inputs(as_dictionary), (as_list, Y))
    np.testing.assert_array_equal(found, expected)
    for data in ((wrong, Y), Batches([(wrong, Y)]), dataset(wrong, Y)):
        with pytest.raises(
            ValueError, match="inputs of `train` must .*Received: the keys .*'image'"
        ):
            ka.training.fit(model, data, epochs=1)
        with pytest.raises(ValueError, match="inputs of `validation` must be a dictionary"):
            ka.training.fit(model, (named, Y), data, epochs=1)


def test_data_sets_without_batches_are_refused():
    empty, model = dataset(X[:0], Y[:0]), net()
    with pytest.raises(
        ValueError, match="`train` must have at least one batch. Received: an empty"
    ):
        ka.training.fit(model, empty, epochs=1)
    with pytest.raises(ValueError, match="`validation` must have at least one batch"):
        ka.training.fit(model, (X, Y), empty, epochs=1)


# ---- weights


CLASSES = {1: 2.0, 2: 3.0}  # which gives the sample weights W


@pytest.mark.parametrize(
    "train",
    [
        (X, Y),
        (X, Y[:, None]),
        (X, [Y, Y]),
        (X, {"exit_0": Y, "exit_1": Y}),
        (X, Y, W / W),
        (X, Y, [W / W, W / W]),
    ],
)
def test_weights_of_classes_are_weights_of_samples(train):
    expected = weights_after(net(), (X, Y, W))
    found = weights_after(net(), train, class_weight=CLASSES)
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(weights_after(net(), (X, Y)) - expected).max() > 1e-3


@pytest.mark.parametrize("regime", ["joint", "disjoint"])
def test_weights_of_classes_in_batches(regime):
    how = {"regime": regime, "epochs": 2}
    expected = weights_after(net(), Batches([(X, Y, W)]), **how)
    for train in (Batches([(X, Y)]), dataset(X, Y, 6)):
        found = weights_after(net(), train, **how, class_weight={np.int64(1): 2, 2: 3})
        np.testing.assert_allclose(found, expected, atol=1e-6)


def test_weights_of_classes_for_one_hot_labels_maps_and_pixels_without_a_label():
    weigh = training_data.ClassWeights(CLASSES, net())
    np.testing.assert_array_equal(weigh((X, np.eye(3)[Y]))[2], W)
    np.testing.assert_array_equal(weigh((X, Y, W))[2], W * W)
    x = keras.Input((1, 2, 4))
    maps = ka.AdaptiveModel(x, [keras.layers.Dense(3, name=f"exit_{k}")(x) for k in range(2)])
    weigh = training_data.ClassWeights(CLASSES, maps)
    labels = np.array([[[0, -1]], [[2, 255]]])
    np.testing.assert_array_equal(weigh((None, labels))[2], [[[1, 1]], [[3, 1]]])
    found = weigh((None, labels, np.array([1.0, 2.0])))[2]
    np.testing.assert_array_equal(found, [[[1, 1]], [[6, 2]]])


@pytest.mark.parametrize(
    "given", [{3: 1.0}, {-1: 1.0}, {"cat": 1.0}, {0: -1.0}, {0: np.nan}, {}, [1, 2, 3], "balanced"]
)
def test_impossible_weights_of_classes_are_refused(given):
    with pytest.raises(ValueError, match="`class_weight` must be a dictionary from integers from"):
        ka.training.fit(net(), (X, Y), epochs=1, class_weight=given)


def test_data_sets_that_keras_cannot_weigh_are_refused():
    weighted = dataset(X, Y).map(lambda x, y: (x, y, tf.ones_like(y)))
    for train in (weighted, dataset(X, (Y, Y))):
        with pytest.raises(ValueError, match="`class_weight` .* Give sample weights instead"):
            ka.training.fit(net(), train, epochs=1, class_weight=CLASSES)


def test_weights_of_classes_make_another_run(tmp_path):
    weights_after(net(), (X, Y), backup_dir=tmp_path, class_weight={2: 3, 1: 2.0})
    weights_after(net(), (X, Y), backup_dir=tmp_path, class_weight=CLASSES)
    with pytest.raises(ValueError, match="`backup_dir` must be a new folder.*class_weight"):
        weights_after(net(), (X, Y), backup_dir=tmp_path)


@pytest.mark.parametrize(
    ("weights", "message"),
    [
        (W[:5], "one row per sample"),
        (W * np.nan, "The sample weights of `train` must be finite numbers. Received: NaN"),
        (W.astype(str), "must be finite numbers. Received: weights of type"),
        ([W, W, W], "the sample weights of `train` must be one for all exits"),
    ],
)
def test_impossible_weights_of_samples_are_refused(weights, message):
    with pytest.raises(ValueError, match=message):
        ka.training.fit(net(), (X, Y, weights), epochs=1)
