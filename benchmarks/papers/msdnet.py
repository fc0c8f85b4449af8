"""Multi-Scale Dense Networks for Resource Efficient Image Classification: its figures.

    python -m benchmarks.papers.msdnet --figure 4 --scale short|published [--data PATH] [--plan]

Figure 2: anytime accuracy beside networks with several classifiers and ensembles; figure 3: three
distributions of budgets; figure 4: budgeted batches with all baselines; figure parts (of the later
version): without dense connections, without scales. The paper prints no values of its figures; what
it says of them is checked.
"""

import functools

import numpy as np
from scipy import stats

import keras_adaptive as ka
from benchmarks.papers._tables import CIFAR10, IMAGENET, Row, Table, curve_of, joined, main
from keras_adaptive import evaluation
from keras_adaptive.training import exit_weights

RESNETS = (20, 32, 56, 110)
DENSENETS = (40, 76, 100)
STARS = {"4-8-16": (4, 8, 16), "6-12-24": (6, 12, 24), "8-16-32": (8, 16, 32)}
IMAGENET_RESNETS = (10, 18, 26, 34, 50)
SHARES = np.arange(1, 11) / 10  # of the costs of MSDNet, at which networks are compared


def row(name, build, data=CIFAR10, recipe="cifar", **arguments):
    return Row(name, functools.partial(build, **arguments), data, recipe=recipe)


MSDNET = row("MSDNet, 11 exits", ka.build_msdnet, preset="cifar_anytime")
RESNET_MC = row("ResNet-MC", ka.build_resnet, preset="resnet_mc")
DENSENET_MC = row("DenseNet-MC", ka.build_densenet, preset="densenet_mc")
STATIC = {
    "ResNet": [row(f"ResNet-{d}", ka.build_resnet, depth=d) for d in RESNETS],
    "DenseNet": [row(f"DenseNet-{d}", ka.build_densenet, depth=d) for d in DENSENETS],
    "DenseNet*": [
        row(f"DenseNet*-{name}", ka.build_densenet, preset="densenet_star", growth_rate=growth)
        for name, growth in STARS.items()
    ],
}
BUDGETED = [
    row(f"MSDNet, {n} exits", ka.build_msdnet, preset=f"cifar_budgeted_{n}") for n in (4, 5, 6, 8)
]
LARGE = row("MSDNet, ImageNet", ka.build_msdnet, IMAGENET, "imagenet", preset="imagenet_anytime")
LARGE_RESNETS = [
    row(f"ResNet-{d}", ka.build_resnet, IMAGENET, "imagenet", preset=f"imagenet_{d}")
    for d in IMAGENET_RESNETS
]


def of(results, rows):
    return [results[r.name] for r in rows if r.name in results]


def at_budgets(networks, budgets):
    """Returns a line for every network, by name a list of accuracies or `None`, and budget."""
    return [
        (f"{name}, {budget / 1e6:.1f} MMACs", "accuracy", None if a is None else 100 * a, None)
        for name, accuracies in networks.items()
        for budget, a in zip(budgets, accuracies, strict=True)
    ]


def last_within(costs, accuracies, budgets):
    """The accuracy of the last exit that each budget is enough for, `None` below the first."""
    places = np.searchsorted(np.asarray(costs) * (1 - 1e-9), budgets, side="right") - 1
    return [None if k < 0 else float(accuracies[k]) for k in places]


def within(curve, budgets):
    """The accuracy of the most expensive policy within each budget, on test data."""
    return last_within(curve.costs, np.maximum.accumulate(curve.accuracies), budgets)


def anytime(single, others, statics):
    """Returns the lines of figure 2: every network by its last exit within a budget."""

    def lines(results):
        curves = {r.name: curve_of(results[r.name]) for r in (single, *others) if r.name in results}
        if single.name not in curves:
            return []
        budgets = SHARES * curves[single.name].exit_costs[-1]
        found = {
            name: last_within(c.exit_costs, c.exit_accuracies, budgets)
            for name, c in curves.items()
        }
        for kind, rows in statics.items():
            members = of(results, rows)
            if len(members) == len(rows):
                c = joined(members)
                accuracies = last_within(c.exit_costs, c.exit_accuracies, budgets)
                found[f"ensemble of {kind}"] = accuracies
        return at_budgets(found, budgets)

    return lines


def table_of(lines):
    """Returns accuracies by name and place of the budget."""
    found = {}
    for name, _, accuracy, _ in lines:
        found.setdefault(name.rsplit(", ", 1)[0], []).append(accuracy)
    return found


def beats(lines, own, other, least=1):
    """Whether one network is better than another at more than half of the budgets.

    Args:
        lines: Function of the results that returns lines.
        own, other: Names of the two.
        least: Integer: so many of the lowest budgets do not count.
    """

    def holds(results):
        found = table_of(lines(results))
        both = [
            (a, b)
            for a, b in list(zip(found[own], found[other], strict=True))[least:]
            if a is not None and b is not None
        ]
        return sum(a > b for a, b in both) > len(both) / 2

    return holds


def names(*rows):
    """Returns the names of the rows that a claim takes."""
    return [r.name for r in rows]


ANYTIME = anytime(MSDNET, (RESNET_MC, DENSENET_MC), STATIC)
ANYTIME_LARGE = anytime(LARGE, (), {"ResNet": LARGE_RESNETS})


def budgeted(own, dynamic, statics):
    """Returns the lines of figure 4."""

    def lines(results):
        curves = {r.name: curve_of(results[r.name], "geometric") for r in own if r.name in results}
        if not curves:
            return []
        budgets = SHARES * max(c.exit_costs[-1] for c in curves.values())
        best = evaluation.best_of(curves, budgets)
        found = {"MSDNet": [None if np.isnan(a) else float(a) for a in best.accuracies]}
        for r in dynamic:
            if r.name in results:
                found[f"{r.name} with early exits"] = within(
                    curve_of(results[r.name], "geometric"), budgets
                )
        for kind, rows in statics.items():
            members = of(results, rows)
            if len(members) < len(rows):
                continue
            costs = [1e6 * m.values["MMACs"][-1] for m in members]
            accuracies = [m.values["E-1"] / 100 for m in members]
            between = evaluation.interpolated(costs, accuracies, budgets)
            found[f"{kind}, interpolated"] = [None if np.isnan(a) else float(a) for a in between]
            found[f"dynamic ensemble of {kind}"] = within(joined(members), budgets)
        return at_budgets(found, budgets)

    return lines


BATCHES = budgeted(BUDGETED, (RESNET_MC, DENSENET_MC), STATIC)
BATCHES_LARGE = budgeted([LARGE], (), {"ResNet": LARGE_RESNETS})


# ---- figure 3: budgets drawn from a distribution

DISTRIBUTIONS = {
    "uniform": lambda costs: stats.uniform(0, 1.1 * costs[-1]),
    "exponential": lambda costs: stats.expon(scale=costs[-1] / 3),
    "normal": lambda costs: stats.norm(costs[-1] / 2, costs[-1] / 6),
}


def weighted(name):
    def build(input_shape, classes):
        model = ka.build_msdnet(input_shape, classes, preset="cifar_anytime")
        costs = model.exit_costs()
        weights = exit_weights(DISTRIBUTIONS[name](costs), costs)
        model.compile(exit_weights=weights.tolist())
        return model

    return Row(f"MSDNet, {name} budget", build, CIFAR10)


def expected(results):
    """The expected accuracy of every network under every distribution."""
    lines = []
    for name, result in results.items():
        costs = np.array(result.values["MMACs"])
        accuracies = [v for k, v in result.values.items() if k.startswith("E-")]
        for kind, distribution in DISTRIBUTIONS.items():
            found = evaluation.anytime_accuracy(accuracies, costs, distribution(costs))
            lines.append((name, f"expected accuracy, {kind} budget", found, None))
    return lines


def no_drastic_change(results):
    """Whether the weights change the accuracy of an exit by less than three points."""
    rows = [[v for k, v in r.values.items() if k.startswith("E-")] for r in results.values()]
    return bool(np.ptp(rows, axis=0).max() < 3)


# ---- the later version's figure: what each part is worth. Growth rates even out the costs.

PARTS = {
    "all parts": {},
    "without dense connections": {"dense": False, "growth_rate": 14},
    "without scales": {"multi_scale": False, "growth_rate": 6},
    "without both": {"dense": False, "multi_scale": False, "growth_rate": 15},
}
PART_ROWS = tuple(
    row(f"MSDNet {name}", ka.build_msdnet, preset="cifar_budgeted_6", **arguments)
    for name, arguments in PARTS.items()
)


def parts_matter(results):
    full = results[PART_ROWS[0].name].values["E-6"]
    return all(full > results[r.name].values["E-6"] for r in PART_ROWS[1:])


ALL_STATIC = tuple(r for rows in STATIC.values() for r in rows)
NOTE = (
    "The paper prints no values of this figure. Sizes of its ensembles, and of DenseNet*, are not "
    "published: ours are named."
)
TABLES = {
    "figure 2": Table(
        "anytime accuracy, CIFAR-10",
        (MSDNET, RESNET_MC, DENSENET_MC, *ALL_STATIC),
        ANYTIME,
        (
            (
                "MSDNet is better than ResNet-MC",
                beats(ANYTIME, MSDNET.name, "ResNet-MC"),
                *names(MSDNET, RESNET_MC),
            ),
            (
                "MSDNet is better than DenseNet-MC",
                beats(ANYTIME, MSDNET.name, "DenseNet-MC"),
                *names(MSDNET, DENSENET_MC),
            ),
            (
                "an ensemble of ResNets is worse but at the least budgets",
                beats(ANYTIME, MSDNET.name, "ensemble of ResNet", least=3),
                *names(MSDNET, *STATIC["ResNet"]),
            ),
        ),
        NOTE,
    ),
    "figure 2-imagenet": Table(
        "anytime accuracy, ImageNet",
        (LARGE, *LARGE_RESNETS),
        ANYTIME_LARGE,
        (
            (
                "MSDNet is better than the ensemble of ResNets at every budget",
                beats(ANYTIME_LARGE, LARGE.name, "ensemble of ResNet", least=0),
            ),
        ),
        "Its budgets, 0.5 to 1.0e10 FLOPs, are not those of the network that it describes: see "
        "docs/papers.md.",
    ),
    "figure 3": Table(
        "three distributions of budgets, CIFAR-10",
        tuple(weighted(name) for name in DISTRIBUTIONS),
        expected,
        (("no drastic changes (here: less than three points)", no_drastic_change),),
        "Their parameters are not published: uniform to 1.1 of the full cost, exponential of mean "
        "1/3, normal around 1/2 with 1/6.",
    ),
    "figure 4": Table(
        "budgeted batches, CIFAR-10",
        (*BUDGETED, RESNET_MC, DENSENET_MC, *ALL_STATIC),
        BATCHES,
        (
            (
                "MSDNet is better than ResNets",
                beats(BATCHES, "MSDNet", "ResNet, interpolated"),
                *names(*BUDGETED, *STATIC["ResNet"]),
            ),
            (
                "MSDNet is better than DenseNets",
                beats(BATCHES, "MSDNet", "DenseNet, interpolated"),
                *names(*BUDGETED, *STATIC["DenseNet"]),
            ),
            (
                "MSDNet is better than ResNet-MC with early exits",
                beats(BATCHES, "MSDNet", "ResNet-MC with early exits"),
                *names(*BUDGETED, RESNET_MC),
            ),
            (
                "MSDNet is better than DenseNet-MC with early exits",
                beats(BATCHES, "MSDNet", "DenseNet-MC with early exits"),
                *names(*BUDGETED, DENSENET_MC),
            ),
            (
                "MSDNet is better than the dynamic ensemble of DenseNet*",
                beats(BATCHES, "MSDNet", "dynamic ensemble of DenseNet*"),
                *names(*BUDGETED, *STATIC["DenseNet*"]),
            ),
        ),
        NOTE,
    ),
    "figure 4-imagenet": Table(
        "budgeted batches, ImageNet",
        (LARGE, *LARGE_RESNETS),
        BATCHES_LARGE,
        (
            (
                "MSDNet is better than ResNets",
                beats(BATCHES_LARGE, "MSDNet", "ResNet, interpolated"),
            ),
        ),
        NOTE,
    ),
    "figure parts": Table(
        "without dense connections, without scales (later version), CIFAR-10",
        PART_ROWS,
        lambda results: [
            (name, f"E-{k + 1} at {cost:.1f} MMACs", r.values[f"E-{k + 1}"], None)
            for name, r in results.items()
            for k, cost in enumerate(r.values["MMACs"])
        ],
        (("without any of them the last exit is worse", parts_matter),),
        "What takes their place, and the sizes, are not published.",
    ),
}

if __name__ == "__main__":
    main("msdnet", __doc__, TABLES)
