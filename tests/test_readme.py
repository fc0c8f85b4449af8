"""The README does what it says."""

import ast
import re
from pathlib import Path

import pytest
from test_tutorials import reached

from benchmarks import readme

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


def blocks():
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_a_runnable_block_comes_before_line_20():
    assert README[: README.index("```python")].count("\n") < 10
    assert README[: README.index("```\n", README.index("```python"))].count("\n") < 20


def test_the_blocks_name_what_the_library_has():
    found = reached(ast.parse("\n".join(blocks())))
    assert {"ka.data.load", "ka.build_msdnet", "ka.export_tflite", "AnytimeModel"} <= set(found)


@pytest.mark.slow
def test_the_blocks_run_one_after_the_other(tmp_path, monkeypatch, digits):
    monkeypatch.chdir(tmp_path)
    names = {"image": digits.images("test", 1)[0][0]}
    for block in blocks():
        block = block.replace("epochs=20", "epochs=1, verbose=0").replace("blocks=4", "blocks=2")
        exec(compile(block, "README.md", "exec"), names)
    assert names["answer"].stopped_by
    assert (tmp_path / "digits.tflite").exists()


def test_every_number_is_read_from_a_result():
    assert readme.filled(README) == README, "run `make readme`"
    assert set(re.findall(r"<!-- measured: (\w+) -->", README)) == set(readme.BLOCKS)
    elsewhere = readme.BLOCK.sub("", README)
    assert not re.findall(r"\d\s?%|\d+\.\d+ times|\d ms\b", elsewhere)


def test_that_a_number_of_ones_own_is_seen():
    number = re.search(r"\d+\.\d+ % accuracy", README)[0]
    assert readme.filled(README.replace(number, "99.99 % accuracy")) == README


@pytest.mark.parametrize(
    "place", re.findall(r"\]\(([^)h][^)]*)\)|`(keras_adaptive/[^`]*)`", README)
)
def test_every_place_named_is_there(place):
    assert (ROOT / (place[0] or place[1])).exists()


@pytest.mark.parametrize("target", re.findall(r"`make (\w+)`", README))
def test_every_command_named_is_there(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
