"""Which way of computing is fastest: decided by measured times, never by the answers."""

import functools
import math

import numpy as np

from keras_adaptive.inference._timings import bucket


class Plan:
    """Chooses how a batch is computed. The answers are the same either way.

    - Stage by stage; who is left waits until a batch is full.
    - The first stages of every sample in one function, then stage by stage: where few leave
      early, regrouping costs more than it saves. All stages may be among the first.
    - A conditional function for each sample. Where there is one, single samples always take
      it: going from stage to stage would cost as much as a small stage.

    Args:
        timings: `Timings`.
        stages: Integer, the number of stages.
        batch_size: Integer.
        conditional: Function of one sample and one threshold per stage, or `None`.
        waiting: Integer, how many samples may wait for an answer. 0: each batch is
            answered before the next is read.
    """

    def __init__(self, timings, stages, batch_size, conditional, waiting):
        self.timings = timings
        self.batch_size = batch_size
        self.conditional = conditional
        self.waiting = waiting
        self._left = [1 / stages] * stages  # how many left at each stage; uniform at first
        self._seen, self._chosen_at, self._first = 1, 0, 1

    @functools.cached_property
    def full(self):
        """Samples of a full batch, for each stage: see `Timings.full`."""
        stages = range(len(self._left))
        return [self.timings.full(k, self.batch_size, self.waiting) for k in stages]

    def bucket(self, k, samples):
        """Returns the batch size at which stage `k` runs so many samples."""
        return bucket(samples, self.full[k])

    def learn(self, stage, samples):
        """Records that so many samples left at a stage."""
        self._left[stage] += samples
        self._seen += samples

    def choose(self):
        """Returns how many stages should run together at first; 0: samples one by one.

        That is fastest if samples continue to leave as they did. The choice is made anew
        when a tenth more samples have been seen than the last time.
        """
        if self.conditional is not None and self.batch_size == 1:
            return 0
        if self._seen > 1.1 * self._chosen_at:
            found = self.seconds()
            self._first = min(found, key=found.get)
            self._chosen_at = self._seen
        return self._first

    def seconds(self):
        """Returns the expected seconds per sample of each choice that may be the fastest."""
        count, size = len(self._left), self.full[0]
        leaving = np.array(self._left) / sum(self._left)
        arriving = np.append(1, 1 - np.cumsum(leaving)[:-1])
        # first, since it times the stages beside it
        together = self.timings.first(count, size) / size if count > 1 else None
        everybody = [self.timings.stage(k, size) / size for k in range(count)]
        survivors = [0, *(self._survivors(k, arriving[k]) for k in range(1, count))]
        found = {1: everybody[0] + sum(survivors)}
        if count > 1:
            found[count] = together
        # another number is only measured if it may be better, as all stages together tell
        guess = {
            n: together * sum(everybody[:n]) / sum(everybody) + sum(survivors[n:])
            for n in range(2, count)
        }
        best = min(guess, key=guess.get, default=None)
        if best and guess[best] < min(found.values()):
            found[best] = self.timings.first(best, size) / size + sum(survivors[best:])
        copied = self.timings.regrouping(0, size)
        found = {n: copied + seconds for n, seconds in found.items()}
        if self.conditional is not None:
            taken = [self.timings.conditional(self.conditional, k) for k in range(count)]
            found[0] = leaving @ taken
        return {n: float(seconds) for n, seconds in found.items()}

    def _survivors(self, k, arriving):
        """Seconds per sample of stage `k` and of regrouping, if this fraction arrives."""
        copied = arriving * self.timings.regrouping(k, self.full[k])
        if self.waiting:
            return copied + arriving * self.timings.stage(k, self.full[k]) / self.full[k]
        return copied + self._seconds(k, math.ceil(arriving * self.batch_size)) / self.batch_size

    def _seconds(self, k, samples):
        """Seconds of stage `k` for so many samples: full batches and a rest."""
        batches, rest = divmod(samples, self.full[k])
        last = self.timings.stage(k, self.bucket(k, rest)) if rest else 0
        return batches * self.timings.stage(k, self.full[k]) + last

    def regroup(self, k, size, staying, pooled, ending):
        """Returns whether the samples that stay should be copied together before stage `k`.

        The alternative is to continue with the whole batch, those that have left included.

        Args:
            k: Integer, the stage to come.
            size: Integer, samples in the batch.
            staying: Integer, those that have not left.
            pooled: Integer, samples that already wait for that stage.
            ending: Boolean, whether no more samples will come.
        """
        full = self.full[k]
        if staying == size == full:
            return False
        copying = staying * self.timings.regrouping(k, full)
        if ending:
            own = self._seconds(k, pooled + staying) - self._seconds(k, pooled)
        else:
            own = staying * self.timings.stage(k, full) / full
        return copying + own < self.timings.stage(k, size)
