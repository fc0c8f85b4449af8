import json
import shutil

import pytest

import keras_adaptive as ka
from keras_adaptive import __main__ as program
from keras_adaptive.__main__ import main


@pytest.fixture(scope="module", autouse=True)
def _small_network():
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(program.DIGITS_NETWORK, "blocks", 2)
        yield


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """The folder of a short run of everything."""
    folder = tmp_path_factory.mktemp("runs") / "digits"
    main(["demo", "--out", str(folder), "--epochs", "2", "--train-limit", "600"])
    return folder


def test_demo_writes_everything_in_one_folder(run):
    names = {path.name for path in run.iterdir() if path.is_file()}
    assert names == {
        "model.keras",
        "history.csv",
        "policy.json",
        "curve.png",
        "model.tflite",
        "report.json",
        "report.md",
    }


def test_report_holds_exits_budgets_and_device(run):
    report = json.loads((run / "report.json").read_text())
    assert [row["exit"] for row in report["exits"]] == [0, 1]
    assert sum(row["share_leaving"] for row in report["exits"]) == pytest.approx(1)
    assert [row["policy"] for row in report["budgets"]][-1] == "full network"
    assert len(report["budgets"]) == 4
    assert len(report["device"]["deadlines"]) == 3
    device = report["device"]
    assert device["images"] == report["run"]["splits"]["test"] == 360
    assert device["same_exit"] + device["different_exit"] == 360
    assert device["different_exit"] == device["near_threshold"]
    assert report["commands"][0].startswith("python -m keras_adaptive demo")
    text = (run / "report.md").read_text()
    for part in ("threshold", "full network", "deadline", "cores", report["commands"][0]):
        assert part in text


def test_evaluate_changes_the_policy_and_drops_the_file_that_holds_another(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    main(["evaluate", str(copy), "--budget", "0.9", "--method", "geometric"])
    policy = ka.ExitPolicy.load(copy / "policy.json")
    report = json.loads((copy / "report.json").read_text())
    assert policy.details["budget"] == pytest.approx(0.9 * report["exits"][-1]["macs"])
    assert policy.details["method"] == "geometric"
    assert "device" not in report
    assert not (copy / "model.tflite").exists()
    main(["export", str(copy)])
    assert "device" in json.loads((copy / "report.json").read_text())


def test_run_names_what_it_sees(run, tmp_path, capsys, digits):
    from PIL import Image

    pixels, _ = digits.images("test", 1)
    Image.fromarray(pixels[0, ..., 0]).save(tmp_path / "digit.png")
    main(["run", str(run / "model.tflite"), str(tmp_path / "digit.png"), "--deadline-ms", "1000"])
    line = capsys.readouterr().out
    assert f"{tmp_path / 'digit.png'}: " in line
    assert "exit" in line
    assert "stopped by" in line


def test_training_goes_on_after_a_kill(tmp_path, monkeypatch):
    import keras

    folder = tmp_path / "killed"
    arguments = ["train", "--out", str(folder), "--epochs", "3", "--train-limit", "64"]

    class Killed(Exception):
        pass

    class Kill(keras.callbacks.CSVLogger):
        def on_epoch_end(self, epoch, logs=None):
            super().on_epoch_end(epoch, logs)
            if epoch == 1:
                self.csv_file.close()
                raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(keras.callbacks, "CSVLogger", Kill)
        with pytest.raises(Killed):
            main(arguments)
    main(arguments)
    lines = (folder / "history.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,")
    assert [line.split(",")[0] for line in lines[1:]] == ["0", "1", "2"]


@pytest.mark.parametrize("command", [[], ["demo"], ["train"], ["evaluate"], ["export"], ["run"]])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    assert "usage: python -m keras_adaptive" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "missing"], "The folder must hold a run"),
        (["export", "missing"], "The folder must hold a run"),
        (["run", "missing.tflite", "x.png"], "`path` must be a file"),
        (["train", "--preset", "vgg"], "`preset` must be one of"),
        (["train", "--data-dir", "missing"], "`data_dir` must exist"),
    ],
)
def test_errors_come_without_a_traceback(arguments, message, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []


def test_rejects_an_impossible_budget_and_a_picture_that_is_none(run, tmp_path, capsys):
    before = (run / "policy.json").read_text()
    with pytest.raises(SystemExit):
        main(["evaluate", str(run), "--budget", "2"])
    assert "--budget" in capsys.readouterr().err
    assert (run / "policy.json").read_text() == before
    (tmp_path / "no.png").write_text("no picture")
    with pytest.raises(SystemExit):
        main(["run", str(run / "model.tflite"), str(tmp_path / "no.png")])
    assert "A picture must be an image file" in capsys.readouterr().err
