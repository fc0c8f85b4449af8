"""Converts to int8 in a process of its own, for networks that may end TensorFlow's calibrator.

python -m keras_adaptive.export._in_child FOLDER
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np

LOOPS = {"While", "StatelessWhile"}


def has_loop(function):
    """Returns whether a concrete function, or one that it calls, holds a loop."""
    graph = function.graph.as_graph_def()
    nodes = [*graph.node, *(node for each in graph.library.function for node in each.node_def)]
    return any(node.op in LOOPS for node in nodes)


def convert_in_child(folder, signatures, old_runtime, examples):
    """Returns the bytes of the int8 file of a SavedModel.

    Args:
        folder: String, where the SavedModel is; further files are written there.
        signatures: List of their names.
        old_runtime: As in `_conversion.convert`.
        examples: Pairs of a signature's name and a dictionary of arrays.

    Raises:
        RuntimeError: If the process ends without a file.
    """
    folder, arrays, named = Path(folder), {}, []
    for i, (signature, tensors) in enumerate(examples):
        named.append([signature, list(tensors)])
        arrays.update({f"{i} {name}": array for name, array in tensors.items()})
    np.savez(folder / "examples.npz", **arrays)
    told = {"signatures": signatures, "old_runtime": old_runtime, "examples": named}
    (folder / "task.json").write_text(json.dumps(told))
    package = str(Path(__file__).parents[2])
    paths = [package, *filter(None, [os.environ.get("PYTHONPATH")])]
    done = subprocess.run(
        [sys.executable, "-m", "keras_adaptive.export._in_child", str(folder)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(paths)},
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode == 0:
        return (folder / "model.tflite").read_bytes()
    last = (done.stderr.strip().splitlines() or [""])[-1]
    why = f"signal {-done.returncode}" if done.returncode < 0 else last
    raise RuntimeError(
        "TensorFlow must measure the ranges of int8 inside of loops, which it could not do. "
        'Recurrent layers are unrolled up to 64 steps; for longer sequences give "dynamic" or '
        f'"float16". Received: quantize="int8", whose calibrator ended with {why}'
    )


def main(folder):
    import tensorflow as tf

    from keras_adaptive.export._conversion import configure

    folder = Path(folder)
    told = json.loads((folder / "task.json").read_text())
    arrays = np.load(folder / "examples.npz")
    examples = (
        (signature, {name: arrays[f"{i} {name}"] for name in names})
        for i, (signature, names) in enumerate(told["examples"])
    )
    converter = tf.lite.TFLiteConverter.from_saved_model(
        str(folder), signature_keys=told["signatures"]
    )
    configure(converter, "int8", told["old_runtime"], examples)
    (folder / "model.tflite").write_bytes(converter.convert())


if __name__ == "__main__":
    main(sys.argv[1])
