"""Weights of the exits in the loss, from a distribution of budgets."""

import numpy as np

from keras_adaptive.evaluation import budget_probabilities


def exit_weights(distribution, costs):
    """Returns the weight of each exit in the loss, with mean 1.

    The budget `B` of a sample is drawn from a distribution, and the answer is that of the
    last exit with `cost <= B`; so exit `k` counts `P(cost_k <= B < cost_{k+1})`. With
    these weights the loss is the expected loss of answering when the time is up.

    Args:
        distribution: `"uniform"`: 1 each. Or a frozen distribution of scipy (anything with
            a method `cdf`), in the unit of `costs`: `scipy.stats.uniform(0, 9e7)`,
            `scipy.stats.expon(scale=4e7)`, `scipy.stats.norm(5e7, 1e7)`. Or a sequence
            of one number per exit.
        costs: Array `(exits,)`, as `model.exit_costs()` gives it.

    Returns:
        Float array `(exits,)`.

    Raises:
        ValueError: If no exit is ever reached, or a sequence does not fit.

    Example:

    >>> from scipy import stats
    >>> exit_weights(stats.uniform(0, 4), [1.0, 2.0]).round(3).tolist()
    [0.667, 1.333]

    Reference:
        [MSDNet (Huang et al., 2018)](https://arxiv.org/abs/1703.09844), sections 3 and 5.1.
    """
    costs = np.asarray(costs, "float64")
    if isinstance(distribution, str):
        if distribution != "uniform":
            raise ValueError(
                '`distribution` must be "uniform", a frozen distribution of scipy, or one number '
                f"per exit. Received: distribution={distribution}"
            )
        return np.ones(len(costs))
    if hasattr(distribution, "cdf"):
        _, shares = budget_probabilities(distribution, costs)
    else:
        shares = np.asarray(distribution, "float64")
    if shares.shape != costs.shape or not (shares >= 0).all() or not shares.sum() > 0:
        raise ValueError(
            f"`distribution` must give {len(costs)} weights of at least 0, not all 0. "
            f"Received: weights={shares.tolist()}"
        )
    return shares * len(shares) / shares.sum()
