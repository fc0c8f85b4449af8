"""`BatchPredictor`: the answers to many samples, on every core, without TensorFlow."""

import _thread
import contextlib
import os
import queue
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from anytime_tflite.anytime import Answer
from anytime_tflite.file import Source, checked
from anytime_tflite.inputs import Image, Inputs
from anytime_tflite.limits import Limits, is_integer
from anytime_tflite.rule import Array
from anytime_tflite.workers import Pool, SampleError, Worker

_PORTION_MS = 10  # of work that a thread takes at a time
_MOST = 64  # samples that it takes at most
_LOOK_UP_S = 0.1  # from one look for an interruption to the next
_SILENT_S = 2  # before the progress is shown
_SHOWN_S = 0.2  # between two times that it is shown


class BatchResult(NamedTuple):
    """The answers to many samples, in their order.

    Attributes:
        probabilities: Float32 array `(samples, classes)`, of the exit at which each left.
        labels: Integer array `(samples,)`, the most probable class of each.
        exits: Integer array `(samples,)`, the exit at which each left.
        costs: Float array `(samples,)`, multiply-accumulates that each has cost; NaN if the
            file, one of version 2, does not say.
    """

    probabilities: Array
    labels: Array
    exits: Array
    costs: Array


class BatchPredictor:
    """Computes the answers to many samples on every core; each stops as early as it may.

    The workers are threads of this process. Each has an interpreter of its own, which uses one
    core and computes one sample at a time, by the file's single call (`export_tflite(...,
    single_call=True)`), or stage by stage where there is none or the file is of version 2. So
    samples are never put together, and the answers do not depend on how many there are. The
    file is mapped into memory once; of what the interpreter makes from the weights, each
    worker has its copy. Workers beyond the first are opened when they are needed.

    Any number of threads may use one predictor at the same time: a call waits for a worker that
    is free, in turn. A process that was forked cannot use its parent's predictor; it opens
    its own.

    Args:
        path: As in `AnytimeModel`.
        workers: Integer. `None`: one per core that this process may use.

    Attributes:
        info: Dictionary, what the file says of itself; see `read_info`.
        exits: List of integers, the exits in the file.
        inputs: Dictionary: name of each of the network's inputs to its shape and dtype.
        workers: Integer.

    Raises:
        TypeError, ValueError, ImportError: As in `AnytimeModel`.

    Example:

    ```python
    with BatchPredictor("model.tflite") as predictor:
        result = predictor.predict(images)
        print(result.labels, result.exits, result.costs.mean())
    ```
    """

    info: dict[str, Any]
    exits: list[int]
    inputs: dict[str, tuple[tuple[int, ...], Any]]
    workers: int

    def __init__(self, path: Source, workers: int | None = None) -> None:
        if workers is not None and not is_integer(workers, at_least=1):
            raise ValueError(f"`workers` must be a positive integer or None. Received: {workers=}")
        self.workers = cores() if workers is None else int(workers)
        file = checked(path)
        self._pool = Pool(lambda: Worker(file, 1), self.workers)
        first = self._pool.first
        self.info, self.exits, self.inputs = first.info, first.exits, first.inputs
        self._inputs = Inputs(first.inputs, self.info["preprocessing"])
        self._limits = Limits(self.info)
        self._pace = _Pace()
        self._warming = threading.Lock()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Frees the workers' memory. Calls under way in other threads raise an error."""
        self._pool.close()

    def warm_up(self) -> None:
        """Opens every worker and measures its stages.

        Otherwise the first images with a deadline wait for that.
        """
        with self._warming, contextlib.ExitStack() as stack:
            for _ in range(self.workers):  # each is kept until all are warm
                stack.enter_context(self._pool.worker()).prepare_stages()

    def classify(
        self,
        sample: Image,
        deadline_ms: float | None = None,
        thresholds: Sequence[float] | None = None,
        *,
        log_odds: Sequence[float] | None = None,
    ) -> Answer:
        """Returns the first answer that is good enough, or the best there is time for.

        Args:
            sample, deadline_ms, thresholds: As in `AnytimeModel.classify`. The deadline counts
                from this call: what it waits for a worker, too. The first stage always runs.
            log_odds: As in `predict`.

        Returns:
            An `Answer`.

        Raises:
            TypeError, ValueError: As in `AnytimeModel.classify`.
            RuntimeError: If this process was forked from that which opened the file.
        """
        start = time.perf_counter()
        self._pool.check()
        limits = self._limits.of_stages(thresholds, log_odds)
        run = self._pool.first._run(deadline_ms, limits, None)
        tensors = self._inputs.one(sample, "sample")
        with self._pool.worker() as worker:
            if deadline_ms is not None:
                worker.prepare_stages()
            return worker._classify(tensors, run, start, worker._cancel, deadline_ms is None)

    def predict(
        self,
        x: Any,
        thresholds: Sequence[float] | None = None,
        verbose: str | int = "auto",
        *,
        log_odds: Sequence[float] | None = None,
    ) -> BatchResult:
        """Returns the answers to all samples.

        Memory: of what `x` gives, no more is held than the workers compute, so that an array
        that is mapped into memory, or a generator, may be of any size.

        Args:
            x: Array `(samples, ...)` of the network's input, or anything else with a shape
                that gives slices, as a file of HDF5 does. Of a network with several inputs a
                dictionary of such arrays by name, or a list of them in the order of `inputs`.
                Or an iterable, as a generator or a list, of samples or of batches of them,
                which are told apart by their shape; of tuples the first entry counts, as in
                `(images, labels)`. It is read in the thread that calls.
            thresholds: As in `AnytimeModel.classify`.
            verbose: 0: silent; 1: shows the progress; `"auto"`: shows it on a terminal, if it
                takes long.
            log_odds: Sequence of one number per exit of the network, in place of `thresholds`:
                in log-odds, the form in which they are compared, as `policy.log_odds` of
                keras_adaptive holds them. It has digits that `thresholds` near 1 have not.

        Returns:
            A `BatchResult`, in the order of `x`.

        Raises:
            TypeError: If an argument is of a type that cannot be meant.
            ValueError: If an argument does not fit the file, or the predictor was closed.
            RuntimeError: If a sample cannot be computed, or this process was forked from that
                which opened the file.
        """
        self._pool.check()
        if verbose not in ("auto", 0, 1):
            raise ValueError(f'`verbose` must be "auto", 0 or 1. Received: {verbose=}')
        limits = self._limits.of_stages(thresholds, log_odds)
        arrays = self._inputs.sliced(x)
        if arrays is None:
            job = _Job(self._pool, self._inputs, limits, _Progress(None, verbose), self._pace)
            job.feed(x)
        else:
            total = self._inputs.count(arrays)
            if total == 1:
                return self._alone(arrays, limits)
            job = _Job(self._pool, self._inputs, limits, _Progress(total, verbose), self._pace)
            job.share(arrays, total)
        return job.result()

    def _alone(self, arrays: dict[str, Any], limits: list[float]) -> BatchResult:
        """Returns the answer to one sample, in the thread that calls."""
        tensors = self._inputs.batch(self._inputs.read(arrays, slice(1)), "x")
        with self._pool.worker() as worker:
            try:
                return BatchResult(*worker.answers(tensors, 1, limits))
            except SampleError as error:
                raise error.counted_from(0) from error


def cores() -> int:
    """Returns how many cores this process may use."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class _Pace:
    """How long a sample takes, and so how many a thread takes at a time."""

    def __init__(self) -> None:
        self._sample_ms: float | None = None

    def learn(self, samples: int, took_ms: float) -> None:
        each, known = took_ms / samples, self._sample_ms
        self._sample_ms = each if known is None else known + 0.3 * (each - known)

    def portion(self) -> int:
        """Returns how many samples a thread takes."""
        if self._sample_ms is None:
            return 1
        return max(1, min(_MOST, int(_PORTION_MS / max(self._sample_ms, 1e-3))))

    def threads(self, samples: int, workers: int) -> int:
        """Returns how many threads are worth their start."""
        worth = samples if self._sample_ms is None else 1 + int(samples * self._sample_ms)
        return min(workers, samples, worth)


class _Job:
    """One call of `predict`: threads take portions of the samples until there are no more.

    Args:
        pool: The workers.
        inputs: What the network takes.
        limits: One threshold per stage.
        progress: Shows how far it is.
        pace: What is known of the time that samples take.
    """

    def __init__(
        self, pool: Pool, inputs: Inputs, limits: list[float], progress: "_Progress", pace: _Pace
    ) -> None:
        self._pool, self._inputs, self._limits = pool, inputs, limits
        self._progress, self._pace = progress, pace
        self._lock = threading.Lock()
        self._parts: list[tuple[int, tuple[Array, ...]]] = []
        self._error: tuple[int, BaseException] | None = None  # of the first sample that has one
        self._stopped = False
        self._begun = self._ended_count = 0  # threads
        self._ended: queue.SimpleQueue[None] = queue.SimpleQueue()

    def share(self, arrays: dict[str, Any], total: int) -> None:
        """Computes what can be sliced."""
        threads, given = self._pace.threads(total, self._pool.size), 0

        def take() -> tuple[int, dict[str, Any]] | None:
            nonlocal given
            with self._lock:
                if self._stopped or given == total:
                    return None
                # smaller in the end, so that all end at the same time
                size = min(self._pace.portion(), -(-(total - given) // (2 * threads)))
                start, given = given, given + size
            return start, self._inputs.read(arrays, slice(start, start + size))

        with self._joined():
            if threads == 1:
                self._work(take)
            else:  # the keyboard interrupts the thread that waits, and none that has a worker
                for _ in range(threads):
                    self._begin(take)

    def feed(self, items: Iterable[Any]) -> None:
        """Computes what an iterable gives, which is read in the thread that calls."""
        # simple queues, since an interruption by the keyboard leaves the locks of others held
        waiting: queue.SimpleQueue[Any] = queue.SimpleQueue()
        room: queue.SimpleQueue[None] = queue.SimpleQueue()
        for _ in range(self._pool.size):
            room.put(None)

        def take() -> tuple[int, dict[str, Any]] | None:
            portion = waiting.get()
            room.put(None)
            return portion

        with self._joined():
            try:
                for portion in self._portions(items):
                    if self._stopped:
                        break
                    if self._begun < self._pool.size:
                        self._begin(take)
                    room.get()
                    waiting.put(portion)
            except BaseException:
                self._stopped = True
                raise
            finally:
                for _ in range(self._pool.size):
                    waiting.put(None)

    def result(self) -> BatchResult:
        """Returns the answers in order, or raises the error of a worker."""
        self._progress.close()
        if self._error is not None:
            raise self._error[1]
        if not self._parts:
            raise ValueError("`x` must hold at least one sample. Received: none")
        self._parts.sort(key=lambda part: part[0])
        columns = zip(*(part for _, part in self._parts), strict=True)
        return BatchResult(*(np.concatenate(column) for column in columns))

    @contextlib.contextmanager
    def _joined(self) -> Iterator[None]:
        """Ends the threads at the end, and early if there is an error."""
        try:
            yield
            for _ in range(self._begun):
                self._wait()
        except BaseException:
            self._stopped = True
            self._progress.close()
            raise
        finally:  # nothing is taken away here, so that it may begin anew
            while self._ended_count < self._begun:
                time.sleep(0.001)

    def _wait(self) -> None:
        """Waits until a thread ends.

        It looks up now and then: a signal that comes just before a thread blocks does not wake it.
        """
        while True:
            with contextlib.suppress(queue.Empty):
                self._ended.get(timeout=_LOOK_UP_S)
                return

    def _begin(self, take: Callable[[], tuple[int, dict[str, Any]] | None]) -> None:
        # not a `threading.Thread`, which an interruption of `start` leaves half begun
        _thread.start_new_thread(self._run, (take,))
        self._begun += 1

    def _run(self, take: Callable[[], tuple[int, dict[str, Any]] | None]) -> None:
        try:
            self._work(take)
        finally:
            with self._lock:
                self._ended_count += 1
            self._ended.put(None)

    def _work(self, take: Callable[[], tuple[int, dict[str, Any]] | None]) -> None:
        """Computes portions until there are none; after an error they are only taken away."""
        while True:
            start = -1
            try:
                portion = take()
                if portion is None:
                    return
                if not self._stopped:
                    start, arrays = portion
                    self._compute(start, arrays)
            except BaseException as error:
                with self._lock:
                    self._stopped = True
                    if self._error is None or start < self._error[0]:
                        self._error = start, error

    def _compute(self, start: int, arrays: dict[str, Any]) -> None:
        tensors = self._prepared(start, arrays)
        samples = len(next(iter(tensors.values())))
        with self._pool.worker() as worker:
            before = time.perf_counter()
            try:
                answers = worker.answers(tensors, samples, self._limits)
            except SampleError as error:
                raise error.counted_from(start) from error
            took_ms = 1000 * (time.perf_counter() - before)
        with self._lock:
            self._parts.append((start, answers))
            self._pace.learn(samples, took_ms)
            self._progress.add(samples)

    def _prepared(self, start: int, arrays: dict[str, Array]) -> dict[str, Array]:
        """Returns samples as the network takes them; an error says which one is wrong."""
        try:
            return self._inputs.batch(arrays, "x")
        except ValueError:
            for i in range(len(next(iter(arrays.values())))):
                one = {name: array[i] for name, array in arrays.items()}
                self._inputs.one(one, f"x[{start + i}]")
            raise

    def _portions(self, items: Iterable[Any]) -> Iterator[tuple[int, dict[str, Array]]]:
        """Yields portions of what an iterable gives, each after the number of its first sample.

        They are copies: a generator may fill its array anew before they are computed.
        """
        given, some = 0, []
        for item in items:
            arrays, is_sample = self._inputs.item(item, given + len(some))
            if is_sample:
                some.append(_copied(self._inputs.one(arrays, f"x[{given + len(some)}]")))
            if some and (not is_sample or len(some) >= self._pace.portion()):
                yield given, _together(some)
                given, some = given + len(some), []
            if not is_sample:
                total, i = len(next(iter(arrays.values()))), 0
                while i < total:
                    size = min(self._pace.portion(), total - i)
                    portion = {name: array[i : i + size] for name, array in arrays.items()}
                    yield given, _copied(portion)
                    given, i = given + size, i + size
        if some:
            yield given, _together(some)


def _copied(arrays: dict[str, Array]) -> dict[str, Array]:
    return {name: array.copy() for name, array in arrays.items()}


def _together(samples: list[dict[str, Array]]) -> dict[str, Array]:
    return {name: np.concatenate([one[name] for one in samples]) for name in samples[0]}


class _Progress:
    """A line that shows how many samples are done.

    Args:
        total: Integer, or `None` if it is not known.
        verbose: As in `predict`.
    """

    def __init__(self, total: int | None, verbose: str | int) -> None:
        self._of = "" if total is None else f" of {total:,}"
        on_terminal = verbose == "auto" and sys.stderr is not None and sys.stderr.isatty()
        self._shows = verbose == 1 or on_terminal
        self._start = time.perf_counter()
        self._next = self._start + (_SILENT_S if on_terminal else 0)
        self._done = self._length = 0

    def add(self, samples: int) -> None:
        self._done += samples
        now = time.perf_counter()
        if self._shows and now >= self._next:
            self._next = now + _SHOWN_S
            rate = self._done / max(now - self._start, 1e-9)
            self._write(f"{self._done:,}{self._of} samples, {rate:,.0f} a second")

    def close(self) -> None:
        """Clears the line."""
        if self._length:
            self._write("")
            self._write("")

    def _write(self, line: str) -> None:
        sys.stderr.write("\r" + line.ljust(self._length))
        sys.stderr.flush()
        self._length = len(line)
