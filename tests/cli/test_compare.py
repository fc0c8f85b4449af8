"""`compare` shows the results of several runs as their reports hold them."""

import json
import shutil

import pytest
from scipy import stats

from keras_adaptive.cli import main
from keras_adaptive.models.pretrained import FOLDER


@pytest.fixture
def runs(tmp_path):
    """Two runs: the network that comes with the library, and one that differs in its numbers."""
    first, second = tmp_path / "first", tmp_path / "[b]second"
    for folder in (first, second):
        folder.mkdir()
        shutil.copy(FOLDER / "cifar10" / "report.json", folder)
    report = json.loads((second / "report.json").read_text())
    report["result"]["accuracy"], report["run"]["parameters"] = 0.5, 1234
    report["budgets"] = [row for row in report["budgets"] if row["policy"] != "10% of the cost"]
    del report["device"]
    (second / "report.json").write_text(json.dumps(report))
    return first, second


def test_every_run_is_a_row_and_every_policy_too(runs, capsys):
    main(["compare", *map(str, runs), "--json"])
    said = capsys.readouterr()
    found = json.loads(said.out)
    kept = [json.loads((folder / "report.json").read_text()) for folder in runs]
    for run, folder, report in zip(found["runs"], runs, kept, strict=True):
        assert run["run"] == str(folder)
        assert run["parameters"] == report["run"]["parameters"]
        p, n = report["result"]["accuracy"], report["run"]["splits"]["test"]
        assert run["result"]["accuracy"] == p
        expected = stats.binomtest(round(p * n), n).proportion_ci(method="wilson")
        assert run["result"]["low"] == pytest.approx(expected.low, abs=1e-4)
        assert run["result"]["high"] == pytest.approx(expected.high, abs=1e-4)
    assert found["budgets"]["10% of the cost"][1] is None
    assert found["budgets"]["full network"][0]["accuracy"] == kept[0]["budgets"][-1]["accuracy"]
    assert "4.25 MB, float32" in said.err
    assert "[b]second" in said.err  # a name, not markup


def test_other_data_is_said_and_the_same_run_refused(runs, capsys):
    path = runs[1] / "report.json"
    path.write_text(path.read_text().replace("CIFAR-10 (JPEG)", "photos"))
    main(["compare", *map(str, runs)])
    assert "their accuracies do not compare" in capsys.readouterr().out
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(runs[0]), str(runs[0])])
    assert "The runs must differ. Received:" in capsys.readouterr().err


def test_a_folder_without_a_run_is_named(tmp_path, capsys):
    with pytest.raises(SystemExit, match="2"):
        main(["compare", str(tmp_path)])
    assert str(tmp_path) in capsys.readouterr().err


def test_the_same_name_of_data_with_other_images_is_other_data(runs, capsys):
    path = runs[1] / "report.json"
    report = json.loads(path.read_text())
    report["run"]["splits"]["test"] -= 1
    path.write_text(json.dumps(report))
    main(["compare", *map(str, runs)])
    assert "their accuracies do not compare" in capsys.readouterr().out


@pytest.mark.parametrize("splits", [{}, {"train": 5, "test": 0}])
def test_without_a_number_of_test_images_there_are_no_intervals(splits, runs, capsys):
    for folder in runs:
        report = json.loads((folder / "report.json").read_text())
        report["run"]["splits"] = splits
        (folder / "report.json").write_text(json.dumps(report))
    main(["compare", *map(str, runs)])
    said = capsys.readouterr().out
    assert "50.0%, " in said
    assert "interval" not in said
