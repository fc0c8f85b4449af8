"""Adapts a policy's thresholds to the logits of a quantized file."""

import numpy as np

from keras_adaptive.calibration._reference import reference
from keras_adaptive.calibration._search import midpoint
from keras_adaptive.policy.confidence import from_log_odds
from keras_adaptive.policy.policy import policy_of


def recalibrate(policy, exits, logits, quantized):
    """Returns a policy under which as many samples leave at each exit as before.

    Exit by exit, the threshold moves to where the same number of the remaining samples
    reaches it; midway to the next confidence below, in log-odds. So the mean cost stays, and
    no labels are needed. Infinite thresholds, and those at which no sample left, stay. Where
    quantized confidences are equal, the nearest possible number leaves.

    A guarantee about risk does not hold for the new thresholds.

    Args:
        policy: An `ExitPolicy`.
        exits: Indices of the exits in the file.
        logits: Array `(len(exits), samples, classes)`, of the network.
        quantized: Array of the same shape, of the file.

    Returns:
        An `ExitPolicy` that differs in the thresholds only.
    """
    thresholds, log_odds = policy.thresholds.copy(), policy.log_odds.copy()
    before = np.ones(logits.shape[1], bool)
    now = before.copy()
    for i, k in enumerate(exits):
        leave = before & policy.step(k, logits[i])[0]
        before &= ~leave
        found = policy.compared(k, quantized[i])
        if np.isfinite(thresholds[k]) and np.isfinite(log_odds[k]) and leave.any():
            log_odds[k] = _threshold(found[now], int(leave.sum()))
            thresholds[k] = from_log_odds(log_odds[k], policy.confidence)
        now &= found < log_odds[k]
    return policy_of({**policy.content(), "thresholds": thresholds, "log_odds": log_odds})


def reference_of(policy, exits, logits):
    """Returns how samples leave a file and how confident its answers are, as `calibrate` does.

    Args:
        policy, exits: As in `recalibrate`.
        logits: Array `(len(exits), samples, classes)`, of the file.
    """
    total = len(policy.log_odds)
    found = np.full((total, logits.shape[1]), -np.inf)  # at closed exits nobody is confident
    answers = np.zeros((total, *logits.shape[1:]))
    for i, k in enumerate(exits):
        found[k], answers[k] = policy.compared(k, logits[i]), logits[i]
    return reference(found, policy.log_odds, answers, policy.temperatures, None)


def _threshold(confidences, wanted):
    """Returns a threshold that `wanted` of the confidences reach, or the nearest number.

    Args:
        confidences: Array `(samples,)`, in log-odds.
        wanted: Integer.
    """
    values, counts = np.unique(-confidences, return_counts=True)
    values, reaching = -values, counts.cumsum()  # from the most confident down
    if not len(values):
        return np.inf
    i = int(np.abs(reaching - wanted).argmin())
    return midpoint(values[i + 1], values[i]) if i + 1 < len(values) else values[i]


def compare(logits, quantized, labels=None):
    """Returns what quantization changed, as lists of one number per exit.

    Args:
        logits: Array `(exits, samples, classes)`, of the network.
        quantized: Array of the same shape, of the file.
        labels: Integer array `(samples,)`, or `None`.
    """
    before, now = logits.argmax(-1), quantized.argmax(-1)
    result = {
        "samples": logits.shape[1],
        "same_label_share": (before == now).mean(axis=1).tolist(),
        "relative_error": relative_error(logits, quantized).tolist(),
    }
    if labels is not None:
        accuracy, kept = (before == labels).mean(axis=1), (now == labels).mean(axis=1)
        result["accuracy"] = kept.tolist()
        result["accuracy_drop"] = (accuracy - kept).tolist()
    return result


def relative_error(logits, found):
    """Returns the error of logits at each exit: root mean square, in standard deviations."""
    off = np.sqrt(((found - logits) ** 2).mean(axis=(1, 2)))
    centered = logits - logits.mean(axis=(1, 2), keepdims=True)
    return off / np.maximum(np.sqrt((centered**2).mean(axis=(1, 2))), 1e-9)
