"""`AnytimeModel`: runs a file stage by stage until confident or out of time."""

import os
import threading
import time
from collections.abc import Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from anytime_tflite.backends import BACKENDS, Backend
from anytime_tflite.file import read_info, stopping_networks
from anytime_tflite.rule import Array, Run, softmax

_WARM_UP = 5  # runs of every stage when a file is opened
_FAR = 10  # times the range from black to white


class Answer(NamedTuple):
    """The answer of one exit for one image.

    Attributes:
        probabilities: Float array `(classes,)`.
        label: Integer, the index of the most probable class.
        exit: Integer, the exit that answered.
        stopped_by: `"confidence"`, `"patience"`, `"deadline"`, `"cancelled"` or `"end"`
            (the last exit); `None` while the answer may still get better.
        elapsed_ms: Float, milliseconds since `classify`, `stream` or `predict` was called.
        class_name: String, or `None` if the file names no classes.
    """

    probabilities: Array
    label: int
    exit: int
    stopped_by: str | None
    elapsed_ms: float
    class_name: str | None = None


class AnytimeModel:
    """A network in one .tflite file that stops when it is confident or out of time.

    The file holds one signature per stage. After each stage there is an answer; the
    model goes on until the answer is confident enough, the deadline is near, `cancel` is
    called, or the network ends.

    One instance takes one image at a time; several threads take one instance each.
    `cancel` may be called from any thread.

    Args:
        path: Path of a file written by `keras_adaptive.export_tflite`.
        num_threads: Integer, threads of the interpreter. `None`: its default.
        backend: `"interpreter"`: of `ai_edge_litert`, or else of `tflite_runtime`;
            `"compiled_model"`: LiteRT's CompiledModel.

    Attributes:
        info: Dictionary, what the file says of itself; see `read_info`. Thresholds are floats.
        exits: List of integers, the exit that each stage answers for.
        input_shape: Tuple of integers, the shape of an image.

    Raises:
        ValueError: If the file is missing, damaged, or not such a file.
        ImportError: If there is no TFLite interpreter.

    Example:

    ```python
    with AnytimeModel("model.tflite", num_threads=2) as model:
        answer = model.classify(image, deadline_ms=5)
        print(answer.label, answer.exit, answer.stopped_by)
    ```
    """

    info: dict[str, Any]
    exits: list[int]
    input_shape: tuple[int, ...]

    def __init__(
        self,
        path: str | os.PathLike[str],
        num_threads: int | None = None,
        *,
        backend: str = "interpreter",
    ) -> None:
        if num_threads is not None:
            if not is_integer(num_threads, at_least=1):
                raise ValueError(
                    f"`num_threads` must be a positive integer or None. Received: {num_threads=}"
                )
            num_threads = int(num_threads)
        if backend not in tuple(BACKENDS):
            raise ValueError(f"`backend` must be one of {tuple(BACKENDS)}. Received: {backend=}")
        self.info = read_info(path)
        self.info["thresholds"] = [float(t) for t in self.info["thresholds"]]
        self.exits = self.info["exits"]
        self._temperatures = [self.info["temperatures"][k] for k in self.exits]
        networks = stopping_networks(self.info)
        self._networks = None if networks is None else [networks[k] for k in self.exits]
        self._names = self.info["class_names"]
        self._lock = threading.Lock()
        self._cancelled = threading.Event()
        self._current = 0  # number of the image under way
        self._backend: Backend | None = None
        try:
            self._backend = BACKENDS[backend](path, num_threads, len(self.exits))
            self.input_shape = self._backend.input_shape
            self._range = self._input_range()
            self._warm_up()
        except (ValueError, RuntimeError, KeyError, IndexError, TypeError, MemoryError) as error:
            self.close()
            raise ValueError(
                "`path` must be a file whose stages the interpreter can run. "
                f"Received: path={path} ({error})"
            ) from error

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
        """Frees the interpreter's memory. The model cannot be used any more."""
        with self._lock:
            if self._backend is not None:
                self._backend.close()
            self._backend = None

    def cancel(self) -> None:
        """Ends the image under way after the stage that is running, from any thread.

        `classify` then returns the best answer so far, with `stopped_by="cancelled"`. The
        first stage always ends. Images given later are not cancelled.
        """
        self._cancelled.set()

    def classify(
        self,
        image: ArrayLike,
        deadline_ms: float | None = None,
        thresholds: Sequence[float] | None = None,
        *,
        patience: int | None = None,
    ) -> Answer:
        """Returns the first answer that is good enough, or the best there is time for.

        The first stage always runs. A later stage is not begun if the time left is
        less than it has lately taken here, which is learned from run to run.

        Args:
            image: Array of the network's input shape. uint8 pixels are standardized as
                the file says; floats are taken as they are.
            deadline_ms: Number, milliseconds from now. `None`: no deadline.
            thresholds: Sequence of one number per exit of the network, in place of the
                file's; the last is -inf, whatever is given. An exit that is not in the
                file must have +inf.
            patience: Integer of at least 2: also stop when so many answers in a row name
                the same class. `None`: as the file says.

        Returns:
            An `Answer`.

        Raises:
            ValueError: If an argument does not fit the file, or the model was closed.
        """
        answers = self._answers(image, deadline_ms, thresholds, patience, only_last=True)
        return next(answers)

    def stream(self, image: ArrayLike, deadline_ms: float | None = None) -> Iterator[Answer]:
        """Yields an `Answer` after every stage, until the network or the time ends.

        Stop reading when the answer is good enough: nothing further is computed. Once
        another image is begun, this one cannot go on.

        Args:
            image, deadline_ms: As in `classify`.

        Yields:
            An `Answer`; `stopped_by` is `None` in all but the last.

        Raises:
            ValueError: If an argument does not fit the file, or the model was closed.
            RuntimeError: If another image was begun, or the model closed, meanwhile.
        """
        yield from self._answers(image, deadline_ms, only_last=False)

    def predict(self, image: ArrayLike, thresholds: Sequence[float] | None = None) -> Answer:
        """Returns the answer of the file's single call, where exits are taken inside it.

        There is no deadline. The file must be exported with `single_call=True`.

        Args:
            image, thresholds: As in `classify`.

        Returns:
            An `Answer`; `stopped_by` is `"confidence"` or `"end"`.

        Raises:
            ValueError: If the file has no single call, an argument does not fit it, or the
                model was closed.
        """
        start = time.perf_counter()
        backend = self._open()
        if "predict" not in backend.signatures:
            raise ValueError(
                "The file must be exported with `single_call=True`. Received: one without"
            )
        limits = np.asarray(self._stage_thresholds(thresholds), "float32")
        image = self._prepare(image)
        with self._lock:
            self._current += 1
            try:
                logits, exit = backend.predict(image, limits)
            except RuntimeError as error:
                raise ValueError(
                    "`path` must be a whole TFLite model. Received: one whose single call does "
                    f"not run ({str(error).strip()})"
                ) from error
        if exit not in self.exits:
            raise ValueError(
                "`path` must be a whole TFLite model. Received: one whose single call leaves at "
                f"exit {exit}, which the file does not have"
            )
        stage = self.exits.index(exit)
        stopped_by = "end" if stage == len(self.exits) - 1 else "confidence"
        logits = logits / self._temperatures[stage]
        return self._answer(softmax(logits), int(logits.argmax()), stage, stopped_by, start)

    def _answers(
        self,
        image: ArrayLike,
        deadline_ms: float | None = None,
        thresholds: Sequence[float] | None = None,
        patience: int | None = None,
        *,
        only_last: bool,
    ) -> Iterator[Answer]:
        """Yields an answer per stage; or, if `only_last`, the one that `classify` returns."""
        start = time.perf_counter()
        backend = self._open()
        deadline = np.inf if deadline_ms is None else _as_float(deadline_ms)
        if not deadline >= 0:
            raise ValueError(
                f"`deadline_ms` must be a number of at least 0, or None. Received: {deadline_ms=}"
            )
        limits = None
        if only_last:
            patience = self._check_patience(patience)
            limits = self._stage_thresholds(thresholds)
        run = Run(self.info["confidence"], limits, patience, deadline, self._networks)
        image = self._prepare(image)
        last = len(self.exits) - 1
        for i, temperature in enumerate(self._temperatures):
            before = time.perf_counter()
            with self._lock:
                if i == 0:
                    self._cancelled.clear()
                    self._current += 1
                    own = self._current
                    backend.start(image)
                elif own != self._current or self._backend is None:
                    raise RuntimeError(
                        "An image must be finished before the next is begun, or the model closed"
                    )
                logits = backend.run(i)
            logits /= temperature
            now = time.perf_counter()
            self._learn(i, 1000 * (now - before))
            next_ms = self._expected_ms[i + 1] if i < last else None
            elapsed = 1000 * (now - start)
            stopped_by = run.stopped_by(i, logits, elapsed, next_ms, self._cancelled.is_set())
            if stopped_by == "deadline" and elapsed < deadline:
                # a slow spell must not keep later images out of this stage for good
                self._expected_ms[i + 1] = max(
                    0.99 * self._expected_ms[i + 1], self._fastest_ms[i + 1]
                )
            if stopped_by or not only_last:
                yield self._answer(run.probabilities, run.label, i, stopped_by, start)
            if stopped_by:
                return

    def _open(self) -> Backend:
        if self._backend is None:
            raise ValueError("The model must be open. Received: a model that was closed")
        return self._backend

    def _learn(self, stage: int, took_ms: float) -> None:
        """Follows the time a stage takes: up quickly, down slowly, unmoved by one hiccup."""
        self._fastest_ms[stage] = min(self._fastest_ms[stage], took_ms)
        change = took_ms - self._expected_ms[stage]
        most = 0.25 * self._expected_ms[stage]
        self._expected_ms[stage] += min(0.5 * change, most) if change > 0 else 0.05 * change

    def _warm_up(self) -> None:
        """Runs every stage a few times: the first run is slow, and times are learned."""
        self._expected_ms = [0.0] * len(self.exits)
        for _ in range(_WARM_UP):
            self._fastest_ms = [float("inf")] * len(self.exits)
            for _ in self.stream(np.zeros(self.input_shape, "float32")):
                pass
            self._expected_ms = list(self._fastest_ms)

    def _answer(
        self, probabilities: Array, label: int, stage: int, stopped_by: str | None, start: float
    ) -> Answer:
        probabilities = probabilities.astype("float32")
        name = self._names[label] if self._names else None
        elapsed = 1000 * (time.perf_counter() - start)
        return Answer(probabilities, label, self.exits[stage], stopped_by, elapsed, name)

    def _input_range(self) -> tuple[float, float] | None:
        """Returns the least and the greatest float of an image; `None` if the file does not say.

        Pixels become numbers between those of black and white. Floats may go beyond, but not
        by many times that range, as do pixels that were not standardized.
        """
        preprocessing = self.info["preprocessing"]
        if preprocessing is None:
            return None
        mean, std = (np.asarray(preprocessing[key]) for key in ("mean", "std"))
        black, white = (-mean / std).min(), ((1 - mean) / std).max()
        margin = _FAR * (white - black)
        return float(black - margin), float(white + margin)

    def _prepare(self, image: ArrayLike) -> Array:
        array: Array = np.asarray(image)
        if array.shape != self.input_shape:
            raise ValueError(
                f"`image` must be of shape {self.input_shape}. Received: shape {array.shape}"
            )
        if array.dtype == np.uint8:
            preprocessing = self.info["preprocessing"]
            if preprocessing is None:
                raise ValueError(
                    "`image` must be of floats: the file does not say how pixels are "
                    "standardized. Received: dtype uint8"
                )
            mean = np.asarray(preprocessing["mean"], "float32")
            std = np.asarray(preprocessing["std"], "float32")
            array = (array.astype("float32") / np.float32(255) - mean) / std
        elif not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"`image` must be of uint8 or floats. Received: dtype {array.dtype}")
        else:
            low, high = array.min(), array.max()
            if not (np.isfinite(low) and np.isfinite(high)):
                raise ValueError("`image` must be finite. Received: NaN or infinite values")
            if self._range is not None and not self._range[0] <= low <= high <= self._range[1]:
                raise ValueError(
                    "`image` must be pixels of uint8, or floats standardized as the file says. "
                    f"Received: floats from {low:g} to {high:g}, which no pixel becomes"
                )
        return array.astype("float32")[None]

    def _stage_thresholds(self, thresholds: Sequence[float] | None) -> list[float]:
        """Returns one threshold per stage of the file."""
        checked: list[float] = self.info["thresholds"]
        if thresholds is not None:
            checked = self._check_thresholds(thresholds)
        return [checked[k] for k in self.exits]

    def _check_thresholds(self, thresholds: Sequence[float]) -> list[float]:
        thresholds = [_as_float(t) for t in thresholds]
        total = len(self.info["thresholds"])
        if len(thresholds) != total or any(t != t for t in thresholds):
            raise ValueError(
                f"`thresholds` must be {total} numbers, one per exit. "
                f"Received: thresholds={thresholds}"
            )
        missing = [k for k in range(total) if k not in self.exits and thresholds[k] < np.inf]
        if missing:
            raise ValueError(
                f"`thresholds` must be +inf for exits {missing}, which were closed when the "
                f"file was written. Received: thresholds={thresholds}"
            )
        return thresholds

    def _check_patience(self, patience: int | None) -> int | None:
        if patience is None:
            chosen: int | None = self.info["patience"]
            return chosen
        if not is_integer(patience, at_least=2):
            raise ValueError(
                f"`patience` must be an integer of at least 2, or None. Received: {patience=}"
            )
        return int(patience)


def _as_float(value: Any) -> float:
    """Returns a number of Python or numpy as a float, and NaN for anything else."""
    try:
        return float("nan") if isinstance(value, bool | np.bool_) else float(value)
    except (TypeError, ValueError):
        return float("nan")


def is_integer(value: object, at_least: int) -> bool:
    """Returns whether a value is an integer of Python or numpy, and large enough."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return False
    return int(value) >= at_least
