"""Latency of every exit, measured on this machine."""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import keras
import numpy as np

from keras_adaptive import _graph
from keras_adaptive._checks import integer
from keras_adaptive.inference._compiled import compiled
from keras_adaptive.inference._timings import FULL, Timings
from keras_adaptive.policy.exit_policy import ExitPolicy
from keras_adaptive.training.adaptive_model import AdaptiveModel

PROGRAM = """
import json, os, sys
path, batch_size, threads = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
if hasattr(os, "sched_setaffinity"):
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
import keras
import keras_adaptive as ka
if keras.backend.backend() == "tensorflow":
    import tensorflow as tf
    tf.config.threading.set_intra_op_parallelism_threads(threads)
    tf.config.threading.set_inter_op_parallelism_threads(threads)
model = keras.models.load_model(path, compile=False)
print(json.dumps(ka.measure_latency(model, batch_size).tolist()))
"""


def measure_latency(model, batch_size=1, threads=None):
    """Measures the time per sample that leaving at each exit takes, on this machine.

    For exit `k` it is the sum over the stages up to `k` of `seconds of the stage / samples`,
    of full batches as `AdaptivePredictor.predict` fills them, earlier heads included, plus
    the time to copy the survivors together before each stage but the first. For single
    samples it is the time that the one function with conditionals takes to leave there, as
    in `AdaptivePredictor`. It is the median of a few runs with blank images. Give it to
    `calibrate` as `costs`, with the budget in milliseconds.

    It does not measure reading or preparing images.

    Args:
        model: An `AdaptiveModel` with one input.
        batch_size: Integer, the batch size that will be predicted with.
        threads: Integer. `None`: as this process is set up. A number other than that is
            measured in a process of its own, since a backend cannot change it; the
            model must then be one that can be saved.

    Returns:
        Float array `(exits,)`, milliseconds per sample, rising.

    Raises:
        TypeError, ValueError: If an argument is impossible, or there are fewer cores than
            `threads`.

    Example:

    >>> from keras_adaptive import build_msdnet
    >>> model = build_msdnet((8, 8, 1), 10, blocks=2, channels=4, growth_rate=2)
    >>> milliseconds = measure_latency(model, batch_size=4)
    >>> bool(0 < milliseconds[0] < milliseconds[1])
    True
    """
    if not isinstance(model, AdaptiveModel):
        raise TypeError(f"`model` must be an AdaptiveModel. Received: model={model!r}")
    batch_size = integer("batch_size", batch_size, 1)
    if threads is not None:
        threads, cores = integer("threads", threads, 1), _cores()
        if threads > cores:
            raise ValueError(
                f"`threads` must be from 1 to the number of cores, {cores}. "
                f"Received: threads={threads}"
            )
        if threads != _threads():
            return _measured_elsewhere(model, batch_size, threads)
    stages = compiled(_graph.minimal_stages(model.inputs, model.outputs))
    timings = Timings(stages)
    if batch_size == 1 and stages.conditional is not None and len(model.outputs[0].shape) == 2:
        last = ExitPolicy([*[np.inf] * (len(stages) - 1), -np.inf])
        function = stages.conditional(last, list(range(len(stages))))
        seconds = [timings.conditional(function, k) for k in range(len(stages))]
        # a stage takes some time, whatever two short measurements say
        return 1000 * (np.maximum.accumulate(seconds) + 1e-9 * np.arange(len(stages)))
    full = [timings.full(k, batch_size, waiting=FULL) for k in range(len(stages))]
    seconds = np.array([timings.stage(k, size) / size for k, size in enumerate(full)])
    seconds[1:] += [timings.regrouping(k, full[k]) for k in range(1, len(stages))]
    return 1000 * np.cumsum(seconds)


def _cores():
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count()


def _threads():
    """Returns the number of threads that this process computes with."""
    if keras.backend.backend() != "tensorflow":
        return _cores()
    import tensorflow as tf

    return tf.config.threading.get_intra_op_parallelism_threads() or _cores()


def _measured_elsewhere(model, batch_size, threads):
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.keras"
        model.save(path)
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM, str(path), str(batch_size), str(threads)],
            env={
                **os.environ,
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
