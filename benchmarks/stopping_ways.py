"""Ways of stopping at equal cost, on the cached logits of four trained networks.

    make bench-stopping-ways          (or: python -m benchmarks.stopping_ways --table)

Logits are kept under runs/stopping_ways, and so are the heads that one network is given: a
training of some minutes. The two held-out splits of CIFAR-10 are pooled and cut in halves at
random: everything is chosen on one half, and results come from the other.
"""

from typing import NamedTuple

import keras
import numpy as np

import keras_adaptive as ka
from benchmarks import _rows, common, networks
from benchmarks.calibration import shared_path
from keras_adaptive.calibration.calibrate import calibrate_budgets
from keras_adaptive.policy import softmax
from keras_adaptive.report.tables import ERRORS
from keras_adaptive.training import StoppingModel, fit_policy

SHARES = (0.3, 0.5, 0.8)  # of the full cost
SEED = 0
FOLDER = common.RUNS / "stopping_ways"
HEADS = ("stage_0_block_1", "stage_1_block_0", "stage_1_block_2")  # where they stand
HEAD_EPOCHS = 2
COST_WEIGHTS = (3e-3, 3e-2)
POLICY_EPOCHS, ADAM = 20, 0.003
FALL = 1e-3  # of a probability, from one exit to the next
CASCADE = "cascade of three ResNets"


class Data(NamedTuple):
    """Logits `(exits, samples, classes)` and labels of both halves, and the cost of each exit."""

    held: np.ndarray
    labels: np.ndarray
    test: np.ndarray
    answers: np.ndarray
    costs: np.ndarray

    @property
    def budgets(self):
        return [share * self.costs[-1] for share in SHARES]


# ---- networks


def shipped():
    trained = ka.models.pretrained("cifar10")
    answers = {split: trained.answers(split) for split in ("calibrate", "test")}
    return answers, ka.build_msdnet(weights="cifar10").exit_costs()


def predicted(build):
    """Returns a function to the answers and the costs of a network that is built and run."""

    def answer():
        splits = common.cifar(train_limit=networks.RESNET_IMAGES)
        model = build(splits)
        return common.answers(model, splits), model.exit_costs()

    return answer


def cascade(splits):
    return ka.build_cascade(
        [networks.trained(n) for n in networks.RESNETS.values()], combine="last"
    )


def with_heads(splits):
    """ResNet-20 with heads that have learned while it rests."""
    keras.utils.set_random_seed(SEED)
    resnet = networks.trained(networks.RESNETS[20])
    resnet.trainable = False
    heads = [
        ka.layers.EarlyExit(10, (32, 32), name=f"head_{k}")(resnet.get_layer(name).output)
        for k, name in enumerate(HEADS)
    ]
    model = ka.AdaptiveModel(resnet.inputs, [*heads, *resnet.outputs])

    def train(model):
        model.compile(keras.optimizers.Adam(1e-3))
        model.fit(
            splits.batches("train", 64, training=True, seed=SEED), epochs=HEAD_EPOCHS, verbose=2
        )

    return common.trained(model, FOLDER / "heads.weights.h5", train)


NETWORKS = {
    "the shipped MSDNet": shipped,
    "cifar10_budgeted_5": predicted(lambda splits: common.cifar_net()),
    CASCADE: predicted(cascade),
    "ResNet-20 with heads": predicted(with_heads),
}


def cached(name):
    """Returns the `Data` of a network; asks it where that has not been done."""
    path = FOLDER / f"{list(NETWORKS).index(name)}.npz"
    if not path.exists():
        print(name, flush=True)
        answers, costs = NETWORKS[name]()
        logits, labels = zip(*answers.values(), strict=True)
        FOLDER.mkdir(parents=True, exist_ok=True)
        np.savez(path, logits=np.concatenate(logits, 1), labels=np.concatenate(labels), costs=costs)
    with np.load(path) as kept:
        logits, labels, costs = kept["logits"], kept["labels"], kept["costs"]
    order = np.random.default_rng(SEED).permutation(len(labels))
    first, second = np.split(order, 2)
    return Data(logits[:, first], labels[first], logits[:, second], labels[second], costs)


# ---- ways: functions of the data to one (policy, data it is for) for each budget


def exact(data, method="optimal"):
    found = calibrate_budgets(data.held, data.labels, data.costs, data.budgets, method=method)
    return [(policy, data) for policy in found]


def geometric(data):
    return exact(data, "geometric")


def shared(data):
    path = shared_path(ka.policy.confidence(data.held))
    return affordable([ka.ExitPolicy(thresholds) for thresholds in path], data)


def pcee(data):
    how = {"method": "pcee"}
    wanted = np.linspace(0, 0.999, 200)
    return affordable(
        [ka.calibrate(data.held, data.labels, data.costs, accuracy=a, **how) for a in wanted], data
    )


def affordable(policies, data):
    """Returns the most accurate policies within each budget, on the half to choose on."""
    reports = [ka.evaluate(p, data.held, data.labels, data.costs) for p in policies]
    found = []
    for budget in data.budgets:
        possible = [i for i, report in enumerate(reports) if report.mean_cost <= budget]
        best = max(possible, key=lambda i: (reports[i].accuracy, -reports[i].mean_cost))
        found.append((policies[best], data))
    return found


def nearest(policies, data):
    """Returns the policies that cost most nearly what may be spent; they have no fine setting."""
    costs = [ka.evaluate(p, data.held, data.labels, data.costs).mean_cost for p in policies]
    return [(policies[np.abs(np.subtract(costs, b)).argmin()], data) for b in data.budgets]


def patience(data):
    return nearest([ka.PatiencePolicy(n) for n in range(2, len(data.held) + 1)], data)


def agreement(data):
    exits = len(data.held)
    settings = [(m, s) for m in range(2, exits + 1) for s in (0.6, 1.0)]
    return nearest([ka.AgreementPolicy(*setting) for setting in settings], data)


def reader(data):
    """Returns a network that hands on logits, with policies to teach."""
    keras.backend.clear_session()
    keras.utils.set_random_seed(SEED)
    read = keras.Input(data.held.shape[::2])
    exits = [keras.layers.Identity(name=f"exit_{k}")(read[:, k]) for k in range(len(data.held))]
    return StoppingModel(read, exits, stopping=ka.layers.StoppingPolicy(64))


def learned(grid=({},), **how):
    """Returns the way of policies that learn on some images, with thresholds of as many others."""

    def way(data):
        found = []
        half = len(data.labels) // 2
        for arguments in grid:
            model = reader(data)
            costs = data.costs + model.stopping_costs()
            priced = data._replace(costs=costs)
            given = {} if how.get("target") == "deferral" else {"costs": costs.tolist()}
            fit_policy(
                model,
                data.held[:, :half],
                data.labels[:half],
                epochs=POLICY_EPOCHS,
                verbose=0,
                **{**how, **given, **arguments},
            )
            policies = calibrate_budgets(
                data.held[:, half:],
                data.labels[half:],
                costs,
                data.budgets,
                confidence=model.learned_policy(),
            )
            found.append([(policy, priced) for policy in policies])
        return [
            max(each, key=lambda pair: pair[0].details["accuracy"])
            for each in zip(*found, strict=True)
        ]

    return way


def combined(combine):
    def way(data):
        again = together(data, combine)
        return [(policy, again) for policy, _ in exact(again)]

    return way


def together(data, combine):
    """Returns the data of a network whose exits answer together."""
    plain = reader(data)
    given = {"logits": data.held, "labels": data.labels} if combine == "weighted" else {}
    model = ka.combine_exits(plain, combine, **given)
    held, test = (
        np.stack(model.predict(z.swapaxes(0, 1), batch_size=1000, verbose=0))
        for z in (data.held, data.test)
    )
    more = model.exit_costs() - plain.exit_costs()
    return data._replace(held=held, test=test, costs=data.costs + more)


GRID = [{"cost_weight": weight} for weight in COST_WEIGHTS]
REWARD = {"charge": "including", "grid": GRID}
WAYS = {
    "one shared threshold": shared,
    "geometric": geometric,
    "PCEE": pcee,
    "patience": patience,
    "agreement": agreement,
    "learned, REINFORCE": learned(
        estimator="sampled", optimizer=keras.optimizers.Adam(ADAM), **REWARD
    ),
    "learned, expectation": learned(
        estimator="expected", optimizer=keras.optimizers.Adam(ADAM), **REWARD
    ),
    "deferral": learned(target="deferral"),
    "product": combined("product"),
    "weighted (ZTW)": combined("weighted"),
}


# ---- results


def outcome(policy, data):
    """Returns which test images were right where they left, and the cost of each."""
    exits = policy.decide(data.test)
    samples = np.arange(len(exits))
    return data.test[exits, samples].argmax(-1) == data.answers, data.costs[exits]


def compared(name, data):
    """Returns a row for every budget and way, the first ones being exact thresholds."""
    rows = [row("exact", share, *pair) for share, pair in zip(SHARES, exact(data), strict=True)]
    for way, function in WAYS.items():
        if way == "agreement" and name != CASCADE:
            continue
        found = function(data)
        spent = [
            ka.evaluate(policy, own.held, own.labels, own.costs).mean_cost for policy, own in found
        ]
        same = calibrate_budgets(data.held, data.labels, data.costs, spent)
        for share, pair, other in zip(SHARES, found, same, strict=True):
            right, costs = outcome(other, data)
            gap = np.subtract(outcome(*pair)[0], right, dtype=float)
            rows.append(
                {
                    **row(way, share, *pair),
                    "exact_accuracy": float(right.mean()),
                    "exact_cost_share": float(costs.mean() / data.costs[-1]),
                    "gain_points": float(100 * gap.mean()),
                    "interval_points": float(100 * ERRORS * gap.std(ddof=1) / np.sqrt(len(gap))),
                }
            )
        print(name, way, *(f"{r['gain_points']:+.2f}" for r in rows[-len(SHARES) :]), flush=True)
    return rows


def row(way, share, policy, data):
    right, costs = outcome(policy, data)
    return {
        "way": way,
        "budget_share": share,
        "accuracy": float(right.mean()),
        "cost_share": float(costs.mean() / data.costs[-1]),
    }


def steadiness(data):
    """Returns how the answers of the exits get on: their own, and those together."""
    rows = []
    for way, own in {
        "own answers": data,
        "product": together(data, "product"),
        "weighted (ZTW)": together(data, "weighted"),
    }.items():
        samples = np.arange(len(own.answers))
        steps = np.diff(softmax(own.test)[:, samples, own.answers], axis=0)
        rows.append(
            {
                "answers": way,
                "accuracies": (own.test.argmax(-1) == own.answers).mean(axis=1).tolist(),
                "falls_share": float((steps < -FALL).mean()),
                "images_with_a_fall_share": float((steps < -FALL).any(axis=0).mean()),
            }
        )
    return rows


def measure():
    found = {name: cached(name) for name in NETWORKS}
    return {
        "networks": {
            name: {
                "costs": data.costs.tolist(),
                "images": len(data.answers),
                "ways": compared(name, data),
                "steadiness": steadiness(data),
            }
            for name, data in found.items()
        }
    }


def counts(results):
    """Returns of each way how often it was better and worse than exact thresholds, or neither."""
    found = {}
    for network in results["networks"].values():
        for row in network["ways"]:
            if row["way"] != "exact":
                found.setdefault(row["way"], []).append(row)
    counted = {}
    for way, rows in found.items():
        words = [word(row) for row in rows]
        gain = float(np.mean([row["gain_points"] for row in rows]))
        counted[way] = {w: words.count(w) for w in ("better", "worse", "tie")}
        counted[way] |= {"all": len(rows), "gain_points": gain}
    return counted


def word(row):
    if abs(row["gain_points"]) <= row["interval_points"]:
        return "tie"
    return "better" if row["gain_points"] > 0 else "worse"


def page(results):
    parts = [
        "# Ways of stopping at equal cost, CIFAR-10 (JPEG)",
        "The calibrate and the test split are pooled and cut at random: everything is chosen on "
        "5,000 held-out images and reported on the other 5,000, at 30, 50 and "
        "80 % of the full network's MACs, or as near below as pays. Each cell: accuracy in % at "
        "the cost in %, and the difference in points to exact thresholds (`calibrate`) chosen to "
        "cost as much on the images to choose on, with its 95 % interval over images. Policies "
        "that learn do so on half of the images, and their thresholds come from the other half; "
        "the few weights of ZTW come from all. Patience and agreement have no fine setting: the "
        "setting whose cost is nearest.",
        _rows.table(
            ["way", "better", "worse", "tie", "mean difference"],
            [
                [way, c["better"], c["worse"], c["tie"], f"{c['gain_points']:+.2f}"]
                for way, c in counts(results).items()
            ],
        ),
    ]
    for name, network in results["networks"].items():
        lines = {}
        for each in network["ways"]:
            lines.setdefault(each["way"], [each["way"]]).append(cell(each))
        parts += [
            f"## {name}",
            _rows.table(["way", *(f"{share:.0%}" for share in SHARES)], lines.values()),
        ]
    parts += [
        "## Answers that get better step by step",
        "How often the probability of the true class falls by more than 0.001 from an exit to the "
        "next, over all steps, and for how many images it does at least once.",
        _rows.table(
            ["network", "answers", "steps that fall %", "images %", "accuracy of each exit %"],
            [
                [
                    name,
                    each["answers"],
                    f"{100 * each['falls_share']:.1f}",
                    f"{100 * each['images_with_a_fall_share']:.1f}",
                    " / ".join(f"{100 * a:.1f}" for a in each["accuracies"]),
                ]
                for name, network in results["networks"].items()
                for each in network["steadiness"]
            ],
        ),
    ]
    return _rows.page(*parts)


def cell(row):
    text = f"{100 * row['accuracy']:.2f} at {100 * row['cost_share']:.0f}"
    if "gain_points" not in row:
        return text
    return f"{text}: {row['gain_points']:+.2f} ± {row['interval_points']:.2f}"


if __name__ == "__main__":
    settings = {"seed": SEED, "shares": SHARES, "heads": HEADS, "cost_weights": COST_WEIGHTS}
    _rows.run("stopping_ways", __doc__, measure, page, **settings)
