"""What gates are worth: layers, channels, both, and both with exits, side by side.

    make bench-gates
    python -m benchmarks.gates --row plain    only this row
    python -m benchmarks.gates --table        only the table and the pictures

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
# alpha: the paper's 2e-4 skips nothing in so few epochs; channels need more than layers, since
# each closed channel saves so little. Chosen on a quarter of the pixels of 12,000 images.
ALPHA = {"layer": 1e-3, "channel": 1e-2, "both": 2e-3}
POINTS = 20  # budgets of the curve
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


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--row", choices=WAYS, action="append", help="train only this row")
    parser.add_argument("--table", action="store_true", help="only the table and the pictures")
    asked = parser.parse_args()
    if not asked.table:
        data = common.cifar(train_limit=TRAIN)
        ROWS.mkdir(parents=True, exist_ok=True)
        for way in asked.row or WAYS:
            if way not in finished():
                row = train(way, data)
                print(way, row["accuracy"], row["macs"], f"{row['minutes']} minutes", flush=True)


if __name__ == "__main__":
    main()
