"""The device's rule against the shared vectors, which come from the host's policies."""

import json
import math
from decimal import Decimal, localcontext

import numpy as np
import pytest
import write_vectors

from anytime_tflite.file import stopping_networks
from anytime_tflite.rule import CONFIDENCES, LOG_ODDS, Run, softmax, to_log_odds

INF = math.inf


def cases(name):
    return json.loads((write_vectors.FOLDER / f"{name}.json").read_text())["cases"]


@pytest.mark.parametrize("name", write_vectors.FILES)
def test_the_vectors_are_those_the_script_writes(name):
    found, expected = cases(name), json.loads(write_vectors.content(name))["cases"]
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        for key in ("confidences", "log_odds", "probabilities"):
            values = [np.array(case["expected"].pop(key), float) for case in (a, b)]
            np.testing.assert_allclose(*values, rtol=1e-9, atol=1e-12)
        for key in ("thresholds", "log_odds"):
            # some lie beside a confidence, whose last digits depend on the processor
            values = [np.array(case.pop(key), float) for case in (a, b)]
            np.testing.assert_allclose(*values, rtol=1e-9, atol=1e-9)
        assert a == b


def follow(case):
    """Runs a case with the device's rule, the clock being what the case says."""
    run = Run(
        case["confidence"],
        [float(t) for t in case["log_odds"]],
        case["patience"],
        case["deadline_ms"],
        stopping_networks(case),
        case["agreement"],
    )
    last, elapsed, confidences, log_odds = len(case["logits"]) - 1, 0.0, [], []
    for stage, logits in enumerate(case["logits"]):
        logits = np.array(logits) / case["temperatures"][stage]
        elapsed += case["stage_ms"][stage]
        next_ms = case["stage_ms"][stage + 1] if stage < last else None
        cancelled = case["cancelled_during"] is not None and stage >= case["cancelled_during"]
        confidences.append(run.confidence_of(stage, logits, softmax(logits)))
        log_odds.append(run.log_odds_of(stage, logits))
        stopped_by = run.stopped_by(stage, logits, elapsed, next_ms, cancelled)
        if stopped_by:
            return stage, stopped_by, confidences, log_odds, logits
    raise AssertionError("the last stage must stop")


@pytest.mark.parametrize("name", write_vectors.FILES)
def test_follows_the_vectors(name):
    reasons = set()
    for case in cases(name):
        exit, stopped_by, confidences, log_odds, logits = follow(case)
        expected = case["expected"]
        assert (exit, stopped_by) == (expected["exit"], expected["stopped_by"]), case
        assert logits.argmax() == expected["label"]
        np.testing.assert_allclose(confidences, expected["confidences"], atol=1e-12)
        wanted = np.array(expected["log_odds"], float)
        np.testing.assert_allclose(log_odds, wanted, rtol=1e-9, atol=1e-9)
        np.testing.assert_allclose(softmax(logits), expected["probabilities"], atol=1e-12)
        reasons.add(stopped_by)
    by_confidence = {"confidence", "end"}
    assert (
        reasons
        >= {
            "confidence": by_confidence,
            "saturated": by_confidence,
            "learned": by_confidence,
            "patience": {"patience", "end"},
            "agreement": {"patience", "end"},
            "deadline": {"deadline", "cancelled", "end"},
        }[name]
    )


# ---- log-odds, computed with 200 digits


def exactly(kind, logits):
    """Returns the log-odds of an answer from its probabilities, which 200 digits can hold."""
    with localcontext() as context:
        context.prec = 200
        z = [Decimal(float(value)) for value in logits]
        powers = [(value - max(z)).exp() for value in z]
        p = sorted((power / sum(powers) for power in powers), reverse=True)
        if kind == "max_prob":
            return float((p[0] / sum(p[1:])).ln())
        if kind == "prob_margin":
            return float(-(sum(p[1:]) + p[1]).ln())
        if kind == "entropy":
            return float(-(-sum(q * q.ln() for q in p)).ln())
        return float(sorted(z)[-1] - sorted(z)[-2])


@pytest.mark.parametrize("kind", LOG_ODDS)
@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_log_odds_keep_their_digits_however_confident_an_answer_is(kind, dtype):
    rng = np.random.default_rng(0)
    tolerance = 5e-5 if dtype == "float32" else 1e-12
    for scale in (1, 4, 16, 64):
        for classes in (2, 10):
            logits = (scale * rng.normal(size=classes)).astype(dtype)
            expected = exactly(kind, logits)
            assert LOG_ODDS[kind](logits) == pytest.approx(expected, rel=tolerance, abs=tolerance)


@pytest.mark.parametrize("kind", LOG_ODDS)
def test_log_odds_order_answers_as_their_confidence_does(kind, rng):
    answers = [scale * rng.normal(size=6) for scale in np.geomspace(0.1, 5, 60)]
    plain = [CONFIDENCES[kind](z, softmax(z)) for z in answers]
    odds = [LOG_ODDS[kind](z) for z in answers]
    np.testing.assert_array_equal(np.argsort(plain), np.argsort(odds))
    for confidence, value in zip(plain, odds, strict=True):
        assert to_log_odds(kind, confidence) == pytest.approx(value, abs=2e-6)
        assert to_log_odds(kind, confidence) <= value  # so that it is reached


@pytest.mark.parametrize(
    ("kind", "threshold", "expected"),
    [
        ("max_prob", 0.75, math.log(3)),
        ("learned", 0.5, 0.0),
        ("prob_margin", 0.5, math.log(2)),
        ("entropy", -0.25, math.log(4)),
        ("logit_margin", 3.5, 3.5),
        # what no confidence is below, and none reaches
        ("max_prob", 0.0, -INF),
        ("max_prob", -INF, -INF),
        ("max_prob", 1.0, INF),
        ("max_prob", INF, INF),
        ("prob_margin", 0.0, -INF),
        ("prob_margin", 1.0, INF),
        ("entropy", 0.0, INF),
        ("entropy", -INF, -INF),
        ("logit_margin", 0.0, -INF),
        ("logit_margin", INF, INF),
    ],
)
def test_thresholds_become_log_odds(kind, threshold, expected):
    assert to_log_odds(kind, threshold) == pytest.approx(expected, abs=1e-12)


def test_files_of_version_2_compare_what_users_know():
    logits = np.array([40.0, 0.0, 0.0])  # a probability that float64 rounds to 1
    assert Run("max_prob", [1.0, -INF], plain=True).stopped_by(0, logits, 0, 1) == "confidence"
    assert Run("max_prob", [INF, -INF]).stopped_by(0, logits, 0, 1) is None


def test_a_share_that_is_just_reached_is_enough():
    run = Run("max_prob", None, agreement={"members": 3, "share": 2 / 3})
    answers = np.eye(3)[[0, 1, 0]]
    assert [run.stopped_by(k, z, 0, 1) for k, z in enumerate(answers)] == [None, None, "patience"]
