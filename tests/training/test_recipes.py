import numpy as np
import pytest

from keras_adaptive.training import RECIPES, Recipe


def rates(recipe, steps=100):
    schedule = recipe.learning_rates(steps)
    return np.array([float(schedule(n)) for n in range(steps)])


def test_published_recipes():
    cifar = rates(RECIPES["cifar"])
    np.testing.assert_allclose(cifar[[0, 49, 60, 74, 80]], [0.1, 0.1, 0.01, 0.01, 0.001])
    imagenet = rates(RECIPES["imagenet"], 90)
    np.testing.assert_allclose(imagenet[[0, 29, 40, 70]], [0.1, 0.1, 0.01, 0.001])
    assert RECIPES["imagenet"].batch_size == 256


def test_short_schedules_end_near_zero():
    cosine, cycle = (rates(Recipe(schedule=name)) for name in ("cosine", "one_cycle"))
    assert cosine[0] == pytest.approx(0.1)
    assert cosine[-1] < 0.001
    assert cycle[0] < 0.01
    assert cycle.argmax() == 30
    assert cycle.max() == pytest.approx(0.1)
    assert cycle[-1] < 0.001


def test_schedules_end_low():
    steps = Recipe(learning_rate=0.1, schedule="steps").learning_rates(100)
    assert [float(steps(n)) for n in (0, 49, 60, 90)] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    assert np.isclose(float(Recipe(schedule="cosine").learning_rates(100)(100)), 0)


def test_weight_decay_is_the_papers_inside_the_momentum():
    """One weight without gradient shrinks as L2 inside the momentum makes it shrink."""
    import keras

    recipe = Recipe(weight_decay=0.01, schedule="cosine", learning_rate=0.01)
    optimizer = recipe.optimizer(10**9)
    weight = keras.Variable([1.0])
    optimizer.build([weight])
    expected, velocity = 1.0, 0.0
    for _ in range(400):
        optimizer.apply([keras.ops.zeros(1)])
        gradient = 0.01 * expected
        velocity = 0.9 * velocity - 0.01 * gradient
        expected += 0.9 * velocity - 0.01 * gradient
    assert float(weight[0]) == pytest.approx(expected, rel=0.02)
    assert expected < 0.75


def test_numpy_numbers_are_kept_as_pythons():
    given = Recipe(np.float32(0.5), np.int64(3), np.int32(16), drops=np.array([0.5]))
    assert given == Recipe(0.5, 3, 16, drops=(0.5,))
    kinds = [type(value) for value in (given.learning_rate, given.epochs, given.batch_size)]
    assert kinds == [float, int, int]


@pytest.mark.parametrize(
    "arguments", [{"epochs": 0}, {"epochs": 1.5}, {"batch_size": True}, {"momentum": np.nan}]
)
def test_rejects_impossible_numbers(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: {name}={value}"):
        Recipe(**arguments)


def test_rejects_unknown_schedule():
    with pytest.raises(ValueError, match="Received: schedule=triangle"):
        Recipe(schedule="triangle")
