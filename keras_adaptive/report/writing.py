"""A run's report and its model card: one dictionary, written for people in several forms."""

import json
from pathlib import Path

from keras_adaptive._files import write_whole
from keras_adaptive.report import document, measurements
from keras_adaptive.report.form import RISKS, check_report
from keras_adaptive.report.tables import exit_ratio_table, interval, merged

EXITS = {
    "exit": "exit",
    "macs": "MACs",
    "accuracy_alone": "accuracy alone (95 % interval)",
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
    "accuracy": "accuracy (95 % interval)",
    "mean_macs": "mean MACs",
    "share_of_full": "share of full cost",
    "worst_macs": "worst MACs",
}
DEADLINES = {
    "deadline_ms": "deadline (ms)",
    "accuracy": "accuracy (95 % interval)",
    "median_ms": "median (ms)",
    "p99_ms": "p99 (ms)",
    "mean_exit": "mean exit",
    "stopped_by_deadline": "stopped by deadline",
}
WORDS = (
    "accuracy: the share of images that get the right class. In brackets its 95 % interval: where, "
    "in 95 of 100 cases, the accuracy on very many such images lies.",
    "budget: what an image may cost on average. It is kept on the calibrate split; on other images "
    "the cost comes out a little higher or lower.",
    "confidence: how confident an answer is; max_prob goes from 0 to 1. An image leaves at the "
    "first exit whose confidence reaches the threshold; at -inf all leave, at +inf none.",
    "exit: a place where the network can answer, numbered from 0; the last one is the full "
    "network. Accuracy alone: if every image left there. Exit fraction: how many do.",
    "MACs: multiply-accumulates of convolutions and dense layers, the unit of cost. Not time.",
    "policy: what decides where an image leaves; its thresholds are in policy.json.",
    "split: train is for learning, calibrate for choosing thresholds, test for these results.",
)
DEVICE_WORDS = (
    "deadline: after so many milliseconds the best answer so far counts.",
    "p99: the time that 99 of 100 images stay below; the median is that of 50.",
)
MOST_CLASSES = 20  # that the report names
DIFFERS = 0.01  # share of the images on which a quantized file may differ without a note
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
        *_opening(report),
        ("links", _files(report)),
        *_results(report),
        *_device(report),
        *measurements.parts(report),
        *_words(report),
        ("heading", "How it was made"),
        ("list", [*facts, *_classes(run, MOST_CLASSES), *_training(run)]),
        ("heading", "Go on"),
        ("text", "RUN stands for the folder of this report."),
        ("list", _next_commands(report)),
    ]


def card_parts(report):
    """Returns the model card as a list of parts, see `document`."""
    check_report(report)
    run = report["run"]
    what = _classes(run)
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
        *_opening(report),
        ("list", [*what, *_training(run), f"date: {report['machine']['date']}"]),
        *_results(report),
        *_device(report),
        *measurements.parts(report),
        *_words(report),
        ("heading", "Limits"),
        ("list", [*run.get("limits", ()), *LIMITS]),
    ]


def _opening(report):
    """Returns the result in two sentences, and what must not be overlooked."""
    if "exits" not in report:
        return [("text", "Trained, and not evaluated yet.")]
    result, full, images = report["result"], report["exits"][-1], _images(report)
    number = f"On {images:,} test images, the" if images else "The"
    text = (
        f"{number} network has an accuracy of {_accuracy(result['accuracy'], images)} at "
        f"{_share(result['share_of_full'])} of the cost of the full network, which has "
        f"{_accuracy(full['accuracy_alone'], images)}."
    )
    if images:
        low, high = interval(full["accuracy_alone"], images)
        text += " In brackets: 95 % intervals."
        if result["accuracy"] != full["accuracy_alone"] and low <= result["accuracy"] <= high:
            text += " The difference may be chance: one lies in the interval of the other."
    return [("text", text), *_disagreement(report.get("device"))]


def _files(report):
    files = [("model card", "card.md"), ("all numbers", "report.json")]
    if "policy" in report:
        files.append(("policy: the thresholds", "policy.json"))
    if "device" in report:
        files.append(("file for the device", "model.tflite"))
    return files


def _classes(run, most=None):
    names = run.get("class_names", [])
    if not names:
        return []
    more = f" and {len(names[most:]):,} more" if most and names[most:] else ""
    return [f"classes: {', '.join(names[:most])}{more}"]


def _words(report):
    if "exits" not in report:
        return []
    return [
        ("heading", "Words"),
        ("list", [*WORDS, *(DEVICE_WORDS if "device" in report else ())]),
    ]


def _next_commands(report):
    """Returns what can be done next, as pairs of what it does and its command."""
    if "exits" not in report:
        return [("choose thresholds, and see what they give", "keras-adaptive evaluate RUN")]
    found = [
        ("spend less, or more", "keras-adaptive evaluate RUN --budget-share 0.3"),
        (
            "guarantee that at most 2 % of accuracy is lost",
            "keras-adaptive evaluate RUN --risk 0.02",
        ),
    ]
    if "device" not in report:
        return [("write the file for a device", "keras-adaptive export RUN"), *found]
    return [
        ("classify a picture", "keras-adaptive run RUN/model.tflite picture.png"),
        ("make the file smaller", "keras-adaptive export RUN --quantize int8"),
        (
            "add what a device measured",
            "keras-adaptive report RUN --measurement phone.json",
        ),
        *found,
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
        (
            "table",
            [
                {**row, **{name: _decimals(row[name]) for name in [*CONFIDENCE][1:]}}
                for row in exits
            ],
            CONFIDENCE,
        ),
    ]


def _training(run):
    splits = ", ".join(f"{name} {size:,}" for name, size in run["splits"].items())
    return [f"splits: {splits}", f"training: {run['training']}"]


def _results(report):
    if "exits" not in report:
        return []
    result, images = report["result"], _images(report)
    exits = [
        {
            **row,
            "accuracy_alone": _accuracy(row["accuracy_alone"], images),
            "share_leaving": _share(row["share_leaving"]),
        }
        for row in report["exits"]
    ]
    budgets = merged(report["budgets"])
    rows = [
        {
            **row,
            "accuracy": _accuracy(row["accuracy"], images),
            "mean_macs": _digits(row["mean_macs"]),
            "share_of_full": _share(row["share_of_full"]),
            "exit_ratios": [_share(share) for share in row["exit_ratios"]],
        }
        for row in budgets
    ]
    return [
        ("heading", "Exits"),
        ("text", f"On the test split. {policy_sentence(report['policy'])}"),
        ("table", exits, EXITS),
        (
            "text",
            f"With these thresholds an image costs {_digits(result['mean_macs'])} MACs on average, "
            f"{result['worst_macs']:,.0f} at most.",
        ),
        *_guarantee(report["policy"]["guarantee"]),
        *_confidence(report["exits"]),
        *_picture(report, "history"),
        *_picture(report, "reliability"),
        ("heading", "Budgets"),
        ("text", "Thresholds chosen on the calibrate split, results on the test split."),
        ("table", rows, BUDGETS),
        *_why_merged(report, budgets),
        *_picture(report, "curve"),
        ("heading", "Exit fractions"),
        ("text", "The fraction of the test split that leaves at each exit."),
        ("table", *exit_ratio_table(rows, {"policy": "policy"})),
        *_picture(report, "shares"),
        *_picture(report, "images"),
    ]


def _why_merged(report, budgets):
    """Returns why there are fewer rows than policies, where there are."""
    rows = report["budgets"]
    if len(rows) == len(budgets):
        return []
    if len({str(row.get("thresholds", number)) for number, row in enumerate(rows)}) > len(budgets):
        reason = "they give the same on these test images"
    else:
        reason = "their thresholds are the same"
        if report["policy"]["method"] == "optimal":
            reason += (
                ", as the larger budget holds none that are more accurate on the calibrate split"
            )
    return [("text", f"Policies that share a row: {reason}.")]


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
    images = device["images"]
    kind = f" ({device['quantize']})" if device.get("quantize") else ""
    moved = ""
    if device.get("thresholds"):
        numbers = ", ".join(t if isinstance(t, str) else f"{t:.4g}" for t in device["thresholds"])
        moved = f" Its thresholds, chosen again for what it computes: {numbers}."
    threads = "1 thread" if device["threads"] == 1 else f"{device['threads']} threads"
    text = (
        f"{device['file']}{kind}, {device['bytes']:,} bytes, {threads}. "
        f"Device and host leave at the same exit on {device['same_exit']:,} of "
        f"{images:,} test images"
    )
    if device["different_exit"] and "near_threshold" in device:
        text += (
            f"; of the {device['different_exit']:,} others, {device['near_threshold']:,} lie "
            f"within {device['tolerance']:g} (log-odds) of a threshold"
        )
    if "different_label" in device:
        text += f", and give the same answer on {images - device['different_label']:,}"
    accuracy = f" Accuracy {_accuracy(device['accuracy'], images)}." if "accuracy" in device else ""
    rows = [
        {
            **row,
            "accuracy": _accuracy(row["accuracy"], images),
            "mean_exit": f"{row['mean_exit']:.2f}",
            "stopped_by_deadline": _share(row["stopped_by_deadline"]),
            **{name: _digits(row[name]) for name in ("deadline_ms", "median_ms", "p99_ms")},
        }
        for row in device["deadlines"]
    ]
    return [
        ("heading", "Device"),
        ("text", f"{text}.{accuracy}{moved}"),
        *_disagreement(device),
        ("text", "The same images under three deadlines, thresholds as above:"),
        ("table", rows, DEADLINES),
        *_picture(report, "latency"),
    ]


def _disagreement(device):
    """Returns a note where the file differs from Keras by more than rounding explains."""
    if not device or not device["images"]:
        return []
    images, kind = device["images"], device.get("quantize")
    exits = device["different_exit"] - device.get("near_threshold", 0)
    answers = device.get("different_label", 0)
    if max(exits, answers if kind else 0) <= (images * DIFFERS if kind else 0):
        return []
    if not kind:
        text = (
            f"{device['file']} leaves at another exit than Keras on {exits:,} of {images:,} test "
            "images that are not near a threshold. Find out why before you use it."
        )
    else:
        text = (
            f"{device['file']} ({kind}) is not equal to Keras: of {images:,} test images, "
            f"{answers:,} ({_share(answers / images)}) get another answer and {exits:,} "
            f"({_share(exits / images)}) leave at another exit. Judge it by its own accuracy, "
            "under Device."
        )
    return [("note", text)]


def _picture(report, key):
    found = report.get("pictures", {}).get(key)
    return [("picture", found["title"], found["file"])] if found else []


def _images(report):
    """Returns how many test images there were; 0 where it is not known."""
    return report["run"]["splits"].get("test", 0)


def _accuracy(share, images):
    """Returns a share with its 95 % interval."""
    if not images:
        return _share(share)
    low, high = interval(share, images)
    return f"{_share(share)} ({100 * low:.1f} to {100 * high:.1f})"


def _share(share):
    return f"{100 * share:.1f} %"


def _digits(number):
    """Returns a measured number to three digits, the rest is noise."""
    rounded = float(f"{number:.3g}")
    return f"{rounded:,.0f}" if abs(rounded) >= 100 else f"{rounded:.3g}"


def _decimals(number):
    return None if number is None else f"{number:.3f}"


def _percent(share):
    return f"{100 * share:.4g} %"
