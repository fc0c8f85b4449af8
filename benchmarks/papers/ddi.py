"""Dual Dynamic Inference: its tables and figures.

    python -m benchmarks.papers.ddi --table 2 --scale short|published [--data PATH] [--plan]

Figure 6: beside SkipNet; figures 7 and 8: DenseNets; figures 9 and 10: kinds of gates over alpha;
figure 12: energy or FLOPs in the loss; tables 2 and 3: accuracy at hard budgets. The paper draws
its figures and prints no values of them; what it says of them is checked.
"""

import functools

import numpy as np

import keras_adaptive as ka
from benchmarks.papers._tables import CIFAR10, IMAGENET, Row, Table, main
from keras_adaptive.training import GateLoss, Reinforce

ALPHAS = (1e-4, 2e-4, 4e-4)  # around the paper's 2e-4
# after so few steps, on images of a quarter of the MACs, gates close only at higher costs, and
# channels save less each than layers
SHORT = {"layer": 80, "channel": 600, "both": 80}  # times alpha
BRANCHES = {"exits": (0.25, 0.75), "pooled_exits": True}


def gated(model, answers, row):
    """Measures accuracy, and the shares of MACs and of energy that gates save."""
    x = answers.images("test")
    found = {}
    for unit, name in (("macs", "MACs saved"), ("energy", "energy saved")):
        full = model.exit_costs(unit)[-1]
        logits, costs = model.predict_with_costs(x, unit=unit, batch_size=250, verbose=0)
        found[name] = 100 * (1 - float(costs[-1].mean()) / full)
    right = logits.argmax(-1) == answers.of("test")[1]
    return {
        **{f"E-{k + 1}": 100 * float(a) for k, a in enumerate(right.mean(-1))},
        "accuracy": 100 * float(right[-1].mean()),
        "MMACs": (model.exit_costs() / 1e6).tolist(),
        **found,
    }


def way(name, build, gates, alpha, data=CIFAR10, recipe="ddi_cifar", unit="macs", **more):
    """A network with gates, trained with a weight of its cost."""
    how = {"regime": "gated", **more.pop("fit", {})}
    return Row(
        f"{name}, {gates}, alpha {alpha:g}{'' if unit == 'macs' else ', energy'}",
        functools.partial(build, gates=gates, **more),
        data,
        {**how, "gate_loss": GateLoss(alpha, unit=unit)},
        recipe,
        short={"gate_loss": GateLoss(SHORT[gates] * alpha, unit=unit)},
        measure=gated,
    )


def kinds(name, build, **more):
    return tuple(
        way(name, build, gates, alpha, **more)
        for gates in ("layer", "channel", "both")
        for alpha in ALPHAS
    )


def saving(results):
    """Accuracy and savings of every row."""
    return [
        (name, value, r.values[value], r.row.paper.get(value))
        for name, r in results.items()
        for value in ("accuracy", "MACs saved", "energy saved")
        if value in r.values
    ]


def curve(results, words, value="MACs saved"):
    """Points of saving and accuracy of the rows whose names hold all words."""
    own = [r.values for n, r in results.items() if all(w in n for w in words)]
    return sorted((v[value], v["accuracy"]) for v in own if value in v)


def above(words, others, value="MACs saved"):
    """Whether some points are above the line through others, where both save as much."""

    def holds(results):
        points, line = curve(results, words, value), curve(results, others, value)
        x, y = np.array(line).T
        within = [(s, a) for s, a in points if x.min() <= s <= x.max()]
        return bool(within) and all(a >= np.interp(s, x, y) for s, a in within)

    return holds


# ---- hard budgets: the last branch within them

TABLE_2 = {  # network: budget in MFLOPs, accuracy, that of a network of this budget, and it
    "ResNet-74": (
        (58, 91.00, 90.70, "ResNet-14"),
        (74, 92.82, 91.25, "ResNet-20"),
        (117, 93.81, 92.30, "ResNet-26"),
        (144, 93.88, 92.50, "ResNet-38"),
    ),
    "DenseNet-100": (
        (372, 93.83, 94.35, "DenseNet-76"),
        (392, 94.44, 94.45, "DenseNet-82"),
        (408, 94.68, 94.16, "DenseNet-88"),
    ),
}
TABLE_3 = {  # in GFLOPs, which for these networks are MACs
    "DenseNet-201": (
        (0.837, 60.26, 58.10, "SqueezeNet 1.0"),
        (1.9, 70.80, 69.76, "ResNet-18"),
        (2.0, 74.80, 65.80, "GoogLeNet"),
    )
}


def budgets_of(rows, flops_per_mac):
    """Returns the measure of a network under hard budgets."""

    def measure(model, answers, row):
        logits, costs = model.predict_with_costs(answers.images("test"), batch_size=250, verbose=0)
        labels = answers.of("test")[1]
        never = [np.inf] * (model.num_exits - 1) + [-np.inf]
        found = {"MMACs": (model.exit_costs() / 1e6).tolist()}
        # of smaller images the same share of all MACs
        published = row.build(row.data.shape, row.data.classes).exit_costs()[-1]
        share = model.exit_costs()[-1] / published
        for budget, *_ in rows:
            limit = share * budget * 1e6 / flops_per_mac
            name = f"accuracy at {budget:g}"
            if costs[0].max() > limit:
                found[name] = None  # some image cannot even reach the first branch
                continue
            policy = ka.ExitPolicy(never, worst_case=limit)
            found[name] = 100 * ka.evaluate(policy, logits, labels, costs).accuracy
        return found

    return measure


def within(name, build, rows, data, recipe, flops_per_mac, **arguments):
    return Row(
        f"{name}-DDI",
        functools.partial(build, gates="both", **arguments),
        data,
        {"regime": "gated"},
        recipe,
        {f"accuracy at {budget:g}": accuracy for budget, accuracy, *_ in rows},
        {"gate_loss": GateLoss(SHORT["both"] * 2e-4)},
        measure=budgets_of(rows, flops_per_mac),
    )


def static(name, build, accuracy=None, data=CIFAR10, recipe="resnet_cifar", **arguments):
    paper = {} if accuracy is None else {"E-1": accuracy}
    return Row(name, functools.partial(build, **arguments), data, recipe=recipe, paper=paper)


BASES = [
    static(name, build, base, depth=int(name.rpartition("-")[2]))
    for network, build in (("ResNet-74", ka.build_resnet), ("DenseNet-100", ka.build_densenet))
    for _, _, base, name in TABLE_2[network]
]


def hard_budgets(results):
    """Every budget: the branch within it, and the network of this budget."""
    lines = []
    for name, r in results.items():
        for value, printed in r.row.paper.items():
            if r.values.get(value) is not None:
                lines.append((name, value.replace("E-1", "accuracy"), r.values[value], printed))
    return lines


def better_than_bases(results):
    pairs = [
        (results[f"{network}-DDI"].values.get(f"accuracy at {budget:g}"), results[base])
        for network, rows in TABLE_2.items()
        for budget, _, _, base in rows
    ]
    known = [(own, base.values["E-1"]) for own, base in pairs if own is not None]
    return bool(known) and sum(own > base for own, base in known) > len(known) / 2


RESNET_38, RESNET_74 = (kinds(f"ResNet-{d}", ka.build_resnet, depth=d) for d in (38, 74))
SKIPNETS = tuple(
    way(
        f"SkipNet-{d}",
        ka.build_resnet,
        "layer",
        2e-4,
        depth=d,
        gate_kind="feedforward_deep",
        fit={"reinforce": Reinforce()},
    )
    for d in (38, 74)
)
DENSENET = kinds("DenseNet-100", ka.build_densenet, depth=100)
NOTE = (
    "The paper prints no values of this figure; alphas but 2e-4 are not published. At the short "
    "scale they are times "
    + ", ".join(f"{times} for {gates}" for gates, times in SHORT.items())
    + ", so that gates close at all. A recurrent gate of channels is not here: see docs/papers.md."
)
TABLES = {
    "figure 6": Table(
        "beside SkipNet, CIFAR-10",
        tuple(r for r in (*RESNET_38, *RESNET_74) if "both" in r.name) + SKIPNETS,
        saving,
        note=NOTE + " The other five methods are numbers that the paper quotes.",
    ),
    "figure 7": Table(
        "DenseNet-100 and ResNet-128, CIFAR-10",
        tuple(
            way(name, build, "both", alpha, depth=depth)
            for name, build, depth in (
                ("DenseNet-100", ka.build_densenet, 100),
                ("ResNet-128", ka.build_resnet, 128),
            )
            for alpha in ALPHAS
        )
        + tuple(static(f"DenseNet-{d}", ka.build_densenet, depth=d) for d in (76, 82, 88)),
        saving,
        (("DenseNet-100 is above ResNet-128", above(("DenseNet-100",), ("ResNet-128",))),),
        NOTE,
    ),
    "figure 8": Table(
        "DenseNet-201, ImageNet",
        tuple(
            way(
                "DenseNet-201",
                ka.build_densenet,
                "both",
                alpha,
                IMAGENET,
                "ddi_imagenet",
                preset="imagenet_201",
            )
            for alpha in (2e-6, 4e-6, 8e-6)
        ),
        saving,
        note=NOTE,
    ),
    "figure 9": Table(
        "kinds of gates, ResNet-38 and -74, CIFAR-10",
        RESNET_38 + RESNET_74,
        saving,
        tuple(
            (f"both are above {gates} alone, {name}", above((name, "both"), (name, gates)))
            for name in ("ResNet-38", "ResNet-74")
            for gates in ("layer", "channel")
        ),
        NOTE,
    ),
    "figure 10": Table(
        "kinds of gates, DenseNet-100, CIFAR-10",
        DENSENET,
        saving,
        tuple(
            (f"both are above {gates} alone", above(("both",), (gates,)))
            for gates in ("layer", "channel")
        ),
        NOTE,
    ),
    "figure 12": Table(
        "energy or FLOPs in the loss, ResNet-74, CIFAR-10",
        tuple(
            way("ResNet-74", ka.build_resnet, "both", alpha / scale, unit=unit, depth=74)
            for unit, scale in (("macs", 1), ("energy", 10))  # a MAC costs some ten of energy
            for alpha in ALPHAS
        ),
        saving,
        (
            (
                "energy in the loss saves more energy at equal accuracy",
                above((", energy",), ("both",), "energy saved"),
            ),
        ),
        NOTE + " Energy by `ka.costs.EnergyModel`.",
    ),
    "table 2": Table(
        "accuracy at hard budgets, CIFAR-10",
        (
            within(
                "ResNet-74",
                ka.build_resnet,
                TABLE_2["ResNet-74"],
                CIFAR10,
                "ddi_cifar",
                2,
                depth=74,
                **BRANCHES,
            ),
            within(
                "DenseNet-100",
                ka.build_densenet,
                TABLE_2["DenseNet-100"],
                CIFAR10,
                "ddi_cifar",
                2,
                depth=100,
                **BRANCHES,
            ),
            *BASES,
        ),
        hard_budgets,
        (("the branches are better at more than half of the budgets", better_than_bases),),
        "Budgets in millions of FLOPs, two a multiply-accumulate.",
    ),
    "table 3": Table(
        "accuracy at hard budgets, ImageNet",
        (
            within(
                "DenseNet-201",
                ka.build_densenet,
                [(1e3 * budget, *rest) for budget, *rest in TABLE_3["DenseNet-201"]],
                IMAGENET,
                "ddi_imagenet",
                1,
                preset="ddi_imagenet_201",
            ),
            static("ResNet-18", ka.build_resnet, 69.76, IMAGENET, "imagenet", preset="imagenet_18"),
        ),
        hard_budgets,
        note="Budgets in millions of multiply-accumulates. SqueezeNet and GoogLeNet are numbers "
        "that the paper quotes.",
    ),
}

if __name__ == "__main__":
    main("ddi", __doc__, TABLES)
