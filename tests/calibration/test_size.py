"""Logits that are larger than the memory: they are read part by part."""

import sys
import tracemalloc

import numpy as np
import pytest

import keras_adaptive as ka
from keras_adaptive.calibration import _search as search
from keras_adaptive.calibration import temperature


def peak_of(work):
    """Bytes that were in use at most, beyond those before."""
    tracemalloc.start()
    try:
        work()
        return tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()


def mapped(path, logits):
    """The array as a file that is read where it is needed."""
    np.save(path, logits)
    return np.load(path, mmap_mode="r")


@pytest.fixture(scope="module")
def small_parts():
    """Parts so small that logits of moderate size are many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sys.modules["keras_adaptive.policy.confidence"], "BLOCK", 2**14)
        patch.setattr(temperature, "PIXELS", 2**12)
        patch.setattr(search, "FRONT", 2**12)
        yield


@pytest.fixture(scope="module")
def many_classes(tmp_path_factory, small_parts):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 500, 4000)
    logits = rng.normal(size=(3, 4000, 500)).astype("float32")
    logits[:, np.arange(4000), labels] += np.float32([[2], [4], [6]])
    return mapped(tmp_path_factory.mktemp("size") / "logits.npy", logits), labels


@pytest.fixture(scope="module")
def many_pixels(tmp_path_factory, small_parts):
    rng = np.random.default_rng(0)
    labels = rng.integers(-1, 6, (12, 128, 96))
    logits = rng.normal(size=(3, 12, 128, 96, 6)).astype("float32")
    logits += (labels[..., None] == np.arange(6)) * rng.uniform(0, 6, (12, 1, 1, 1))
    return mapped(tmp_path_factory.mktemp("size") / "pixels.npy", logits), labels.astype("int8")


COSTS = [1.0, 2.0, 3.0]
WORK = {
    "budget": lambda z, y: ka.calibrate(z, y, COSTS, budget=2),
    "geometric": lambda z, y: ka.calibrate(z, None, COSTS, budget=2, method="geometric"),
    "decide": lambda z, y: ka.ExitPolicy([0.5, 0.5, 0]).decide(z),
    "evaluate": lambda z, y: ka.evaluate(ka.ExitPolicy([0.5, 0.5, 0]), z, y, COSTS),
}
OF_SAMPLES = WORK | {
    "risk": lambda z, y: ka.calibrate(z, y, COSTS, risk=ka.RiskControl(level=0.2)),
    "patience": lambda z, y: ka.PatiencePolicy(2).decide(z),
    "agreement": lambda z, y: ka.AgreementPolicy(2).decide(z),
}


@pytest.mark.parametrize("name", OF_SAMPLES)
def test_many_samples_and_classes(many_classes, name):
    logits, labels = many_classes
    assert peak_of(lambda: OF_SAMPLES[name](logits, labels)) < logits.nbytes / 8


@pytest.mark.parametrize("name", WORK)
def test_many_pixels(many_pixels, name):
    logits, labels = many_pixels
    assert peak_of(lambda: WORK[name](logits, labels)) < logits.nbytes / 4


def test_that_the_memory_is_counted(many_classes):
    logits, _ = many_classes
    assert peak_of(lambda: np.array(logits, "float64")) > logits.nbytes


def test_temperatures_of_some_pixels_are_nearly_those_of_all(many_pixels, monkeypatch):
    logits, labels = many_pixels
    some = temperature.fit_temperatures(logits, labels)
    monkeypatch.setattr(temperature, "PIXELS", 2**30)
    np.testing.assert_allclose(some, temperature.fit_temperatures(logits, labels), rtol=0.1)


def test_a_pixel_with_a_label_is_found_however_few_there_are(many_pixels):
    logits, labels = many_pixels
    few = np.full_like(labels, -1)
    few[3, 5, 7:9] = [2, 4]
    assert (temperature.fit_temperatures(logits, few) > 0).all()


def test_a_front_of_pixels_meets_an_accuracy_and_a_budget(many_pixels, monkeypatch):
    logits, labels = many_pixels
    monkeypatch.setattr(search, "FRONT", 2**21)
    exact = ka.calibrate(logits, labels, COSTS, accuracy=0.7, temperature=False)
    assert exact.exact
    monkeypatch.setattr(search, "FRONT", 500)  # of 100,000 pixels
    coarse = ka.calibrate(logits, labels, COSTS, accuracy=0.7, temperature=False)
    assert coarse.details["accuracy"] >= 0.7
    assert coarse.details["mean_cost"] <= exact.details["mean_cost"] + 1 / 12
    assert ka.evaluate(coarse, logits, labels, COSTS).accuracy >= 0.7
    assert not coarse.exact
