"""Results of a search: accuracy and cost of every trial, and their Pareto front."""

from typing import NamedTuple

import numpy as np

SHARES = (25, 50, 75, 100)  # percent of a network's whole cost at which every trial is measured


class Point(NamedTuple):
    """Accuracy and cost of one trial at one budget.

    Attributes:
        trial: String, the trial's name.
        accuracy: Number from 0 to 1.
        cost: Number, the mean cost per sample.
        share: Integer, the budget in percent of the network's whole cost.
        values: Dictionary: name of a hyperparameter of the trial to its value.
    """

    trial: str
    accuracy: float
    cost: float
    share: int
    values: dict


def trial_points(tuner):
    """Returns the points of all completed trials.

    Args:
        tuner: A KerasTuner tuner of an `AdaptiveHyperModel`. One that is made again with the
            same folder has all its trials.

    Returns:
        List of `Point`, one per trial and budget.
    """
    points = []
    for name, trial in sorted(tuner.oracle.trials.items()):
        if not trial.metrics.exists(f"cost_{SHARES[0]}"):
            continue
        for share in SHARES:
            accuracy, cost = (
                float(np.mean(trial.metrics.get_history(f"{metric}_{share}")[-1].value))
                for metric in ("accuracy", "cost")
            )
            points.append(Point(name, accuracy, cost, share, dict(trial.hyperparameters.values)))
    return points


def pareto_front(tuner):
    """Returns the Pareto front: points for which no other is both cheaper and more accurate.

    Args:
        tuner: As in `trial_points`; or a list of `Point`.

    Returns:
        List of `Point` of rising cost and accuracy.

    Example:

    >>> found = [("a", 0.5, 1), ("b", 0.4, 2), ("c", 0.6, 3)]
    >>> points = [Point(trial, accuracy, cost, 100, {}) for trial, accuracy, cost in found]
    >>> [point.trial for point in pareto_front(points)]
    ['a', 'c']
    """
    points = tuner if isinstance(tuner, (list, tuple)) else trial_points(tuner)
    front = []
    for point in sorted(points, key=lambda p: (p.cost, -p.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front
