"""MSDNet's rule: the share of samples that leave falls geometrically from exit to exit."""

import numpy as np
from scipy import optimize

from keras_adaptive._checks import check_confidences, finite, numbers
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
    confidences = check_confidences(confidences)
    if not finite(p, "p") > 0:
        raise ValueError(f"`p` must be a positive number. Received: p={p}")
    return shares_leaving(confidences, most_confident_first(confidences), float(p))


def geometric_q(costs, budget):
    """Returns the `q` with which the shares `z (1-q)**k q` of the exits spend a budget.

    It solves `sum_k z (1-q)**k q C_k = B`, as if exactly these shares left at the exits.
    `calibrate(method="geometric", q=...)` then chooses the thresholds. With `budget=` in its
    place, `calibrate` goes by what the thresholds really spend.

    Args:
        costs: Array `(exits,)`, rising.
        budget: Number, between the cost of the first exit and the mean of all costs, where `q`
            is 1 and 0.

    Returns:
        Number between 0 and 1.

    Raises:
        ValueError: If there is no such `q`.

    Example:

    >>> round(geometric_q([1.0, 4.0], 2.0), 6)   # shares of 2/3 and 1/3
    0.5

    Reference:
        [MSDNet (Huang et al., 2018)](https://arxiv.org/abs/1703.09844), equations 2 and 3.
    """
    costs, budget = numbers(costs, "costs"), finite(budget, "budget")
    if costs.size < 2 or not np.isfinite(costs).all() or not (np.diff(costs) > 0).all():
        raise ValueError(
            f"`costs` must be rising numbers, one per exit, at least two. Received: costs={costs}"
        )
    if not costs[0] < budget < costs.mean():
        raise ValueError(
            f"`budget` must be above the cost of the first exit and below the mean of all, "
            f"{costs[0]:.10g} and {costs.mean():.10g}. Received: budget={budget:.10g}"
        )

    def over(q):
        shares = (1 - q) ** np.arange(len(costs))
        return shares @ costs / shares.sum() - budget

    return float(optimize.brentq(over, 0.0, 1.0))


def most_confident_first(confidences):
    """Returns the samples of each exit but the last, ordered by falling confidence."""
    return np.argsort(-confidences[:-1], axis=1, kind="stable")


def shares_leaving(confidences, orders, p):
    """Returns `geometric_thresholds`, of checked arguments."""
    return _thresholds(confidences, orders, _leaving(*confidences.shape, p))


def _leaving(exits, samples, p):
    """Returns how many samples are wanted to leave at each exit."""
    # p**(k+1) would overflow for many exits: only the ratio matters
    powers = np.exp(np.log(p) * (np.arange(exits) - (exits - 1 if p > 1 else 0)))
    return np.floor(samples * powers / powers.sum()).astype(int)


def _thresholds(confidences, orders, leaving):
    exits, samples = confidences.shape
    thresholds = search.always_last(exits)
    staying = np.ones(samples, bool)
    for k, order in enumerate(orders):
        found = np.flatnonzero(staying[order])
        if 0 < leaving[k] <= len(found):
            thresholds[k] = confidences[k, order[found[leaving[k] - 1]]]
            staying &= confidences[k] < thresholds[k]
    return thresholds


def best_geometric(problem, targets):
    """Returns the geometric thresholds that meet each target best, or `None`.

    For a budget that is the policy of greatest cost within it (labels are not looked
    at); for an accuracy, the cheapest that reaches it.
    """
    confidences = problem.confidences
    orders = most_confident_first(confidences)
    known = {}

    def attempt(log_p):
        """Returns thresholds, right answers and cost; many `p` let the same number leave."""
        leaving = _leaving(*confidences.shape, np.exp(log_p))
        key = leaving.tobytes()
        if key not in known:
            thresholds = _thresholds(confidences, orders, leaving)
            known[key] = (thresholds, *problem.outcome(thresholds))
        return known[key]

    ends = (  # every sample leaves at the first exit, or at the last
        np.append(confidences[:-1].min(axis=1), -np.inf),
        search.always_last(len(confidences)),
    )
    ends = [(thresholds, *problem.outcome(thresholds)) for thresholds in ends]
    logs = np.sort(np.log(np.concatenate([PUBLISHED_P, MORE_P])))
    swept = [attempt(x) for x in logs]
    best = []
    for target in targets:
        attempts = [*ends, *swept]
        if target.kind == "budget":
            attempts += _bisected(target, attempt, logs, [cost for _, _, cost in swept])
        ranked = [
            ((cost if target.kind == "budget" else -cost, right), -i)
            for i, (_, right, cost) in enumerate(attempts)
            if target.rank(right, cost) is not None
        ]
        best.append(attempts[-max(ranked)[1]][0] if ranked else None)
    return best


def _bisected(target, attempt, logs, costs):
    """Returns attempts between the last affordable one of the sweep and the next."""
    affordable = np.flatnonzero(np.array(costs) <= target.limit)
    if not len(affordable) or affordable[-1] + 1 == len(logs):
        return []
    low, high = logs[affordable[-1]], logs[affordable[-1] + 1]
    attempts = []
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        attempts.append(attempt(middle))
        low, high = (middle, high) if attempts[-1][2] <= target.limit else (low, middle)
    return attempts
