"""The numbers of a report, and tables of them."""

import datetime
import math
import os
import platform
from pathlib import Path

import numpy as np

from keras_adaptive.policy.exit_policy import ExitPolicy, always_last

STEPS = (0.25, 0.5, 1.0)  # budgets to report on, between the least and the most that pays
MOST_DIGITS = 4  # of a share in percent
ERRORS = 1.96  # standard errors of an interval of 95 %
SAME = ("accuracy", "mean_macs", "worst_macs", "exit_ratios")  # in rows that are one


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
    """Returns one row per exit: its cost, its accuracy and the fraction that leaves there.

    Where there is one answer per sample, also how well its confidence is calibrated and how well
    it tells right from wrong: the expected calibration error, with the policy's temperatures,
    `failure_auroc` and `aurc`.
    """
    report = _evaluate(policy, logits, labels, costs)
    judged = _confidence_table(policy, logits, labels)
    return [
        {
            "exit": k,
            "macs": float(costs[k]),
            "accuracy_alone": float(report.exit_accuracies[k]),
            "share_leaving": float(report.exit_fractions[k]),
            "threshold": threshold,
            **judged[k],
        }
        for k, threshold in enumerate(thresholds(policy, len(costs)))
    ]


def _confidence_table(policy, logits, labels):
    from keras_adaptive.calibration.temperature import reliability
    from keras_adaptive.evaluation import aurc, failure_auroc

    if np.ndim(logits) != 3:
        return [{}] * len(logits)
    temperatures = getattr(policy, "temperatures", None)
    columns = {
        "calibration_error": reliability(logits, labels, temperatures).errors,
        "failure_auroc": failure_auroc(logits, labels),
        "aurc": aurc(logits, labels),
    }
    return [
        {name: float(x) if np.isfinite(x) else None for name, x in zip(columns, row, strict=True)}
        for row in zip(*columns.values(), strict=True)
    ]


def budget_table(calibration, test, costs, shares=None, **how):
    """Returns one row per budget, and one for the full network.

    Args:
        calibration: Tuple of logits and labels that thresholds are chosen on.
        test: Tuple of logits and labels that are reported on.
        costs: Array `(exits,)`.
        shares: Budgets, as shares of the full network's cost. `None`: a quarter, half and
            all of the way from the first exit's cost to the most that pays, see
            `budgets_that_pay`.
        **how: Passed to `calibrate_budgets`.
    """
    from keras_adaptive.calibration.calibrate import calibrate_budgets

    full = float(costs[-1])
    if shares is None:
        budgets = budgets_that_pay(*calibration, costs, **how)
    else:
        budgets = sorted({feasible_budget(share, costs) for share in shares})
    policies = calibrate_budgets(*calibration, costs, budgets, **how)
    names = _percents([budget / full for budget in budgets])
    rows = [
        result_row(f"{name} of the cost", policy, test, costs)
        for name, policy in zip(names, policies, strict=True)
    ]
    full_network = ExitPolicy(always_last(len(costs)))
    return [*rows, result_row("full network", full_network, test, costs)]


def _percents(shares):
    """Returns shares as texts, with as many digits as tell them apart."""
    for digits in range(MOST_DIGITS + 1):
        found = [f"{share:.{digits}%}" for share in shares]
        if len(set(found)) == len(found):
            break
    return found


def budgets_that_pay(logits, labels, costs, steps=STEPS, **how):
    """Returns budgets between the first exit's cost and the most that still adds accuracy.

    The most that pays is what a policy spends that may spend everything: among policies of
    the same accuracy it is the cheapest. Budgets above it would all give this policy again.

    Args:
        logits, labels, costs: As for `calibrate`.
        steps: Numbers above 0 and at most 1, where the budgets lie between the two.
        **how: Passed to `calibrate_budgets`.

    Returns:
        List of numbers, rising, each once.
    """
    from keras_adaptive.calibration.calibrate import calibrate_budgets

    (policy,) = calibrate_budgets(logits, labels, costs, [float(costs[-1])], **how)
    least = float(costs[0])
    most = max(_evaluate(policy, logits, labels, costs).mean_cost, least)
    return sorted({least + step * (most - least) for step in steps})


def result_row(name, policy, test, costs):
    """Returns the accuracy and the cost of a policy on the test split, under a name."""
    report = _evaluate(policy, *test, costs)
    return {
        "policy": name,
        "budget": policy.details.get("budget"),
        "accuracy": report.accuracy,
        "mean_macs": report.mean_cost,
        "worst_macs": report.worst_cost,
        "share_of_full": report.mean_cost / float(costs[-1]),
        "exit_ratios": report.exit_fractions.tolist(),
        "thresholds": thresholds(policy, len(report.exit_fractions)),
    }


def merged(rows):
    """Returns rows of `budget_table` where those with equal results are one, under both names.

    Example:

    >>> half = {"accuracy": 0.9, "mean_macs": 5.0, "worst_macs": 9.0, "exit_ratios": [0.5, 0.5]}
    >>> rows = [{"policy": "40%", **half}, {"policy": "50%", **half}]
    >>> [row["policy"] for row in merged(rows)]
    ['40%, 50%']
    """
    found = {}
    for row in rows:
        key = str([row[name] for name in SAME])
        names = f"{found[key]['policy']}, {row['policy']}" if key in found else row["policy"]
        found[key] = {**found.get(key, row), "policy": names}
    return list(found.values())


def interval(share, samples):
    """Returns the 95 % interval (Wilson's) of a share that was found on so many samples.

    Example:

    >>> low, high = interval(0.9, 100)
    >>> print(f"{low:.3f} to {high:.3f}")
    0.826 to 0.945
    >>> print(f"{interval(1.0, 27)[0]:.3f}")   # all right, and yet not sure to be always right
    0.875
    """
    square = ERRORS**2 / samples
    middle = (share + square / 2) / (1 + square)
    half = ERRORS * math.sqrt(share * (1 - share) / samples + square / (4 * samples))
    half /= 1 + square
    return max(middle - half, 0.0), min(middle + half, 1.0)


def exit_ratio_table(rows, titles):
    """Returns rows and titles, as `table` takes them, of the exit fractions.

    Args:
        rows: List of dictionaries, one per policy, each with `exit_ratios`: the fraction of
            samples that leaves at each exit. Rows with fewer exits than others end in dashes.
        titles: Dictionary: other keys of a row to titles, as in `table`.

    Reference:
        [Wisdom of Committees (Wang et al., 2022)](https://arxiv.org/abs/2012.01988),
        table C.
    """
    exits = max(len(row["exit_ratios"]) for row in rows)
    columns = {f"share_{k}": f"leave at {k}" for k in range(exits)}
    wide = [
        row | dict.fromkeys(columns) | dict(zip(columns, row["exit_ratios"], strict=False))
        for row in rows
    ]
    return wide, {**titles, **columns}


def exit_ratio_lines(rows, titles):
    """Returns the lines of a Markdown table of `exit_ratio_table`."""
    return table(*exit_ratio_table(rows, titles))


def policy_facts(policy, wanted):
    """Returns what a reader needs to know about a policy, as strings and numbers.

    Args:
        policy: An `ExitPolicy`, or a policy of another class.
        wanted: String, what the thresholds were chosen for.
    """
    details, temperatures = policy.details, policy.temperatures
    return {
        "wanted": wanted,
        "method": details.get("method"),
        "confidence": getattr(policy, "confidence", None) or type(policy).__name__,
        **({} if temperatures is None else {"temperatures": [float(t) for t in temperatures]}),
        "worst_case": details.get("worst_case"),
        "samples": details.get("samples"),
        "guarantee": details.get("guarantee"),
    }


def _evaluate(*arguments):
    """As `evaluate`, which is imported late: to read a report takes no scipy."""
    from keras_adaptive.evaluation import evaluate

    return evaluate(*arguments)


def thresholds(policy, exits):
    """Returns the thresholds of a policy as a report holds them; `None` each if it has none."""
    numbers = getattr(policy, "thresholds", None)
    return [None] * exits if numbers is None else [_threshold(t) for t in numbers]


def _threshold(number):
    return float(number) if np.isfinite(number) else ("+inf" if number > 0 else "-inf")


def table(rows, columns):
    """Returns the lines of a Markdown table.

    Args:
        rows: List of dictionaries.
        columns: Dictionary: key in a row to title.
    """
    return aligned([list(columns.values()), *table_cells(rows, columns)])


def table_cells(rows, columns):
    """Returns the text of every cell, one list per row, without the titles."""
    return [[_cell(key, row[key]) for key in columns] for row in rows]


def aligned(cells):
    """Returns the lines of a Markdown table of texts, the titles first, columns lined up."""
    widths = [max(map(len, column)) for column in zip(*cells, strict=True)]
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
