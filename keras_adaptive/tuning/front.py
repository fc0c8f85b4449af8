"""What a search has found: accuracy against cost."""

from typing import NamedTuple

import numpy as np

SHARES = (25, 50, 75, 100)  # per cent of a network's whole cost, at which every trial is measured


class Point(NamedTuple):
    """A network of a search with some thresholds.

    Attributes:
        trial: The trial's name.
        accuracy, cost: What it gives on average, for what price.
        share: Per cent of the network's whole cost that might be spent.
        values: Dictionary of the trial's knobs.
    """

    trial: str
    accuracy: float
    cost: float
    share: int
    values: dict


def trial_points(tuner):
    """Returns the points of all trials that have ended: a list of `Point`.

    Args:
        tuner: A KerasTuner tuner of an `AdaptiveHyperModel`. One that is made again with the
            same folder has all its trials.
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
    """Returns the points that no other one beats: cheaper costs accuracy, and dearer buys it.

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
    points = tuner if isinstance(tuner, list) else trial_points(tuner)
    front = []
    for point in sorted(points, key=lambda p: (p.cost, -p.accuracy)):
        if not front or point.accuracy > front[-1].accuracy:
            front.append(point)
    return front
