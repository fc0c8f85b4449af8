"""Temperature scaling and reliability diagrams for every exit."""

from typing import NamedTuple

import numpy as np
import scipy.optimize

from keras_adaptive._checks import check_labels, check_logits, integer
from keras_adaptive.policy.confidence import confidence
from keras_adaptive.policy.exit_policy import ExitPolicy

BINS = 15
RANGE = (0.05, 20.0)  # of temperatures; beyond lie exits that are never or always right


class Reliability(NamedTuple):
    """A reliability diagram: accuracy by confidence, one row per exit.

    Attributes:
        edges: `(bins + 1,)`, bounds of the bins of confidence.
        shares: `(exits, bins)`, share of the samples in a bin.
        confidences: `(exits, bins)`, mean confidence in a bin; NaN where it is empty.
        accuracies: `(exits, bins)`, share of right answers in a bin; NaN where empty.
        errors: `(exits,)`, expected calibration error:
            `sum_bin share * |accuracy - confidence|`.
    """

    edges: np.ndarray
    shares: np.ndarray
    confidences: np.ndarray
    accuracies: np.ndarray
    errors: np.ndarray


def fit_temperatures(logits, labels):
    """Returns the temperature of each exit that makes its labels most likely.

    Minimizes `mean(-log softmax(logits / T)[label])` over `T`, exit by exit, from 0.05
    to 20. Answers do not change, only their confidence.

    Args:
        logits: Array `(exits, samples, classes)`, or dense, of held-out data.
        labels: Integer array `(samples,)`, or `(cells, height, width)` with -1 for pixels
            without a label.

    Returns:
        Float array `(exits,)`.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> logits = rng.normal(size=(1, 20000, 5))
    >>> gumbel = rng.gumbel(size=(20000, 5))
    >>> labels = (logits[0] + gumbel).argmax(axis=-1)   # right as often as they say
    >>> [round(float(t)) for t in fit_temperatures(3 * logits, labels)]
    [3]

    Reference:
        [On Calibration of Modern Neural Networks (Guo et al., 2017)](
        https://arxiv.org/abs/1706.04599).
    """
    logits = check_logits(logits)
    labels = check_labels(labels, logits)
    return np.array([_fit(z[labels >= 0], labels[labels >= 0]) for z in logits])


def _fit(logits, labels):
    """Finds the zero of the slope of the loss, which is convex in the inverse temperature."""
    logits = np.asarray(logits, "float32")
    logits = logits - logits.max(axis=-1, keepdims=True)
    wanted = np.take_along_axis(logits, labels[:, None], axis=1).mean(dtype="float64")

    def slope(inverse):
        weights = np.exp(np.float32(inverse) * logits)
        weights /= weights.sum(axis=-1, keepdims=True)
        return np.einsum("nc,nc->n", weights, logits).mean(dtype="float64") - wanted

    low, high = 1 / RANGE[1], 1 / RANGE[0]
    if slope(low) >= 0:
        return RANGE[1]
    if slope(high) <= 0:
        return RANGE[0]
    return 1 / scipy.optimize.brentq(slope, low, high, xtol=1e-9, rtol=1e-5)


def reliability(logits, labels, temperatures=None, bins=BINS):
    """Compares confidence (`max_prob`) with accuracy, exit by exit.

    Args:
        logits: Array `(exits, samples, classes)`.
        labels: Integer array `(samples,)`.
        temperatures: Array `(exits,)`. `None`: 1 each.
        bins: Integer, bins of equal width between 0 and 1.

    Returns:
        A `Reliability`.

    Example:

    >>> found = reliability([[[0.0, 0.0], [0.0, 0.0]]], [0, 1])
    >>> float(found.errors[0])   # confidence one half, and half are right
    0.0
    """
    logits = check_logits(logits)
    labels = check_labels(labels, logits)
    bins = integer("bins", bins, 1)
    if logits.ndim != 3:
        raise ValueError(
            f"`logits` must be of shape (exits, samples, classes). Received: shape {logits.shape}"
        )
    if temperatures is not None:
        temperatures = ExitPolicy(np.zeros(len(logits)), "max_prob", temperatures).temperatures
    edges = np.linspace(0, 1, bins + 1)
    shares, confidences, right = (np.zeros((len(logits), bins)) for _ in range(3))
    for k, values in enumerate(confidence(logits, "max_prob", temperatures)):
        where = np.clip(np.digitize(values, edges[1:-1], right=True), 0, bins - 1)
        correct = logits[k].argmax(axis=-1) == labels
        for table, weights in ((shares, None), (confidences, values), (right, correct)):
            table[k] = np.bincount(where, weights, minlength=bins)
    with np.errstate(invalid="ignore"):
        confidences, right = confidences / shares, right / shares
    shares /= len(labels)
    gaps = np.where(shares > 0, np.abs(confidences - right), 0)
    return Reliability(edges, shares, confidences, right, (shares * gaps).sum(axis=1))
