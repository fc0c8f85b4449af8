"""When to stop: the same rule as on the host, one image at a time.

Programs in other languages follow it too; testdata/*.json holds them to it.
"""

import numpy as np


def softmax(logits):
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def _margin(values):
    second, first = np.sort(values)[-2:]
    return first - second


def _max_prob(logits):
    return 1 / np.exp(logits - logits.max()).sum()


def _entropy(logits):
    shifted = logits - logits.max()
    exponentials = np.exp(shifted)
    total = exponentials.sum()
    return (exponentials * shifted).sum() / total - np.log(total)


CONFIDENCES = {
    "max_prob": _max_prob,
    "prob_margin": lambda logits: _margin(softmax(logits)),
    "logit_margin": _margin,
    "entropy": _entropy,
}


def stopping_probability(network, logits):
    """Returns what a learnt policy makes of an answer: the probability of stopping.

    Args:
        network: Three pairs of arrays `(kernel, bias)`.
        logits: Array `(classes,)`.
    """
    (w_1, b_1), (w_2, b_2), (w_3, b_3) = network
    features = np.maximum(softmax(logits.astype("float64")) @ w_1 + b_1, 0)
    features = np.maximum(features @ w_2 + b_2, 0)
    return softmax(features @ w_3 + b_3)[0]


class Run:
    """One image's way through the stages.

    After each stage, in this order: at the last stage the image stops (`"end"`); it stops
    if its confidence is at least the exit's threshold (`"confidence"`), if the last
    `patience` answers name the same class (`"patience"`), if it was told to
    (`"cancelled"`), and if the deadline has passed or the next stage would pass it
    (`"deadline"`).

    Args:
        confidence: Name of the confidence. `"learned"`: the probability of stopping.
        thresholds: One number a stage, or `None`: confidence stops nothing.
        patience: Integer, or `None`: agreement stops nothing.
        deadline_ms: Number, or `None`.
        networks: For `"learned"`: one network a stage, see `stopping_probability`; `None`
            for the network's last exit.
    """

    def __init__(self, confidence, thresholds, patience=None, deadline_ms=None, networks=None):
        self.confidence = CONFIDENCES.get(confidence)
        self.networks = networks
        self.thresholds = thresholds
        self.patience = patience
        self.deadline_ms = deadline_ms
        self._label, self._agreeing = None, 0

    def sureness(self, stage, logits):
        """Returns the confidence of a stage's answer."""
        if self.networks is None:
            return self.confidence(logits)
        if self.networks[stage] is None:
            return 1.0
        return stopping_probability(self.networks[stage], logits)

    def stopped_by(self, stage, logits, elapsed_ms, next_ms, cancelled=False):
        """Returns why to stop after a stage, or `None`.

        Args:
            stage: Integer.
            logits: Array `(classes,)`, already divided by the exit's temperature.
            elapsed_ms: Number, since the image was given.
            next_ms: Number, what the next stage is expected to take; `None`: this is the last.
            cancelled: Whether somebody told it to stop.
        """
        label = int(logits.argmax())
        self._agreeing = self._agreeing + 1 if label == self._label else 1
        self._label = label
        if next_ms is None:
            return "end"
        if self.thresholds is not None and self.sureness(stage, logits) >= self.thresholds[stage]:
            return "confidence"
        if self.patience is not None and self._agreeing >= self.patience:
            return "patience"
        if cancelled:
            return "cancelled"
        deadline = self.deadline_ms
        if deadline is not None and (elapsed_ms >= deadline or elapsed_ms + next_ms > deadline):
            return "deadline"
        return None
