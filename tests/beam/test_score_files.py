"""ScoreFiles: from files to answers within a pipeline."""

import json

import apache_beam as beam
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import samples

import keras_adaptive as ka
from anytime_tflite import BatchPredictor

MODEL = str(samples.FILES / "float32.tflite")


def run(tmp_path, pattern, **how):
    with beam.Pipeline() as pipeline:
        found = pipeline | ka.beam.ScoreFiles(
            pattern, MODEL, str(tmp_path / "out"), workers=1, **how
        )
        assert set(found) == {"answers", "errors"}
    paths = (tmp_path / "out").glob("part-*.parquet")
    rows = [row for path in paths for row in pq.read_table(path).to_pylist()]
    lines = [p.read_text() for p in (tmp_path / "out").glob("errors-*.jsonl")]
    return rows, [json.loads(line) for line in "".join(lines).splitlines()]


def expected(images):
    with BatchPredictor(MODEL, workers=1) as predictor:
        return predictor.predict(images)


def check(rows, keys, images):
    result = expected(images)
    assert sorted(row["key"] for row in rows) == sorted(keys)
    for row in rows:
        i = keys.index(row["key"])
        assert list(row) == ["key", "label", "class_name", "probability", "exit", "cost"]
        assert (row["label"], row["exit"]) == (result.labels[i], result.exits[i])
        assert row["class_name"] == samples.CLASSES[result.labels[i]]
        assert row["cost"] == result.costs[i]
        assert row["probability"] == pytest.approx(result.probabilities[i].max(), abs=1e-6)


def test_pictures_and_those_that_are_none(tmp_path):
    samples.folder(tmp_path / "in", 12, bad=2)
    rows, errors = run(tmp_path, str(tmp_path / "in" / "**" / "*.png"))
    keys = [str(tmp_path / "in" / samples.CLASSES[i % 5] / f"{i:03}.png") for i in range(12)]
    check(rows, keys, samples.images(12))
    assert sorted(one["file"][-9:] for one in errors) == ["bad_0.png", "bad_1.png"]
    assert all("not a known image format" in one["reason"] for one in errors)


@pytest.mark.slow
def test_tables_and_records_in_one_pipeline(tmp_path):
    images = samples.images(12)
    records = [samples.example(image=samples.png(i), key=b"r%d" % n) for n, i in enumerate(images)]
    (tmp_path / "x.tfrecord").write_bytes(samples.tfrecord(records)[:-1])
    cells = [samples.png(image) for image in images]
    cells[3] = b"none"
    table = {"picture": cells, "name": [f"p{i}" for i in range(12)]}
    pq.write_table(pa.table(table), tmp_path / "x.parquet")
    (tmp_path / "y.parquet").write_bytes(b"none")
    patterns = [str(tmp_path / "*.tfrecord"), str(tmp_path / "*.parquet")]
    rows, errors = run(tmp_path, patterns, image_column=None, max_batch_size=5)
    keys = [f"r{i}" for i in range(12)] + [f"{tmp_path / 'x.parquet'}:{i}" for i in range(12)]
    good = [i for i in range(24) if i not in (11, 15)]
    check(rows, [keys[i] for i in good], np.concatenate([images, images])[good])
    names = [f"{tmp_path / 'x.parquet'}:3", f"{tmp_path / 'x.tfrecord'}:11"]
    assert sorted(one["file"] for one in errors) == [*names, f"{tmp_path / 'y.parquet'}:0"]


def test_a_sample_that_the_network_cannot_take_is_an_error_and_no_end(tmp_path):
    images = samples.images(6)
    floats = ((images / 255 - 0.5) / 0.25).astype("float32").reshape(6, -1)
    floats[1, 3], floats[4] = np.nan, 1e6
    path = tmp_path / "x.parquet"
    pq.write_table(pa.table({"image": list(floats)}), path)
    rows, errors = run(tmp_path, path)
    keys = [f"{path}:{i}" for i in range(6)]
    good = [0, 2, 3, 5]
    check(rows, [keys[i] for i in good], images[good])
    assert sorted(one["file"] for one in errors) == [keys[1], keys[4]]
    assert {one["reason"].partition(".")[0] for one in errors} == {
        "`image` must be finite in float32",
        "`image` must be pixels of uint8, or floats standardized as the file says",
    }


def test_a_network_of_several_inputs_is_refused():
    with pytest.raises(ValueError, match="The file must have one input"):
        ka.beam.ScoreFiles("*.png", str(samples.FILES / "two_inputs.tflite"))
