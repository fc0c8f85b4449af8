"""Improved Techniques for Training Adaptive Deep Networks: its tables and figures.

    python -m benchmarks.papers.imta --table 2 --scale short|published [--data PATH] [--plan]

Table 1 and figures 2, 3, 5: MSDNets with and without the three techniques; tables 2 and 3 and
figure 4: what each technique adds; figure 6: accuracy by epoch; figure 7: ranks of confidence.
"""

import functools

import numpy as np

import keras_adaptive as ka
from benchmarks.papers._tables import (
    CIFAR10,
    CIFAR100,
    IMAGENET,
    Row,
    Table,
    curve_of,
    exits,
    main,
)
from keras_adaptive import evaluation
from keras_adaptive.training import Distillation

GE, ISC = {"gradient_equilibrium": True}, {"collaboration": "dense"}
OFA = {"distillation": Distillation("last", temperature=1.0, weight=0.1)}
TWO_PHASES = {"regime": "imta", "distillation": Distillation(temperature=1.0, weight=0.1)}
# way: arguments of the builder, arguments of fit. One technique alone is trained in one phase:
# the paper describes the two phases for all three.
WAYS = {
    "MSDNet": ({}, {}),
    "GE": (GE, {}),
    "ISC": (ISC, {}),
    "OFA": ({}, OFA),
    "GE + ISC + OFA": (GE, TWO_PHASES),
}
ONE_PHASE = (
    "ISC and OFA alone are trained in one phase, as long as the first: how the paper trains "
    "them without the others is not said."
)


def row(way, preset, data, recipe, paper=()):
    build, how = WAYS[way]
    names = [f"E-{k + 1}" for k in range(len(paper))]
    return Row(
        name=f"{way}, {preset}",
        build=functools.partial(ka.build_msdnet, preset=preset, **build),
        data=data,
        fit=how,
        recipe=recipe,
        paper=dict(zip(names, paper, strict=True)),
    )


def ablation(preset, data, recipe, accuracies):
    return tuple(
        row(way, preset, data, recipe, values) for way, values in zip(WAYS, accuracies, strict=True)
    )


TABLE_1 = {
    "MSDNet": (64.10, 67.46, 70.34, 72.38, 73.06, 73.81, 73.89),
    "GE + ISC + OFA": (64.00, 68.41, 71.86, 73.50, 74.46, 75.39, 75.96),
}
TABLE_2 = (
    (60.09, 63.73, 67.89, 70.48, 71.81),
    (60.35, 64.38, 68.72, 70.65, 71.94),
    (60.19, 64.72, 68.07, 70.94, 73.28),
    (60.39, 64.20, 68.10, 70.65, 71.85),
    (60.78, 65.54, 69.98, 72.27, 73.45),
)
TABLE_3 = (
    (56.64, 65.14, 68.42, 69.77, 71.34),
    (57.08, 65.29, 69.08, 70.55, 72.14),
    (57.03, 66.20, 69.73, 71.15, 71.65),
    (57.15, 65.77, 68.87, 70.23, 71.39),
    (57.28, 66.22, 70.24, 71.71, 72.43),
)
CIFAR_ABLATION = ablation("cifar_budgeted_5", CIFAR100, "cifar", TABLE_2)
IMAGENET_ABLATION = ablation("imta_imagenet_4", IMAGENET, "imagenet", TABLE_3)


def pairs(presets, data, recipe):
    ways = ("MSDNet", "GE + ISC + OFA")
    return tuple(row(way, preset, data, recipe) for preset in presets for way in ways)


def every_exit(results):
    return np.array(
        [[v for k, v in r.values.items() if k.startswith("E-")] for r in results.values()]
    )


def gains(way):
    """Whether a way of training is better than plain training at every exit."""

    def holds(results):
        plain, other = (
            next(r.values for n, r in results.items() if n.startswith(f"{w},"))
            for w in ("MSDNet", way)
        )
        return all(other[k] > plain[k] for k in plain if k.startswith("E-"))

    return holds


def claims(rows):
    """What the paper says of each technique, beside plain training."""
    plain, *others = (row.name for row in rows)
    return tuple(
        (f"{way} is better at every exit", gains(way), plain, other)
        for way, other in zip(list(WAYS)[1:], others, strict=True)
    )


def budgeted(results):
    """The best network within each tenth of the most costly one's budget, by validation."""
    lines = []
    for way in WAYS:
        own = {n: curve_of(r) for n, r in results.items() if n.startswith(f"{way},")}
        if not own:
            continue
        most = max(curve.exit_costs[-1] for curve in own.values())
        budgets = most * np.arange(1, 11) / 10
        best = evaluation.best_of(own, budgets)
        lines += [
            (
                f"{way}, {budget / 1e6:.1f} MMACs",
                name or "",
                None if name is None else 100 * a,
                None,
            )
            for budget, a, name in zip(budgets, best.accuracies, best.networks, strict=True)
        ]
    return lines


def better_at_most_budgets(results):
    found = {}
    for name, _, accuracy, _ in budgeted(results):
        way, budget = name.rsplit(", ", 1)
        found.setdefault(way, {})[budget] = accuracy
    plain, ours = found["MSDNet"], found["GE + ISC + OFA"]
    both = [b for b in plain if None not in (plain[b], ours.get(b))]
    return sum(ours[b] > plain[b] for b in both) > len(both) / 2


BETTER = (("all three are better at more than half of the budgets", better_at_most_budgets),)


def by_epoch(results):
    """Validation accuracy of the last exit after a quarter, half and all of the epochs."""
    lines = []
    for name, result in results.items():
        log = np.genfromtxt(
            result.answers.path.with_suffix("") / "epochs.csv", delimiter=",", names=True
        )
        last = max(n for n in log.dtype.names if n.startswith("val_exit_") and "accuracy" in n)
        values = np.atleast_1d(log[last])
        for share in (0.25, 0.5, 1.0):
            epoch = max(int(share * len(values)) - 1, 0)
            lines.append((name, f"epoch {epoch + 1}", 100 * values[epoch], None))
    return lines


def spearman(model, answers, row):
    """The measures of every exit, and how the ranks of confidence of exits 1 and 2 agree."""
    _, agreement = evaluation.confidence_ranks(answers.of("test")[0])
    return {**exits(model, answers, row), "Spearman's rho": float(agreement[0, 1])}


def ranked(way):
    found = row(way, "cifar_budgeted_5", CIFAR100, "cifar")
    how = {"name": f"{found.name}, ranks", "measure": spearman}
    return Row(**{**vars(found), **how})


def rho(results, way):
    return next(r.values["Spearman's rho"] for n, r in results.items() if n.startswith(way))


def later_better(results):
    plain, ours = every_exit(results)
    return bool((ours[1:] > plain[1:]).all())


TABLES = {
    "table 1": Table(
        "seven exits on CIFAR-100",
        tuple(
            row(way, "cifar_budgeted_7", CIFAR100, "cifar", values)
            for way, values in TABLE_1.items()
        ),
        claims=(("all three are better from the second exit on", later_better),),
    ),
    "table 2": Table(
        "what each technique adds, CIFAR-100",
        CIFAR_ABLATION,
        claims=claims(CIFAR_ABLATION),
        note=ONE_PHASE,
    ),
    "table 3": Table(
        "what each technique adds, ImageNet",
        IMAGENET_ABLATION,
        claims=claims(IMAGENET_ABLATION),
        note=ONE_PHASE,
    ),
    "figure 2": Table(
        "budgeted batches, CIFAR-10",
        pairs(("cifar_budgeted_6", "cifar_budgeted_8"), CIFAR10, "cifar"),
        budgeted,
        BETTER,
    ),
    "figure 3": Table(
        "budgeted batches, CIFAR-100",
        pairs([f"cifar_budgeted_{n}" for n in (4, 5, 6, 8)], CIFAR100, "cifar"),
        budgeted,
        BETTER,
    ),
    "figure 4": Table(
        "the ablation as curves, CIFAR-100", CIFAR_ABLATION, budgeted, note=ONE_PHASE
    ),
    "figure 5": Table(
        "budgeted batches, ImageNet",
        pairs([f"imta_imagenet_{n}" for n in (4, 6, 7)], IMAGENET, "imagenet"),
        budgeted,
        BETTER,
    ),
    "figure 6": Table(
        "accuracy by epoch, CIFAR-100",
        tuple(
            row(way, f"cifar_budgeted_{n}", CIFAR100, "cifar")
            for n in (4, 6, 8)
            for way in ("MSDNet", "GE")
        ),
        by_epoch,
    ),
    "figure 7": Table(
        "ranks of confidence at the first two exits",
        tuple(ranked(way) for way in ("MSDNet", "ISC")),
        lambda results: [
            (n, "Spearman's rho", r.values["Spearman's rho"], None) for n, r in results.items()
        ],
        (("ranks agree better with collaboration", lambda r: rho(r, "ISC") > rho(r, "MSDNet")),),
    ),
}


if __name__ == "__main__":
    main("imta", __doc__, TABLES)
