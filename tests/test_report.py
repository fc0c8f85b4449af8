import json

import numpy as np
import pytest

import keras_adaptive as ka
from keras_adaptive import report as reports
from keras_adaptive.report import document, writing


def test_exit_table_is_what_evaluate_says(calibration, policy):
    logits, labels, costs = calibration
    rows = reports.exit_table(policy, logits, labels, costs)
    report = ka.evaluate(policy, logits, labels, costs)
    assert [row["share_leaving"] for row in rows] == report.exit_fractions.tolist()
    assert [row["accuracy_alone"] for row in rows] == report.exit_accuracies.tolist()
    assert [row["macs"] for row in rows] == costs.tolist()
    assert rows[-1]["threshold"] == "-inf"
    json.dumps(rows, allow_nan=False)


def test_budget_table_keeps_budgets_and_ends_with_the_full_network(calibration):
    logits, labels, costs = calibration
    rows = reports.budget_table((logits, labels), (logits, labels), costs, shares=(0.3, 0.5, 0.8))
    assert len(rows) == 4
    for row in rows[:-1]:
        assert row["mean_macs"] <= row["budget"] * (1 + 1e-9)
        assert sum(row["exit_ratios"]) == pytest.approx(1)
    assert rows[-1]["share_of_full"] == 1
    assert rows[-1]["exit_ratios"] == [0, 0, 1]
    assert rows[-1]["accuracy"] == (logits[-1].argmax(-1) == labels).mean()


def test_a_budget_below_the_first_exit_becomes_the_first_exit():
    assert reports.feasible_budget(0.1, np.array([3.0, 10.0])) == 3.0
    assert reports.feasible_budget(0.5, np.array([3.0, 10.0])) == 5.0


def test_table_lines_up_and_names_units():
    rows = [{"exit": 0, "macs": 1234567.0, "accuracy_alone": 0.5, "threshold": "+inf"}]
    titles = {"exit": "exit", "macs": "MACs", "accuracy_alone": "accuracy", "threshold": "at"}
    lines = reports.table(rows, titles)
    assert lines[0] == "| exit |      MACs | accuracy |   at |"
    assert lines[1] == "|-----:|----------:|---------:|-----:|"
    assert lines[2] == "|    0 | 1,234,567 |  50.00 % | +inf |"


def test_exit_ratios_stand_side_by_side_whatever_the_number_of_exits():
    rows = [
        {"cascade": "B0+B1", "worst": 1.08, "exit_ratios": [0.787, 0.213]},
        {"cascade": "B0+B1+B3", "worst": 2.88, "exit_ratios": [0.732, 0.214, 0.054]},
    ]
    lines = reports.exit_ratio_lines(rows, {"cascade": "cascade", "worst": "worst"})
    assert lines[0] == "|  cascade | worst | leave at 0 | leave at 1 | leave at 2 |"
    assert lines[2] == "|    B0+B1 |  1.08 |    78.70 % |    21.30 % |          - |"
    assert lines[3] == "| B0+B1+B3 |  2.88 |    73.20 % |    21.40 % |     5.40 % |"


def parts():
    return [
        ("title", "A & B"),
        ("text", "run `x < 1` first"),
        ("list", ["one", "two"]),
        ("table", [{"name": "<net>", "accuracy": 0.5}], {"name": "name", "accuracy": "accuracy"}),
        ("picture", "curve", "pictures/curve.png"),
    ]


def test_a_document_is_the_same_in_markdown_and_html(tmp_path):
    text = document.markdown(parts())
    assert text.startswith("# A & B\n\nrun `x < 1` first\n\n- one\n- two\n\n|")
    assert "![curve](pictures/curve.png)" in text
    assert "<img" not in document.html(parts(), tmp_path)  # the picture is not there
    (tmp_path / "pictures").mkdir()
    (tmp_path / "pictures" / "curve.png").write_bytes(b"\x89PNG")
    page = document.html(parts(), tmp_path)
    assert "<h1>A &amp; B</h1>" in page
    assert "run <code>x &lt; 1</code> first" in page
    assert "<td>&lt;net&gt;</td><td>50.00 %</td>" in page
    assert 'src="data:image/png;base64,iVBORw=="' in page
    assert "http" not in page
    assert "pictures/curve.png" not in page


def test_what_is_promised_stands_in_the_report():
    guarantee = {
        "metric": "accuracy_drop",
        "level": 0.01,
        "delta": 0.05,
        "bound": "binomial",
        "tested_samples": 500,
        "passed": True,
        "p_value": 0.04,
    }
    ((kind, text),) = writing._guarantee(guarantee)
    assert "accuracy lost against the full network is at most 1 %, with probability 95 %" in text
    ((kind, text),) = writing._guarantee({**guarantee, "passed": False})
    assert text.startswith("Promise: none.")


def test_card_says_what_a_user_must_know():
    run = {
        "model": "net",
        "data": "digits",
        "splits": {"train": 1000},
        "training": "none",
        "class_names": ["0", "1"],
        "preprocessing": {"mean": [0.5], "std": [0.25]},
        "parameters": 1234567,
        "network": {"builder": "build_msdnet", "arguments": {"blocks": 2}},
        "limits": ["Small digits only."],
    }
    text = reports.card({"run": run, "commands": [], "machine": reports.machine()})
    for part in (
        "# Model card: net on digits",
        "classes: 0, 1",
        "mean [0.5000] and std [0.2500]",
        "1,234,567",
        "`build_msdnet(blocks=2)`",
        "## Limits",
        "- Small digits only.",
    ):
        assert part in text


def test_report_leaves_out_what_is_not_there(tmp_path):
    run = {"model": "net", "data": "digits", "splits": {"train": 1000}, "training": "none"}
    report = {"run": run, "commands": ["make it"], "machine": reports.machine()}
    reports.write(tmp_path, report)
    text = (tmp_path / "report.md").read_text()
    assert "# net on digits" in text
    assert "- command: `make it`" in text
    assert "## Exits" not in text
    assert json.loads((tmp_path / "report.json").read_text()) == report


def test_a_report_that_cannot_be_written_leaves_nothing(tmp_path):
    with pytest.raises(ValueError, match="Out of range float"):
        reports.write(tmp_path, {"value": float("nan")})
    assert list(tmp_path.iterdir()) == []
