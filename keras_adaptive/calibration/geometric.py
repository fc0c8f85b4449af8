"""MSDNet's rule: the share of samples that leave falls geometrically from exit to exit."""

import numpy as np

from keras_adaptive._checks import finite
from keras_adaptive.calibration import _search as search

PUBLISHED_P = np.arange(1, 40) / 20
MORE_P = np.geomspace(1e-3, 1e3, 61)
BISECTIONS = 30  # until one sample more or less decides


def geometric_thresholds(confidences, p):
    """Returns MSDNet's thresholds: a share of about `p**(k+1)` of the samples leaves at exit `k`.

    The shares are `q_k = p**(k+1) / sum_j p**(j+1)`. Exit by exit, the threshold is
    the confidence of the `floor(samples * q_k)`-th most confident of the remaining samples;
    `+inf` when there are fewer. With `p < 1` most leave early, with `p > 1` late.

    Args:
        confidences: Array `(exits, samples)`.
        p: Positive number.

    Returns:
        Float array `(exits,)`; the last is `-inf`.

    Raises:
        ValueError: If `p` is not positive or the confidences are not finite.

    Example:

    >>> geometric_thresholds([[0.9, 0.5, 0.7, 0.2], [1.0, 1.0, 1.0, 1.0]], p=1)
    array([ 0.7, -inf])

    Reference:
        [MSDNet (Huang et al., 2018)](https://arxiv.org/abs/1703.09844), section 5.2,
        as the authors' code computes it.
    """
    confidences = np.asarray(confidences)
    if confidences.ndim != 2 or not confidences.size or not np.isfinite(confidences).all():
        raise ValueError(
            "`confidences` must be finite numbers of shape (exits, samples). "
            f"Received: shape {confidences.shape}"
        )
    if not finite(p, "p") > 0:
        raise ValueError(f"`p` must be a positive number. Received: p={p}")
    return shares_leaving(confidences, most_confident_first(confidences), float(p))


def most_confident_first(confidences):
    """Returns the samples of each exit but the last, ordered by falling confidence."""
    return np.argsort(-confidences[:-1], axis=1, kind="stable")


def shares_leaving(confidences, orders, p):
    """Returns `geometric_thresholds`, of checked arguments."""
    exits, samples = confidences.shape
    # p**(k+1) would overflow for many exits: only the ratio matters
    powers = np.exp(np.log(p) * (np.arange(exits) - (exits - 1 if p > 1 else 0)))
    wanted = np.floor(samples * powers / powers.sum()).astype(int)
    thresholds = np.full(exits, np.inf)
    thresholds[-1] = -np.inf
    staying = np.ones(samples, bool)
    for k, order in enumerate(orders):
        found = np.flatnonzero(staying[order])
        if 0 < wanted[k] <= len(found):
            thresholds[k] = confidences[k, order[found[wanted[k] - 1]]]
            staying &= confidences[k] < thresholds[k]
    return thresholds


def best_geometric(problem, target):
    """Returns the geometric thresholds that meet the target best, or `None`.

    For a budget that is the policy of greatest cost within it (labels are not looked
    at); for an accuracy, the cheapest that reaches it.
    """
    confidences = problem.confidences
    orders = most_confident_first(confidences)
    best = (None, None)

    def cost_of(thresholds):
        nonlocal best
        right, cost = problem.outcome(thresholds)
        if target.rank(right, cost) is not None:
            rank = (cost if target.kind == "budget" else -cost), right
            if best[0] is None or rank > best[0]:
                best = rank, thresholds
        return cost

    cost_of(np.append(confidences[:-1].min(axis=1), -np.inf))  # everybody at the first
    cost_of(search.always_last(len(confidences)))
    logs = np.sort(np.log(np.concatenate([PUBLISHED_P, MORE_P])))
    costs = np.array([cost_of(shares_leaving(confidences, orders, np.exp(x))) for x in logs])
    if target.kind == "budget":
        affordable = np.flatnonzero(costs <= target.limit)
        if len(affordable) and affordable[-1] + 1 < len(logs):
            low, high = logs[affordable[-1]], logs[affordable[-1] + 1]
            for _ in range(BISECTIONS):
                middle = (low + high) / 2
                cost = cost_of(shares_leaving(confidences, orders, np.exp(middle)))
                low, high = (middle, high) if cost <= target.limit else (low, middle)
    return best[1]
