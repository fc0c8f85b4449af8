"""Every tutorial runs, on little data, and ends in a picture or a table."""

import ast
import importlib
import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import jupytext
import nbformat
import numpy as np
import pytest
from PIL import Image

from docs import notebooks

HOME = "keras-adaptive/keras_adaptive"
ROOT = Path(__file__).parent.parent
TUTORIALS = sorted((ROOT / "tutorials").glob("[0-9]*.py"))
OURS = ("keras_adaptive", "anytime_tflite")


def check_picture(path):
    """Something is drawn in color, and not only at the edges: axes and texts are black."""
    with Image.open(path) as image:
        pixels = np.asarray(image.convert("RGB"), int)
    height, width, _ = pixels.shape
    assert min(height, width) >= 200, (height, width)
    inside = pixels[height // 10 : -height // 10, width // 10 : -width // 10]
    colored = inside[np.ptp(inside, axis=-1) > 40]
    assert len(colored) > 0.001 * inside.shape[0] * inside.shape[1]
    assert len(colored) > 0.002 * inside[..., 0].size


@pytest.mark.slow
@pytest.mark.tutorial
@pytest.mark.subprocess
@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_runs_to_its_picture(tutorial, tmp_path):
    known = {**os.environ, "MPLBACKEND": "Agg", "PYTHONWARNINGS": "ignore"}
    done = subprocess.run(
        [sys.executable, tutorial], cwd=tmp_path, env=known, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr[-3000:]
    picture = re.search(r"picture: (tutorial_runs/\S+\.png)", done.stdout)
    assert picture, done.stdout
    check_picture(tmp_path / picture[1])


def test_axes_without_data_are_no_picture(tmp_path):
    import matplotlib.pyplot as plt

    for draws in (False, True):
        figure, ax = plt.subplots()
        if draws:
            ax.plot([0, 1, 2], [0, 1, 4], "-o")
        ax.set(title="accuracy", xlabel="cost (MACs)")
        figure.savefig(tmp_path / "picture.png", dpi=100)
        plt.close(figure)
        if draws:
            check_picture(tmp_path / "picture.png")
        else:
            with pytest.raises(AssertionError):
                check_picture(tmp_path / "picture.png")


def reached(tree):
    """Returns what a program reaches of our packages: dotted name to object, and its calls.

    A name or an argument that is not there raises an error.
    """
    known, found = {}, {}
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                if alias.name.split(".")[0] in OURS:
                    known[alias.asname or alias.name] = importlib.import_module(alias.name)
        elif isinstance(node, ast.ImportFrom) and node.module.split(".")[0] in OURS:
            module = importlib.import_module(node.module)
            for alias in node.names:
                known[alias.asname or alias.name] = found[alias.name] = getattr(module, alias.name)

    def resolve(node):
        if isinstance(node, ast.Name):
            return known.get(node.id)
        owner = resolve(node.value) if isinstance(node, ast.Attribute) else None
        if owner is None or not (inspect.ismodule(owner) or inspect.isclass(owner)):
            return None
        found[ast.unparse(node)] = getattr(owner, node.attr)
        return found[ast.unparse(node)]

    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute):
            resolve(node)
        if isinstance(node, ast.Call) and callable(resolve(node.func)):
            arguments = inspect.signature(resolve(node.func)).parameters
            if not any(p.kind == p.VAR_KEYWORD for p in arguments.values()):
                unknown = {k.arg for k in node.keywords if k.arg is not None} - set(arguments)
                assert not unknown, f"{ast.unparse(node.func)} has no arguments {unknown}"
    return found


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_names_what_the_library_has(tutorial):
    compile(tutorial.read_text(), tutorial, "exec")
    assert len(reached(ast.parse(tutorial.read_text()))) >= 3


@pytest.mark.parametrize(
    ("line", "error"),
    [
        ("ka.build_mobilenet()", AttributeError),
        ("ka.plotting.curve_of_costs(1)", AttributeError),
        ("ka.calibrate(1, 2, 3, budgets=4)", AssertionError),
        ("from keras_adaptive.training import Teacher", AttributeError),
    ],
)
def test_a_name_that_is_gone_is_found(line, error):
    with pytest.raises(error):
        reached(ast.parse(f"import keras_adaptive as ka\n{line}"))


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_is_prose_and_code_of_readable_length(tutorial):
    assert 60 <= len(tutorial.read_text().splitlines()) <= 170
    cells = jupytext.read(tutorial).cells
    kinds = [cell.cell_type for cell in cells]
    assert kinds[0] == "markdown"
    assert cells[0].source.startswith(f"# {int(tutorial.stem[:2])}. ")
    assert kinds.count("markdown") >= 4
    assert kinds[-1] == "code"


def test_are_numbered_without_a_gap():
    assert [int(path.stem[:2]) for path in TUTORIALS] == list(range(1, len(TUTORIALS) + 1))


@pytest.mark.parametrize("tutorial", TUTORIALS, ids=lambda path: path.stem)
def test_becomes_a_notebook_that_opens_in_colab(tutorial):
    made = notebooks.notebook(tutorial)
    badge, install, title = made.cells[:3]
    assert f"(https://colab.research.google.com/github/{HOME}/" in badge.source
    assert badge.source.endswith(f"/tutorials/{tutorial.stem}.ipynb)")
    assert install.cell_type == "code"
    assert title.source.startswith(f"# {int(tutorial.stem[:2])}. ")
    assert made.metadata.kernelspec.name == "python3"
    assert nbformat.writes(made) == nbformat.writes(notebooks.notebook(tutorial))
