"""Thresholds as KerasTuner searches them."""

import keras_tuner
import numpy as np

from keras_adaptive.confidence import CONFIDENCES
from keras_adaptive.evaluation import evaluate
from keras_adaptive.policy import (
    ExitPolicy,
    check_costs,
    check_labels,
    check_logits,
)
from keras_adaptive.tuning.target import target_of

OVER = 1.0  # accuracy that a search loses for twice the budget
SHORT = 20.0  # whole costs that it loses for all of the accuracy missing


class ThresholdTuner(keras_tuner.engine.base_tuner.BaseTuner):
    """Searches thresholds, temperatures and the kind of confidence on logits.

    A trial is one policy, evaluated on arrays; nothing is trained. Thresholds are tried as
    percentiles of each exit's confidence.

    Use `calibrate` unless you need what it cannot do: a score of one's own (override `score`),
    or temperatures and the kind of confidence in one search with the thresholds. For up to
    five exits `calibrate(method="optimal")` is exact, so that no search by trials finds
    better thresholds on the same grid; benchmarks/results/search.md compares them.

    Args:
        logits, labels, costs: As in `calibrate`.
        budget, accuracy: As in `calibrate`; exactly one of them.
        confidences: Sequence of kinds of confidence to choose from.
        temperatures: Boolean, whether a temperature from 0.25 to 4 is searched for each exit.
        oracle: An oracle of KerasTuner with the objective `("score", "max")`. `None`:
            Bayesian optimisation.
        max_trials: Integer, for `oracle=None`.
        seed: Integer, for `oracle=None`.
        **kwargs: Passed to KerasTuner: `directory`, `project_name`, `overwrite`.

    Raises:
        ValueError: If an argument is impossible.

    Example:

    >>> import tempfile
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 10, 200)
    >>> logits = rng.normal(size=(2, 200, 10))
    >>> logits[:, range(200), labels] += np.array([[1.0], [2.0]])
    >>> tuner = ThresholdTuner(
    ...     logits, labels, [1.0, 2.0], budget=1.5, max_trials=5, seed=0,
    ...     directory=tempfile.mkdtemp(),
    ... )
    >>> tuner.search(verbose=0)
    >>> tuner.best_policy().details["mean_cost"] <= 1.5
    True
    """

    def __init__(
        self,
        logits,
        labels,
        costs,
        *,
        budget=None,
        accuracy=None,
        confidences=("max_prob",),
        temperatures=False,
        oracle=None,
        max_trials=100,
        seed=None,
        **kwargs,
    ):
        self.target = target_of(budget, accuracy)
        unknown = [kind for kind in confidences if kind not in CONFIDENCES]
        if unknown or not confidences:
            raise ValueError(
                f"`confidences` must be some of {tuple(CONFIDENCES)}. "
                f"Received: confidences={confidences}"
            )
        self.logits = check_logits(logits)
        self.labels = check_labels(labels, self.logits)
        self.costs = check_costs(costs, self.logits)
        self.confidences = list(confidences)
        self.temperatures = temperatures
        if oracle is None:
            oracle = keras_tuner.oracles.BayesianOptimizationOracle(
                keras_tuner.Objective("score", "max"), max_trials=max_trials, seed=seed
            )
        super().__init__(oracle, **kwargs)

    def policy(self, hp):
        """Returns the policy that KerasTuner's values stand for."""
        exits = len(self.logits)
        kind = hp.Choice("confidence", self.confidences)
        scales = np.ones(exits)
        if self.temperatures:
            scales = [hp.Float(f"temperature_{k}", 0.25, 4.0, sampling="log") for k in range(exits)]
        policy = ExitPolicy(np.zeros(exits), kind, scales)
        sure = policy.confidences(self.logits)
        percentiles = [hp.Int(f"percentile_{k}", 0, 100) for k in range(exits - 1)]
        thresholds = [
            np.inf if q == 100 else np.percentile(each, q)
            for q, each in zip(percentiles, sure[:-1], strict=True)
        ]
        return ExitPolicy([*thresholds, -np.inf], kind, scales)

    def score(self, report):
        """Returns what is maximised.

        Args:
            report: What `evaluate` says of the policy.
        """
        kind, limit = self.target
        if kind == "budget":
            return report.accuracy - OVER * max(0.0, report.mean_cost / limit - 1)
        whole = float(np.mean(self.costs[-1]))
        return -report.mean_cost / whole - SHORT * max(0.0, limit - report.accuracy)

    def run_trial(self, trial, **_):
        report = evaluate(self.policy(trial.hyperparameters), self.logits, self.labels, self.costs)
        return {
            "score": self.score(report),
            "accuracy": report.accuracy,
            "mean_cost": report.mean_cost,
        }

    def best_policy(self):
        """Returns the best `ExitPolicy` tried that meets the target.

        Raises:
            ValueError: If none does.
        """
        kind, limit = self.target
        for trial in self.oracle.get_best_trials(len(self.oracle.trials)):
            policy = self.policy(trial.hyperparameters)
            report = evaluate(policy, self.logits, self.labels, self.costs)
            met = report.mean_cost <= limit if kind == "budget" else report.accuracy >= limit
            if met:
                policy.details = {
                    "method": "keras_tuner",
                    kind: limit,
                    "exact": False,
                    "mean_cost": report.mean_cost,
                    "accuracy": report.accuracy,
                }
                return policy
        raise ValueError(
            f"`{kind}` must be met by some policy tried; search longer. Received: {kind}={limit}"
        )
