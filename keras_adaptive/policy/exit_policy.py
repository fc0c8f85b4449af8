"""Exit policies that compare confidence with thresholds, and the decision rule itself."""

import numpy as np

from keras_adaptive._checks import check_choice, finite, numbers
from keras_adaptive._files import to_json
from keras_adaptive.policy.confidence import (
    CONFIDENCES,
    confidence,
    confidence_of_exit,
    log_odds_of_exit,
    to_log_odds,
)
from keras_adaptive.policy.policy import Policy, checked_details, policy_of


class ExitPolicy(Policy):
    """Leaves at the first exit that is confident enough.

    A sample leaves at the first exit `k` with
    `confidence(logits_k / temperatures_k) >= thresholds_k`; samples that reach the last
    exit leave there. A threshold of `+inf` closes an exit: it need not be computed.

    What is compared is the log-odds of both (`confidence.log_odds`), which tell very confident
    answers apart where probabilities are all rounded to 1. Of dense outputs it is the
    confidence itself, a mean over pixels.

    A policy does not know the network; use it with the network, and in the numeric
    precision, whose logits it was made from.

    Args:
        thresholds: Sequence of numbers, one per exit, in units of the confidence. The
            last is always `-inf`, whatever is given.
        confidence: `"max_prob"`, `"prob_margin"`, `"logit_margin"` or `"entropy"`.
        temperatures: Sequence of positive numbers, one per exit, or `None`: 1 each.
        log_odds: Sequence of numbers, one per exit: the thresholds in the form that is compared,
            with digits that `thresholds` may have lost. `None`: computed from `thresholds`.
        pixel_floor: Number, see `confidence`; only for dense outputs.
        worst_case: Number, the most that any sample may cost, or `None`. `decide` enforces
            it when it is given costs: a sample then leaves at the last exit it can
            afford, whether confident or not.
        details: Dictionary of facts about how the policy was made, kept with it.

    Raises:
        ValueError: If a threshold is NaN, a temperature not positive, the lengths
            differ, or the confidence is unknown.

    Example:

    >>> policy = ExitPolicy([0.8, -np.inf])
    >>> confident, doubtful = [0.0, 9.0], [0.0, 1.0]
    >>> policy.decide([[confident, doubtful], [confident, doubtful]]).tolist()
    [0, 1]
    """

    def __init__(
        self,
        thresholds,
        confidence="max_prob",
        temperatures=None,
        *,
        log_odds=None,
        pixel_floor=0.5,
        worst_case=None,
        details=None,
    ):
        check_choice(CONFIDENCES, confidence=confidence)
        self._set(thresholds, confidence, temperatures, log_odds)
        self.pixel_floor = finite(pixel_floor, "pixel_floor")
        self.worst_case = None if worst_case is None else finite(worst_case, "worst_case")
        self.details = checked_details(details)

    def _set(self, thresholds, confidence, temperatures, log_odds):
        self.thresholds = numbers(thresholds, "thresholds").copy()
        self.thresholds[-1] = -np.inf
        self.confidence = confidence
        if temperatures is None:
            temperatures = np.ones(len(self.thresholds))
        if log_odds is None:
            log_odds = to_log_odds(self.thresholds, confidence)
        self.temperatures = self._per_exit("temperatures", temperatures)
        self.log_odds = self._per_exit("log_odds", log_odds)
        self.log_odds[-1] = -np.inf
        if not (np.isfinite(self.temperatures) & (self.temperatures > 0)).all():
            raise ValueError(
                "`temperatures` must be positive and finite. "
                f"Received: temperatures={self.temperatures.tolist()}"
            )

    def _per_exit(self, name, values):
        values = numbers(values, name).copy()
        if len(values) != len(self.thresholds):
            raise ValueError(
                f"`{name}` must hold one number per exit, as `thresholds`. Received: "
                f"{len(values)} {name}, {len(self.thresholds)} thresholds"
            )
        return values

    def __repr__(self):
        thresholds = ", ".join(f"{t:.4g}" for t in self.thresholds)
        return f"ExitPolicy([{thresholds}], confidence={self.confidence!r})"

    @property
    def exact(self):
        """Whether no other thresholds on the search grid would have met the target better.

        `None` if the policy does not say, for example when it was made by hand.
        """
        return self.details.get("exact")

    @property
    def used_exits(self):
        """Indices of the exits at which samples may leave.

        Exits closed by `+inf` are not among them, nor those behind an exit where every
        sample leaves (`-inf`).
        """
        last = int((self.thresholds == -np.inf).argmax())
        return [k for k in range(last + 1) if self.thresholds[k] < np.inf]

    def exits_of(self, number):
        if number != len(self.thresholds):
            raise ValueError(
                "`policy` must have one threshold per exit of the model. Received: "
                f"{len(self.thresholds)} thresholds, {number} exits"
            )
        return self.used_exits

    def _decide(self, logits, costs):
        self._check_exits(logits)
        return super()._decide(logits, costs)

    def _check_exits(self, logits):
        if len(logits) != len(self.thresholds):
            raise ValueError(
                "`logits` must hold as many exits as the policy has thresholds. "
                f"Received: {len(logits)} exits, {len(self.thresholds)} thresholds"
            )

    def confidences(self, logits):
        """Returns the confidence of every answer, `(exits, samples)`."""
        return confidence(logits, self.confidence, self.temperatures, self.pixel_floor)

    def confidence_of(self, exit, logits, xp=np):
        """Returns the confidence of one exit's answers, `(samples,)`.

        Args:
            exit: Index of the exit.
            logits: Array `(samples, classes)`, of this exit.
            xp: `numpy`; inside a graph `keras.ops`, for tensors.
        """
        return confidence_of_exit(
            logits, self.confidence, self.temperatures[exit], self.pixel_floor, xp
        )

    def compared(self, exit, logits, xp=np):
        """Returns what is compared with the threshold of an exit, `(samples,)`: the log-odds.

        Args:
            exit, logits, xp: As in `confidence_of`.
        """
        if len(logits.shape) > 2:
            return self.confidence_of(exit, logits, xp)
        return log_odds_of_exit(logits, self.confidence, self.temperatures[exit], xp)

    def step(self, exit, logits, state=(), xp=np, thresholds=None):
        if thresholds is None:
            dense = len(logits.shape) > 2
            thresholds = (self.thresholds if dense else self.log_odds)[exit]
        return self.compared(exit, logits, xp) >= thresholds, state

    def leaves(self, exit, logits):
        """Returns which of the samples that reach an exit leave there.

        Args:
            exit: Index of the exit.
            logits: Array `(samples, classes)`, of this exit.

        Returns:
            Boolean array `(samples,)`.
        """
        return self.step(exit, np.asarray(logits))[0]

    def exits_of_compared(self, compared, dense=False, costs=None):
        """Returns the exit each sample leaves at, as `decide` does.

        Args:
            compared: Array `(exits, samples)`, of `compared`.
            dense: Boolean, whether it is of dense outputs.
            costs: As in `decide`.
        """
        thresholds = self.thresholds if dense else self.log_odds
        return self._within_limit(first_exit(compared, thresholds), costs)

    def with_thresholds(self, thresholds):
        """Returns the policy with other thresholds, all else being kept.

        A threshold that is equal to the policy's own keeps its log-odds.
        """
        content = {
            **self.content(),
            "thresholds": numbers(thresholds, "thresholds"),
            "log_odds": None,
        }
        other = policy_of(content)
        if len(other.thresholds) == len(self.thresholds):
            same = other.thresholds == self.thresholds
            other.log_odds[same] = self.log_odds[same]
        return other

    def content(self):
        return {
            **super().content(),
            "confidence": self.confidence,
            "thresholds": [to_json(t) for t in self.thresholds],
            "log_odds": [to_json(t) for t in self.log_odds],
            "temperatures": self.temperatures.tolist(),
            "pixel_floor": to_json(self.pixel_floor),
            "worst_case": self.worst_case,
        }

    @classmethod
    def from_content(cls, content):
        return cls(
            [float(t) for t in content["thresholds"]],
            content["confidence"],
            content["temperatures"],
            log_odds=log_odds_of(content),
            pixel_floor=float(content["pixel_floor"]),
            worst_case=content["worst_case"],
            details=content["details"],
        )


def log_odds_of(content):
    """Returns the log-odds that a file holds; `None` for files of before they were kept."""
    found = content.get("log_odds")
    return None if found is None else [float(t) for t in found]


def first_exit(confidences, thresholds, xp=np):
    """Returns the first exit whose confidence is at least its threshold, `(samples,)`.

    Args:
        confidences: Array `(exits, samples)`.
        thresholds: Array `(exits,)`; the last is not looked at.
        xp: `numpy`; inside a graph `keras.ops`, for tensors.
    """
    last = len(thresholds) - 1
    exits = xp.full(confidences[0].shape, last, dtype=int)
    for k in reversed(range(last)):
        exits = xp.where(confidences[k] >= thresholds[k], k, exits)
    return exits


def always_last(exits):
    """Returns the thresholds with which every sample goes to the last exit."""
    return np.append(np.full(exits - 1, np.inf), -np.inf)
