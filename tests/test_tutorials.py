"""Every tutorial runs, on little data, and ends in a picture or a table."""

import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import pytest

ROOT = Path(__file__).parent.parent
TUTORIALS = sorted((ROOT / "tutorials").glob("[0-9]*.py"))
CIFAR10 = ROOT.parent / "shared" / "data" / "cifar10_jpeg.tar.xz"


def run(tutorial, folder):
    known = {**os.environ, "MPLBACKEND": "Agg", "PYTHONWARNINGS": "ignore"}
    if CIFAR10.exists():  # then some start from the trained network of the library
        known["CIFAR10_DIR"] = str(CIFAR10)
    return subprocess.run(
        [sys.executable, tutorial], cwd=folder, env=known, capture_output=True, text=True
    )


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_runs_to_its_picture(tutorial, tmp_path):
    done = run(tutorial, tmp_path)
    assert done.returncode == 0, done.stderr[-3000:]
    picture = re.search(r"picture: (tutorial_runs/\S+\.png)", done.stdout)
    assert picture, done.stdout
    assert (tmp_path / picture[1]).stat().st_size > 5000


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_is_prose_and_code_of_readable_length(tutorial):
    assert 60 <= len(tutorial.read_text().splitlines()) <= 150
    cells = jupytext.read(tutorial).cells
    kinds = [cell.cell_type for cell in cells]
    assert kinds[0] == "markdown"
    assert cells[0].source.startswith(f"# {int(tutorial.stem[:2])}. ")
    assert kinds.count("markdown") >= 4
    assert kinds[-1] == "code"


def test_are_numbered_without_a_gap():
    assert [int(path.stem[:2]) for path in TUTORIALS] == list(range(1, len(TUTORIALS) + 1))
