"""Batch scoring: `score`, a loop over `BatchPredictor`, and a plain Beam pipeline.

    make bench-score

The test images of CIFAR-10, over and over, as JPEG in TFRecord files of 10,000; the shared network
with five exits at 30 % of its cost. Each row is a way and a number of images, in a process of its
own that does not import TensorFlow; the ways take turns. Rows are kept in runs/score.
"""

import argparse
import json
import shutil
import struct
import sys
import threading
import time
from pathlib import Path

import numpy as np

WAYS = ("loop", "score", "beam")
# images: rounds, and ways; the others take as long per image at a million as at a hundred thousand
PLAN = {10_000: (3, WAYS), 100_000: (1, WAYS), 1_000_000: (1, ("score",))}
FILE = 10_000  # images of a file
BATCH = 512  # images that the loop gives to the predictor at a time
EVERY_S = 0.05  # between two looks at the memory
MOST_OF_LOOP, MOST_OF_BEAM = 1.15, 2.0


# ---- in the process that is measured: no TensorFlow


class Memory:
    """The most memory that this process and its children have had of their own, in MB."""

    def __enter__(self):
        self.most, self._ends = [], threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *error):
        self._ends.set()
        self._thread.join()

    def _watch(self):
        while not self._ends.wait(EVERY_S):
            found = dict(
                line.split(":", 1) for line in Path("/proc/self/status").read_text().splitlines()
            )
            self.most.append(int(found["RssAnon"].split()[0]) / 1024)


def loop(model, files, output):
    """Reads, predicts and writes one part after the other: what one would write first."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    from anytime_tflite import BatchPredictor, pixels, read_info
    from keras_adaptive.beam import _samples

    rule = _samples.picture_rule(read_info(model), model)
    output.mkdir(parents=True)
    with BatchPredictor(model) as predictor:
        for number, name in enumerate(files):
            rows = []
            with open(name, "rb") as file:
                items = _samples.records(file, name, _samples.Columns())
                while part := [item for _, item in zip(range(BATCH), items, strict=False)]:
                    x = np.stack([pixels.read(item.content, rule) for item in part])
                    found = predictor.predict(x, verbose=0)
                    best = found.probabilities.max(axis=1).tolist()
                    keys = [item.key for item in part]
                    columns = (found.labels.tolist(), best, found.exits.tolist())
                    rows += zip(keys, *columns, found.costs.tolist(), strict=True)
            names = ("key", "label", "probability", "exit", "cost")
            table = dict(zip(names, map(list, zip(*rows, strict=True)), strict=True))
            pq.write_table(pa.table(table), output / f"{number:05}.parquet")


def score(model, files, output):
    import keras_adaptive as ka

    ka.beam.score(list(map(str, files)), model, output, verbose=0)


def beam(model, files, output):
    import apache_beam

    import keras_adaptive as ka

    for number, name in enumerate(files):  # the direct runner keeps all of a pipeline in memory
        with apache_beam.Pipeline() as pipeline:
            pipeline | ka.beam.ScoreFiles(str(name), str(model), str(output / f"{number:05}"))


def measured(way, model, folder, count, output):
    import pyarrow.parquet as pq

    files = sorted(Path(folder).glob("*.tfrecord"))
    names = [files[i % len(files)] for i in range(max(1, count // FILE))]
    if len(set(names)) < len(names):
        raise ValueError(f"There must be a file for each {FILE:,} images. Received: {len(files)}")
    shutil.rmtree(output, ignore_errors=True)
    with Memory() as memory:
        wall, cpu = time.perf_counter(), time.process_time()
        {"loop": loop, "score": score, "beam": beam}[way](model, names, output)
        wall, cpu = time.perf_counter() - wall, time.process_time() - cpu
    done = sum(pq.read_metadata(path).num_rows for path in output.rglob("*.parquet"))
    shutil.rmtree(output)
    half = len(memory.most) // 2
    return {
        "images": done,
        "seconds": wall,
        "images_s": done / wall,
        "cpu_ms": 1000 * cpu / done,
        "most_mb": max(memory.most),
        "most_mb_first_half": max(memory.most[:half] or [0]),
    }


# ---- the files


def prepared(folder, count):
    """Returns the exported network, and a folder of so many images, written once."""
    model = folder / "model.tflite"
    if not model.exists():
        export(model)
    per_file = min(FILE, count)
    images = folder / f"images_{count}"
    wanted = max(1, count // FILE)
    if len(list(images.glob("*.tfrecord"))) < wanted:
        images.mkdir(parents=True, exist_ok=True)
        pictures = list(encoded())
        for number in range(wanted):
            which = [(number * per_file + i) % len(pictures) for i in range(per_file)]
            content = b"".join(record(*pictures[i]) for i in which)
            temporary = images / f".{number:05}"
            temporary.write_bytes(content)
            temporary.rename(images / f"{number:05}.tfrecord")
    return model, images


def export(path):
    import keras_adaptive as ka
    from benchmarks import common

    splits = common.cifar()
    model = common.cifar_net()
    policy = model.calibrate(*splits.arrays("calibrate"), budget_share=0.3, verbose=0)
    path.parent.mkdir(parents=True, exist_ok=True)
    ka.export_tflite(
        model,
        path,
        policy,
        single_call=True,
        class_names=splits.class_names,
        preprocessing={"mean": splits.mean, "std": splits.std},
    )


def encoded():
    """Yields the test images as JPEG, and their labels."""
    import io

    from PIL import Image

    from benchmarks import common

    splits = common.cifar()
    images, labels = splits.images("test", splits.size("test"))
    for image, label in zip(images, labels, strict=True):
        file = io.BytesIO()
        Image.fromarray(np.asarray(image, "uint8")).save(file, "JPEG", quality=95)
        yield file.getvalue(), int(label)


def record(picture, label):
    """Returns a `tf.train.Example` as TFRecord files hold it."""
    import google_crc32c
    import tensorflow as tf

    feature = {
        "image": tf.train.Feature(bytes_list=tf.train.BytesList(value=[picture])),
        "label": tf.train.Feature(int64_list=tf.train.Int64List(value=[label])),
    }
    example = tf.train.Example(features=tf.train.Features(feature=feature)).SerializeToString()

    def masked(content):
        crc = google_crc32c.value(content)
        return struct.pack("<I", (((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)

    size = struct.pack("<Q", len(example))
    return size + masked(size) + example + masked(example)


# ---- rows


TITLES = {
    "images": "images",
    "way": "way",
    "seconds": "seconds",
    "images_s": "images a second",
    "of_loop": "time of the loop's",
    "cpu_ms": "CPU ms per image",
    "most_mb": "memory, MB",
    "most_mb_first_half": "in the first half, MB",
}


def summed(rows):
    """Returns one row for each way and number: the median round, and its time beside the loop's."""
    found = []
    for count in dict.fromkeys(row["count"] for row in rows):
        loops = [r["seconds"] for r in rows if (r["count"], r["way"]) == (count, "loop")]
        for way in WAYS:
            these = [row for row in rows if (row["count"], row["way"]) == (count, way)]
            if not these:
                continue
            middle = sorted(these, key=lambda row: row["seconds"])[len(these) // 2]
            of_loop = middle["seconds"] / float(np.median(loops)) if loops else "-"
            found.append({**middle, "of_loop": of_loop})
    return found


def plan(rows):
    """Returns what a billion images take, from what was measured of the most images here."""
    best = [row for row in rows if row["way"] == "score"][-1]
    hours = 1e9 / best["images_s"] / 3600
    cores = best["cores"]
    per_million = 1e6 / best["images_s"] / 3600 * cores
    return (
        f"A billion such images on this machine would take {hours:,.0f} hours: "
        f"{hours * cores:,.0f} hours of a core. On 100 machines like it, in shards of 100,000: "
        f"10,000 shards of {1e5 / best['images_s'] / 60:.1f} minutes, 100 for each machine, "
        f"{hours / 100:,.1f} hours in all. A million images are {per_million:.2f} hours of a core; "
        f"at $0.04 an hour of a core, the usual price of a cloud's virtual machines, that is "
        f"${0.04 * per_million:.4f}. Reading from a network and failed machines come on top; this "
        "is on paper, and was not run."
    )


def page(rows):
    from benchmarks import _rows

    return _rows.page(
        "# Batch scoring",
        f"CIFAR-10's test images, repeated, as JPEG in TFRecord files of {FILE:,}; five exits at "
        "30 % of the cost, one file with a single call. `loop`: read, `BatchPredictor.predict`, "
        "write, one after the other. `score`: `keras-adaptive score`, in one process. `beam`: "
        "`ka.beam.ScoreFiles` on the direct runner, a pipeline for each file. In turns; the median "
        "round. Memory is the process's own. Bounds: `score` at most "
        f"{MOST_OF_LOOP} of the loop's time, `beam` at most {MOST_OF_BEAM}.",
        _rows.table(TITLES, rows),
        "## A billion images, on paper",
        plan(rows),
    )


def main():
    if "--child" in sys.argv:
        parser = argparse.ArgumentParser()
        parser.add_argument("--child", nargs=5)
        way, model, images, count, output = parser.parse_args().child
        print(json.dumps(measured(way, model, images, int(count), Path(output))))
        return
    import os

    from benchmarks import _rows, common

    parser = _rows.parser(__doc__)
    parser.add_argument("--images", type=int, nargs="+", help="instead of 10,000 to a million")
    options = parser.parse_args()
    tried = options.images is not None
    folder = (common.TRIAL if tried else common.RUNS) / "score"
    rows = _rows.Rows(folder / "rows", file=FILE, batch=BATCH)
    found = []
    for count in options.images or PLAN:
        rounds, ways = PLAN.get(count, (1, WAYS))
        for number in range(rounds):
            for way in (ways, ways[::-1])[number % 2]:
                key = f"{count} {way} {number}"
                if options.table:
                    row = rows.load(key)
                else:
                    row = rows.measure(
                        key,
                        lambda w=way, c=count: _rows.child(
                            "score", w, *prepared(folder, c), c, folder / "answers"
                        ),
                    )
                if row is not None:
                    cores = len(os.sched_getaffinity(0))
                    found.append({"count": count, "way": way, "cores": cores, **row})
    table = summed([_rows.values(row) for row in found])
    if tried:
        print(*_rows.table(TITLES, table), sep="\n")
        return
    _rows.publish("score", {"rows": table}, page(table), found)


if __name__ == "__main__":
    main()
