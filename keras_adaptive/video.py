"""Cuts videos into the clips that a clip cascade looks at."""

import numpy as np


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
    numbers = (frames, size, temporal, spatial)
    if any(isinstance(n, bool) or not isinstance(n, int) or n < 1 for n in numbers):
        raise ValueError(
            "`frames`, `size`, `temporal` and `spatial` must be positive integers. "
            f"Received: frames={frames}, size={size}, temporal={temporal}, spatial={spatial}"
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
