"""How long each part of a network takes on this machine, measured once and kept."""

import functools
import time

import numpy as np

from keras_adaptive.inference.memory import aligned, copy_rows

REPEATS = 5
ENOUGH = 0.5  # seconds; what is slow is measured less often, but at least twice


def median_seconds(function):
    """Returns the median duration of a call, after one that is not counted."""
    function()
    taken = []
    while len(taken) < 2 or (len(taken) < REPEATS and sum(taken) < ENOUGH):
        start = time.perf_counter()
        function()
        taken.append(time.perf_counter() - start)
    return float(np.median(taken))


def bucket(size, batch_size):
    """Returns the batch size at which so many samples run: few sizes, each prepared once.

    The next power of two, but no more than a full batch.

    Example:

    >>> [bucket(n, 48) for n in (1, 3, 32, 33, 48)]
    [1, 4, 32, 48, 48]
    """
    return min(1 << (size - 1).bit_length(), batch_size)


class Timings:
    """A table of seconds, filled when an entry is first asked for.

    Each entry depends on the network, the number of samples and the threads of this
    process alone, never on the samples or on where they leave.

    Args:
        stages: `Stages`.
    """

    def __init__(self, stages):
        self._stages = stages
        # per instance, so that the table goes when its owner does
        self.stage = functools.cache(self._stage)
        self.together = functools.cache(self._together)
        self.regrouping = functools.cache(self._regrouping)
        self.conditional = functools.cache(self._conditional)

    def _blank(self, k, size):
        tensors = []
        for name in self._stages.takes[k]:
            shape, dtype = self._stages.specs[name]
            tensors.append(aligned((size, *shape), dtype))
            tensors[-1][...] = 0
        return tensors

    def _stage(self, k, size):
        """Seconds of stage `k` for so many samples."""
        tensors = self._blank(k, size)
        return median_seconds(lambda: np.asarray(self._stages.stage(k, tensors)[0]))

    def _together(self, size):
        """Seconds of all stages in one function."""
        (images,) = self._blank(0, size)
        return median_seconds(lambda: [np.asarray(z) for z in self._stages.together(images)])

    def _regrouping(self, k, size):
        """Seconds a sample to copy what stages from `k` on read, for batches of this size."""
        later = self._stages.takes[k:]
        names = {name for takes in later for name in takes if name not in self._new_from(k)}
        rows = np.arange(0, size, 2)
        seconds = 0.0
        for name in names:
            shape, dtype = self._stages.specs[name]
            source, target = (aligned((size, *shape), dtype) for _ in range(2))
            source[...] = target[...] = 0
            seconds += median_seconds(lambda s=source, t=target: copy_rows(s, rows, t[: len(rows)]))
        return seconds / len(rows)

    def _new_from(self, k):
        return {name for gives in self._stages.gives[k:] for name in gives}

    def _conditional(self, function, k):
        """Seconds for one sample that leaves at stage `k`, in a conditional function."""
        (image,) = self._blank(0, 1)
        thresholds = np.full(len(self._stages), np.inf, "float32")
        thresholds[k] = -np.inf
        return median_seconds(lambda: function(image, thresholds))
