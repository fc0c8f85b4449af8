"""A run's folder is the old state or the new one, whatever happens; what is the user's stays."""

import hashlib
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from types import SimpleNamespace

import keras
import numpy as np
import pytest
import short_run
from PIL import Image

import keras_adaptive as ka
from benchmarks import chaos
from keras_adaptive import training
from keras_adaptive.cli import checks, main
from keras_adaptive.cli import evaluate as evaluation
from keras_adaptive.cli import export as exporting
from keras_adaptive.cli import folder as runs
from keras_adaptive.cli import train as program
from keras_adaptive.cli.arguments import PRESETS, REGIMES, parse
from keras_adaptive.models.msdnet import PRESETS as KNOWN_PRESETS
from keras_adaptive.training import regimes


@pytest.fixture(scope="module", autouse=True)
def _small_network():
    with pytest.MonkeyPatch.context() as patch:
        short_run.small_network(patch)
        yield


@pytest.fixture(scope="module")
def finished(once):
    return once("short_run", short_run.make)


@pytest.fixture
def run(finished, tmp_path):
    """A copy of a finished run, to be changed."""
    return Path(shutil.copytree(finished, tmp_path / "copy"))


def snapshot(folder):
    """Returns the content of every file in a folder."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def fails(arguments, capsys, code=2):
    """Returns what a command says that ends with an exit code."""
    with pytest.raises(SystemExit) as stop:
        main([str(argument) for argument in arguments])
    assert stop.value.code == code
    return capsys.readouterr().err


def train(folder, *options):
    """Trains as `short_run` did, with other options behind it."""
    main(["train", "--out", str(folder), *short_run.ARGUMENTS, *options])


# ---- a folder that is not a run


@pytest.mark.parametrize("command", ["train", "demo"])
@pytest.mark.parametrize("option", [[], ["--overwrite"], ["--epochs", "0"], ["--batch-size", "0"]])
def test_a_folder_that_is_no_run_is_left_as_it_is(command, option, tmp_path, capsys):
    (tmp_path / "pictures").mkdir()
    for name in ("card.md", "policy.json", "model.tflite", "pictures/me.png", "history.csv"):
        (tmp_path / name).write_text("mine")
    before = snapshot(tmp_path)
    said = fails([command, "--out", tmp_path, *option], capsys)
    assert "which holds card.md" in said or option[-1:] == ["0"]
    assert snapshot(tmp_path) == before


@pytest.mark.parametrize("name", ["report.json", ".keras_adaptive/training-0/backup", "run.json"])
def test_what_looks_a_little_like_a_run_is_none(name, tmp_path, capsys):
    (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
    (tmp_path / name).write_text("{}")
    (tmp_path / "notes.txt").write_text("mine")
    fails(["train", "--out", tmp_path], capsys)
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_a_file_is_no_folder(tmp_path, capsys):
    (tmp_path / "a").write_text("mine")
    assert "`--out` must be a folder" in fails(["train", "--out", tmp_path / "a"], capsys)
    fails(["train", "--out", tmp_path / "a" / "b"], capsys)
    assert (tmp_path / "a").read_text() == "mine"


def test_a_folder_made_for_nothing_goes_again(tmp_path, capsys, monkeypatch):
    def no_data(source):
        raise ValueError("no data")

    monkeypatch.setattr(runs, "load_data", no_data)
    assert "no data" in fails(["train", "--out", tmp_path / "a" / "b"], capsys)
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_is_known_before(tmp_path, capsys, monkeypatch, run):
    before = snapshot(run)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: SimpleNamespace(free=1))
    for command in (["train", "--out", tmp_path / "new"], ["evaluate", run], ["export", run]):
        assert "must have" in fails(command, capsys, code=1)
    assert not (tmp_path / "new").exists()
    assert snapshot(run) == before


# ---- a training into a run


def test_a_finished_run_says_so_and_ends(run, capsys):
    before = snapshot(run)
    train(run)
    assert "holds this very run, finished" in capsys.readouterr().out
    assert snapshot(run) == before


@pytest.mark.parametrize(
    ("option", "difference"),
    [
        (["--epochs", "5"], "epochs: 2, not 5"),
        (["--seed", "1"], "seed: 0, not 1"),
        (["--learning-rate", "0.01"], "learning_rate: 0.1, not 0.01"),
        (["--regime", "mixed"], "regime: joint, not mixed"),
        (["--train-limit", "32"], "train_limit: 64, not 32"),
        (["--recipe", "cifar"], "recipe: None, not cifar; schedule: cosine, not steps"),
    ],
)
def test_a_run_of_other_settings_is_kept_and_the_difference_shown(option, difference, run, capsys):
    before = snapshot(run)
    said = fails(["train", "--out", run, *short_run.ARGUMENTS, *option], capsys)
    assert difference in said
    assert snapshot(run) == before


def test_the_same_by_value_is_the_same(finished, capsys):
    train(finished, "--batch-size", "64", "--schedule", "cosine", "--learning-rate", "1e-1")
    assert "finished" in capsys.readouterr().out


def instead_of_training(model, *arguments, callbacks, backup_dir, **how):
    """Stands for `training.fit`: keeps a row of history and a backup, and trains nothing."""
    backup_dir.mkdir(parents=True, exist_ok=True)
    (backup_dir / "kept").write_text("weights")
    history = next(c for c in callbacks if isinstance(c, program._History))
    for epoch in range(2):
        history.on_epoch_end(epoch, {"exit_0_accuracy": 0.5 + epoch, "exit_1_accuracy": 0.25})
    return model


def interrupted(*arguments, **how):
    instead_of_training(*arguments, **how)
    raise KeyboardInterrupt


def test_an_overwritten_run_stays_until_the_new_one_is_whole(run, capsys, monkeypatch):
    (run / "notes.txt").write_text("mine")
    (run / "model.tflite").write_text("mine too")
    before = snapshot(run)
    monkeypatch.setattr(program.training, "fit", interrupted)
    options = ["--seed", "1", "--overwrite"]
    fails(["train", "--out", run, *short_run.ARGUMENTS, *options], capsys, code=130)
    after = snapshot(run)
    assert {name: after[name] for name in before} == before
    assert {name.split("/")[0] for name in set(after) - set(before)} == {runs.WORK}
    main(["card", str(run)])  # the old run is a run
    found = []
    monkeypatch.setattr(
        program.training,
        "fit",
        lambda *given, backup_dir, **how: (
            found.append((backup_dir / "kept").read_text())
            or instead_of_training(*given, backup_dir=backup_dir, **how)
        ),
    )
    capsys.readouterr()
    train(run, *options)
    assert found == ["weights"]  # it went on
    assert "goes on where it was interrupted" in capsys.readouterr().out
    new = snapshot(run)
    assert new["notes.txt"] == b"mine"
    assert new["model.tflite"] == b"mine too"
    assert set(new) == {
        "notes.txt",
        "model.tflite",
        "model.keras",
        "history.csv",
        "manifest.json",
        *runs.WRITTEN,
    }
    assert new["history.csv"] == b"epoch,exit_0_accuracy,exit_1_accuracy\n0,0.5,0.25\n1,1.5,0.25\n"
    assert "seed 1" in new["card.md"].decode()


def test_an_unfinished_training_of_other_settings_is_kept(tmp_path, capsys, monkeypatch):
    folder = tmp_path / "run"
    monkeypatch.setattr(program.training, "fit", interrupted)
    said = fails(["train", "--out", folder, *short_run.ARGUMENTS], capsys, code=130)
    assert "interrupted" in said
    (folder / "notes.txt").write_text("mine")
    before = snapshot(folder)
    said = fails(["train", "--out", folder, "--epochs", "7"], capsys)
    assert "unfinished run of other settings, train_limit: 64, not None; epochs: 2, not 7" in said
    for command in ("evaluate", "export", "calibrate", "card"):
        assert "is not finished: give its command again" in fails([command, folder], capsys)
    assert snapshot(folder) == before
    monkeypatch.setattr(program.training, "fit", instead_of_training)
    train(folder)
    assert not (folder / runs.WORK).exists()
    assert (folder / "notes.txt").read_text() == "mine"


def test_data_that_changed_since_a_training_began_is_said(tmp_path, capsys, monkeypatch):
    def other_data(*arguments, **how):
        raise ValueError("`backup_dir` must be that of an earlier call")

    monkeypatch.setattr(program.training, "fit", other_data)
    said = fails(["train", "--out", tmp_path / "run"], capsys)
    assert f"to begin anew, remove {tmp_path}/run/.keras_adaptive/training-" in said


def test_a_diverged_training_leaves_nothing_behind(tmp_path, capsys, monkeypatch):
    def diverge(model, *arguments, **how):
        instead_of_training(model, *arguments, **how)
        model.set_weights([weights + float("nan") for weights in model.get_weights()])
        return model

    monkeypatch.setattr(program.training, "fit", diverge)
    assert "diverged" in fails(["train", "--out", tmp_path / "run"], capsys, code=1)
    assert list(tmp_path.iterdir()) == []


def test_a_history_has_each_epoch_once(tmp_path):
    path = tmp_path / "history.csv"
    for epochs in ([0, 1, 2], [1, 2, 3], [0, 1]):  # killed in 3, from the backup of 0; a new phase
        history = program._History(path)
        for epoch in epochs:
            history.on_epoch_end(epoch, {"loss": 1 / (epoch + 1), "val, loss": len(epochs)})
    rows = path.read_text().splitlines()
    assert rows[0] == 'epoch,loss,"val, loss"'
    assert [row.split(",")[0] for row in rows[1:]] == ["0", "1", "2", "3", "0", "1"]


# ---- what is the user's


def quickly(monkeypatch):
    """Evaluates made-up answers, and draws nothing."""

    def answers(model, splits, split):
        labels = splits.arrays(split)[1]
        logits = np.random.default_rng(0).normal(size=(model.num_exits, len(labels), 10))
        logits[:, np.arange(len(labels)), labels] += np.arange(1, model.num_exits + 1)[:, None]
        return logits, labels

    monkeypatch.setattr(evaluation, "_predict", answers)
    monkeypatch.setattr(evaluation, "_draw", lambda *arguments: None)


def test_files_of_the_user_are_kept(run, capsys, monkeypatch):
    quickly(monkeypatch)
    mine = {"notes.txt": b"a", "model.tflite": b"b", "card.md": b"c", "pictures/own.png": b"d"}
    for name, content in mine.items():
        (run / name).write_bytes(content)
    main(["evaluate", str(run), "--budget-share", "0.9"])
    assert "card.md has been changed since it was written: kept as it is" in capsys.readouterr().out
    new = snapshot(run)
    assert {name: new[name] for name in mine} == mine
    assert "pictures/latency.png" not in new  # of the file before
    said = fails(["export", run], capsys)
    assert "model.tflite must be the file that was written here" in said
    main(["report", str(run)])
    assert (run / "card.md").read_bytes() == b"c"


def test_a_policy_made_by_hand_is_evaluated_and_kept(run, capsys, monkeypatch):
    quickly(monkeypatch)
    policy = ka.ExitPolicy([0.123456, 0])
    policy.save(run / "policy.json")
    before = snapshot(run)
    for command in ("evaluate", "calibrate"):
        said = fails([command, run, "--budget-share", "0.9"], capsys)
        assert "policy.json must be the file that was written here" in said
    assert snapshot(run) == before
    main(["evaluate", str(run)])
    assert "model.tflite held the thresholds before these: removed" in capsys.readouterr().out
    report = json.loads((run / "report.json").read_text())
    assert report["policy"]["wanted"] == "made by hand"
    assert [row["threshold"] for row in report["exits"]] == [0.123456, "-inf"]
    assert (run / "policy.json").read_bytes() == before["policy.json"]


def test_the_same_policy_keeps_the_exported_file(run, capsys, monkeypatch):
    quickly(monkeypatch)
    before = snapshot(run)
    main(["evaluate", str(run)])
    assert "removed" not in capsys.readouterr().out
    new = snapshot(run)
    assert new["model.tflite"] == before["model.tflite"]
    assert "device" in json.loads(new["report.json"])


# ---- whole or not at all


class Killed(BaseException):
    pass


def killed_at(moment, patch):
    """Ends the program, as it were, before so many changes of files."""
    left = [moment]

    def counting(function):
        def run(*arguments, **how):
            if not left[0]:
                raise Killed
            left[0] -= 1
            return function(*arguments, **how)

        return run

    for name in ("rename", "replace", "unlink", "rmdir", "mkdir"):
        patch.setattr(os, name, counting(getattr(os, name)))


def small_run(folder, mark):
    """Writes a run of made-up files that all hold a mark."""
    folder.mkdir(exist_ok=True)
    with runs.locked(folder):
        run = runs.Run(folder)
        with run.change(settings={"mark": mark}, splits={}) as new:
            new.forget({})
            for name in ("model.keras", "policy.json", "card.md", "pictures/curve.png"):
                new.path(name).write_text(mark)
            if mark == "old":
                new.path("model.tflite").write_text(mark)


def test_a_kill_at_any_moment_leaves_the_old_state_or_the_new_one(tmp_path):
    seen = set()
    for moment in range(200):
        folder = tmp_path / str(moment)
        small_run(folder, "old")
        (folder / "notes.txt").write_text("mine")
        with pytest.MonkeyPatch.context() as patch:
            killed_at(moment, patch)
            try:
                small_run(folder, "new")
                ended = True
            except Killed:
                ended = False
        with runs.locked(folder):  # what the next command does
            found = snapshot(folder)
            manifest = runs.Run(folder).manifest
        assert found.pop("notes.txt") == b"mine"
        found.pop("manifest.json")
        assert {*found} == {*manifest["files"]}, moment
        for name, content in found.items():
            assert hashlib.sha256(content).hexdigest() == manifest["files"][name]
        (mark,) = set(found.values())
        assert mark.decode() == manifest["settings"]["mark"]
        assert ("model.tflite" in found) == (mark == b"old")
        seen.add(mark)
        if ended:
            break
    assert ended
    assert moment > 10
    assert seen == {b"old", b"new"}


def test_a_failed_command_leaves_the_old_state(run, capsys, monkeypatch):
    before = snapshot(run)

    def fail(*arguments, **how):
        raise RuntimeError("broken")

    def half(model, path, *arguments, **how):
        path.write_text("half")
        fail()

    quickly(monkeypatch)
    monkeypatch.setattr(exporting, "export_tflite", half)
    monkeypatch.setattr(evaluation, "_draw", fail)
    fails(["export", run, "--threads", "2"], capsys, code=1)
    fails(["evaluate", run, "--budget-share", "0.9"], capsys, code=1)
    assert snapshot(run) == before
    assert not (run / runs.WORK).exists()


# ---- one command at a time


def test_a_folder_in_use_is_refused(run, capsys):
    before = snapshot(run)
    with runs.locked(run):
        for command in ("evaluate", "calibrate", "export", "report"):
            assert "must not be in use" in fails([command, run], capsys)
        fails(["train", "--out", run], capsys)
        main(["card", str(run)])
    assert snapshot(run) == before


@pytest.mark.subprocess
def test_a_lock_ends_with_its_process(run):
    program = "import sys; from pathlib import Path; from keras_adaptive.cli import folder as f\n"
    program += "with f.locked(Path(sys.argv[1])): print('held', flush=True); sys.stdin.read()"
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    with subprocess.Popen([sys.executable, "-c", program, run], **pipes) as other:
        assert other.stdout.readline() == "held\n"
        with pytest.raises(ValueError, match="must not be in use"), runs.locked(run):
            pass
        other.kill()
        other.wait()
        with runs.locked(run):
            pass


# ---- what others wrote


def test_a_run_without_a_manifest_opens(run, monkeypatch):
    quickly(monkeypatch)
    (run / "manifest.json").unlink()
    main(["report", str(run)])
    (run / "manifest.json").unlink()
    main(["evaluate", str(run), "--budget-share", "0.9"])
    assert not (run / "model.tflite").exists()
    assert not (run / "pictures" / "latency.png").exists()
    main(["card", str(run)])


@pytest.mark.parametrize(
    ("name", "content", "reason"),
    [
        ("report.json", "[" * 10000, "nested more than 100 deep"),
        ("report.json", '{"run": {}}', "`report.run.model` must be given"),
        ("manifest.json", "{}", 'no "format"'),
        ("manifest.json", '{"format": "keras_adaptive.Run", "version": 1}', "manifest.json must"),
        (
            "manifest.json",
            '{"format": "keras_adaptive.Run", "version": 1, "files": {"../a": "0"}}',
            "files.../a=0",
        ),
        ("policy.json", "[]", "policy.json"),
        ("policy.json", '{"format": "keras_adaptive.ExitPolicy", "version": 1}', "policy.json"),
        ("model.keras", "PK", "model.keras must be a network saved by `train`"),
        ("model.keras", "", "model.keras must be a network saved by `train`"),
    ],
)
def test_a_damaged_file_is_named(name, content, reason, run, capsys):
    (run / name).write_text(content)
    before = snapshot(run)
    said = fails(["evaluate", run], capsys)
    assert reason in said
    assert str(run / name) in said
    assert len(said) < 600
    assert snapshot(run) == before


def test_a_foreign_network_or_policy_is_named(run, capsys):
    keras.Sequential([keras.Input((3,)), keras.layers.Dense(2)]).save(run / "model.keras")
    said = fails(["export", run], capsys)
    assert f"Received: path={run}/model.keras (a Sequential, not an AdaptiveModel)" in said
    ka.ExitPolicy([0.5, 0.5, 0]).save(run / "policy.json")
    assert "must have one threshold per exit of the model. Received: 3" in fails(
        ["export", run], capsys
    )


@pytest.mark.slow
def test_a_network_for_other_data_is_named(run, capsys):
    model = ka.build_msdnet((4, 4, 3), 5, blocks=2, channels=2, growth_rate=1, head_channels=2)
    model.save(run / "model.keras")
    assert "(8, 8, 1, 10)" in fails(["export", run], capsys)


@pytest.mark.parametrize(
    "content", ["a,b\n1\n2,3,4\n", "", "a,b\n", "exit_0_accuracy\nx\n", "\x00"]
)
def test_a_damaged_history_is_named(content, run, capsys):
    (run / "history.csv").write_text(content)
    said = fails(["evaluate", run], capsys)
    assert "history.csv must hold a row per epoch" in said
    assert f"Received: path={run}/history.csv" in said


@pytest.mark.parametrize("where", ["remove", "write"])
@pytest.mark.parametrize("name", ["../secret", "/etc/passwd", "notes.txt", "pictures/../a.png", 3])
def test_a_new_state_touches_no_other_files(where, name, tmp_path):
    folder = tmp_path / "run"
    state = folder / runs.WORK / "next"
    state.mkdir(parents=True)
    for place in (tmp_path / "secret", folder / "notes.txt", folder / "a.png"):
        place.write_text("mine")
    plan = {"remove": [], "write": [], where: [name]}
    (state / "changes.json").write_text(json.dumps(plan))
    with pytest.raises(ValueError, match="must hold files of a run"), runs.locked(folder):
        pass
    assert (tmp_path / "secret").exists()
    assert (folder / "notes.txt").exists()
    assert (folder / "a.png").exists()


def test_a_new_state_is_not_taken_from_elsewhere(tmp_path):
    state, elsewhere = tmp_path / "run" / runs.WORK / "next", tmp_path / "elsewhere"
    state.mkdir(parents=True)
    elsewhere.mkdir()
    (elsewhere / "a.png").write_text("mine")
    (state / "pictures").symlink_to(elsewhere)
    (state / "changes.json").write_text('{"remove": [], "write": ["pictures/a.png"]}')
    with pytest.raises(ValueError, match="not a link"), runs.locked(tmp_path / "run"):
        pass
    assert (elsewhere / "a.png").exists()


def test_names_of_classes_are_no_mathematics(tmp_path):
    name = r"$\frac{$"
    with runs.locked(tmp_path), runs.Run(tmp_path).change() as new:
        report = {}
        runs.draw(new, report, "a", "a", lambda plotting: titled(name))
        assert new.path(report["pictures"]["a"]["file"]).stat().st_size > 1000


def titled(name):
    from matplotlib import pyplot

    axes = pyplot.figure().add_subplot()
    axes.set_title(name)
    return axes


@pytest.mark.parametrize("name", [runs.WORK, "pictures"])
def test_links_are_not_followed_to_where_others_files_are(name, run, tmp_path, capsys):
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "new-1").write_text("mine")
    shutil.rmtree(run / name, ignore_errors=True)
    (run / name).symlink_to(tmp_path / "elsewhere")
    assert "not a link" in fails(["report", run], capsys)
    assert os.listdir(tmp_path / "elsewhere") == ["new-1"]


def test_the_name_of_a_run_nearby_is_proposed(run, capsys):
    said = fails(["evaluate", run.parent / "cpoy"], capsys)
    assert f"Did you mean {run}?" in said


# ---- budgets


@pytest.mark.parametrize("command", ["calibrate", "evaluate"])
@pytest.mark.parametrize(
    ("option", "value"),
    [
        ("--budget", "2"),
        ("--budget-share", "0.001"),
        ("--worst-case", "2"),
        ("--worst-case-share", "0.001"),
    ],
)
def test_what_cannot_be_reached_names_the_least_that_can(command, option, value, run, capsys):
    before = snapshot(run)
    report = json.loads((run / "report.json").read_text())
    first, full = report["exits"][0]["macs"], report["exits"][-1]["macs"]
    said = fails([command, run, option, value], capsys)
    least = said.partition(" must be at least ")[2].partition(", the")[0]
    if "share" in option:
        assert first / full <= float(least) <= first / full + 1e-4
    else:
        assert float(least.replace(",", "")) == first
    assert f"`{option}` must be at least" in said
    assert snapshot(run) == before
    # and the least can be reached
    options = parse([command, str(run), option, least.replace(",", "")])
    checks.check_budgets(options, report["run"]["costs"])


@pytest.mark.parametrize(
    ("given", "budget", "worst_case"),
    [
        (["--budget", "30"], 30, None),
        (["--budget-share", "0.75"], 30, None),
        (["--budget", "30", "--worst-case", "40"], 30, 40),
        (["--budget-share", "0.75", "--worst-case-share", "1"], 30, 40),
        ([], 20, None),
    ],
)
def test_a_budget_is_in_macs_and_a_share_is_a_share(given, budget, worst_case, rng):
    logits, labels = rng.normal(size=(3, 50, 4)), rng.integers(0, 4, 50)
    options = parse(["calibrate", "run", *given])
    policy, wanted = evaluation._choose(options, np.array([10.0, 20.0, 40.0]), (logits, labels))
    assert policy.details["budget"] == budget
    assert policy.details["worst_case"] == worst_case
    assert wanted == f"budget {budget} MACs"


# ---- what is known without Keras is what the library says


def test_settings_are_those_of_the_recipes():
    library = {None: program.QUICK, **training.RECIPES}
    # those that count steps are of networks that the command does not train
    counted = {name for name, recipe in library.items() if getattr(recipe, "iterations", None)}
    assert set(checks.RECIPES) == set(library) - counted
    for name, values in checks.RECIPES.items():
        assert values == {key: getattr(library[name], key) for key in values}
    for regime in REGIMES:
        assert checks.PHASES.get(regime, 2) == regimes.PHASES.get(regime, 2)


def test_presets_are_those_of_the_library():
    assert tuple(sorted(PRESETS)) == tuple(sorted(KNOWN_PRESETS))


def test_settings_name_what_was_given(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "photos").mkdir()
    given = ["train", "--data", "photos/", "--image-size", "8x9", "--epochs", "3"]
    found = checks.settings(parse([*given, "--out", "a"]))
    assert found == checks.settings(parse([*given, "--out", "b", "--cache-dir", "c"]))
    assert found["data"] == str(tmp_path / "photos")
    assert found["image_size"] == [8, 9]
    assert (found["epochs"], found["batch_size"], found["schedule"]) == (3, 64, "cosine")


def test_a_policy_without_thresholds_is_evaluated(run, monkeypatch):
    quickly(monkeypatch)
    ka.PatiencePolicy(2).save(run / "policy.json")
    main(["evaluate", str(run)])
    report = json.loads((run / "report.json").read_text())
    assert [row["threshold"] for row in report["exits"]] == [None, None]
    assert report["policy"]["confidence"] == "PatiencePolicy"
    assert "confidence PatiencePolicy" in (run / "card.md").read_text()
    assert not (run / "model.tflite").exists()


def test_a_policy_says_its_unit_and_its_network(run, capsys, monkeypatch):
    quickly(monkeypatch)
    main(["calibrate", str(run), "--budget-share", "0.9"])
    policy = json.loads((run / "policy.json").read_text())
    assert policy["unit"] == "macs"
    policy["network"]["digest"] = "0" * 16
    (run / "policy.json").write_text(json.dumps(policy))
    assert "must belong to the network" in fails(["evaluate", run], capsys)


def test_the_benchmark_of_kills_sees_what_is_mixed(run, tmp_path):
    assert chaos.fits(run)
    for name in ("policy.json", "card.md", "report.md", "model.keras"):
        other = Path(shutil.copytree(run, tmp_path / name))
        content = (other / name).read_bytes()
        (other / name).write_bytes(content.replace(b"0", b"1", 1) + b" ")
        assert not chaos.fits(other)
    (run / "model.tflite").unlink()
    with pytest.raises(FileNotFoundError):
        chaos.fits(run)


@pytest.mark.parametrize(
    "arguments",
    [
        ["export", "RUN", "--threads", "0"],
        ["export", "RUN", "--quantize", "int4"],
        ["train", "--out", "RUN", "--learning-rate", "inf"],
        ["train", "--out", "RUN", "--learning-rate", "nan"],
        ["train", "--out", "RUN", "--learning-rate", "-1"],
        ["train", "--out", "RUN", "--batch-size", "0"],
        ["train", "--out", "RUN", "--train-limit", "-4"],
        ["train", "--out", "RUN", "--epochs", "0"],
        ["train", "--out", "RUN", "--regime", "mixed", "--epochs", "1"],
        ["train", "--out", "RUN", "--seed", "-1"],
        ["demo", "--out", "RUN", "--epochs", "0"],
        ["demo", "--out", "RUN", "--delta", "0"],
        ["evaluate", "RUN", "--budget", ".5"],
        ["evaluate", "RUN", "--budget", "nan"],
        ["evaluate", "RUN", "--budget-share", "1.5"],
        ["evaluate", "RUN", "--budget-share", "0"],
        ["evaluate", "RUN", "--worst-case", "0.5"],
        ["evaluate", "RUN", "--worst-case", "9", "--worst-case-share", "1"],
        ["evaluate", "RUN", "--budget", "9", "--budget-share", "1"],
        ["calibrate", "RUN", "--risk", "1"],
        ["calibrate", "RUN", "--risk", "0.1", "--delta", "2"],
        ["calibrate", "RUN", "--accuracy", "95"],
        ["calibrate", "RUN", "--method", "optimum"],
        ["calibrate", "RUN", "--method", "pcee"],
        ["calibrate", "RUN", "--risk", "0.1", "--method", "geometric"],
        ["evaluate", "RUN", "--budget-share", "0.9", "--delta", "0.1"],
        ["demo", "--out", "RUN", "--metric", "error"],
        ["evaluate", "RUN", "--worst-case-share", "0.001"],
        ["train", "--out", "RUN", "--data", ""],
        ["train", "--out", "RUN", "--train-limit", "9223372036854775807"],
        ["train", "--out", "RUN", "--batch-size", "1" + 20 * "0"],
        ["train", "--out", "RUN", "--epochs", "1" + 20 * "0"],
        ["evaluate", "RUN", "--budget", "1e31"],
        ["calibrate", "RUN", "--worst-case", "1e31"],
        ["train", "--out", ""],
        ["run", "RUN/model.tflite", "a.png", "--threads", "0"],
        ["run", "RUN/model.tflite", "a.png", "--deadline-ms", "-1"],
        ["run", "RUN/model.tflite", "a.png", "--deadline-ms", "soon"],
    ],
    ids=lambda arguments: " ".join(arguments[:1] + arguments[2:]),
)
def test_what_an_option_must_be_is_said_before_anything_is_done(arguments, run, capsys):
    before = snapshot(run)
    said = fails([argument.replace("RUN", str(run)) for argument in arguments], capsys)
    assert "error: " in said
    assert arguments[-2].lstrip("-") in said.rpartition("error: ")[2]
    assert snapshot(run) == before


# ---- the data of a run


@pytest.fixture(scope="module")
def with_photos(tmp_path_factory):
    """The folder of a run on photos, whose network is drawn at random, and of the photos."""
    folder, rng = tmp_path_factory.mktemp("photos"), np.random.default_rng(0)
    for label, name in enumerate(("cat", "dog")):
        (folder / "photos" / name).mkdir(parents=True)
        for i in range(7):
            pixels = rng.integers(0, 100, (8, 8, 3)) + 100 * label
            image = Image.fromarray(pixels.astype("uint8"))
            image.save(folder / "photos" / name / f"{i}.png")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        patch.setattr(program.training, "fit", lambda model, *given, **how: model)
        patch.setattr(shutil, "copyfile", lambda source, target: target.write_text(HISTORY))
        main(["train", "--data", "photos", "--out", "run", "--epochs", "1"])
    return folder


@pytest.fixture
def photos(with_photos, tmp_path):
    """A copy of a run on photos, and of the photos, as if it had been trained on these."""
    for name in ("run", "photos"):
        shutil.copytree(with_photos / name, tmp_path / name)
    manifest = tmp_path / "run" / "manifest.json"
    manifest.write_text(manifest.read_text().replace(str(with_photos), str(tmp_path)))
    return tmp_path / "run", tmp_path / "photos"


HISTORY = "epoch,exit_0_accuracy\n0,0.5\n"


def test_a_run_finds_its_data_from_every_folder(photos, tmp_path, monkeypatch):
    run, folder = photos
    other = tmp_path / "other" / "photos"
    shutil.copytree(folder, other)
    for path in other.rglob("*.png"):
        Image.new("RGB", (8, 8), "white").save(path)
    monkeypatch.chdir(other.parent)
    with runs.opened(run) as opened:
        assert opened.open()[2].images("test", 1)[0].min() < 200
    folder.rename(tmp_path / "moved")  # then it is where the report says, seen from here
    with runs.opened(run) as opened:
        assert opened.open()[2].images("test", 1)[0].min() == 255


def test_data_that_is_gone_is_said_to_be(photos, tmp_path, capsys):
    run, folder = photos
    folder.rename(tmp_path / "moved")
    said = fails(["evaluate", run], capsys)
    assert f"The data must be where it was, {folder}" in said
    assert f"{run}/report.json must say so, as `run.source`" in said


def test_results_without_their_network_are_not_replaced(run, capsys, monkeypatch):
    (run / "model.keras").unlink()
    before = snapshot(run)
    said = fails(["train", "--out", run, *short_run.ARGUMENTS, "--epochs", "3"], capsys)
    assert "epochs: 2, not 3" in said
    assert snapshot(run) == before
    monkeypatch.setattr(program.training, "fit", short_run.eagerly)
    train(run)  # the same one: its network is made again
    assert (run / "model.keras").exists()


def test_a_report_that_was_edited_names_the_data(photos, tmp_path):
    run, folder = photos
    shutil.copytree(folder, tmp_path / "new")
    text = (run / "report.json").read_text().replace('"photos"', json.dumps(str(tmp_path / "new")))
    (run / "report.json").write_text(text)
    shutil.rmtree(folder / "cat")
    for _ in range(2):  # also when it was written again
        with runs.opened(run) as opened:
            assert opened.open()[2].size("test") == 2
        main(["report", str(run)])


def test_other_classes_than_those_of_training_are_refused(photos, capsys):
    run, folder = photos
    (folder / "cat").rename(folder / "wolf")
    for command in (["evaluate", run], ["calibrate", run, "--budget-share", "0.9"]):
        said = fails(command, capsys)
        assert "must have the classes that the network was trained on" in said
        assert "Received: dog where cat was" in said


def test_pixels_are_standardized_as_in_training_whatever_the_data_is_now(photos, capsys):
    run, folder = photos
    with runs.opened(run) as opened:
        before = opened.open()[2]
    for path in (folder / "cat").iterdir():
        shutil.copy(path, path.with_name(f"more{path.name}"))
    with runs.opened(run) as opened:
        after = opened.open()[2]
    assert (after.mean, after.std) == (before.mean, before.std)
    said = capsys.readouterr().out
    assert f"train had 10 images, now {after.size('train')}" in said
    assert "images that the network has learned from may be among the others" in said


def test_an_evaluation_says_of_how_many_images_it_is(photos, monkeypatch):
    run, folder = photos
    monkeypatch.setattr(evaluation, "_draw", lambda *arguments: None)
    for path in [*(folder / "cat").iterdir(), *(folder / "dog").iterdir()]:
        for i in range(4):
            shutil.copy(path, path.with_name(f"more{i}{path.name}"))
    main(["evaluate", str(run), "--budget-share", "0.9"])
    report = json.loads((run / "report.json").read_text())
    with runs.opened(run) as opened:
        now = opened.open()[2]
    sizes = {"train": 10, "calibrate": now.size("calibrate"), "test": now.size("test")}
    assert report["run"]["splits"] == sizes
    assert sizes["test"] > 2
    assert f"On {sizes['test']} test images" in (run / "report.md").read_text()


def test_data_in_the_folder_of_here_has_the_name_of_the_folder(photos, monkeypatch):
    _, folder = photos
    options = parse(["train", "--data", "."])
    options.command = "train"
    monkeypatch.chdir(folder)
    model = ka.build_msdnet((8, 8, 3), 2, **program.DIGITS_NETWORK)
    report = program._describe(options, runs.load_data({"data": "."}), model, {}, program.QUICK)
    assert report["run"]["data"] == "photos"


def test_a_worst_case_alone_chooses_a_policy_that_keeps_it(run, monkeypatch):
    quickly(monkeypatch)
    before = json.loads((run / "report.json").read_text())
    share = before["exits"][0]["macs"] / before["exits"][-1]["macs"] + 0.01
    main(["evaluate", str(run), "--worst-case-share", str(share)])
    report = json.loads((run / "report.json").read_text())
    assert report["result"]["worst_macs"] == before["exits"][0]["macs"]
    assert before["policy"]["worst_case"] is None
    full = before["exits"][-1]["macs"]
    assert report["policy"]["worst_case"] == pytest.approx(share * full)


def test_a_policy_of_the_user_is_known_before_anything_is_computed(run, capsys, monkeypatch):
    (run / "policy.json").write_text("mine")
    monkeypatch.setattr(runs.Run, "open", lambda run: pytest.fail("it was opened"))
    for options in ([], ["--budget-share", "0.9"]):
        said = fails(["calibrate", run, *options], capsys)
        assert "policy.json must be the file that was written here" in said


def test_a_run_among_the_photos_is_no_class(photos):
    run, folder = photos
    (run / "pictures").mkdir()
    Image.new("RGB", (99, 99)).save(run / "pictures" / "curve.png")
    shutil.move(run, folder / "run")
    with runs.opened(folder / "run") as opened:
        splits = opened.open()[2]
    assert splits.class_names == ["cat", "dog"]
    assert splits.size("train") == 10


def test_the_home_folder_is_found_where_no_shell_has_done_it(tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    options = parse(["train", "--out=~/run", "--data=~/photos", "--data-dir=~/images"])
    assert options.out == tmp_path / "run"
    assert options.data == str(tmp_path / "photos")
    assert options.data_dir == tmp_path / "images"


def test_what_no_report_holds_is_known_before_training(photos, capsys, monkeypatch):
    _, folder = photos
    rows = [f"{label}/{i}.png,{label * 4000}" for label in ("cat", "dog") for i in range(7)]
    (folder / "labels.csv").write_text("\n".join(["path,label", *rows]) + "\n")
    monkeypatch.setattr(program.training, "fit", lambda *given, **how: pytest.fail("it trained"))
    said = fails(["train", "--data", folder / "labels.csv", "--out", folder / "new"], capsys)
    assert "`report.run.class_names[0]` must be a text of at most 10,000 characters" in said
    assert not (folder / "new").exists()
