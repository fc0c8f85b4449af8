"""How long the stages of a network take here, learned from a clock that may be coarse."""

import time
from collections.abc import Callable

# ticks of the clock, that runs must last together to be learned from
_IN_A_ROW = 8  # the error is then an eighth at most
_SCATTERED = (
    64  # among other work each run may meet a tick by chance: so the deviation is an eighth
)
_READS = 1000  # of the clock in a row, to see a tick
_MOST = 4096  # runs in one measurement; a clock that stands still would take for ever


class StageTimes:
    """Expected time of each stage: follows what it lately took.

    The clock of a browser or of an old system moves in steps of up to 16 ms. A stage is often
    shorter, and then seems to take no time, or a whole step. So times are added up, over as many
    runs as it takes until they are many steps of the clock.

    Args:
        stages: Integer.

    Attributes:
        expected_ms: List of floats, one per stage.
    """

    def __init__(self, stages: int) -> None:
        self.expected_ms = [0.0] * stages
        self._fastest_ms = [float("inf")] * stages
        self._sums = [(0.0, 0)] * stages  # milliseconds and runs that are not yet learned from
        reads = [1000 * time.perf_counter() for _ in range(_READS)]
        self._tick_ms = float("inf")  # the shortest time the clock has shown
        for before, now in zip(reads, reads[1:], strict=False):
            self._see(now - before)

    def measure(self, run: Callable[[int], object], times: int) -> None:
        """Measures every stage, before anything is known.

        Args:
            run: Function that runs a stage, whose number it takes; from the first to the last.
            times: Integer, how often at least.
        """
        stages = range(len(self.expected_ms))
        for _ in range(times):
            for i in stages:  # the fastest, which nothing disturbed
                self._fastest_ms[i] = min(self._fastest_ms[i], self._timed(run, i, 1))
        for i in stages:
            runs, took = 1, self._fastest_ms[i]
            while took < _IN_A_ROW * self._tick_ms and runs < _MOST:
                runs *= 2
                took = self._timed(run, i, runs)
                for _ in range(2):
                    # the least of three: what else the machine did is not the stage's time
                    if took >= _IN_A_ROW * self._tick_ms:
                        took = min(took, self._timed(run, i, runs))
            self._fastest_ms[i] = took / runs
        self.expected_ms[:] = self._fastest_ms

    def _timed(self, run: Callable[[int], object], stage: int, runs: int) -> float:
        start = time.perf_counter()
        for _ in range(runs):
            run(stage)
        took = 1000 * (time.perf_counter() - start)
        self._see(took)
        return took

    def _see(self, took_ms: float) -> None:
        if took_ms > 0:
            self._tick_ms = min(self._tick_ms, took_ms)

    def learn(self, stage: int, took_ms: float) -> None:
        """Follows the time a stage takes: up quickly, down slowly, unmoved by one hiccup."""
        self._see(took_ms)
        total, runs = self._sums[stage]
        total, runs = total + took_ms, runs + 1
        if total < _SCATTERED * self._tick_ms and self.expected_ms[stage]:
            self._sums[stage] = total, runs
            return
        self._sums[stage] = 0.0, 0
        mean = total / runs
        self._fastest_ms[stage] = min(self._fastest_ms[stage], mean)
        expected = self.expected_ms[stage]
        change = mean - expected
        # from nothing it can only go up by what was seen
        most = 0.25 * expected if expected else change
        self.expected_ms[stage] += min(0.5 * change, most) if change > 0 else 0.05 * change

    def forget_slowly(self, stage: int) -> None:
        """Expects a little less of a stage that was not begun for lack of time."""
        expected = 0.99 * self.expected_ms[stage]
        self.expected_ms[stage] = max(expected, self._fastest_ms[stage])
