"""Runs a stage whose shapes depend on values; prints how many answers are wrong.

A program of its own: an interpreter that reads memory which has moved may crash.
"""

import sys
from pathlib import Path

import numpy as np
import tensorflow as tf

from anytime_tflite.backends import InterpreterBackend


class Stage(tf.Module):
    @tf.function(input_signature=[tf.TensorSpec((1, 64), tf.float32, name="x")])
    def stage_0(self, x):
        values = tf.reshape(x, [-1])
        rows = tf.tile(tf.boolean_mask(values, values > 0)[:, None], [1, 256])
        total = tf.reduce_sum(tf.cumsum(tf.exp(-rows * rows), axis=1)[:, -1])
        return {"logits": tf.stack([total, tf.reduce_sum(x)])[None]}


def main(folder):
    stage, path = Stage(), str(Path(folder) / "stage.tflite")
    tf.saved_model.save(stage, folder, signatures={"stage_0": stage.stage_0})
    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=["stage_0"])
    Path(path).write_bytes(converter.convert())
    backend = InterpreterBackend(path, 1, 1, ["x"])
    assert backend.direct
    counts, wrong = [*range(0, 65, 4), 3, 64, 1, 0, 64, 2], 0
    for count in counts:  # of positive numbers, each of which makes a row
        x = np.full((1, 64), -1, "float32")
        x[0, :count] = np.linspace(0.1, 1, count)
        backend.start({"x": x})
        expected = [256 * np.exp(-(x[x > 0] ** 2)).sum(), x.sum()]
        wrong += not np.allclose(backend.run(0), expected, rtol=1e-3, atol=1e-3)
    print(wrong, "of", len(counts))


if __name__ == "__main__":
    main(sys.argv[1])
