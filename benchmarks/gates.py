"""What gates are worth: layers, channels, both, and both with exits, side by side.

    make bench-gates
    python -m benchmarks.gates --row plain    only this row
    python -m benchmarks.gates --table        only the table and the pictures
    python -m benchmarks.gates --time         time of the trained networks, on a quiet machine

ResNet-38 on CIFAR-10, every row trained on the same images for the same number of epochs. The
unit of resuming is a row, kept in results/gates/ when it is done; a row that was killed goes on
from its last epoch. Weights are kept under runs/gates.
"""

import argparse
import base64
import json
import shutil
import time

import keras
import numpy as np
import tensorflow as tf

import keras_adaptive as ka
from benchmarks import common
from keras_adaptive.files import write_whole
from keras_adaptive.training import GateLoss, Recipe, fit

DEPTH, TRAIN, EPOCHS, SEED = 38, 20_000, 6, 0
RECIPE = Recipe(learning_rate=0.1, schedule="one_cycle")
FIRST_SHARE = 1 / 3  # of the epochs, all gates held open
# row: arguments of the builder; exits at a quarter and three quarters of every stage
WAYS = {
    "plain": {},
    "layer": {"gates": "layer"},
    "channel": {"gates": "channel"},
    "both": {"gates": "both"},
    "both with exits": {"gates": "both", "exits": (0.25, 0.75)},
}
# alpha: the paper's 2e-4, and 1e-3 too, skip nothing in so few epochs; channels need more than
# layers, since each closed channel saves so little. Chosen by trial on 12,800 images.
ALPHA = {"layer": 3e-3, "channel": 3e-2, "both": 3e-3}
POINTS = 20  # budgets of the curve
THREADS, ROUNDS = 2, 30
BATCHES = {1: 200, 256: 1024}  # images of a round
ROWS = common.RESULTS / "gates"
RUNS = common.ROOT.parent / "runs" / "gates"


def file_name(way):
    return way.replace(" ", "_")


def weights(way):
    return RUNS / f"{file_name(way)}.weights.h5"


def build(way):
    return ka.build_resnet(depth=DEPTH, **WAYS[way])


def train(way, data):
    """Trains one row, keeps its weights, and returns what the table needs of it."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(SEED)
    model = build(way)
    backup = RUNS / file_name(way)
    backup.mkdir(parents=True, exist_ok=True)
    how = {}
    if "gates" in WAYS[way]:
        loss = GateLoss(weight=ALPHA[WAYS[way]["gates"]])
        how = {"regime": "gated", "first_share": FIRST_SHARE, "gate_loss": loss}
    start = time.time()
    fit(
        model,
        data.batches("train", training=True, seed=SEED),
        epochs=EPOCHS,
        recipe=RECIPE,
        callbacks=[keras.callbacks.CSVLogger(backup / "epochs.csv", append=True)],
        backup_dir=backup,
        seed=SEED,
        verbose=2,
        **how,
    )
    minutes = (time.time() - start) / 60
    model.save_weights(weights(way))
    row = {"way": way, "minutes": round(minutes, 1), **measured(model, data)}
    write_whole(ROWS / f"{file_name(way)}.json", json.dumps(row) + "\n")
    shutil.rmtree(backup)
    return row


def measured(model, data):
    """Returns accuracy and costs on the test images."""
    how = {"batch_size": 256, "verbose": 0}
    x, y = data.arrays("test")
    logits, costs = model.predict_with_costs(x, **how)
    energy = model.predict_with_costs(x, unit="energy", **how)[1]
    right = logits.argmax(-1) == y
    row = {
        "accuracy": right.mean(axis=1).tolist(),
        "macs": costs.mean(axis=1).tolist(),
        "all_open": model.exit_costs().tolist(),
        "energy": energy.mean(axis=1).tolist(),
        "images": len(y),
        "right": packed(np.packbits(right[-1])),
        "cost": packed(costs[-1].astype("float32")),
    }
    if has_gates(model):
        expected = model.predict_with_costs(x, expected=True, **how)[1]
        shares = model.predict_gates(x, **how)
        row["expected_macs"] = expected.mean(axis=1).tolist()
        row["open"] = shares.mean(axis=1).tolist()
        row["computed"] = packed(shares.astype("float16"))
    if model.exits > 1:
        held, labels = data.arrays("calibrate")
        found = model.predict_with_costs(held, **how)
        row |= limits(model, found, labels, (logits, costs), y)
    return row


def has_gates(model):
    return any(isinstance(layer, ka.layers.GatedBlock) for layer in model.layers)


def limits(model, held, labels, test, test_labels):
    """Returns what policies for budgets give, and for hard limits on every single image."""
    logits, costs = held
    curve = ka.accuracy_cost_curve(
        logits, labels, costs, points=POINTS, test=(test[0], test_labels, test[1])
    )
    hard = []
    for worst in model.exit_costs():
        never = ka.ExitPolicy([np.inf] * model.exits, worst_case=worst)
        report = ka.evaluate(never, test[0], test_labels, test[1])
        hard.append(
            {
                "limit": float(worst),
                "accuracy": report.accuracy,
                "mean": report.mean_cost,
                "worst": report.worst_cost,
            }
        )
    points = {"macs": curve.costs.tolist(), "accuracy": curve.accuracies.tolist()}
    return {"budgets": points, "limits": hard}


def packed(values):
    return base64.b64encode(values.tobytes()).decode()


def unpacked(text, dtype):
    return np.frombuffer(base64.b64decode(text), dtype)


def finished():
    """Returns the rows there are, by name."""
    rows = [json.loads(path.read_text()) for path in ROWS.glob("*.json")]
    rows = {row["way"]: row for row in rows}
    return {way: rows[way] for way in WAYS if way in rows}


def timed(data):
    """Returns the time of every row as a multiple of the plain one, rounds in turn."""
    x = data.arrays("test")[0]
    rows = finished()
    runs = {}
    for way in rows:
        model = build(way)
        model.load_weights(weights(way))
        policy = ka.ExitPolicy([*[np.inf] * (model.exits - 1), -np.inf])  # the last exit answers
        runs[way] = ka.AdaptivePredictor(model, policy)
    results = []
    for batch, count in BATCHES.items():
        seconds, costs = {way: [] for way in runs}, {way: [] for way in runs}
        rounds = ROUNDS if batch == 1 else ROUNDS // 3
        for number in range(rounds + 2):
            start = number * count % (len(x) - count)
            for way, predictor in runs.items():
                before = time.perf_counter()
                found = predictor.predict(x[start : start + count], batch_size=batch, verbose=0)
                if number >= 2:  # the first rounds choose how to compute
                    seconds[way].append((time.perf_counter() - before) / count)
                    costs[way].append(found.costs.mean())
        for way in runs:
            ratios = np.array(seconds[way]) / seconds["plain"]
            low, middle, high = np.quantile(ratios, [0.25, 0.5, 0.75]).tolist()
            results.append(
                {
                    "way": way,
                    "batch": batch,
                    "ms": 1000 * float(np.median(seconds[way])),
                    "time_of_plain": middle,
                    "quartiles": [low, high],
                    "macs_of_plain": float(np.mean(costs[way]) / np.mean(costs["plain"])),
                }
            )
    write_whole(ROWS / "time" / "time.json", json.dumps(results, indent=1) + "\n")


def table(rows):
    plain = rows["plain"]
    lines = []
    for way, row in rows.items():
        cost = unpacked(row["cost"], "float32")
        expected = row.get("expected_macs", row["macs"])
        lines.append(
            [
                way,
                f"{ALPHA[WAYS[way]['gates']]:g}" if "gates" in WAYS[way] else "",
                f"{100 * row['accuracy'][-1]:.1f}",
                f"{row['macs'][-1] / 1e6:.1f}",
                f"{expected[-1] / 1e6:.1f}",
                f"{row['all_open'][-1] / 1e6:.1f}",
                f"{row['macs'][-1] / plain['macs'][-1]:.2f}",
                f"{row['energy'][-1] / plain['energy'][-1]:.2f}",
                f"{np.quantile(cost, 0.05) / 1e6:.1f} to {np.quantile(cost, 0.95) / 1e6:.1f}",
            ]
        )
    heads = ["gates", "alpha", "accuracy", "MMACs", "expected", "all open", "MACs", "energy"]
    return common.table([*heads, "MMACs of 90 % of the images"], lines)


def skipped(rows):
    """Returns the table of how much of each block is skipped, in per cent."""
    gated = {way: row["open"] for way, row in rows.items() if "open" in row}
    blocks = len(next(iter(gated.values())))
    lines = [[i, *(f"{100 * (1 - x[i]):.0f}" for x in gated.values())] for i in range(blocks)]
    return common.table(["block", *gated], lines)


def exits(row):
    hard = {limit["limit"]: limit for limit in row["limits"]}
    lines = [
        [
            k,
            f"{100 * row['accuracy'][k]:.1f}",
            f"{row['macs'][k] / 1e6:.1f}",
            f"{row['all_open'][k] / 1e6:.1f}",
            f"{100 * hard[most]['accuracy']:.1f}",
            f"{hard[most]['mean'] / 1e6:.1f}",
            f"{hard[most]['worst'] / 1e6:.1f}",
        ]
        for k, most in enumerate(row["all_open"])
    ]
    heads = ["exit", "accuracy", "MMACs", "all open", "limited to that", "mean", "dearest image"]
    return common.table(heads, lines)


def text(rows, times):
    lines = [
        "# Gates on layers and channels",
        "",
        f"ResNet-{DEPTH} on CIFAR-10 (JPEG), the same {TRAIN:,} training images, {EPOCHS} epochs",
        f"in all phases together, batches of {RECIPE.batch_size}, one-cycle schedule up to",
        f"{RECIPE.learning_rate:g} in every phase, one seed. Of a gated network's epochs a third",
        "goes to the network alone and one epoch to opening its gates, so that so short a training",
        "costs them accuracy. `alpha` weighs the MMACs that the gates let through. Accuracy of the",
        "last exit on 5,000 test images in per cent (standard error 0.6); MMACs executed, gates",
        "and heads included, mean of the images; `expected`: by the gates' probabilities; MACs and",
        "energy also as multiples of the plain network's. Channels save MACs and energy on paper",
        "only: nothing computes them faster for being closed.",
        "",
        *table(rows),
    ]
    if any("open" in row for row in rows.values()):
        lines += ["", "Skipped of each gated block, in per cent:", "", *skipped(rows)]
    if "both with exits" in rows:
        lines += [
            "",
            "Both kinds of gates with exits at a quarter and three quarters of every stage; each",
            "exit alone, and a hard limit on every image, as dear as that exit with all gates",
            "open, where the last exit that fits answers:",
            "",
            *exits(rows["both with exits"]),
        ]
    if times:
        found = [
            [
                row["way"],
                row["batch"],
                f"{row['ms']:.2f}",
                f"{row['macs_of_plain']:.2f}",
                f"{row['time_of_plain']:.2f}",
                "{:.2f} to {:.2f}".format(*row["quartiles"]),
            ]
            for row in times
        ]
        lines += [
            "",
            f"Time by `AdaptivePredictor`, last exit only, {THREADS} threads, rounds in turn; MACs",
            "and time as multiples of the plain network's:",
            "",
            *common.table(["gates", "batch", "ms an image", "MACs", "time", "quartiles"], found),
        ]
    lines += ["", "Pictures: results/gates/*.png."]
    return lines


def pictures(rows, data):
    import matplotlib

    matplotlib.use("Agg")
    from keras_adaptive import plotting

    def save(ax, name):
        ax.figure.savefig(ROWS / f"{name}.png", dpi=70)

    count = next(iter(rows.values()))["images"]
    shares = {
        way: unpacked(row["computed"], "float16").reshape(-1, count).astype("float64")
        for way, row in rows.items()
        if "computed" in row
    }
    if shares:
        save(plotting.skipping_ratios(shares), "skipped")
    points = {way: (row["macs"][-1], row["accuracy"][-1]) for way, row in rows.items()}
    if "both with exits" in rows:
        curve = rows["both with exits"]["budgets"]
        points["both with exits"] = (curve["macs"], curve["accuracy"])
    save(plotting.accuracy_and_cost(points), "accuracy_and_cost")
    images = data.images("test", count)[0]
    for way in shares:
        costs, full = unpacked(rows[way]["cost"], "float32"), rows[way]["all_open"][-1]
        axes = plotting.easy_and_hard(images, costs, full)
        save(axes[0, 0], f"easy_and_hard_{file_name(way)}")


def write(data):
    rows = finished()
    path = ROWS / "time" / "time.json"
    times = json.loads(path.read_text()) if path.exists() else []
    kept = {"right", "cost", "computed", "way"}  # in the rows' own files
    facts = {way: {k: v for k, v in row.items() if k not in kept} for way, row in rows.items()}
    about = {"depth": DEPTH, "train": TRAIN, "epochs": EPOCHS, "alpha": ALPHA}
    lines = text(rows, times)
    common.write("gates", {**about, "rows": facts, "time": times}, lines, "make bench-gates")
    pictures(rows, data)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--row", choices=WAYS, action="append", help="train only this row")
    parser.add_argument("--table", action="store_true", help="only the table and the pictures")
    parser.add_argument("--time", action="store_true", help="only the time of trained networks")
    asked = parser.parse_args()
    if asked.time:
        tf.config.threading.set_intra_op_parallelism_threads(THREADS)
        tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    data = common.cifar(train_limit=TRAIN)
    (ROWS / "time").mkdir(parents=True, exist_ok=True)
    if asked.time:
        timed(data)
    elif not asked.table:
        for way in asked.row or WAYS:
            if way not in finished():
                row = train(way, data)
                print(way, row["accuracy"], row["macs"], f"{row['minutes']} minutes", flush=True)
    write(data)


if __name__ == "__main__":
    main()
