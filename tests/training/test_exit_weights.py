import numpy as np
import pytest
from scipy import stats

from keras_adaptive.evaluation import anytime_accuracy
from keras_adaptive.training import exit_weights

COSTS = np.array([1.0, 2.0, 5.0])


@pytest.mark.parametrize(
    "distribution", [stats.uniform(0, 6), stats.expon(scale=2), stats.norm(3, 1)]
)
def test_weights_are_the_chances_of_answering_there(distribution):
    weights = exit_weights(distribution, COSTS)
    assert weights.mean() == pytest.approx(1)
    for k, weight in enumerate(weights):  # the anytime accuracy of an exit alone
        only = np.eye(3)[k]
        chance = anytime_accuracy(only, COSTS, distribution)
        reached = anytime_accuracy(np.ones(3), COSTS, distribution)
        assert weight == pytest.approx(3 * chance / reached)


def test_uniform_and_given_weights():
    assert exit_weights("uniform", COSTS).tolist() == [1, 1, 1]
    assert exit_weights([0, 1, 1], COSTS).tolist() == [0, 1.5, 1.5]


@pytest.mark.parametrize("distribution", ["normal", [1, 2], [0, 0, 0], [1, -1, 1]])
def test_rejects_impossible_distributions(distribution):
    with pytest.raises(ValueError, match="`distribution` must"):
        exit_weights(distribution, COSTS)


def test_rejects_budgets_that_reach_no_exit():
    with pytest.raises(ValueError, match="not all 0"):
        exit_weights(stats.uniform(0, 0.5), COSTS)
