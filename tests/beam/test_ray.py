"""The recipe of the guide for Ray: actors with a predictor of their own answer the same."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import samples

from anytime_tflite import BatchPredictor

ROOT = Path(__file__).parents[2]
GUIDE = ROOT / "docs" / "guides" / "beyond_one_machine.md"
BEGIN = """
import sys
import ray
ray.init(num_cpus=2, include_dashboard=False)
"""
END = """
import json
rows = [row for row in ray.data.read_parquet({out!r}).take_all()]
print(json.dumps([[row["path"], int(row["label"]), int(row["exit"])] for row in rows]))
"""


@pytest.mark.slow
@pytest.mark.subprocess
def test_the_recipe_for_ray_gives_the_same_answers(tmp_path):
    pytest.importorskip("ray", reason="the test extra is not installed")
    samples.folder(tmp_path / "photos", 30)
    (recipe,) = (
        b for b in re.findall(r"```py\n(.*?)```", GUIDE.read_text(), re.S) if "import ray" in b
    )
    places = {
        "/shared/photos": str(tmp_path / "photos"),
        "/shared/model.tflite": str(samples.FILES / "float32.tflite"),
        "/shared/answers": str(tmp_path / "answers"),
        "concurrency=8": "concurrency=1",
    }
    for old, new in places.items():
        assert old in recipe
        recipe = recipe.replace(old, new)
    program = BEGIN + recipe + END.format(out=str(tmp_path / "answers"))
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, cwd=tmp_path, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    found = sorted(json.loads(done.stdout.splitlines()[-1]), key=lambda row: Path(row[0]).stem)
    with BatchPredictor(samples.FILES / "float32.tflite", workers=1) as predictor:
        expected = predictor.predict(samples.images(30))
    assert [Path(row[0]).stem for row in found] == [f"{i:03}" for i in range(30)]
    assert [row[1] for row in found] == expected.labels.tolist()
    assert [row[2] for row in found] == expected.exits.tolist()
