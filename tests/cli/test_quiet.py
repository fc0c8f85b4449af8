"""What is noise is not shown, what is not noise is."""

import os
import sys
import warnings

import pytest

from keras_adaptive.cli.quiet import quiet

NOISE = """\
WARNING: All log messages before absl::InitializeLog() is called are written to STDERR
I0000 00:00:1795982857.637160   16236 port.cc:153] oneDNN custom operations are on.
W0000 00:00:1795982857.637160   16236 tf_tfl_flatbuffer_helpers.cc:364] Ignored output_format.
2026-11-28 10:00:00.123456: I tensorflow/core/platform/cpu_feature_guard.cc:210] This binary
To enable the following instructions: AVX2 FMA, in other operations, rebuild TensorFlow
INFO: Created TensorFlow Lite XNNPACK delegate for CPU.
"""


def test_noise_is_dropped_and_the_rest_is_shown(capfd):
    with quiet():
        os.write(2, f"{NOISE}F0000 00:00:17 1 check failed\nterminate called\n".encode())
        print("python", file=sys.stderr)
    lines = capfd.readouterr().err.splitlines()
    assert lines == ["python", "F0000 00:00:17 1 check failed", "terminate called"]


def test_what_was_written_is_shown_after_an_error_too(capfd):
    with pytest.raises(OSError, match="Bad file"), quiet():
        os.close(os.write(2, f"{NOISE}reason\n".encode()) + 10**6)
    os.write(2, b"after\n")
    assert capfd.readouterr().err == "reason\nafter\n"


def test_more_than_a_pipe_holds_is_no_problem(capfd):
    with quiet():
        os.write(2, NOISE.encode() * 1000)
    assert capfd.readouterr().err == ""


def test_a_warning_is_one_line(capfd):
    before = warnings.formatwarning
    with quiet():
        text = warnings.formatwarning("few samples", UserWarning, "a.py", 3)
    assert text == "keras-adaptive: warning: few samples\n"
    assert warnings.formatwarning is before


def test_without_stderr_there_is_nothing_to_do(monkeypatch):
    def closed(number):
        raise OSError

    monkeypatch.setattr(os, "dup", closed)
    with quiet():
        pass
