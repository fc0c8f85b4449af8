"""The README does what it says."""

import ast
import re
from pathlib import Path

import pytest
from test_tutorials import reached

from benchmarks import readme

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()


PAGES = {path.name: path.read_text() for path in readme.PAGES}


def blocks():
    return re.findall(r"```python\n(.*?)```", README, re.DOTALL)


def test_it_is_short_and_begins_with_what_runs():
    assert len(README.split()) <= 900
    assert README[: README.index("```\n", README.index("```python"))].count("\n") < 20
    assert "pip install keras_adaptive" in "\n".join(README.splitlines()[:25])


def test_the_blocks_name_what_the_library_has():
    found = reached(ast.parse("\n".join(blocks())))
    assert {"ka.data.load", "ka.build_msdnet", "ka.export_tflite", "AnytimeModel"} <= set(found)


@pytest.mark.slow
def test_the_blocks_run_one_after_the_other(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    names = {}
    for block in blocks():
        block = block.replace("epochs=20", "epochs=1, verbose=0").replace("blocks=4", "blocks=2")
        exec(compile(block, "README.md", "exec"), names)
    assert names["answer"].stopped_by
    assert (tmp_path / "digits.tflite").exists()


def test_every_number_is_read_from_a_result():
    for text in PAGES.values():
        assert readme.filled(text) == text, "run `make readme`"
    named = re.findall(r"<!-- measured: (\w+) -->", "".join(PAGES.values()))
    assert sorted(named) == sorted(readme.BLOCKS)
    elsewhere = readme.BLOCK.sub("", README)
    assert not re.findall(r"\d\s?%|\d+\.\d+ times|\d ms\b", elsewhere)


def test_that_a_number_of_ones_own_is_seen():
    number = re.search(r"\d+\.\d+ % accuracy", README)[0]
    assert readme.filled(README.replace(number, "99.99 % accuracy")) == README


def places():
    """Yields what the pages link to: of the project, by full addresses."""
    home = readme.place("").removesuffix("blob/main/")
    raw = home.replace("github.com", "raw.githubusercontent.com")
    for text in PAGES.values():
        for address in re.findall(r"\]\(([^)]*)\)", text):
            if address.startswith((home, raw)):
                yield address.removeprefix(f"{home}blob/").removeprefix(raw).removeprefix("main/")
            else:
                assert address.startswith("https://img.shields.io/badge/"), address


def test_every_place_named_is_there():
    found = list(places())
    assert len(found) > 20
    for place in found:
        assert (ROOT / place).exists(), place


def test_the_badges_are_true():
    badges = dict(re.findall(r"img\.shields\.io/badge/(\w+)-([^)]+)-blue", README))
    setup = (ROOT / "setup.cfg").read_text()
    assert f"python_requires = >={badges['python'].removesuffix('+')}" in setup
    assert f"license = {badges['license'].replace('_', '-')}" in setup


@pytest.mark.parametrize("target", re.findall(r"`make (\w+)`", README))
def test_every_command_named_is_there(target):
    assert re.search(rf"^{target}:", (ROOT / "Makefile").read_text(), re.MULTILINE)
