"""How sure an answer looks: logits (..., classes) to numbers (...)."""

import numpy as np


def _shifted(logits):
    logits = np.asarray(logits, "float64")
    return logits - logits.max(axis=-1, keepdims=True)


def softmax(logits):
    """Returns class probabilities, `exp(z) / sum(exp(z))`, over the last axis."""
    exponentials = np.exp(_shifted(logits))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _max_prob(logits):
    return 1 / np.exp(_shifted(logits)).sum(axis=-1)


def _margin(values):
    top = np.partition(values, -2, axis=-1)
    return top[..., -1] - top[..., -2]


def _prob_margin(logits):
    return _margin(softmax(logits))


def _logit_margin(logits):
    return _margin(np.asarray(logits, "float64"))


def _entropy(logits):
    shifted = _shifted(logits)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=-1)
    return (exponentials * shifted).sum(axis=-1) / total - np.log(total)


CONFIDENCES = {
    "max_prob": _max_prob,
    "prob_margin": _prob_margin,
    "logit_margin": _logit_margin,
    "entropy": _entropy,
}


def confidence(logits, kind="max_prob", temperatures=None, pixel_floor=0.5):
    """Returns how sure each answer looks; higher is surer.

    With `p = softmax(logits / temperature)`: `"max_prob"` is `max p`;
    `"prob_margin"` the largest minus the second largest `p`; `"logit_margin"` the
    same of `logits / temperature`; `"entropy"` is `sum p log p`, the negative
    entropy.

    Of dense outputs, one answer a pixel, it is the mean over the pixels whose own
    confidence is above `pixel_floor`; the others are taken for unlabelled. Where
    there is no such pixel it is `-inf`: go on.

    Args:
        logits: Array `(exits, samples, classes)`, or `(exits, cells, height, width,
            classes)` for dense outputs.
        kind: One of the four names.
        temperatures: Array `(exits,)`. `None`: 1 each.
        pixel_floor: Number, in units of the confidence. Only for dense outputs.

    Returns:
        Float array `(exits, samples)`.

    Example:

    >>> confidence([[[0.0, 0.0]], [[0.0, 2.0]]]).round(3).tolist()
    [[0.5], [0.881]]

    Reference:
        For dense outputs, [Wisdom of Committees (Wang et al., 2022)](
        https://arxiv.org/abs/2012.01988), section 7.2.
    """
    check_kind(kind)
    divisors = np.ones(len(logits)) if temperatures is None else temperatures
    pairs = zip(logits, divisors, strict=True)
    return np.stack([one_exit(z, kind, t, pixel_floor) for z, t in pairs])


def one_exit(logits, kind, temperature, pixel_floor):
    """Returns the confidence of one exit's answers, `(samples,)`; see `confidence`."""
    logits = np.asarray(logits)
    sure = CONFIDENCES[kind](logits if temperature == 1 else logits / temperature)
    if sure.ndim == 1:
        return sure
    counted = sure > pixel_floor
    pixels = tuple(range(1, sure.ndim))
    number = counted.sum(axis=pixels)
    total = np.where(counted, sure, 0).sum(axis=pixels)
    return np.where(number > 0, total / np.maximum(number, 1), -np.inf)


def check_kind(kind):
    """Raises a ValueError if there is no such confidence."""
    if kind not in tuple(CONFIDENCES):
        raise ValueError(
            f"`confidence` must be one of {tuple(CONFIDENCES)}. Received: confidence={kind}"
        )
