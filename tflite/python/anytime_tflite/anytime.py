"""`AnytimeModel`: runs a file stage by stage until confident or out of time."""

import os
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from types import TracebackType
from typing import Any, NamedTuple, Self

import numpy as np

from anytime_tflite.backends import BACKENDS, Backend
from anytime_tflite.file import Checked, Source, checked, stopping_networks
from anytime_tflite.frames import FrameStream
from anytime_tflite.inputs import Image, Inputs, WrongTypeError
from anytime_tflite.limits import Limits, as_float, is_integer
from anytime_tflite.rule import Array, Run, softmax
from anytime_tflite.stage_times import StageTimes

_WARM_UP = 5  # runs of the network when a file is opened
_OLD_INPUT = "input_0"  # its name in files of version 2, and `x` in their single call


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
        reused: Boolean, whether `stream_frames` gave the answer to an earlier frame again. Then
            `probabilities`, `label`, `exit` and `stopped_by` are of that frame, and `cost` and
            `elapsed_ms` of this one.
    """

    probabilities: Array
    label: int
    exit: int
    stopped_by: str | None
    elapsed_ms: float
    class_name: str | None = None
    cost: float | None = None
    reused: bool = False


class AnytimeModel:
    """A network in one .tflite file that stops when it is confident or out of time.

    The file holds one signature per stage. After each stage there is an answer; the
    model goes on until the answer is confident enough, the deadline is near, `cancel` is
    called, or the network ends.

    One instance takes one image at a time: a call from another thread waits, and its deadline
    with it. For more at a time, each thread takes an instance of its own. `cancel` may be
    called from any thread. A process that was forked can use its parent's model only if that has
    `num_threads=1` or `None`.

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
    _eager = True  # whether stages are warm when a model is made

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
        file = path if isinstance(path, Checked) else checked(path)
        self.info = file.info
        self._plain = self.info["version"] < 3
        self.exits = self.info["exits"]
        self._temperatures = [self.info["temperatures"][k] for k in self.exits]
        networks = stopping_networks(self.info)
        self._networks = None if networks is None else [networks[k] for k in self.exits]
        self._names = self.info["class_names"]
        self._macs = None if self._plain else self.info["macs"]
        self._limits = Limits(self.info)
        self._lock = threading.Lock()
        self._threads, self._process = num_threads or 1, os.getpid()
        self._cancel: object = None  # another object after each `cancel`
        self._current = 0  # number of the image under way
        self._backend: Backend | None = None
        said = {one["name"]: one for one in self.info.get("inputs", [{"name": _OLD_INPUT}])}
        stages = len(self.exits)
        try:
            self._backend = BACKENDS[backend](file.source, num_threads, stages, list(said))
            self.inputs = self._backend.inputs
            _check_inputs(self.inputs, said)
            self.input_shape = next(iter(self.inputs.values()))[0]
            self._prepare = Inputs(self.inputs, self.info["preprocessing"]).one
            self._times = StageTimes(stages)
            self._expected_ms = self._times.expected_ms
            if self._eager:
                self._warm_up()
        except (ValueError, RuntimeError, KeyError, IndexError, TypeError, MemoryError) as error:
            self.close()
            raise ValueError(
                "`path` must be a file whose stages the interpreter can run. "
                f"Received: path={file.name} ({error})"
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
        if self._without_threads():  # they cannot be ended either
            return
        with self._lock:
            if self._backend is not None:
                self._backend.close()
            self._backend = None

    def cancel(self) -> None:
        """Ends the image under way after the stage that is running, from any thread.

        `classify` then returns the best answer so far, with `stopped_by="cancelled"`. The
        first stage always ends. Images that wait for another are cancelled too, and answer
        after their first stage. Images given later are not, nor is one in the single call,
        which ends by itself.
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

        Where there is neither a deadline nor `patience`, and the file has a single call (of
        version 3), this makes it: exits are taken inside. It cannot be cancelled; where you
        want to, give `deadline_ms=math.inf`, and the image goes stage by stage.

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
        run = self._run(deadline_ms, self._limits.of_stages(thresholds), patience)
        whole = deadline_ms is None and patience is None
        return self._classify(self._prepare(image), run, start, cancel, whole)

    def _classify(
        self,
        tensors: dict[str, Array],
        run: Run,
        start: float,
        cancel: object,
        whole: bool,
        scene: FrameStream | None = None,
    ) -> Answer:
        """Returns the answer; `whole`: by the single call, if there is one.

        Of a frame of a `scene`, the scene's answer, where it has one for this frame.
        """
        with self._lock:
            # an image that was cancelled while it waited stops after its first stage
            if whole and self._cancel is cancel and self._single_call():
                return self._call(tensors, run, start)
            backend = self._begin(tensors)
            for i in range(len(self.exits)):
                stopped_by = self._stage(backend, i, run, start, cancel)
                if scene is not None and i == 0:
                    kept = scene.answer_for(run.probabilities)
                    if kept is not None:
                        again = kept.probabilities, kept.label, 0, kept.stopped_by
                        answer = self._answer(*again, start, backend.cost)
                        return answer._replace(exit=kept.exit, reused=True)
                if stopped_by is not None:
                    break
            answer = self._answer(run.probabilities, run.label, i, stopped_by, start, backend.cost)
            if scene is not None:
                scene.keep(answer)
            return answer

    def _single_call(self) -> bool:
        """Returns whether the file's single call follows the same rule as its stages."""
        return not self._plain and "predict" in self._open().signatures

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
        # later stages may read the image when the caller has long filled its array anew
        tensors = {name: array.copy() for name, array in self._prepare(image).items()}
        return self._stream(tensors, run, start, cancel)

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

    def stream_frames(
        self,
        frames: Iterable[Image],
        tau: float = 0.1,
        *,
        deadline_ms: float | None = None,
        thresholds: Sequence[float] | None = None,
    ) -> FrameStream:
        """Returns an iterator of an `Answer` for every frame of a video.

        While the scene stays the same, the answer to its first frame is given again, and a frame
        costs the first stage alone. With `p_t` the probabilities at the file's first exit, and
        `p_0` those of the scene's first frame, a frame belongs to the scene if

            ||p_t - p_0|| <= tau  and  argmax p_t = argmax p_0,

        a Euclidean distance, which is at most `sqrt(2)`. Any other frame goes on from there as
        in `classify`, and begins a scene. So does the frame after one that was cancelled or out
        of time.

        It saves where frames of a scene are many and look alike to the first exit. Where every
        frame is another scene, it costs what `classify` costs, and nothing is saved. A wrong
        answer stays as long as its scene does. `keras_adaptive.calibration.fit_tau` chooses
        `tau` on a held-out video.

        Args:
            frames: Iterable of images as `classify` takes them, or an array of them. It may be
                endless.
            tau: Number of at least 0. 0: frames are the same only if the first exit says exactly
                the same of them; `math.inf`: as long as its label stays. The default is a
                cautious one where it was measured (benchmarks/results/streams.md).
            deadline_ms: Number, milliseconds for each frame, from when it is there. `None`: no
                deadline.
            thresholds: As in `classify`.

        Returns:
            A `FrameStream`. `.reset()` begins a new scene with the next frame. Each has its own
            scene, and reads no frame before its answer is asked for.

        Raises:
            TypeError, ValueError: As in `classify`; for a frame, when its answer is asked for.

        Example:

        ```python
        for answer in model.stream_frames(camera, tau=0.2):
            print(answer.label, answer.reused, answer.cost)
        ```

        Reference:
            [Temporal Decisions (Sponner et al., 2024)](https://arxiv.org/abs/2403.07958):
            difference detection and temporal patience, here before the file's own policy.
        """
        self._open()
        limits = self._limits.of_stages(thresholds)
        self._run(deadline_ms, limits, None)  # refuses what does not fit before the first frame

        def classify(frame: Image, called: str, scene: FrameStream) -> Answer:
            start, cancel = time.perf_counter(), self._cancel
            self._open()
            run = self._run(deadline_ms, limits, None)
            return self._classify(self._prepare(frame, called), run, start, cancel, False, scene)

        return FrameStream(classify, frames, tau)

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
        run = self._run(None, self._limits.of_stages(thresholds), None)
        tensors = self._prepare(image)
        with self._lock:
            return self._call(tensors, run, start)

    def _call(self, tensors: dict[str, Array], run: Run, start: float) -> Answer:
        """Returns the answer of the single call; the lock is held."""
        backend = self._open()
        self._current += 1
        logits, stage = self._whole(backend, tensors, np.asarray(run.thresholds, "float32"))
        if stage == len(self.exits) - 1:
            stopped_by: str | None = "end"
        elif run.patience is None and run.agreement is None:
            stopped_by = "confidence"
        else:  # if it is not confident, answers agreed
            alone = Run(run.confidence, run.thresholds, networks=run.networks, plain=run.plain)
            stopped_by = alone.stopped_by(stage, logits, 0.0, 0.0) or "patience"
        label = int(logits.argmax())
        return self._answer(softmax(logits), label, stage, stopped_by, start, backend.cost)

    def _whole(
        self, backend: Backend, tensors: dict[str, Array], thresholds: Array
    ) -> tuple[Array, int]:
        """Runs the single call; returns logits, divided by the temperature, and the stage."""
        if self._plain:
            tensors = {"x": tensors[_OLD_INPUT]}
        try:
            logits, exit = backend.predict({**tensors, "thresholds": thresholds})
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
        return _finite(logits) / self._temperatures[stage], stage

    def _run(
        self,
        deadline_ms: float | None,
        limits: Sequence[float] | None,
        patience: int | None,
        by_agreement: bool = True,
    ) -> Run:
        """Checks arguments; returns the rule for one image."""
        deadline = np.inf if deadline_ms is None else as_float(deadline_ms)
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
        logits = _finite(backend.run(i)) / self._temperatures[i]
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

    def _staged(self, image: Image) -> list[float]:
        """Runs the stages and nothing else; returns the milliseconds until each one's end."""
        tensors = self._prepare(image)
        with self._lock:
            start = time.perf_counter()
            backend, ends = self._begin(tensors), []
            for i in range(len(self.exits)):
                backend.run(i)
                ends.append(1000 * (time.perf_counter() - start))
            return ends

    def _open(self) -> Backend:
        if self._backend is None:
            raise ValueError("The model must be open. Received: a model that was closed")
        if self._without_threads():
            raise RuntimeError(
                "A model with several threads must be used in the process that opened it: a forked "
                "process has none of them. Open the file there, or with `num_threads=1`. "
                f"Received: process {os.getpid()}, opened in {self._process}"
            )
        return self._backend

    def _without_threads(self) -> bool:
        """Returns whether the interpreter's threads are those of another process."""
        return self._threads > 1 and os.getpid() != self._process

    def _warm_up(self) -> None:
        """Runs every stage a few times: the first run is slow, and times are learned."""
        with self._lock:
            backend = self._open()
            self._current += 1
            shapes = self.inputs.items()
            backend.start({name: np.zeros((1, *shape), dtype) for name, (shape, dtype) in shapes})
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

    def _check_patience(self, patience: int | None) -> int | None:
        if patience is None:
            chosen: int | None = self.info["patience"]
            return chosen
        if not is_integer(patience, at_least=2):
            raise ValueError(
                f"`patience` must be an integer of at least 2, or None. Received: {patience=}"
            )
        return int(patience)


def _finite(logits: Array) -> Array:
    if not np.isfinite(logits).all():
        raise ValueError(
            "The logits must be finite. Received: NaN or infinite ones, as the network computes "
            "them of inputs that are too large for it"
        )
    return logits


def _check_inputs(
    found: dict[str, tuple[tuple[int, ...], Any]], said: dict[str, dict[str, Any]]
) -> None:
    """Raises a ValueError unless the network's inputs are as `info` says."""
    for name, (shape, dtype) in found.items():
        one = said[name]
        if "shape" in one and (shape, dtype) != (tuple(one["shape"]), np.dtype(one["dtype"])):
            raise ValueError(f"its input {name!r} is of shape {shape} and {dtype}, unlike its info")
