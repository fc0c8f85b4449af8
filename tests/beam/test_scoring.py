"""score: every sample once, whatever is interrupted, and nothing of others' touched."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import google_crc32c
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import samples

import keras_adaptive as ka
from anytime_tflite import BatchPredictor
from keras_adaptive.beam import _samples, _shards, scoring

ROOT = Path(__file__).parents[2]
MODEL = samples.FILES / "float32.tflite"


@pytest.fixture(scope="module")
def images():
    return samples.images(40)


@pytest.fixture(scope="module")
def expected(images):
    with BatchPredictor(MODEL, workers=1) as predictor:
        return predictor.predict(images)


def scored(pattern, output, **how):
    how = {"workers": 1, "shard_size": 7, **how}
    return ka.beam.score(pattern, how.pop("model", MODEL), output, **how)


def answers(output):
    return pq.read_table(output / "answers").to_pydict()


def errors(output):
    return [json.loads(line) for line in (output / "errors.jsonl").read_text().splitlines()]


def check(found, expected):
    assert found["label"] == expected.labels.tolist()
    assert found["exit"] == expected.exits.tolist()
    assert found["class_name"] == [samples.CLASSES[label] for label in expected.labels]
    best = expected.probabilities.max(axis=1)
    np.testing.assert_allclose(found["probability"], best, atol=1e-6)
    np.testing.assert_allclose(found["cost"], expected.costs)


def content(folder):
    return {str(p.relative_to(folder)): p.read_bytes() for p in folder.rglob("*") if p.is_file()}


# ---- what files may hold


def test_pictures_in_folders_of_their_classes(tmp_path, images, expected):
    samples.folder(tmp_path / "in", 40, bad=2)
    summary = scored(tmp_path / "in", tmp_path / "out")
    names = sorted(p for p in (tmp_path / "in").rglob("*.png") if "bad" not in p.name)
    found = answers(tmp_path / "out")
    assert found["key"] == list(map(str, names))
    order = [int(path.stem) for path in names]
    check(found, type(expected)(*(column[order] for column in expected)))
    right = expected.labels == np.arange(40) % 5
    assert len(set(expected.exits)) > 1
    assert summary == {
        "samples": 40,
        "errors": 2,
        "labeled": 40,
        "accuracy": right.mean(),
        "exit_fractions": {str(k): np.mean(expected.exits == k) for k in set(expected.exits)},
        "mean_cost": pytest.approx(expected.costs.mean()),
        "shards": 6,
    }
    assert json.loads((tmp_path / "out" / "summary.json").read_text()) == summary
    assert [Path(one["file"]).name for one in errors(tmp_path / "out")] == [
        "bad_0.png",
        "bad_1.png",
    ]
    assert all("not a known image format" in one["reason"] for one in errors(tmp_path / "out"))


CELLS = {
    "pictures": lambda x: pa.array([samples.png(i) for i in x]),
    "struct": lambda x: pa.array([{"bytes": samples.png(i), "path": None} for i in x]),
    "pixels": lambda x: pa.array([i.tobytes() for i in x]),
    "list": lambda x: pa.array([i.ravel() for i in x], pa.list_(pa.uint8())),
    "list of int64": lambda x: pa.array([i.ravel().tolist() for i in x]),
    "nested": lambda x: pa.array([i[..., 0].tolist() for i in x]),
    "fixed": lambda x: pa.FixedSizeListArray.from_arrays(pa.array(x.ravel()), 64),
    "floats": lambda x: pa.array(list(((x / 255 - 0.5) / 0.25).astype("float32").reshape(-1, 64))),
}


def test_every_kind_of_cell_in_parquet(tmp_path, images, expected):
    labels = [samples.CLASSES[i % 5] for i in range(40)]
    for name, cells in CELLS.items():
        path, out = tmp_path / f"{name}.parquet", tmp_path / name
        pq.write_table(pa.table({"image": cells(images), "label": labels}), path, row_group_size=11)
        summary = scored(path, out)
        check(answers(out), expected)
        assert answers(out)["key"] == [f"{path}:{i}" for i in range(40)]
        assert (summary["labeled"], summary["errors"]) == (40, 0)
        assert summary["accuracy"] == np.mean(expected.labels == np.arange(40) % 5)


def records(images):
    """Examples whose images are pictures, pixels and numbers in turn."""
    for i, image in enumerate(images):
        floats = ((image / 255 - 0.5) / 0.25).astype("float32").ravel()
        kind = (samples.png(image), image.ravel(), floats, image.tobytes())[i % 4]
        yield samples.example(image=kind, label=i % 5, id=f"n{i}".encode())


def test_tfrecord_compressed_or_not(tmp_path, images, expected):
    import gzip

    whole = samples.tfrecord(records(images))
    (tmp_path / "a.tfrecord").write_bytes(whole)
    (tmp_path / "b.tfrecord-00000-of-00001").write_bytes(gzip.compress(whole))
    for name in ("a.tfrecord", "b.tfrecord-00000-of-00001"):
        summary = scored(tmp_path / name, tmp_path / name[0])
        check(answers(tmp_path / name[0]), expected)
        assert answers(tmp_path / name[0])["key"] == [f"n{i}" for i in range(40)]
        assert (summary["labeled"], summary["errors"], summary["shards"]) == (40, 0, 6)


def test_columns_may_have_other_names(tmp_path, images, expected):
    table = pa.table({"a": CELLS["pictures"](images), "b": list(range(40)), "c": [0] * 40})
    pq.write_table(table, tmp_path / "x.parquet")
    how = {"image_column": "a", "key_column": "b", "label_column": "c"}
    summary = scored(tmp_path / "x.parquet", tmp_path / "out", **how)
    check(answers(tmp_path / "out"), expected)
    assert answers(tmp_path / "out")["key"] == [str(i) for i in range(40)]
    assert summary["accuracy"] == np.mean(expected.labels == 0)


def test_a_network_without_names_of_its_classes(tmp_path, images):
    samples.folder(tmp_path / "in", 5)
    floats = [((i / 255 - 0.5) / 0.25).astype("float32").ravel() for i in images]
    pq.write_table(pa.table({"image": floats}), tmp_path / "x.parquet")
    out = tmp_path / "out"
    summary = scored(tmp_path / "x.parquet", out, model=samples.FILES / "gated.tflite")
    with BatchPredictor(samples.FILES / "gated.tflite", workers=1) as predictor:
        expected = predictor.predict(np.reshape(floats, (40, 8, 8, 1)))
    assert answers(out)["exit"] == expected.exits.tolist()
    np.testing.assert_allclose(answers(out)["cost"], expected.costs)  # differ by sample
    assert set(answers(out)["class_name"]) == {None}
    assert summary["accuracy"] is None


LABELS = {
    "integers": lambda right: right,
    "floats": lambda right: right.astype("float64"),
    "some missing": lambda right: np.where(np.arange(40) % 2, np.nan, right),
    "some of no class": lambda right: np.where(np.arange(40) % 2, -1, right),
    "some too large": lambda right: np.where(np.arange(40) % 2, 5, right),
    "halves": lambda right: right + 0.5,
}


@pytest.mark.parametrize("name", LABELS)
@pytest.mark.parametrize("kind", ["parquet", "tfrecord"])
def test_labels_are_numbers_of_classes_or_none(tmp_path, images, expected, name, kind):
    """A column of integers with gaps is one of floats; -1 says that there is no label."""
    labels, path = LABELS[name](expected.labels), tmp_path / f"x.{kind}"
    if kind == "parquet":
        pq.write_table(pa.table({"image": CELLS["pixels"](images), "label": labels}), path)
    else:
        labels = labels.astype("float32" if labels.dtype.kind == "f" else labels.dtype)
        pairs = zip(images, labels, strict=True)
        examples = [samples.example(image=x.tobytes(), label=y[None]) for x, y in pairs]
        path.write_bytes(samples.tfrecord(examples))
    summary = scored(path, tmp_path / "out")
    labeled = {"halves": 0, "integers": 40, "floats": 40}.get(name, 20)
    assert (summary["labeled"], summary["errors"]) == (labeled, 0)
    assert summary["accuracy"] == (1.0 if labeled else None)


def test_a_name_of_two_classes_is_no_label():
    info = _samples.described(MODEL)
    info["class_names"] = ["crane", "dog", "crane", "owl", "elk"]
    preparation = _samples.Preparation(info, MODEL)
    found = [preparation.label(label, 5) for label in ("crane", "dog", "cat", 0, 5, -1, None)]
    assert found == [None, 1, None, 0, None, None, None]


@pytest.mark.parametrize("shift", [-200, 0, 200])
def test_numbers_that_the_network_cannot_take_are_errors(tmp_path, images, shift):
    """Parquet has wider integers than networks, which were cut down to other numbers."""
    x = images.astype(int) + shift
    pq.write_table(pa.table({"image": x.reshape(40, -1).tolist()}), tmp_path / "x.parquet")
    model = samples.FILES / "integers.tflite"
    summary = scored(tmp_path / "x.parquet", tmp_path / "out", model=model)
    fit = ((x >= 0) & (x <= 255)).all(axis=(1, 2, 3))
    assert (summary["samples"], summary["errors"]) == (fit.sum(), (~fit).sum())
    for error in errors(tmp_path / "out"):
        assert "numbers of uint8 must be 0 to 255, and are" in error["reason"]


# ---- what is damaged


def test_damaged_records_are_named_and_the_others_computed(tmp_path, images, expected):
    whole = samples.tfrecord(records(images))
    where = [0]
    for record in records(images):
        where.append(where[-1] + len(record) + 16)
    in_content, in_size = bytearray(whole), bytearray(whole)
    in_content[where[12] + 30] ^= 1
    in_size[where[14] + 1] ^= 1
    damaged = {
        "content": (in_content, list(range(40)), [12], "record 12 is damaged"),
        "size": (in_size, list(range(14)), [14], "record 14 is damaged, and what follows"),
        "cut": (whole[: where[20] + 50], list(range(20)), [20], "record 20 is cut off"),
        "header": (whole[: where[21] + 5], list(range(21)), [21], "record 21 is cut off"),
        "none": (b"no record at all, but long enough", [], [0], "record 0 is damaged"),
        "large": (_record_of(2**40), [], [0], "has 1,099,511,627,776 bytes, more than"),
        "other": (samples.tfrecord([b"no example"]), [], [0], "no tf.train.Example"),
        "no image": (samples.tfrecord([samples.example(y=3)]), [], [0], "no image"),
    }
    for name, (bytes_of, good, bad, reason) in damaged.items():
        path, out = tmp_path / f"{name}.tfrecord", tmp_path / name
        path.write_bytes(bytes(bytes_of))
        scored(path, out, shard_size=4)
        good = [i for i in good if i not in bad]
        assert answers(out)["key"] == [f"n{i}" for i in good], name
        check(answers(out), type(expected)(*(column[good] for column in expected)))
        (error,) = errors(out)
        assert error["file"].endswith(f":{bad[0]}")
        assert reason in error["reason"]


def _record_of(size):
    import struct

    header = struct.pack("<Q", size)
    return header + samples.crc(header) + b"short"


def test_damaged_parquet_is_named(tmp_path, images, expected):
    cells = [samples.png(i) for i in images]
    cells[3], cells[5], cells[6] = None, b"no picture", b""
    pq.write_table(pa.table({"image": cells}), tmp_path / "cells.parquet")
    (tmp_path / "none.parquet").write_bytes(b"PAR1 and nothing more PAR1")
    pq.write_table(pa.table({"y": [1, 2]}), tmp_path / "other.parquet")
    pq.write_table(pa.table({"image": [[1.0, 2.0], [np.nan] * 64]}), tmp_path / "shape.parquet")
    wide = pa.array([[300] + [0] * 63])
    pq.write_table(pa.table({"image": wide}), tmp_path / "wide.parquet")
    summary = scored(tmp_path / "*.parquet", tmp_path / "out")
    found = {one["file"].rpartition("/")[2]: one["reason"] for one in errors(tmp_path / "out")}
    assert found.keys() == {
        *("cells.parquet:3", "cells.parquet:5", "cells.parquet:6", "none.parquet:0"),
        *("other.parquet:0", "shape.parquet:0", "shape.parquet:1", "wide.parquet:0"),
    }
    assert "no column with images" in found["other.parquet:0"]
    assert "it has 2 numbers" in found["shape.parquet:0"]
    assert "must be finite" in found["shape.parquet:1"]
    assert "pixels must be 0 to 255" in found["wide.parquet:0"]
    good = [i for i in range(40) if i not in (3, 5, 6)]
    check(answers(tmp_path / "out"), type(expected)(*(column[good] for column in expected)))
    assert (summary["samples"], summary["errors"]) == (37, 8)


def test_nothing_can_be_read(tmp_path):
    (tmp_path / "a.png").write_bytes(b"")
    (tmp_path / "b.png").symlink_to(tmp_path / "nowhere")
    summary = scored(tmp_path / "*.png", tmp_path / "out")
    assert (summary["samples"], summary["errors"], summary["accuracy"]) == (0, 2, None)
    assert summary["mean_cost"] is None
    assert answers(tmp_path / "out")["key"] == []


def test_checksums_are_those_of_tfrecord():
    for size in (0, 1, 8, 100):
        bytes_of = np.random.default_rng(size).bytes(size)
        assert _samples.slow_crc(bytes_of) == google_crc32c.value(bytes_of)
    assert _samples.slow_crc(b"123456789") == 0xE3069283  # of RFC 3720


def test_a_label_is_the_name_of_one_class_however_it_is_spelled():
    inputs = [{"name": "x", "shape": [8, 8, 1], "dtype": "float32"}]
    names = ["crane", "B\u00e4r", "crane", "Ka\u0308fer"]
    info = {"inputs": inputs, "class_names": names, "preprocessing": None}
    label = _samples.Preparation(info, "file").label
    assert [label(name, 4) for name in ("B\u00e4r", "Ba\u0308r", "K\u00e4fer")] == [1, 1, 3]
    assert label("crane", 4) is None  # which of the two is not known
    assert label(2, 4) == 2


# ---- which files


def test_patterns_name_files(tmp_path):
    for name in (
        "a/1.png",
        "a/b/2.png",
        "a/b/c/3.png",
        "a/.h/4.png",
        "a/.5.png",
        "a/6.txt",
        "a/@eaDir/1.png",
    ):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).touch()

    def found(pattern, without=None):
        return [os.path.relpath(n, tmp_path) for n, _ in _shards.files_of(pattern, without)]

    root = str(tmp_path)
    assert found(root) == ["a/1.png", "a/b/2.png", "a/b/c/3.png"]
    assert found(f"{root}/**/*.png") == ["a/1.png", "a/b/2.png", "a/b/c/3.png"]
    assert found(f"{root}/a/*") == ["a/1.png", "a/6.txt"]
    assert found(f"{root}/a/**/c/*") == ["a/b/c/3.png"]
    assert found(f"{root}/*/*/[23].png") == ["a/b/2.png"]
    assert found(f"{root}/a/.*") == ["a/.5.png"]
    assert found(f"{root}/a/**") == ["a/1.png", "a/6.txt", "a/b/2.png", "a/b/c/3.png"]
    assert found(f"{root}/a/6.txt") == ["a/6.txt"]
    assert found(f"{root}/a/@*/*") == ["a/@eaDir/1.png"]
    assert found(f"{root}/b/*") == []
    assert found(root, tmp_path / "a" / "b") == ["a/1.png"]
    with pytest.raises(ValueError, match=r"must hold \*\* once at most"):
        found(f"{root}/**/b/**")


def test_the_answers_themselves_are_no_input(tmp_path, images):
    pq.write_table(pa.table({"image": CELLS["pictures"](images)}), tmp_path / "x.parquet")
    out = tmp_path / "out"
    first = scored(tmp_path / "**/*.parquet", out)
    assert scored(tmp_path / "**/*.parquet", out) == first


# ---- whose folder it is


@pytest.fixture
def finished(tmp_path):
    samples.folder(tmp_path / "in", 10)
    scored(tmp_path / "in", tmp_path / "out")
    return tmp_path


@pytest.mark.parametrize(
    ("change", "how", "message"),
    [
        ("", {"shard_size": 8}, "shard_size: 7, not 8"),
        ("", {"model": samples.FILES / "single_call.tflite"}, "model: [0-9a-f]{64}, not [0-9a-f]"),
        ("", {"label_column": "x"}, "label_column: None, not x"),
        ("rm in/dog/006.png", {}, "files: 10, not 9"),
        ("mv in/dog/006.png in/dog/016.png", {}, "names: [0-9a-f]{64}, not"),
        ("cp in/dog/001.png in/dog/006.png; truncate -s +1 in/dog/006.png", {}, "bytes: "),
        ("echo '{}' > out/manifest.json", {}, "whose manifest.json is of something else"),
        ("echo nonsense > out/manifest.json", {}, "The manifest of a run must hold JSON"),
        ("truncate -s -9 out/answers/part-00001.parquet", {}, "must be of this run, and whole"),
        ("cp /dev/null out/answers/part-00009.parquet", {}, "must be of this run, and whole"),
        ("mv out/answers away; ln -s ../away out/answers", {}, "must be a folder, not a link"),
        ("rm out/manifest.json", {}, "must be a new folder, an empty one, or one of a run"),
        ("rm -r out; touch out", {}, "`output` must be a folder"),
    ],
)
def test_another_run_in_the_folder_is_refused_and_stays(finished, change, how, message):
    subprocess.run(["sh", "-ec", change], cwd=finished, check=True)
    before = content(finished)
    with pytest.raises(ValueError, match=message):
        scored(finished / "in", finished / "out", **how)
    assert content(finished) == before


def test_a_folder_in_use_is_refused(finished):
    with (
        scoring._files.held(finished / "out", finished / "lock", "in use"),
        pytest.raises(ValueError, match="`output` must not be in use"),
    ):
        scored(finished / "in", finished / "out")


@pytest.mark.parametrize(
    ("pattern", "how", "message"),
    [
        ("nothing/*.png", {}, "`pattern` must name pictures, or TFRecord or Parquet files"),
        ("in", {"model": samples.FILES / "two_inputs.tflite"}, "The file must have one input"),
        ("in", {"model": "nowhere.tflite"}, "nowhere.tflite"),
        ("in", {"shard_size": 0}, "`shard_size` must be an integer"),
        ("in", {"workers": 0}, "`workers` must be an integer"),
        ("in", {"key_column": 3}, "`key_column` must be a string or None"),
        ("in", {"verbose": 7}, "`verbose` must be"),
        ("gs://bucket/*.png", {}, "`pattern` must be on a file system of this machine"),
        ("in", {"options": ["--nonsense=3"]}, "`options` must be Beam's .*Received: --nonsense"),
        ("in", {"options": ["in"]}, "`options` must be Beam's pipeline options. Received: in"),
    ],
)
def test_what_cannot_be_meant_is_refused_before_a_folder_is_made(
    tmp_path, monkeypatch, pattern, how, message
):
    monkeypatch.chdir(tmp_path)
    samples.folder(tmp_path / "in", 1)
    with pytest.raises(ValueError, match=message):
        scored(pattern, tmp_path / "new" / "out", **how)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("how", [{"pattern": 7}, {"pattern": ["in", 7]}, {"model": None}])
def test_what_is_no_path_is_refused(tmp_path, how):
    given = {"pattern": "in", "output": tmp_path / "out", **how}
    with pytest.raises(TypeError, match="must be a string or a .*Received: "):
        scored(**given)
    assert not (tmp_path / "out").exists()


def test_pictures_beside_tables_are_refused(tmp_path, images):
    samples.folder(tmp_path / "in", 2)
    pq.write_table(pa.table({"image": CELLS["pictures"](images)}), tmp_path / "in" / "x.parquet")
    with pytest.raises(ValueError, match=r"pictures, or files of TFRecord or Parquet, not both"):
        scored(tmp_path / "in", tmp_path / "out")
    assert not (tmp_path / "out").exists()


# ---- interrupted


def test_what_is_written_is_not_done_again(finished, monkeypatch):
    before = content(finished / "out")
    removed = finished / "out" / "answers" / "part-00000.parquet"
    removed.unlink()
    (finished / "out" / "answers" / ".part-00000.parquet.123").write_bytes(b"half")
    done = []
    whole = scoring.Scorer.score
    monkeypatch.setattr(
        scoring.Scorer, "score", lambda *given: done.append(given[1].number) or whole(*given)
    )
    scored(finished / "in", finished / "out")
    assert done == [0]
    assert content(finished / "out") == before


def test_an_error_halfway_loses_one_shard(tmp_path, monkeypatch):
    samples.folder(tmp_path / "in", 20)
    whole, done = scoring.Scorer._write, []

    def fails(self, shard, *rest):
        if shard.number == 1 and not done:
            done.append(shard)
            raise KeyboardInterrupt
        whole(self, shard, *rest)

    monkeypatch.setattr(scoring.Scorer, "_write", fails)
    with pytest.raises(KeyboardInterrupt):
        scored(tmp_path / "in", tmp_path / "out")
    assert sorted(content(tmp_path / "out")) == ["answers/part-00000.parquet", "manifest.json"]
    assert scored(tmp_path / "in", tmp_path / "out")["samples"] == 20
    assert len(set(answers(tmp_path / "out")["key"])) == 20


PROGRAM = """
import sys
import keras_adaptive as ka
ka.beam.score(sys.argv[1], sys.argv[2], sys.argv[3], shard_size=5, options=sys.argv[4:] or None)
"""


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.parametrize(
    ("options", "kills"), [([], 8), (["--runner=DirectRunner"], 4)], ids=["process", "beam"]
)
def test_a_killed_run_goes_on(tmp_path, images, expected, options, kills):
    pq.write_table(pa.table({"image": CELLS["pictures"](images)}), tmp_path / "x.parquet")
    command = [sys.executable, "-c", PROGRAM, *map(str, (tmp_path / "x.parquet", MODEL))]
    killed, partly = 0, 0
    for number in range(kills):
        out = tmp_path / f"out_{number}"
        running = subprocess.Popen([*command, str(out), *options], cwd=ROOT)
        while running.poll() is None and len(list(out.glob("answers/part*"))) < number % 7:
            time.sleep(0.001)
        time.sleep(0.002 * (number % 3))
        running.send_signal(signal.SIGKILL)
        killed += running.wait() == -signal.SIGKILL
        partly += 0 < len(list(out.glob("answers/part*"))) < 8
        how = {"shard_size": 5, "options": options or None}
        assert scored(tmp_path / "x.parquet", out, **how)["samples"] == 40
        check(answers(out), expected)
        assert len(set(answers(out)["key"])) == 40
        assert not list(out.rglob(".*"))
    assert killed >= kills - 1
    assert partly >= kills // 4


# ---- on Beam


def test_beam_writes_the_same(tmp_path):
    samples.folder(tmp_path / "in", 20, bad=1)
    one = scored(tmp_path / "in", tmp_path / "one")
    assert scored(tmp_path / "in", tmp_path / "beam", options=["--runner=DirectRunner"]) == one
    assert content(tmp_path / "beam") == content(tmp_path / "one")


@pytest.mark.slow
def test_several_processes_of_beam_write_the_same(tmp_path):
    samples.folder(tmp_path / "in", 60, bad=1)
    one = scored(tmp_path / "in", tmp_path / "one", shard_size=3)
    options = ["--direct_num_workers=2", "--direct_running_mode=multi_processing"]
    found = scored(tmp_path / "in", tmp_path / "beam", shard_size=3, options=options)
    assert found == one
    assert content(tmp_path / "beam") == content(tmp_path / "one")


# ---- what is held in memory


def test_rows_are_read_on_where_the_shard_before_ended(tmp_path, images, monkeypatch):
    pq.write_table(pa.table({"image": CELLS["pictures"](images)}), tmp_path / "x.parquet")
    opened, whole = [], _samples.opened_parquet
    monkeypatch.setattr(_samples, "opened_parquet", lambda f: opened.append(1) or whole(f))
    reading = _shards.Reading(_samples.Columns())
    files = [(str(tmp_path / "x.parquet"), 0)]
    shards = list(_shards.shards_of(files, 7))
    opened.clear()
    keys = [item.key.rpartition(":")[2] for shard in shards for item in reading.items(shard)]
    assert keys == [str(i) for i in range(40)]
    assert len(opened) == 1
    again = [item.key.rpartition(":")[2] for item in reading.items(shards[2])]
    assert again == [str(i) for i in range(14, 21)]


def test_no_more_is_read_ahead_than_a_portion(tmp_path, monkeypatch):
    monkeypatch.setattr(scoring, "PORTION", 4)
    samples.folder(tmp_path / "in", 30)
    read, answered, ahead = [0], [0], []
    picture, whole = _samples.picture, scoring.Scorer._answers

    def counted(path):
        read[0] += 1
        ahead.append(read[0] - answered[0])
        return picture(path)

    def answers_of(self, good):
        answered[0] += len(good)
        return whole(self, good)

    monkeypatch.setattr(_samples, "picture", counted)
    monkeypatch.setattr(scoring.Scorer, "_answers", answers_of)
    scored(tmp_path / "in", tmp_path / "out", shard_size=30)
    assert (read[0], answered[0]) == (30, 30)
    assert max(ahead) <= 2 * 4


def test_a_file_of_version_2_is_scored(tmp_path):
    old = ROOT / "tests" / "data" / "before_layout"
    with np.load(old / "answers.npz") as kept:
        x = kept["images"]
    table = pa.table({"x": x.reshape(len(x), -1).tolist()})
    pq.write_table(table, tmp_path / "x.parquet")
    with BatchPredictor(old / "float32.tflite", workers=1) as predictor:
        expected = predictor.predict(x)
    summary = scored(str(tmp_path / "x.parquet"), tmp_path / "out", model=old / "float32.tflite")
    found = answers(tmp_path / "out")
    assert found["label"] == expected.labels.tolist()
    assert found["exit"] == expected.exits.tolist()
    assert summary["mean_cost"] is None
