"""The rule that decides when to stop: that of the host's policies, for one image at a time.

Programs in other languages implement it too; `tflite/testdata` tests them.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

Array = NDArray[Any]
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
"""Confidences by name, each a function of the logits and their softmax."""


def stopping_probability(network: Network, probabilities: Array) -> float:
    """Returns the probability of stopping that a learned policy computes for an answer.

    Args:
        network: Three pairs of arrays `(kernel, bias)`.
        probabilities: Array `(classes,)`.
    """
    (w_1, b_1), (w_2, b_2), (w_3, b_3) = network
    features = np.maximum(probabilities @ w_1 + b_1, 0)
    features = np.maximum(features @ w_2 + b_2, 0)
    return float(softmax(features @ w_3 + b_3)[0])


class Run:
    """Decides after each stage whether an image stops there.

    After each stage, in this order: at the last stage the image stops (`"end"`); it stops
    if its confidence is at least the exit's threshold (`"confidence"`), if the last
    `patience` answers name the same class (`"patience"`), if it was cancelled
    (`"cancelled"`), and if the deadline has passed or the next stage would pass it
    (`"deadline"`).

    Args:
        confidence: Name of the confidence. `"learned"`: the probability of stopping.
        thresholds: One number per stage, or `None`: no stop by confidence.
        patience: Integer, or `None`: no stop by agreement.
        deadline_ms: Number, or `None`.
        networks: For `"learned"`: one network per stage, see `stopping_probability`; `None`
            for the network's last exit.

    Attributes:
        probabilities: Array `(classes,)`, of the latest answer.
        label: Integer, the most probable class of the latest answer.

    Example:

    >>> run = Run("max_prob", thresholds=[0.9, -np.inf])
    >>> run.stopped_by(0, np.array([4.0, 0.0, 0.0]), elapsed_ms=1, next_ms=2)
    'confidence'
    """

    probabilities: Array
    label: int

    def __init__(
        self,
        confidence: str,
        thresholds: Sequence[float] | None,
        patience: int | None = None,
        deadline_ms: float | None = None,
        networks: Sequence[Network | None] | None = None,
    ) -> None:
        self.confidence = confidence
        self.networks = networks
        self.thresholds = thresholds
        self.patience = patience
        self.deadline_ms = deadline_ms
        self.label = -1
        self._agreeing = 0

    def confidence_of(self, stage: int, logits: Array, probabilities: Array) -> float:
        """Returns the confidence of a stage's answer.

        Args:
            stage: Integer.
            logits: Array `(classes,)`, already divided by the exit's temperature.
            probabilities: Their softmax.
        """
        if self.networks is None:
            return CONFIDENCES[self.confidence](logits, probabilities)
        network = self.networks[stage]
        return 1.0 if network is None else stopping_probability(network, probabilities)

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
        self.probabilities = probabilities = softmax(logits)
        if next_ms is None:
            return "end"
        if self.thresholds is not None:
            confidence = self.confidence_of(stage, logits, probabilities)
            if confidence >= self.thresholds[stage]:
                return "confidence"
        if self.patience is not None and self._agreeing >= self.patience:
            return "patience"
        if cancelled:
            return "cancelled"
        deadline = self.deadline_ms
        if deadline is not None and (elapsed_ms >= deadline or elapsed_ms + next_ms > deadline):
            return "deadline"
        return None
