"""`score` on the command line: what it says, its exit codes, and Beam's options."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest
from PIL import Image

from keras_adaptive.cli import main

ROOT = Path(__file__).parents[2]
MODEL = str(ROOT / "tflite" / "testdata" / "files" / "float32.tflite")


@pytest.fixture(autouse=True)
def photos(tmp_path, monkeypatch):
    """A folder with nine pictures of a class and one that is none."""
    monkeypatch.chdir(tmp_path)
    rng = np.random.default_rng(0)
    (tmp_path / "photos" / "fox").mkdir(parents=True)
    for i in range(9):
        pixels = rng.integers(0, 256, (10, 12), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / "photos" / "fox" / f"{i}.png")
    (tmp_path / "photos" / "bad.jpg").write_bytes(b"no picture")


def score(*arguments, files=("photos",), output="out"):
    main(["score", *files, "--model", MODEL, "--output", output, "--workers", "1", *arguments])


def refused(capsys, *arguments, **how):
    with pytest.raises(SystemExit) as end:
        score(*arguments, **how)
    assert end.value.code == 2
    return capsys.readouterr().err


def rows(output="out"):
    paths = sorted(Path(output).glob("**/*.parquet"))
    return [row for path in paths for row in pq.read_table(path).to_pylist()]


def test_a_line_says_what_came_out(capsys):
    score("--shard-size", "4")
    found = rows()
    assert [row["key"] for row in found] == [f"photos/fox/{i}.png" for i in range(9)]
    assert list(found[0]) == ["key", "label", "class_name", "probability", "exit", "cost"]
    line = capsys.readouterr().out
    right = np.mean([row["class_name"] == "fox" for row in found])
    for part in (
        "out: 9 samples; 1 could not be read (errors.jsonl); ",
        f"{right:.2%} accuracy on 9 labeled; ",
        f"{np.mean([row['cost'] for row in found]):,.0f} MACs on average; exit ",
    ):
        assert part in line
    (error,) = [json.loads(line) for line in Path("out/errors.jsonl").read_text().splitlines()]
    assert error.keys() == {"file", "reason"}
    assert error["file"] == "photos/bad.jpg"


def test_what_a_shell_has_expanded_is_the_same(capsys):
    files = [f"photos/fox/{i}.png" for i in range(9)]
    score(files=files, output="many")
    score(files=["photos/fox/?.png"], output="pattern")
    assert rows("many") == rows("pattern")
    assert "could not be read" not in capsys.readouterr().out


def test_the_summary_as_json(capsys):
    score("--json")
    summary = json.loads(capsys.readouterr().out)
    assert summary == json.loads(Path("out/summary.json").read_text())
    assert (summary["samples"], summary["errors"]) == (9, 1)


def test_other_settings_in_the_folder_are_refused_with_the_difference(capsys):
    score()
    before = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    assert "shard_size: 10000, not 4" in refused(capsys, "--shard-size", "4")
    assert "pattern: ['photos'], not ['photos/fox']" in refused(capsys, files=["photos/fox"])
    after = {path: path.read_bytes() for path in Path("out").rglob("*") if path.is_file()}
    assert after == before


def test_what_is_given_wrongly_is_named(capsys):
    assert "Did you mean --shard-size?" in refused(capsys, "--shards-size", "4")
    assert "Received: 0" in refused(capsys, "--shard-size", "0")
    assert "nothing, which names 0 files" in refused(capsys, files=["nothing"])
    assert "Received: --runer. Did you mean '--runner'?" in refused(capsys, "--runer", "x")
    assert not Path("out").exists()


def test_options_of_beam_make_beam_compute(capsys):
    score(output="one")
    score("--runner", "DirectRunner", "--direct_num_workers=1", output="beam")
    assert rows("beam") == rows("one")
    out, err = capsys.readouterr()
    assert "WARNING" not in err
    first, second = [line for line in out.splitlines() if not line.startswith("score: ")]
    assert first.removeprefix("one") == second.removeprefix("beam")


@pytest.mark.slow
@pytest.mark.subprocess
def test_neither_tensorflow_nor_beam_is_loaded():
    program = (
        "import sys; from keras_adaptive.cli import main; main(sys.argv[1:]); "
        "print(sorted({'tensorflow', 'keras', 'apache_beam'} & set(sys.modules)))"
    )
    command = [sys.executable, "-c", program, "score", "photos", "--model", MODEL]
    run = subprocess.run([*command, "--output", "out"], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == "[]"
