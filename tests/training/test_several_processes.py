"""Training in several processes of JAX: as one, and from a backup after one of them was killed."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

pytest.importorskip("jax", reason="the test extra is not installed")
PROGRAM = Path(__file__).parent / "several_processes.py"
pytestmark = [pytest.mark.slow, pytest.mark.subprocess, pytest.mark.jax]


def free_port():
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return found.getsockname()[1]


def started(count, folder, *kill):
    port = free_port()
    return [
        subprocess.Popen(
            [sys.executable, str(PROGRAM), *map(str, (rank, count, port, folder, *kill))],
            env={**os.environ, "KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for rank in range(count)
    ]


def outcomes(processes):
    found = []
    for process in processes:
        out, err = process.communicate(timeout=600)
        assert process.returncode == 0, err[-3000:]
        found.append(json.loads(out.splitlines()[-1]))
    return found


def assert_same(one, other):
    np.testing.assert_allclose(one["loss"], other["loss"], rtol=1e-5)
    np.testing.assert_allclose(one["accuracy"], other["accuracy"], atol=1e-6)  # not counted twice
    for a, b in zip(one["weights"], other["weights"], strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def test_two_processes_learn_as_one_and_go_on_after_one_was_killed(tmp_path):
    (alone,) = outcomes(started(1, tmp_path / "alone"))
    assert alone["loss"][0] != alone["loss"][1]  # something was learned
    first, second = started(2, tmp_path / "two", 2)
    second.communicate(timeout=600)
    assert second.returncode == -9
    first.kill()  # as what starts jobs does: alone it waits for the other one
    first.communicate()
    names = {path.name for path in (tmp_path / "two").iterdir()}
    assert "phase_0_epoch_00001.state" in names
    assert "phase_0_epoch_00004.state" not in names
    for found in outcomes(started(2, tmp_path / "two")):
        assert_same(found, alone)
