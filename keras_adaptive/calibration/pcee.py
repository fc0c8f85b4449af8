"""PCEE's rule: leave where answers of like confidence are right often enough."""

import numpy as np
import scipy.optimize

from keras_adaptive._checks import as_array, check_confidences, finite
from keras_adaptive.calibration._search import midpoint


def pcee_thresholds(confidences, right, accuracy):
    """Returns thresholds by the accuracy that each exit has at each confidence.

    An isotonic regression, exit by exit and on all samples, gives the accuracy `a_k(c)` that
    exit `k` has at confidence `c`. The threshold is the least confidence from which it is high
    enough,

        t_k = min {c : a_k(c) >= accuracy},

    taken midway to the next lower confidence, and `+inf` where there is none. Nothing is
    searched, and the accuracy of the policy as a whole is not controlled: samples that leave
    early are right more often than `accuracy`, and the last exit takes what is left. At equal
    cost it ties with exact thresholds: in 12 of 12 comparisons on four networks
    (benchmarks/results/stopping_ways.md).

    Args:
        confidences: Array `(exits, samples)`.
        right: Array `(exits, samples)`: 1 where the answer is right, else 0.
        accuracy: Number from 0 to 1.

    Returns:
        Float array `(exits,)`, the last one `-inf`.

    Raises:
        ValueError: If an argument is not as said.

    Example:

    >>> confidences = [[0.5, 0.6, 0.7, 0.8], [0.9, 0.9, 0.9, 0.9]]
    >>> right = [[0, 1, 0, 1], [1, 1, 1, 1]]
    >>> [round(float(t), 2) for t in pcee_thresholds(confidences, right, accuracy=0.5)]
    [0.55, -inf]

    Reference:
        [Performance Control in Early Exiting to Deploy Large Models at the Same Cost of
        Smaller Ones (Mofakhami et al., 2024)](https://arxiv.org/abs/2412.19325).
    """
    confidences, right = check_confidences(confidences), as_array(right, "right")
    if right.shape != confidences.shape or not np.isin(right, (0, 1)).all():
        raise ValueError(
            f"`right` must be 0 or 1, of shape {confidences.shape} as `confidences`. Received: "
            f"shape {right.shape}" + ("" if right.shape != confidences.shape else ", other values")
        )
    if not 0 <= finite(accuracy, "accuracy") <= 1:
        raise ValueError(f"`accuracy` must be from 0 to 1. Received: accuracy={accuracy}")
    thresholds = np.full(len(confidences), -np.inf)
    for k, (own, answers) in enumerate(zip(confidences[:-1], right[:-1], strict=True)):
        values, place, counts = np.unique(own, return_inverse=True, return_counts=True)
        means = np.bincount(place, answers) / counts
        fitted = scipy.optimize.isotonic_regression(means, weights=counts).x
        enough = int(np.searchsorted(fitted, accuracy - 1e-9))
        if enough == len(values):
            thresholds[k] = np.inf
        elif enough > 0:
            thresholds[k] = midpoint(values[enough - 1], values[enough])
    return thresholds
