"""Accuracy against cost: what a policy, or a range of budgets, would give.

Arrays in, numbers out. Evaluate on data on which neither the network was trained nor
the thresholds were chosen.
"""

from typing import NamedTuple

import numpy as np

from keras_adaptive.calibration import (
    ExitPolicy,
    calibrate,
    check_costs,
    check_labels,
    check_logits,
    mean_cost,
)


class Report(NamedTuple):
    """What a policy does on some data.

    Attributes:
        accuracy: Share of samples answered rightly at the exit they leave at.
        mean_cost: Mean price a sample.
        worst_cost: The highest price any sample paid.
        exit_fractions: `(exits,)`, share of samples that leave at each exit.
        exit_accuracies: `(exits,)`, share of all samples each exit alone would answer
            rightly.
    """

    accuracy: float
    mean_cost: float
    worst_cost: float
    exit_fractions: np.ndarray
    exit_accuracies: np.ndarray


class Curve(NamedTuple):
    """Accuracy against cost, point by point, beside the exits used alone.

    Attributes:
        costs: `(points,)`, mean cost, ascending.
        accuracies: `(points,)`.
        policies: List of `ExitPolicy`, one a point.
        exit_costs: `(exits,)`, mean cost of always leaving at that exit.
        exit_accuracies: `(exits,)`.
    """

    costs: np.ndarray
    accuracies: np.ndarray
    policies: list
    exit_costs: np.ndarray
    exit_accuracies: np.ndarray


def evaluate(policy, logits, labels, costs):
    """Applies a policy to logits and says how accurate and how expensive it is.

    Args:
        policy: An `ExitPolicy`.
        logits: Array `(exits, samples, classes)`.
        labels: Integer array `(samples,)`.
        costs: Array `(exits,)` or `(exits, samples)`.

    Returns:
        A `Report`.

    Example:

    >>> logits = [[[0, 9], [0, 1]], [[0, 9], [2, 0]]]
    >>> report = evaluate(ExitPolicy([0.9, 0]), logits, [1, 0], costs=[1.0, 3.0])
    >>> report.accuracy, report.mean_cost, report.worst_cost
    (1.0, 2.0, 3.0)
    >>> report.exit_accuracies.tolist()
    [0.5, 1.0]
    """
    if not isinstance(policy, ExitPolicy):
        raise TypeError(f"`policy` must be an ExitPolicy. Received: policy={policy!r}")
    logits = check_logits(logits)
    labels = check_labels(labels, logits)
    costs = check_costs(costs, logits)
    exits = policy.decide(logits, costs)
    right = logits.argmax(axis=-1) == labels
    paid = costs[exits] if costs.ndim == 1 else np.take_along_axis(costs, exits[None], axis=0)
    return Report(
        accuracy=float(np.take_along_axis(right, exits[None], axis=0).mean()),
        mean_cost=mean_cost(exits, costs),
        worst_cost=float(paid.max()),
        exit_fractions=np.bincount(exits, minlength=len(logits)) / len(labels),
        exit_accuracies=right.mean(axis=1),
    )


def accuracy_cost_curve(logits, labels, costs, *, points=30, test=None, **how):
    """Calibrates for a range of budgets and evaluates each policy.

    The budgets go in equal steps from the cost of the first exit to that of the last.

    Args:
        logits: Array `(exits, samples, classes)`, to choose thresholds on.
        labels: Integer array `(samples,)`.
        costs: Array `(exits,)` or `(exits, samples)`.
        points: Integer, the number of budgets. At least 2.
        test: Tuple `(logits, labels, costs)` of other data to report on. `None`: the
            same data, which flatters the curve a little.
        **how: Passed to `calibrate`: `method=`, `confidence=` and others.

    Returns:
        A `Curve`.
    """
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise ValueError(f"`points` must be an integer of at least 2. Received: points={points}")
    logits = check_logits(logits)
    costs = check_costs(costs, logits)
    per_exit = costs.reshape(len(costs), -1).mean(axis=1)
    policies = [
        calibrate(logits, labels, costs, budget=budget, **how)
        for budget in np.linspace(per_exit[0], per_exit[-1], points)
    ]
    test_logits, test_labels, test_costs = (logits, labels, costs) if test is None else test
    reports = [evaluate(policy, test_logits, test_labels, test_costs) for policy in policies]
    order = np.argsort([report.mean_cost for report in reports], kind="stable")
    return Curve(
        costs=np.array([reports[i].mean_cost for i in order]),
        accuracies=np.array([reports[i].accuracy for i in order]),
        policies=[policies[i] for i in order],
        exit_costs=np.asarray(test_costs, "float64").reshape(len(costs), -1).mean(axis=1),
        exit_accuracies=reports[0].exit_accuracies,
    )
