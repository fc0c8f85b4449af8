"""The rule that decides when to stop: that of the host's policies, for one image at a time.

Programs in other languages implement it too; `tflite/testdata` tests them.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
_EPSILON = float(np.finfo("float64").eps)
Network = list[tuple[Array, Array]]
"""A learned stopping network: kernel and bias of its three layers."""


def softmax(logits: Array) -> Array:
    """Returns the probabilities of logits `(classes,)`.

    Example:

    >>> softmax(np.array([0.0, 0.0]))
    array([0.5, 0.5])
    """
    exponentials = np.exp(logits - logits.max())
    probabilities: Array = exponentials / exponentials.sum()
    return probabilities


def _margin(values: Array) -> float:
    second, first = np.sort(values)[-2:]
    return float(first - second)


def _entropy(logits: Array) -> float:
    shifted = logits - logits.max()
    exponentials = np.exp(shifted)
    total = exponentials.sum()
    return float((exponentials * shifted).sum() / total - np.log(total))


CONFIDENCES: dict[str, Callable[[Array, Array], float]] = {
    "max_prob": lambda logits, probabilities: float(probabilities.max()),
    "prob_margin": lambda logits, probabilities: _margin(probabilities),
    "logit_margin": lambda logits, probabilities: _margin(logits),
    "entropy": lambda logits, probabilities: _entropy(logits),
}
"""Confidences by name, as users know them, each a function of the logits and their softmax."""


# ---- the same confidences in a form that keeps its digits where probabilities are nearly 1


def _others(logits: Array) -> tuple[Array, float, Array, float]:
    """Returns what the forms are made of, of logits in descending order `z`.

    Returns:
        `d = z[1:] - z[0]`, at most 0; `d[0]`; `exp(d - d[0])`, which is at most 1 and in which
        nothing vanishes; and its sum. So `r = exp(d).sum()` has the logarithm `d[0] + log(sum)`.
    """
    ordered = np.sort(logits)[::-1]
    below = ordered[1:] - ordered[0]
    scaled = np.exp(below - below[0])
    return below, below[0], scaled, scaled.sum()


def _odds_max_prob(logits: Array) -> float:
    _, second, _, total = _others(logits)
    return float(-(second + np.log(total)))


def _odds_prob_margin(logits: Array) -> float:
    _, second, _, total = _others(logits)
    return float(np.log1p(np.exp(second) * total) - second - np.log(total + 1))


def _odds_entropy(logits: Array) -> float:
    below, second, scaled, total = _others(logits)
    r = np.exp(second) * total
    share = np.log1p(r) / r if r > 0 else 1.0  # of r in log1p(r)
    entropy = total * share + (scaled * -below).sum() / (1 + r)  # over exp(second)
    return float(-(second + np.log(entropy)))


LOG_ODDS: dict[str, Callable[[Array], float]] = {
    "max_prob": _odds_max_prob,
    "prob_margin": _odds_prob_margin,
    "logit_margin": _margin,
    "entropy": _odds_entropy,
}
"""Confidences by name in log-odds: rising functions of those in `CONFIDENCES`."""


def to_log_odds(confidence: str, threshold: float) -> float:
    """Returns the log-odds of a threshold that is given as users know it.

    Every answer reaches `-inf`, none `inf`: where no confidence can be lower, or as high. A
    threshold that is some answer's confidence is rounded, as that is; the log-odds are lower by
    that much, at most 1e-6, so that the answer reaches it.

    Args:
        confidence: Name of the confidence, or `"learned"`.
        threshold: Number.

    Example:

    >>> round(to_log_odds("max_prob", 0.5), 6), to_log_odds("max_prob", 1.0)
    (-0.0, inf)
    """
    if confidence == "logit_margin":
        return threshold if threshold > 0 else -math.inf
    if confidence == "entropy":
        if not -math.inf < threshold < 0:
            return math.inf if threshold >= 0 else -math.inf
        odds, room = -math.log(-threshold), -threshold
    else:
        if not 0 < threshold < 1:
            return math.inf if threshold >= 1 else -math.inf
        odds, room = -math.log1p(-threshold), 1 - threshold
        if confidence != "prob_margin":
            odds += math.log(threshold)
    return odds - min(8 * _EPSILON * (1 / room + abs(odds)), 1e-6)


def stopping_log_odds(network: Network, probabilities: Array) -> float:
    """Returns how much speaks for stopping, by a learned policy: the log-odds of its probability.

    Args:
        network: Three pairs of arrays `(kernel, bias)`.
        probabilities: Array `(classes,)`.
    """
    (w_1, b_1), (w_2, b_2), (w_3, b_3) = network
    features = np.maximum(probabilities @ w_1 + b_1, 0)
    features = np.maximum(features @ w_2 + b_2, 0)
    stop, go_on = features @ w_3 + b_3
    return float(stop - go_on)


def stopping_probability(network: Network, probabilities: Array) -> float:
    """Returns the probability of stopping that a learned policy computes for an answer.

    Args:
        network, probabilities: As in `stopping_log_odds`.
    """
    return float(softmax(np.array([stopping_log_odds(network, probabilities), 0.0]))[0])


class Run:
    """Decides after each stage whether an image stops there.

    After each stage, in this order: at the last stage the image stops (`"end"`); it stops
    if its confidence is at least the exit's threshold (`"confidence"`), if the last
    `patience` answers name the same class, or enough of all answers do (`"patience"`), if it
    was cancelled (`"cancelled"`), and if the deadline has passed or the next stage would pass
    it (`"deadline"`).

    Args:
        confidence: Name of the confidence. `"learned"`: the probability of stopping.
        thresholds: One number per stage, in log-odds, or `None`: no stop by confidence.
        patience: Integer, or `None`.
        deadline_ms: Number, or `None`.
        networks: For `"learned"`: one network per stage, see `stopping_probability`; `None`
            for the network's last exit.
        agreement: `{"members": ..., "share": ...}`: after `members` stages or more the image
            stops if at least this share of its answers name one class. `None`: it does not.
        plain: Boolean, whether confidences and thresholds are compared as users know them,
            and not in log-odds: so in files of version 2.

    Attributes:
        label: Integer, the most probable class of the latest answer.
        logits: Array `(classes,)`, the latest answer, divided by the exit's temperature.

    Example:

    >>> run = Run("max_prob", thresholds=[to_log_odds("max_prob", 0.9), -np.inf])
    >>> run.stopped_by(0, np.array([4.0, 0.0, 0.0]), elapsed_ms=1, next_ms=2)
    'confidence'
    """

    label: int
    logits: Array

    def __init__(
        self,
        confidence: str,
        thresholds: Sequence[float] | None,
        patience: int | None = None,
        deadline_ms: float | None = None,
        networks: Sequence[Network | None] | None = None,
        agreement: dict[str, float] | None = None,
        *,
        plain: bool = False,
    ) -> None:
        self.confidence = confidence
        self.networks = networks
        self.thresholds = thresholds
        self.patience = patience
        self.deadline_ms = deadline_ms
        self.agreement = agreement
        self.plain = plain
        self.label = -1
        self.logits = np.zeros(1)
        self._agreeing = 0
        self._votes: dict[int, int] = {}

    def confidence_of(self, stage: int, logits: Array, probabilities: Array) -> float:
        """Returns the confidence of a stage's answer, as users know it.

        Args:
            stage: Integer.
            logits: Array `(classes,)`, already divided by the exit's temperature.
            probabilities: Their softmax.
        """
        if self.networks is None:
            return CONFIDENCES[self.confidence](logits, probabilities)
        network = self.networks[stage]
        return 1.0 if network is None else stopping_probability(network, probabilities)

    def log_odds_of(self, stage: int, logits: Array) -> float:
        """Returns the confidence of a stage's answer in log-odds; see `confidence_of`."""
        if self.networks is None:
            return LOG_ODDS[self.confidence](logits)
        network = self.networks[stage]
        return math.inf if network is None else stopping_log_odds(network, softmax(logits))

    @property
    def probabilities(self) -> Array:
        """Array `(classes,)`, of the latest answer."""
        return softmax(self.logits)

    def stopped_by(
        self,
        stage: int,
        logits: Array,
        elapsed_ms: float,
        next_ms: float | None,
        cancelled: bool = False,
    ) -> str | None:
        """Returns why to stop after a stage, or `None`.

        Args:
            stage: Integer.
            logits: Array `(classes,)`, already divided by the exit's temperature.
            elapsed_ms: Number, since the image was given.
            next_ms: Number, the expected time of the next stage; `None`: this is the last.
            cancelled: Boolean, whether the image was cancelled.
        """
        before, self.label = self.label, int(logits.argmax())
        self._agreeing = self._agreeing + 1 if self.label == before else 1
        self._votes[self.label] = self._votes.get(self.label, 0) + 1
        self.logits = logits
        if next_ms is None:
            return "end"
        if self.thresholds is not None and self.thresholds[stage] < math.inf:
            if self.plain:
                confidence = self.confidence_of(stage, logits, softmax(logits))
            else:
                confidence = self.log_odds_of(stage, logits)
            if confidence >= self.thresholds[stage]:
                return "confidence"
        if self.patience is not None and self._agreeing >= self.patience:
            return "patience"
        if self.agreement is not None and self._agrees(stage + 1):
            return "patience"
        if cancelled:
            return "cancelled"
        deadline = self.deadline_ms
        if deadline is not None and (elapsed_ms >= deadline or elapsed_ms + next_ms > deadline):
            return "deadline"
        return None

    def _agrees(self, answers: int) -> bool:
        assert self.agreement is not None
        needed = self.agreement["share"] * answers - 1e-9  # so that 2 of 3 are two thirds
        return answers >= self.agreement["members"] and max(self._votes.values()) >= needed
