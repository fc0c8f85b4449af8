"""Confidence of an answer: logits (..., classes) to numbers (...).

Confidences are compared in a form that keeps its digits where probabilities no longer do:
their log-odds. Both are written once, against an array namespace `xp`: `numpy` for cached
logits, where they are computed in float64, block by block, and `keras.ops` inside graphs, in
float32. Of `xp` they use what both have.
"""

import numpy as np

from keras_adaptive._checks import check_choice

BLOCK = 2**17  # numbers of the logits that are worked on at once
DEEP = -600  # the exponential of less may be too small for float64
EPSILON = np.finfo("float64").eps


def softmax(logits, xp=np):
    """Returns class probabilities, `exp(z) / sum(exp(z))`, over the last axis."""
    logits = _floats(logits, xp)
    exponentials = xp.exp(logits - xp.max(logits, axis=-1, keepdims=True))
    return exponentials / xp.sum(exponentials, axis=-1, keepdims=True)


def _floats(logits, xp):
    return np.asarray(logits, "float64") if xp is np else xp.cast(logits, "float32")


# ---- log-odds


def _others(logits, temperature, xp):
    """Returns the logits of all classes but the likeliest, less that one's: `d_i <= 0`."""
    if xp is not np:
        ordered = xp.sort(xp.cast(logits, "float32"), axis=-1)
        return (ordered[..., :-1] - ordered[..., -1:]) / temperature
    place = logits.argmax(axis=-1)[..., None]
    below = np.array(logits, "float64")
    largest = np.take_along_axis(below, place, axis=-1)
    np.put_along_axis(below, place, below[..., -1:], axis=-1)  # the last takes its place
    below = below[..., :-1]
    below -= largest
    if temperature != 1:
        below /= temperature
    return below


# Functions of `d_i`; of the largest of them, `d_2`; of `shift`; and of `exp(d_i - shift)`.
# `r = sum exp d_i`, and `p_1 = 1 / (1 + r)`.


def _max_prob(below, second, shift, ratios, xp):
    return -shift - xp.log(xp.sum(ratios, axis=-1))


def _prob_margin(below, second, shift, ratios, xp):
    total = xp.sum(ratios, axis=-1)
    return xp.log(1 + xp.exp(shift) * total) - shift - xp.log(xp.exp(second - shift) + total)


def _logit_margin(below, second, shift, ratios, xp):
    return -second


def _entropy(below, second, shift, ratios, xp):
    total = xp.sum(ratios, axis=-1)
    whole = 1 + xp.exp(shift) * total
    # log(whole) / (whole - 1), where that is 0 / 0 its limit
    slope = xp.where(whole > 1, xp.log(whole) / xp.where(whole > 1, whole - 1, 1.0), 1.0)
    return -shift - xp.log(total * slope - xp.sum(ratios * below, axis=-1) / whole)


_FORMS = {
    "max_prob": _max_prob,
    "prob_margin": _prob_margin,
    "logit_margin": _logit_margin,
    "entropy": _entropy,
}
CONFIDENCES = tuple(_FORMS)


def log_odds(logits, kind="max_prob", temperatures=None):
    """Returns the log-odds of each answer: its confidence, in the form that is compared.

    A network that is very confident gives probabilities within 1e-7 of 1, which float32 cannot
    tell apart. Their log-odds, a growing function of the confidence, can be:

    - `"max_prob"`, `p`: `log(p / (1 - p))`.
    - `"prob_margin"`, `m`: `-log(1 - m)`.
    - `"logit_margin"`: itself.
    - `"entropy"`, `-H`: `-log(H)`.

    All are computed from differences of logits, and keep their digits for logits of any size.

    Args:
        logits: Array `(exits, samples, classes)`.
        kind: One of the four names.
        temperatures: Array `(exits,)`. `None`: 1 each.

    Returns:
        Float array `(exits, samples)`.

    Raises:
        ValueError: If there is no such kind.

    Example:

    >>> log_odds([[[0.0, 2.0]], [[0.0, 500.0]]]).tolist()
    [[2.0], [500.0]]
    """
    check_choice(CONFIDENCES, confidence=kind)
    divisors = np.ones(len(logits)) if temperatures is None else temperatures
    return np.stack([log_odds_of_exit(z, kind, t) for z, t in zip(logits, divisors, strict=True)])


def log_odds_of_exit(logits, kind, temperature, xp=np):
    """Returns the log-odds of one exit's answers, `(...)`; see `log_odds`.

    Args:
        logits: Array `(..., classes)`.
        kind: As in `log_odds`.
        temperature: Number.
        xp: `numpy` or `keras.ops`.
    """
    if xp is not np:
        return _log_odds(logits, kind, temperature, xp)
    logits = np.asarray(logits)
    found = np.empty(logits.shape[:-1])
    for rows in blocks(logits.shape):
        found[rows] = _log_odds(logits[rows], kind, temperature, np)
    return found


def _log_odds(logits, kind, temperature, xp):
    below = _others(logits, float(temperature), xp)
    second = shift = xp.max(below, axis=-1)
    if kind == "logit_margin":
        ratios = None
    elif xp is np and second.min() > DEEP:  # then nothing that counts is rounded to 0
        shift, ratios = np.zeros_like(second), np.exp(below)
    else:
        ratios = xp.exp(below - second[..., None])
    return _FORMS[kind](below, second, shift, ratios, xp)


def blocks(shape):
    """Yields slices of the first axis: of rows that hold about `BLOCK` numbers together."""
    step = max(1, BLOCK // max(1, int(np.prod(shape[1:]))))
    return (slice(i, i + step) for i in range(0, shape[0], step))


def from_log_odds(values, kind, xp=np):
    """Returns the confidences of which these are the log-odds; infinities stay.

    Args:
        values: Array of log-odds.
        kind: A confidence, or `"learned"`, a probability as `"max_prob"`.
        xp: `numpy` or `keras.ops`.
    """
    if kind == "logit_margin":
        return values
    if kind in ("max_prob", "learned"):
        small = xp.exp(-xp.abs(values))
        found = xp.where(values >= 0, 1.0, small) / (1 + small)
    else:
        small = xp.exp(-values)
        found = 1 - small if kind == "prob_margin" else -small
    return xp.where(xp.abs(values) < np.inf, found, values)


def to_log_odds(thresholds, kind):
    """Returns the log-odds of thresholds that are written as confidences.

    Below what a confidence can be, it is `-inf`: every sample leaves. Above it, it is `inf`.
    A threshold that is some sample's confidence is rounded, as that is; the log-odds are
    lower by that much, at most 1e-6, so that the sample reaches it.

    Args:
        thresholds: Array of numbers.
        kind: As in `from_log_odds`.

    Example:

    >>> to_log_odds([-0.1, 0.5, 1.0], "max_prob").round(6).tolist()
    [-inf, -0.0, inf]
    """
    t = np.asarray(thresholds, "float64")
    if kind == "logit_margin":
        return np.where(t > 0, t, -np.inf)
    with np.errstate(divide="ignore", invalid="ignore"):
        if kind == "entropy":
            found, room = -np.log(-t), -t
            found = np.where(t < 0, found, np.inf)
        else:
            room = 1 - t
            found = -np.log1p(-t) + (0 if kind == "prob_margin" else np.log(t))
            found = np.where(t > 0, np.where(t < 1, found, np.inf), -np.inf)
        rounding = 8 * EPSILON * (1 / room + np.abs(found))
    return np.where(np.isfinite(found), found - np.minimum(rounding, 1e-6), found)


# ---- confidences


def confidence(logits, kind="max_prob", temperatures=None, pixel_floor=0.5):
    """Returns the confidence of each answer; higher is more confident.

    With `p = softmax(logits / temperature)`: `"max_prob"` is `max p`;
    `"prob_margin"` the largest minus the second largest `p`; `"logit_margin"` the
    same of `logits / temperature`; `"entropy"` is `sum p log p`, the negative
    entropy.

    For dense outputs, with one answer per pixel, it is the mean over the pixels whose own
    confidence is above `pixel_floor`; the others are treated as unlabeled. Where
    there is no such pixel it is `-inf`: the sample goes on.

    Args:
        logits: Array `(exits, samples, classes)`, or `(exits, cells, height, width,
            classes)` for dense outputs.
        kind: One of the four names.
        temperatures: Array `(exits,)`. `None`: 1 each.
        pixel_floor: Number, in units of the confidence. Only for dense outputs.

    Returns:
        Float array `(exits, samples)`.

    Raises:
        ValueError: If there is no such kind.

    Example:

    >>> confidence([[[0.0, 0.0]], [[0.0, 2.0]]]).round(3).tolist()
    [[0.5], [0.881]]

    Reference:
        For dense outputs, [Wisdom of Committees (Wang et al., 2022)](
        https://arxiv.org/abs/2012.01988), section 7.2.
    """
    check_choice(CONFIDENCES, confidence=kind)
    divisors = np.ones(len(logits)) if temperatures is None else temperatures
    pairs = zip(logits, divisors, strict=True)
    return np.stack([confidence_of_exit(z, kind, t, pixel_floor) for z, t in pairs])


def confidence_of_exit(logits, kind, temperature, pixel_floor, xp=np):
    """Returns the confidence of one exit's answers, `(samples,)`; see `confidence`.

    Args:
        logits: Array `(samples, classes)`, or `(cells, height, width, classes)`.
        kind, pixel_floor: As in `confidence`.
        temperature: Number.
        xp: `numpy` or `keras.ops`.
    """
    logits = np.asarray(logits) if xp is np else logits

    def each(logits):
        return from_log_odds(log_odds_of_exit(logits, kind, temperature, xp), kind, xp)

    def counted(logits):
        """How many pixels of each cell count, and the sum of their confidences."""
        values = each(logits)
        pixels = tuple(range(1, len(values.shape)))
        counts = values > pixel_floor
        return xp.sum(counts, axis=pixels), xp.sum(xp.where(counts, values, 0), axis=pixels)

    if len(logits.shape) == 2:
        return each(logits)
    if xp is np:
        number, total = np.zeros(len(logits), int), np.zeros(len(logits))
        for cells in blocks(logits.shape):
            part = logits[cells]
            for lines in blocks(part.swapaxes(0, 1).shape):
                found = counted(part[:, lines])
                number[cells] += found[0]
                total[cells] += found[1]
    else:
        number, total = counted(logits)
    return xp.where(number > 0, xp.divide(total, xp.maximum(number, 1)), -np.inf)


def stopping_log_odds(network, logits, xp=np):
    """Returns the log-odds of stopping of a learned policy, `(samples,)`.

    `layers.StoppingPolicy` has the formula, and computes it during training.

    Args:
        network: Three pairs `(kernel, bias)`.
        logits: Array `(samples, classes)`.
        xp: `numpy` or `keras.ops`.

    Raises:
        ValueError: If the network is for another number of classes.
    """
    (w_1, b_1), (w_2, b_2), (w_3, b_3) = network
    shape = np.shape(logits) if xp is np else tuple(logits.shape)
    if len(shape) != 2 or shape[1] != len(w_1):
        raise ValueError(
            f"`logits` must be of shape (exits, samples, {len(w_1)}) for this policy. Received "
            f"for one exit: shape {shape}"
        )
    features = xp.maximum(xp.matmul(softmax(logits, xp), w_1) + b_1, 0)
    features = xp.maximum(xp.matmul(features, w_2) + b_2, 0)
    stop = xp.matmul(features, w_3) + b_3
    return stop[:, 0] - stop[:, 1]
