"""Learned stopping against calibrated thresholds, on a cascade of three ResNets.

    make bench-stopping          (or: python -m benchmarks.stopping --table)

Rows of simplified training take seconds. Rows that train the members as well take minutes:
each is kept in results/stopping/ when it is done, and an interrupted one resumes from its
last epoch.
"""

import warnings
from types import SimpleNamespace

import keras
import matplotlib
import numpy as np

import keras_adaptive as ka
from benchmarks import _rows, common, networks
from keras_adaptive import plotting
from keras_adaptive.training import StoppingLoss, fit_policy, stopping_optimizer
from keras_adaptive.training.collapse import COLLAPSED

COST_WEIGHTS = (1e-4, 1e-3, 3e-3, 1e-2, 2e-2, 4e-2)
# way: split whose answers the policies learn from, whether Adam teaches them, loss
SIMPLIFIED = {
    "simplified_sampled": ("train", False, {"estimator": "sampled"}),
    "simplified_expected": ("train", False, {"estimator": "expected"}),
    "adam_sampled": ("train", True, {"estimator": "sampled"}),
    "adam_expected": ("train", True, {"estimator": "expected"}),
    "held_out_adam": ("calibrate", True, {"estimator": "expected", "reward": "best_label"}),
}
ADAM = 0.003
JOINT = {"sampled": (1e-3, 3e-3, 1e-2, 3e-2), "expected": (3e-3, 1e-2)}
CHARGE = "including"  # what is really spent
EPOCHS, LEARNING_RATE, BATCH = 2, 0.01, 64  # of the members, together with the policies
POLICY_EPOCHS = 20  # of the policies alone
SEED = 0
ROWS = _rows.Rows(common.RESULTS / "stopping", seed=SEED, charge=CHARGE)
WARM = "members trained on by cross-entropy"


def cascade():
    """Returns the cascade of the pre-trained members, with untrained policies."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(SEED)
    return ka.build_cascade(
        [networks.trained(name) for name in networks.RESNETS.values()],
        combine="last",
        stopping=ka.layers.StoppingPolicy(64),
    )


# ---- members frozen: on logits


def simplified(model, data, split, adam, how):
    """Returns rows of policies that learn on the logits of a split."""
    rows = []
    start = model.get_weights()
    for weight in COST_WEIGHTS:
        model.set_weights(start)
        fit_policy(
            model,
            *data[split],
            cost_weight=weight,
            charge=CHARGE,
            epochs=POLICY_EPOCHS,
            optimizer=keras.optimizers.Adam(ADAM) if adam else None,
            verbose=0,
            **how,
        )
        rows.append({"cost_weight": weight, **measured(model.learned_policy(), data, model)})
    model.set_weights(start)
    return rows


def measured(policy, data, model):
    """Returns what a policy does on the test images, and thresholds at the same cost."""
    costs = model.stopping_costs()
    z, y = data["test"]
    report = ka.evaluate(policy, z, y, costs)
    exits = policy.decide(z)
    found = {
        "accuracy": report.accuracy,
        "macs": report.mean_cost,
        "fractions": report.exit_fractions.tolist(),
        "exit_accuracies": report.exit_accuracies.tolist(),
        "matrix": _plain(ka.evaluation.accuracy_matrix(exits, z, y)),
    }
    # thresholds that cost the same on the images they are chosen on
    held_out, labels = data["calibrate"]
    budget = ka.evaluate(policy, held_out, labels, costs).mean_cost
    thresholds = ka.calibrate(held_out, labels, model.exit_costs(), budget=budget)
    other = ka.evaluate(thresholds, z, y, model.exit_costs())
    at = thresholds.decide(z)
    right = z.argmax(-1) == y
    samples = np.arange(len(y))
    gap = right[exits, samples].astype(float) - right[at, samples]
    return found | {
        "thresholds_accuracy": other.accuracy,
        "thresholds_macs": other.mean_cost,
        "gain": float(gap.mean()),
        "error": float(gap.std(ddof=1) / np.sqrt(len(gap))),
    }


def _plain(matrix):
    return [[None if np.isnan(v) else float(v) for v in row] for row in matrix]


# ---- members and policies together: on images


def together(estimator, weight, splits, before):
    """Trains members and policies together from where the members are; returns the row.

    With the estimator `None` the members go on with cross-entropy, as long as the others.
    """
    model = cascade()
    how = {"exit_weights": [1.0] * model.exits}
    steps = -(-networks.RESNET_IMAGES // BATCH)
    rates = keras.optimizers.schedules.CosineDecay(LEARNING_RATE, EPOCHS * steps)
    optimizer = keras.optimizers.SGD(rates, momentum=0.9, nesterov=True, weight_decay=1e-3)
    if estimator is not None:
        loss = StoppingLoss(weight, estimator, charge=CHARGE)
        how = {"stopping_loss": loss}
        settings = {"cost_weight": weight, "estimator": "expected", "charge": CHARGE}
        adam = keras.optimizers.Adam(ADAM)
        fit_policy(
            model, *before["train"], epochs=POLICY_EPOCHS, optimizer=adam, verbose=0, **settings
        )
        optimizer = stopping_optimizer(model, optimizer, steps)
    model.compile(optimizer, **how)
    name = file_name(estimator, weight)
    model.fit(
        splits.batches("train", BATCH, training=True, seed=SEED),
        epochs=EPOCHS,
        callbacks=[keras.callbacks.BackupAndRestore(common.RUNS / "stopping" / name)],
        verbose=2,
    )
    data = common.answers(model, splits)
    if estimator is None:
        row = {"curve": thresholds_curve(data, model)}
    else:
        row = measured(model.learned_policy(), data, model)
    return {"estimator": estimator, "cost_weight": weight, **row}


def file_name(estimator, weight):
    return "cross_entropy" if estimator is None else f"joint_{estimator}_{weight:g}"


def thresholds_curve(data, model):
    """Returns accuracy against cost of calibrated confidence thresholds."""
    costs = model.exit_costs()
    curve = ka.accuracy_cost_curve(*data["calibrate"], costs, test=(*data["test"], costs))
    return {
        "macs": curve.costs.tolist(),
        "accuracies": curve.accuracies.tolist(),
        "exit_accuracies": curve.exit_accuracies.tolist(),
    }


def run():
    splits = common.cifar(train_limit=networks.RESNET_IMAGES)
    model = cascade()
    data = common.answers(model, splits, ("train", "calibrate", "test"))
    ROWS.measure(
        "static",
        lambda: {"curve": thresholds_curve(data, model), "macs": model.exit_costs().tolist()},
    )
    learned = {"epochs": POLICY_EPOCHS, "cost_weights": COST_WEIGHTS}
    for name, way in SIMPLIFIED.items():
        ROWS.measure(name, simplified, model, data, *way, way=way, **learned)
    trained = {"epochs": EPOCHS, "learning_rate": LEARNING_RATE, "batch": BATCH}
    todo = [("sampled", w) for w in JOINT["sampled"]] + [(None, None)]
    for estimator, weight in todo + [("expected", w) for w in JOINT["expected"]]:
        name = file_name(estimator, weight)
        ROWS.measure(name, together, estimator, weight, splits, data, **trained)


# ---- table


WAYS = {
    "simplified_sampled": "simplified, REINFORCE",
    "simplified_expected": "simplified, expectation",
    "adam_sampled": "simplified by Adam, REINFORCE",
    "adam_expected": "simplified by Adam, expectation",
    "held_out_adam": "held out by Adam, expectation, best label",
    "joint_sampled": "joint, REINFORCE",
    "joint_expected": "joint, expectation",
}


INTRODUCTION = f"""CIFAR-10 (JPEG), a cascade of pre-activation ResNets of 8, 20 and 32 layers,
each pre-trained for {networks.RESNET_EPOCHS} epochs on the same {networks.RESNET_IMAGES:,} images.
5,000 further images for thresholds, 5,000 test images. Learned policies are greedy. Costs are
MACs relative to ResNet-32's. The reward is charged what is spent (`charge="{CHARGE}"`), as
multiples of ResNet-8.

- simplified: the members are frozen, the policies learn from their answers to the training
  images, {POLICY_EPOCHS} epochs, by the published optimizer (momentum, rate 0.05), or by Adam
  (rate {ADAM:g})
- held out: the same, from the answers to the held-out images that thresholds are chosen on;
  best label: rewarded for the most probable label, not for one that is drawn
- joint: from policies taught by Adam and the expectation, {EPOCHS} epochs of members (learning
  rate {LEARNING_RATE:g}) and policies (published optimizer) together
- {WARM}: the members alone for as long, then thresholds"""
ABOUT_GAIN = """\
Gain: points of accuracy over calibrated confidence thresholds, chosen on the held-out
images to cost what the policy costs there; ± standard error over the paired test images.
Less than two standard errors is called a tie."""
HEADS = [
    "way",
    "alpha",
    "error %",
    "rel. MACs %",
    "thresholds: error %",
    "rel. MACs %",
    "gain",
    "leave at 8/20/32 %",
]


def sweeps(found):
    """Returns the rows of every way, cheap ones first."""
    ways = {}
    for key, name in WAYS.items():
        if key.startswith("joint"):
            own = [row for stem, row in found.items() if stem.startswith(f"{key}_")]
        else:
            own = found.get(key, {"rows": []})["rows"]
        if own:
            ways[name] = sorted(own, key=lambda row: row["cost_weight"])
    return ways


def write(found):
    static = found["static"]["curve"]
    untrained = (networks.NETWORKS[name]["build"]() for name in networks.RESNETS.values())
    alone = [model.exit_costs()[-1] for model in untrained]
    ways = sweeps(found)
    facts = {"relative_to": alone[-1], "static": static, "rows": _rows.values(ways)}
    if "cross_entropy" in found:
        facts["cross_entropy"] = found["cross_entropy"]["curve"]
    _rows.publish("stopping", facts, page(static, alone, ways, found), found.values())
    draw(static, alone, ways, found)


def page(static, alone, ways, found):
    best = static["exit_accuracies"][-1]
    return _rows.page(
        "# Learned stopping",
        INTRODUCTION,
        "## Networks alone and the best of each way",
        "As in Table 2 of the paper: the cheapest row of each way that is at least as accurate as\n"
        "ResNet-32 alone, else the most accurate one.",
        _rows.table(["", "error %", "relative MACs %"], _table_2(static, alone, ways, found, best)),
        "## Every row, against thresholds on the same members at the same cost",
        ABOUT_GAIN,
        _rows.table(HEADS, _lines(ways, alone)),
        _verdict([row for own in ways.values() for row in own]),
        "![accuracy against cost](stopping/sweep.png)\n"
        "![accuracy matrix and shares](stopping/analysis.png)",
    )


def _percent(value):
    return f"{100 * value:.2f}"


def points(static, ways, found):
    """Returns MACs and accuracies of thresholds and of every way, by name."""
    curves = {"calibrated thresholds": static}
    if "cross_entropy" in found:
        curves[f"calibrated thresholds, {WARM}"] = found["cross_entropy"]["curve"]
    learned = {
        name: tuple([row[key] for row in own] for key in ("macs", "accuracy"))
        for name, own in ways.items()
    }
    return {name: (c["macs"], c["accuracies"]) for name, c in curves.items()} | learned


def _table_2(static, alone, ways, found, best):
    lines = [
        [f"ResNet-{depth}", _percent(1 - a), _percent(macs / alone[-1])]
        for depth, a, macs in zip(networks.RESNETS, static["exit_accuracies"], alone, strict=True)
    ]
    for name, own in points(static, ways, found).items():
        own = list(zip(*own, strict=True))
        enough = [p for p in own if p[1] >= best]
        macs, accuracy = min(enough) if enough else max(own, key=lambda p: p[1])
        lines.append([name, _percent(1 - accuracy), _percent(macs / alone[-1])])
    return lines


def _lines(ways, alone):
    return [
        [
            name,
            f"{row['cost_weight']:g}",
            _percent(1 - row["accuracy"]),
            _percent(row["macs"] / alone[-1]),
            _percent(1 - row["thresholds_accuracy"]),
            _percent(row["thresholds_macs"] / alone[-1]),
            f"{_word(row)} ({100 * row['gain']:+.2f} ± {100 * row['error']:.2f})",
            " / ".join(f"{100 * share:.0f}" for share in row["fractions"]),
        ]
        for name, own in ways.items()
        for row in own
    ]


def _word(row):
    if abs(row["gain"]) < 2 * row["error"] or row["gain"] == 0:
        return "tie"
    return "better" if row["gain"] > 0 else "worse"


def _verdict(everything):
    alive = [row for row in everything if max(row["fractions"]) < COLLAPSED]
    words = [_word(row) for row in alive]
    wins, losses = words.count("better"), words.count("worse")
    mean = 100 * np.mean([row["gain"] for row in alive]) if alive else 0.0
    saved = np.mean([1 - row["thresholds_macs"] / row["macs"] for row in alive] or [0.0])
    winner = "neither wins"
    if wins != losses:
        winner = "thresholds win" if losses > wins else "the learned policies win"
    return [
        f"Of {len(everything)} learned policies {len(everything) - len(alive)} send (nearly) all",
        f"images to one exit. Of the others {wins} are better than calibrated thresholds on the",
        f"same members, {losses} are worse and {words.count('tie')} tie. The mean gain is "
        f"{mean:+.2f} points,",
        f"and the thresholds spend {100 * saved:.0f} % less in the mean: {winner}.",
    ]


def draw(static, alone, ways, found):
    matplotlib.use("Agg")
    lines = {
        name.replace("calibrated thresholds, ", "thresholds, "): SimpleNamespace(
            costs=costs, accuracies=accuracies
        )
        for name, (costs, accuracies) in points(static, ways, found).items()
        if not name.startswith("held out")
    }
    members = zip(networks.RESNETS, alone, static["exit_accuracies"], strict=True)
    members = {f"ResNet-{depth}": point for depth, *point in members}
    figure, ax = matplotlib.pyplot.subplots(figsize=(7, 4.6), layout="constrained")
    plotting.sweep(lines, members, ax=ax)
    figure.savefig(ROWS.folder / "sweep.png", dpi=110)
    joint = ways.get(WAYS["joint_sampled"]) or next(iter(ways.values()))
    middle = joint[len(joint) // 2]
    figure, axes = matplotlib.pyplot.subplots(1, 2, figsize=(8, 3.2), layout="constrained")
    matrix = np.array([[np.nan if v is None else v for v in row] for row in middle["matrix"]])
    plotting.accuracy_matrix(matrix, ax=axes[0])
    names = [f"alpha {row['cost_weight']:g}" for row in joint]
    plotting.exit_fractions([row["fractions"] for row in joint], names, ax=axes[1])
    axes[0].set_title(f"accuracy, alpha {middle['cost_weight']:g}", fontsize="medium")
    figure.savefig(ROWS.folder / "analysis.png", dpi=110)


def main():
    if not _rows.parser(__doc__).parse_args().table:
        warnings.filterwarnings("ignore", "The stopping policy sends")  # small alphas do
        run()
    write(ROWS.all())


if __name__ == "__main__":
    main()
