"""`calibrate` and `evaluate`: choose thresholds, and report results on held-out images."""

import numpy as np

from keras_adaptive import report as reports
from keras_adaptive.calibration.calibrate import calibrate as choose
from keras_adaptive.calibration.risk_control import RiskControl
from keras_adaptive.cli import checks
from keras_adaptive.cli import folder as runs
from keras_adaptive.evaluation import accuracy_cost_curve

BUDGET = 0.5
SHORT = 12  # letters of a class name that fit over an image
IMAGES = 2000  # of the test split, from which the picture shows some


def calibrate(options):
    with runs.opened(options.run) as run:
        report, model, splits = run.open()
        costs = _costs(options, model)
        runs.say(f"calibrate: thresholds from {splits.size('calibrate'):,} images")
        policy, wanted = _choose(options, costs, _predict(model, splits, "calibrate"))
        policy.unit, policy.network = "macs", model.network
        with run.change() as new:
            _keep(new, report, policy, wanted)
            new.write_report(report, options.command)
    thresholds = ", ".join(f"{t:.4g}" for t in policy.thresholds)
    print(f"{options.run / 'policy.json'}: thresholds {thresholds}")


def evaluate(options):
    with runs.opened(options.run) as run:
        report, model, splits = run.open()
        costs = _costs(options, model)
        chooses = checks.has_target(options) or not (run.folder / "policy.json").exists()
        policy = None if chooses else run.policy(model=model)
        runs.say(f"calibrate: thresholds from {splits.size('calibrate'):,} images")
        calibration = _predict(model, splits, "calibrate")
        if chooses:
            policy, wanted = _choose(options, costs, calibration)
            policy.unit, policy.network = "macs", model.network
        runs.say(f"evaluate: results on {splits.size('test'):,} test images")
        test = _predict(model, splits, "test")
        # "pcee" has no budgets
        how = {"method": "optimal" if options.method == "pcee" else options.method}
        curve = accuracy_cost_curve(*calibration, costs, test=(*test, costs), **how)
        with run.change() as new:
            if chooses:
                _keep(new, report, policy, wanted)
            else:
                new.follow(report, policy)
            report.update(
                exits=reports.exit_table(policy, *test, costs),
                result=reports.result_row("policy.json", policy, test, costs),
                budgets=reports.budget_table(calibration, test, costs, **how),
            )
            sizes = report["run"]["splits"]  # of what was evaluated, where the data has changed
            sizes |= {name: splits.size(name) for name in sizes if name != "train"}
            runs.say("evaluate: pictures")
            _draw(new, report, splits, policy, test, curve)
            new.write_report(report, options.command)
    result = report["result"]
    print(
        f"{result['accuracy']:.2%} accuracy with {result['share_of_full']:.1%} of the full "
        f"network's MACs; the full network: {report['budgets'][-1]['accuracy']:.2%}. "
        f"{options.run / 'report.html'}"
    )


def _costs(options, model):
    """Returns the costs of the exits, and checks that what is wanted can be had for them."""
    costs = model.exit_costs()
    checks.check_budgets(options, costs)
    return costs


def _predict(model, splits, split):
    x, labels = splits.arrays(split)
    verbose = "auto" if runs.on_terminal() else 0
    logits, _ = model.predict_with_costs(x, batch_size=500, verbose=verbose)
    return logits, labels


def _choose(options, costs, calibration):
    """Returns the policy that is wanted, and in words what is wanted."""
    how, full = {"method": options.method}, float(costs[-1])
    if options.worst_case is not None:
        how["worst_case"] = options.worst_case
    elif options.worst_case_share is not None:
        how["worst_case"] = options.worst_case_share * full
    if options.risk is not None:
        how["risk"] = RiskControl(options.metric, level=options.risk, delta=options.delta)
        wanted = f"{options.metric} of at most {options.risk:g}"
    elif options.accuracy is not None:
        how["accuracy"] = options.accuracy
        wanted = f"accuracy {options.accuracy:.2%} on the calibrate split at the lowest cost"
    else:
        how["budget"] = options.budget
        if options.budget_share is not None:
            how["budget"] = options.budget_share * full
        elif options.budget is None:
            how["budget"] = reports.feasible_budget(BUDGET, costs)
        wanted = f"budget {how['budget']:,.0f} MACs"
    return choose(*calibration, costs, **how), wanted


def _keep(new, report, policy, wanted):
    """Keeps a policy; what was made with another one is left out, and the same stays."""
    policy.save(new.path("policy.json"))
    old = new.run.folder / "policy.json"
    if not old.exists() or old.read_bytes() != new.path("policy.json").read_bytes():
        new.forget(report)
    report["policy"] = reports.policy_facts(policy, wanted)


def _draw(new, report, splits, policy, test, curve):
    logits, labels = test
    exits = policy.decide(logits)
    answers = logits.argmax(axis=-1)[exits, np.arange(len(exits))]
    images, _ = splits.images("test", min(IMAGES, len(exits)))
    shown = len(images)
    rows = reports.merged(report["budgets"])
    pictures = {
        "curve": (
            "accuracy against cost",
            lambda plotting: plotting.accuracy_cost_curve(curve),
        ),
        "shares": (
            "exit fractions of every policy",
            lambda plotting: plotting.exit_fractions(
                [row["exit_ratios"] for row in rows],
                [row["policy"] for row in rows],
                samples=len(labels),
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
                columns=8 if max(map(len, splits.class_names)) <= SHORT else 5,
            ),
        ),
    }
    history = new.run.history()
    learned = (splits.size("train"), splits.size("calibrate"))
    if history is not None:
        pictures["history"] = (
            "accuracy of every exit during training",
            lambda plotting: plotting.exit_history(history, samples=learned),
        )
    drawn = report.pop("pictures", {})
    new.dropped |= {f"pictures/{name}.png" for name in drawn if name != "latency"}
    report["pictures"] = {name: drawn[name] for name in ("latency",) if name in drawn}
    for name, (title, picture) in pictures.items():
        runs.draw(new, report, name, title, picture)
