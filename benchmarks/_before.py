"""Runs the predictor of another version of the library, for `benchmarks.inference`.

Started in that version's folder, with its own environment. Reads a line of JSON with the network,
its weights, thresholds and images, then one for each measurement, and answers each with a line.
"""

import json
import sys
import time


def main():
    given = json.loads(sys.stdin.readline())
    import keras  # noqa: F401  (the expression may use it)
    import numpy as np
    import tensorflow as tf

    tf.config.threading.set_intra_op_parallelism_threads(given["threads"])
    tf.config.threading.set_inter_op_parallelism_threads(given["threads"])
    import keras_adaptive as ka

    model = eval(given["network"], {"ka": ka, "keras": keras})
    with np.load(given["weights"]) as kept:
        model.set_weights([kept[f"arr_{i}"] for i in range(len(kept.files))])
    images = np.load(given["images"])
    policies = [
        ka.ExitPolicy(thresholds, details={"mean_cost": i})
        for i, thresholds in enumerate(given["thresholds"])
    ]
    predictor = ka.AdaptivePredictor(model, policies)
    print(json.dumps("ready"), flush=True)
    for line in sys.stdin:
        what = json.loads(line)
        x = images[: what["images"]]
        parts = x[:, None] if what["batch"] == 1 else [x]  # batch 1: a call for each image
        wall, cpu = time.perf_counter(), time.process_time()
        found = [
            predictor.predict(part, batch_size=what["batch"], budget=what["policy"], verbose=0)
            for part in parts
        ]
        cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
        exits = [int(k) for result in found for k in result.exits]
        print(json.dumps({"cpu": cpu, "wall": wall, "exits": exits}), flush=True)


if __name__ == "__main__":
    main()
