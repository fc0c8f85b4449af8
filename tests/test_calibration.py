import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import keras_adaptive as ka
from keras_adaptive.calibration import confidence, geometric_thresholds

INF = np.inf


def problems(max_exits=4):
    """Random logits, labels and costs, often with ties."""

    @st.composite
    def draw(draw):
        exits, samples = draw(st.integers(1, max_exits)), draw(st.integers(1, 30))
        classes = draw(st.integers(2, 4))
        values = draw(st.sampled_from([st.integers(-3, 3), st.floats(-20, 20, width=32)]))
        logits = draw(hnp.arrays("float32", (exits, samples, classes), elements=values))
        labels = draw(hnp.arrays("int64", samples, elements=st.integers(0, classes - 1)))
        steps = draw(hnp.arrays("int64", exits, elements=st.integers(0, 10)))
        return logits, labels, (np.cumsum(steps) + 1).astype(float)

    return draw()


# ---- confidence


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


# ---- the published rule


def test_geometric_thresholds_equal_the_reference_at_every_stored_point(goldens):
    golden = goldens["threshold_search"]
    probabilities = np.array(golden["probs"], "float32")
    labels, costs = np.array(golden["targets"]), np.array(golden["flops"])
    logits = np.log(probabilities.astype("float64"))
    assert len(golden["results"]) == 20
    for point in golden["results"]:
        thresholds = geometric_thresholds(probabilities.max(axis=-1), point["p"])
        expected = np.array(point["thresholds"])
        expected[expected == 1e8], expected[expected == -1e8] = INF, -INF
        np.testing.assert_array_equal(thresholds, expected)
        # logits of rounded probabilities: a threshold that is a confidence may round up
        report = ka.evaluate(ka.ExitPolicy(thresholds - 1e-6), logits, labels, costs)
        assert 100 * report.accuracy == pytest.approx(point["acc"])
        assert report.mean_cost == pytest.approx(point["expected_flops"])


@given(
    hnp.arrays(
        "float64", st.tuples(st.integers(1, 5), st.integers(1, 40)), elements=st.floats(0, 1)
    ),
    st.floats(0.01, 100),
)
def test_geometric_shares_are_about_as_asked(confidences, p):
    exits, samples = confidences.shape
    thresholds = geometric_thresholds(confidences, p)
    powers = p ** np.arange(1.0, exits + 1)
    assert thresholds[-1] == -INF
    left = np.zeros(samples, bool)
    for k in range(exits - 1):
        leaves = ~left & (confidences[k] >= thresholds[k])
        wanted = np.floor(samples * powers[k] / powers.sum() + 1e-9)
        if np.isfinite(thresholds[k]):  # ties may take more along
            ties = (confidences[k] == thresholds[k]).sum() - 1
            assert wanted - 1 <= leaves.sum() <= wanted + ties
        else:
            assert wanted == 0 or (~left).sum() < wanted + 1
        left |= leaves


@pytest.mark.parametrize("p", [0, -1, np.nan, INF, None, "1"])
def test_geometric_rejects_impossible_p(p):
    with pytest.raises((ValueError, TypeError), match="p"):
        geometric_thresholds(np.ones((2, 3)), p)


@pytest.mark.parametrize("confidences", [np.ones(3), np.ones((2, 0)), [[np.nan], [1.0]]])
def test_geometric_rejects_impossible_confidences(confidences):
    with pytest.raises(ValueError, match="`confidences` must be finite"):
        geometric_thresholds(confidences, 1)


# ---- calibrate


@settings(max_examples=60, deadline=None)
@given(problems(), st.floats(0, 1))
def test_geometric_keeps_the_budget(problem, share):
    logits, labels, costs = problem
    budget = costs[0] + share * (costs[-1] - costs[0])
    policy = ka.calibrate(logits, labels, costs, budget=budget, method="geometric")
    report = ka.evaluate(policy, logits, labels, costs)
    assert report.mean_cost <= budget * (1 + 1e-9)
    assert policy.details["mean_cost"] == pytest.approx(report.mean_cost)


def test_geometric_spends_most_of_the_budget(rng):
    logits, costs = rng.normal(size=(5, 2000, 10)), np.array([1.0, 2, 4, 7, 11])
    for budget in np.linspace(1, 11, 21):
        policy = ka.calibrate(logits, None, costs, budget=budget, method="geometric")
        assert budget - 0.05 < policy.details["mean_cost"] <= budget + 1e-8


def test_a_budget_for_everything_uses_the_whole_network(rng):
    logits = rng.normal(size=(3, 50, 4))
    policy = ka.calibrate(logits, None, [1.0, 2, 3], budget=100, method="geometric")
    assert (policy.decide(logits) == 2).all()


def test_costs_may_differ_from_sample_to_sample(rng):
    logits = rng.normal(size=(3, 200, 4))
    costs = np.cumsum(rng.uniform(1, 3, size=(3, 200)), axis=0)
    policy = ka.calibrate(logits, None, costs, budget=4, method="geometric")
    exits = policy.decide(logits, costs)
    assert costs[exits, np.arange(200)].mean() <= 4


LOGITS = np.zeros((2, 3, 4))
LABELS = np.zeros(3, int)
COSTS = [1.0, 2.0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"logits": np.zeros((2, 3))}, "`logits` must be of shape"),
        ({"logits": np.zeros((2, 0, 4))}, "`logits` must be of shape"),
        ({"logits": np.zeros((2, 3, 1))}, "two classes"),
        ({"logits": np.full((2, 3, 4), np.nan)}, "`logits` must be finite"),
        ({"labels": np.zeros(2, int)}, r"`labels` must be integers of shape \(3,\)"),
        ({"labels": np.zeros(3)}, "`labels` must be integers"),
        ({"labels": np.array([0, 1, 4])}, "below the number of classes, 4"),
        ({"labels": np.array([0, 1, -1])}, "`labels` must be at least 0"),
        ({"costs": None}, "`costs` must be given"),
        ({"costs": [1.0]}, "`costs` must be of shape"),
        ({"costs": [2.0, 1.0]}, "not fall from exit to exit"),
        ({"costs": [-1.0, 1.0]}, "not negative"),
        ({"costs": [np.nan, 1.0]}, "`costs` must be finite"),
        ({"budget": 0.5}, "first exit costs, 1. Received: budget=0.5"),
        ({"budget": 0}, "Received: budget=0"),
        ({"budget": np.nan}, "Received: budget=nan"),
        ({"method": "best"}, "Received: method=best"),
        ({"confidence": "loudest"}, "Received: confidence=loudest"),
    ],
)
def test_rejects_impossible_arguments(change, message):
    arguments = {"logits": LOGITS, "labels": LABELS, "costs": COSTS, "budget": 1.5, **change}
    with pytest.raises(ValueError, match=message):
        ka.calibrate(**arguments)


# ---- policies


@settings(max_examples=60, deadline=None)
@given(problems(), st.data())
def test_nobody_leaves_later_when_a_threshold_falls(problem, data):
    logits, _, costs = problem
    exits = len(costs)
    numbers = st.floats(0, 1) | st.just(INF)
    thresholds = np.array(data.draw(st.lists(numbers, min_size=exits, max_size=exits)))
    lower = thresholds.copy()
    which = data.draw(st.integers(0, exits - 1))
    lower[which] -= data.draw(st.floats(0, 1))
    before = ka.ExitPolicy(thresholds).decide(logits)
    assert (ka.ExitPolicy(lower).decide(logits) <= before).all()


@settings(max_examples=40, deadline=None)
@given(problems(), st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(problem, random):
    logits, _, costs = problem
    order = list(range(logits.shape[1]))
    random.shuffle(order)
    budget = costs.mean()
    policy = ka.calibrate(logits, None, costs, budget=budget, method="geometric")
    again = ka.calibrate(logits[:, order], None, costs, budget=budget, method="geometric")
    np.testing.assert_array_equal(policy.thresholds, again.thresholds)


def test_leaves_at_the_first_exit_that_is_sure_enough():
    logits = np.array([[[0.0, 5.0], [0.0, 0.1]], [[0.0, 5.0], [0.0, 5.0]], [[0.0, 0.0]] * 2])
    assert ka.ExitPolicy([0.9, 0.9, 0.9]).decide(logits).tolist() == [0, 1]
    assert ka.ExitPolicy([INF, 0.9, 0.9]).decide(logits).tolist() == [1, 1]
    assert ka.ExitPolicy([INF, INF, INF]).decide(logits).tolist() == [2, 2]


def test_a_confidence_equal_to_the_threshold_is_enough():
    logits = np.zeros((2, 1, 2))
    assert ka.ExitPolicy([0.5, 0]).decide(logits).tolist() == [0]


def test_leaves_exit_by_exit_as_decide_does(rng):
    logits = rng.normal(size=(3, 100, 5)) * 3
    policy = ka.ExitPolicy([0.9, 0.7, 0], temperatures=[0.5, 2, 1])
    found = np.full(100, -1)
    for k in range(3):
        found[(found < 0) & policy.leaves(k, logits[k])] = k
    np.testing.assert_array_equal(found, policy.decide(logits))


def test_the_last_threshold_is_always_minus_infinity():
    given = np.array([0.5, 0.7])
    policy = ka.ExitPolicy(given)
    assert policy.thresholds.tolist() == [0.5, -INF]
    assert given.tolist() == [0.5, 0.7]
    assert policy.used_exits == [0, 1]
    assert ka.ExitPolicy([INF, 0.2, 0]).used_exits == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "`thresholds` must be one number an exit"),
        (([np.nan, 0],), "none of them NaN"),
        ((["high", 0],), "`thresholds` must be numbers"),
        (([0.5, 0], "loudest"), "Received: confidence=loudest"),
        (([0.5, 0], "max_prob", [1.0]), "1 temperatures, 2 thresholds"),
        (([0.5, 0], "max_prob", [1.0, 0.0]), "`temperatures` must be positive"),
        (([0.5, 0], "max_prob", [1.0, INF]), "`temperatures` must be positive"),
    ],
)
def test_policy_rejects_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ka.ExitPolicy(*arguments)


def test_decide_rejects_another_number_of_exits():
    with pytest.raises(ValueError, match="2 exits, 3 thresholds"):
        ka.ExitPolicy([0.5, 0.5, 0]).decide(LOGITS)


def test_saved_policy_decides_the_same(tmp_path, rng):
    policy = ka.ExitPolicy(
        [0.123456789012345678, INF, 0], "entropy", [1.5, 1, 0.3], details={"budget": 3.0}
    )
    policy.save(tmp_path / "policy.json")
    again = ka.ExitPolicy.load(tmp_path / "policy.json")
    assert again.thresholds.tolist() == policy.thresholds.tolist()
    assert again.temperatures.tolist() == policy.temperatures.tolist()
    assert (again.confidence, again.details) == (policy.confidence, policy.details)
    json.loads((tmp_path / "policy.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must hold JSON"),
        (b"\xff\xfe\x00", "must hold JSON"),
        ("[]", '"format": "keras_adaptive.ExitPolicy"'),
        ('{"format": "other"}', '"format": "keras_adaptive.ExitPolicy"'),
        ('{"format": "keras_adaptive.ExitPolicy", "version": 99}', "Received: version=99"),
        ('{"format": "keras_adaptive.ExitPolicy", "version": 1}', "must hold thresholds"),
    ],
)
def test_load_rejects_what_is_no_policy(tmp_path, content, message):
    path = tmp_path / "policy.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        ka.ExitPolicy.load(path)
