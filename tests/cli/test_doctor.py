"""`doctor` says what is there and what is missing, also where nothing works."""

import importlib.metadata
import json
import sys

from keras_adaptive.cli import doctor, main


def test_what_is_said_is_what_python_knows(capsys):
    main(["doctor", "--json"])
    said = capsys.readouterr()
    found = json.loads(said.out)
    assert found["packages"]["numpy"] == importlib.metadata.version("numpy")
    assert found["packages"]["keras"] in found["backend"]
    assert found["extras"]["data"] == []
    assert found["interpreter"] == "ai_edge_litert"
    assert found["engine"].startswith('engine "litert"')
    assert "extras" in said.err
    assert "keras_adaptive[" not in said.out


def test_an_extra_misses_what_is_absent_or_old():
    requirements = [
        "numpy>=2; extra == 'plot'",
        "numpy>=999; extra == 'data'",
        "not-there; extra == 'tune'",
        "not-there-either",  # of the library itself, not of an extra
        "not-there; extra == 'tune' and python_version < '3'",
    ]
    found = doctor.extras(requirements)
    assert found["plot"] == []
    assert found["data"] == [f"numpy>=999 (not {importlib.metadata.version('numpy')})"]
    assert found["tune"] == ["not-there"]
    assert "compress" not in found  # nothing is asked for


def test_every_extra_of_the_package_is_known():
    told = {*importlib.metadata.metadata("keras_adaptive").get_all("Provides-Extra")}
    assert {*doctor.USES} <= told
    assert told - {*doctor.USES} <= {"all", "docs", "models", "ray", "runtime", "test"}


def test_a_broken_installation_is_told_of(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "keras", None)
    monkeypatch.setitem(sys.modules, "ai_edge_litert.interpreter", None)
    monkeypatch.setitem(sys.modules, "tflite_runtime.interpreter", None)
    main(["doctor"])
    text = capsys.readouterr().out
    assert "pip install" in text
    assert "Keras cannot be imported" in text


def test_an_error_that_says_nothing_has_a_name(monkeypatch):
    def fail():
        raise AssertionError

    monkeypatch.setattr("keras.backend.backend", fail)
    assert doctor.engines()["backend"] == "none (AssertionError: )"


def test_instructions_are_read_or_not_known(tmp_path):
    path = tmp_path / "cpuinfo"
    path.write_text("model name\t: x\nflags\t\t: sse avx2 avx512_bf16 fma\nbugs\t: avx512f\n")
    assert doctor.instructions(path) == ["AVX2", "bfloat16"]
    assert doctor.instructions(tmp_path / "none") == []
