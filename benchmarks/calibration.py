"""Thresholds on real logits: what each method is worth, and how long the search takes.

    make bench-calibration

The logits of the calibrate and the test split of CIFAR-10 are pooled and cut in halves at
random, several times: thresholds are chosen on one half, results come from the other.
"""

import time

import numpy as np

import keras_adaptive as ka
from benchmarks import _rows, common
from keras_adaptive.calibration.calibrate import METHODS, calibrate_budgets
from keras_adaptive.calibration.risk_control import fixed_sequence_test
from keras_adaptive.policy.exit_policy import always_last

REPEATS = 10
SHARES = (0.2, 0.3, 0.4, 0.5, 0.6, 0.8)
RISKS = (
    ("accuracy_drop", "binomial", 0.01),
    ("accuracy_drop", "betting", 0.01),
    ("accuracy_drop", "binomial", 0.02),
    ("disagreement", "binomial", 0.05),
)
SIZES = ((3, 5_000), (5, 5_000), (5, 50_000), (7, 50_000), (11, 5_000), (11, 50_000))


def halves(samples, repeats):
    for seed in range(repeats):
        order = np.random.default_rng(seed).permutation(samples)
        yield order[: samples // 2], order[samples // 2 :]


def methods(logits, labels, costs):
    """Accuracy on new data at equal budgets, and its difference to the geometric rule."""
    budgets = [share * costs[-1] for share in SHARES]
    found = {name: [] for name in (*METHODS, "optimal, no temperature")}
    for first, second in halves(len(labels), REPEATS):
        for name, rows in found.items():
            method, _, plain = name.partition(", ")
            policies = calibrate_budgets(
                logits[:, first],
                labels[first],
                costs,
                budgets,
                method=method,
                temperature=False if plain else None,
            )
            reports = [ka.evaluate(p, logits[:, second], labels[second], costs) for p in policies]
            rows.append([(r.accuracy, r.mean_cost / costs[-1]) for r in reports])
    found = {name: np.array(rows) for name, rows in found.items()}
    result = []
    for i, share in enumerate(SHARES):
        for name, values in found.items():
            gain = values[:, i, 0] - found["geometric"][:, i, 0]
            result.append(
                {
                    "budget_share": share,
                    "method": name,
                    "accuracy": float(values[:, i, 0].mean()),
                    "cost_share": float(values[:, i, 1].mean()),
                    "gain_points": float(100 * gain.mean()),
                    "gain_error": float(100 * gain.std(ddof=1) / np.sqrt(REPEATS)),
                }
            )
    return result


def shared_path(confidences):
    """Policies with one threshold for all exits, from safe to risky (as RC-EENN has)."""
    values = np.quantile(confidences[:-1], np.linspace(1, 0, 99), method="higher")
    exits = len(confidences)
    return [always_last(exits), *(np.append(np.full(exits - 1, t), -np.inf) for t in values)]


def risks(logits, labels, costs):
    """Cost at equal guaranteed risk: one shared threshold against one per exit."""
    answers = logits.argmax(-1)
    right, agrees = answers == labels, answers == answers[-1]
    confidences = ka.policy.confidence(logits)
    result = []
    for metric, bound, level in RISKS:
        values = {"one shared": [], "one per exit": []}
        for seed, (first, second) in enumerate(halves(len(labels), REPEATS)):
            risk = ka.RiskControl(metric, level, 0.05, bound=bound, seed=seed)
            losses = risk.losses(right, right[-1:], agrees)
            several = ka.calibrate(
                logits[:, first], labels[first], costs, risk=risk, temperature=False
            )
            chosen_on, tested_on = (first[rows] for rows in risk.halves(len(first)))
            shared, _ = fixed_sequence_test(
                risk,
                shared_path(confidences[:, chosen_on]),
                confidences[:, tested_on],
                losses[:, tested_on],
            )
            policies = {"one shared": ka.ExitPolicy(shared), "one per exit": several}
            for name, policy in policies.items():
                exits = policy.decide(logits[:, second])
                share = costs[exits].mean() / costs[-1]
                values[name].append((share, losses[exits, second].mean()))
        for name, rows in values.items():
            share, loss = np.array(rows).T
            result.append(
                {
                    "guarantee": f"{metric} <= {level:.0%} ({bound})",
                    "thresholds": name,
                    "cost_share": float(share.mean()),
                    "cost_error_share": float(share.std(ddof=1) / np.sqrt(REPEATS)),
                    "risk_share": float(loss.mean()),
                }
            )
    return result


def times():
    """Seconds of `calibrate` from raw logits, 100 classes; the median of three."""
    rng = np.random.default_rng(0)
    result = []
    for exits, samples in SIZES:
        labels = rng.integers(0, 100, samples)
        logits = rng.normal(size=(exits, samples, 100)).astype("float32")
        logits[:, np.arange(samples), labels] += np.linspace(1, 4, exits)[:, None]
        costs = np.arange(1.0, exits + 1)
        row = {"exits": exits, "samples": samples}
        for method in METHODS:
            seconds = []
            for _ in range(3):
                start = time.perf_counter()
                ka.calibrate(logits, labels, costs, budget=costs.mean(), method=method)
                seconds.append(time.perf_counter() - start)
            row[f"{method} (s)"] = float(np.median(seconds))
        result.append(row)
    return result


def measure():
    model = common.cifar_net()
    logits, labels = zip(*common.answers(model, common.cifar()).values(), strict=True)
    logits, labels = np.concatenate(logits, axis=1), np.concatenate(labels)
    costs = model.exit_costs()
    return {
        "images": len(labels),
        "methods": methods(logits, labels, costs),
        "risks": risks(logits, labels, costs),
        "times": times(),
    }


def page(results):
    titles = {
        "budget_share": "budget",
        "method": "method",
        "accuracy": "accuracy",
        "cost_share": "cost",
        "gain_points": "gain (points)",
        "gain_error": "+-",
    }
    guarantees = {
        "guarantee": "guarantee, delta 0.05",
        "thresholds": "thresholds",
        "cost_share": "cost",
        "cost_error_share": "+-",
        "risk_share": "risk on new data",
    }
    return _rows.page(
        "# Calibration on CIFAR-10 (JPEG), cifar_budgeted_5",
        f"{REPEATS} random cuts of {results.get('images', 10_000):,} held-out images into "
        "one half to choose thresholds on and one to report on. Costs are shares of the full "
        "network's MACs; gains are against the geometric rule on the same cut; +- is the standard "
        "error over cuts.",
        _rows.table(titles, results["methods"]),
        "## At equal guaranteed risk",
        "Both test their path on the same quarter of the images.",
        _rows.table(guarantees, results["risks"]),
        "## Time of one `calibrate`, 100 classes",
        _rows.table(list(results["times"][0]), results["times"]),
    )


if __name__ == "__main__":
    _rows.run("calibration", __doc__, measure, page, repeats=REPEATS)
