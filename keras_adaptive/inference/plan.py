"""Which way of computing is fastest: decided by measured times, never by the answers."""

import numpy as np

ONE_BY_ONE = 8  # up to this batch size, samples may run one by one


class Plan:
    """Chooses how a batch is computed. The answers are the same either way.

    - `"stages"`: stage by stage; who is left waits until a batch is full.
    - `"together"`: every exit of every sample, in one function.
    - `"one by one"`: a conditional function for each sample.

    Args:
        timings: `Timings`.
        stages: Integer, the number of stages.
        batch_size: Integer.
        conditional: The conditional function, or `None`.
    """

    def __init__(self, timings, stages, batch_size, conditional):
        self.timings = timings
        self.batch_size = batch_size
        self.conditional = conditional if batch_size <= ONE_BY_ONE else None
        self._left = [1 / stages] * stages  # who left where; at first: no idea
        self._seen, self._chosen_at, self._way = 1, 0, None

    def learn(self, stage, samples):
        """Takes notice that so many samples left at a stage."""
        self._left[stage] += samples
        self._seen += samples

    def choose(self):
        """Returns the way that is fastest if samples go on leaving as they did.

        It is thought over when a tenth more samples have been seen than the last time.
        """
        if self._seen > 1.1 * self._chosen_at:
            found = self.seconds()
            self._way = min(found, key=found.get)
            self._chosen_at = self._seen
        return self._way

    def seconds(self):
        """Returns the expected seconds a sample of each way that can be taken."""
        full, count = self.batch_size, len(self._left)
        leaving = np.array(self._left) / sum(self._left)
        arriving = np.append(1, 1 - np.cumsum(leaving)[:-1])
        each = [self.timings.stage(k, full) / full for k in range(count)]
        copies = [self.timings.regrouping(k, full) for k in range(count)]
        found = {
            "stages": arriving @ (np.array(each) + copies),
            "together": self.timings.together(full) / full,
        }
        if self.conditional is not None:
            taken = [self.timings.conditional(self.conditional, k) for k in range(count)]
            found["one by one"] = leaving @ taken
        return {way: float(seconds) for way, seconds in found.items()}

    def regroup(self, k, size, staying, waiting, ending, bucket):
        """Tells whether who stays should be copied together before stage `k`.

        The alternative is to go on with the whole batch, those that have left included.

        Args:
            k: Integer, the stage to come.
            size: Integer, samples in the batch.
            staying: Integer, those that have not left.
            waiting: Integer, samples that already wait for that stage.
            ending: Boolean, whether no more samples will come.
            bucket: Function: samples to the batch size at which they run.
        """
        if staying == size == self.batch_size:
            return False
        copying = staying * self.timings.regrouping(k, self.batch_size)
        whole = self.timings.stage(k, size)
        if not ending:
            share = staying / self.batch_size
            return copying + share * self.timings.stage(k, self.batch_size) < whole

        def seconds(samples):
            full, rest = divmod(samples, self.batch_size)
            last = self.timings.stage(k, bucket(rest)) if rest else 0
            return full * self.timings.stage(k, self.batch_size) + last

        return copying + seconds(waiting + staying) - seconds(waiting) < whole
