"""Times each stage and each exit of a file on this device."""

import datetime
import importlib.metadata
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from anytime_tflite.anytime import Answer, AnytimeModel
from anytime_tflite.backends import interpreter_class, random_inputs
from anytime_tflite.limits import is_integer
from anytime_tflite.rule import Array

WAYS = ("alone_ms", "until_here_ms", "staged_ms", "classify_ms", "predict_ms")
TURN = 20  # images that a way takes before the next has its turn
_Time = tuple[str, int, float]
"""What was timed, the stage, milliseconds."""


def bench(
    path: str | os.PathLike[str],
    baseline: str | os.PathLike[str] | None = None,
    *,
    runs: int = 200,
    num_threads: int = 1,
    backend: str = "interpreter",
) -> dict[str, Any]:
    """Times a file on random images, in turn with a baseline.

    Args:
        path: Path of a file written by `keras_adaptive.export_tflite`.
        baseline: Path of any .tflite file with one signature, to compare with; or `None`.
        runs: Integer, how often each is timed.
        num_threads: Integer.
        backend: Of `AnytimeModel`.

    Returns:
        Dictionary, a measurement as `tflite/README.md` describes it: milliseconds of each stage
        alone, of leaving at each exit, under deadlines, and of the baseline, as p50, p95 and
        p99; and megabytes a program grows by when it loads the files. `stage_ms` is what
        `export_tflite` takes under this name.

    Raises:
        ValueError: If a file or a number does not fit.
    """
    if not is_integer(runs, at_least=1):
        raise ValueError(f"`runs` must be a positive integer. Received: {runs=}")
    model = AnytimeModel(path, num_threads, backend=backend)
    rng = np.random.default_rng(0)
    batches = [random_inputs(model.inputs, rng) for _ in range(16)]
    images = [{name: batch[0] for name, batch in tensors.items()} for tensors in batches]
    times = _Times(model, images)
    other = None if baseline is None else _baseline(baseline, num_threads)
    times.measure(runs, other)
    rows = times.rows()
    first, last = (rows[i]["until_here_ms"]["p50"] for i in (0, -1))
    result = {
        "format": "keras_adaptive.measurement",
        "version": 1,
        "sha256": model.info["sha256"],
        "file": str(path),
        "bytes": os.path.getsize(path),
        "date": datetime.date.today().isoformat(),
        "machine": _machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "interpreter": _interpreter(),
        "backend": backend,
        "threads": num_threads,
        "runs": runs,
        "stages": rows,
        "stage_ms": [row["alone_ms"]["p50"] for row in rows],
        "deadlines": [
            times.deadline(deadline_ms, runs)
            for deadline_ms in (1.5 * first, (first + last) / 2, 2 * last)
        ],
        "memory_mb": memory_mb(path, num_threads),
    }
    if baseline is not None:
        result["baseline"] = {
            "file": str(baseline),
            "bytes": os.path.getsize(baseline),
            "ms": _quantiles(times.found["baseline"][0]),
            "memory_mb": memory_mb(baseline, num_threads),
        }
    model.close()
    return result


class _Times:
    """What is timed of a model."""

    def __init__(self, model: AnytimeModel, images: list[dict[str, Array]]) -> None:
        self.model, self.images = model, images
        exits = range(len(model.info["thresholds"]))
        self.never = [np.inf for _ in exits]  # nobody leaves before the end
        self.leaving = [[-np.inf if k == exit else np.inf for k in exits] for exit in model.exits]
        self.found: dict[str, list[list[float]]] = {
            name: [[] for _ in model.exits] for name in (*WAYS, "baseline")
        }

    def measure(self, runs: int, other: Callable[[], float] | None) -> None:
        """Times images in every way, in turn with another function.

        In its turn a way takes one image after another, as a camera gives them; the first,
        which brings its weights into the caches, is not counted.
        """
        stages = range(len(self.model.exits))
        ways = [self._stream, self._staged, *(partial(self._classify, i) for i in stages)]
        if "predict" in self.model._open().signatures:
            ways += [partial(self._predict, i) for i in stages]
        if other is not None:
            ways.append(lambda _: [("baseline", 0, other())])
        for start in range(0, runs, TURN):
            for way in ways:
                way(self.images[-1])
                for i in range(start, min(start + TURN, runs)):
                    for name, stage, ms in way(self.images[i % len(self.images)]):
                        self.found[name][stage].append(ms)

    def _stream(self, image: dict[str, Array]) -> list[_Time]:
        times = [time.perf_counter()]
        times += [time.perf_counter() for _ in self.model.stream(image)]
        found = [("alone_ms", i, 1000 * ms) for i, ms in enumerate(np.diff(times))]
        return found + [
            ("until_here_ms", i, 1000 * (t - times[0])) for i, t in enumerate(times[1:])
        ]

    def _staged(self, image: dict[str, Array]) -> list[_Time]:
        return [("staged_ms", i, ms) for i, ms in enumerate(self.model._staged(image))]

    def _classify(self, stage: int, image: dict[str, Array]) -> list[_Time]:
        answer = self.model.classify(image, None, self.leaving[stage])
        return self._left("classify_ms", stage, answer)

    def _predict(self, stage: int, image: dict[str, Array]) -> list[_Time]:
        return self._left("predict_ms", stage, self.model.predict(image, self.leaving[stage]))

    def _left(self, name: str, stage: int, answer: Answer) -> list[_Time]:
        """Returns the time of an answer, unless others before it agreed, and it left there."""
        return [(name, stage, answer.elapsed_ms)] if answer.exit == self.model.exits[stage] else []

    def rows(self) -> list[dict[str, Any]]:
        """Returns what was found for each stage."""
        return [
            {"stage": i, "exit": exit}
            | {name: _quantiles(self.found[name][i]) for name in WAYS if self.found[name][i]}
            for i, exit in enumerate(self.model.exits)
        ]

    def deadline(self, deadline_ms: float, runs: int) -> dict[str, Any]:
        """Returns how well a deadline is kept where nothing else makes an image leave."""
        patience = 1 + len(self.never)  # more than there are answers
        images = [self.images[i % len(self.images)] for i in range(runs)]
        answers = [
            self.model.classify(image, deadline_ms, self.never, patience=patience)
            for image in images
        ]
        elapsed = [answer.elapsed_ms for answer in answers]
        return {
            "deadline_ms": deadline_ms,
            "elapsed_ms": _quantiles(elapsed),
            "late": float(np.mean(np.greater(elapsed, deadline_ms))),
            "mean_exit": float(np.mean([answer.exit for answer in answers])),
        }


def _machine() -> str:
    """Returns the name of this device, as far as it is known."""
    path = Path("/proc/cpuinfo")
    text = path.read_text(errors="replace") if path.exists() else ""
    named = re.search(r"^(?:Model|model name)\s*:\s*(.+)$", text, re.MULTILINE)
    return named[1] if named else platform.processor() or platform.machine() or "unknown"


def _interpreter() -> str:
    """Returns the name of the interpreter's package, and its version where that is known."""
    name = interpreter_class().__module__.split(".")[0]
    try:
        return f"{name} {importlib.metadata.version(name)}"
    except importlib.metadata.PackageNotFoundError:
        return name


def lines(result: dict[str, Any]) -> list[str]:
    """Returns the result as lines of text."""
    text = [
        f"{result['file']}: {result['bytes']:,} bytes, {result['memory_mb']:.1f} MB in memory, "
        f"{result['threads']} thread(s), {result['runs']} runs",
        f"{'':14}{'stage alone (ms)':>27}{'until this exit (ms)':>30}{'staged':>9}{'classify':>9}",
        f"{'':14}{'p50':>9}{'p95':>9}{'p99':>9}{'p50':>12}{'p95':>9}{'p99':>9}{'p50':>9}{'p50':>9}",
    ]
    for row in result["stages"]:
        first, *rest = row["until_here_ms"].values()
        rest += [row[name]["p50"] for name in ("staged_ms", "classify_ms") if name in row]
        text.append(
            f"exit {row['exit']:<9}"
            + "".join(f"{ms:9.3f}" for ms in row["alone_ms"].values())
            + f"{first:12.3f}"
            + "".join(f"{ms:9.3f}" for ms in rest)
        )
    for row in result["deadlines"]:
        text.append(
            f"deadline {row['deadline_ms']:.3f} ms: {row['elapsed_ms']['p50']:.3f} ms (p99 "
            f"{row['elapsed_ms']['p99']:.3f}), {row['late']:.1%} late, mean exit "
            f"{row['mean_exit']:.2f}"
        )
    if "baseline" in result:
        other = result["baseline"]
        first, *rest = other["ms"].values()
        text.append(f"{'baseline':41}{first:12.3f}" + "".join(f"{ms:9.3f}" for ms in rest))
        text.append(
            f"{other['file']}: {other['bytes']:,} bytes, {other['memory_mb']:.1f} MB in memory"
        )
    return text


def _quantiles(values: Sequence[float] | Array) -> dict[str, float]:
    return {f"p{q}": float(np.quantile(values, q / 100)) for q in (50, 95, 99)}


def _baseline(path: str | os.PathLike[str], num_threads: int) -> Callable[[], float]:
    """Returns a function that runs another file once and returns the milliseconds it took."""
    try:
        interpreter = interpreter_class()(model_path=str(path), num_threads=num_threads)
        interpreter.allocate_tensors()
    except (ValueError, RuntimeError) as error:
        raise ValueError(
            f"`baseline` must be a TFLite model. Received: baseline={path} ({error})"
        ) from error
    rng = np.random.default_rng(0)
    inputs = [
        (d["index"], rng.normal(size=d["shape"]).astype(d["dtype"]))
        for d in interpreter.get_input_details()
    ]
    outputs = [d["index"] for d in interpreter.get_output_details()]

    def run() -> float:
        start = time.perf_counter()
        for index, values in inputs:
            interpreter.set_tensor(index, values)
        interpreter.invoke()
        for index in outputs:
            interpreter.get_tensor(index)
        return 1000 * (time.perf_counter() - start)

    for _ in range(5):
        run()
    return run


# ---- memory


def resident_mb() -> float:
    """Returns this program's memory in megabytes; where not on Linux, its peak so far."""
    try:
        with open("/proc/self/statm") as file:
            return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 1e6
    except OSError:
        import resource

        unit = 1 if sys.platform == "darwin" else 1024
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def memory_mb(path: str | os.PathLike[str], num_threads: int = 1) -> float:
    """Returns the megabytes that a new program needs to load a file and run every signature."""
    command = [sys.executable, "-m", "anytime_tflite", "memory", str(path), str(num_threads)]
    run = subprocess.run(command, capture_output=True, text=True, check=True)
    return float(run.stdout.split()[-1])


def grow(path: str | os.PathLike[str], num_threads: int) -> float:
    """Loads a file and runs every signature; returns how many megabytes that took."""
    interpreter = interpreter_class()
    before = resident_mb()
    model = interpreter(model_path=str(path), num_threads=num_threads)
    model.allocate_tensors()
    for key in model.get_signature_list():
        runner = model.get_signature_runner(key)
        details = runner.get_input_details().items()
        runner(**{name: np.zeros(d["shape"], d["dtype"]) for name, d in details})
    return resident_mb() - before
