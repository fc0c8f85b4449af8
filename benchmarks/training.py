"""What each way of training is worth: one network, one short schedule, two seeds.

    make bench-training          (or: python -m benchmarks.training --table)

The unit of resuming is one row (a way of training and a seed), which is kept in
results/training/ when it is done; a row that was killed goes on from its last epoch.
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
from keras_adaptive.training import Distillation, ExitHistory, Recipe, fit

PRESET, TRAIN, EPOCHS, SEEDS = "cifar_budgeted_4", 25_000, 8, (0, 1)
RECIPE = Recipe(learning_rate=0.1, schedule="one_cycle", mixed_precision=True)
GE = {"gradient_equilibrium": True}
ISC = {"collaboration": "dense"}
OFA = {"distillation": Distillation(teacher="last", temperature=1.0, weight=0.1)}
# way of training: arguments of the builder, arguments of fit
WAYS = {
    "joint": ({}, {}),
    "mixed": ({}, {"regime": "mixed"}),
    "joint + GE": (GE, {}),
    "joint + ISC": (ISC, {}),
    "joint + OFA": ({}, OFA),
    "joint + all three": ({**GE, **ISC}, OFA),
    "mixed + all three": ({**GE, **ISC}, {**OFA, "regime": "mixed"}),
}
ROWS = common.RESULTS / "training"


def file_name(way, seed):
    return f"{way.replace(' + ', '_').replace(' ', '_')}_seed_{seed}"


def train(way, seed, data):
    """Trains one row and returns what the table needs of it."""
    build, how = WAYS[way]
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = ka.build_msdnet(preset=PRESET, **build)
    backup = common.ROOT.parent / "runs" / "training" / file_name(way, seed)
    log = backup / "epochs.csv"
    backup.mkdir(parents=True, exist_ok=True)
    start = time.time()
    fit(
        model,
        data.batches("train", training=True, seed=seed),
        epochs=EPOCHS,
        recipe=RECIPE,
        callbacks=[ExitHistory(), keras.callbacks.CSVLogger(log, append=True)],
        backup_dir=backup,
        seed=seed,
        verbose=2,
        **how,
    )
    minutes = (time.time() - start) / 60
    x, y = data.arrays("test")
    right = np.stack(model.predict(x, batch_size=256, verbose=0)).argmax(-1) == y
    epochs = np.genfromtxt(log, delimiter=",", names=True)
    row = {
        "way": way,
        "seed": seed,
        "accuracy": right.mean(axis=1).tolist(),
        "macs": model.exit_costs().tolist(),
        "minutes": round(minutes, 1),
        "train_accuracy": [
            [round(float(value), 4) for value in np.atleast_1d(epochs[f"exit_{k}_accuracy"])]
            for k in range(model.exits)
        ],
        "right": base64.b64encode(np.packbits(right, axis=1)).decode(),
        "images": len(y),
    }
    write_whole(ROWS / f"{file_name(way, seed)}.json", json.dumps(row, indent=1) + "\n")
    shutil.rmtree(backup)
    return row


def finished():
    """Returns the rows there are: (way, seed) to row."""
    rows = [json.loads(path.read_text()) for path in sorted(ROWS.glob("*.json"))]
    return {(row["way"], row["seed"]): row for row in rows}


def answers(row):
    """Returns which test images each exit got right, `(exits, images)`."""
    packed = np.frombuffer(base64.b64decode(row["right"]), "uint8")
    return np.unpackbits(packed.reshape(len(row["accuracy"]), -1), axis=1, count=row["images"])


def difference(rows, others):
    """Returns the mean difference at each exit and its standard error, in points.

    Two things make it uncertain: the images (compared in pairs) and the seeds. The error
    of the images is that of the mean over seeds; that of the seeds is what two trainings
    differ by; the larger one counts.
    """
    gaps = np.stack(
        [answers(a) - answers(b).astype(float) for a, b in zip(rows, others, strict=True)]
    )
    mean = 100 * gaps.mean(axis=(0, 2))
    images = 100 * gaps.mean(axis=0).std(axis=1, ddof=1) / np.sqrt(gaps.shape[2])
    if len(rows) < 2:
        return mean, images
    seeds = 100 * gaps.mean(axis=2).std(axis=0, ddof=1) / np.sqrt(len(rows))
    return mean, np.maximum(images, seeds)


def summary(rows):
    """Returns one line a way of training, compared with plain joint training."""
    lines = []
    for way in WAYS:
        seeds = [seed for seed in SEEDS if (way, seed) in rows]
        if not seeds:
            continue
        own = [rows[way, seed] for seed in seeds]
        accuracy = 100 * np.array([row["accuracy"] for row in own])
        line = {
            "way": way,
            "seeds": seeds,
            "accuracy": accuracy.mean(axis=0).tolist(),
            "spread": np.ptp(accuracy, axis=0).tolist(),
            "minutes": float(np.mean([row["minutes"] for row in own])),
        }
        plain = [rows["joint", seed] for seed in seeds if ("joint", seed) in rows]
        if way != "joint" and len(plain) == len(own):
            gain, error = difference(own, plain)
            line["gain"], line["error"] = gain.tolist(), error.tolist()
        lines.append(line)
    return lines


def verdict(gain, error):
    return "tie" if abs(gain) < 2 * error else f"{gain:+.1f}"


def write(rows):
    lines = summary(rows)
    exits = len(lines[0]["accuracy"])
    heads = [f"exit {k}" for k in range(exits)]
    accuracies = [
        [x["way"], len(x["seeds"])]
        + [f"{a:.1f} ± {s / 2:.1f}" for a, s in zip(x["accuracy"], x["spread"], strict=True)]
        + [f"{np.mean(x['accuracy']):.1f}"]
        for x in lines
    ]
    gains = [
        [x["way"]]
        + [
            f"{verdict(g, e)} ({g:+.2f} ± {e:.2f})"
            for g, e in zip(x["gain"], x["error"], strict=True)
        ]
        for x in lines
        if "gain" in x
    ]
    text = [
        "# Ways of training",
        "",
        f"CIFAR-10 (JPEG), `{PRESET}`, the same {TRAIN:,} training images, {EPOCHS} epochs in all",
        f"phases together, batches of {RECIPE.batch_size}, one-cycle schedule up to",
        f"{RECIPE.learning_rate:g}, bfloat16, the same for every row. GE: gradient equilibrium;",
        "ISC: inline subnetwork collaboration (dense); OFA: one-for-all distillation by the last",
        "exit (temperature 1, weight 0.1). Accuracy on 5,000 test images in per cent: mean of",
        "the seeds ± half their range.",
        "",
        *common.table(["way", "seeds", *heads, "mean"], accuracies),
        "",
        "Points gained over plain joint training with the same seeds, ± standard error (of the",
        "paired images or of the seeds, whichever is larger). Less than two standard errors is",
        "called a tie.",
        "",
        *common.table(["way", *heads], gains),
    ]
    facts = {"preset": PRESET, "train": TRAIN, "epochs": EPOCHS, "rows": lines}
    common.write("training", facts, text, "make bench-training")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--table", action="store_true", help="only write the table")
    if not parser.parse_args().table:
        data = common.cifar(train_limit=TRAIN)
        ROWS.mkdir(parents=True, exist_ok=True)
        for seed in SEEDS:
            for way in WAYS:
                if (way, seed) not in finished():
                    row = train(way, seed, data)
                    print(way, seed, row["accuracy"], f"{row['minutes']} minutes", flush=True)
    write(finished())


if __name__ == "__main__":
    main()
