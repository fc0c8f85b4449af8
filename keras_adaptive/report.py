"""A run's report: one dictionary, written as JSON and as Markdown."""

import datetime
import json
import os
import platform
from pathlib import Path

import numpy as np

from keras_adaptive.calibration import calibrate_budgets
from keras_adaptive.evaluation import evaluate
from keras_adaptive.files import write_whole
from keras_adaptive.policy import ExitPolicy

SHARES = (0.1, 0.2, 0.5)  # budgets to report on, of the full network's cost


def machine():
    """Returns what a reader needs to judge measured times."""
    import keras

    model = ""
    if Path("/proc/cpuinfo").exists():
        lines = Path("/proc/cpuinfo").read_text().splitlines()
        model = next((x.split(":")[1].strip() for x in lines if x.startswith("model name")), "")
    return {
        "date": datetime.date.today().isoformat(),
        "processor": model or platform.processor() or platform.machine(),
        "cores": os.cpu_count(),
        "python": platform.python_version(),
        "keras": keras.__version__,
        "backend": keras.backend.backend(),
    }


def feasible_budget(share, costs):
    """Returns this share of the full cost, or the first exit's cost if that is more."""
    return float(max(share * costs[-1], costs[0]))


def exit_table(policy, logits, labels, costs):
    """Returns one row an exit: what it costs, how good it is, who leaves there."""
    report = evaluate(policy, logits, labels, costs)
    return [
        {
            "exit": k,
            "macs": float(costs[k]),
            "accuracy_alone": float(report.exit_accuracies[k]),
            "share_leaving": float(report.exit_fractions[k]),
            "threshold": _json_number(policy.thresholds[k]),
        }
        for k in range(len(costs))
    ]


def budget_table(calibration, test, costs, shares=SHARES, **how):
    """Returns one row a budget, and one for the full network.

    Args:
        calibration: Tuple of logits and labels that thresholds are chosen on.
        test: Tuple of logits and labels that are reported on.
        costs: Array `(exits,)`.
        shares: Budgets, as shares of the full network's cost.
        **how: Passed to `calibrate_budgets`.
    """
    full = float(costs[-1])
    budgets = sorted({feasible_budget(share, costs) for share in shares})
    policies = calibrate_budgets(*calibration, costs, budgets, **how)
    rows = [
        _budget_row(f"{budget / full:.0%} of the cost", policy, test, costs)
        for budget, policy in zip(budgets, policies, strict=True)
    ]
    last = np.append(np.full(len(costs) - 1, np.inf), -np.inf)
    return [*rows, _budget_row("full network", ExitPolicy(last), test, costs)]


def _budget_row(name, policy, test, costs):
    report = evaluate(policy, *test, costs)
    return {
        "policy": name,
        "budget": policy.details.get("budget"),
        "accuracy": report.accuracy,
        "mean_macs": report.mean_cost,
        "worst_macs": report.worst_cost,
        "share_of_full": report.mean_cost / float(costs[-1]),
        "exit_ratios": report.exit_fractions.tolist(),
    }


def exit_ratio_lines(rows, titles):
    """Returns the lines of a Markdown table of who leaves where, one row a policy.

    Args:
        rows: List of dictionaries, each with `exit_ratios`: the shares of samples that
            leave at each exit. Rows with fewer exits than others end in dashes.
        titles: Dictionary: other keys of a row to titles, as in `table`.

    Reference:
        [Wisdom of Committees (Wang et al., 2022)](https://arxiv.org/abs/2012.01988),
        table C.
    """
    exits = max(len(row["exit_ratios"]) for row in rows)
    columns = {f"share_{k}": f"leave at {k}" for k in range(exits)}
    wide = [
        {
            **row,
            **dict.fromkeys(columns),
            **dict(zip(columns, row["exit_ratios"], strict=False)),
        }
        for row in rows
    ]
    return table(wide, {**titles, **columns})


def _json_number(number):
    return float(number) if np.isfinite(number) else ("+inf" if number > 0 else "-inf")


def write(folder, report):
    """Writes `report.json` and `report.md` into a folder."""
    folder = Path(folder)
    write_whole(folder / "report.json", json.dumps(report, indent=2, allow_nan=False) + "\n")
    write_whole(folder / "report.md", markdown(report))


def markdown(report):
    """Returns the report as Markdown; parts that are not there are left out."""
    run = report["run"]
    lines = [f"# {run['model']} on {run['data']}", ""]
    lines += [f"- command: `{command}`" for command in report["commands"]]
    lines += [f"- {key}: {value}" for key, value in report["machine"].items()]
    splits = ", ".join(f"{name} {size:,}" for name, size in run["splits"].items())
    lines += [f"- splits: {splits}", f"- training: {run['training']}", ""]
    if "exits" in report:
        lines += [
            "## Exits",
            "",
            f"On the test split. Thresholds of policy.json: {report['policy']}.",
            "",
            *table(
                report["exits"],
                {
                    "exit": "exit",
                    "macs": "MACs",
                    "accuracy_alone": "accuracy alone",
                    "share_leaving": "share leaving",
                    "threshold": "threshold",
                },
            ),
            "",
            "## Budgets",
            "",
            "Thresholds chosen on the calibrate split, results on the test split.",
            "",
            *table(
                report["budgets"],
                {
                    "policy": "policy",
                    "accuracy": "accuracy",
                    "mean_macs": "mean MACs",
                    "share_of_full": "share of full cost",
                    "worst_macs": "worst MACs",
                },
            ),
            "",
            "## Exit ratios",
            "",
            "The share of the test split that leaves at each exit.",
            "",
            *exit_ratio_lines(report["budgets"], {"policy": "policy"}),
            "",
        ]
        if report.get("curve"):
            lines += [f"![accuracy against cost]({report['curve']})", ""]
    if "device" in report:
        device = report["device"]
        lines += [
            "## Device",
            "",
            f"{device['file']}, {device['bytes']:,} bytes, {device['threads']} thread(s). "
            f"Device and host leave at the same exit on {device['same_exit']:,} of "
            f"{device['images']:,} test images{_others(device)}.",
            "",
            "The same images under three deadlines, thresholds as above:",
            "",
            *table(
                device["deadlines"],
                {
                    "deadline_ms": "deadline (ms)",
                    "accuracy": "accuracy",
                    "median_ms": "median (ms)",
                    "p99_ms": "p99 (ms)",
                    "mean_exit": "mean exit",
                    "stopped_by_deadline": "stopped by deadline",
                },
            ),
            "",
        ]
    return "\n".join(lines)


def _others(device):
    if not device["different_exit"]:
        return ""
    return (
        f"; of the {device['different_exit']:,} others, {device['near_threshold']:,} lie within "
        f"{device['tolerance']:g} of a threshold"
    )


def table(rows, columns):
    """Returns the lines of a Markdown table.

    Args:
        rows: List of dictionaries.
        columns: Dictionary: key in a row to title.
    """
    cells = [list(columns.values())] + [[_cell(key, row[key]) for key in columns] for row in rows]
    widths = [max(len(row[i]) for row in cells) for i in range(len(columns))]
    lines = [
        "| " + " | ".join(cell.rjust(w) for cell, w in zip(row, widths, strict=True)) + " |"
        for row in cells
    ]
    lines.insert(1, "|" + "|".join("-" * (w + 1) + ":" for w in widths) + "|")
    return lines


def _cell(key, value):
    if value is None or isinstance(value, str):
        return value or "-"
    if "accuracy" in key or "share" in key or "stopped" in key:
        return f"{100 * value:.2f} %"
    if "macs" in key:
        return f"{value:,.0f}"
    if isinstance(value, float):
        return f"{value:.4g}"
    return str(value)
