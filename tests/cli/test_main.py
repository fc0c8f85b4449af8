"""The command line: help, errors and exit codes, and what it does not import."""

import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from PIL import Image

from keras_adaptive import calibration
from keras_adaptive.calibration import risk_control
from keras_adaptive.cli import document, main
from keras_adaptive.cli.arguments import COMMANDS, METHODS, METRICS, REGIMES
from keras_adaptive.models.pretrained import FOLDER
from keras_adaptive.training import regimes

# runs the command line, then says what was imported
PROGRAM = """
import sys
from keras_adaptive.cli import main
try:
    main(sys.argv[1:])
finally:
    print("modules:", *sys.modules)
"""


def imported(*arguments):
    """Runs one command in a Python of its own: its exit code, and the modules it imported."""
    run = subprocess.run(
        [sys.executable, "-c", PROGRAM, *arguments], capture_output=True, text=True
    )
    return run.returncode, set(run.stdout.rpartition("modules:")[2].split())


@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("arguments", "code"),
    [(["--help"], 0), (["train", "--help"], 0), (["--version"], 0), (["trian"], 2)],
)
def test_answers_at_once(arguments, code):
    ended, modules = imported(*arguments)
    assert ended == code
    assert "keras_adaptive.cli.arguments" in modules
    assert not modules & {"tensorflow", "keras", "numpy", "scipy", "matplotlib"}


@pytest.mark.slow
@pytest.mark.subprocess
def test_a_device_needs_no_keras(exported, tmp_path):
    Image.fromarray(np.zeros((8, 8), "uint8")).save(tmp_path / "digit.png")
    ended, modules = imported("run", str(exported), str(tmp_path / "digit.png"))
    assert ended == 0
    assert {"anytime_tflite", "PIL"} <= modules
    assert not modules & {"tensorflow", "keras", "scipy", "matplotlib"}


@pytest.mark.subprocess
def test_the_module_is_the_command():
    run = subprocess.run(
        [sys.executable, "-m", "keras_adaptive", "trian"], capture_output=True, text=True
    )
    assert run.returncode == 2
    assert run.stderr.startswith("usage: keras-adaptive ")
    assert "keras-adaptive: error: argument command: invalid choice: 'trian'" in run.stderr


def test_choices_are_those_of_the_library():
    assert METHODS == calibration.METHODS
    assert METRICS == risk_control.METRICS
    without_gates = [name for name in regimes.REGIMES if name not in ("gated", "stopping")]
    assert list(REGIMES) == without_gates


@pytest.mark.parametrize("command", [[], *([name] for name in COMMANDS)])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as stop:
        main([*command, "--help"])
    assert stop.value.code == 0
    text = capsys.readouterr().out
    assert "usage: keras-adaptive" in text
    assert "examples:\n  keras-adaptive " in text


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["evaluate", "missing"], "The folder must hold a run"),
        (["export", "missing"], "The folder must hold a run"),
        (["calibrate", "missing", "--budget", "0.5"], "full network's cost: --budget-share 0.5"),
        (["card", "missing"], "The folder must hold a run"),
        (["train", "--image-size", "small"], "must be 64, or 64x48"),
        (["evaluate", "missing", "--budget", "0.5", "--risk", "0.1"], "not allowed with"),
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


def test_exit_codes_tell_what_went_wrong(monkeypatch, capsys):
    for error, code in ((KeyboardInterrupt(), 130), (RuntimeError("broken"), 1)):

        def fail(options, error=error):
            raise error

        monkeypatch.setattr("keras_adaptive.cli.document.card", fail)
        with pytest.raises(SystemExit) as stop:
            main(["card", "run"])
        assert stop.value.code == code
    assert "error: broken" in capsys.readouterr().err


@pytest.mark.subprocess
def test_who_reads_may_stop_reading(tmp_path):
    (tmp_path / "report.json").write_bytes((FOLDER / "cifar10" / "report.json").read_bytes())
    reads, writes = os.pipe()
    os.close(reads)
    command = [sys.executable, "-m", "keras_adaptive", "card", str(tmp_path)]
    done = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE, text=True)
    os.close(writes)
    assert (done.returncode, done.stderr) == (1, "")


def test_a_picture_that_is_gone_is_named_without_a_traceback(tmp_path, monkeypatch, capsys):
    import tensorflow as tf

    from keras_adaptive.data.image_folder import _read, _reader

    path = str(tmp_path / "gone.png")
    read = _reader(lambda path: _read(path, None), (8, 8, 3))
    images = tf.data.Dataset.from_tensors((path, 0)).map(read)
    monkeypatch.setattr(document, "card", lambda options: list(images))
    with pytest.raises(SystemExit, match="1"):
        main(["card", "run"])
    said = capsys.readouterr().err
    assert said == (
        "keras-adaptive: error: A picture must be an image file that can be read. "
        f"Received: {path} (no such file)\n"
    )


def test_json_alone_is_on_stdout(capsys):
    main(["card", str(FOLDER / "cifar10")])
    text = capsys.readouterr().out
    main(["card", str(FOLDER / "cifar10"), "--json"])
    said = capsys.readouterr()
    assert json.loads(said.out) == {"card": text}
    assert said.err == text


def test_shells_complete_commands_and_options(capsys, monkeypatch):
    with pytest.raises(SystemExit, match="0"):
        main(["--print-completion", "bash"])
    script = capsys.readouterr().out
    assert "doctor" in script
    assert "--budget-share" in script
    monkeypatch.setitem(sys.modules, "shtab", None)
    with pytest.raises(SystemExit, match="2"):
        main(["--print-completion", "bash"])
    assert "keras_adaptive[completion]" in capsys.readouterr().err


@pytest.mark.parametrize("command", ["train --data", "demo --out", "evaluate", "report", "card"])
def test_what_a_report_cannot_hold_is_refused_before_work(command, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(SystemExit, match="2"):
        main([*command.split(), "caf\udce9"])
    assert r"arguments must be in UTF-8, as the report of a run holds them" in (
        said := capsys.readouterr().err
    )
    assert r"Received: 'caf\udce9'" in said


@pytest.mark.parametrize("encoding", ["utf-8", "ascii", "cp1252"])
@pytest.mark.parametrize("as_json", [True, False])
def test_any_name_can_be_printed_in_any_encoding(encoding, as_json, monkeypatch):
    names = "\u4e2d \U0001f600 \udce9"

    def card(options):
        print(names)
        return {"card": names}

    out = io.TextIOWrapper(io.BytesIO(), encoding)
    monkeypatch.setattr(sys, "stdout", out)
    monkeypatch.setattr(document, "card", card)
    main(["card", "run", *(["--json"] if as_json else [])])
    out.flush()
    said = out.buffer.getvalue().decode(encoding)
    if as_json:
        assert json.loads(said) == {"card": names}
    else:
        assert said.endswith("\\udce9\n")
        assert names[0] in said or encoding != "utf-8"
