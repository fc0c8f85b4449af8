"""Ensembles and cascades (Wisdom of Committees, first version): its tables and figures.

    python -m benchmarks.papers.cascades --table 1 --scale short|published [--data PATH] [--plan]

All come from the answers of one pool of networks, which are trained alone: tables 1, 2 and C choose
cascades at the cost or the accuracy of each; figure 2: ensembles and the cascades of the same
networks; figure 3: over the threshold; figure A: how well confidences tell right answers; figure B:
of two, three and four networks. `short`: ResNets of four depths and two widths, twice each, for
CIFAR-10; `published`: the paper's ResNets, trained on ImageNet. Its EfficientNets and MobileNets
have recipes of their own, which it does not give: `ka.select_cascade` takes the answers of any.
"""

import functools
import itertools

import numpy as np

import keras_adaptive as ka
from benchmarks.papers._tables import CIFAR10, IMAGENET, Row, Table, main
from keras_adaptive import evaluation

MEMBERS = {"8": (8, 1), "14": (14, 1), "20": (20, 1), "20x2": (20, 2), "32": (32, 1)}
COPIES = 2
LARGE = {50: (None, 3.5), 101: (77.9, 7.2), 152: (78.8, 10.9), 200: (79.0, 14.4)}
# at similar FLOPs: top-1, FLOPs; at similar accuracy: top-1, FLOPs
TABLE_1 = {
    101: (79.3, 7.3, 78.2, 4.9),
    152: (80.1, 10.8, 78.9, 6.2),
    200: (80.4, 14.2, 79.2, 6.8),
}
HELD_OUT = 25_000
CONFIDENCES = ("max_prob", "logit_margin", "prob_margin", "entropy")
THRESHOLDS = np.arange(0, 11) / 10


SMALL = tuple(
    Row(
        f"ResNet-{name}, copy {copy + 1}",
        functools.partial(ka.build_resnet, depth=depth, width=width, style="pre"),
        CIFAR10,
        recipe="resnet_cifar",
        copy=copy,
    )
    for name, (depth, width) in MEMBERS.items()
    for copy in range(COPIES)
)
RESNETS = tuple(
    Row(
        f"ResNet-{depth}, ImageNet, copy {copy + 1}",
        functools.partial(ka.build_resnet, preset=f"imagenet_{depth}"),
        IMAGENET.held_out(HELD_OUT),
        recipe="imagenet",
        paper={} if accuracy is None or copy else {"E-1": accuracy},
        copy=copy,
    )
    for depth, (accuracy, _) in LARGE.items()
    for copy in range(COPIES)
)


class Pool:
    """The answers of the networks that are done, by network and copy."""

    def __init__(self, results):
        self.results = list(results.values())
        names = dict.fromkeys(r.row.name.partition(", copy")[0] for r in self.results)
        self.names = sorted(names, key=lambda name: self._of(name)[0].values["MMACs"][-1])
        self.costs = np.array([self._of(n)[0].values["MMACs"][-1] for n in self.names])
        self.printed = {r.row.name.partition(", copy")[0]: r.row.paper for r in self.results[::-1]}

    def _of(self, name):
        return [r for r in self.results if r.row.name.partition(", copy")[0] == name]

    @functools.cached_property
    def parts(self):
        """Logits by split: a list of `(copies, samples, classes)` per network; labels."""
        found = {}
        for split in ("calibrate", "test"):
            answers = [[r.answers.of(split) for r in self._of(name)] for name in self.names]
            logits = [np.stack([z[-1] for z, _ in own]) for own in answers]
            found[split] = logits, answers[0][0][1]
        return found

    def accuracy(self, split, member, copy=0):
        logits, labels = self.parts[split]
        return float((logits[member][copy].argmax(-1) == labels).mean())

    def cascade(self, keys, split):
        """The mean logits of the first one, two, ... of some `(network, copy)`; costs."""
        logits, labels = self.parts[split]
        members = np.stack([logits[m][c] for m, c in keys])
        means = np.cumsum(members, axis=0) / np.arange(1, len(keys) + 1)[:, None, None]
        return means, labels, np.cumsum([self.costs[m] for m, _ in keys])


def applied(pool, choice):
    """What a chosen cascade does on the test split: percent, million MACs, worst case."""
    keys = list(zip(choice.members, choice.copies, strict=True))
    means, labels, costs = pool.cascade(keys, "test")
    result = ka.evaluate(choice.policy, means, labels, costs)
    return 100 * result.accuracy, result.mean_cost, costs[-1], result.exit_fractions


def chosen(pool, **aim):
    return ka.select_cascade(*pool.parts["calibrate"], pool.costs, **aim)


def targets(results):
    """Table 1: at the cost, and at the accuracy, of each network but the smallest."""
    pool, lines = Pool(results), []
    for m, name in list(enumerate(pool.names))[1:]:
        depth = name.removeprefix("ResNet-").partition(",")[0]
        printed = TABLE_1.get(int(depth) if depth.isdigit() else None, (None,) * 4)
        printed = printed if "ImageNet" in name else (None,) * 4
        lines.append((name, "alone", 100 * pool.accuracy("test", m), pool.printed[name].get("E-1")))
        lines.append((name, "MMACs", pool.costs[m], None))
        own = applied(pool, chosen(pool, budget=pool.costs[m]))
        lines.append((name, "cascade at its cost", own[0], printed[0]))
        other = applied(pool, chosen(pool, accuracy=pool.accuracy("calibrate", m)))
        lines.append((name, "cascade of its accuracy", other[0], printed[2]))
        speedup = None if printed[3] is None else LARGE[int(depth)][1] / printed[3]
        lines.append((name, "times fewer MACs", pool.costs[m] / other[1], speedup))
    return lines


def worst_cases(results):
    """Table 2, for every network: without and with a limit of the worst case."""
    pool, lines = Pool(results), []
    for m, name in list(enumerate(pool.names))[1:]:
        aim = {"accuracy": pool.accuracy("calibrate", m)}
        for kind, limit in (("without", {}), ("with", {"worst_case": pool.costs[m]})):
            accuracy, mean, worst, _ = applied(pool, chosen(pool, **aim, **limit))
            lines.append((name, f"{kind} a limit: top-1", accuracy, None))
            lines.append((name, f"{kind} a limit: share of its cost", mean / pool.costs[m], None))
            lines.append((name, f"{kind} a limit: worst case", worst / pool.costs[m], None))
    return lines


def exit_ratios(results):
    """Table C: where images leave the cascades of each network's accuracy."""
    pool, lines = Pool(results), []
    for m, name in list(enumerate(pool.names))[1:]:
        choice = chosen(pool, accuracy=pool.accuracy("calibrate", m))
        members = " + ".join(pool.names[i].removeprefix("ResNet-") for i in choice.members)
        for k, share in enumerate(applied(pool, choice)[-1]):
            lines.append((f"{name}: {members}", f"leave at {k + 1}, %", 100 * share, None))
    return lines


def front(points):
    """The points of which none is as cheap and as accurate: indices, cheap ones first."""
    best, kept = -np.inf, []
    for i in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if points[i][1] > best:
            best = points[i][1]
            kept.append(i)
    return kept


def ensembles(results, most=2):
    """Figure 2: Pareto-optimal ensembles, and each as a cascade of its accuracy."""
    pool, lines = Pool(results), []
    keys = [(m, c) for m, z in enumerate(pool.parts["calibrate"][0]) for c in range(len(z))]
    sets = [s for n in range(2, most + 1) for s in itertools.combinations(keys, n)]
    points = []
    for members in sets:
        means, labels, costs = pool.cascade(members, "test")
        points.append((costs[-1], float((means[-1].argmax(-1) == labels).mean())))
    for i in front(points):
        name = " + ".join(f"{pool.names[m].removeprefix('ResNet-')}/{c + 1}" for m, c in sets[i])
        means, labels, costs = pool.cascade(sets[i], "calibrate")
        wanted = float((means[-1].argmax(-1) == labels).mean())
        policy = ka.calibrate(means, labels, costs, accuracy=wanted, method="percentile")
        result = ka.evaluate(policy, *pool.cascade(sets[i], "test"))
        lines += [
            (name, "ensemble", 100 * points[i][1], None),
            (name, "as a cascade", 100 * result.accuracy, None),
            (
                name,
                "MACs of the cascade, % of the ensemble",
                100 * result.mean_cost / costs[-1],
                None,
            ),
        ]
    return lines


def over_thresholds(results):
    """Figure 3: the cascade of each two networks next to each other, over the threshold."""
    pool, lines = Pool(results), []
    for m, (small, large) in enumerate(itertools.pairwise(pool.names)):
        answers = pool.cascade([(m, 0), (m + 1, 0)], "test")
        for threshold in THRESHOLDS:
            leaves = threshold if threshold < 1 else np.inf  # 1 is the ensemble
            result = ka.evaluate(ka.ExitPolicy([leaves, -np.inf]), *answers)
            name = f"{small} + {large}, threshold {threshold:.1f}"
            lines.append(
                (name, f"top-1 at {result.mean_cost:.2f} MMACs", 100 * result.accuracy, None)
            )
    return lines


def confident_parts(results):
    """Figure A: accuracy of the most confident tenth, two tenths, ... of the first network."""
    pool = Pool(results)
    logits, labels = pool.parts["test"]
    lines, most = [], None
    for kind in CONFIDENCES:
        parts, found, most = evaluation.selective_accuracy(
            logits[0][:1], labels, confidence=kind, shares=10
        )
        lines += [
            (kind, f"the first {part:.0%}", 100 * a, None)
            for part, a in zip(parts, found[0], strict=True)
        ]
    return lines + [
        ("upper bound", f"the first {part:.0%}", 100 * a, None)
        for part, a in zip(parts, most[0], strict=True)
    ]


def sizes(results):
    """Figure B: cascades of at most two, three and four networks over budgets."""
    pool, lines = Pool(results), []
    budgets = np.geomspace(1.5 * pool.costs[0], 1.5 * pool.costs[-1], 6)
    for most, budget in itertools.product((2, 3, 4), budgets):
        accuracy, *_ = applied(pool, chosen(pool, budget=budget, max_members=most))
        lines.append((f"at most {most}", f"top-1 at {budget:.1f} MMACs", accuracy, None))
    return lines


def cheaper(results):
    found = [ours for _, name, ours, _ in targets(results) if name == "times fewer MACs"]
    return min(found) > 1


def better(results):
    lines = targets(results)
    alone = [ours for _, name, ours, _ in lines if name == "alone"]
    cascades = [ours for _, name, ours, _ in lines if name == "cascade at its cost"]
    return all(b > a for a, b in zip(alone, cascades, strict=True))


def within_worst_case(results):
    found = [v for _, n, v, _ in worst_cases(results) if n == "with a limit: worst case"]
    return max(found) <= 1 + 1e-9


def ratios_fall(results):
    rows = [v for _, n, v, _ in exit_ratios(results) if n == "leave at 1, %"]
    return min(rows) > 50


NOTE = "Cascades are chosen on held-out images and reported on the test split. FLOPs are MACs."
FORMS = {
    "table 1": (
        "cascades at the cost and at the accuracy of each network",
        targets,
        (
            ("a cascade is more accurate at each network's cost", better),
            ("a cascade is as accurate for fewer MACs", cheaper),
        ),
    ),
    "table 2": (
        "with a limit of the worst case",
        worst_cases,
        (("the worst case is no more than the network's", within_worst_case),),
    ),
    "table C": (
        "where images leave",
        exit_ratios,
        (("most images leave at the first network", ratios_fall),),
    ),
    "figure 2": ("ensembles, and cascades of the same networks", ensembles, ()),
    "figure 3": ("over the threshold", over_thresholds, ()),
    "figure A": ("confidences", confident_parts, ()),
    "figure B": ("two, three and four networks", sizes, ()),
}
TABLES = {
    name + suffix: Table(f"{title}, {data}", rows, lines, claims, NOTE)
    for name, (title, lines, claims) in FORMS.items()
    for suffix, data, rows in (("", "ResNets, CIFAR-10", SMALL), ("-imagenet", "ResNets", RESNETS))
}

if __name__ == "__main__":
    main("cascades", __doc__, TABLES)
