"""`report` with what was measured on devices."""

import json
import shutil
from pathlib import Path

import pytest

from keras_adaptive import report as reports
from keras_adaptive.cli import main

TESTDATA = Path(__file__).parents[2] / "tflite" / "testdata"


@pytest.fixture
def run(tmp_path):
    """The folder of a run, with a tiny exported file."""
    run = {"model": "net", "data": "digits", "splits": {"train": 1000}, "training": "none"}
    report = {"run": run, "commands": ["train"], "machine": reports.machine()}
    (tmp_path / "run").mkdir()
    reports.write(tmp_path / "run", report)
    shutil.copy(TESTDATA / "files" / "single_call.tflite", tmp_path / "run" / "model.tflite")
    return tmp_path / "run"


@pytest.fixture
def phone(tmp_path):
    return shutil.copy(TESTDATA / "measurement.json", tmp_path / "phone.json")


def fails(arguments, capsys):
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == 2
    return capsys.readouterr().err


def measured(run):
    return json.loads((run / "report.json").read_text()).get("measurements", [])


def test_what_was_measured_comes_into_the_report_and_stays(run, phone, tmp_path):
    other = tmp_path / "other.json"
    other.write_text(phone.read_text().replace("Maker", "Other maker"))
    main(["report", str(run), "--measurement", str(phone), "--measurement", str(other)])
    assert len(measured(run)) == 2
    for name in ("report.md", "report.html", "card.md"):
        assert "Other maker" in (run / name).read_text()
    command = f"keras-adaptive report {run} --measurement {phone} --measurement {other}"
    assert json.loads((run / "report.json").read_text())["commands"] == ["train", command]
    before = (run / "report.md").read_text()
    main(["report", str(run)])
    assert (run / "report.md").read_text() == before
    main(["report", str(run), "--measurement", str(phone)])  # in place of both
    assert len(measured(run)) == 1
    assert "Other maker" not in (run / "card.md").read_text()


def test_a_refused_measurement_changes_nothing(run, phone, tmp_path, capsys):
    before = {path.name: path.read_bytes() for path in run.iterdir()}
    phone.write_text(phone.read_text().replace('"threads": 1', '"threads": "<script>"'))
    said = fails(["report", run, "--measurement", phone], capsys)
    assert "`measurement.threads` must be a positive integer" in said
    assert f"path={phone}" in said
    said = fails(["report", run, "--measurement", tmp_path / "no.json"], capsys)
    assert "which does not exist" in said
    shutil.copy(TESTDATA / "files" / "int8.tflite", run / "model.tflite")
    shutil.copy(TESTDATA / "measurement.json", phone)
    said = fails(["report", run, "--measurement", phone], capsys)
    assert f"must be one of {run}/model.tflite" in said
    assert "measured on single_call.tflite" in said
    (run / "model.tflite").unlink()
    said = fails(["report", run, "--measurement", phone], capsys)
    assert f"run `export {run}` first" in said
    assert {p.name: p.read_bytes() for p in run.iterdir() if p.is_file()} == {
        name: content for name, content in before.items() if name != "model.tflite"
    }
