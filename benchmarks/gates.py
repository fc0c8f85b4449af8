"""What gates are worth: layers, channels, both, and both with exits, side by side.

    make bench-gates
    python -m benchmarks.gates --row plain    only this row
    python -m benchmarks.gates --table        only the table and the pictures
    python -m benchmarks.gates --time         time of the trained networks, on a quiet machine

ResNet-38 on CIFAR-10, every row trained on the same images for the same number of epochs. The
unit of resuming is a row, kept in results/gates/ when it is done; an interrupted row resumes
from its last epoch. Weights are kept under runs/gates.
"""

import functools
import itertools
import shutil

import keras
import numpy as np

import keras_adaptive as ka
from benchmarks import _rows, common
from keras_adaptive.training import GateLoss, Recipe

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
RUNS = common.RUNS / "gates"
ROWS = _rows.Rows(common.RESULTS / "gates", depth=DEPTH, train=TRAIN, epochs=EPOCHS, recipe=RECIPE)
TIME = _rows.Rows(ROWS.folder / "time", depth=DEPTH, threads=THREADS)


def backup(way):
    return RUNS / ROWS.path(way).stem


def weights(way):
    return backup(way).with_suffix(".weights.h5")


def build(way):
    return ka.build_resnet(depth=DEPTH, **WAYS[way])


def train(way, data):
    """Trains one row, keeps its weights, and returns what the table needs of it."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(SEED)
    model = build(way)
    how = {"epochs": EPOCHS, "recipe": RECIPE}
    if "gates" in WAYS[way]:
        loss = GateLoss(weight=ALPHA[WAYS[way]["gates"]])
        how |= {"regime": "gated", "first_share": FIRST_SHARE, "gate_loss": loss}
    minutes = common.fit(model, data, backup(way), seed=SEED, **how)
    model.save_weights(weights(way))
    return {"way": way, "minutes": minutes, **measured(model, data)}


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
        "right": _rows.pack(np.packbits(right[-1])),
        "cost": _rows.pack(costs[-1].astype("float32")),
    }
    if any(isinstance(layer, ka.layers.GatedBlock) for layer in model.layers):
        expected = model.predict_with_costs(x, expected=True, **how)[1]
        shares = model.predict_gates(x, **how)
        row["expected_macs"] = expected.mean(axis=1).tolist()
        row["open"] = shares.mean(axis=1).tolist()
        row["computed"] = _rows.pack(shares.astype("float16"))
    if model.exits > 1:
        held, labels = data.arrays("calibrate")
        found = model.predict_with_costs(held, **how)
        row |= limits(model, found, labels, (logits, costs), y)
    return row


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


def finished():
    """Returns the rows there are, by way."""
    rows = {row["way"]: row for row in ROWS.all().values()}
    return {way: rows[way] for way in WAYS if way in rows}


def timed(data):
    """Returns the time of every row as a multiple of the plain one, rounds in turn."""
    x = data.arrays("test")[0]
    predictors = {}
    for way in finished():
        model = build(way)
        model.load_weights(weights(way))
        policy = ka.ExitPolicy([*[np.inf] * (model.exits - 1), -np.inf])  # the last exit answers
        predictors[way] = ka.AdaptivePredictor(model, policy)
    results = []
    for batch, count in BATCHES.items():
        costs = {way: [] for way in predictors}
        calls = {
            way: functools.partial(next, predictions(predictor, x, count, batch, costs[way]))
            for way, predictor in predictors.items()
        }
        # the first two rounds choose how to compute
        seconds = common.in_turns(calls, ROUNDS if batch == 1 else ROUNDS // 3, warm_up=2)
        for way in predictors:
            low, middle, high = common.quartiles(seconds[way] / seconds["plain"])
            results.append(
                {
                    "way": way,
                    "batch": batch,
                    "ms": 1000 * float(np.median(seconds[way])) / count,
                    "time_of_plain": middle,
                    "quartiles": [low, high],
                    "macs_of_plain": float(np.mean(costs[way][2:]) / np.mean(costs["plain"][2:])),
                }
            )
    return results


def predictions(predictor, x, count, batch, costs):
    """Predicts other images at every step and appends what they cost in the mean."""
    for number in itertools.count():
        start = number * count % (len(x) - count)
        found = predictor.predict(x[start : start + count], batch_size=batch, verbose=0)
        costs.append(found.costs.mean())
        yield


def table(rows):
    lines = []
    for way, row in rows.items():
        macs, energy, plain = row["macs"][-1], row["energy"][-1], rows["plain"]
        millions = [macs, row.get("expected_macs", [macs])[-1], row["all_open"][-1]]
        low, high = np.quantile(_rows.unpack(row["cost"], "float32"), (0.05, 0.95)) / 1e6
        lines.append(
            [
                way,
                f"{ALPHA[WAYS[way]['gates']]:g}" if "gates" in WAYS[way] else "",
                f"{100 * row['accuracy'][-1]:.1f}",
                *(f"{value / 1e6:.1f}" for value in millions),
                f"{macs / plain['macs'][-1]:.2f}",
                f"{energy / plain['energy'][-1]:.2f}",
                f"{low:.1f} to {high:.1f}",
            ]
        )
    heads = ["gates", "alpha", "accuracy", "MMACs", "expected", "all open", "MACs", "energy"]
    return _rows.table([*heads, "MMACs of 90 % of the images"], lines)


def skipped(rows):
    """Returns the table of how much of each block is skipped, in per cent."""
    gated = {way: row["open"] for way, row in rows.items() if "open" in row}
    blocks = len(next(iter(gated.values())))
    lines = [[i, *(f"{100 * (1 - x[i]):.0f}" for x in gated.values())] for i in range(blocks)]
    return _rows.table(["block", *gated], lines)


def exits(row):
    hard = {limit["limit"]: limit for limit in row["limits"]}
    lines = []
    for accuracy, macs, most in zip(row["accuracy"], row["macs"], row["all_open"], strict=True):
        found = hard[most]
        cells = [100 * accuracy, macs / 1e6, most / 1e6, 100 * found["accuracy"]]
        cells += [found["mean"] / 1e6, found["worst"] / 1e6]
        lines.append([len(lines), *(f"{cell:.1f}" for cell in cells)])
    heads = ["exit", "accuracy", "MMACs", "all open", "limited to that", "mean", "highest cost"]
    return _rows.table(heads, lines)


ABOUT = f"""ResNet-{DEPTH} on CIFAR-10 (JPEG), the same {TRAIN:,} training images, {EPOCHS} epochs
in all phases together, batches of {RECIPE.batch_size}, one-cycle schedule up to
{RECIPE.learning_rate:g} in every phase, one seed. Of a gated network's epochs a third
goes to the network alone and one epoch to opening its gates, so that so short a training
costs them accuracy. `alpha` weighs the MMACs that the gates let through. Accuracy of the
last exit on 5,000 test images in per cent (standard error 0.6); MMACs executed, gates
and heads included, mean of the images; `expected`: by the gates' probabilities; MACs and
energy also as multiples of the plain network's. Channels save MACs and energy on paper
only: nothing computes them faster for being closed."""
ABOUT_TIME = f"""\
Time by `AdaptivePredictor`, last exit only, {THREADS} threads, rounds in turn; MACs
and time as multiples of the plain network's:"""


def page(rows, times):
    heads = "gates | batch | ms per image | MACs | time | quartiles"
    cells = "{way} | {batch} | {ms:.2f} | {macs_of_plain:.2f} | {time_of_plain:.2f} | "
    cells += "{quartiles[0]:.2f} to {quartiles[1]:.2f}"
    parts = ["# Gates on layers and channels", ABOUT, table(rows)]
    if any("open" in row for row in rows.values()):
        parts += ["Skipped of each gated block, in per cent:", skipped(rows)]
    if "both with exits" in rows:
        parts += [
            "Both kinds of gates with exits at a quarter and three quarters of every stage; each\n"
            "exit alone, and a hard limit on every image, the cost of that exit with all gates\n"
            "open, where the last exit that fits answers:",
            exits(rows["both with exits"]),
        ]
    if times:
        parts += [ABOUT_TIME, _rows.table(heads, times, cells)]
    return _rows.page(*parts, "Pictures: results/gates/*.png.")


def pictures(rows, data):
    import matplotlib

    matplotlib.use("Agg")
    from keras_adaptive import plotting

    def save(ax, name):
        ax.figure.savefig(ROWS.folder / f"{name}.png", dpi=70)

    count = next(iter(rows.values()))["images"]
    shares = {
        way: _rows.unpack(row["computed"], "float16").reshape(-1, count).astype("float64")
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
        costs, full = _rows.unpack(rows[way]["cost"], "float32"), rows[way]["all_open"][-1]
        axes = plotting.easy_and_hard(images, costs, full)
        save(axes[0, 0], f"easy_and_hard_{ROWS.path(way).stem}")


def write():
    rows, times = finished(), TIME.load("time") or {"rows": []}
    facts = {
        way: _rows.values(row, "right", "cost", "computed", "way") for way, row in rows.items()
    }
    facts = {"depth": DEPTH, "train": TRAIN, "epochs": EPOCHS, "alpha": ALPHA, "rows": facts}
    facts["time"] = times["rows"]
    _rows.publish("gates", facts, page(rows, times["rows"]), rows.values())


def main():
    parser = _rows.parser(__doc__, WAYS)
    parser.add_argument("--time", action="store_true", help="only the time of trained networks")
    given = parser.parse_args()
    if given.time:
        _rows.set_threads(THREADS)
    data = common.cifar(train_limit=TRAIN)
    if given.time:
        TIME.save("time", timed(data))
    elif not given.table:
        for way in given.row or WAYS:
            ROWS.measure(way, train, way, data, alpha=ALPHA.get(WAYS[way].get("gates")))
            shutil.rmtree(backup(way), ignore_errors=True)
    write()
    pictures(finished(), data)


if __name__ == "__main__":
    main()
