"""The tiny files of tflite/testdata/files: what is checked in is what today's code answers."""

import json
import re

import file_vectors
import numpy as np
import pytest

from anytime_tflite import AnytimeModel, read_info
from anytime_tflite.bench import bench
from keras_adaptive import report as reports

ANSWERS = json.loads((file_vectors.FOLDER / "answers.json").read_text())["cases"]
DAMAGE = json.loads((file_vectors.FOLDER / "damage.json").read_text())
each_file = pytest.mark.parametrize("case", ANSWERS, ids=lambda case: case["file"][:-7])


def opened(case, **how):
    return AnytimeModel(file_vectors.FOLDER / case["file"], num_threads=1, **how)


def images(case):
    arrays = {name: file_vectors.unpack(packed) for name, packed in case["inputs"].items()}
    return [
        {name: array[row] for name, array in arrays.items()} for row in range(len(case["expected"]))
    ]


def exits(case):
    return [expected["exit"] for expected in case["expected"]]


def test_there_is_one_of_every_kind_and_they_are_small():
    files = sorted(path.name for path in file_vectors.FOLDER.glob("*.tflite"))
    assert files == sorted(case["file"] for case in ANSWERS)
    assert sum(path.stat().st_size for path in file_vectors.FOLDER.iterdir()) < 1_000_000
    for case in ANSWERS:
        assert len(set(exits(case))) > 1
    assert {e["stopped_by"] for case in ANSWERS for e in case["expected"]} == {
        "confidence",
        "patience",
        "end",
    }


@each_file
@pytest.mark.parametrize("backend", ["interpreter", "compiled_model"])
def test_a_file_answers_as_is_written(case, backend):
    with opened(case, backend=backend) as device:
        assert device.info["sha256"] == case["sha256"]
        assert ("predict" in device._backend.signatures) == case["single_call"]
        names, costs = device.info["class_names"], file_vectors.unpack(case["costs"])
        for row, (image, expected) in enumerate(zip(images(case), case["expected"], strict=True)):
            answers = [device.classify(image), device.classify(image, deadline_ms=1e9)]
            if case["single_call"]:
                answers.append(device.predict(image))
            for answer in answers:
                label = expected["label"]
                assert (answer.exit, answer.label) == (expected["exit"], label)
                assert answer.stopped_by == expected["stopped_by"]
                assert answer.class_name == (names and names[label])
                assert answer.cost == pytest.approx(costs[row, device.exits.index(answer.exit)])
                found = answer.probabilities
                np.testing.assert_allclose(found, expected["probabilities"], atol=1e-4)


@each_file
def test_every_stage_answers_as_is_written(case):
    data = {name: file_vectors.unpack(packed) for name, packed in case["inputs"].items()}
    with opened(case) as device:
        logits, costs = file_vectors.stage_answers(device, data)
        expected = file_vectors.unpack(case["logits"]).swapaxes(0, 1)
        np.testing.assert_allclose(logits, expected, rtol=1e-4, atol=1e-4)
        np.testing.assert_allclose(costs, file_vectors.unpack(case["costs"]).T, rtol=1e-6)


@pytest.mark.parametrize(
    "case", [c for c in ANSWERS if c["single_call"]], ids=lambda case: case["file"][:-7]
)
def test_the_single_call_leaves_alike_in_every_backend(case, rng):
    with opened(case) as stages, opened(case, backend="compiled_model") as compiled:
        for image in images(case):
            odds = [np.log(p.max() / (1 - p.max())) for p in _probabilities(stages, image)]
            for _ in range(10):
                odd = rng.normal(np.mean(odds), 1 + np.std(odds), len(stages.info["thresholds"]))
                chosen = np.where(rng.random(len(odd)) < 0.2, np.inf, odd)
                limits = np.where(np.isin(range(len(odd)), stages.exits), chosen, np.inf)
                limits[-1] = -np.inf
                stages.info["log_odds"] = compiled.info["log_odds"] = limits.tolist()
                answers = [stages.classify(image, 1e9), stages.classify(image)]
                answers += [stages.predict(image), compiled.predict(image)]
                assert len({answer.exit for answer in answers}) == 1
                assert len({answer.stopped_by for answer in answers}) == 1


def _probabilities(device, image):
    found = [answer.probabilities.astype("float64") for answer in device.stream(image)]
    return [p.clip(1e-9, 1 - 1e-9) for p in found]


@pytest.mark.subprocess
@pytest.mark.parametrize("name", ["integers", "two_inputs", "float32"])
def test_files_of_every_kind_are_timed(name, tmp_path):
    file = file_vectors.FOLDER / f"{name}.tflite"
    result = bench(file, runs=3)
    assert all(row["alone_ms"]["p50"] > 0 for row in result["stages"])
    (tmp_path / "bench.json").write_text(json.dumps(result))
    (found,) = reports.read_measurements([tmp_path / "bench.json"], read_info(file), file)
    assert set(result) - set(found) == {"stage_ms", "python"}
    ways = {"alone_ms", "until_here_ms", "staged_ms", "classify_ms"}
    if name != "float32":  # which has no single call
        ways.add("predict_ms")
    assert all(set(row) == {"stage", "exit", *ways} for row in found["stages"])
    assert len(found["deadlines"]) == 3


def test_every_key_of_a_file_is_described():
    text = (file_vectors.FOLDER.parents[1] / "README.md").read_text()
    table = text.split("| key | meaning |")[1].split("\n\n")[0]
    described = set(re.findall(r"`(\w+)`", " ".join(re.findall(r"^\| (.*?) \|", table, re.M))))
    assert described == set(read_info(file_vectors.FOLDER / "float32.tflite"))


def test_the_damage_is_that_which_the_script_does():
    written = (file_vectors.FOLDER / "damage.json").read_text()
    assert file_vectors.damage() == written, "python -m tests.file_vectors damage"


@pytest.mark.parametrize("case", DAMAGE["cases"], ids=lambda case: case["what"])
def test_damage_is_refused_in_these_words(case):
    content = (file_vectors.FOLDER / DAMAGE["file"]).read_bytes()
    assert file_vectors.refusal(file_vectors.edited(content, case)) == case["refusal"]


def test_damage_of_every_kind_is_there():
    refusals = [case["refusal"] for case in DAMAGE["cases"]]
    for words in (
        "a TFLite model",
        "a whole TFLite model",
        "unchanged since it was exported",
        "info is JSON",
        "info says",
        "info is complete",
        "of version 2 or 3",
    ):
        assert any(refusal is not None and words in refusal for refusal in refusals), words
    assert None in refusals  # what changes numbers alone is another network, and no damage


@pytest.mark.parametrize("backend", ["interpreter", "compiled_model"])
def test_a_stream_goes_on_with_the_image_that_it_was_given(backend):
    (case,) = (case for case in ANSWERS if case["file"] == "two_inputs.tflite")
    image, other = images(case)[:2]  # the last stage reads tokens
    with opened(case, backend=backend) as device:
        expected, others = list(device.stream(image)), list(device.stream(other))
        assert not np.array_equal(expected[-1].probabilities, others[-1].probabilities)
        given = {name: array.copy() for name, array in image.items()}
        for answer, same in zip(device.stream(given), expected, strict=True):
            np.testing.assert_array_equal(answer.probabilities, same.probabilities)
            for name, array in given.items():
                array[...] = other[name]
