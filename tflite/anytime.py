"""Gives an answer that gets better while there is time, and stops when it is sure.

This file stands alone: it needs numpy and either `ai_edge_litert` or `tflite_runtime`.
"""

import json
import time
from pathlib import Path
from typing import NamedTuple

import numpy as np

FORMAT = "keras_adaptive.tflite"
VERSION = 1


class Answer(NamedTuple):
    """What the network thinks of an image.

    Attributes:
        probabilities: Float array `(classes,)`.
        label: Integer, the index of the most probable class.
        exit: Integer, the exit that answered.
        stopped_by: `"confidence"`, `"deadline"` or `"end"` (the last exit); `None`
            while the answer may still get better.
        elapsed_ms: Float, milliseconds since the image was given.
        class_name: String, or `None` if the file names no classes.
    """

    probabilities: np.ndarray
    label: int
    exit: int
    stopped_by: str | None
    elapsed_ms: float
    class_name: str | None = None


def _softmax(logits):
    exponentials = np.exp(logits - logits.max())
    return exponentials / exponentials.sum()


def _margin(values):
    second, first = np.sort(values)[-2:]
    return first - second


def _entropy(logits):
    shifted = logits - logits.max()
    exponentials = np.exp(shifted)
    total = exponentials.sum()
    return (exponentials * shifted).sum() / total - np.log(total)


CONFIDENCES = {
    "max_prob": lambda logits: _softmax(logits).max(),
    "prob_margin": lambda logits: _margin(_softmax(logits)),
    "logit_margin": _margin,
    "entropy": _entropy,
}


def _interpreter_class():
    try:
        from ai_edge_litert.interpreter import Interpreter
    except ImportError:
        try:
            from tflite_runtime.interpreter import Interpreter
        except ImportError as error:
            raise ImportError(
                "A TFLite interpreter is needed: pip install ai-edge-litert (or tflite-runtime)"
            ) from error
    return Interpreter


class AnytimeModel:
    """A network in one .tflite file that stops when it is sure or out of time.

    The file holds one signature a stage. After each stage there is an answer; the
    model goes on until the answer is confident enough, the deadline is near, or the
    network ends.

    Not for use from several threads at once: make one instance a thread.

    Args:
        path: Path of a file written by `keras_adaptive.export_tflite`.
        num_threads: Integer, threads of the interpreter. `None`: its default.

    Raises:
        ValueError: If the file is missing, damaged, or not such a file.
        ImportError: If there is no TFLite interpreter.
    """

    def __init__(self, path, num_threads=None):
        whole = isinstance(num_threads, int) and not isinstance(num_threads, bool)
        if num_threads is not None and (not whole or num_threads < 1):
            raise ValueError(
                f"`num_threads` must be a positive integer or None. Received: {num_threads=}"
            )
        path = Path(path)
        if not path.is_file():
            raise ValueError(f"`path` must be a file. Received: path={path}")
        content = path.read_bytes()
        if content[4:8] != b"TFL3":
            raise ValueError(f"`path` must be a TFLite model. Received: path={path}")
        try:
            self._interpreter = _interpreter_class()(model_content=content, num_threads=num_threads)
            # before any signature runner is made, or old runtimes leave XNNPACK out
            self._interpreter.allocate_tensors()
            signatures = self._interpreter.get_signature_list()
        except (ValueError, RuntimeError) as error:
            raise ValueError(
                f"`path` must be a whole TFLite model. Received: path={path} ({error})"
            ) from error
        if "info" not in signatures or "stage_0" not in signatures:
            raise ValueError(
                "`path` must be a file of `keras_adaptive.export_tflite`, with signatures "
                f"'info' and 'stage_0'. Received: path={path} with {sorted(signatures)}"
            )
        self.info = self._read_info(path)
        self.exits = self.info["exits"]  # the exit each stage answers for
        self._stages = []
        for i in range(len(self.exits)):
            if f"stage_{i}" not in signatures:
                raise ValueError(
                    f"`path` must hold a signature for each of its {len(self.exits)} stages. "
                    f"Received: path={path} without 'stage_{i}'"
                )
            runner = self._interpreter.get_signature_runner(f"stage_{i}")
            self._stages.append((runner, sorted(runner.get_input_details())))
        details = self._stages[0][0].get_input_details()["input_0"]
        self.input_shape = tuple(int(n) for n in details["shape"][1:])
        self._expected_ms = [0.0] * len(self.exits)
        self._warm_up()

    def _read_info(self, path):
        runner = self._interpreter.get_signature_runner("info")
        content = runner(unused=np.zeros(1, "int32"))["json"]
        info = json.loads(bytes(content.astype("uint8")).decode())
        if info.get("format") != FORMAT or info.get("version") != VERSION:
            raise ValueError(
                f"`path` must be of format {FORMAT}, version {VERSION}. Received: path={path} "
                f"of format {info.get('format')}, version {info.get('version')}"
            )
        info["thresholds"] = [float(t) for t in info["thresholds"]]
        return info

    def classify(self, image, deadline_ms=None, thresholds=None):
        """Returns the first answer that is good enough, or the best there is time for.

        The first stage always runs. A later stage is not begun if the time left is
        less than it has lately taken here, which is learned from run to run.

        Args:
            image: Array of the network's input shape. uint8 pixels are standardised as
                the file says; floats are taken as they are.
            deadline_ms: Number, milliseconds from now. `None`: no deadline.
            thresholds: Sequence of one number an exit of the network, in place of the
                file's; the last is -inf, whatever is given. An exit that is not in the
                file must have +inf.

        Returns:
            An `Answer`.

        Raises:
            ValueError: If an argument does not fit the file.
        """
        answers = self._answers(image, deadline_ms, thresholds, stop_when_sure=True)
        return next(answer for answer in answers if answer.stopped_by)

    def stream(self, image, deadline_ms=None):
        """Yields an `Answer` after every stage, until the network or the time ends.

        Stop reading when the answer is good enough: nothing further is computed.
        """
        yield from self._answers(image, deadline_ms, None, stop_when_sure=False)

    def _answers(self, image, deadline_ms, thresholds, stop_when_sure):
        start = time.perf_counter()
        thresholds = self._check_thresholds(thresholds)
        if deadline_ms is not None and not deadline_ms >= 0:
            raise ValueError(f"`deadline_ms` must be at least 0. Received: {deadline_ms=}")
        tensors = {"input_0": self._prepare(image)}
        last = len(self._stages) - 1
        before = start
        for i, (runner, takes) in enumerate(self._stages):
            tensors.update(runner(**{name: tensors[name] for name in takes}))
            now = time.perf_counter()
            self._learn(i, 1000 * (now - before))
            before = now
            elapsed = 1000 * (now - start)
            exit = self.exits[i]
            logits = tensors["logits"][0].astype("float64") / self.info["temperatures"][exit]
            stopped_by = None
            if i == last:
                stopped_by = "end"
            elif stop_when_sure and self._confidence(logits) >= thresholds[exit]:
                stopped_by = "confidence"
            elif deadline_ms is not None and (
                elapsed >= deadline_ms or elapsed + self._expected_ms[i + 1] > deadline_ms
            ):
                stopped_by = "deadline"
                if elapsed < deadline_ms:  # a slow spell must not last for ever
                    forgotten = 0.99 * self._expected_ms[i + 1]
                    self._expected_ms[i + 1] = max(forgotten, self._fastest_ms[i + 1])
            yield self._answer(logits, exit, stopped_by, elapsed)
            if stopped_by:
                return

    def _learn(self, stage, took_ms):
        """Follows the time a stage takes: up quickly, down slowly, unmoved by one hiccup."""
        self._fastest_ms[stage] = min(self._fastest_ms[stage], took_ms)
        change = took_ms - self._expected_ms[stage]
        most = 0.25 * self._expected_ms[stage]
        self._expected_ms[stage] += min(0.5 * change, most) if change > 0 else 0.05 * change

    def _warm_up(self):
        """Runs every stage a few times: the first run is slow, and times are learned."""
        for _ in range(5):
            self._fastest_ms = [float("inf")] * len(self.exits)
            for _ in self.stream(np.zeros(self.input_shape, "float32")):
                pass
            self._expected_ms = list(self._fastest_ms)

    def _confidence(self, logits):
        return CONFIDENCES[self.info["confidence"]](logits)

    def _answer(self, logits, exit, stopped_by, elapsed):
        label = int(logits.argmax())
        names = self.info["class_names"]
        probabilities = _softmax(logits).astype("float32")
        name = names[label] if names else None
        return Answer(probabilities, label, exit, stopped_by, elapsed, name)

    def _prepare(self, image):
        image = np.asarray(image)
        if image.shape != self.input_shape:
            raise ValueError(
                f"`image` must be of shape {self.input_shape}. Received: shape {image.shape}"
            )
        preprocessing = self.info["preprocessing"]
        if image.dtype == np.uint8:
            if preprocessing is None:
                raise ValueError(
                    "`image` must be of floats: the file does not say how pixels are "
                    "standardised. Received: dtype uint8"
                )
            mean = np.asarray(preprocessing["mean"], "float32")
            std = np.asarray(preprocessing["std"], "float32")
            image = (image.astype("float32") / np.float32(255) - mean) / std
        elif not np.issubdtype(image.dtype, np.floating):
            raise ValueError(f"`image` must be of uint8 or floats. Received: dtype {image.dtype}")
        return image.astype("float32")[None]

    def _check_thresholds(self, thresholds):
        if thresholds is None:
            return self.info["thresholds"]
        thresholds = [float(t) for t in thresholds]
        total = len(self.info["thresholds"])
        if len(thresholds) != total or any(t != t for t in thresholds):
            raise ValueError(
                f"`thresholds` must be {total} numbers, one an exit. "
                f"Received: thresholds={thresholds}"
            )
        missing = [k for k in range(total) if k not in self.exits and thresholds[k] < np.inf]
        if missing:
            raise ValueError(
                f"`thresholds` must be +inf for exits {missing}, which were closed when the "
                f"file was written. Received: thresholds={thresholds}"
            )
        return thresholds
