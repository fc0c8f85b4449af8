"""Risk control: thresholds whose risk is bounded with a chosen probability."""

from dataclasses import dataclass

import numpy as np
from scipy import stats

from keras_adaptive._checks import check_choice, finite, integer
from keras_adaptive.calibration._search import Problem, front
from keras_adaptive.policy.exit_policy import always_last, first_exit

METRICS = ("accuracy_drop", "disagreement", "error")
BOUNDS = ("binomial", "betting")
MOST_SAMPLES = 10_000_000  # that are tested


class NoSavingWarning(UserWarning):
    """Given where no policy that leaves early has the guarantee asked for: nothing is saved."""


@dataclass(frozen=True)
class RiskControl:
    """A guarantee for calibration: on new data of the same kind, the risk is at most `level`.

    The calibration data is split in two halves. On the first, the cheapest policies for
    every amount of risk are found: a path from the safe one (always the last exit) to
    the cheapest. On the second, they are tested in that order, each against "its risk is
    above `level`", until one fails; the last that passed is chosen. Because the order is
    fixed before the second half is used, and testing stops at the first failure, the
    guarantee holds with probability `1 - delta` over the draw of the calibration data,
    for all thresholds together and for any network (fixed-sequence testing, as in
    Learn then Test).

    It does not hold for data of another kind, nor for calibration data that the network
    was trained on. It is a guarantee for the mean over new samples, not for each class or
    sample. Use fresh data for every guarantee.

    How many samples: with no failure at all among `n` tested samples the binomial test
    passes from `n >= log(delta) / log(1 - level)`: 299 for 1 % at delta 0.05, and
    calibration needs twice that, since half of it is tested (`samples_needed`). Making use
    of most of the level takes several times more.

    Args:
        metric: The risk. `"accuracy_drop"`: share of samples for which the last exit is
            right and the chosen exit wrong, which bounds the accuracy lost;
            `"disagreement"`: share for which the chosen and the last exit differ, which needs
            no labels; `"error"`: share for which the chosen exit is wrong.
        level: Number between 0 and 1, the highest risk allowed.
        delta: Number between 0 and 1, the probability that the guarantee is violated.
        bound: `"binomial"`: exact. `"betting"`: for `"accuracy_drop"` only; tests the
            accuracy lost itself, where samples for which only the chosen exit is right
            offset those for which only the last is (Waudby-Smith and Ramdas). It allows
            more where leaving early often helps.
        steps: Integer, how many policies the path has at most.
        seed: Integer, of the split in halves.

    Raises:
        ValueError: If an argument is none of these.

    Example:

    >>> RiskControl("disagreement", level=0.05).samples_needed
    117

    References:
        [Learn then Test (Angelopoulos et al., 2021)](https://arxiv.org/abs/2110.01052);
        [Fast yet Safe: Early-Exiting with Risk Control (Jazbec et al., 2024)](
        https://arxiv.org/abs/2405.20915), which bounds the risk for one shared threshold;
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
        check_choice(METRICS, metric=self.metric)
        check_choice(BOUNDS, bound=self.bound)
        for name in ("level", "delta"):
            value = finite(getattr(self, name), name)
            if not 0 < value < 1:
                raise ValueError(f"`{name}` must be between 0 and 1. Received: {name}={value}")
            object.__setattr__(self, name, value)
        for name, least in (("steps", 1), ("seed", 0)):
            object.__setattr__(self, name, integer(name, getattr(self, name), least))
        if self.bound == "betting" and self.metric != "accuracy_drop":
            raise ValueError(
                '`bound="betting"` is for the metric "accuracy_drop". '
                f"Received: metric={self.metric}"
            )

    @property
    def samples_needed(self):
        """The fewest calibration samples with which a policy can pass, without a failure."""
        return self.samples_for(np.zeros(1, int))

    def samples_for(self, losses):
        """Returns about how many calibration samples a policy needs to pass.

        Args:
            losses: Array, the policy's losses on some samples; more are taken to be like them.

        Returns:
            Integer. `None`: no number would do, or none up to 20 million.
        """
        losses = np.asarray(losses)
        mean = losses.mean()
        if mean >= self.level:
            return None

        def passes(number):
            if self.bound == "binomial":
                failures = np.ceil(mean * number)
                return stats.binom.cdf(failures, number, self.level) <= self.delta
            return self.p_value(np.resize(losses, number)) <= self.delta

        low, high = 0, 1
        while not passes(high):
            low, high = high, 2 * high
            if high > MOST_SAMPLES:
                return None
        while high - low > 1:
            middle = (low + high) // 2
            low, high = (low, middle) if passes(middle) else (middle, high)
        return 2 * high - 1  # the larger half is tested

    def halves(self, samples):
        """Returns the samples on which policies are chosen, and those on which they are tested."""
        order = np.random.default_rng(self.seed).permutation(samples)
        return order[: samples // 2], order[samples // 2 :]

    def losses(self, chosen_right, last_right, agrees):
        """Returns each sample's loss, whose mean is the risk.

        Args:
            chosen_right, last_right: Boolean arrays, whether the chosen and the last exit
                are right.
            agrees: Boolean array, whether both give the same answer.

        Returns:
            Integers: 0 or 1; with the betting bound -1, 0 or 1.
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

    It is one over the greatest wealth of a gambler who bets, value by value, that the
    next one lies below `mean`; if the true mean is not below, the wealth reaches `1 / p` with
    probability at most `p`.

    Args:
        values: Array of numbers from 0 to 1, in an order that does not depend on them.
        mean: Number between 0 and 1.
        delta: Number, the p-value that the stakes are chosen for.
    """
    values = np.asarray(values, "float64")
    count = np.arange(1, len(values) + 1)
    means = (0.5 + np.cumsum(values)) / (count + 1)
    variances = (0.25 + np.cumsum((values - means) ** 2)) / (count + 1)
    known = np.append(0.25, variances[:-1])  # before each value is seen
    stakes = np.minimum(0.75 / (1 - mean), np.sqrt(2 * np.log(1 / delta) / (len(values) * known)))
    wealth = np.cumsum(np.log1p(-stakes * (values - mean)))
    return float(min(1.0, np.exp(-wealth.max())))


def controlled_thresholds(risk, confidences, losses, costs):
    """Returns the cheapest thresholds with the guarantee.

    Args:
        risk: A `RiskControl`.
        confidences: `(exits, samples)`.
        losses: `(exits, samples)`, `risk.losses` of leaving at each exit.
        costs: `(exits, samples)`.

    Returns:
        Tuple of thresholds `(exits,)` and a dictionary that describes the guarantee. Where
        nothing passed, the thresholds are the safe ones: always the last exit. Where those are
        chosen, `samples_needed` of the dictionary says about how many calibration samples would
        let the safest policy that leaves early pass; `None`: as it is, none would.
    """
    first, second = risk.halves(confidences.shape[1])
    path = _path(risk, *(a[:, first] for a in (confidences, losses, costs)))
    return fixed_sequence_test(risk, path, confidences[:, second], losses[:, second])


def fixed_sequence_test(risk, path, confidences, losses):
    """Tests policies in order until one fails; returns the last that passed.

    Args:
        risk: A `RiskControl`.
        path: List of thresholds `(exits,)`, the safe ones first, chosen on other data.
        confidences, losses: As in `controlled_thresholds`.

    Returns:
        As `controlled_thresholds`.
    """
    safe = always_last(len(confidences))
    chosen, found = safe, None

    def suffered_under(thresholds):
        exits = first_exit(confidences, thresholds)[None]
        return np.take_along_axis(losses, exits, axis=0)[0]

    for thresholds in path:
        suffered = suffered_under(thresholds)
        p_value = risk.p_value(suffered)
        if p_value > risk.delta:
            break
        chosen, found = thresholds, {"risk": float(suffered.mean()), "p_value": p_value}
    guarantee = {
        "metric": risk.metric,
        "level": risk.level,
        "delta": risk.delta,
        "bound": risk.bound,
        "tested_samples": int(losses.shape[1]),
        "policies_on_the_path": len(path),
        "passed": found is not None,
        **(found or {"risk": None, "p_value": None}),
    }
    if (chosen == safe).all():
        early = [thresholds for thresholds in path if (thresholds != safe).any()]
        needed = [risk.samples_for(suffered_under(thresholds)) for thresholds in early[:1]]
        if guarantee["tested_samples"] < (risk.samples_needed + 1) // 2:
            needed.append(risk.samples_needed)  # whatever the losses
        guarantee["samples_needed"] = max(filter(None, needed), default=None)
    return chosen, guarantee


def _path(risk, confidences, losses, costs):
    """Returns thresholds from safe to risky: the cheapest for each amount of risk."""
    # a gain of one sample does not make the loss of another any safer
    found, _ = front(Problem(confidences, 1 - np.maximum(losses, 0), costs))
    points = found.right[::-1]  # the fewest losses first
    # the last exit errs too: there the best policy on the path, not the last exit, is safe
    safe = [] if risk.metric == "error" else [always_last(len(confidences))]
    room = risk.steps - len(safe)
    if len(points) > room:
        places = np.linspace(0, len(points) - 1, room)
        points = points[np.unique(np.round(places).astype(int))]
    return [*safe, *(found.thresholds(point) for point in points)]
