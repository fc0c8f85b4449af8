"""`calibrate` and `evaluate`: choose thresholds, and report results on held-out images."""

import numpy as np

from keras_adaptive import report as reports
from keras_adaptive.calibration.calibrate import calibrate as choose
from keras_adaptive.calibration.risk_control import RiskControl
from keras_adaptive.cli import folder as runs
from keras_adaptive.evaluation import accuracy_cost_curve

BUDGET = 0.5
IMAGES = 2000  # of the test split, from which the picture shows some


def calibrate(options):
    _check(options)
    report, model, splits = runs.open_run(options.run)
    runs.say(f"calibrate: thresholds from {splits.size('calibrate'):,} images")
    _choose(options, report, model.exit_costs(), _predict(model, splits, "calibrate"))
    runs.write_report(options.run, report, options.command)
    thresholds = ", ".join(f"{t:.4g}" for t in runs.open_policy(options.run).thresholds)
    print(f"{options.run / 'policy.json'}: thresholds {thresholds}")


def evaluate(options):
    _check(options)
    report, model, splits = runs.open_run(options.run)
    costs = model.exit_costs()
    runs.say(f"calibrate: thresholds from {splits.size('calibrate'):,} images")
    calibration = _predict(model, splits, "calibrate")
    if _target(options) is None and (options.run / "policy.json").exists():
        policy = runs.open_policy(options.run)
    else:
        policy = _choose(options, report, costs, calibration)
    runs.say(f"evaluate: results on {splits.size('test'):,} test images")
    test = _predict(model, splits, "test")
    how = {"method": options.method}
    curve = accuracy_cost_curve(*calibration, costs, test=(*test, costs), **how)
    report.update(
        exits=reports.exit_table(policy, *test, costs),
        result=reports.result_row("policy.json", policy, test, costs),
        budgets=reports.budget_table(calibration, test, costs, **how),
    )
    runs.say("evaluate: pictures")
    _draw(options.run, report, splits, policy, test, curve)
    runs.write_report(options.run, report, options.command)
    result = report["result"]
    print(
        f"{result['accuracy']:.2%} accuracy with {result['share_of_full']:.1%} of the full "
        f"network's MACs; the full network: {report['budgets'][-1]['accuracy']:.2%}. "
        f"{options.run / 'report.html'}"
    )


def _predict(model, splits, split):
    x, labels = splits.arrays(split)
    verbose = "auto" if runs.on_terminal() else 0
    logits, _ = model.predict_with_costs(x, batch_size=500, verbose=verbose)
    return logits, labels


def _check(options):
    for name in ("budget", "worst_case"):
        value = getattr(options, name)
        if value is not None and not 0 < value <= 1:
            flag = f"--{name.replace('_', '-')}"
            raise ValueError(
                f"`{flag}` must be a share of the full cost, above 0 and at most 1. "
                f"Received: {flag} {value}"
            )


def _target(options):
    """Returns the name of the target that was given, or `None`."""
    names = ("budget", "accuracy", "risk")
    return next((name for name in names if getattr(options, name) is not None), None)


def _choose(options, report, costs, calibration):
    """Chooses and saves thresholds, and removes what was made with earlier ones."""
    target, how = _target(options) or "budget", {"method": options.method}
    if options.worst_case is not None:
        how["worst_case"] = reports.feasible_budget(options.worst_case, costs)
    if target == "risk":
        how["risk"] = RiskControl(options.metric, level=options.risk, delta=options.delta)
        wanted = f"{options.metric} of at most {options.risk:g}"
    elif target == "accuracy":
        how["accuracy"] = options.accuracy
        wanted = f"accuracy {options.accuracy:.2%} on the calibrate split at the lowest cost"
    else:
        share = BUDGET if options.budget is None else options.budget
        how["budget"] = reports.feasible_budget(share, costs)
        wanted = f"budget {how['budget']:,.0f} MACs"
    policy = choose(*calibration, costs, **how)
    runs.forget(options.run, report)
    policy.save(options.run / "policy.json")
    report["policy"] = reports.policy_facts(policy, wanted)
    return policy


def _draw(folder, report, splits, policy, test, curve):
    logits, labels = test
    exits = policy.decide(logits)
    answers = logits.argmax(axis=-1)[exits, np.arange(len(exits))]
    images, _ = splits.images("test", min(IMAGES, len(exits)))
    shown = len(images)
    rows = report["budgets"]
    pictures = {
        "curve": (
            "accuracy against cost",
            lambda plotting: plotting.accuracy_cost_curve(curve),
        ),
        "shares": (
            "exit fractions of every policy",
            lambda plotting: plotting.exit_fractions(
                [row["exit_ratios"] for row in rows], [row["policy"] for row in rows]
            ),
        ),
        "reliability": (
            "accuracy against confidence (reliability diagram)",
            lambda plotting: plotting.reliability(logits, labels, policy.temperatures),
        ),
        "images": (
            "images by exit, from easy to hard",
            lambda plotting: plotting.images_by_exit(
                images,
                exits[:shown],
                labels=labels[:shown],
                answers=answers[:shown],
                class_names=splits.class_names,
            ),
        ),
    }
    if (folder / "history.csv").exists():
        pictures["history"] = (
            "accuracy of every exit during training",
            lambda plotting: plotting.exit_history(folder / "history.csv"),
        )
    for name, (title, picture) in pictures.items():
        runs.draw(folder, report, name, title, picture)
