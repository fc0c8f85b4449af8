"""What a trained network loses when it is made smaller.

    make bench-compression       (or: python -m benchmarks.compression --table)

The trained five-exit MSDNet on CIFAR-10, fine-tuned alike in every row, except that the row
with the fewest weights left learns for longer and faster. The unit of resuming is one row,
which is kept in results/compression/ when it is done.
"""

import argparse
import base64
import dataclasses
import json
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

import keras_adaptive as ka
from anytime_tflite import AnytimeModel
from benchmarks import common
from benchmarks.training import difference
from keras_adaptive.files import write_whole

TRAIN, EPOCHS, RATE, CALIBRATE = 20_000, 3, 0.01, 2000
BUDGET = 0.4  # of the whole network's MACs
CLUSTERS = 16
RECIPE = ka.training.Recipe(learning_rate=RATE, schedule="cosine", weight_decay=0.0)
ROWS = common.RESULTS / "compression"
PRUNED = {"50 % zeros": 0.5, "80 % zeros": 0.8}
LONGER = {"80 % zeros": (16, 0.05)}  # epochs and rate, where the others are too few to recover
WAYS = ("as trained", "fine-tuned", *PRUNED, f"{CLUSTERS} clusters", "int8-aware")


def make(way, data):
    """Returns the network made smaller in this way."""
    keras.utils.set_random_seed(0)
    model = common.cifar_net()
    if way == "as trained":
        return model
    batches = data.batches("train", RECIPE.batch_size, training=True)
    epochs, rate = LONGER.get(way, (EPOCHS, RATE))
    how = {"epochs": epochs, "learning_rate": rate, "verbose": 2}
    if way == "int8-aware":
        return ka.compression.quantization_aware(model, batches, **how)
    if way == f"{CLUSTERS} clusters":
        return ka.compression.cluster(model, CLUSTERS, train=batches, **how)
    callbacks = []
    if way in PRUNED:
        callbacks.append(ka.compression.MagnitudePruning(PRUNED[way]))
    recipe = dataclasses.replace(RECIPE, learning_rate=rate)
    return ka.training.fit(
        model, batches, epochs=epochs, recipe=recipe, callbacks=callbacks, seed=0, verbose=2
    )


def run(way, data, images=None):
    """Makes one row."""
    start = time.time()
    model = make(way, data)
    minutes = (time.time() - start) / 60
    x, y = (part[:CALIBRATE] for part in data.arrays("calibrate"))
    test, labels = (part[:images] for part in data.arrays("test"))
    costs = model.exit_costs()
    policy = model.calibrate(*data.arrays("calibrate"), budget=BUDGET * costs[-1], verbose=0)
    logits = np.stack(model.predict(test, batch_size=256, verbose=0))
    early = ka.evaluate(policy, logits, labels, costs)
    row = {
        "way": way,
        "zeros": ka.compression.sparsity(model),
        "minutes": round(minutes, 1),
        "early": {"accuracy": early.accuracy, "share": early.mean_cost / float(costs[-1])},
        "float32": {**outcome(logits, labels)},
    }
    everywhere = ka.ExitPolicy([1.0] * model.exits)
    for kind in (None, "int8"):
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            ka.export_tflite(
                model, path, everywhere, quantize=kind, calibration_data=(x, y) if kind else None
            )
            sizes = {"bytes": path.stat().st_size, "gzip": ka.compression.gzipped_size(path)}
            if kind:
                row[kind] = outcome(file_logits(path, test), labels)
            row[kind or "float32"].update(sizes)
    write_whole(ROWS / f"{WAYS.index(way)}.json", json.dumps(row, indent=1) + "\n")
    return row


def file_logits(path, images):
    device, rows = AnytimeModel(path), []
    for image in images:
        device._backend.start(image[None])
        rows.append([device._backend.run(i) for i in range(len(device.exits))])
    return np.swapaxes(rows, 0, 1)


def outcome(logits, labels):
    right = logits.argmax(-1) == labels
    return {
        "accuracy": right.mean(axis=1).tolist(),
        "right": base64.b64encode(np.packbits(right, axis=1)).decode(),
        "images": len(labels),
    }


def finished():
    rows = [json.loads(path.read_text()) for path in sorted(ROWS.glob("*.json"))]
    return {row["way"]: row for row in rows}


def cells(values, errors=None):
    if errors is None:
        return [f"{100 * v:.2f}" for v in values]
    return [f"{v:+.2f} ± {e:.2f}" for v, e in zip(values, errors, strict=True)]


def write(rows):
    own = [rows[way] for way in WAYS if way in rows]
    dense, tuned = rows["as trained"], rows.get("fine-tuned")
    exits = [f"exit {k}" for k in range(len(dense["float32"]["accuracy"]))]
    images = dense["float32"]["images"]
    share = f"accuracy at {BUDGET:.0%}"
    accuracies = [[r["way"], *cells(r["float32"]["accuracy"])] for r in own]
    int8 = [[r["way"], *cells(r["int8"]["accuracy"])] for r in own]
    sizes = [
        [r["way"], f"{100 * r['zeros']:.1f} %"]
        + [f"{r[kind][size]:,}" for kind in ("float32", "int8") for size in ("bytes", "gzip")]
        + [f"{100 * r['early']['accuracy']:.2f}", f"{r['early']['share']:.1%}", r["minutes"]]
        for r in own
    ]
    gaps = {
        r["way"]: [np.round(v, 3).tolist() for v in difference([r["float32"]], [dense["float32"]])]
        for r in own[1:]
    }
    rounding = {
        f"{r['way']}, int8 against its own float32": difference([r["int8"]], [r["float32"]])
        for r in own
    }
    aware = rows.get("int8-aware")
    if aware:
        for other in filter(None, (dense, tuned)):
            key = f"int8-aware against {other['way']}, both int8"
            rounding[key] = difference([aware["int8"]], [other["int8"]])
    rounding = {k: [np.round(v, 3).tolist() for v in pair] for k, pair in rounding.items()}
    text = [
        "# Smaller networks",
        "",
        f"`cifar10_budgeted_5` on CIFAR-10 (JPEG). Every row but the first was trained on with the "
        f"same {TRAIN:,} images, {EPOCHS} epochs, SGD from {RATE:g} along a cosine"
        + "".join(f" ({way}: {n} epochs from {rate:g})" for way, (n, rate) in LONGER.items())
        + ": `fine-tuned` "
        "as it is; with zeros by `MagnitudePruning` (in every kernel alike; rising in the first "
        "half); with shared values by `cluster`; by `quantization_aware`. Accuracy on "
        f"{images:,} test images in per cent.",
        "",
        "## Accuracy before and after",
        "",
        *common.table(["network", *exits], accuracies),
        "",
        "Points gained over the network as trained, ± standard error of the paired images.",
        "",
        *common.table(["network", *exits], [[k, *cells(*v)] for k, v in gaps.items()]),
        "",
        "## int8 files",
        "",
        'Each network exported with `quantize="int8"`, ranges and thresholds from '
        f"{CALIBRATE:,} calibration images, run by the device's runtime.",
        "",
        *common.table(["network", *exits], int8),
        "",
        *common.table(["points", *exits], [[k, *cells(*v)] for k, v in rounding.items()]),
        "",
        "## Sizes",
        "",
        "Bytes of the .tflite file, and after gzip. The accuracy at a mean cost of at most "
        f"{BUDGET:.0%} of the whole network's MACs is that of thresholds from the calibrate split. "
        "The network as trained is kept in float16, and so gzips better than what came after it.",
        "",
        *common.table(
            ["network", "zeros", "float32", "gzip", "int8", "gzip", share, "cost", "minutes"],
            sizes,
        ),
    ]
    kept = [
        {
            **row,
            **{
                kind: {k: v for k, v in row[kind].items() if k != "right"}
                for kind in ("float32", "int8")
            },
        }
        for row in own
    ]
    facts = {"train": TRAIN, "epochs": EPOCHS, "rows": kept, "gain": gaps, "int8": rounding}
    common.write("compression", facts, text, "make bench-compression")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="only write the table")
    parser.add_argument("--images", type=int, help="train and test on few, to try the program")
    given = parser.parse_args()
    if not given.table:
        data = common.cifar()  # standardised as when the network was trained
        data = dataclasses.replace(data, train=data.train.take(given.images or TRAIN))
        ROWS.mkdir(parents=True, exist_ok=True)
        for way in WAYS:
            if way not in finished():
                row = run(way, data, given.images)
                print(way, row["float32"]["accuracy"], row["int8"]["accuracy"], flush=True)
                keras.backend.clear_session()
    write(finished())


if __name__ == "__main__":
    main()
