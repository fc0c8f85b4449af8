"""PCEE's thresholds: against an isotonic regression done by scikit-learn, and by hand."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.isotonic import IsotonicRegression
from strategies import problems

import keras_adaptive as ka
from keras_adaptive.calibration import pcee_thresholds
from keras_adaptive.policy.confidence import log_odds


@given(problems(), st.floats(0, 1))
def test_leave_where_the_regression_says_that_answers_are_right_often_enough(problem, accuracy):
    logits, labels, _ = problem
    scores, right = log_odds(logits), logits.argmax(-1) == labels
    thresholds = pcee_thresholds(scores, right, accuracy)
    for k in range(len(logits) - 1):
        values = np.unique(scores[k])
        fitted = IsotonicRegression().fit(scores[k], right[k]).predict(values)
        clear = np.abs(fitted - accuracy) > 1e-6  # of equal numbers rounding decides
        assert ((values >= thresholds[k]) == (fitted >= accuracy))[clear].all()
    assert thresholds[-1] == -np.inf


def test_a_policy_is_made_of_them():
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 10, 500)
    logits = rng.normal(size=(3, 500, 10))
    logits[:, range(500), labels] += np.array([[1.0], [2.0], [3.0]])
    policy = ka.calibrate(logits, labels, [1.0, 2.0, 4.0], method="pcee", accuracy=0.8)
    expected = pcee_thresholds(log_odds(logits), logits.argmax(-1) == labels, 0.8)
    np.testing.assert_allclose(policy.log_odds, expected)
    result = ka.evaluate(policy, logits, labels, [1.0, 2.0, 4.0])
    assert (result.exit_fractions > 0.02).all()
    assert policy.details["accuracy"] == pytest.approx(result.accuracy)
    assert policy.details["accuracy_wanted"] == 0.8
    never = ka.calibrate(logits, labels % 5, [1.0, 2.0, 4.0], method="pcee", accuracy=1.0)
    assert never.details["mean_cost"] > policy.details["mean_cost"]


def test_only_an_accuracy_is_a_target():
    logits, labels = np.zeros((2, 3, 2)), [0, 1, 0]
    with pytest.raises(ValueError, match='With method="pcee", `accuracy` must be the target'):
        ka.calibrate(logits, labels, [1, 2], budget=1.5, method="pcee")
    with pytest.raises(ValueError, match=r"`logits` must be of shape \(exits, samples, classes\)"):
        ka.calibrate(
            np.zeros((2, 3, 4, 4, 2)),
            np.zeros((3, 4, 4), int),
            [1, 2],
            accuracy=0.5,
            method="pcee",
        )


@pytest.mark.parametrize(
    ("confidences", "right", "accuracy", "message"),
    [
        ([[0.5, np.nan], [1, 1]], [[1, 0], [1, 1]], 0.5, "must be finite numbers"),
        ([0.5, 0.6], [1, 0], 0.5, r"of shape \(exits, samples\)"),
        ([[0.5, 0.6], [1]], [[1, 0], [1, 1]], 0.5, "`confidences` must be finite numbers"),
        (np.zeros((2, 0)), np.zeros((2, 0)), 0.5, r"Received: shape \(2, 0\)"),
        ([[0.5, 0.6], [1, 1]], [[1, 0]], 0.5, r"`right` must be 0 or 1, of shape \(2, 2\)"),
        ([[0.5, 0.6], [1, 1]], [[3, 7], [1, 1]], 0.5, "`right` must be 0 or 1"),
        ([[0.5, 0.6], [1, 1]], [[1, 0], [1, 1]], 90, "`accuracy` must be from 0 to 1"),
        ([[0.5, 0.6], [1, 1]], [[1, 0], [1, 1]], np.nan, "`accuracy` must be a finite number"),
        ([[0.5, 0.6], [1, 1]], [[1, 0], [1, 1]], "high", "`accuracy` must be a finite number"),
    ],
)
def test_what_gives_no_thresholds_is_refused(confidences, right, accuracy, message):
    """Labels in place of right answers closed no exit at all."""
    with pytest.raises(ValueError, match=message):
        pcee_thresholds(confidences, right, accuracy)
