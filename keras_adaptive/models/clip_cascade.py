"""Cascades for videos: clip after clip, until the prediction is confident."""

import keras
import numpy as np

from keras_adaptive._checks import check_choice, integer, integers
from keras_adaptive.models.cascade import LOOKS, chain, checked_members
from keras_adaptive.training.adaptive_model import keeping


def build_clip_cascade(members, clips, *, exits="clip", from_logits=None):
    """Builds a cascade over the clips of a video, for one network or several.

    The input is a video's clips, `(clips, frames, height, width, channels)`, as
    `cut_clips` makes them. Each member reads all clips, one after
    the other, and the answer is the mean of all logits so far. With `exits="clip"` a video
    may leave after any clip; with `"member"` only after all clips of a member (what the
    paper's table 5 compares, where cost is given for one clip).

    Args:
        members: A built `keras.Model` from a clip to logits, or a list of such, cheap ones
            first, for clips of the same shape.
        clips: Integer, the number of clips of a video: 30 in the paper, 10 places in time
            times 3 in space.
        exits: `"clip"` or `"member"`.
        from_logits: As in `build_cascade`.

    Returns:
        A compiled `AdaptiveModel`, with one exit per clip or per member.

    Raises:
        ValueError: If the members do not fit together.

    Example:

    >>> x = keras.Input((2, 8, 8, 1))
    >>> features = keras.layers.GlobalAveragePooling3D()(keras.layers.Conv3D(4, 1)(x))
    >>> model = keras.Model(x, keras.layers.Dense(10)(features))
    >>> cascade = build_clip_cascade(model, clips=3)
    >>> tuple(cascade.inputs[0].shape), cascade.exit_costs().tolist()
    ((None, 3, 2, 8, 8, 1), [552.0, 1104.0, 1656.0])

    Reference:
        [Wisdom of Committees (Wang et al., 2022)](https://arxiv.org/abs/2012.01988),
        section 7.1. Whether the decision is per clip or per video is not published.
    """
    clips = integer("clips", clips, 1)
    check_choice(("clip", "member"), exits=exits)
    several = isinstance(members, (list, tuple))
    given = members if several else [members]
    members = checked_members(given, from_logits)
    shapes = {tuple(member.inputs[0].shape[1:]) for member in members}
    if len(shapes) > 1:
        raise ValueError(
            f"`members` must take clips of the same shape. Received: {sorted(shapes, key=str)}"
        )
    video = keras.Input((clips, *members[0].inputs[0].shape[1:]), name="video")
    logits = []
    for member in members:
        logits += [member(video[:, clip]) for clip in range(clips)]
    every = clips if exits == "member" else 1
    cascade = chain(video, logits, "mean_logits", "clip_cascade", every)
    return keeping(cascade, given, LOOKS)


def cut_clips(video, frames, size, *, temporal=10, spatial=3):
    """Cuts a video into clips at even distances in time and along its longer side.

    Args:
        video: Array `(frames, height, width, channels)`.
        frames: Integer, of a clip.
        size: Integer, height and width of a clip: at most the video's shorter side. Along
            that side a clip is in the middle.
        temporal: Integer, places in time, from the first frames to the last.
        spatial: Integer, places along the longer side, from end to end; one is in the
            middle.

    Returns:
        Array `(temporal * spatial, frames, size, size, channels)`. The order is the one in
        which evidence is gathered: all times at the middle place, then all times at the
        next.

    Raises:
        ValueError: If the video is too short or too small.

    Example:

    >>> cut_clips(np.zeros((60, 90, 120, 3)), 16, 80).shape
    (30, 16, 80, 80, 3)

    Reference:
        [X3D (Feichtenhofer, 2020)](https://arxiv.org/abs/2004.04730): 10 x 3 views.
    """
    video = np.asarray(video)
    frames, size, temporal, spatial = integers(
        1, frames=frames, size=size, temporal=temporal, spatial=spatial
    )
    if video.ndim != 4 or video.shape[0] < frames or min(video.shape[1:3]) < size:
        raise ValueError(
            f"`video` must be of shape (frames, height, width, channels), with at least "
            f"{frames} frames of {size} x {size}. Received: shape {video.shape}"
        )
    length, height, width, _ = video.shape
    middle = [(n - size) // 2 for n in (height, width)]
    long = int(width >= height)
    clips = []
    for place in _middle_first(_places(video.shape[1 + long] - size, spatial)):
        top, left = (middle[0], place) if long else (place, middle[1])
        for start in _places(length - frames, temporal):
            clips.append(video[start : start + frames, top : top + size, left : left + size])
    return np.stack(clips)


def _places(room, count):
    """Places at even distances from 0 to `room`; one alone is in the middle."""
    if count == 1:
        return [room // 2]
    return np.rint(np.linspace(0, room, count)).astype(int).tolist()


def _middle_first(places):
    middle = (len(places) - 1) / 2
    return [places[i] for i in sorted(range(len(places)), key=lambda i: (abs(i - middle), i))]
