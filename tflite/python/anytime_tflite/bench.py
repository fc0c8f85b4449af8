"""Times each stage and each exit of a file on this device."""

import os
import platform
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from anytime_tflite.anytime import AnytimeModel
from anytime_tflite.backends import interpreter_class, random_inputs
from anytime_tflite.limits import is_integer
from anytime_tflite.rule import Array


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
        Dictionary: milliseconds of each stage alone, of leaving at each exit, and of the
        baseline, as p50, p95 and p99; and megabytes a program grows by when it loads them.
        `stage_ms` is what `export_tflite` takes under this name.

    Raises:
        ValueError: If a file or a number does not fit.
    """
    if not is_integer(runs, at_least=1):
        raise ValueError(f"`runs` must be a positive integer. Received: {runs=}")
    model = AnytimeModel(path, num_threads, backend=backend)
    rng = np.random.default_rng(0)
    batches = [random_inputs(model.inputs, rng) for _ in range(16)]
    images = [{name: batch[0] for name, batch in tensors.items()} for tensors in batches]
    other = None if baseline is None else _baseline(baseline, num_threads)
    stages, exits, others = [], [], []
    for i in range(runs):
        image = images[i % len(images)]
        row, before = [], time.perf_counter()
        start = before
        left = []
        for _ in model.stream(image):
            now = time.perf_counter()
            row.append(1000 * (now - before))
            left.append(1000 * (now - start))
            before = now
        stages.append(row)
        exits.append(left)
        if other is not None:
            others.append(other())
    rows: list[dict[str, Any]] = [
        {"stage": i, "exit": exit, "alone_ms": _quantiles(alone), "until_here_ms": _quantiles(sums)}
        for i, (exit, alone, sums) in enumerate(
            zip(model.exits, np.transpose(stages), np.transpose(exits), strict=True)
        )
    ]
    result = {
        "file": str(path),
        "bytes": os.path.getsize(path),
        "machine": platform.processor() or platform.machine(),
        "system": platform.platform(),
        "python": platform.python_version(),
        "interpreter": interpreter_class().__module__.split(".")[0],
        "backend": backend,
        "threads": num_threads,
        "runs": runs,
        "stages": rows,
        "stage_ms": [row["alone_ms"]["p50"] for row in rows],
        "memory_mb": memory_mb(path, num_threads),
    }
    if baseline is not None:
        result["baseline"] = {
            "file": str(baseline),
            "bytes": os.path.getsize(baseline),
            "ms": _quantiles(others),
            "memory_mb": memory_mb(baseline, num_threads),
        }
    return result


def lines(result: dict[str, Any]) -> list[str]:
    """Returns the result as lines of text."""
    text = [
        f"{result['file']}: {result['bytes']:,} bytes, {result['memory_mb']:.1f} MB in memory, "
        f"{result['threads']} thread(s), {result['runs']} runs",
        f"{'':14}{'stage alone (ms)':>27}{'until this exit (ms)':>30}",
        f"{'':14}{'p50':>9}{'p95':>9}{'p99':>9}{'p50':>12}{'p95':>9}{'p99':>9}",
    ]
    for row in result["stages"]:
        alone, sums = row["alone_ms"].values(), row["until_here_ms"].values()
        first, *rest = sums
        text.append(
            f"exit {row['exit']:<9}"
            + "".join(f"{ms:9.3f}" for ms in alone)
            + f"{first:12.3f}"
            + "".join(f"{ms:9.3f}" for ms in rest)
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
