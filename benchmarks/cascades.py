"""Cascades of a pool of small networks, self-cascades, and cascades for segmentation.

    make bench-cascades

Networks are trained by benchmarks.pool and benchmarks.camvid, which keep them under
runs/cascades, as this does with its sections; `python -m benchmarks.cascades --row times search`
measures those again. Cascades are chosen on the calibrate split of CIFAR-10 (on the val split of
CamVid) and reported on the test split.
"""

import functools
import time

import keras
import numpy as np

import keras_adaptive as ka
from benchmarks import _rows, camvid, common, pool
from keras_adaptive.calibration.select_cascade import cascade_front, select_cascade
from keras_adaptive.models.segmentation_cascade import SegmentationCascade, mean_iou, split_cells
from keras_adaptive.report import exit_ratio_lines

BATCH = 250
REPEATS = 5
TIMED = 2_000  # images
DEEPER = (("8x1", "8x2"), ("16x1", "16x2"))  # residual networks of 6 and of 10 layers
ENSEMBLE_SHARES = (0.25, 0.5, 0.75)
RESOLUTIONS = ((24, 32), (28, 32), (32, 40))
GRIDS = (((1, 1), 0), ((2, 2), 0), ((2, 2), 16), ((3, 4), 0), ((3, 4), 16))
BIG = {"models": 8, "copies": 4, "samples": 10_000, "classes": 1000}
EFFICIENTNETS = {"B0": 0.39, "B1": 0.69, "B2": 1.0, "B3": 1.8, "B4": 4.4, "B5": 10.3}
EFFICIENTNETS |= {"B6": 19.1, "B7": 37.0}


# ---- CIFAR-10: the form of the paper's tables 1, 2, 4 and C


def applied(choice, networks, logits, labels, costs):
    """What a chosen cascade does on new data."""
    members = [logits[m][c] for m, c in zip(choice.members, choice.copies, strict=True)]
    means = np.cumsum(members, axis=0) / np.arange(1, len(members) + 1)[:, None, None]
    prices = np.cumsum(costs[list(choice.members)])
    report = ka.evaluate(choice.policy, means.astype("float32"), labels, prices)
    return {
        **evaluated(" + ".join(networks[m] for m in choice.members), report, prices[-1]),
        "members": list(choice.members),
        "copies": list(choice.copies),
        "thresholds": choice.policy.thresholds[:-1].tolist(),
    }


def evaluated(name, report, worst):
    """Returns a line of a table from what `evaluate` returned."""
    return fixed(name, report.accuracy, report.mean_cost, report.exit_fractions, worst)


def fixed(name, accuracy, cost, ratios=(1.0,), worst=None):
    """Returns a line of a table."""
    return {
        "cascade": name,
        "accuracy": float(accuracy),
        "mean_macs": float(cost),
        "worst_macs": float(cost if worst is None else worst),
        "exit_ratios": [float(r) for r in ratios],
    }


def singles(networks, parts, costs):
    rows = []
    for m, name in enumerate(networks):
        test, calibrate = (
            float((z[m][0].argmax(-1) == y).mean()) for z, y in (parts["test"], parts["calibrate"])
        )
        rows.append({**fixed(name, test, costs[m]), "calibrate_accuracy": calibrate})
    return rows


def ensembles(networks, parts, costs, rows):
    """The best pair or more of members, everybody asked everything, at most this costly."""
    logits, labels = parts["calibrate"]
    keys = [(m, c) for m in range(len(networks)) for c in range(len(logits[m]))]
    means = {}
    for key in keys:
        for other in [k for k in keys if k > key]:
            both = logits[key[0]][key[1]] + logits[other[0]][other[1]]
            means[key, other] = float((both.argmax(-1) == labels).mean())
    result = []
    for row in rows[1:]:
        fits = [k for k in means if costs[k[0][0]] + costs[k[1][0]] <= row["mean_macs"] * 1.001]
        if not fits:
            continue
        first, second = max(fits, key=means.get)
        test, answers = parts["test"]
        both = test[first[0]][first[1]] + test[second[0]][second[1]]
        name = f"{networks[first[0]]} + {networks[second[0]]}, both always"
        accuracy = (both.argmax(-1) == answers).mean()
        found = fixed(name, accuracy, costs[first[0]] + costs[second[0]], (0.0, 1.0))
        result.append({"single": row["cascade"], **found})
    return result


def against_singles(networks, parts, costs, rows):
    """At the cost and at the accuracy of each single network; with and without a worst case."""
    chosen = []
    for m, row in enumerate(rows):
        aims = {
            "same cost": {"budget": costs[m]},
            "same accuracy": {"accuracy": row["calibrate_accuracy"]},
            "same accuracy, worst case": {
                "accuracy": row["calibrate_accuracy"],
                "worst_case": costs[m],
            },
        }
        for aim, how in aims.items():
            choice = select_cascade(*parts["calibrate"], costs, **how)
            found = applied(choice, networks, *parts["test"], costs)
            found |= {"single": networks[m], "aim": aim}
            found["gain_points"] = 100 * (found["accuracy"] - row["accuracy"])
            found["saving"] = row["mean_macs"] / found["mean_macs"]
            chosen.append(found)
    return chosen


def self_cascades(networks, splits):
    """One network at two resolutions, at the cost of the second look and at the accuracy."""
    result = []
    for name in networks:
        for small, large in RESOLUTIONS:
            network = pool.member(name, 0)
            model = ka.build_self_cascade(network, (small, large), input_shape=(32, 32, 3))
            costs = model.exit_costs()
            data = common.answers(model, splits)
            logits, labels = data["calibrate"]
            best = max((z.argmax(-1) == labels).mean() for z in logits)
            policy = ka.calibrate(logits, labels, costs, accuracy=best)
            report = ka.evaluate(policy, *data["test"], costs)
            small_accuracy, both_accuracy = report.exit_accuracies.tolist()
            found = evaluated(f"{name} at {small}, {large}", report, costs[-1])
            found |= {"accuracy_small": small_accuracy, "accuracy_both": both_accuracy}
            result.append(found)
    return result


def timed(rows, splits):
    """Measured time beside MACs: each single network and what replaces it, in turns."""
    x = splits.arrays("test")[0][:TIMED]
    runs = {}
    for name in pool.MEMBERS:
        network = pool.member(name, 0)
        single = ka.AdaptivePredictor(ka.build_cascade([network]), ka.ExitPolicy([0.0]))
        runs[name, "single"] = single
        for row in rows:
            if row["single"] == name and row["aim"] == "same accuracy":
                members = [
                    pool.member(list(pool.MEMBERS)[i], c)
                    for i, c in zip(row["members"], row["copies"], strict=True)
                ]
                policy = ka.ExitPolicy([*row["thresholds"], -np.inf])
                runs[name, "cascade"] = ka.AdaptivePredictor(ka.build_cascade(members), policy)
    calls = {key: functools.partial(p.predict, x, batch_size=BATCH) for key, p in runs.items()}
    seconds = common.in_turns(calls, REPEATS)
    result = []
    for name in pool.MEMBERS:
        found = {"single": name}
        for kind in ("single", "cascade"):
            values = seconds[name, kind] / len(x) * 1e6
            found[f"{kind}_us"] = float(np.median(values))
            found[f"{kind}_spread"] = float(np.ptp(values))
        found["time_ratio"] = found["single_us"] / found["cascade_us"]
        chosen = [r for r in rows if r["single"] == name and r["aim"] == "same accuracy"][0]
        found["work_ratio"] = chosen["saving"]
        result.append(found)
    return result


# ---- the search itself


def search_times():
    """Seconds to search 4,680 ordered choices with 100 thresholds a member."""
    rng = np.random.default_rng(0)
    samples, classes = BIG["samples"], BIG["classes"]
    labels = rng.integers(0, classes, samples)
    ease = rng.normal(size=samples).astype("float32")
    shared = rng.normal(size=(samples, classes)).astype("float32")
    logits = []
    for model in range(BIG["models"]):
        own = rng.normal(size=(BIG["copies"], samples, classes)).astype("float32")
        own += shared
        own[:, np.arange(samples), labels] += 4.5 + 0.5 * model + 2 * ease
        logits.append(1.5 * own)
    costs = np.array(list(EFFICIENTNETS.values()))
    middle = float((logits[4][0].argmax(-1) == labels).mean())
    rows = []
    for name, search in {
        "best for a budget": lambda: select_cascade(logits, labels, costs, budget=costs[4]),
        "cheapest for an accuracy": lambda: select_cascade(logits, labels, costs, accuracy=middle),
        "whole front": lambda: cascade_front(logits, labels, costs),
    }.items():
        start = time.perf_counter()
        found = search()
        size = len(found) if isinstance(found, list) else 1
        rows.append({"search": name, "found": size, "seconds": time.perf_counter() - start})
    return rows


# ---- EfficientNets: MACs


def efficientnet_costs():
    rows = []
    for name, published in EFFICIENTNETS.items():
        model = getattr(keras.applications, f"EfficientNet{name}")(weights=None)
        macs = float(ka.costs.exit_costs(model.inputs, model.outputs)[0]) / 1e9
        rows.append({"network": name, "published_B": published, "counted_B": macs})
        rows[-1]["difference_share"] = macs / published - 1
    return rows


# ---- CamVid: the form of the paper's table 6


def segmentation():
    networks = {name: camvid.network(name) for name in camvid.NETWORKS}
    images, labels = camvid.load("test")
    chosen_on = camvid.load("val")

    def line(name, cascade, policy, **more):
        start = time.perf_counter()
        found = cascade.predict(images, policy)
        ms = 1000 * (time.perf_counter() - start) / len(images)
        right = (found.labels == labels)[labels >= 0].mean()
        ratios = [(found.exits == k).mean() for k in range(len(cascade.members))]
        return {
            **fixed(name, right, found.costs.mean(), ratios, found.costs.max()),
            "miou_accuracy": mean_iou(found.labels, labels, camvid.CLASSES),
            "ms": ms,
            **more,
        }

    rows = []
    for name, network in networks.items():
        whole = SegmentationCascade([network])
        rows.append(line(name, whole, ka.ExitPolicy([0.0]), grid="-", margin=0))
    small, large = (
        mean_accuracy(SegmentationCascade([network]), *chosen_on) for network in networks.values()
    )
    wanted = {"large's": large, "halfway": (small + large) / 2}
    for grid, margin in GRIDS:
        cascade = SegmentationCascade(list(networks.values()), grid=grid, margin=margin)
        logits, costs = cascade.predict_with_costs(chosen_on[0])
        policy, aim = best_policy(logits, split_cells(chosen_on[1], grid), costs, wanted)
        cascade.predict(images, policy)  # traces every size it meets
        how = {"grid": f"{grid[0]} x {grid[1]}", "margin": cascade.margin, "aim": aim}
        how["worst_macs"] = float(costs[-1] * grid[0] * grid[1])
        rows.append(line("small + large", cascade, policy, **how))
    return rows


def mean_accuracy(cascade, images, labels):
    found = cascade.predict(images, ka.ExitPolicy([0.0] * len(cascade.members)))
    return float((found.labels == labels)[labels >= 0].mean())


def best_policy(logits, cells, costs, wanted):
    """The cheapest policy for the first of several accuracies that can be reached."""
    for aim, accuracy in wanted.items():
        try:
            return ka.calibrate(logits, cells, costs, accuracy=accuracy, temperature=False), aim
        except ValueError:
            continue
    policy = ka.calibrate(logits, cells, costs, budget=costs[-1], temperature=False)
    return policy, "highest"


def baselines(splits):
    """Ensembles of ever deeper networks with dynamic evaluation, as MSDNet's baselines."""
    rows = []
    for names in DEEPER:
        members = [pool.member(name, 0, splits) for name in names]
        ensemble = ka.build_cascade(members, combine="mean_probs")
        costs = ensemble.exit_costs()
        data = common.answers(ensemble, splits)
        name = " + ".join(names)
        full = ka.evaluate(ka.ExitPolicy([np.inf] * len(names)), *data["test"], costs)
        rows.append(evaluated(f"{name}: all", full, costs[-1]))
        for share in ENSEMBLE_SHARES:
            budget = max(share * costs[-1], costs[0])
            policy = ka.calibrate(*data["calibrate"], costs, budget=budget, method="geometric")
            found = ka.evaluate(policy, *data["test"], costs)
            rows.append(evaluated(f"{name}: {share:.0%}", found, costs[-1]))
    return rows


# ---- sections, kept as they are measured


def chosen(splits):
    networks = list(pool.MEMBERS)
    parts = {
        split: (pool.logits(split, splits), splits.arrays(split)[1])
        for split in ("calibrate", "test")
    }
    costs = np.array(
        [ka.costs.exit_costs(m.inputs, m.outputs)[0] for m in map(pool.build, networks)]
    )
    rows = singles(networks, parts, costs)
    return {
        "singles": rows,
        "ensembles": ensembles(networks, parts, costs, rows),
        "cascades": against_singles(networks, parts, costs, rows),
    }


def main():
    """Measures the sections that are not kept, and those named, and writes."""
    sections = {
        "chosen": lambda: chosen(splits),
        "self_cascades": lambda: self_cascades(list(pool.MEMBERS), splits),
        "baselines": lambda: baselines(splits),
        "efficientnets": efficientnet_costs,
        "segmentation": segmentation,
        "times": lambda: timed(found["chosen"]["cascades"], splits),
        "search": search_times,
    }
    given = _rows.parser(__doc__, sections).parse_args()
    if given.table:
        _rows.publish_again("cascades", page)
        return
    splits, found = pool.data(), {}
    kept = _rows.Rows(pool.FOLDER, train=pool.TRAIN_IMAGES, recipe=pool.RECIPE)
    for name, measure in sections.items():
        again = name in (given.row or ())
        found[name] = (
            kept.save(f"section_{name}", measure())
            if again
            else kept.measure(f"section_{name}", measure)
        )
    results = {name: row["rows"] for name, row in found.items() if "rows" in row}
    results = {key: found["chosen"][key] for key in ("singles", "ensembles", "cascades")} | results
    _rows.publish("cascades", results, page(results), found.values())


def page(results):
    plain = {"cascade": "network", "accuracy": "accuracy", "mean_macs": "mean MACs"}
    worst = {"worst_macs": "worst MACs"}
    looks = {"accuracy_small": "accuracy, first look", "accuracy_both": "accuracy, both looks"}
    chosen = results["cascades"]
    compared = {"single": "single", "aim": "aim", **plain, **worst}
    compared |= {"gain_points": "gain (points)", "saving": "saving (x)"}
    times = {
        "single": "single",
        "single_us": "single (us)",
        "single_spread": "range",
        "cascade_us": "cascade (us)",
        "cascade_spread": "range ",
        "time_ratio": "saving in time (x)",
        "work_ratio": "saving in MACs (x)",
    }
    cells = {"cascade": "network", "grid": "grid", "margin": "margin"}
    segmented = {**cells, "aim": "aim", "miou_accuracy": "mIoU", "accuracy": "pixel accuracy"}
    segmented |= {"mean_macs": "mean MACs", **worst, "ms": "ms per image"}
    efficientnets = {
        "network": "network",
        "published_B": "published (B)",
        "counted_B": "counted (B)",
        "difference_share": "difference",
    }
    return _rows.page(
        "# Cascades",
        f"CIFAR-10 (JPEG): {pool.COPIES} copies of {len(pool.MEMBERS)} small residual networks, "
        f"all trained alike on the same {pool.TRAIN_IMAGES:,} images for {pool.RECIPE.epochs} "
        "epochs. Cascades are chosen on 5,000 images of the calibrate split and reported on "
        "5,000 of the test split, where the standard error of an accuracy is about 0.6 points.",
        "## Single networks, and pairs that always answer together",
        _rows.table({**plain, **worst}, [*results["singles"], *results["ensembles"]]),
        "## The best cascade at the cost, and at the accuracy, of each single network",
        "Gains in accuracy and savings in mean MACs against the single network, both on the "
        "test split. With a worst case, no image may cost more than the single network.",
        _rows.table(compared, chosen),
        "## Exit fractions",
        exit_ratio_lines([*chosen, *results["self_cascades"]], {"cascade": "cascade", **worst}),
        "## Self-cascades",
        "Thresholds for the better accuracy, on the calibrate split, of the first look and the "
        "mean of both. Images of CIFAR-10 have 32 pixels: enlarged to 40 they show nothing new.",
        _rows.table({**plain, **worst, **looks}, results["self_cascades"]),
        "## Ensembles of growing depth",
        "The MSDNet paper's baseline: residual networks of one width and growing depth, the mean "
        "of their probabilities. `all`: everybody is asked everything. Otherwise dynamic "
        "evaluation with MSDNet's thresholds, for a share of the ensemble's cost.",
        exit_ratio_lines(results["baselines"], {**plain, **worst}),
        "## Measured time",
        f"Microseconds per image, {TIMED:,} images in batches of {BATCH}, median of {REPEATS} "
        "turns and their range, single networks and cascades of the same accuracy in turns.",
        _rows.table(times, results["times"]),
        "## CamVid: the whole image, or only its cells that are not confident",
        "180 x 240 pixels, 11 classes, 367 training images, two small networks trained for "
        f"{camvid.RECIPE.epochs} epochs. Thresholds are chosen on the val split for the pixel "
        "accuracy of the large network; where no thresholds reach it, for the one halfway between "
        "the networks; else for the highest. Results come from the test split. Time is a single "
        "pass over the 233 test images, on a busy machine.",
        _rows.table(segmented, [{"aim": None, **row} for row in results["segmentation"]]),
        exit_ratio_lines(results["segmentation"], cells),
        "## MACs of the EfficientNets",
        _rows.table(efficientnets, results["efficientnets"]),
        "## Time of the search",
        f"{BIG['models']} models, {BIG['copies']} copies each, up to 4 members (4,680 ordered "
        f"choices, a million combinations of thresholds each), {BIG['samples']:,} generated "
        f"samples of {BIG['classes']:,} classes.",
        _rows.table(
            {"search": "search", "found": "cascades", "seconds": "seconds"}, results["search"]
        ),
    )


if __name__ == "__main__":
    main()
