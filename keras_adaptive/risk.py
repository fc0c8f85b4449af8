"""Thresholds with a promise: the risk is bounded with a stated probability."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from keras_adaptive.thresholds import Problem, first_exit, front

METRICS = ("accuracy_drop", "disagreement", "error")
BOUNDS = ("binomial", "betting")


@dataclass(frozen=True)
class RiskControl:
    """A promise to keep: on new data of the same kind, the risk is at most `level`.

    The calibration data is cut in two halves. On the first, the cheapest policies for
    every amount of risk are found: a path from the safe one (always the last exit) to
    the cheapest. On the second, they are tested in that order, each against "its risk is
    above `level`", until one fails; the last that passed is kept. Because the order is
    fixed before the second half is looked at, and testing stops at the first failure,
    the promise holds with probability `1 - delta` over the draw of the calibration data,
    for all thresholds together and whatever the network (fixed-sequence testing, as in
    Learn then Test).

    It does not hold for data of another kind, nor if the data trained the network. It is a
    promise about the mean over new samples, not about each class or sample. Take fresh
    data for every promise.

    How many samples: with no failure at all among `n` tested samples the binomial test
    passes from `n >= log(delta) / log(1 - level)`: 299 for 1 % at delta 0.05, and
    calibration needs twice that, since half of it is tested. To use most of the level
    takes several times more.

    Args:
        metric: The risk. `"accuracy_drop"`: share of samples that the last exit answers
            rightly and the chosen exit wrongly, which bounds the accuracy lost;
            `"disagreement"`: share answered otherwise than by the last exit, for which no
            labels are needed; `"error"`: share answered wrongly.
        level: Number between 0 and 1, the highest risk allowed.
        delta: Number between 0 and 1, the probability that the promise is broken.
        bound: `"binomial"`: exact. `"betting"`: for `"accuracy_drop"` only; tests the
            accuracy lost itself, where samples that only the chosen exit answers rightly
            count against those that only the last does (Waudby-Smith and Ramdas). It
            allows more where leaving early often helps.
        steps: Integer, how many policies the path has at most.
        seed: Integer, of the cut in halves.

    Example:

    >>> RiskControl("disagreement", level=0.05).samples_needed
    118

    References:
        [Learn then Test (Angelopoulos et al., 2021)](https://arxiv.org/abs/2110.01052);
        [Fast yet Safe: Early-Exiting with Risk Control (Jazbec et al., 2024)](
        https://arxiv.org/abs/2405.20915), which promises for one shared threshold;
        [Estimating means of bounded random variables by betting
        (Waudby-Smith and Ramdas, 2020)](https://arxiv.org/abs/2010.09686).
    """

    metric: str = "accuracy_drop"
    level: float = 0.01
    delta: float = 0.05
    bound: str = "binomial"
    steps: int = 100
    seed: int = 0

    def __post_init__(self):
        for name, choices in (("metric", METRICS), ("bound", BOUNDS)):
            if getattr(self, name) not in choices:
                raise ValueError(
                    f"`{name}` must be one of {choices}. Received: {name}={getattr(self, name)}"
                )
        for name in ("level", "delta"):
            if not 0 < getattr(self, name) < 1:
                raise ValueError(
                    f"`{name}` must be between 0 and 1. Received: {name}={getattr(self, name)}"
                )
        if not isinstance(self.steps, int) or self.steps < 1:
            raise ValueError(
                f"`steps` must be an integer of at least 1. Received: steps={self.steps}"
            )
        if self.bound == "betting" and self.metric != "accuracy_drop":
            raise ValueError(
                '`bound="betting"` is for the metric "accuracy_drop". '
                f"Received: metric={self.metric}"
            )

    @property
    def samples_needed(self):
        """The fewest calibration samples with which anything can pass (binomial test)."""
        return 2 * int(np.ceil(np.log(self.delta) / np.log(1 - self.level)))

    def losses(self, chosen_right, last_right, agrees):
        """Returns each sample's loss, whose mean is the risk.

        Args:
            chosen_right, last_right: Boolean arrays, whether the chosen and the last exit
                answer rightly.
            agrees: Boolean array, whether both give the same answer.
        """
        if self.metric == "disagreement":
            return (~agrees).astype(int)
        if self.metric == "error":
            return (~chosen_right).astype(int)
        signed = last_right.astype(int) - chosen_right.astype(int)
        return signed if self.bound == "betting" else np.maximum(signed, 0)

    def p_value(self, losses):
        """Returns the probability of losses this small if the risk were above the level."""
        if self.bound == "binomial":
            return float(stats.binom.cdf(losses.sum(), len(losses), self.level))
        return betting_p_value((losses + 1) / 2, (self.level + 1) / 2, self.delta)


def betting_p_value(values, mean, delta):
    """Returns a valid p-value for "the mean of these values in [0, 1] is at least `mean`".

    It is one over the greatest wealth of a gambler who bets, value after value, that the
    next one lies below `mean`; if the mean is not below, wealth `1 / p` is reached with
    probability at most `p`.

    Args:
        values: Array of numbers from 0 to 1, in an order that does not depend on them.
        mean: Number between 0 and 1.
        delta: Number, the p-value the stakes are laid for.
    """
    values = np.asarray(values, "float64")
    count = np.arange(1, len(values) + 1)
    means = (0.5 + np.cumsum(values)) / (count + 1)
    variances = (0.25 + np.cumsum((values - means) ** 2)) / (count + 1)
    known = np.append(0.25, variances[:-1])  # before each value is seen
    stakes = np.minimum(0.75 / (1 - mean), np.sqrt(2 * np.log(1 / delta) / (len(values) * known)))
    wealth = np.cumsum(np.log1p(-stakes * (values - mean)))
    return float(min(1.0, np.exp(-wealth.max())))


def controlled_thresholds(risk, confidences, right, agrees, costs):
    """Finds the cheapest thresholds that keep the promise.

    Args:
        risk: A `RiskControl`.
        confidences: `(exits, samples)`.
        right: Boolean `(exits, samples)`, or `None` for `"disagreement"`.
        agrees: Boolean `(exits, samples)`, whether an exit answers as the last does.
        costs: `(exits, samples)`.

    Returns:
        Tuple of thresholds `(exits,)` and a dictionary that says what is promised.
    """
    right = agrees if right is None else right
    order = np.random.default_rng(risk.seed).permutation(confidences.shape[1])
    first, second = order[: len(order) // 2], order[len(order) // 2 :]
    path = _path(risk, *(a[:, first] for a in (confidences, right, agrees, costs)))
    return fixed_sequence_test(risk, path, *(a[:, second] for a in (confidences, right, agrees)))


def fixed_sequence_test(risk, path, confidences, right, agrees):
    """Tests policies one after the other until one fails; keeps the last that passed.

    Args:
        risk: A `RiskControl`.
        path: List of thresholds `(exits,)`, the safe ones first, chosen without a look at
            this data.
        confidences, right, agrees: As in `controlled_thresholds`.

    Returns:
        As `controlled_thresholds`; the first of the path if none passed.
    """
    samples = np.arange(confidences.shape[1])
    kept, found = path[0], None
    for thresholds in path:
        exits = first_exit(confidences, thresholds)
        losses = risk.losses(right[exits, samples], right[-1], agrees[exits, samples])
        p_value = risk.p_value(losses)
        if p_value > risk.delta:
            break
        kept, found = thresholds, {"risk": float(losses.mean()), "p_value": p_value}
    return kept, {
        "metric": risk.metric,
        "level": risk.level,
        "delta": risk.delta,
        "bound": risk.bound,
        "tested_samples": len(samples),
        "policies_on_the_path": len(path),
        "passed": found is not None,
        **(found or {"risk": None, "p_value": None}),
    }


def _path(risk, confidences, right, agrees, costs):
    """Returns thresholds from safe to risky: the cheapest for each amount of risk."""
    losses = np.stack(
        [risk.losses(right[k], right[-1], agrees[k]) for k in range(len(confidences))]
    )
    problem = Problem(confidences, 1 - losses, costs)
    found, _ = front(problem)
    points = found.right[::-1]  # the fewest losses first
    if len(points) > risk.steps - 1:
        places = np.linspace(0, len(points) - 1, max(risk.steps - 1, 1))
        points = points[np.unique(np.round(places).astype(int))]
    safe = np.append(np.full(len(confidences) - 1, np.inf), -np.inf)
    return [safe, *(found.thresholds(point) for point in points)]
