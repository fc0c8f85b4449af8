"""`FrameStream`: the answers to a video, of which each is kept while the scene stays the same."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import TYPE_CHECKING

import numpy as np

from anytime_tflite.inputs import Image, WrongTypeError
from anytime_tflite.limits import as_float
from anytime_tflite.rule import Array

if TYPE_CHECKING:
    from anytime_tflite.anytime import Answer

_UNFINISHED = ("deadline", "cancelled")  # answers that a whole scene must not be given


class FrameStream(Iterator["Answer"]):
    """An iterator of one `Answer` per frame; made by `AnytimeModel.stream_frames`.

    It holds all that is remembered of earlier frames, so several of them may run over one model.
    A frame is taken, and computed, when its answer is asked for. Where a frame is refused, the
    next one can still be asked for.

    Attributes:
        tau: Float; may be changed between frames.

    Example:

    ```python
    stream = model.stream_frames(camera, tau=0.1)
    for answer in stream:
        if camera.has_moved():
            stream.reset()
    ```
    """

    def __init__(
        self,
        classify: Callable[[Image, str, FrameStream], Answer],
        frames: Iterable[Image],
        tau: float,
    ) -> None:
        self.tau = tau
        one = isinstance(frames, str | bytes | Mapping) or getattr(frames, "shape", None) == ()
        if one or not isinstance(frames, Iterable):
            raise WrongTypeError(
                "`frames` must be an array of frames, or an iterable of them. "
                f"Received: a {type(frames).__name__}"
            )
        self._classify = classify
        self._frames = enumerate(frames)
        self.reset()

    @property
    def tau(self) -> float:
        return self._tau

    @tau.setter
    def tau(self, tau: float) -> None:
        number = as_float(tau)
        if number is None or not number >= 0:
            raise (WrongTypeError if number is None else ValueError)(
                f"`tau` must be a number of at least 0. Received: {tau=}"
            )
        self._tau = number

    def reset(self) -> None:
        """Forgets the scene: the next frame begins another, whatever it shows."""
        self._first: Array | None = None  # what the first exit said of the scene's first frame
        self._answer: Answer | None = None

    def __next__(self) -> Answer:
        number, frame = next(self._frames)
        return self._classify(frame, f"frames[{number}]", self)

    def answer_for(self, probabilities: Array) -> Answer | None:
        """Returns the scene's answer if a frame belongs to it; if not, begins a scene with it.

        Args:
            probabilities: Array `(classes,)`, what the first exit says of the frame.
        """
        first, answer = self._first, self._answer
        if first is not None and answer is not None:
            near = math.dist(probabilities, first) <= self.tau
            if near and probabilities.argmax() == first.argmax():
                return answer
        self._first, self._answer = np.array(probabilities), None
        return None

    def keep(self, answer: Answer) -> None:
        """Gives the scene that was begun its answer, unless that might have become better."""
        if answer.stopped_by not in _UNFINISHED:
            self._answer = answer
