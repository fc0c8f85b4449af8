"""The form that a report has: what it is checked for before anything is made of it."""

import re

from keras_adaptive._files import is_utf8, read_json, shown

LARGEST = 16 * 2**20  # bytes of report.json
LONGEST = 10_000  # characters of one text
MOST_ROWS, MOST_TEXTS = 1000, 100_000  # of one list
RESULTS = ("policy", "exits", "result", "budgets")
PICTURE = re.compile(r"(pictures/)?\w[\w-]*\.png", re.ASCII)
DATE = re.compile(r"\d{4}-\d\d-\d\d", re.ASCII)
DIGEST = re.compile(r"[0-9a-f]{64}")
RISKS = {
    "accuracy_drop": "the accuracy lost against the full network",
    "disagreement": "the fraction of predictions that differ from the full network's",
    "error": "the error rate",
}


def read_report(path):
    """Returns the report in a JSON file.

    Raises:
        ValueError: If it is no report.
    """
    report = read_json(path, "A report", LARGEST)
    check_report(report, f"path={path}")
    return report


def check_report(report, received="report"):
    """Checks that a report holds what is made of it, of the right types and within bounds.

    Args:
        report: Dictionary.
        received: String, how an error names the report.

    Raises:
        ValueError: If it does not; the message names the entry.
    """
    check_form(report, REPORT, "report", received)
    if "exits" in report and not all(report.get(key) for key in RESULTS):
        raise ValueError(
            f"`report` must hold all or none of {', '.join(RESULTS)}. Received: {received}"
        )


def check_form(value, form, where, received):
    """Checks that a value has a form: a dictionary, a list of one form, or a kind of value.

    Args:
        value: What JSON holds.
        form: As `REPORT`.
        where: String, how an error names the value.
        received: String, how an error names what was given.

    Raises:
        ValueError: If it does not; the message names the entry.
    """
    if isinstance(form, tuple):  # a type of value: what it must be, and the test of it
        must, fits = form
        if not fits(value):
            _refuse(where, must, value, received)
    elif isinstance(form, list):
        most = MOST_TEXTS if form[0] is TEXT else MOST_ROWS
        if not isinstance(value, list) or len(value) > most:
            _refuse(where, f"a list of at most {most:,}", value, received)
        for number, item in enumerate(value):
            check_form(item, form[0], f"{where}[{number}]", received)
    else:
        if not isinstance(value, dict):
            _refuse(where, "an object", value, received)
        for key, inner in form.items():
            name = key.rstrip("?")
            if key == ANY:
                for given, item in value.items():
                    check_form(given, TEXT, f"a name in {where}", received)
                    check_form(item, inner, f"{where}.{shown(given, 50)}", received)
            elif name in value:
                check_form(value[name], inner, f"{where}.{name}", received)
            elif not key.endswith("?"):
                _refuse(f"{where}.{name}", "given", None, received)


def _refuse(where, must, value, received):
    raise ValueError(f"`{where}` must be {must}. Received: {received} ({where}={shown(value)})")


def _is_text(value):
    return isinstance(value, str) and len(value) <= LONGEST and is_utf8(value)


def _is_number(value):
    return isinstance(value, (int, float)) and not isinstance(value, bool) and abs(value) < 1e30


def _is_count(value):
    return isinstance(value, int) and not isinstance(value, bool) and 0 <= value < 10**15


def _is_plain(value):
    """Returns whether a value is what JSON holds, with texts and numbers as above."""
    if isinstance(value, dict):
        return all(_is_text(k) and _is_plain(v) for k, v in value.items())
    if isinstance(value, (list, tuple)):
        return all(map(_is_plain, value))
    return value is None or isinstance(value, bool) or _is_text(value) or _is_number(value)


def _matches(pattern):
    return lambda value: isinstance(value, str) and bool(pattern.fullmatch(value))


def _is(known):
    return repr(known), lambda value: type(value) is type(known) and value == known


def _or_none(form):
    must, fits = form
    return f"{must}, or null", lambda value: value is None or fits(value)


ANY = "*"  # every key
TEXT = (f"a text of at most {LONGEST:,} characters", _is_text)
NUMBER = ("a finite number below 1e30", _is_number)
COUNT = ("an integer of at least 0", _is_count)
PLAIN = ("made of texts, finite numbers, lists and objects", _is_plain)
SIDE = ("a positive integer", lambda value: _is_count(value) and value > 0)
TRUTH = ("true or false", lambda value: isinstance(value, bool))
THRESHOLD = (
    'a number, "+inf" or "-inf"',
    lambda value: _is_number(value) or value in ("+inf", "-inf"),
)
SIZE = ("null, or height and width", lambda v: v is None or _are_sides(v))
FILE = ("the name of a .png file in pictures/", _matches(PICTURE))
NAME = ("a text of 1 to 200 characters", lambda v: _is_text(v) and 0 < len(v) <= 200)
AMOUNT = ("a finite number of at least 0", lambda v: _is_number(v) and v >= 0)
SHARE = ("a number between 0 and 1", lambda v: _is_number(v) and 0 <= v <= 1)
GUARANTEE = {
    "metric": (f"one of {tuple(RISKS)}", lambda v: isinstance(v, str) and v in RISKS),
    "level": NUMBER,
    "delta": NUMBER,
    "bound": TEXT,
    "tested_samples": COUNT,
    "passed": TRUTH,
    "p_value": _or_none(NUMBER),
}


def _are_sides(value):
    return isinstance(value, (list, tuple)) and len(value) == 2 and all(map(SIDE[1], value))


def _is_guarantee(value):
    if value is None:
        return True
    try:
        check_form(value, GUARANTEE, "", "")
    except ValueError:
        return False
    return value["p_value"] is not None or not value["passed"]


ROW = {
    "policy": TEXT,
    "budget?": _or_none(NUMBER),
    "accuracy": SHARE,
    "mean_macs": NUMBER,
    "worst_macs": NUMBER,
    "share_of_full": NUMBER,
    "exit_ratios": [NUMBER],
    "thresholds?": [_or_none(THRESHOLD)],
}
TIMES = dict.fromkeys(("p50", "p95", "p99"), AMOUNT)
WAYS = ("alone_ms", "until_here_ms", "staged_ms", "classify_ms", "predict_ms")
MEASUREMENT = {  # as tflite/README.md describes it
    "format": _is("keras_adaptive.measurement"),
    "version": _is(1),
    "sha256": ("64 hexadecimal digits, the digest of the file", _matches(DIGEST)),
    "file": TEXT,
    "bytes": COUNT,
    "date": ("a date, as 2026-11-30", _matches(DATE)),
    "machine": NAME,
    "system": NAME,
    "interpreter": NAME,
    "backend": NAME,
    "threads": SIDE,
    "runs": SIDE,
    "stages": [
        {
            "stage": COUNT,
            "exit": COUNT,
            **dict.fromkeys(WAYS[:2], TIMES),
            **{f"{way}?": TIMES for way in WAYS[2:]},
        }
    ],
    "deadlines": [{"deadline_ms": AMOUNT, "elapsed_ms": TIMES, "late": SHARE, "mean_exit": AMOUNT}],
    "memory_mb?": AMOUNT,
    "baseline?": {"file": TEXT, "bytes": COUNT, "ms": TIMES, "memory_mb?": AMOUNT},
}
DEADLINE = ("deadline_ms", "accuracy", "median_ms", "p99_ms", "mean_exit", "stopped_by_deadline")
REPORT = {
    "run": {
        "model": TEXT,
        "data": TEXT,
        "training": TEXT,
        "splits": {ANY: COUNT},
        "class_names?": [TEXT],
        "preprocessing?": {"mean": [NUMBER], "std": [NUMBER]},
        "parameters?": COUNT,
        "costs?": [NUMBER],
        "network?": {"builder": TEXT, "arguments": {ANY: PLAIN}},
        "limits?": [TEXT],
        "source?": {
            "data": TEXT,
            "data_dir?": _or_none(TEXT),
            "cache_dir?": _or_none(TEXT),
            "image_size?": SIZE,
            "train_limit?": _or_none(SIDE),
        },
    },
    "commands": [TEXT],
    "machine": {"date": TEXT, ANY: PLAIN},
    "policy?": {
        "wanted": TEXT,
        "method": _or_none(TEXT),
        "confidence": TEXT,
        "temperatures?": [NUMBER],
        "worst_case": _or_none(NUMBER),
        "samples": _or_none(COUNT),
        "guarantee": ("null, or a guarantee with all its numbers", _is_guarantee),
    },
    "exits?": [
        {
            "exit": COUNT,
            "macs": NUMBER,
            "accuracy_alone": SHARE,
            "share_leaving": NUMBER,
            "threshold": _or_none(THRESHOLD),
            "calibration_error?": _or_none(NUMBER),
            "failure_auroc?": _or_none(NUMBER),
            "aurc?": _or_none(NUMBER),
        }
    ],
    "result?": ROW,
    "budgets?": [ROW],
    "device?": {
        "file": TEXT,
        "quantize?": _or_none(TEXT),
        "bytes": COUNT,
        "threads": COUNT,
        "images": COUNT,
        "same_exit": COUNT,
        "different_exit": COUNT,
        "near_threshold?": COUNT,
        "tolerance?": NUMBER,
        "different_label?": COUNT,
        "accuracy?": SHARE,
        "thresholds?": [THRESHOLD],
        "deadlines": [{**dict.fromkeys(DEADLINE, NUMBER), "accuracy": SHARE}],
    },
    "measurements?": [MEASUREMENT],
    "pictures?": {ANY: {"title": TEXT, "file": FILE}},
}
