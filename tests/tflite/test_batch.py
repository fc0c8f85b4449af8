import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from anytime_tflite import AnytimeModel, BatchPredictor



@pytest.fixture(scope="module")
def predictor(exported):
    with BatchPredictor(exported, workers=2) as made:
        yield made


@pytest.fixture(scope="module")
def expected(exported, test_images):
    """What one model answers, image by image."""
    with AnytimeModel(exported, num_threads=1) as device:
        return [device.classify(image) for image in test_images[0][:60]]


def check(result, expected):
    assert result.exits.tolist() == [answer.exit for answer in expected]
    assert result.labels.tolist() == [answer.label for answer in expected]
    assert result.costs.tolist() == [answer.cost for answer in expected]
    probabilities = [answer.probabilities for answer in expected]
    np.testing.assert_allclose(result.probabilities, probabilities, atol=1e-6)


def ways(x):
    """Ways to give the same samples."""
    yield "array", lambda: x
    yield "generator of samples", lambda: (image for image in x)
    yield "generator of batches", lambda: (x[i : i + 7] for i in range(0, len(x), 7))
    yield "mixed", lambda: iter([x[0], x[1:20], x[20], x[21], x[22:22], x[22:]])
    yield "list", lambda: list(x)
    yield "dictionary", lambda: {"image": x}
    yield "with labels", lambda: ((x[i : i + 9], np.zeros(9)) for i in range(0, len(x), 9))


@pytest.mark.parametrize("way", [name for name, _ in ways(np.zeros(1))])
def test_answers_are_in_the_order_of_the_samples(predictor, expected, test_images, way):
    result = predictor.predict(dict(ways(test_images[0][:60]))[way]())
    check(result, expected)


def test_many_threads_may_use_one_predictor(predictor, expected, test_images):
    x = test_images[0][:60]
    with ThreadPoolExecutor(8) as pool:
        whole = [pool.submit(predictor.predict, x) for _ in range(4)]
        answers = list(pool.map(predictor.classify, x))
    assert [a.exit for a in answers] == [a.exit for a in expected]
    for one in whole:
        check(one.result(), expected)
    assert threading.active_count() < 20
