"""A run's report and its model card: one dictionary, written for people in several forms."""

import json
from pathlib import Path

from keras_adaptive.files import write_whole
from keras_adaptive.report import document
from keras_adaptive.report.tables import exit_ratio_table

EXITS = {
    "exit": "exit",
    "macs": "MACs",
    "accuracy_alone": "accuracy alone",
    "share_leaving": "share leaving",
    "threshold": "threshold",
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
RISKS = {
    "accuracy_drop": "the accuracy lost against the full network",
    "disagreement": "the share answered otherwise than by the full network",
    "error": "the share answered wrongly",
}
LIMITS = (
    "It knows the classes listed and answers with one of them whatever it is shown.",
    "Thresholds hold for images like those of the calibrate split. On images of another kind it "
    "may be sure and wrong; choose thresholds anew on some of them, and look at the results.",
    "Multiply-accumulates are not time: measure on the device that matters.",
)


def write(folder, report):
    """Writes `report.json`, `report.md`, `report.html` and `card.md` into a folder."""
    folder = Path(folder)
    write_whole(folder / "report.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
    parts = report_parts(report)
    write_whole(folder / "report.md", document.markdown(parts))
    write_whole(folder / "report.html", document.html(parts, folder))
    write_whole(folder / "card.md", card(report))


def markdown(report):
    """Returns the report as Markdown; parts that are not there are left out."""
    return document.markdown(report_parts(report))


def card(report):
    """Returns the model card of a run as Markdown."""
    return document.markdown(card_parts(report))


def report_parts(report):
    """Returns the report as a list of parts, see `document`."""
    run = report["run"]
    facts = [f"command: `{command}`" for command in report["commands"]]
    facts += [f"{key}: {value}" for key, value in report["machine"].items()]
    return [
        ("title", f"{run['model']} on {run['data']}"),
        ("list", [*facts, *_training(run)]),
        *_results(report),
        *_device(report),
    ]


def card_parts(report):
    """Returns the model card as a list of parts, see `document`."""
    run = report["run"]
    what = [f"classes: {', '.join(run['class_names'])}"] if "class_names" in run else []
    if "preprocessing" in run:
        mean, std = (_numbers(run["preprocessing"][key]) for key in ("mean", "std"))
        what.append(f"pixels: (pixel / 255 - mean) / std, with mean {mean} and std {std}")
    if "parameters" in run:
        what.append(f"parameters: {run['parameters']:,}")
    if "network" in run:
        arguments = ", ".join(f"{k}={v!r}" for k, v in run["network"]["arguments"].items())
        what.append(f"built by `{run['network']['builder']}({arguments})`")
    limits = [*run.get("limits", ()), *LIMITS]
    return [
        ("title", f"Model card: {run['model']} on {run['data']}"),
        (
            "text",
            "A network with several exits: it answers as soon as it is sure enough, and spends "
            "less on easy images.",
        ),
        ("list", [*what, *_training(run), f"date: {report['machine']['date']}"]),
        *_results(report),
        *_device(report),
        ("heading", "Limits"),
        ("list", limits),
    ]


def _training(run):
    splits = ", ".join(f"{name} {size:,}" for name, size in run["splits"].items())
    return [f"splits: {splits}", f"training: {run['training']}"]


def _results(report):
    if "exits" not in report:
        return []
    return [
        ("heading", "Exits"),
        ("text", f"On the test split. {policy_sentence(report['policy'])}"),
        ("table", report["exits"], EXITS),
        ("text", _result_sentence(report["result"])),
        *_guarantee(report["policy"]["guarantee"]),
        *_picture(report, "history"),
        *_picture(report, "reliability"),
        ("heading", "Budgets"),
        ("text", "Thresholds chosen on the calibrate split, results on the test split."),
        ("table", report["budgets"], BUDGETS),
        *_picture(report, "curve"),
        ("heading", "Exit ratios"),
        ("text", "The share of the test split that leaves at each exit."),
        ("table", *exit_ratio_table(report["budgets"], {"policy": "policy"})),
        *_picture(report, "shares"),
        *_picture(report, "images"),
    ]


def policy_sentence(policy):
    """Returns in words how the thresholds were chosen."""
    chosen = f"Thresholds of policy.json: {policy['wanted']}"
    if policy["method"]:
        chosen += f", method {policy['method']}"
    chosen += f", confidence {policy['confidence']}"
    if policy["worst_case"] is not None:
        chosen += f", at most {policy['worst_case']:,.0f} for any sample"
    if policy["samples"]:
        chosen += f", on {policy['samples']:,} samples that trained nothing"
    return chosen + "."


def _result_sentence(result):
    return (
        f"With these thresholds {_percent(result['accuracy'])} are right at "
        f"{_percent(result['share_of_full'])} of the full network's cost: "
        f"{result['mean_macs']:,.0f} MACs on average, {result['worst_macs']:,.0f} at most."
    )


def _guarantee(guarantee):
    if not guarantee:
        return []
    what = f"{RISKS[guarantee['metric']]} is at most {_percent(guarantee['level'])}"
    if not guarantee["passed"]:
        return [("text", f"Promise: none. No policy passed the test that {what}.")]
    return [
        (
            "text",
            f"Promise: on new images of the same kind, {what}, with probability "
            f"{_percent(1 - guarantee['delta'])} over the draw of the calibration data "
            f"({guarantee['bound']} test, p = {guarantee['p_value']:.2g}, on "
            f"{guarantee['tested_samples']:,} samples).",
        )
    ]


def _device(report):
    if "device" not in report:
        return []
    device = report["device"]
    kind = f" ({device['quantize']})" if device.get("quantize") else ""
    parts = [
        ("heading", "Device"),
        (
            "text",
            f"{device['file']}{kind}, {device['bytes']:,} bytes, {device['threads']} thread(s). "
            f"Device and host leave at the same exit on {device['same_exit']:,} of "
            f"{device['images']:,} test images{_others(device)}."
            + (f" Accuracy {_percent(device['accuracy'])}." if "accuracy" in device else ""),
        ),
        ("text", "The same images under three deadlines, thresholds as above:"),
        ("table", device["deadlines"], DEADLINES),
    ]
    return [*parts, *_picture(report, "latency")]


def _picture(report, key):
    found = report.get("pictures", {}).get(key)
    return [("picture", found["title"], found["file"])] if found else []


def _others(device):
    if not device["different_exit"] or "near_threshold" not in device:
        return ""
    return (
        f"; of the {device['different_exit']:,} others, {device['near_threshold']:,} lie within "
        f"{device['tolerance']:g} of a threshold"
    )


def _percent(share):
    return f"{100 * share:.4g} %"


def _numbers(values):
    return "[" + ", ".join(f"{value:.4f}" for value in values) + "]"
