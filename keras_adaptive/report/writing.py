"""A run's report and its model card: one dictionary, written for people in several forms."""

import json
from pathlib import Path

from keras_adaptive._files import write_whole
from keras_adaptive.report import document, measurements
from keras_adaptive.report.form import RISKS, check_report
from keras_adaptive.report.tables import exit_ratio_table

EXITS = {
    "exit": "exit",
    "macs": "MACs",
    "accuracy_alone": "accuracy alone",
    "share_leaving": "exit fraction",
    "threshold": "threshold",
}
CONFIDENCE = {
    "exit": "exit",
    "calibration_error": "calibration error",
    "failure_auroc": "AUROC of failures",
    "aurc": "area under risk-coverage",
}
BUDGETS = {
    "policy": "policy",
    "accuracy": "accuracy",
    "mean_macs": "mean MACs",
    "share_of_full": "share of full cost",
    "worst_macs": "worst MACs",
}
DEADLINES = {
    "deadline_ms": "deadline (ms)",
    "accuracy": "accuracy",
    "median_ms": "median (ms)",
    "p99_ms": "p99 (ms)",
    "mean_exit": "mean exit",
    "stopped_by_deadline": "stopped by deadline",
}
LIMITS = (
    "The network knows the listed classes only, and predicts one of them for any image.",
    "Thresholds hold for images like those of the calibrate split. On other images it may "
    "be confident and wrong: calibrate again on some of them, and evaluate.",
    "MACs are not latency: measure on the device that matters.",
)


def write(folder, report):
    """Writes `report.json`, `report.md`, `report.html` and `card.md` into a folder.

    Raises:
        ValueError: If the report does not hold what is written; then nothing is.
    """
    folder, text = Path(folder), json.dumps(report, indent=2, allow_nan=False) + "\n"
    report = json.loads(text)  # as whoever reads it will have it
    texts = {
        "report.json": text,
        "report.md": markdown(report),
        "report.html": document.html(report_parts(report), folder),
        "card.md": card(report),
    }
    for name, text in texts.items():
        write_whole(folder / name, text)


def markdown(report):
    """Returns the report as Markdown; parts that are not there are left out."""
    return document.markdown(report_parts(report))


def card(report):
    """Returns the model card of a run as Markdown."""
    return document.markdown(card_parts(report))


def report_parts(report):
    """Returns the report as a list of parts, see `document`."""
    check_report(report)
    run = report["run"]
    facts = [("command", command) for command in report["commands"]]
    facts += [f"{key}: {value}" for key, value in report["machine"].items()]
    return [
        ("title", f"{run['model']} on {run['data']}"),
        ("list", [*facts, *_training(run)]),
        *_results(report),
        *_device(report),
        *measurements.parts(report),
    ]


def card_parts(report):
    """Returns the model card as a list of parts, see `document`."""
    check_report(report)
    run = report["run"]
    what = [f"classes: {', '.join(run['class_names'])}"] if "class_names" in run else []
    if "preprocessing" in run:
        mean, std = ([round(x, 4) for x in run["preprocessing"][key]] for key in ("mean", "std"))
        what.append(("pixels", f"(pixel / 255 - {mean}) / {std}"))
    if "parameters" in run:
        what.append(f"parameters: {run['parameters']:,}")
    if "network" in run:
        arguments = ", ".join(f"{k}={v!r}" for k, v in run["network"]["arguments"].items())
        what.append(("built by", f"{run['network']['builder']}({arguments})"))
    return [
        ("title", f"Model card: {run['model']} on {run['data']}"),
        (
            "text",
            "A network with early exits: it stops at the first exit that is confident enough, so "
            "that easy images cost less.",
        ),
        ("list", [*what, *_training(run), f"date: {report['machine']['date']}"]),
        *_results(report),
        *_device(report),
        *measurements.parts(report),
        ("heading", "Limits"),
        ("list", [*run.get("limits", ()), *LIMITS]),
    ]


def _confidence(exits):
    if not all(name in row for row in exits for name in CONFIDENCE):
        return []  # dense outputs, or a report of before
    return [
        ("heading", "Confidence"),
        (
            "text",
            "Calibration error: how far confidence is from accuracy, 0 at best. AUROC: how often "
            "a right answer is more confident than a wrong one, 1 at best, 0.5 is chance. Risk-"
            "coverage: the share of errors among the most confident answers, on average over how "
            "many are taken.",
        ),
        ("table", exits, CONFIDENCE),
    ]


def _training(run):
    splits = ", ".join(f"{name} {size:,}" for name, size in run["splits"].items())
    return [f"splits: {splits}", f"training: {run['training']}"]


def _results(report):
    if "exits" not in report:
        return []
    result = report["result"]
    sentence = (
        f"With these thresholds: {_percent(result['accuracy'])} accuracy with "
        f"{_percent(result['share_of_full'])} of the full network's MACs "
        f"({result['mean_macs']:,.0f} on average, {result['worst_macs']:,.0f} at most)."
    )
    return [
        ("heading", "Exits"),
        ("text", f"On the test split. {policy_sentence(report['policy'])}"),
        ("table", report["exits"], EXITS),
        ("text", sentence),
        *_guarantee(report["policy"]["guarantee"]),
        *_confidence(report["exits"]),
        *_picture(report, "history"),
        *_picture(report, "reliability"),
        ("heading", "Budgets"),
        ("text", "Thresholds chosen on the calibrate split, results on the test split."),
        ("table", report["budgets"], BUDGETS),
        *_picture(report, "curve"),
        ("heading", "Exit fractions"),
        ("text", "The fraction of the test split that leaves at each exit."),
        ("table", *exit_ratio_table(report["budgets"], {"policy": "policy"})),
        *_picture(report, "shares"),
        *_picture(report, "images"),
    ]


def policy_sentence(policy):
    """Returns a sentence on how the thresholds were chosen."""
    chosen = f"Thresholds of policy.json: {policy['wanted']}"
    if policy["method"]:
        chosen += f", method {policy['method']}"
    chosen += f", confidence {policy['confidence']}"
    if policy["worst_case"] is not None:
        chosen += f", at most {policy['worst_case']:,.0f} for any sample"
    if policy["samples"]:
        chosen += f", on {policy['samples']:,} held-out samples"
    return chosen + "."


def _guarantee(guarantee):
    if not guarantee:
        return []
    what = f"{RISKS[guarantee['metric']]} is at most {_percent(guarantee['level'])}"
    if not guarantee["passed"]:
        return [("text", f"No guarantee that {what}: no policy passed the test.")]
    text = (
        f"Guarantee: on new images of the same kind, {what}, with probability "
        f"{_percent(1 - guarantee['delta'])} over the draw of the calibration data "
        f"({guarantee['bound']} test, p = {guarantee['p_value']:.2g}, on "
        f"{guarantee['tested_samples']:,} samples)."
    )
    return [("text", text)]


def _device(report):
    if "device" not in report:
        return []
    device = report["device"]
    kind = f" ({device['quantize']})" if device.get("quantize") else ""
    moved = ""
    if device.get("thresholds"):
        numbers = ", ".join(t if isinstance(t, str) else f"{t:.4g}" for t in device["thresholds"])
        moved = f" Its thresholds, chosen again for what it computes: {numbers}."
    text = (
        f"{device['file']}{kind}, {device['bytes']:,} bytes, {device['threads']} thread(s). "
        f"Device and host leave at the same exit on {device['same_exit']:,} of "
        f"{device['images']:,} test images"
    )
    if device["different_exit"] and "near_threshold" in device:
        text += (
            f"; of the {device['different_exit']:,} others, {device['near_threshold']:,} lie "
            f"within {device['tolerance']:g} (log-odds) of a threshold"
        )
    accuracy = f" Accuracy {_percent(device['accuracy'])}." if "accuracy" in device else ""
    return [
        ("heading", "Device"),
        ("text", f"{text}.{accuracy}{moved}"),
        ("text", "The same images under three deadlines, thresholds as above:"),
        ("table", device["deadlines"], DEADLINES),
        *_picture(report, "latency"),
    ]


def _picture(report, key):
    found = report.get("pictures", {}).get(key)
    return [("picture", found["title"], found["file"])] if found else []


def _percent(share):
    return f"{100 * share:.4g} %"
