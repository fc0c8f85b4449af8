"""What `training.fit` takes as data, and what it refuses before anything learns."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from eager import eagerly

import keras_adaptive as ka
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
    recipe = Recipe(learning_rate=0.1, batch_size=4, epochs=1)
    ka.training.fit(model, train, validation, recipe=recipe, seed=1, verbose=0, **how)
    return np.concatenate([w.ravel() for w in model.get_weights()])


def dataset(x, y):
    return tf.data.Dataset.from_tensor_slices((x, y)).batch(4)


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
