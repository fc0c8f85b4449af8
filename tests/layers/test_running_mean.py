import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_adaptive.layers import RunningMean
from keras_adaptive.policy.confidence import softmax


def running(average, logits):
    found = []
    for k, z in enumerate(logits):
        found.append(np.asarray(RunningMean(average, k + 1)(z, *found[-1:])))
    return np.stack(found)


LOGITS = hnp.arrays(
    "float32",
    st.tuples(st.integers(1, 4), st.just(3), st.just(4)),
    elements=st.floats(-30, 30, width=32),
)


@given(LOGITS)
def test_is_the_mean_so_far(logits):
    number = np.arange(1, len(logits) + 1)[:, None, None]
    np.testing.assert_allclose(running("logits", logits), logits.cumsum(0) / number, atol=1e-4)
    expected = softmax(logits).cumsum(0) / number
    np.testing.assert_allclose(softmax(running("probs", logits)), expected, atol=1e-5)


def test_mean_of_probabilities_is_finite_where_they_vanish():
    logits = np.array([[[0, 1e4]], [[1e4, 0]]], "float32")
    found = running("probs", logits)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(softmax(found[1]), [[0.5, 0.5]])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"average": "labels", "count": 2}, "Received: average=labels"),
        ({"average": "probs", "count": 0}, "Received: count=0"),
        ({"average": "probs", "count": True}, "Received: count=True"),
    ],
)
def test_rejects_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        RunningMean(**arguments)


def test_configs_written_before_0_2_still_open():
    layer = RunningMean.from_config({"name": "mean", "of": "probs", "count": 2})
    assert (layer.name, layer.average, layer.count) == ("mean", "probs", 2)


def test_previous_is_given_from_the_second_on():
    logits = np.zeros((1, 2), "float32")
    with pytest.raises(ValueError, match="Received: previous=None, count=2"):
        RunningMean("logits", 2)(logits)
    with pytest.raises(ValueError, match="count=1"):
        RunningMean("logits", 1)(logits, logits)
