"""What a trained network loses when it is made smaller.

    make bench-compression       (or: python -m benchmarks.compression --table)

The trained five-exit MSDNet on CIFAR-10, fine-tuned alike in every row, except that the row
with the fewest weights left learns for longer and faster. The unit of resuming is one row,
which is kept in results/compression/ when it is done.
"""

import dataclasses
import tempfile
import time
from pathlib import Path

import keras
import numpy as np

import keras_adaptive as ka
from anytime_tflite import AnytimeModel
from benchmarks import _rows, common

TRAIN, EPOCHS, RATE, CALIBRATE = 20_000, 3, 0.01, 2000
BUDGET = 0.4  # of the whole network's MACs
CLUSTERS = 16
RECIPE = ka.training.Recipe(learning_rate=RATE, schedule="cosine", weight_decay=0.0)
PRUNED = {"50 % zeros": 0.5, "80 % zeros": 0.8}
LONGER = {"80 % zeros": (16, 0.05)}  # epochs and rate, where the others are too few to recover
WAYS = ("as trained", "fine-tuned", *PRUNED, f"{CLUSTERS} clusters", "int8-aware")
KINDS = ("float32", "int8")


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
    keras.backend.clear_session()
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
        "float32": _rows.outcome(logits.argmax(-1) == labels),
    }
    everywhere = ka.ExitPolicy([1.0] * model.exits)
    for kind in KINDS:
        how = {"quantize": "int8", "calibration_data": (x, y)} if kind == "int8" else {}
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            ka.export_tflite(model, path, everywhere, **how)
            if how:
                rounded = common.stage_logits(AnytimeModel(path), test)
                row[kind] = _rows.outcome(rounded.argmax(-1) == labels)
            row[kind] |= {"bytes": path.stat().st_size, "gzip": ka.compression.gzipped_size(path)}
    return row


def cells(values, errors=None):
    if errors is None:
        return [f"{100 * v:.2f}" for v in values]
    return [f"{v:+.2f} ± {e:.2f}" for v, e in zip(values, errors, strict=True)]


def gains(rows, dense):
    """Returns what each way gained, and what int8 cost, in points with their errors."""
    gaps = {r["way"]: _rows.difference([r["float32"]], [dense["float32"]]) for r in rows[1:]}
    rounding = {
        f"{r['way']}, int8 against its own float32": _rows.difference([r["int8"]], [r["float32"]])
        for r in rows
    }
    for aware in (r for r in rows if r["way"] == "int8-aware"):
        for other in (r for r in rows if r["way"] in ("as trained", "fine-tuned")):
            key = f"int8-aware against {other['way']}, both int8"
            rounding[key] = _rows.difference([aware["int8"]], [other["int8"]])
    return (
        {key: [np.round(v, 3).tolist() for v in pair] for key, pair in found.items()}
        for found in (gaps, rounding)
    )


def page(rows, gaps, rounding):
    accuracy = rows[0]["float32"]["accuracy"]
    exits = [f"exit {k}" for k in range(len(accuracy))]
    sizes = [
        [r["way"], f"{100 * r['zeros']:.1f} %"]
        + [f"{r[kind][size]:,}" for kind in KINDS for size in ("bytes", "gzip")]
        + [f"{100 * r['early']['accuracy']:.2f}", f"{r['early']['share']:.1%}", r["minutes"]]
        for r in rows
    ]
    heads = ["network", "zeros", "float32", "gzip", "int8", "gzip", f"accuracy at {BUDGET:.0%}"]
    return _rows.page(
        "# Smaller networks",
        f"`cifar10_budgeted_5` on CIFAR-10 (JPEG). Every row but the first was trained on with the "
        f"same {TRAIN:,} images, {EPOCHS} epochs, SGD from {RATE:g} along a cosine"
        + "".join(f" ({way}: {n} epochs from {rate:g})" for way, (n, rate) in LONGER.items())
        + ": `fine-tuned` "
        "as it is; with zeros by `MagnitudePruning` (in every kernel alike; rising in the first "
        "half); with shared values by `cluster`; by `quantization_aware`. Accuracy on "
        f"{rows[0]['float32']['images']:,} test images in per cent.",
        "## Accuracy before and after",
        _rows.table(
            ["network", *exits], [[r["way"], *cells(r["float32"]["accuracy"])] for r in rows]
        ),
        "Points gained over the network as trained, ± standard error of the paired images.",
        _rows.table(["network", *exits], [[k, *cells(*v)] for k, v in gaps.items()]),
        "## int8 files",
        'Each network exported with `quantize="int8"`, ranges and thresholds from '
        f"{CALIBRATE:,} calibration images, run by the device's runtime.",
        _rows.table(["network", *exits], [[r["way"], *cells(r["int8"]["accuracy"])] for r in rows]),
        _rows.table(["points", *exits], [[k, *cells(*v)] for k, v in rounding.items()]),
        "## Sizes",
        "Bytes of the .tflite file, and after gzip. The accuracy at a mean cost of at most "
        f"{BUDGET:.0%} of the whole network's MACs is that of thresholds from the calibrate split. "
        "The network as trained is kept in float16, and so gzips better than what came after it.",
        _rows.table([*heads, "cost", "minutes"], sizes),
    )


def main():
    parser = _rows.parser(__doc__)
    parser.add_argument("--images", type=int, help="train and test on few, to try the program")
    given = parser.parse_args()
    folder = common.TRIAL if given.images else common.RESULTS
    settings = {"train": given.images or TRAIN, "epochs": EPOCHS, "recipe": RECIPE}
    kept = _rows.Rows(folder / "compression", **settings)
    if not given.table:
        data = common.cifar()  # standardized as when the network was trained
        data = dataclasses.replace(data, train=data.train.take(given.images or TRAIN))
        for i, way in enumerate(WAYS):
            kept.measure(i, run, way, data, given.images, longer=LONGER.get(way))
    rows = list(kept.all().values())
    gaps, rounding = gains(rows, rows[0])
    published = [_rows.values(row, "right") for row in rows]
    facts = {"train": TRAIN, "epochs": EPOCHS, "rows": published, "gain": gaps, "int8": rounding}
    _rows.publish("compression", facts, page(rows, gaps, rounding), rows, folder)


if __name__ == "__main__":
    main()
