"""`BatchPredictor` with different numbers of workers: throughput, memory, and a server's view.

    make bench-workers

Each row is a file and a number of workers, measured in a process of its own, which does not
import TensorFlow. Rows are kept in runs/workers.
"""

import argparse
import json
import sys
import threading
import time
from pathlib import Path

import numpy as np

WORKERS = (1, 2, 4)
ROUNDS = 5
SECONDS = 1.5  # that a round takes about
CLIENTS = 8  # threads of a server
REQUESTS = 40  # of each client in a round
DEADLINE_MS = 1.5  # in images of one worker that does nothing else


# ---- in the process that is measured: no TensorFlow


def memory():
    """Returns the MB that are this process's own, and all that it has in memory."""
    found = dict(line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines())
    return [int(found[key].split()[0]) / 1024 for key in ("RssAnon", "VmRSS")]


def measured(path, images, workers):
    from anytime_tflite import BatchPredictor

    x = np.load(images)
    before = memory()
    with BatchPredictor(path, workers) as predictor:
        predictor.warm_up()
        once = paced(lambda: predictor.predict(x[:16], verbose=0))["wall"] / 16
        count = max(32, int(SECONDS / once))
        many = np.resize(x, (count, *x.shape[1:]))
        taken = [paced(lambda: predictor.predict(many, verbose=0)) for _ in range(ROUNDS)]
        after = memory()
        alone = requests(predictor, x, 1, None)
        served = requests(predictor, x, CLIENTS, None)
        deadline = DEADLINE_MS * float(np.median(alone["ms"])) * CLIENTS / workers
        hurried = requests(predictor, x, CLIENTS, deadline)
    return {
        "workers": workers,
        "file_mb": Path(path).stat().st_size / 2**20,
        "images_s": count / float(np.median([each["wall"] for each in taken])),
        "cpu_ms": 1000 * float(np.median([each["cpu"] for each in taken])) / count,
        "own_mb": after[0] - before[0],
        "all_mb": after[1] - before[1],
        **{f"alone_{key}": value for key, value in percentiles(alone).items()},
        **percentiles(served),
        "deadline_ms": deadline,
        "late": float(np.mean(np.greater(hurried["ms"], deadline))),
        **{f"hurried_{key}": value for key, value in percentiles(hurried).items()},
    }


def paced(function):
    wall, cpu = time.perf_counter(), time.process_time()
    function()
    return {"wall": time.perf_counter() - wall, "cpu": time.process_time() - cpu}


def requests(predictor, x, clients, deadline_ms):
    """Returns how long each request took, of clients that ask one after the other."""
    taken, start = [[] for _ in range(clients)], threading.Barrier(clients)

    def client(number):
        start.wait()
        for i in range(REQUESTS):
            began = time.perf_counter()
            predictor.classify(x[(number * REQUESTS + i) % len(x)], deadline_ms)
            taken[number].append(1000 * (time.perf_counter() - began))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(clients)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"ms": [ms for each in taken for ms in each]}


def percentiles(found):
    return {f"p{p}_ms": float(np.percentile(found["ms"], p)) for p in (50, 99)}


# ---- files and rows


def networks():
    """Returns functions that build each network, and images for it, by name."""
    import keras

    import keras_adaptive as ka
    from benchmarks import common

    def made(name, size, **kwargs):
        def make():
            keras.utils.set_random_seed(0)
            build = getattr(keras.applications, name)
            whole = build(input_shape=(size, size, 3), weights=None, classes=10, **kwargs)
            images = np.random.default_rng(0).normal(size=(400, size, size, 3)).astype("float32")
            return ka.add_exits(whole, at=[0.3, 0.6], classes=10), images

        return make

    return {
        "five exits": lambda: (common.cifar_net(), common.cifar().arrays("test")[0][:2000]),
        "MobileNetV2, 96 pixels": made("MobileNetV2", 96),
        "ResNet50, 64 pixels": made("ResNet50", 64),
    }


def exported(name, make, folder):
    """Returns the files of a network, at half of its MACs, and of images."""
    import keras_adaptive as ka

    path = folder / f"{name.replace(' ', '_').replace(',', '')}.tflite"
    images = path.with_suffix(".npy")
    if not (path.exists() and images.exists()):
        model, x = make()
        folder.mkdir(parents=True, exist_ok=True)
        held_out = len(x) // 2
        logits, costs = model.predict_with_costs(x[:held_out], batch_size=50, verbose=0)
        policy = ka.calibrate(
            logits, logits[-1].argmax(-1), costs, budget_share=0.5, temperature=False
        )
        ka.export_tflite(model, path, policy, single_call=True)
        np.save(images, x[held_out:])
    return path, images


TITLES = {
    "workers": "workers",
    "images_s": "images a second",
    "cpu_ms": "CPU ms per image",
    "own_mb": "memory of its own, MB",
    "all_mb": "with the file's pages, MB",
    "alone_p50_ms": "one client, p50 ms",
    "p50_ms": f"{CLIENTS} clients, p50 ms",
    "p99_ms": f"{CLIENTS} clients, p99 ms",
    "deadline_ms": "deadline, ms",
    "hurried_p99_ms": "with it, p99 ms",
    "late": "later than it",
}


def page(rows):
    from benchmarks import _rows

    parts = []
    for name in dict.fromkeys(row["net"] for row in rows):
        these = [row for row in rows if row["net"] == name]
        parts += [f"## {name}: {these[0]['file_mb']:.1f} MB", _rows.table(TITLES, these)]
    return _rows.page(
        "# Workers on the host",
        f"`BatchPredictor` in a process without TensorFlow; medians of {ROUNDS} rounds. Policies: "
        "half of the MACs. Memory is what the process has more than before the file was opened. "
        f"A server's view: clients ask for one image after the other, {REQUESTS} each, first one "
        f"of them alone, then {CLIENTS} at once: one of {CLIENTS} waits while each of the others "
        "is answered once, divided by the workers. Then the same with a deadline of "
        f"{DEADLINE_MS:g} times that wait, by which an image goes stage by stage, without the "
        "single call.",
        *parts,
    )


def main():
    if "--child" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--child", nargs=3)
        path, images, workers = parser.parse_args().child
        print(json.dumps(measured(path, images, int(workers))))
        return
    from benchmarks import _rows, common

    options = _rows.parser(__doc__).parse_args()
    folder = common.RUNS / "workers"
    rows = _rows.Rows(folder / "rows", rounds=ROUNDS, clients=CLIENTS, requests=REQUESTS)
    found = []
    for name, make in networks().items():
        for workers in WORKERS:
            key = f"{name} {workers}"
            if options.table:
                row = rows.load(key)
            else:
                row = rows.measure(
                    key,
                    lambda n=name, m=make, w=workers: _rows.child(
                        "workers", *exported(n, m, folder), w
                    ),
                )
            if row is not None:
                found.append({"net": name, **row})
    _rows.publish("workers", {"rows": [_rows.values(row) for row in found]}, page(found), found)


if __name__ == "__main__":
    main()
