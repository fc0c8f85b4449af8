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
