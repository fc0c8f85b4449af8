import json
import sys
from decimal import Decimal, localcontext

import keras
import numpy as np
import pytest
import write_vectors

import keras_adaptive as ka
from keras_adaptive.policy.confidence import (
    confidence,
    from_log_odds,
    log_odds,
    log_odds_of_exit,
    to_log_odds,
)
from keras_adaptive.policy.learned_policy import unpack


def test_confidences_are_what_their_names_say(rng):
    logits = rng.normal(size=(2, 50, 5)) * 5
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    top = np.sort(p, axis=-1)[..., ::-1]
    by_logit = np.sort(logits, axis=-1)[..., ::-1]
    expected = {
        "max_prob": top[..., 0],
        "prob_margin": top[..., 0] - top[..., 1],
        "logit_margin": by_logit[..., 0] - by_logit[..., 1],
        "entropy": (p * np.log(p)).sum(-1),
    }
    for kind, values in expected.items():
        np.testing.assert_allclose(confidence(logits, kind), values, atol=1e-12)


@pytest.mark.parametrize("kind", ["max_prob", "prob_margin", "logit_margin", "entropy"])
def test_confidence_survives_huge_logits_and_ignores_a_shift(kind):
    logits = np.array([[[1e4, 0.0, -1e4], [3.0, 2.0, 1.0]]])
    np.testing.assert_allclose(
        confidence(logits, kind), confidence(logits + 100, kind), rtol=1e-9, atol=1e-9
    )


def test_temperature_divides_the_logits(rng):
    logits = rng.normal(size=(2, 9, 3))
    found = confidence(logits, temperatures=[1.0, 2.0])
    np.testing.assert_allclose(found[1], confidence(logits / 2)[1])
    np.testing.assert_allclose(found[0], confidence(logits)[0])


def test_dense_confidence_is_the_mean_over_the_confident_pixels():
    high, middle, low = np.log([0.9, 0.1]), np.log([0.6, 0.4]), np.log([0.5, 0.5])
    cells = np.array([[[high, low]], [[high, middle]], [[low, low]]])[None]
    found = confidence(cells, pixel_floor=0.5)
    np.testing.assert_allclose(found, [[0.9, 0.75, -np.inf]])
    np.testing.assert_allclose(confidence(cells, pixel_floor=0.7), [[0.9, 0.9, -np.inf]])
    policy = ka.ExitPolicy([0.2, 0], pixel_floor=0.7)
    assert policy.decide(np.repeat(cells, 2, axis=0)).tolist() == [0, 0, 1]


def policy_of_case(case):
    """The host's policy of a case for the device, and thresholds that it compares besides."""
    thresholds, exact = ([float(t) for t in case[name]] for name in ("thresholds", "log_odds"))
    if case["patience"]:
        return ka.PatiencePolicy(case["patience"]), exact
    if case["agreement"]:
        return ka.AgreementPolicy(**case["agreement"]), exact
    if case["confidence"] == "learned":
        return ka.LearnedPolicy(unpack(case["stopping"]), thresholds, log_odds=exact), None
    kind, temperatures = case["confidence"], case["temperatures"]
    return ka.ExitPolicy(thresholds, kind, temperatures, log_odds=exact), None


@pytest.mark.parametrize("xp", [np, keras.ops], ids=["numpy", "keras.ops"])
@pytest.mark.parametrize("name", write_vectors.FILES)
def test_the_rule_follows_the_vectors_in_every_namespace(name, xp):
    cases = json.loads((write_vectors.FOLDER / f"{name}.json").read_text())["cases"]
    tensor = np.asarray if xp is np else keras.ops.convert_to_tensor
    followed = 0
    for case in cases:
        policy, bars = policy_of_case(case)
        logits = np.array(case["logits"], "float64" if xp is np else "float32")[:, None]
        wanted = case["expected"]
        if bars is None:
            reached = range(len(wanted["confidences"]))
            values = [policy.confidence_of(k, tensor(logits[k]), xp)[0] for k in reached]
            exact = [policy.compared(k, tensor(logits[k]), xp)[0] for k in reached]
            tolerance = 1e-9 if xp is np else 5e-6
            np.testing.assert_allclose(values, wanted["confidences"], tolerance, tolerance)
            finite = np.isfinite([float(t) for t in wanted["log_odds"]])
            np.testing.assert_allclose(
                np.array(exact, "float64")[finite],
                np.array(wanted["log_odds"], "float64")[finite],
                rtol=1e-9 if xp is np else 5e-5,
                atol=1e-9 if xp is np else 5e-6,
            )
        if wanted["stopped_by"] not in ("confidence", "patience", "end"):
            continue
        state = policy.start(1, logits.shape[-1], xp)
        for k in range(len(logits)):
            bar = None if bars is None else bars[k]
            leaves, state = policy.step(k, tensor(logits[k]), state, xp, bar)
            if bool(leaves[0]) or k == len(logits) - 1:
                break
        assert k == wanted["exit"]
        followed += 1
    assert followed > 0


def test_dense_confidence_is_the_same_in_a_graph(rng):
    cells = rng.normal(size=(3, 2, 2, 4)).astype("float32")
    policy = ka.ExitPolicy([0.5, 0], temperatures=[2, 1], pixel_floor=0.3)
    found = policy.confidence_of(0, keras.ops.convert_to_tensor(cells), keras.ops)
    np.testing.assert_allclose(found, policy.confidence_of(0, cells), rtol=1e-5)


def test_an_unknown_confidence_is_refused():
    with pytest.raises(ValueError, match="`confidence` must be one of .* Received: .*=loudest"):
        confidence(np.zeros((1, 2, 3)), "loudest")


KINDS = ["max_prob", "prob_margin", "logit_margin", "entropy"]


def by_definition(logits, kind, temperature=1):
    """Published confidence and its log-odds of one answer, to 480 digits."""
    with localcontext() as context:
        context.prec = 480
        z = [Decimal(float(value)) / Decimal(float(temperature)) for value in logits]
        exponentials = [value.exp() for value in z]
        total = sum(exponentials)
        p = sorted((e / total for e in exponentials), reverse=True)
        if kind == "logit_margin":
            first, second = sorted(z, reverse=True)[:2]
            return first - second, first - second
        if kind == "max_prob":
            return p[0], (p[0] / (1 - p[0])).ln()
        if kind == "prob_margin":
            return p[0] - p[1], -(1 - p[0] + p[1]).ln()
        whole = total.ln()
        negative = (
            sum(e * (value - whole) for e, value in zip(exponentials, z, strict=True)) / total
        )
        return negative, -(-negative).ln()


def saturated(rng, samples=12, classes=5):
    """Answers of which the most confident are multiplied by up to 64."""
    factors = np.repeat([1, 8, 64], samples // 3)[:, None]
    return (rng.normal(size=(samples, classes)) * 3 * factors).astype("float32")


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_log_odds_keep_their_digits_where_probabilities_are_all_one(rng, kind, temperature):
    logits = saturated(rng)
    expected = np.array([float(by_definition(z, kind, temperature)[1]) for z in logits])
    found = log_odds(logits[None], kind, [temperature])[0]
    np.testing.assert_allclose(found, expected, rtol=1e-12, atol=1e-12)
    single = log_odds_of_exit(keras.ops.convert_to_tensor(logits), kind, temperature, keras.ops)
    np.testing.assert_allclose(single, expected, rtol=5e-5)
    if kind != "logit_margin":
        rounded = confidence(logits[None], kind)[0].astype("float32")
        assert (rounded >= {"entropy": -1e-7}.get(kind, 1)).sum() > 2
    assert len(set(found)) == len(found)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("temperature", [1.0, 2.5])
def test_log_odds_order_answers_as_the_published_confidence_does(rng, kind, temperature):
    logits = saturated(rng)
    tied = [[2, 2, 1, 0, 0], [2, 2, 2, 0, 0], [1] * 5, [640, 640, 0, 0, 0]]
    logits = np.concatenate([logits, np.array(tied, "float32")])
    published = [by_definition(z, kind, temperature)[0] for z in logits]
    found = log_odds(logits[None], kind, [temperature])[0]
    order = sorted(range(len(logits)), key=published.__getitem__)
    for i, j in zip(order, order[1:], strict=False):  # equal ones are equal but for rounding
        assert found[i] < found[j] or abs(published[j] - published[i]) < Decimal("1e-15")
        assert found[i] < found[j] + 1e-12


def test_a_margin_of_nothing_has_no_log_odds():
    for kind in ("prob_margin", "logit_margin"):
        assert abs(log_odds([[[3.0, 3.0, 1.0]]], kind)) < 1e-15
    assert log_odds([[[7.0, 7.0]]]) == 0


def test_huge_logits_give_finite_log_odds():
    for kind in KINDS:
        found = log_odds([[[1e30, -1e30, 0.0], [3e38, -3e38, 3e38]]], kind)
        assert np.isfinite(found).all()


@pytest.mark.parametrize("kind", [*KINDS, "learned"])
def test_thresholds_and_their_log_odds(kind):
    values = np.array([0.05, 0.4, 1.0, 3.0, 9.0])
    definition = {
        "max_prob": 1 / (1 + np.exp(-values)),
        "learned": 1 / (1 + np.exp(-values)),
        "prob_margin": 1 - np.exp(-values),
        "logit_margin": values,
        "entropy": -np.exp(-values),
    }[kind]
    np.testing.assert_allclose(from_log_odds(values, kind), definition, rtol=1e-12)
    np.testing.assert_allclose(to_log_odds(definition, kind), values, rtol=1e-10)
    ends = np.array([-np.inf, np.inf])
    assert from_log_odds(ends, kind).tolist() == to_log_odds(ends, kind).tolist() == ends.tolist()


def test_thresholds_beyond_every_confidence():
    for kind in ("max_prob", "learned", "prob_margin"):
        assert to_log_odds([-1, 0, 1, 2], kind).tolist() == [-np.inf] * 2 + [np.inf] * 2
    assert to_log_odds([-1, 0], "logit_margin").tolist() == [-np.inf] * 2
    assert to_log_odds([0, 1], "entropy").tolist() == [np.inf] * 2


@pytest.mark.parametrize("kind", KINDS)
def test_a_threshold_that_is_a_confidence_is_reached(rng, kind):
    logits = (rng.normal(size=(1, 500, 7)) * rng.uniform(0, 5, (500, 1))).astype("float32")
    values, exact = confidence(logits, kind)[0], log_odds(logits, kind)[0]
    inside = np.abs(exact) < 20
    bar = to_log_odds(values, kind)
    assert (bar <= exact)[inside].all()
    assert (exact - bar)[inside].max() <= 1.0001e-6


def test_blocks_give_what_the_whole_gives(rng, monkeypatch):
    logits, cells = rng.normal(size=(2, 50, 4)), rng.normal(size=(2, 5, 6, 3, 4))
    policy = ka.ExitPolicy([0.5, 0], pixel_floor=0.4)
    other = ka.AgreementPolicy(2)
    whole = log_odds(logits), confidence(cells), policy.decide(cells), other.decide(logits)
    monkeypatch.setattr(sys.modules["keras_adaptive.policy.confidence"], "BLOCK", 24)
    parts = log_odds(logits), confidence(cells), policy.decide(cells), other.decide(logits)
    for one, two in zip(whole, parts, strict=True):
        np.testing.assert_allclose(one, two, rtol=1e-14)
