"""AdaptiveModelHandler: what Beam computes is what BatchPredictor computes."""

import json
import subprocess
import sys
from pathlib import Path

import apache_beam as beam
import file_vectors
import numpy as np
import pytest
import samples
from apache_beam.ml.inference.base import KeyedModelHandler, RunInference
from apache_beam.testing.util import assert_that

import keras_adaptive as ka
from anytime_tflite import BatchPredictor

CASES = json.loads((samples.FILES / "answers.json").read_text())["cases"]
ROOT = Path(__file__).parents[2]


def elements(case):
    """Returns the samples of a case, each an array or a dictionary of arrays."""
    data = {name: file_vectors.unpack(packed) for name, packed in case["inputs"].items()}
    if len(data) > 1:
        return [dict(zip(data, row, strict=True)) for row in zip(*data.values(), strict=True)]
    return list(*data.values())


def check_equal(expected):
    """Returns a check of keyed results against a `BatchResult`, whatever their order."""

    def check(found):
        assert [key for key, _ in sorted(found, key=lambda one: one[0])] == list(
            range(len(expected.labels))
        )
        for key, result in found:
            inference = result.inference
            assert inference.label == expected.labels[key]
            assert inference.exit == expected.exits[key]
            assert inference.cost == pytest.approx(expected.costs[key], rel=1e-6)
            best = expected.probabilities[key].max()
            assert inference.probability == pytest.approx(best, abs=1e-6)
            assert type(inference.label) is type(inference.exit) is int

    return check


@pytest.mark.parametrize(
    "case",
    [
        pytest.param(
            case,
            id=case["file"][:-7],
            marks=[] if case["file"] == "float32.tflite" else pytest.mark.slow,
        )
        for case in CASES
    ],
)
def test_the_answers_are_those_of_the_predictor(case):
    path, given = str(samples.FILES / case["file"]), elements(case) * 3
    with BatchPredictor(path, workers=1) as predictor:
        expected = predictor.predict(iter(given))
    handler = ka.beam.AdaptiveModelHandler(path, workers=1, max_batch_size=5)
    with beam.Pipeline() as pipeline:
        results = (
            pipeline
            | beam.Create(list(enumerate(given)))
            | RunInference(KeyedModelHandler(handler))
        )
        assert_that(results, check_equal(expected))


def inferred(handler, batch, **how):
    model = handler.load_model()
    try:
        return list(handler.run_inference(batch, model, **how))
    finally:
        model.close()


@pytest.fixture
def handler():
    return ka.beam.AdaptiveModelHandler(samples.FILES / "float32.tflite", workers=1)


def test_a_result_holds_its_sample_and_the_file(handler):
    x = samples.images(3)
    results = inferred(handler, list(x))
    for one, image in zip(results, x, strict=True):
        assert np.array_equal(one.example, image)
    assert {one.model_id for one in results} == {str(samples.FILES / "float32.tflite")}


def test_pictures_are_read_by_the_rule_of_the_file(handler):
    x = samples.images(6)
    of_arrays = inferred(handler, list(x))
    mixed = [samples.png(image) if i % 2 else image for i, image in enumerate(x)]
    assert [r.inference for r in inferred(handler, mixed)] == [r.inference for r in of_arrays]


def test_thresholds_may_come_with_the_call(handler):
    x = list(samples.images(4))
    for k in range(3):
        limits = [np.inf] * 3
        limits[k] = -np.inf
        found = inferred(handler, x, inference_args={"log_odds": limits})
        assert {one.inference.exit for one in found} == {k}
    handler.validate_inference_args({"thresholds": [0, 0, 0]})
    with pytest.raises(ValueError, match=r"`inference_args` must be among .*'deadline'"):
        handler.validate_inference_args({"deadline": 3})


def test_another_file_takes_its_place(handler):
    handler.update_model_path(str(samples.FILES / "first_exit_closed.tflite"))
    x = [np.zeros((8, 8, 1), "float32")]
    (one,) = inferred(handler, x)
    assert one.inference.exit > 0
    assert one.model_id.endswith("first_exit_closed.tflite")
    handler.update_model_path(None)  # nothing new
    assert inferred(handler, x)[0].model_id == one.model_id


def test_sizes_of_batches_are_counted(handler):
    batch = [np.zeros((8, 8, 1), "uint8"), b"12345", {"a": np.zeros(3, "float32")}]
    assert handler.get_num_bytes(batch) == 64 + 5 + 12
    assert handler.get_metrics_namespace() == "keras_adaptive"


@pytest.mark.parametrize(
    ("path", "how", "error", "message"),
    [
        ("nowhere.tflite", {}, ValueError, "nowhere.tflite"),
        ("answers.json", {}, ValueError, "answers.json"),
        ("float32.tflite", {"workers": 0}, ValueError, "`workers` must be an integer"),
    ],
)
def test_what_is_no_model_is_refused_before_anything_runs(path, how, error, message):
    with pytest.raises(error, match=message):
        ka.beam.AdaptiveModelHandler(samples.FILES / path, **how)


@pytest.mark.slow
def test_what_cannot_be_computed_goes_where_beam_puts_errors():
    x = list(samples.images(6))
    x[2] = np.full((8, 8, 1), np.nan, "float32")
    handler = ka.beam.AdaptiveModelHandler(
        samples.FILES / "float32.tflite", workers=1, max_batch_size=1
    )
    with beam.Pipeline() as pipeline:
        good, bad = (
            pipeline
            | beam.Create(list(enumerate(x)))
            | RunInference(KeyedModelHandler(handler)).with_exception_handling()
        )
        assert_that(good | beam.Keys() | beam.combiners.ToList(), _is([0, 1, 3, 4, 5]), "good")
        failed = bad.failed_inferences | beam.Map(lambda one: (one[0][0][0], str(one[1])))
        assert_that(failed, _names_two, "bad")


def _is(expected):
    def check(found):
        assert sorted(found[0]) == expected

    return check


def _names_two(found):
    ((number, message),) = found
    assert number == 2
    assert "must be finite" in message


PROGRAM = """
import sys
import apache_beam as beam
from apache_beam.ml.inference.base import RunInference
import numpy as np
import keras_adaptive as ka
{set_up}
handler = ka.beam.AdaptiveModelHandler({path!r}, workers=1)
def loaded(result):
    heavy = {{"tensorflow", "keras", "jax", "torch"}}
    return result.inference.label, sorted(heavy & set(sys.modules))
with beam.Pipeline(argv={options}) as pipeline:
    x = [np.zeros((8, 8, 1), "uint8")] * 4
    pipeline | beam.Create(x) | RunInference(handler) | beam.Map(loaded) | beam.Map(print)
"""


def loaded(set_up="", options=()):
    program = PROGRAM.format(
        path=str(samples.FILES / "float32.tflite"), set_up=set_up, options=list(options)
    )
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    return run.stdout.split("\n")[:-1], run.stderr


@pytest.mark.subprocess
def test_no_worker_loads_tensorflow():
    found, _ = loaded()
    assert len(found) == 4
    assert all(line.endswith("[])") for line in found), found


@pytest.mark.slow
@pytest.mark.subprocess
def test_that_the_test_of_what_is_loaded_can_fail():
    found, _ = loaded("import types; sys.modules['keras'] = types.ModuleType('keras')")
    assert all("'keras'" in line for line in found), found


@pytest.mark.slow
@pytest.mark.parametrize("sharing", [{"large_model": True}, {"model_copies": 2}])
def test_processes_may_share_a_model(sharing):
    x = list(samples.images(20))
    path = str(samples.FILES / "float32.tflite")
    with BatchPredictor(path, workers=1) as predictor:
        expected = predictor.predict(np.stack(x))
    handler = ka.beam.AdaptiveModelHandler(path, workers=1, **sharing)
    with beam.Pipeline() as pipeline:
        results = (
            pipeline | beam.Create(list(enumerate(x))) | RunInference(KeyedModelHandler(handler))
        )
        assert_that(results, check_equal(expected))
