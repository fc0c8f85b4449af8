"""The last tflite-runtime, of 2023, in a virtual environment that holds it and numpy only."""

import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import keras_adaptive as ka

ROOT = Path(__file__).parents[2]
PLACE = ROOT / ".venv-tflite-runtime"
NEEDS = ["tflite-runtime==2.14.0", "numpy<2"]
PROGRAM = """
import sys
import numpy as np
from anytime_tflite import AnytimeModel
folder = sys.argv[1]
images = np.load(folder + "/images.npy")
for kind in sys.argv[2:]:
    device = AnytimeModel(folder + "/" + kind + ".tflite", num_threads=1)
    assert type(device._backend._interpreter).__module__.startswith("tflite_runtime")
    answers = [[a.probabilities for a in device.stream(image)] for image in images]
    np.save(folder + "/" + kind + ".npy", answers)
    for image in images:
        assert device.classify(image).exit == device.predict(image).exit
heavy = {"tensorflow", "keras", "ai_edge_litert"}
print(sorted({name.split(".")[0] for name in sys.modules} & heavy))
"""


@pytest.fixture(scope="module")
def old_python():
    """Returns the Python of the environment; it is made once and kept."""
    python = PLACE / "bin" / "python"
    if (PLACE / "complete").exists():
        return python
    base = sys.executable if sys.version_info[:2] == (3, 11) else shutil.which("python3.11")
    if base is None:
        pytest.skip("tflite-runtime 2.14.0 NOT TESTED: it needs Python 3.11, which is not here")
    subprocess.run([base, "-m", "venv", "--clear", str(PLACE)], check=True)
    pip = [str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check"]
    run = subprocess.run([*pip, *NEEDS], capture_output=True, text=True)
    if run.returncode:
        pytest.skip(f"tflite-runtime 2.14.0 NOT TESTED: pip cannot get it. {run.stderr[-500:]}")
    (PLACE / "complete").touch()
    return python


@pytest.mark.slow
@pytest.mark.old_runtime
@pytest.mark.subprocess
def test_the_last_tflite_runtime_gives_the_same_answers(
    old_python, trained, policy, digits, test_images, tmp_path
):
    kinds = {"float32": None, "float16": "float16", "dynamic": "dynamic", "int8": "int8"}
    x, _ = digits.arrays("calibrate")
    images = test_images[0][:20]
    np.save(tmp_path / "images.npy", images)
    for kind, quantize in kinds.items():
        ka.export_tflite(
            trained,
            tmp_path / f"{kind}.tflite",
            policy,
            quantize=quantize,
            calibration_data=x[:100],
            single_call=True,
            runtime="tflite-2.14",
        )
    run = subprocess.run(
        [old_python, "-c", PROGRAM, str(tmp_path), *kinds],
        capture_output=True,
        text=True,
        env={"PYTHONPATH": str(ROOT / "tflite" / "python")},
    )
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.strip() == "[]"
    expected = ka.policy.softmax(np.stack(trained.predict(images, verbose=0), axis=1))
    for kind, tolerance in (("float32", 1e-5), ("float16", 0.01), ("dynamic", 0.1), ("int8", 0.2)):
        found = np.load(tmp_path / f"{kind}.npy")
        np.testing.assert_allclose(found, expected, atol=tolerance)
