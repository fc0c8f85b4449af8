"""Two runs are the same if their arguments are, by value and not by the names Keras gives."""

import functools

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_adaptive as ka
from keras_adaptive.layers import StoppingPolicy
from keras_adaptive.training import _identity as identity


def network(units=4, rate=0.3):
    x = keras.Input((4,))
    h = keras.layers.Dropout(rate)(keras.layers.Dense(units)(x))
    return ka.AdaptiveModel(x, [keras.layers.Dense(3)(h), keras.layers.Dense(3)(h)])


def returning(value):
    return lambda: value


def dataset(values, seed=None):
    data = tf.data.Dataset.from_tensor_slices(np.array(values, "float32"))
    return data.shuffle(3, seed=seed).map(lambda x: x + 1).batch(2)


SAME_AND_OTHER = [
    (lambda: np.arange(3), lambda: np.array([0, 2, 1])),
    (lambda: np.arange(3), lambda: np.arange(3.0)),
    (lambda: 0.5, lambda: 0.25),
    (lambda: float("nan"), lambda: float("inf")),
    (lambda: {"a": (1, 2)}, lambda: {"a": (1, 2, 3)}),
    (lambda: returning(1), lambda: returning(2)),
    (lambda: functools.partial(returning, 1), lambda: functools.partial(returning, 2)),
    (lambda: keras.optimizers.SGD(0.1), lambda: keras.optimizers.SGD(0.2)),
    (lambda: keras.optimizers.SGD(0.1), lambda: keras.optimizers.Adam(0.1)),
    (lambda: keras.metrics.F1Score(), lambda: keras.metrics.F1Score(threshold=0.5)),
    (lambda: keras.losses.Huber(), lambda: keras.losses.Huber(delta=2.0)),
    (lambda: ka.training.Recipe(), lambda: ka.training.Recipe(epochs=3)),
    (lambda: ka.training.GateLoss(0.1), lambda: ka.training.GateLoss(0.2)),
    (lambda: dataset([1, 2, 3]), lambda: dataset([1, 2, 4])),
    (lambda: dataset([1, 2, 3]), lambda: dataset([1, 2, 3, 4])),
]


@pytest.mark.parametrize(("make", "other"), SAME_AND_OTHER)
def test_arguments_are_told_by_value(make, other):
    assert identity.described(make()) == identity.described(make())
    assert identity.described(make()) != identity.described(other())


def test_numbers_of_numpy_and_tuples_are_those_of_python():
    assert identity.described({"a": np.int64(3), "b": (np.float64(0.5), np.bool_(True))}) == {
        "a": 3,
        "b": [0.5, True],
    }


def test_networks_are_told_by_their_layers_and_not_by_automatic_names():
    assert identity.network(network()) == identity.network(network())
    for other in (network(5), network(rate=0.4)):
        assert identity.differences(identity.network(network()), identity.network(other))
    frozen = network()
    frozen.layers[1].trainable = False
    found = identity.differences(identity.network(network()), identity.network(frozen))
    assert found == ["config.layers.1.config.trainable=false, not true"]
    models = [ka.training.add_stopping(network(), StoppingPolicy(3)) for _ in range(2)]
    assert identity.network(models[0]) == identity.network(models[1])
    optimizers = [
        identity.without_names(identity.described(ka.training.stopping_optimizer(m)), m)
        for m in models
    ]
    assert optimizers[0] == optimizers[1]


def test_teachers_are_told_by_their_weights_too():
    teacher = network()
    before = identity.described(ka.training.Distillation(teacher))
    assert identity.described(ka.training.Distillation(teacher)) == before
    teacher.set_weights([w + 1 for w in teacher.get_weights()])
    assert identity.described(ka.training.Distillation(teacher)) != before


def test_large_arrays_are_read_in_part(monkeypatch):
    monkeypatch.setattr(identity, "LARGE", 64)
    array = np.arange(1000)
    assert identity.digest(array) == identity.digest(array.copy())
    assert identity.digest(array) != identity.digest(array + 1)
