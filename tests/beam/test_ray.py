"""The recipe of the guide for Ray: actors with a predictor of their own answer the same."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
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
print(json.dumps([[int(row[name]) for name in ("key", "label", "exit")] for row in rows]))
"""


@pytest.mark.slow
@pytest.mark.subprocess
def test_the_recipe_for_ray_gives_the_same_answers(tmp_path):
    pytest.importorskip("ray", reason="the test extra is not installed")
    images = samples.images(30)
    (tmp_path / "images").mkdir()
    cells = [image.tolist() for image in images]
    table = pa.table({"key": range(30), "image": cells})
    pq.write_table(table, tmp_path / "images" / "x.parquet")
    (recipe,) = (b for b in re.findall(r"```py\n(.*?)```", GUIDE.read_text(), re.S) if "ray" in b)
    places = {
        "/shared/images": str(tmp_path / "images"),
        "/shared/model.tflite": str(samples.FILES / "integers.tflite"),
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
    found = sorted(json.loads(done.stdout.splitlines()[-1]))
    with BatchPredictor(samples.FILES / "integers.tflite", workers=1) as predictor:
        expected = predictor.predict(images)
    assert found == [
        [i, *pair]
        for i, pair in enumerate(
            zip(expected.labels.tolist(), expected.exits.tolist(), strict=True)
        )
    ]
