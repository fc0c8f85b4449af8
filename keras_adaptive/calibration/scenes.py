"""Temporal patience: which frames of a video share an answer, and how alike they must be."""

import numpy as np

from keras_adaptive._checks import check_labels, check_logits, finite, numeric
from keras_adaptive.policy.confidence import softmax
from keras_adaptive.policy.policy import Policy, UnreachableTargetError

# up to the distance of two different classes that are certain: from there on, labels decide
TAUS = np.append(0.0, np.geomspace(1e-4, np.sqrt(2), 60))


def scene_starts(probabilities, tau):
    """Returns the frame that begins the scene of each frame of a video.

    A frame belongs to the scene of the frame before it, whose first frame is `s`, if

        ||p_t - p_s|| <= tau  and  argmax p_t = argmax p_s,

    and begins a scene if not. `anytime_tflite.AnytimeModel.stream_frames` computes frames that
    begin a scene, and gives the others the answer of theirs after the first stage. So with
    `answers` and `exits` of every frame computed alone, and `starts` the result,

        answers[starts]  and  where(starts == arange(frames), costs[exits], costs[first])

    are what it answers and spends.

    Args:
        probabilities: Array `(frames, classes)`, at the first exit, in the order of time.
        tau: Number of at least 0, or a sequence of such.

    Returns:
        Integer array `(frames,)`; `(taus, frames)` for a sequence.

    Raises:
        ValueError: If an argument is not as said.

    Example:

    >>> probabilities = [[0.9, 0.1], [0.8, 0.2], [0.6, 0.4], [0.5, 0.5]]
    >>> scene_starts(probabilities, tau=0.2)
    array([0, 0, 2, 2])

    Reference:
        [Temporal Decisions: Leveraging Temporal Correlation for Efficient Decisions in Early Exit
        Neural Networks (Sponner et al., 2024)](https://arxiv.org/abs/2403.07958).
    """
    probabilities, taus = _numbers(probabilities), _numbers(tau)
    if probabilities.ndim != 2 or not probabilities.size or not np.isfinite(probabilities).all():
        raise ValueError(
            "`probabilities` must be finite numbers of shape (frames, classes). "
            f"Received: shape {probabilities.shape}"
        )
    if taus.ndim > 1 or not (taus >= 0).all():
        raise ValueError(f"`tau` must be a number of at least 0. Received: tau={tau}")
    labels = probabilities.argmax(axis=1)
    starts = np.zeros((len(probabilities), *taus.shape), int)
    start = starts[0]
    for t in range(1, len(probabilities)):
        distance = np.linalg.norm(probabilities[t] - probabilities[start], axis=-1)
        same = (distance <= taus) & (labels[t] == labels[start])
        starts[t] = start = np.where(same, start, t)
    return starts.T


def _numbers(values):
    """Returns an array; NaN in place of what holds no numbers."""
    try:
        return numeric(values)
    except (TypeError, ValueError):
        return np.array(np.nan)


def fit_tau(policy, logits, labels, max_loss=0.01):
    """Returns how far the first exit's probabilities may move while a scene stays the same.

    Of 61 numbers from 0 to `sqrt(2)`, in equal ratios, it is the largest `tau` up to which none
    loses more than `max_loss` of the accuracy that the policy has on every frame alone. With the
    policy's own answers as `labels`, `max_loss` is the share of frames that may be answered
    otherwise.

    The frames must be of many scenes that change as in use, and used neither for training nor
    for choosing the policy. Frames of one scene are not independent: what counts is how many
    scenes there are. It is no guarantee for another video.

    Args:
        policy: What decides the exit of each frame alone, such as an `ExitPolicy`.
        logits: Array `(exits, frames, classes)` of a held-out video, in the order of time.
        labels: Integer array `(frames,)`.
        max_loss: Number of at least 0.

    Returns:
        Number, for `AnytimeModel.stream_frames(frames, tau)` and `scene_starts`.

    Raises:
        TypeError: If `policy` is no policy.
        ValueError: If another argument is not as said.
        UnreachableTargetError: If even frames of which the first exit says the same lose more.

    Example:

    >>> from keras_adaptive import ExitPolicy
    >>> first = [[3.0, 0.0], [2.5, 0.0], [2.2, 0.0], [0.5, 0.0]]   # sure, and less and less so
    >>> last = [[9.0, 0.0], [9.0, 0.0], [9.0, 0.0], [0.0, 9.0]]
    >>> tau = fit_tau(ExitPolicy([0.99, 0.0]), [first, last], [0, 0, 0, 1], max_loss=0)
    >>> probabilities = np.exp(first) / np.exp(first).sum(axis=1, keepdims=True)
    >>> scene_starts(probabilities, tau)   # the last frame is not given the first one's answer
    array([0, 0, 0, 3])
    """
    if not isinstance(policy, Policy):
        raise TypeError(
            f"`policy` must be a policy, such as an ExitPolicy. Received: policy={policy!r}"
        )
    logits = check_logits(logits)
    if logits.ndim != 3:
        raise ValueError(
            f"`logits` must be of shape (exits, frames, classes). Received: shape {logits.shape}"
        )
    labels, max_loss = check_labels(labels, logits), finite(max_loss, "max_loss")
    if max_loss < 0:
        raise ValueError(
            f"`max_loss` must be a number of at least 0. Received: max_loss={max_loss}"
        )
    exits = policy.decide(logits)
    alone = logits[exits, np.arange(len(labels))].argmax(axis=-1)
    first = policy.exits_of(len(logits))[0]
    temperature = 1.0 if policy.temperatures is None else policy.temperatures[first]
    starts = scene_starts(softmax(logits[first] / temperature), TAUS)
    answers = alone[starts]
    losses = (alone == labels).mean() - (answers == labels).mean(axis=1)
    enough = np.flatnonzero(losses > max_loss + 1e-9)
    if len(enough) and enough[0] == 0:
        raise UnreachableTargetError(
            "`max_loss` must be at least what frames lose of which the first exit says exactly the "
            f"same, {losses[0]:.4g}. Received: max_loss={max_loss}"
        )
    return float(TAUS[enough[0] - 1 if len(enough) else -1])
