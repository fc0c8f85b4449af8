"""The workers that threads share: each is an interpreter that computes one sample at a time."""

import os
import queue
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import numpy as np

from anytime_tflite.anytime import AnytimeModel
from anytime_tflite.backends import Backend
from anytime_tflite.rule import Array


class SampleError(Exception):
    """A sample of several cannot be computed.

    Attributes:
        sample: Integer, which one.
    """

    def __init__(self, sample: int, reason: str) -> None:
        super().__init__(reason)
        self.sample = sample

    def counted_from(self, start: int) -> RuntimeError:
        """Returns the error that users see, of a portion that begins with sample `start`."""
        return RuntimeError(f"Sample {start + self.sample} of `x` cannot be computed: {self}")


class Worker(AnytimeModel):
    """A model that prepares only what it runs: the single call, the stages, or both."""

    _eager = False

    def prepare_stages(self) -> None:
        """Makes the stages ready and measures them, unless that was done."""
        if not self._expected_ms[0]:
            self._warm_up()

    def answers(
        self, tensors: dict[str, Array], samples: int, limits: list[float]
    ) -> tuple[Array, Array, Array, Array]:
        """Returns probabilities, labels, exits and costs of samples, one after another.

        Args:
            tensors: The network's inputs by name, `(samples, ...)`.
            samples: Integer.
            limits: One threshold per stage.

        Raises:
            SampleError: If a sample cannot be computed.
        """
        logits, stages, costs = [], np.empty(samples, int), np.empty(samples)
        thresholds, whole, macs = np.asarray(limits, "float32"), self._single_call(), self._macs
        backend = self._open()
        for i in range(samples):
            one = {name: array[i : i + 1] for name, array in tensors.items()}
            try:
                if whole:
                    found, stage = self._whole(backend, one, thresholds)
                else:
                    found, stage = self._stage_by_stage(backend, one, limits)
            except (RuntimeError, ValueError) as error:
                raise SampleError(i, str(error).strip()) from error
            logits.append(found)
            stages[i], cost = stage, backend.cost
            costs[i] = cost if cost is not None else np.nan if macs is None else macs[stage]
        answers = np.stack(logits)
        exponentials = np.exp(answers - answers.max(axis=1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
        exits = np.asarray(self.exits)[stages]
        return probabilities.astype("float32"), answers.argmax(axis=1), exits, costs

    def _stage_by_stage(
        self, backend: Backend, tensors: dict[str, Array], limits: list[float]
    ) -> tuple[Array, int]:
        """Returns the logits, divided by the temperature, and the stage at which to stop."""
        run, start = self._run(None, limits, None), time.perf_counter()
        backend.start(tensors)
        stages = range(len(self.exits))
        stage = next(i for i in stages if self._stage(backend, i, run, start, self._cancel))
        return run.logits, stage


class Turn:
    """A thread that waits for a worker."""

    def __init__(self) -> None:
        # not an event, whose lock an interruption by the keyboard leaves held
        self.came: queue.SimpleQueue[None] = queue.SimpleQueue()
        self.worker: Worker | None = None


class Pool:
    """Workers of which each thread takes one for a while; who waits longest is next.

    Args:
        make: Function that makes a worker. The first is made at once, the others when they
            are needed.
        size: Integer, how many there are at most.

    Attributes:
        size: Integer.
        first: The first worker.
    """

    def __init__(self, make: Callable[[], Worker], size: int) -> None:
        self.size = size
        self.first = make()
        self._make = make
        self._made = 1
        self._free = [self.first]
        self._waiting: deque[Turn] = deque()
        self._lock = threading.Lock()
        self._closed = False
        self._process = os.getpid()

    def check(self) -> None:
        """Raises an error if no worker can be taken any more."""
        if os.getpid() != self._process:
            raise RuntimeError(
                "A predictor must be used in the process that opened it: the interpreters, and "
                "the threads that hold them, are not those of a forked process. Open the file "
                "there, or start processes with the method 'spawn'. "
                f"Received: process {os.getpid()}, opened in {self._process}"
            )
        if self._closed:
            raise ValueError("The predictor must be open. Received: a predictor that was closed")

    @contextmanager
    def worker(self) -> Iterator[Worker]:
        """Lends a worker; waits until one is free."""
        worker = self._take()
        try:
            yield worker
        finally:
            self._give(worker)

    def _take(self) -> Worker:
        self.check()
        with self._lock:
            if self._free:
                return self._free.pop()
            making = self._made < self.size
            if making:
                self._made += 1
            else:
                turn = Turn()
                self._waiting.append(turn)
        if making:
            try:
                return self._make()
            except BaseException:
                with self._lock:
                    self._made -= 1
                raise
        try:
            turn.came.get()
        except BaseException:  # the user's, by the keyboard
            with self._lock:
                if turn in self._waiting:
                    self._waiting.remove(turn)
            if turn.worker is not None:
                self._give(turn.worker)
            raise
        if turn.worker is None:
            self.check()  # it was closed
        assert turn.worker is not None
        return turn.worker

    def _give(self, worker: Worker) -> None:
        with self._lock:
            if self._closed:
                closing = True
            else:
                closing = False
                if self._waiting:
                    turn = self._waiting.popleft()
                    turn.worker = worker
                    turn.came.put(None)
                else:
                    self._free.append(worker)
        if closing:
            worker.close()

    def close(self) -> None:
        """Frees the workers' memory: of those at work as soon as they have done it."""
        if os.getpid() != self._process:
            return
        with self._lock:
            self._closed = True
            free, self._free = self._free, []
            waiting, self._waiting = self._waiting, deque()
        for turn in waiting:
            turn.came.put(None)
        for worker in free:
            worker.close()
