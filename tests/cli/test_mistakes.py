"""Usual mistakes end with exit code 2 and one line; nothing changes."""

import pytest

from benchmarks import mistakes
from keras_adaptive.cli import main


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("mistakes")
    mistakes.prepare(folder)
    return folder


@pytest.mark.parametrize(
    "arguments", [arguments for _, arguments in mistakes.MISTAKES], ids=" ".join
)
def test_a_mistake_is_answered(arguments, folder, capsys, monkeypatch):
    monkeypatch.chdir(folder)
    before = mistakes.contents(folder)
    with pytest.raises(SystemExit) as stop:
        main(arguments)
    assert stop.value.code == 2
    *_, said = capsys.readouterr().err.splitlines()
    assert said.startswith("keras-adaptive")
    assert "error: " in said
    assert mistakes.contents(folder) == before
