"""`AnytimeModel`: runs a file stage by stage until confident or out of time."""

import os
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np
from numpy.typing import ArrayLike

from anytime_tflite.backends import BACKENDS, Backend
from anytime_tflite.file import Source, check_content, content_of, stopping_networks
from anytime_tflite.rule import Array, Run, to_log_odds
from anytime_tflite.stage_times import StageTimes

_WARM_UP = 5  # runs of the network when a file is opened
_FAR = 10  # times the range from black to white
_OLD_INPUT = "input_0"  # its name in files of version 2, and `x` in their single call

Image = ArrayLike | Mapping[str, ArrayLike]
"""An array of the network's input, or of each of its inputs by name."""


class WrongTypeError(TypeError, ValueError):
    """An argument is of a type that cannot be meant."""


class Answer(NamedTuple):
    """The answer of one exit for one image.

    Attributes:
        probabilities: Float array `(classes,)`.
        label: Integer, the index of the most probable class.
        exit: Integer, the exit that answered.
        stopped_by: `"confidence"`, `"patience"` (enough answers agree), `"deadline"`,
            `"cancelled"` or `"end"` (the last exit); `None` while the answer may still get
            better.
        elapsed_ms: Float, milliseconds since `classify`, `stream` or `predict` was called.
        class_name: String, or `None` if the file names no classes.
        cost: Float, multiply-accumulates that the answer has cost. Where gates decide what is
            computed, it is this image's own.
    """

    probabilities: Array
    label: int
    exit: int
    stopped_by: str | None
    elapsed_ms: float
    class_name: str | None = None
    cost: float | None = None


class AnytimeModel:
    """A network in one .tflite file that stops when it is confident or out of time.

    The file holds one signature per stage. After each stage there is an answer; the
    model goes on until the answer is confident enough, the deadline is near, `cancel` is
    called, or the network ends.

    One instance takes one image at a time: a call from another thread waits, and its deadline
    with it. For more at a time, each thread takes an instance of its own. `cancel` may be
    called from any thread.

    Args:
        path: Path of a file written by `keras_adaptive.export_tflite`, or its content: bytes,
            or an object with `read`, as an open file has it, or with `open`, as
            `zipfile.Path` has it.
        num_threads: Integer, threads of the interpreter. `None`: its default.
        backend: `"interpreter"`: of `ai_edge_litert`, or else of `tflite_runtime`;
            `"compiled_model"`: LiteRT's CompiledModel.

    Attributes:
        info: Dictionary, what the file says of itself; see `read_info`. Thresholds are floats.
        exits: List of integers, the exit that each stage answers for.
        inputs: Dictionary: name of each of the network's inputs to its shape and dtype.
        input_shape: Tuple of integers, the shape of an image: of the network's first input.

    Raises:
        TypeError: If `path` is none of these.
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
    inputs: dict[str, tuple[tuple[int, ...], Any]]
    input_shape: tuple[int, ...]

    def __init__(
        self, path: Source, num_threads: int | None = None, *, backend: str = "interpreter"
    ) -> None:
        if num_threads is not None:
            if not is_integer(num_threads, at_least=1):
                raise ValueError(
                    f"`num_threads` must be a positive integer or None. Received: {num_threads=}"
                )
            num_threads = int(num_threads)
        if backend not in tuple(BACKENDS):
            raise ValueError(f"`backend` must be one of {tuple(BACKENDS)}. Received: {backend=}")
        content, name = content_of(path)
        self.info = check_content(content, name)
        self._plain = self.info["version"] < 3
        for key in ("thresholds", "log_odds"):
            if key in self.info:
                self.info[key] = [float(t) for t in self.info[key]]
        self.exits = self.info["exits"]
        self._temperatures = [self.info["temperatures"][k] for k in self.exits]
        networks = stopping_networks(self.info)
        self._networks = None if networks is None else [networks[k] for k in self.exits]
        self._names = self.info["class_names"]
        self._macs = None if self._plain else self.info["macs"]
        self._lock = threading.Lock()
        self._cancel: object = None  # another object after each `cancel`
        self._current = 0  # number of the image under way
        self._backend: Backend | None = None
        inputs = {one["name"]: one for one in self.info.get("inputs", [{"name": _OLD_INPUT}])}
        # by its path, where it has one: the interpreter then maps it into memory
        source = name if isinstance(path, str | os.PathLike) else content
        del content
        try:
            self._backend = BACKENDS[backend](source, num_threads, len(self.exits), list(inputs))
            self.inputs = self._backend.inputs
            _check_inputs(self.inputs, inputs)
            self.input_shape = next(iter(self.inputs.values()))[0]
            self._range = self._input_range()
            self._times = StageTimes(len(self.exits))
            self._expected_ms = self._times.expected_ms
            self._warm_up(self._backend)
        except (ValueError, RuntimeError, KeyError, IndexError, TypeError, MemoryError) as error:
            self.close()
            raise ValueError(
                "`path` must be a file whose stages the interpreter can run. "
                f"Received: path={name} ({error})"
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
        first stage always ends. Images that wait for another are cancelled too, and answer
        after their first stage. Images given later are not.
        """
        self._cancel = object()

    def classify(
        self,
        image: Image,
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
                the file says; floats are taken as they are. Where the network takes integers,
                an array of such. Of a network with several inputs a dictionary: name, as in
                `info["inputs"]`, to array.
            deadline_ms: Number, milliseconds from now; what another thread's image takes
                counts. `None`: no deadline.
            thresholds: Sequence of one number per exit of the network, in place of the
                file's; the last is -inf, whatever is given. An exit that is not in the
                file must have +inf, or what the file has for it.
            patience: Integer of at least 2: also stop when so many answers in a row name
                the same class. `None`: as the file says.

        Returns:
            An `Answer`.

        Raises:
            TypeError: If an argument is of a type that cannot be meant.
            ValueError: If an argument does not fit the file, or the model was closed.
        """
        start, cancel = time.perf_counter(), self._cancel
        self._open()
        run = self._run(deadline_ms, self._stage_thresholds(thresholds), patience)
        tensors = self._prepare(image)
        with self._lock:
            backend = self._begin(tensors)
            for i in range(len(self.exits)):
                stopped_by = self._stage(backend, i, run, start, cancel)
                if stopped_by is not None:
                    break
            return self._answer(run.probabilities, run.label, i, stopped_by, start, backend.cost)

    def stream(self, image: Image, deadline_ms: float | None = None) -> Iterator[Answer]:
        """Returns an iterator of an `Answer` after every stage, until the network or time ends.

        Stop reading when the answer is good enough: nothing further is computed. Once
        another image is begun, this one cannot go on.

        Args:
            image, deadline_ms: As in `classify`.

        Yields:
            An `Answer`; `stopped_by` is `None` in all but the last.

        Raises:
            TypeError, ValueError: As in `classify`.
            RuntimeError: If another image was begun, or the model closed, meanwhile.
        """
        start, cancel = time.perf_counter(), self._cancel
        self._open()
        run = self._run(deadline_ms, None, None, by_agreement=False)
        return self._stream(self._prepare(image), run, start, cancel)

    def _stream(
        self, tensors: dict[str, Array], run: Run, start: float, cancel: object
    ) -> Iterator[Answer]:
        own = -1
        for i in range(len(self.exits)):
            with self._lock:
                if i == 0:
                    backend = self._begin(tensors)
                    own = self._current
                elif own != self._current or self._backend is None:
                    raise RuntimeError(
                        "An image must be finished before the next is begun, or the model closed"
                    )
                stopped_by = self._stage(backend, i, run, start, cancel)
                answer = self._answer(
                    run.probabilities, run.label, i, stopped_by, start, backend.cost
                )
            yield answer
            if stopped_by:
                return

    def predict(self, image: Image, thresholds: Sequence[float] | None = None) -> Answer:
        """Returns the answer of the file's single call, where exits are taken inside it.

        There is no deadline. The file must be exported with `single_call=True`.

        Args:
            image, thresholds: As in `classify`.

        Returns:
            An `Answer`; `stopped_by` is `"confidence"`, `"patience"` or `"end"`.

        Raises:
            TypeError: If an argument is of a type that cannot be meant.
            ValueError: If the file has no single call, an argument does not fit it, or the
                model was closed.
        """
        start = time.perf_counter()
        if "predict" not in self._open().signatures:
            raise ValueError(
                "The file must be exported with `single_call=True`. Received: one without"
            )
        limits = self._stage_thresholds(thresholds)
        tensors = self._prepare(image)
        if self._plain:
            tensors = {"x": tensors[_OLD_INPUT]}
        with self._lock:
            backend = self._open()
            self._current += 1
            try:
                given = {**tensors, "thresholds": np.asarray(limits, "float32")}
                logits, exit = backend.predict(given)
            except RuntimeError as error:
                raise ValueError(
                    "`path` must be a whole TFLite model. Received: one whose single call does "
                    f"not run ({str(error).strip()})"
                ) from error
            cost = backend.cost
        if exit not in self.exits:
            raise ValueError(
                "`path` must be a whole TFLite model. Received: one whose single call leaves at "
                f"exit {exit}, which the file does not have"
            )
        stage = self.exits.index(exit)
        logits = logits / self._temperatures[stage]
        last = stage == len(self.exits) - 1
        run = Run(self.info["confidence"], limits, networks=self._networks, plain=self._plain)
        by = run.stopped_by(stage, logits, 0.0, None if last else 0.0)
        if by is None:  # not confident, as the single call reckons: answers agreed
            agreeing = self.info["patience"] is not None or self.info.get("agreement") is not None
            by = "patience" if agreeing else "confidence"
        return self._answer(run.probabilities, run.label, stage, by, start, cost)

    def _run(
        self,
        deadline_ms: float | None,
        limits: Sequence[float] | None,
        patience: int | None,
        by_agreement: bool = True,
    ) -> Run:
        """Checks arguments; returns the rule for one image."""
        deadline = np.inf if deadline_ms is None else _as_float(deadline_ms)
        if deadline is None or not deadline >= 0:
            raise (WrongTypeError if deadline is None else ValueError)(
                f"`deadline_ms` must be a number of at least 0, or None. Received: {deadline_ms=}"
            )
        return Run(
            self.info["confidence"],
            limits,
            self._check_patience(patience) if by_agreement else None,
            deadline,
            self._networks,
            self.info.get("agreement") if by_agreement else None,
            plain=self._plain,
        )

    def _begin(self, tensors: dict[str, Array]) -> Backend:
        """Begins an image; the lock is held."""
        backend = self._open()
        self._current += 1
        backend.start(tensors)
        return backend

    def _stage(
        self, backend: Backend, i: int, run: Run, start: float, cancel: object
    ) -> str | None:
        """Runs a stage and learns how long it takes; returns why to stop after it, or `None`."""
        before = time.perf_counter()
        logits = backend.run(i) / self._temperatures[i]
        now = time.perf_counter()
        self._times.learn(i, 1000 * (now - before))
        last = i == len(self.exits) - 1
        next_ms = None if last else self._expected_ms[i + 1]
        elapsed = 1000 * (now - start)
        stopped_by = run.stopped_by(i, logits, elapsed, next_ms, self._cancel is not cancel)
        if stopped_by == "deadline" and elapsed < (run.deadline_ms or 0):
            # a slow spell must not keep later images out of this stage for good
            self._times.forget_slowly(i + 1)
        return stopped_by

    def _open(self) -> Backend:
        if self._backend is None:
            raise ValueError("The model must be open. Received: a model that was closed")
        return self._backend

    def _warm_up(self, backend: Backend) -> None:
        """Runs every stage a few times: the first run is slow, and times are learned."""
        black = {name: np.zeros((1, *shape), dtype) for name, (shape, dtype) in self.inputs.items()}
        backend.start(black)
        self._times.measure(backend.run, _WARM_UP)

    def _answer(
        self,
        probabilities: Array,
        label: int,
        stage: int,
        stopped_by: str | None,
        start: float,
        cost: float | None,
    ) -> Answer:
        probabilities = probabilities.astype("float32")
        name = self._names[label] if self._names else None
        if cost is None and self._macs is not None:
            cost = self._macs[stage]
        elapsed = 1000 * (time.perf_counter() - start)
        return Answer(probabilities, label, self.exits[stage], stopped_by, elapsed, name, cost)

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

    def _prepare(self, image: Image) -> dict[str, Array]:
        """Returns the network's inputs by name, each a batch of one."""
        if isinstance(image, Mapping):
            if set(image) != set(self.inputs):
                raise ValueError(
                    f"`image` must be a dictionary of {sorted(self.inputs)}. "
                    f"Received: one of {sorted(map(str, image))}"
                )
            arrays = dict(image)
        elif len(self.inputs) > 1:
            raise WrongTypeError(
                f"`image` must be a dictionary of the inputs {sorted(self.inputs)}. "
                f"Received: a {type(image).__name__}"
            )
        else:
            arrays = dict.fromkeys(self.inputs, image)
        return {name: self._prepared(name, array)[None] for name, array in arrays.items()}

    def _prepared(self, name: str, image: ArrayLike) -> Array:
        """Returns an input in the shape and the dtype that the network takes."""
        shape, dtype = self.inputs[name]
        called = "`image`" if len(self.inputs) == 1 else f"`image[{name!r}]`"
        try:
            array: Array = np.asarray(image)
        except ValueError as error:  # rows of different length
            raise ValueError(f"{called} must be an array. Received: {error}") from error
        if array.shape != shape:
            raise ValueError(f"{called} must be of shape {shape}. Received: shape {array.shape}")
        if dtype.kind != "f":
            return _as_integers(array, dtype, called)
        if array.dtype == np.uint8:
            preprocessing = self.info["preprocessing"]
            if preprocessing is None:
                raise ValueError(
                    f"{called} must be of floats: the file does not say how pixels are "
                    "standardized. Received: dtype uint8"
                )
            mean = np.asarray(preprocessing["mean"], "float32")
            std = np.asarray(preprocessing["std"], "float32")
            array = (array.astype("float32") / np.float32(255) - mean) / std
        elif not np.issubdtype(array.dtype, np.floating):
            raise ValueError(f"{called} must be of uint8 or floats. Received: dtype {array.dtype}")
        else:
            low, high = array.min(), array.max()
            if not (np.isfinite(low) and np.isfinite(high)):
                raise ValueError(f"{called} must be finite. Received: NaN or infinite values")
            if self._range is not None and not self._range[0] <= low <= high <= self._range[1]:
                raise ValueError(
                    f"{called} must be pixels of uint8, or floats standardized as the file says. "
                    f"Received: floats from {low:g} to {high:g}, which no pixel becomes"
                )
        return array.astype(dtype)

    def _stage_thresholds(self, thresholds: Sequence[float] | None) -> list[float]:
        """Returns one threshold per stage of the file: in log-odds, but for version 2."""
        own: list[float] = self.info["thresholds" if self._plain else "log_odds"]
        if thresholds is None:
            return [own[k] for k in self.exits]
        given = self._check_thresholds(thresholds)
        if self._plain:
            return [given[k] for k in self.exits]
        kind, written = self.info["confidence"], self.info["thresholds"]
        # the file's own keep the digits that the users' unit does not show
        return [
            own[k] if given[k] == written[k] else to_log_odds(kind, given[k]) for k in self.exits
        ]

    def _check_thresholds(self, thresholds: Sequence[float]) -> list[float]:
        written: list[float] = self.info["thresholds"]
        total = len(written)
        is_array = isinstance(thresholds, Iterable) and not isinstance(thresholds, str | bytes)
        found = [_as_float(t) for t in thresholds] if is_array else [None]
        if None in found or len(found) != total or any(t != t for t in found):
            raise (WrongTypeError if None in found else ValueError)(
                f"`thresholds` must be {total} numbers, one per exit. Received: {thresholds=}"
            )
        # behind an exit where every image leaves, and at the last, nothing is looked at
        ends = next((k for k in self.exits if found[k] == -np.inf), total - 1)
        missing = [
            k
            for k in range(ends)
            if k not in self.exits and found[k] < np.inf and found[k] != written[k]
        ]
        if missing:
            raise ValueError(
                f"`thresholds` must be +inf for exits {missing}, which were closed when the "
                f"file was written. Received: thresholds={found}"
            )
        return found

    def _check_patience(self, patience: int | None) -> int | None:
        if patience is None:
            chosen: int | None = self.info["patience"]
            return chosen
        if not is_integer(patience, at_least=2):
            raise ValueError(
                f"`patience` must be an integer of at least 2, or None. Received: {patience=}"
            )
        return int(patience)


def _check_inputs(
    found: dict[str, tuple[tuple[int, ...], Any]], said: dict[str, dict[str, Any]]
) -> None:
    """Raises a ValueError unless the network's inputs are as `info` says."""
    for name, (shape, dtype) in found.items():
        one = said[name]
        if "shape" in one and (shape, dtype) != (tuple(one["shape"]), np.dtype(one["dtype"])):
            raise ValueError(f"its input {name!r} is of shape {shape} and {dtype}, unlike its info")


def _as_integers(array: Array, dtype: Any, called: str) -> Array:
    """Returns integers, or booleans, in the dtype of the network's input."""
    if dtype.kind == "b":
        if array.dtype != dtype:
            raise ValueError(f"{called} must be of booleans. Received: dtype {array.dtype}")
        return array
    limits = np.iinfo(dtype)
    if array.dtype.kind not in "iu":
        raise ValueError(f"{called} must be of integers, {dtype}. Received: dtype {array.dtype}")
    if array.size and not limits.min <= array.min() <= array.max() <= limits.max:
        raise ValueError(
            f"{called} must be of integers that {dtype} holds. Received: {array.min()} to "
            f"{array.max()}"
        )
    return array.astype(dtype)


def _as_float(value: Any) -> float | None:
    """Returns a number of Python or numpy as a float, and `None` for anything else."""
    if isinstance(value, bool | np.bool_ | str | bytes):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def is_integer(value: object, at_least: int) -> bool:
    """Returns whether a value is an integer of Python or numpy, and large enough."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return False
    return int(value) >= at_least
