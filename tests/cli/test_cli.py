import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import short_run
from short_run import eagerly

import keras_adaptive as ka
from anytime_tflite import AnytimeModel
from keras_adaptive.__main__ import main
from keras_adaptive.cli import evaluate as evaluation
from keras_adaptive.cli import export as exporting
from keras_adaptive.cli import train as program
from keras_adaptive.cli.arguments import DEMO, parse
from keras_adaptive.training import fit

TESTDATA = Path(__file__).parents[2] / "tflite" / "testdata"
FILES = {
    "model.keras",
    "history.csv",
    "policy.json",
    "curve.png",
    "history.png",
    "images.png",
    "latency.png",
    "reliability.png",
    "shares.png",
    "model.tflite",
    "report.json",
    "report.md",
    "report.html",
    "card.md",
    "manifest.json",
}


@pytest.fixture(scope="module", autouse=True)
def _small_network():
    with pytest.MonkeyPatch.context() as patch:
        short_run.small_network(patch)
        yield


@pytest.fixture(scope="module")
def run(once):
    """The folder of a short run of everything. Not to be changed."""
    return once("short_run", short_run.make)


@pytest.mark.slow
def test_demo_writes_everything_in_one_folder(run):
    assert {path.name for path in run.rglob("*") if path.is_file()} == FILES


@pytest.mark.slow
@pytest.mark.subprocess
def test_the_demo_shows_what_the_library_is_for(tmp_path):
    done = subprocess.run(
        [sys.executable, "-m", "keras_adaptive", "demo", "--out", str(tmp_path / "demo")],
        capture_output=True,
        text=True,
        check=True,
    )
    assert {path.name for path in (tmp_path / "demo").rglob("*") if path.is_file()} == FILES
    assert done.stdout.startswith(DEMO)
    stations = ["train:", "calibrate:", "evaluate:", "export:", "run:", "report"]
    lines = done.stdout.splitlines()
    first = [next(i for i, line in enumerate(lines) if line.startswith(s)) for s in stations]
    assert first == sorted(first)
    report = json.loads((tmp_path / "demo" / "report.json").read_text())
    exits = [row["accuracy_alone"] for row in report["exits"]]
    assert exits[0] + 0.02 < exits[-1]
    *budgets, full = report["budgets"]
    shares = [row["share_of_full"] for row in budgets]
    assert len(shares) == 3
    assert shares[0] < shares[1] < shares[2]
    assert budgets[0]["accuracy"] < budgets[-1]["accuracy"]
    assert full["accuracy"] > 0.92
    device = report["device"]
    assert device["images"] == device["same_exit"] + device["different_exit"] == 360
    assert device["different_exit"] == device["near_threshold"]


def test_report_holds_exits_budgets_and_device(run):
    report = json.loads((run / "report.json").read_text())
    assert [row["exit"] for row in report["exits"]] == [0, 1]
    assert sum(row["share_leaving"] for row in report["exits"]) == pytest.approx(1)
    assert [row["policy"] for row in report["budgets"]][-1] == "full network"
    assert 2 <= len(report["budgets"]) <= 4  # equal budgets are one row
    assert len(report["device"]["deadlines"]) == 3
    device = report["device"]
    assert device["images"] == report["run"]["splits"]["test"] == 360
    assert device["same_exit"] + device["different_exit"] == 360
    assert device["different_exit"] == device["near_threshold"]
    assert 0 <= device["different_label"] <= device["different_exit"]  # other exit, other answer
    for row in report["budgets"]:
        assert len(row["thresholds"]) == 2
        assert row["thresholds"][-1] == "-inf"
    assert report["commands"][0].startswith("keras-adaptive demo")
    text = (run / "report.md").read_text()
    for part in ("threshold", "full network", "deadline", "cores", report["commands"][0]):
        assert part in text


def test_evaluate_changes_the_policy_and_drops_the_file_that_holds_another(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    main(["evaluate", str(copy), "--budget-share", "0.9", "--method", "geometric"])
    policy = ka.ExitPolicy.load(copy / "policy.json")
    report = json.loads((copy / "report.json").read_text())
    assert policy.details["budget"] == pytest.approx(0.9 * report["exits"][-1]["macs"])
    assert policy.details["method"] == "geometric"
    assert "device" not in report
    assert not (copy / "model.tflite").exists()
    assert not (copy / "pictures" / "latency.png").exists()


def test_export_passes_its_options_on(run, monkeypatch):
    given = {}

    def export(model, path, policy, **how):
        given.update(how, path=path, policy=policy)
        raise RuntimeError("not here")

    monkeypatch.setattr(exporting, "export_tflite", export)
    options = ["--quantize", "int8", "--single-call", "--runtime", "tflite-2.14"]
    with pytest.raises(SystemExit) as stop:
        main(["export", str(run), *options])
    assert stop.value.code == 1
    assert given["path"].name == "model.tflite"
    assert not given["path"].exists()  # what was being written is gone
    assert (run / "model.tflite").exists()  # and what was there is not
    assert given["policy"].thresholds == pytest.approx(
        ka.ExitPolicy.load(run / "policy.json").thresholds
    )
    assert (given["quantize"], given["single_call"]) == ("int8", True)
    assert given["runtime"] == "tflite-2.14"
    images, labels = given["calibration_data"]
    assert len(images) == len(labels) > 0
    assert given["class_names"] == [str(digit) for digit in range(10)]
    assert set(given["preprocessing"]) == {"mean", "std"}


@pytest.mark.slow
def test_a_quantized_export_is_compared_and_reported(run, tmp_path):
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    phone = json.loads((TESTDATA / "measurement.json").read_text())
    phone |= {"sha256": AnytimeModel(copy / "model.tflite").info["sha256"]}
    phone["stages"] = phone["stages"][:2]
    (tmp_path / "phone.json").write_text(json.dumps(phone))
    main(["report", str(copy), "--measurement", str(tmp_path / "phone.json")])
    assert "Measured on devices" in (copy / "card.md").read_text()
    main(["export", str(copy), "--quantize", "float16", "--single-call"])
    report = json.loads((copy / "report.json").read_text())
    assert "measurements" not in report  # it was another file
    assert "Measured on devices" not in (copy / "card.md").read_text()
    assert report["device"]["quantize"] == "float16"
    assert report["device"]["images"] == 360
    info = AnytimeModel(copy / "model.tflite").info
    assert info["quantize"] == "float16"
    told = [float(threshold) for threshold in report["device"]["thresholds"]]
    assert told == pytest.approx([float(threshold) for threshold in info["thresholds"]])
    assert "(float16)" in (copy / "report.md").read_text()


@pytest.mark.parametrize("draws", [False, pytest.param(True, marks=pytest.mark.slow)])
def test_calibrate_keeps_a_guarantee_or_an_accuracy_in_the_policy(
    draws, run, tmp_path, capsys, monkeypatch
):
    if not draws:
        monkeypatch.setattr(evaluation, "_draw", lambda *arguments: None)
    copy = tmp_path / "copy"
    shutil.copytree(run, copy)
    # the network has hardly learned anything: how much depends on the processor
    main(["calibrate", str(copy), "--accuracy", "0.01", "--worst-case-share", "0.5"])
    assert "thresholds" in capsys.readouterr().out
    report = json.loads((copy / "report.json").read_text())
    policy = ka.ExitPolicy.load(copy / "policy.json")
    assert report["policy"]["worst_case"] == policy.details["worst_case"]
    assert "exits" not in report
    before = (copy / "policy.json").read_text()
    main(["evaluate", str(copy)])  # the policy that is there
    assert (copy / "policy.json").read_text() == before
    report = json.loads((copy / "report.json").read_text())
    assert report["result"]["worst_macs"] <= report["policy"]["worst_case"]
    assert bool(report.get("pictures")) == draws
    main(["evaluate", str(copy), "--risk", "0.9", "--metric", "disagreement"])
    policy = ka.ExitPolicy.load(copy / "policy.json")
    assert policy.details["guarantee"]["level"] == 0.9
    text = (copy / "report.md").read_text()
    assert "Guarantee: on new images" in text
    pictures = {path.name for path in (copy / "pictures").glob("*.png")}
    expected = {name for name in FILES if name.endswith(".png")} - {"latency.png"}
    assert pictures == (expected if draws else set())
    assert text.count("](pictures/") == len(pictures)


def test_report_and_card_come_from_what_is_known(run, tmp_path, capsys):
    copy = tmp_path / "copy"
    copy.mkdir()
    shutil.copy(run / "report.json", copy)
    main(["report", str(copy)])
    assert (copy / "report.md").read_text() == (run / "report.md").read_text()
    capsys.readouterr()
    main(["card", str(run)])
    assert capsys.readouterr().out == (run / "card.md").read_text()


def test_run_names_what_it_sees(run, tmp_path, capsys, digits):
    from PIL import Image

    assert AnytimeModel(run / "model.tflite").info["pixels"] == digits.pixels
    pixels, _ = digits.images("test", 1)
    Image.fromarray(pixels[0, ..., 0]).save(tmp_path / "digit.png")
    main(["run", str(run / "model.tflite"), str(tmp_path / "digit.png"), "--deadline-ms", "1000"])
    line = capsys.readouterr().out
    assert re.fullmatch(rf"{re.escape(str(tmp_path / 'digit.png'))}: \d \(\d+\.\d%\)\n", line)


@pytest.mark.parametrize(
    "how", [eagerly, pytest.param(fit, marks=pytest.mark.slow)], ids=["eagerly", "graph"]
)
def test_training_goes_on_after_a_kill(how, tmp_path, monkeypatch):
    import keras

    monkeypatch.setattr(program.training, "fit", how)
    monkeypatch.setitem(program.DIGITS_NETWORK, "blocks", 1)
    folder = tmp_path / "killed"
    arguments = ["train", "--out", str(folder), "--epochs", "3", "--train-limit", "64"]

    class Killed(Exception):
        pass

    class Kill(keras.callbacks.TerminateOnNaN):
        def on_epoch_end(self, epoch, logs=None):
            if epoch == 1:
                raise Killed

    with monkeypatch.context() as patch:
        patch.setattr(keras.callbacks, "TerminateOnNaN", Kill)
        with pytest.raises(Killed):
            main(arguments)
    assert [path.name for path in folder.iterdir()] == [".keras_adaptive"]
    main(arguments)
    lines = (folder / "history.csv").read_text().splitlines()
    assert lines[0].startswith("epoch,")
    assert [line.split(",")[0] for line in lines[1:]] == ["0", "1", "2"]


def test_rejects_an_impossible_budget_and_a_picture_that_is_none(run, tmp_path, capsys):
    before = (run / "policy.json").read_text()
    with pytest.raises(SystemExit):
        main(["evaluate", str(run), "--budget-share", "2"])
    assert "--budget" in capsys.readouterr().err
    assert (run / "policy.json").read_text() == before
    (tmp_path / "no.png").write_text("no picture")
    with pytest.raises(SystemExit):
        main(["run", str(run / "model.tflite"), str(tmp_path / "no.png")])
    assert "A picture must be an image file" in capsys.readouterr().err


@pytest.mark.parametrize(
    "how", [eagerly, pytest.param(fit, marks=pytest.mark.slow)], ids=["eagerly", "graph"]
)
def test_a_training_that_diverges_is_an_error(how, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(program.training, "fit", how)
    monkeypatch.setitem(program.DIGITS_NETWORK, "blocks", 1)
    arguments = ["train", "--out", str(tmp_path), "--epochs", "1", "--train-limit", "128"]
    with pytest.raises(SystemExit) as stop:
        main([*arguments, "--learning-rate", "1e30"])
    assert stop.value.code == 1
    assert "Try a lower --learning-rate. Used: 1e+30" in capsys.readouterr().err


def test_photos_of_different_sizes_get_a_size_and_a_small_network(tmp_path, capsys, monkeypatch):
    from PIL import Image

    rng = np.random.default_rng(0)
    for i in range(12):
        folder = tmp_path / "photos" / f"{i % 2}"
        folder.mkdir(parents=True, exist_ok=True)
        pixels = rng.integers(0, 256, (70 + i, 80, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(folder / f"{i}.png")
    monkeypatch.setattr(program, "USUAL_SIZE", 20)
    monkeypatch.setattr(program.training, "fit", eagerly)
    monkeypatch.setitem(program.SMALL_NETWORK, "blocks", 1)
    run = tmp_path / "run"
    how = ["--data", str(tmp_path / "photos"), "--epochs", "1", "--batch-size", "4"]
    main(["train", *how, "--out", str(run)])
    said = capsys.readouterr().out
    assert "images of different sizes: scaled to cover 20x20 pixels" in said
    assert "only 2 steps in all" in said
    line = re.search(r"^epoch 1/1: loss \d.*%, held-out .*% \(.* s\)$", said, re.MULTILINE)
    assert line, said
    report = json.loads((run / "report.json").read_text())
    assert report["run"]["source"]["image_size"] == [20, 20]
    assert report["run"]["network"]["arguments"]["channels"] == program.SMALL_NETWORK["channels"]
    main(["train", *how, "--out", str(run)])  # the same training: it is finished
    assert "finished" in capsys.readouterr().out


def test_a_published_recipe_gives_what_is_left_out():
    options = parse(["train", "--recipe", "imagenet", "--epochs", "3"])
    recipe = program._recipe(options)
    assert (recipe.epochs, recipe.batch_size, recipe.schedule) == (3, 256, "steps")
    assert program._recipe(parse(["train"])).schedule == "cosine"
