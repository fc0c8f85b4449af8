"""Confidence of an answer: logits (..., classes) to numbers (...).

The rule is written once, against an array namespace `xp`: `numpy` for cached logits, where
it computes in float64, and `keras.ops` inside graphs, in float32. Of `xp` it uses what
both have.
"""

import numpy as np

from keras_adaptive._checks import check_choice


def softmax(logits, xp=np):
    """Returns class probabilities, `exp(z) / sum(exp(z))`, over the last axis."""
    exponentials = xp.exp(_shifted(_floats(logits, xp), xp))
    return exponentials / xp.sum(exponentials, axis=-1, keepdims=True)


def _floats(logits, xp):
    return np.asarray(logits, "float64") if xp is np else xp.cast(logits, "float32")


def _shifted(logits, xp):
    return logits - xp.max(logits, axis=-1, keepdims=True)


def _max_prob(logits, xp):
    return 1 / xp.sum(xp.exp(_shifted(logits, xp)), axis=-1)


def _margin(values, xp):
    ordered = xp.sort(values, axis=-1)
    return ordered[..., -1] - ordered[..., -2]


def _prob_margin(logits, xp):
    return _margin(softmax(logits, xp), xp)


def _entropy(logits, xp):
    shifted = _shifted(logits, xp)
    exponentials = xp.exp(shifted)
    total = xp.sum(exponentials, axis=-1)
    return xp.sum(exponentials * shifted, axis=-1) / total - xp.log(total)


CONFIDENCES = {
    "max_prob": _max_prob,
    "prob_margin": _prob_margin,
    "logit_margin": _margin,
    "entropy": _entropy,
}


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
    check_choice(tuple(CONFIDENCES), confidence=kind)
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
    logits = _floats(logits, xp)
    values = CONFIDENCES[kind](logits if temperature == 1 else logits / float(temperature), xp)
    if len(values.shape) == 1:
        return values
    counted = values > pixel_floor
    pixels = tuple(range(1, len(values.shape)))
    number = xp.sum(counted, axis=pixels)
    total = xp.sum(xp.where(counted, values, 0), axis=pixels)
    return xp.where(number > 0, xp.divide(total, xp.maximum(number, 1)), -np.inf)


def stopping_probability(network, logits, xp=np):
    """Returns the probability of stopping of a learned policy, `(samples,)`.

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
    return softmax(xp.matmul(features, w_3) + b_3, xp)[:, 0]
