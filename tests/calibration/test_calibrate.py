import itertools

import numpy as np
import oracle
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import problems

import keras_adaptive as ka
from anytime_tflite import read_info
from keras_adaptive.calibration.calibrate import calibrate_budgets
from keras_adaptive.calibration.geometric import geometric_q, geometric_thresholds

INF = np.inf


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


@pytest.mark.parametrize(
    "confidences",
    [np.ones(3), np.ones((2, 0)), [[np.nan], [1.0]], "high", [["high"], ["low"]]]
    + [[[1.0, 2.0], [1.0]], np.ma.masked_array(np.ones((2, 3)), np.ones((2, 3)))],
)
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


# ---- the other methods

METHODS = ("geometric", "percentile", "optimal")


def outcome(policy, problem):
    report = ka.evaluate(policy, *problem)
    return report.accuracy, report.mean_cost


@settings(max_examples=80, deadline=None)
@given(problems(), st.floats(0, 1))
def test_optimal_is_never_below_the_other_methods_at_equal_budget(problem, share):
    logits, labels, costs = problem
    budget = costs[0] + share * (costs[-1] - costs[0])
    found = {
        method: outcome(
            ka.calibrate(logits, labels, costs, budget=budget, method=method, temperature=False),
            problem,
        )
        for method in METHODS
    }
    for accuracy, cost in found.values():
        assert cost <= budget * (1 + 1e-9)
        assert found["optimal"][0] >= accuracy


@settings(max_examples=80, deadline=None)
@given(problems(max_exits=4), st.floats(0, 1), st.sampled_from(["max_prob", "entropy"]))
def test_optimal_equals_brute_force(problem, share, kind):
    logits, labels, costs = problem
    budget = costs[0] + share * (costs[-1] - costs[0])
    confidences = ka.policy.confidence(logits, kind)
    values = [np.append(np.unique(c), INF) for c in confidences[:-1]]
    best = (-1.0, 0.0)
    for thresholds in itertools.product(*values):
        accuracy, cost = outcome(ka.ExitPolicy([*thresholds, 0], kind), problem)
        if cost <= budget * (1 + 1e-9):
            best = max(best, (accuracy, -cost))
    policy = ka.calibrate(logits, labels, costs, budget=budget, confidence=kind, temperature=False)
    accuracy, cost = outcome(policy, problem)
    assert policy.exact
    assert accuracy == pytest.approx(best[0], abs=1e-12)
    assert cost == pytest.approx(-best[1])


@settings(max_examples=60, deadline=None)
@given(problems(max_exits=4), st.floats(0, 1))
def test_an_accuracy_is_reached_at_the_least_cost(problem, share):
    logits, labels, costs = problem
    values = [np.append(np.unique(c), INF) for c in ka.policy.confidence(logits)[:-1]]
    all_outcomes = [
        outcome(ka.ExitPolicy([*thresholds, 0]), problem)
        for thresholds in itertools.product(*values)
    ]
    wanted = share * max(accuracy for accuracy, _ in all_outcomes)
    policy = ka.calibrate(logits, labels, costs, accuracy=wanted, temperature=False)
    accuracy, cost = outcome(policy, problem)
    assert accuracy >= wanted - 1e-9
    least = min(cost for a, cost in all_outcomes if a >= wanted - 1e-9)
    assert cost == pytest.approx(least)


def noisy(rng, exits, samples, classes=5):
    """Logits that get better from exit to exit, and samples that are hard at every exit."""
    labels = rng.integers(0, classes, samples)
    logits = rng.normal(size=(exits, samples, classes))
    gain = np.linspace(1, 3, exits)[:, None] + rng.normal(size=samples)
    logits[:, np.arange(samples), labels] += gain
    return logits, labels, np.arange(1.0, exits + 1)


def test_five_exits_are_exact_and_more_are_searched(rng):
    for exits, exact in ((5, True), (6, False)):
        logits, labels, costs = noisy(rng, exits, 120)
        policy = ka.calibrate(logits, labels, costs, budget=2.5)
        assert policy.exact is exact
        assert policy.details["mean_cost"] <= 2.5


@pytest.mark.slow
def test_many_exits_are_at_least_as_good_as_any_three(rng):
    logits, labels, costs = noisy(rng, 7, 400)
    policy = ka.calibrate(logits, labels, costs, budget=3, temperature=False)
    for chosen in itertools.combinations(range(6), 3):
        kept = [*chosen, 6]
        three = (
            ka.calibrate(logits[kept], labels, costs[kept], budget=3, temperature=False)
            if costs[kept[0]] <= 3
            else None
        )
        if three is not None:
            assert policy.details["accuracy"] >= three.details["accuracy"]


def test_an_exit_that_is_no_use_is_closed(rng):
    labels = rng.integers(0, 2, 200)
    good = np.eye(2)[labels] * rng.uniform(1, 9, size=(200, 1))
    easy = rng.permutation(200)[:, None] < 100
    logits = np.stack([np.where(easy, 9 * good, -0.01 * good), -9 * good, good])
    policy = ka.calibrate(logits, labels, [1.0, 2, 3], budget=2, temperature=False)
    assert policy.thresholds[1] == INF
    assert policy.details["accuracy"] == 1


@pytest.mark.parametrize("method", METHODS)
def test_a_worst_case_is_kept(rng, method):
    logits, labels, costs = noisy(rng, 4, 300)
    policy = ka.calibrate(
        logits, labels, costs, budget=2.5, worst_case=3.5, method=method, temperature=False
    )
    report = ka.evaluate(policy, logits, labels, costs)
    assert report.worst_cost == 3
    assert policy.decide(logits).max() == 2  # the thresholds alone hold it
    with pytest.raises(ValueError, match="`worst_case` must be at least .* costs, 1. Received"):
        ka.calibrate(logits, labels, costs, budget=2.5, worst_case=0.5, method=method)


@pytest.mark.slow
def test_a_worst_case_closes_what_lies_behind_it(rng, trained, tmp_path):
    logits, labels, costs = noisy(rng, 3, 300, classes=10)
    costs = trained.exit_costs()
    policy = ka.calibrate(logits, labels, costs, budget=costs[1], worst_case=costs[1])
    assert policy.used_exits[-1] <= 1
    assert policy.worst_case is None
    assert policy.details["worst_case"] == costs[1]
    assert ka.export_tflite(trained, tmp_path / "model.tflite", policy) is policy
    assert read_info(tmp_path / "model.tflite")["exits"] == policy.used_exits
    hand_made = ka.ExitPolicy([2, 2, 0], worst_case=costs[1])
    for use in (
        lambda: ka.AdaptivePredictor(trained, hand_made),
        lambda: ka.export_tflite(trained, tmp_path / "other.tflite", hand_made),
    ):
        with pytest.raises(ValueError, match="`policy` must have no `worst_case`"):
            use()


@settings(max_examples=60, deadline=None)
@given(problem=problems(max_exits=3), share=st.floats(0, 1))
def test_optimal_thresholds_are_no_sample_confidences(problem, share):
    logits, labels, costs = problem
    budget = costs[0] + share * (costs[-1] - costs[0])
    policy = ka.calibrate(logits, labels, costs, budget=budget, temperature=False)
    exact = ka.policy.log_odds(logits)
    for threshold, values in zip(policy.log_odds, exact, strict=True):
        if threshold in values and np.isfinite(threshold):  # no number lies between
            lower = values[values < threshold].max()
            assert not lower < lower + (threshold - lower) / 2 < threshold


@pytest.mark.parametrize("kind", ["max_prob", "prob_margin", "logit_margin", "entropy"])
def test_thresholds_lie_midway_in_log_odds_however_confident_the_network_is(rng, kind):
    labels = rng.integers(0, 4, 60)
    logits = 50 * (rng.normal(size=(2, 60, 4)) + 2 * np.eye(4)[labels])
    how = {"confidence": kind, "temperature": False}
    policy = ka.calibrate(logits, labels, [1.0, 3.0], budget=2.0, **how)
    ordered = np.sort(oracle.log_odds(logits[0], kind))
    place = np.searchsorted(ordered, policy.log_odds[0])
    assert 0 < place < 60
    assert policy.log_odds[0] == pytest.approx(ordered[place - 1 : place + 1].mean(), rel=1e-9)
    leaves = oracle.log_odds(logits[0], kind) >= policy.log_odds[0]
    assert policy.details["mean_cost"] == pytest.approx(3 - 2 * leaves.mean())
    published = ka.calibrate(logits, None, [1.0, 3.0], budget=2.0, method="geometric", **how)
    assert published.log_odds[0] in ka.policy.log_odds(logits, kind)[0]  # a sample's own
    assert published.thresholds[0] in published.confidences(logits)[0]


def test_a_worst_case_is_kept_when_costs_differ_by_sample(rng):
    logits, labels, _ = noisy(rng, 4, 300)
    costs = np.cumsum(rng.uniform(0.5, 1.5, size=(4, 300)), axis=0)
    policy = ka.calibrate(logits, labels, costs, budget=2.5, worst_case=2.9, temperature=False)
    report = ka.evaluate(policy, logits, labels, costs)
    assert report.worst_cost <= 2.9
    assert report.mean_cost == pytest.approx(policy.details["mean_cost"])


def test_a_worst_case_does_not_stay_where_all_samples_cost_the_same(rng):
    logits, labels, costs = noisy(rng, 4, 300)
    each = np.repeat(costs[:, None], 300, axis=1)
    for worst in (3.5, 99.0):
        policy = ka.calibrate(logits, labels, each, budget=2.5, worst_case=worst)
        same = ka.calibrate(logits, labels, costs, budget=2.5, worst_case=worst)
        assert policy.worst_case is None
        assert policy.thresholds.tolist() == same.thresholds.tolist()
        assert costs[policy.decide(logits)].max() <= worst


def test_a_budget_may_be_a_share_of_the_full_cost(rng):
    logits, labels, costs = noisy(rng, 3, 300)
    each = np.cumsum(rng.uniform(0.5, 1.5, size=(3, 300)), axis=0)
    for paid in (costs, each):
        full = paid[-1].mean()
        share = ka.calibrate(logits, labels, paid, budget_share=0.6)
        plain = ka.calibrate(logits, labels, paid, budget=0.6 * full)
        assert share.thresholds.tolist() == plain.thresholds.tolist()
        assert share.details["budget_share"] == 0.6
        assert share.details["budget"] == pytest.approx(0.6 * full)
        report = ka.evaluate(share, logits, labels, paid)
        assert report.mean_cost <= 0.6 * full * (1 + 1e-9)
    several = calibrate_budgets(logits, labels, costs, budget_share=[0.5, 0.9])
    assert [p.details["budget"] for p in several] == pytest.approx([1.5, 2.7])
    for wrong in ({}, {"budgets": [2], "budget_share": [0.5]}):
        with pytest.raises(ValueError, match="Exactly one of `budgets` and `budget_share`"):
            calibrate_budgets(logits, labels, costs, **wrong)
    with pytest.raises(ValueError, match="`budget_share` must be a sequence"):
        calibrate_budgets(logits, labels, costs, budget_share=0.5)
    with pytest.raises(ValueError, match="`budgets` must be a sequence"):
        calibrate_budgets(logits, labels, costs, 2.5)


def test_a_budget_that_cannot_be_meant_is_refused_with_the_hint(rng):
    logits, labels, costs = noisy(rng, 3, 30)
    for budget, hint in ((0.5, True), (1, True), (99.0, False), (1.5, False)):
        with pytest.raises(ka.UnreachableTargetError, match="first exit costs, 100") as error:
            ka.calibrate(logits, labels, 100 * costs, budget=budget)
        assert (f"give budget_share={budget:g}" in str(error.value)) == hint
    with pytest.raises(ka.UnreachableTargetError, match="first exit costs, 0.333333"):
        ka.calibrate(logits, labels, costs, budget_share=0.33)
    assert ka.calibrate(logits, labels, costs, budget_share=1 / 3).decide(logits).max() == 0


@pytest.mark.parametrize("q", [0.2, 0.5, 0.7])
def test_a_share_q_leaves_at_every_exit(rng, q):
    logits = rng.normal(size=(5, 2000, 10))
    policy = ka.calibrate(logits, None, np.arange(1.0, 6), method="geometric", q=q)
    shares = np.bincount(policy.decide(logits), minlength=5) / 2000
    wanted = q * (1 - q) ** np.arange(5)
    np.testing.assert_allclose(shares, wanted / wanted.sum(), atol=5 / 2000)  # whole samples
    expected = geometric_thresholds(policy.confidences(logits), 1 - q)
    np.testing.assert_array_equal(policy.thresholds, expected)
    assert policy.details["q"] == q


def test_policies_keep_the_unit_of_their_costs(rng, tmp_path):
    policy = ka.calibrate(*noisy(rng, 3, 50), budget=2, unit="ms")
    policy.save(tmp_path / "policy.json")
    assert ka.ExitPolicy.load(tmp_path / "policy.json").unit == "ms"


def test_one_search_serves_many_budgets(rng):
    logits, labels, costs = noisy(rng, 4, 300)
    budgets = [1, 1.7, 3, 9]
    policies = calibrate_budgets(logits, labels, costs, budgets)
    for budget, policy in zip(budgets, policies, strict=True):
        alone = ka.calibrate(logits, labels, costs, budget=budget)
        assert policy.thresholds.tolist() == alone.thresholds.tolist()
    with pytest.raises(ValueError, match=r"Received: \('kind',\)"):
        calibrate_budgets(logits, labels, costs, budgets, kind="best")


def test_dense_outputs_are_calibrated_cell_by_cell(rng):
    labels = rng.integers(-1, 3, size=(40, 2, 2))
    logits = rng.normal(size=(3, 40, 2, 2, 3))
    logits += 2 * (labels[..., None] == np.arange(3)) * rng.uniform(0, 2, (40, 1, 1, 1))
    policy = ka.calibrate(logits, labels, [1.0, 2, 3], budget=2, pixel_floor=0.4)
    report = ka.evaluate(policy, logits, labels, [1.0, 2, 3])
    assert report.mean_cost <= 2
    exits = policy.decide(logits)
    right = [(logits[k, i].argmax(-1) == labels[i]).sum() for i, k in enumerate(exits)]
    assert report.accuracy == pytest.approx(sum(right) / (labels >= 0).sum())
    assert policy.details["accuracy"] == pytest.approx(report.accuracy)


def test_temperatures_are_fitted_unless_told_otherwise(rng):
    logits, labels, costs = noisy(rng, 3, 500)
    for method, temperature, fitted in (
        ("optimal", None, True),
        ("optimal", False, False),
        ("geometric", None, False),
        ("geometric", True, True),
        ("percentile", None, False),  # as published
        ("percentile", True, True),
    ):
        policy = ka.calibrate(
            4 * logits, labels, costs, budget=2, method=method, temperature=temperature
        )
        assert (policy.temperatures != 1).any() == fitted


def learned_margin(exits):
    """A learned policy for two classes whose log-odds of stopping are `9 |p_0 - p_1| - 4`."""
    both = np.array([[1, -1], [-1, 1]])
    network = [(both, [0, 0]), (np.eye(2), [0, 0]), (np.array([[9, 0], [9, 0]]), [-4, 0])]
    return ka.LearnedPolicy([network] * (exits - 1))


LEARNED = {
    "optimal": {"budget_share": 0.5},
    "percentile": {"accuracy": 0.8},
    "geometric": {"budget_share": 0.5},
    "q": {"method": "geometric", "q": 0.4},
    "pcee": {"accuracy": 0.9},
    "worst case": {"method": "optimal", "budget_share": 0.45, "worst_case": 3},
    "risk": {"method": "optimal", "risk": ka.RiskControl(level=0.1)},
}


@pytest.mark.parametrize("name", LEARNED)
def test_a_learned_confidence_counts_as_any_other(rng, name):
    labels = rng.integers(0, 2, 600)
    logits = rng.normal(size=(4, 600, 2))
    logits[:, range(600), labels] += np.array([[0.5], [1], [1.5], [2]])
    how = {"method": name, "unit": "ms", **LEARNED[name]}
    policies = [
        ka.calibrate(logits, labels, [1, 2, 3, 4], temperature=t, confidence=confidence, **how)
        for t, confidence in ((False, "max_prob"), (None, learned_margin(4)))
    ]
    plain, learned = policies
    assert isinstance(learned, ka.LearnedPolicy)
    exits = learned.decide(logits)
    assert exits.tolist() == plain.decide(logits).tolist()
    assert len(set(exits.tolist())) > 1
    assert learned.unit == "ms"
    assert learned.details.keys() == plain.details.keys()
    assert learned.details["mean_cost"] == plain.details["mean_cost"]


def test_what_a_learned_confidence_must_be(rng):
    data = rng.normal(size=(3, 9, 2)), rng.integers(0, 2, 9), [1, 2, 3]
    learned = learned_margin(3)
    for wrong, message in (
        ({"confidence": learned, "temperature": True}, "`temperature` must be None or False"),
        ({"confidence": learned.sampled(1)}, "`confidence` must be a greedy LearnedPolicy"),
        ({"confidence": learned_margin(2)}, "`policy` must have one threshold per exit"),
        ({"confidence": ka.PatiencePolicy(2)}, "`confidence` must be one of"),
    ):
        with pytest.raises(ValueError, match=message):
            ka.calibrate(*data, budget=2, **wrong)


def test_policy_says_how_it_was_made(rng, tmp_path):
    logits, labels, costs = noisy(rng, 3, 200)
    how = {"accuracy": np.float32(0.5), "worst_case": np.int64(3)}
    ka.calibrate(logits, labels, costs, **how).save(tmp_path / "p.json")
    details = ka.ExitPolicy.load(tmp_path / "p.json").details
    assert details["method"] == "optimal"
    assert details["accuracy"] >= 0.5
    assert details["exact"] is True
    assert details["samples"] == 200
    assert set(details["versions"]) == {"keras_adaptive", "numpy", "scipy"}


def test_published_cascades_are_recomputed_from_their_exit_shares(goldens):
    flops = goldens["cascades"]["flops"]
    for row in goldens["cascades"]["rows"]:
        costs = np.cumsum([flops[member] for member in row["cascade"].split("+")])
        leaving = np.round(10 * np.array(row["exit_pct"])).astype(int)
        exits = np.repeat(np.arange(len(costs)), leaving)
        logits = np.zeros((len(costs), len(exits), 2))
        logits[exits, np.arange(len(exits)), 0] = 9  # confident at the exit it leaves at
        policy = ka.ExitPolicy([0.9] * len(costs))
        report = ka.evaluate(policy, logits, np.zeros(len(exits), int), costs)
        # the published shares add up to 100.1 % in places
        average = report.mean_cost * leaving.sum() / 1000
        assert average == pytest.approx(row["recomputed_avg_B"], abs=1e-4)
        assert average == pytest.approx(row["paper_avg_B"], rel=0.05)
        assert costs[-1] == pytest.approx(row["worst_B"])
        assert report.worst_cost == pytest.approx(row["worst_B"])


@pytest.mark.parametrize("method", METHODS)
@settings(max_examples=30, deadline=None)
@given(problem=problems(), random=st.randoms(use_true_random=False))
def test_the_order_of_samples_does_not_matter(problem, random, method):
    logits, labels, costs = problem
    order = list(range(logits.shape[1]))
    random.shuffle(order)
    how = {"budget": costs.mean(), "method": method, "temperature": False}
    policy = ka.calibrate(logits, labels, costs, **how)
    again = ka.calibrate(logits[:, order], labels[order], costs, **how)
    np.testing.assert_array_equal(policy.thresholds, again.thresholds)


def test_one_sample_and_one_exit_are_enough():
    one = ka.calibrate(np.zeros((3, 1, 2)), np.zeros(1, int), [1.0, 2, 3], budget=1)
    assert one.decide(np.zeros((3, 1, 2))).tolist() == [0]
    alone = ka.calibrate(np.zeros((1, 5, 2)), np.zeros(5, int), [1.0], budget=1)
    assert alone.thresholds.tolist() == [-INF]


# ---- bad input

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
        ({"labels": np.full(3, 0.5)}, "`labels` must be integers"),
        ({"labels": np.array([0, 1, 4])}, "below the number of classes, 4"),
        ({"labels": np.array([0, 1, -1])}, "`labels` must be at least 0"),
        ({"costs": None}, "`costs` must be given"),
        ({"costs": [1.0]}, "`costs` must be of shape"),
        ({"costs": [2.0, 1.0]}, "not fall from exit to exit"),
        ({"costs": [-1.0, 1.0]}, "not negative"),
        ({"costs": [np.nan, 1.0]}, "`costs` must be finite"),
        ({"budget": 0.5}, "first exit costs, 1. Received: budget=0.5"),
        ({"budget": 0}, "Received: budget=0"),
        ({"budget": np.nan}, "`budget` must be a finite number"),
        ({"budget": None}, "Exactly one of .* Received: none"),
        ({"accuracy": 0.5}, "Exactly one of .* Received: budget and accuracy"),
        ({"budget": None, "accuracy": 2}, "`accuracy` must be from 0 to 1"),
        ({"budget": None, "accuracy": np.nan}, "`accuracy` must be a finite number"),
        ({"labels": None}, "`labels` must be given"),
        ({"labels": None, "budget": None, "accuracy": 0.5}, "`labels` must be given"),
        ({"budget": INF}, "`budget` must be a finite number"),
        ({"budget": "2"}, "`budget` must be a finite number"),
        ({"worst_case": INF}, "`worst_case` must be a finite number"),
        ({"costs": ["a", "b"]}, "`costs` must be numbers"),
        ({"confidence": ["max_prob"]}, "`confidence` must be one of"),
        ({"temperature": 2.0}, "Received: temperature=2.0"),
        ({"labels": None, "method": "geometric", "temperature": True}, "to fit temperatures"),
        ({"budget": None, "budget_share": 0}, "`budget_share` must be above 0 and at most 1"),
        ({"budget": None, "budget_share": 1.1}, "above 0 and at most 1.*budget_share=1.1"),
        ({"budget_share": 0.5}, "Exactly one of .* Received: budget and budget_share"),
        ({"q": 0.5}, '`q` must be given with method="geometric" only'),
        ({"q": 0.5, "method": "geometric"}, "Exactly one of .* Received: budget and q"),
        ({"budget": None, "q": 1, "method": "geometric"}, "`q` must be between 0 and 1"),
        ({"unit": 3}, "`unit` must be a string"),
        ({"logits": np.ma.array(LOGITS)}, "`logits` must be without a mask"),
        ({"labels": np.ma.array(LABELS)}, "`labels` must be without a mask"),
        ({"logits": 1j * LOGITS}, "`logits` must be numbers"),
        ({"labels": 1j * LABELS}, "`labels` must be integers"),
        ({"method": "best"}, "Received: method=best"),
        ({"confidence": "loudest"}, "Received: confidence=loudest"),
    ],
)
def test_rejects_impossible_arguments(change, message):
    arguments = {"logits": LOGITS, "labels": LABELS, "costs": COSTS, "budget": 1.5, **change}
    with pytest.raises(ValueError, match=message):
        ka.calibrate(**arguments)


def test_an_accuracy_of_next_to_nothing_asks_for_nothing():
    logits = np.zeros((2, 3, 2))
    policy = ka.calibrate(logits, np.ones(3, int), [1.0, 2.0], accuracy=1e-100)
    assert policy.details["mean_cost"] == 1


def test_says_which_accuracy_is_reachable():
    logits = np.zeros((2, 4, 2))
    labels = np.array([0, 0, 0, 1])
    for method in METHODS:
        with pytest.raises(ValueError, match="at most 0.75 is on this .* Received: accuracy=0.8"):
            ka.calibrate(logits, labels, [1.0, 2.0], accuracy=0.8, method=method)


def test_percentiles_of_too_many_exits_are_refused_and_optimal_does_without():
    logits = np.random.default_rng(0).normal(size=(24, 30, 3))
    labels, costs = np.zeros(30, int), np.arange(1.0, 25)
    with pytest.raises(ValueError, match="Received: 24 exits"):
        ka.calibrate(logits, labels, costs, budget=5, method="percentile")


def test_the_printed_equation_for_q_is_solved():
    costs = np.array([1.0, 2.5, 7.0, 8.0])
    for budget in (1.001, 2.0, 4.6):
        q = geometric_q(costs, budget)
        shares = np.array([(1 - q) ** k * q for k in range(4)])
        assert shares @ costs / shares.sum() == pytest.approx(budget)


@pytest.mark.parametrize(
    ("costs", "budget"),
    [([1, 3], 1), ([1, 3], 2), ([1, 3], 2.5), ([3, 1], 2), ([1], 1), ([1, 3], np.nan)]
    + [(["a", "b"], 2), ([1, np.inf], 2), (None, 2)],
)
def test_refuses_budgets_of_which_there_is_no_q(costs, budget):
    with pytest.raises(ValueError, match="Received: "):
        geometric_q(costs, budget)
