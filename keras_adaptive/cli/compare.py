"""`compare`: the results of several runs, side by side."""

from keras_adaptive.cli import tables
from keras_adaptive.cli.folder import opened
from keras_adaptive.report.tables import interval


def compare(options):
    """Prints the results of several runs, and returns them."""
    names = [str(folder) for folder in options.runs]
    if len(set(names)) < len(names):
        raise ValueError(f"The runs must differ. Received: {' '.join(names)}")
    found = [_facts(folder) for folder in options.runs]
    tables.show("runs", COLUMNS, [[column(run) for column in COLUMNS.values()] for run in found])
    budgets = _budgets(found)
    rows = [[name, *(_accuracy(cell) for cell in cells)] for name, cells in budgets.items()]
    if rows:
        tables.show("accuracy within a mean cost, of the test images", ("policy", *names), rows)
    if len({(run["data"], run["images"]) for run in found}) > 1:
        print("The runs have different data: their accuracies do not compare.")
    elif len(found) > 1 and found[0]["images"]:
        print("In brackets is the 95 % interval of one accuracy, from the number of test images.")
    return {"runs": found, "budgets": budgets}


def _facts(folder):
    """Returns what is compared of one run."""
    with opened(folder, only_read=True) as run:
        report = run.report()
    facts, result = report["run"], report.get("result")
    images = facts["splits"].get("test")
    device = report.get("device") or {}
    network = facts.get("network") or {}
    given = network.get("arguments") or {}
    return {
        "run": str(folder),
        "data": str(facts.get("data")),
        "images": images,
        "network": given.get("preset") or facts.get("model") or network.get("builder"),
        "parameters": facts.get("parameters"),
        "wanted": (report.get("policy") or {}).get("wanted"),
        "result": result and _point(result, images),
        "budgets": {row["policy"]: _point(row, images) for row in report.get("budgets", ())},
        "bytes": device.get("bytes"),
        "quantize": device.get("quantize"),
    }


def _point(row, images):
    low, high = interval(row["accuracy"], images) if images else (None, None)
    return {
        "accuracy": row["accuracy"],
        "low": low,
        "high": high,
        "mean_macs": row["mean_macs"],
        "share_of_full": row["share_of_full"],
    }


def _budgets(found):
    """Returns, for each policy of any run, each run's point or `None`."""
    names = dict.fromkeys(name for run in found for name in run["budgets"])
    return {name: [run["budgets"].get(name) for run in found] for name in names}


def _accuracy(point):
    if point is None:
        return "-"
    within = ""
    if point["low"] is not None:
        within = f" ({100 * point['low']:.1f} to {100 * point['high']:.1f})"
    return f"{point['accuracy']:.1%}{within}, {point['mean_macs']:.3g} MACs"


def _file(run):
    if run["bytes"] is None:
        return "-"
    return f"{run['bytes'] / 1e6:.2f} MB, {run['quantize'] or 'float32'}"


def _number(value):
    return "-" if value is None else f"{value:,}"


COLUMNS = {
    "run": lambda run: run["run"],
    "data": lambda run: run["data"] + (f", {run['images']:,} test images" if run["images"] else ""),
    "network": lambda run: run["network"] or "-",
    "parameters": lambda run: _number(run["parameters"]),
    "wanted": lambda run: run["wanted"] or "-",
    "accuracy": lambda run: _accuracy(run["result"]),
    "of full": lambda run: f"{run['result']['share_of_full']:.1%}" if run["result"] else "-",
    "file": _file,
}
