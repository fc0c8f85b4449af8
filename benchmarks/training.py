"""What each way of training is worth: one network, one short schedule, two seeds.

    make bench-training          (or: python -m benchmarks.training --table)

The unit of resuming is one row (a way of training and a seed), which is kept in
results/training/ when it is done; an interrupted row resumes from its last epoch.
"""

import itertools
import shutil

import keras
import numpy as np

import keras_adaptive as ka
from benchmarks import _rows, common
from keras_adaptive.training import Distillation, ExitHistory, Recipe

PRESET, TRAIN, EPOCHS, SEEDS = "cifar_budgeted_4", 25_000, 8, (0, 1)
RECIPE = Recipe(learning_rate=0.1, schedule="one_cycle", mixed_precision=True)
GE = {"gradient_equilibrium": True}
ISC = {"collaboration": "dense"}
BOOST = {
    "collaboration": "identity",
    "collaboration_weight": 0.5,
    "gradient_equilibrium": "coarsest",
}
OFA = {"distillation": Distillation(teacher="last", temperature=1.0, weight=0.1)}
# way of training: arguments of the builder, arguments of fit
WAYS = {
    "joint": ({}, {}),
    "mixed": ({}, {"regime": "mixed"}),
    "joint + GE": (GE, {}),
    "joint + ISC": (ISC, {}),
    "joint + OFA": ({}, OFA),
    "joint + BoostNet": (BOOST, {}),
    "joint + all three": ({**GE, **ISC}, OFA),
    "mixed + all three": ({**GE, **ISC}, {**OFA, "regime": "mixed"}),
}
ROWS = _rows.Rows(
    common.RESULTS / "training", preset=PRESET, train=TRAIN, epochs=EPOCHS, recipe=RECIPE
)


def backup(way, seed):
    return common.RUNS / "training" / ROWS.path(f"{way} seed {seed}").stem


def train(way, seed, data):
    """Trains one row and returns what the table needs of it."""
    build, how = WAYS[way]
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    model = ka.build_msdnet(preset=PRESET, **build)
    folder, callbacks = backup(way, seed), [ExitHistory()]
    how = {**how, "epochs": EPOCHS, "recipe": RECIPE}
    minutes = common.fit(model, data, folder, seed=seed, callbacks=callbacks, **how)
    x, y = data.arrays("test")
    right = np.stack(model.predict(x, batch_size=256, verbose=0)).argmax(-1) == y
    epochs = np.genfromtxt(folder / "epochs.csv", delimiter=",", names=True)
    return {
        "way": way,
        "seed": seed,
        "macs": model.exit_costs().tolist(),
        "minutes": minutes,
        "train_accuracy": [
            [round(float(value), 4) for value in np.atleast_1d(epochs[f"exit_{k}_accuracy"])]
            for k in range(model.exits)
        ],
        **_rows.outcome(right),
    }


def summary(rows):
    """Returns one line per way of training, compared with plain joint training."""
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
            gain, error = _rows.difference(own, plain)
            line["gain"], line["error"] = gain.tolist(), error.tolist()
        lines.append(line)
    return lines


def verdict(gain, error):
    return "tie" if abs(gain) < 2 * error else f"{gain:+.1f}"


def page(lines):
    heads = [f"exit {k}" for k in range(len(lines[0]["accuracy"]))]
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
    return _rows.page(
        "# Ways of training",
        f"CIFAR-10 (JPEG), `{PRESET}`, the same {TRAIN:,} training images, {EPOCHS} epochs in all\n"
        f"phases together, batches of {RECIPE.batch_size}, one-cycle schedule up to\n"
        f"{RECIPE.learning_rate:g}, bfloat16, the same for every row. GE: gradient equilibrium;\n"
        "ISC: inline subnetwork collaboration (dense); OFA: one-for-all distillation by the last\n"
        "exit (temperature 1, weight 0.1); BoostNet: half of the logits of the exit before are\n"
        "added, gradient equilibrium at the coarsest scale. Accuracy on 5,000 test images in per\n"
        "cent: mean of the seeds ± half their range.",
        _rows.table(["way", "seeds", *heads, "mean"], accuracies),
        "Points gained over plain joint training with the same seeds, ± standard error (of the\n"
        "paired images or of the seeds, whichever is larger). Less than two standard errors is\n"
        "called a tie.",
        _rows.table(["way", *heads], gains),
    )


def main():
    if not _rows.parser(__doc__).parse_args().table:
        data = common.cifar(train_limit=TRAIN)
        for seed, way in itertools.product(SEEDS, WAYS):
            ROWS.measure(f"{way} seed {seed}", train, way, seed, data, how=WAYS[way])
            shutil.rmtree(backup(way, seed), ignore_errors=True)
    rows = {(row["way"], row["seed"]): row for row in ROWS.all().values()}
    lines = summary(rows)
    facts = {"preset": PRESET, "train": TRAIN, "epochs": EPOCHS, "rows": lines}
    _rows.publish("training", facts, page(lines), rows.values())


if __name__ == "__main__":
    main()
