"""Latency of every exit, measured on this machine."""

import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

from anytime_tflite.batch import cores
from keras_adaptive._checks import check_choice, integer
from keras_adaptive.inference.predictor import ENGINES, AdaptivePredictor
from keras_adaptive.policy.exit_policy import ExitPolicy
from keras_adaptive.training.adaptive_model import check_model

SECONDS = 2.0  # of measurement, for all exits together
REPEATS = 5  # at least
PROGRAM = """
import json, os, sys
path, batch_size, threads, engine = sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.argv[4]
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
import keras
import keras_adaptive as ka
model = keras.models.load_model(path, compile=False)
print(json.dumps(ka.measure_latency(model, batch_size, engine=engine).tolist()))
"""
COUNTS = ("TF_NUM_INTRAOP_THREADS", "TF_NUM_INTEROP_THREADS", "OMP_NUM_THREADS")  # of threads


def measure_latency(model, batch_size=1, threads=None, *, engine="auto"):
    """Measures the time per sample that leaving at each exit takes, on the engine used here.

    It is the time that `AdaptivePredictor.predict` takes for `batch_size` blank samples that
    all leave there, by `batch_size`, earlier heads included: the median of a few runs, the exits
    in turn. Give it to `calibrate` as `costs`, with `unit="ms"` and the budget in milliseconds.

    Args:
        model: An `AdaptiveModel` with inputs of fixed size.
        batch_size: Integer, the batch size that will be predicted with.
        threads: Integer. `None`: as this process is set up. A number is measured in a process
            of its own; the model must then be one that can be saved.
        engine: As in `AdaptivePredictor`.

    Returns:
        Float array `(exits,)`, milliseconds per sample, rising.

    Raises:
        TypeError, ValueError: If an argument is impossible, or there are fewer cores than
            `threads`.

    Example:

    >>> from keras_adaptive import build_msdnet
    >>> model = build_msdnet((8, 8, 1), 10, blocks=2, channels=4, growth_rate=2)
    >>> milliseconds = measure_latency(model, batch_size=4, engine="keras")
    >>> bool(0 < milliseconds[0] < milliseconds[1])
    True
    """
    check_model(model)
    check_choice(ENGINES, engine=engine)
    batch_size = integer("batch_size", batch_size, 1)
    if threads is not None:
        if integer("threads", threads, 1) > cores():
            raise ValueError(
                f"`threads` must be from 1 to the number of cores, {cores()}. "
                f"Received: threads={threads}"
            )
        return _measured_elsewhere(model, batch_size, threads, engine)
    # every head is computed, and the thresholds are such that all leave at one of the exits
    exits = model.num_exits
    policies = [
        ExitPolicy([1e30] * k + [-1e30] * (exits - k), "logit_margin", details={"mean_cost": k})
        for k in range(exits)
    ]
    predictor = AdaptivePredictor(model, policies, engine=engine)
    predictor.warm_up(batch_size)
    blank = predictor._inputs.blank(batch_size)
    x = blank if len(blank) > 1 else blank[0]
    seconds, end = [[] for _ in policies], time.perf_counter() + SECONDS
    while len(seconds[-1]) < REPEATS or time.perf_counter() < end:
        for k, taken in enumerate(seconds):
            start = time.perf_counter()
            predictor.predict(x, batch_size, budget=k, verbose=0)
            taken.append(time.perf_counter() - start)
    found = np.median(seconds, axis=1) / batch_size
    # a stage takes some time, whatever short measurements say
    return 1000 * (np.maximum.accumulate(found) + 1e-9 * np.arange(len(found)))


def _measured_elsewhere(model, batch_size, threads, engine):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(path), str(batch_size), str(threads), engine],
            env={
                **os.environ,
                **dict.fromkeys(COUNTS, str(threads)),
                "KERAS_BACKEND": keras.backend.backend(),
                "PYTHONPATH": os.pathsep.join(filter(None, sys.path)),
            },
            capture_output=True,
            text=True,
        )
    if done.returncode:
        reason = done.stderr.strip().splitlines()[-1:] or ["no message"]
        raise ValueError(
            "`model` must be one that can be saved and loaded, for another number of threads "
            f"to be measured. Received: model={model.name} ({reason[0]})"
        )
    return np.array(json.loads(done.stdout.splitlines()[-1]))
