"""The README does what it says."""

import json
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
RESULTS = ROOT / "benchmarks" / "results"


def blocks():
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_a_runnable_block_comes_before_line_20():
    assert README[: README.index("```python")].count("\n") < 10
    assert README[: README.index("```\n", README.index("```python"))].count("\n") < 20


def test_the_blocks_run_one_after_the_other(tmp_path, monkeypatch, digits):
    monkeypatch.chdir(tmp_path)
    names = {"image": digits.arrays("test")[0][0]}
    for block in blocks():
        block = block.replace("epochs=20", "epochs=1, verbose=0").replace("blocks=4", "blocks=2")
        exec(compile(block, "README.md", "exec"), names)
    assert names["answer"].stopped_by
    assert (tmp_path / "digits.tflite").exists()


def test_numbers_come_from_the_report():
    report = json.loads((RESULTS / "cifar10_budgeted_5" / "report.json").read_text())
    half = next(row for row in report["budgets"] if row["policy"].startswith("50%"))
    full = report["budgets"][-1]
    device = report["device"]
    text = " ".join(README.split())
    assert f"{half['accuracy']:.2%}".replace("%", " %") + " right at" in text
    assert f"at {half['share_of_full']:.2%}".replace("%", " %") + " of the full" in text
    assert f"the full network, {full['accuracy']:.2%}".replace("%", " %") in text
    assert f"{device['same_exit']:,} of {device['images']:,} images" in text


def test_promises_come_from_the_benchmark():
    rows = json.loads((RESULTS / "calibration.json").read_text())["risks"]
    text = " ".join(README.split())
    betting = [row for row in rows if row["promise"] == "accuracy_drop <= 1% (betting)"]
    shares = {row["thresholds"]: f"{100 * row['cost_share']:.2f} %" for row in betting}
    assert f"spend {shares['one an exit']} of its multiply-accumulates" in text
    assert f"have it, {shares['one shared']}." in text


@pytest.mark.parametrize(
    "place", re.findall(r"\]\(([^)h][^)]*)\)|`(keras_adaptive/[^`]*)`", README)
)
def test_every_place_named_is_there(place):
    assert (ROOT / (place[0] or place[1])).exists()


@pytest.mark.parametrize("target", re.findall(r"`make (\w+)`", README))
def test_every_command_named_is_there(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
