"""Cascades of a pool of small networks, self-cascades, and cascades for segmentation.

    make bench-cascades

Networks are trained by benchmarks.pool and benchmarks.camvid, which keep them under
runs/cascades, as this does with its sections; `python -m benchmarks.cascades times search`
measures those again. Cascades are chosen on the calibrate split of CIFAR-10 (on the val split of
CamVid) and reported on the test split.
"""

import json
import sys
import time

import keras
import numpy as np

import keras_adaptive as ka
from benchmarks import camvid, common, pool
from keras_adaptive.files import write_whole
from keras_adaptive.report import exit_ratio_lines, table
from keras_adaptive.segmentation import SegmentationCascade, cut, mean_iou
from keras_adaptive.selection import cascade_front, select_cascade

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
        "cascade": " + ".join(networks[m] for m in choice.members),
        "accuracy": report.accuracy,
        "mean_macs": report.mean_cost,
        "worst_macs": float(prices[-1]),
        "exit_ratios": report.exit_fractions.tolist(),
        "members": list(choice.members),
        "copies": list(choice.copies),
        "thresholds": choice.policy.thresholds[:-1].tolist(),
    }


def singles(networks, parts, costs):
    rows = []
    for m, name in enumerate(networks):
        accuracies = {
            split: float((z[m][0].argmax(-1) == y).mean()) for split, (z, y) in parts.items()
        }
        rows.append(
            {
                "cascade": name,
                "accuracy": accuracies["test"],
                "calibrate_accuracy": accuracies["calibrate"],
                "mean_macs": float(costs[m]),
                "worst_macs": float(costs[m]),
                "exit_ratios": [1.0],
            }
        )
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
        cost = float(costs[first[0]] + costs[second[0]])
        result.append(
            {
                "single": row["cascade"],
                "cascade": f"{networks[first[0]]} + {networks[second[0]]}, both always",
                "accuracy": float((both.argmax(-1) == answers).mean()),
                "mean_macs": cost,
                "worst_macs": cost,
                "exit_ratios": [0.0, 1.0],
            }
        )
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
            data = {}
            for split in ("calibrate", "test"):
                x, y = splits.arrays(split)
                data[split] = np.stack(model.predict(x, batch_size=BATCH, verbose=0)), y
            logits, labels = data["calibrate"]
            best = max((z.argmax(-1) == labels).mean() for z in logits)
            policy = ka.calibrate(logits, labels, costs, accuracy=best)
            report = ka.evaluate(policy, *data["test"], costs)
            result.append(
                {
                    "cascade": f"{name} at {small}, {large}",
                    "accuracy": report.accuracy,
                    "accuracy_small": float(report.exit_accuracies[0]),
                    "accuracy_both": float(report.exit_accuracies[1]),
                    "mean_macs": report.mean_cost,
                    "worst_macs": float(costs[-1]),
                    "exit_ratios": report.exit_fractions.tolist(),
                }
            )
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
    seconds = {key: [] for key in runs}
    for predictor in runs.values():
        predictor.predict(x, batch_size=BATCH)  # traces every size it meets
    for _ in range(REPEATS):
        for key, predictor in runs.items():
            start = time.perf_counter()
            predictor.predict(x, batch_size=BATCH)
            seconds[key].append(time.perf_counter() - start)
    result = []
    for name in pool.MEMBERS:
        row = {"single": name}
        for kind in ("single", "cascade"):
            values = np.array(seconds[name, kind]) / len(x) * 1e6
            row[f"{kind}_us"] = float(np.median(values))
            row[f"{kind}_spread"] = float(np.ptp(values))
        row["time_ratio"] = row["single_us"] / row["cascade_us"]
        chosen = [r for r in rows if r["single"] == name and r["aim"] == "same accuracy"][0]
        row["work_ratio"] = chosen["saving"]
        result.append(row)
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
    rows, answers = [], {}
    for name, network in networks.items():
        whole = SegmentationCascade([network])
        start = time.perf_counter()
        found = whole.predict(images, ka.ExitPolicy([0.0]))
        rows.append(
            {
                "cascade": name,
                "grid": "-",
                "margin": 0,
                "miou_accuracy": mean_iou(found.labels, labels, camvid.CLASSES),
                "accuracy": float((found.labels == labels)[labels >= 0].mean()),
                "mean_macs": float(found.costs.mean()),
                "worst_macs": float(found.costs.max()),
                "ms": 1000 * (time.perf_counter() - start) / len(images),
                "exit_ratios": [1.0],
            }
        )
        answers[name] = found.labels
    small, large = (
        mean_accuracy(SegmentationCascade([network]), *chosen_on) for network in networks.values()
    )
    wanted = {"large's": large, "halfway": (small + large) / 2}
    for grid, margin in GRIDS:
        cascade = SegmentationCascade(list(networks.values()), grid=grid, margin=margin)
        logits, costs = cascade.predict_with_costs(chosen_on[0])
        cells = cut(chosen_on[1], grid)
        policy, aim = best_policy(logits, cells, costs, wanted)
        cascade.predict(images, policy)  # traces every size it meets
        start = time.perf_counter()
        found = cascade.predict(images, policy)
        rows.append(
            {
                "cascade": "small + large",
                "grid": f"{grid[0]} x {grid[1]}",
                "margin": cascade.margin,
                "aim": aim,
                "miou_accuracy": mean_iou(found.labels, labels, camvid.CLASSES),
                "accuracy": float((found.labels == labels)[labels >= 0].mean()),
                "mean_macs": float(found.costs.mean()),
                "worst_macs": float(costs[-1] * grid[0] * grid[1]),
                "ms": 1000 * (time.perf_counter() - start) / len(images),
                "exit_ratios": [float((found.exits == k).mean()) for k in range(len(networks))],
            }
        )
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
        data = {}
        for split in ("calibrate", "test"):
            x, y = splits.arrays(split)
            data[split] = np.stack(ensemble.predict(x, batch_size=BATCH, verbose=0)), y
        name = " + ".join(names)
        full = ka.evaluate(ka.ExitPolicy([np.inf] * len(names)), *data["test"], costs)
        rows.append(_row(f"{name}: all", full.accuracy, costs[-1], costs[-1], full.exit_fractions))
        for share in ENSEMBLE_SHARES:
            budget = max(share * costs[-1], costs[0])
            policy = ka.calibrate(*data["calibrate"], costs, budget=budget, method="geometric")
            found = ka.evaluate(policy, *data["test"], costs)
            rows.append(
                _row(
                    f"{name}: {share:.0%}",
                    found.accuracy,
                    found.mean_cost,
                    costs[-1],
                    found.exit_fractions,
                )
            )
    return rows


def _row(name, accuracy, mean, worst, ratios):
    return {
        "cascade": name,
        "accuracy": accuracy,
        "mean_macs": float(mean),
        "worst_macs": float(worst),
        "exit_ratios": [float(r) for r in ratios],
    }


def main(anew):
    """Computes what is not kept under runs/cascades, and the sections named, and writes."""
    splits = pool.data()
    networks = list(pool.MEMBERS)

    def kept(name, compute):
        path = pool.FOLDER / f"section_{name}.json"
        if name in anew or not path.exists():
            print(name, flush=True)
            write_whole(path, json.dumps(compute(), indent=1))
        return json.loads(path.read_text())

    def chosen():
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

    results = kept("chosen", chosen)
    results |= {
        "self_cascades": kept("self_cascades", lambda: self_cascades(networks, splits)),
        "baselines": kept("baselines", lambda: baselines(splits)),
        "efficientnets": kept("efficientnets", efficientnet_costs),
        "segmentation": kept("segmentation", segmentation),
        "times": kept("times", lambda: timed(results["cascades"], splits)),
        "search": kept("search", search_times),
    }
    common.write("cascades", results, lines(results), "make bench-cascades")


def lines(results):
    plain = {"cascade": "network", "accuracy": "accuracy", "mean_macs": "mean MACs"}
    worst = {"worst_macs": "worst MACs"}
    chosen = results["cascades"]
    compared = {"single": "single", "aim": "aim", **plain, **worst}
    compared |= {"gain_points": "gain (points)", "saving": "saving (x)"}
    return [
        "# Cascades",
        "",
        f"CIFAR-10 (JPEG): {pool.COPIES} copies of {len(pool.MEMBERS)} small residual networks, "
        f"all trained alike on the same {pool.TRAIN_IMAGES:,} images for {pool.RECIPE.epochs} "
        "epochs. Cascades are chosen on 5,000 images of the calibrate split and reported on "
        "5,000 of the test split, where the standard error of an accuracy is about 0.6 points.",
        "",
        "## Single networks, and pairs that always answer together",
        "",
        *table([*results["singles"], *results["ensembles"]], {**plain, **worst}),
        "",
        "## The best cascade at the cost, and at the accuracy, of each single network",
        "",
        "Gains in accuracy and savings in mean MACs against the single network, both on the "
        "test split. With a worst case, no image may cost more than the single network.",
        "",
        *table(chosen, compared),
        "",
        "## Exit ratios",
        "",
        *exit_ratio_lines([*chosen, *results["self_cascades"]], {"cascade": "cascade", **worst}),
        "",
        "## Self-cascades",
        "",
        "Thresholds for the better accuracy, on the calibrate split, of the first look and the "
        "mean of both. Images of CIFAR-10 have 32 pixels: enlarged to 40 they show nothing new.",
        "",
        *table(
            results["self_cascades"],
            {
                **plain,
                **worst,
                "accuracy_small": "accuracy, first look",
                "accuracy_both": "accuracy, both looks",
            },
        ),
        "",
        "## Ensembles of growing depth",
        "",
        "The MSDNet paper's baseline: residual networks of one width and growing depth, the mean "
        "of their probabilities. `all`: everybody is asked everything. Otherwise dynamic "
        "evaluation with MSDNet's thresholds, for a share of the ensemble's cost.",
        "",
        *exit_ratio_lines(results["baselines"], {**plain, **worst}),
        "",
        "## Measured time",
        "",
        f"Microseconds an image, {TIMED:,} images in batches of {BATCH}, median of {REPEATS} turns "
        "and their range, single networks and cascades of the same accuracy in turns.",
        "",
        *table(
            results["times"],
            {
                "single": "single",
                "single_us": "single (us)",
                "single_spread": "range",
                "cascade_us": "cascade (us)",
                "cascade_spread": "range ",
                "time_ratio": "saving in time (x)",
                "work_ratio": "saving in MACs (x)",
            },
        ),
        "",
        "## CamVid: the whole image, or its unsure cells",
        "",
        "180 x 240 pixels, 11 classes, 367 training images, two small networks trained for "
        f"{camvid.RECIPE.epochs} epochs. Thresholds are chosen on the val split for the pixel "
        "accuracy of the large network; where no thresholds reach it, for the one halfway between "
        "the networks; else for the highest. Results come from the test split. Time is a single "
        "pass over the 233 test images, on a busy machine.",
        "",
        *table(
            [{"aim": None, **row} for row in results["segmentation"]],
            {
                "cascade": "network",
                "grid": "grid",
                "margin": "margin",
                "aim": "aim",
                "miou_accuracy": "mIoU",
                "accuracy": "pixel accuracy",
                "mean_macs": "mean MACs",
                "worst_macs": "worst MACs",
                "ms": "ms an image",
            },
        ),
        "",
        *exit_ratio_lines(
            results["segmentation"],
            {"cascade": "network", "grid": "grid", "margin": "margin"},
        ),
        "",
        "## MACs of the EfficientNets",
        "",
        *table(
            results["efficientnets"],
            {
                "network": "network",
                "published_B": "published (B)",
                "counted_B": "counted (B)",
                "difference_share": "difference",
            },
        ),
        "",
        "## Time of the search",
        "",
        f"{BIG['models']} models, {BIG['copies']} copies each, up to 4 members (4,680 ordered "
        f"choices, a million combinations of thresholds each), {BIG['samples']:,} generated "
        f"samples of {BIG['classes']:,} classes.",
        "",
        *table(results["search"], {"search": "search", "found": "cascades", "seconds": "seconds"}),
    ]


if __name__ == "__main__":
    main(sys.argv[1:])
