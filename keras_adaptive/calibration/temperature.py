"""Temperature scaling and reliability diagrams for every exit."""

from typing import NamedTuple

import numpy as np
import scipy.optimize

from keras_adaptive._checks import as_array, check_labels, check_logits, integer
from keras_adaptive.policy.confidence import blocks, confidence
from keras_adaptive.policy.exit_policy import ExitPolicy

BINS = 15
RANGE = (0.05, 20.0)  # of temperatures; beyond lie exits that are never or always right
LOWEST = np.float32(-1e30)  # below the highest logit; no probability at any temperature
PIXELS = 2**20  # of dense outputs that are looked at


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


def fit_temperatures(logits, labels, rows=None):
    """Returns the temperature of each exit that makes its labels most likely.

    Minimizes `mean(-log softmax(logits / T)[label])` over `T`, exit by exit, from 0.05
    to 20. Answers do not change, only their confidence. Of dense outputs about a million pixels
    at equal distances are looked at.

    Args:
        logits: Array `(exits, samples, classes)`, or dense, of held-out data.
        labels: Integer array `(samples,)`, or `(cells, height, width)` with -1 for pixels
            without a label.
        rows: Indices of the samples to fit on, or a mask `(samples,)`; not of dense outputs.
            `None`: all.

    Returns:
        Float array `(exits,)`.

    Raises:
        ValueError: If the arrays do not fit together, or `rows` are no samples.

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
    if rows is not None:
        rows = _check_rows(rows, logits)
    if logits.ndim == 3:
        return np.array([_fit(z, labels, rows) for z in logits])
    places = _labeled(labels)
    return np.array([_fit(z[places], labels[places]) for z in logits])


def _check_rows(rows, logits):
    """Returns indices of samples of checked logits as an array."""
    if logits.ndim != 3:
        raise ValueError(f"`rows` must be None for dense outputs. Received: rows={rows}")
    rows, samples = as_array(rows, "rows"), logits.shape[1]
    if rows.dtype.kind == "b" and rows.shape == (samples,):
        rows = np.flatnonzero(rows)
    if rows.ndim != 1 or not rows.size or rows.dtype.kind not in "iu":
        raise ValueError(
            "`rows` must be indices of samples, integers of shape (rows,), at least one. "
            f"Received: dtype {rows.dtype}, shape {rows.shape}"
        )
    if rows.min() < 0 or rows.max() >= samples:
        raise ValueError(
            f"`rows` must be from 0 to {samples - 1}, as there are {samples} samples. "
            f"Received: rows from {rows.min()} to {rows.max()}"
        )
    return rows


def _labeled(labels):
    """Returns the places of pixels with labels, about `PIXELS` at equal distances."""
    step = 1 + labels.size // PIXELS
    places = np.unravel_index(np.arange(0, labels.size, step), labels.shape)
    labeled = np.flatnonzero(labels[places] >= 0)
    if len(labeled):
        return tuple(axis[labeled] for axis in places)
    return np.nonzero(labels >= 0)


def _fit(logits, labels, rows=None):
    """Finds the zero of the slope of the loss, which is convex in the inverse temperature."""
    dtype = np.result_type(logits.dtype, "float32")
    top = logits.max(axis=-1, keepdims=True).astype(dtype)
    number = len(logits) if rows is None else len(rows)
    parts = list(blocks((number, logits.shape[1])))
    if rows is not None:
        parts = [rows[part] for part in parts]

    def below_top(rows):
        with np.errstate(over="ignore"):
            below = (np.asarray(logits[rows], dtype) - top[rows]).astype("float32")
        return np.maximum(below, LOWEST, out=below)

    wanted = sum(
        np.take_along_axis(below_top(rows), labels[rows, None], axis=1).sum(dtype="float64")
        for rows in parts
    )

    def slope(inverse):
        total = -wanted
        for rows in parts:
            shifted = below_top(rows)
            weights = np.exp(np.float32(inverse) * shifted)
            weights /= weights.sum(axis=-1, keepdims=True)
            total += np.einsum("nc,nc->n", weights, shifted).sum(dtype="float64")
        return total / number

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
