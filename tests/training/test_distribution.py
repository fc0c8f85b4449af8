"""Training on several devices: the losses and weights of one device with the whole batch."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

PROGRAM = Path(__file__).parent / "several_devices.py"
CASES = (
    *("fit", "joint", "arrays", "disjoint", "mixed", "last", "teacher", "equilibrium", "imta"),
    *("gates", "target", "stopping"),
)
# to compile each for one device and for two is what takes long: on JAX those that differ in kind
OF_BACKEND = {
    "tensorflow": CASES[1:],
    "jax": ("joint", "teacher", "imta", "gates", "stopping"),
}
BACKENDS = ["tensorflow", pytest.param("jax", marks=pytest.mark.jax)]
pytestmark = pytest.mark.subprocess


def trained(backend, devices, *cases):
    """Returns what the program found, of each case."""
    if backend == "jax":
        pytest.importorskip("jax", reason="the test extra is not installed")
    done = subprocess.run(
        [sys.executable, str(PROGRAM), str(devices), *cases],
        env={
            **os.environ,
            "KERAS_BACKEND": backend,
            "XLA_FLAGS": os.environ.get("XLA_FLAGS", "")
            + f" --xla_force_host_platform_device_count={devices}",
            "TF_CPP_MIN_LOG_LEVEL": "3",
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return json.loads(done.stdout.splitlines()[-1])


@pytest.fixture(scope="module", params=BACKENDS)
def on_two(request, once):
    def make(path):
        found = trained(request.param, 2, *OF_BACKEND[request.param], "reinforce")
        path.write_text(json.dumps(found))

    return json.loads(once(f"on_two_devices_{request.param}.json", make).read_text())


def check(found):
    assert "error" not in found, found["error"]
    np.testing.assert_allclose(*found["losses"], rtol=1e-5, atol=1e-5)
    np.testing.assert_allclose(*found["metrics"], atol=1e-6)  # not counted twice
    assert found["weights"] <= 1e-5
    first, *_, last = found["losses"][0]
    assert first != last  # something was learned


@pytest.mark.slow
@pytest.mark.parametrize("backend", ["tensorflow", pytest.param("jax", marks=pytest.mark.jax)])
def test_two_devices_fit_as_one(backend):
    check(trained(backend, 2, "fit")["fit"])


@pytest.mark.slow
@pytest.mark.parametrize(
    ("on_two", "case"),
    [
        pytest.param(backend, case, marks=pytest.mark.jax if backend == "jax" else [])
        for backend, cases in OF_BACKEND.items()
        for case in cases
    ],
    indirect=["on_two"],
)
def test_two_devices_learn_as_one(on_two, case):
    check(on_two[case])


@pytest.mark.slow
def test_draws_are_the_same_on_average(on_two):
    found = on_two["reinforce"]
    assert "error" not in found, found["error"]
    one, two = found["losses"]
    # what is drawn comes in the last phases alone
    np.testing.assert_allclose(one[:2], two[:2], rtol=1e-5)
    assert abs(np.mean(one[2:]) - np.mean(two[2:])) < 0.1 * np.mean(one[2:])


@pytest.mark.slow
@pytest.mark.jax
def test_four_devices_learn_as_one():
    found = trained("jax", 4, "fit", "joint")
    for case in ("fit", "joint"):
        check(found[case])
