"""Measured times of the parts of a network on this machine, each measured once."""

import functools
import time

import keras
import numpy as np

from keras_adaptive.inference._conditional import leaving_at
from keras_adaptive.inference._memory import aligned, copy_rows

# these decide how long the library measures
REPEATS = 30  # timed calls
ENOUGH = 2.0  # seconds; slow functions are timed less often, but at least four times
CHOOSING = 0.2  # seconds to find out which of two functions is faster

FULL = 64  # samples that a stage may run with, whatever the batch size


def median_seconds(function):
    """Returns the median duration of a call: see `medians_in_turn`."""
    return medians_in_turn([function])[0]


def medians_in_turn(functions, warm=0):
    """Returns the median duration in seconds of each function's calls, made in turn.

    In turn, because stages will run one after the other, and one may evict from the caches
    what another has left there. The first call is not counted, nor is a third of the others:
    a new function takes a few calls to reach its final speed.

    Args:
        functions: Sequence of functions without arguments.
        warm: Integer, uncounted calls before each counted one, for functions of which only
            one will run repeatedly.
    """
    for function in functions:
        function()
    taken = []
    while len(taken) < 4 or (len(taken) < REPEATS and np.sum(taken) < ENOUGH):
        taken.append([[_seconds(f) for _ in range(1 + warm)][-1] for f in functions])
    return np.median(taken[len(taken) // 3 :], axis=0).tolist()


def _seconds(function):
    start = time.perf_counter()
    function()
    return time.perf_counter() - start


def bucket(size, batch_size):
    """Returns the batch size at which so many samples run, one of a few sizes.

    It is the next power of two, but no more than a full batch.

    Example:

    >>> [bucket(n, 48) for n in (1, 3, 32, 33, 48)]
    [1, 4, 32, 48, 48]
    """
    return min(1 << (size - 1).bit_length(), batch_size)


class Timings:
    """A table of seconds, filled when an entry is first asked for.

    Stages are timed once more beside the first in one function: only what is timed in turn
    can be compared on a machine that does other things, too.

    Each entry depends on the network, the number of samples and the threads of this
    process alone, never on the samples or on where they leave.

    Args:
        stages: `Stages`.
    """

    def __init__(self, stages):
        self._stages = stages
        # per instance, so that the table goes when its owner does
        self.regrouping = functools.cache(self._regrouping)
        self._leaving = functools.cache(self._time_leaving)
        self._every_stage = {}  # number of samples to the seconds of all stages
        self._first = {}  # number of stages, number of samples to seconds

    def full(self, k, batch_size, waiting):
        """Returns with how many samples stage `k` runs if it has a choice.

        With as many as are read together or with `FULL`, whichever takes less time per
        sample; with more than are read together only if so many may wait, and the first
        stage not with fewer. Single samples stay single.
        """
        if batch_size == 1 or max(batch_size, waiting) < FULL or (k == 0 and batch_size > FULL):
            return batch_size

        def seconds(size):
            return self.stage(k, size) / size + self.regrouping(k, size)

        return min(FULL, batch_size, key=seconds)

    def _images(self, size):
        shape, dtype = self._stages.specs[self._stages.inputs[0][0]]
        images = aligned((size, *shape), dtype)
        images[...] = 0
        return images

    def stage(self, k, size):
        """Seconds of stage `k` for so many samples."""
        if size not in self._every_stage:
            self._every_stage[size] = medians_in_turn(self._stage_runs(size))
        return self._every_stage[size][k]

    def _stage_runs(self, size):
        """Functions that run one stage each, on the features of the stages before.

        As in prediction, features have just been written by the stage before; on the same
        memory every time, stages would be up to a fifth faster.
        """
        tensors = {self._stages.inputs[0][0]: self._images(size)}

        def run(k):
            inputs = [tensors[name] for name in self._stages.inputs[k]]
            answer, *features = self._stages.stage(k, inputs)
            tensors.update(zip(self._stages.outputs[k], features, strict=True))
            return np.asarray(answer)

        return [functools.partial(run, k) for k in range(len(self._stages))]

    def first(self, count, size):
        """Seconds of the first stages in one function."""
        if (count, size) not in self._first:
            images = self._images(size)

            def run():
                return [np.asarray(z) for z in self._stages.first(count, images)[0]]

            found = medians_in_turn([run, *self._stage_runs(size)])
            self._first[count, size], *self._every_stage[size] = found
        return self._first[count, size]

    def _regrouping(self, k, size):
        """Seconds per sample to copy what stages from `k` on read, at this batch size."""
        rows = np.arange(0, size, 2)
        seconds = 0.0
        for name in self._stages.carried(k):
            shape, dtype = self._stages.specs[name]
            source, target = (aligned((size, *shape), dtype) for _ in range(2))
            source[...] = target[...] = 0
            seconds += median_seconds(lambda s=source, t=target: copy_rows(s, rows, t[: len(rows)]))
        return seconds / len(rows)

    def conditional(self, function, k):
        """Seconds for one sample that leaves at stage `k`, in a conditional function."""
        return self._leaving(function)[k]

    def _time_leaving(self, function):
        image, count = self._images(1), len(self._stages)
        thresholds = [keras.ops.convert_to_tensor(leaving_at(k, count)) for k in range(count)]
        ways = [functools.partial(function, image, given) for given in thresholds]
        return medians_in_turn(ways, warm=2)
