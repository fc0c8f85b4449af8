"""Thresholds for a quantised file, whose logits are not those they were chosen on."""

import numpy as np

from keras_adaptive.calibration._search import midpoint


def recalibrate(policy, exits, logits, quantised):
    """Returns a policy with which as many leave at each exit as before.

    Exit by exit, the threshold moves to where the same number of samples is at least as
    sure, of those that are still there; midway to the next one. So the mean cost stays,
    and no labels are needed. Thresholds that are infinite, and those where nobody left,
    stay. Quantised confidences may be equal; then the nearest number leaves.

    A promise about risk does not pass over to the new thresholds.

    Args:
        policy: An `ExitPolicy`.
        exits: Indices of the exits in the file.
        logits: Array `(len(exits), samples, classes)`, of the network.
        quantised: Array of the same shape, of the file.

    Returns:
        An `ExitPolicy`, of which only the thresholds differ.
    """
    thresholds = policy.thresholds.copy()
    before = np.ones(logits.shape[1], bool)
    now = before.copy()
    for i, k in enumerate(exits):
        leave = before & policy.leaves(k, logits[i])
        before &= ~leave
        sure = policy.confidence_of(k, quantised[i])
        if np.isfinite(thresholds[k]) and leave.any():
            thresholds[k] = _threshold(sure[now], int(leave.sum()))
        now &= sure < thresholds[k]
    return policy.with_thresholds(thresholds)


def _threshold(sure, wanted):
    """Returns a threshold that `wanted` of these reach, or as nearly so many as can be."""
    values, counts = np.unique(-sure, return_counts=True)
    values, reaching = -values, counts.cumsum()  # from the surest down
    if not len(values):
        return np.inf
    i = int(np.abs(reaching - wanted).argmin())
    return midpoint(values[i + 1], values[i]) if i + 1 < len(values) else values[i]


def compare(logits, quantised, labels=None):
    """Returns what quantisation changed at each exit, as lists of one number an exit.

    Args:
        logits: Array `(exits, samples, classes)`, of the network.
        quantised: Array of the same shape, of the file.
        labels: Integer array `(samples,)`, or `None`.
    """
    before, now = logits.argmax(-1), quantised.argmax(-1)
    result = {
        "samples": logits.shape[1],
        "same_label_share": (before == now).mean(axis=1).tolist(),
        "relative_error": relative_error(logits, quantised).tolist(),
    }
    if labels is not None:
        accuracy, kept = (before == labels).mean(axis=1), (now == labels).mean(axis=1)
        result["accuracy"] = kept.tolist()
        result["accuracy_drop"] = (accuracy - kept).tolist()
    return result


def relative_error(logits, found):
    """Returns how far logits are off at each exit: root mean square, in spreads."""
    off = np.sqrt(((found - logits) ** 2).mean(axis=(1, 2)))
    centred = logits - logits.mean(axis=(1, 2), keepdims=True)
    return off / np.maximum(np.sqrt((centred**2).mean(axis=(1, 2))), 1e-9)
