import warnings

import numpy as np
import pytest
from scipy import stats

import keras_adaptive as ka
from keras_adaptive.calibration import risk_control as risks
from keras_adaptive.calibration._search import Problem, front
from keras_adaptive.policy.exit_policy import first_exit

DRAWS = [120, pytest.param(500, marks=pytest.mark.slow)]
DELTA = 0.1
COSTS = np.array([1.0, 2.0, 4.0])


@pytest.fixture(scope="module")
def population():
    """A large population whose true risks can be counted: three exits, some never confident."""
    rng = np.random.default_rng(7)
    samples, classes = 40_000, 4
    labels = rng.integers(0, classes, samples)
    hardness = rng.exponential(size=samples)
    logits = rng.normal(size=(3, samples, classes))
    gain = np.array([1.5, 2.5, 3.5])[:, None] - hardness
    logits[:, np.arange(samples), labels] += gain
    return logits.astype("float32"), labels


def true_risk(risk, exits, logits, labels):
    answers = logits.argmax(-1)
    chosen = answers[exits, np.arange(len(labels))]
    return risk.losses(chosen == labels, answers[-1] == labels, chosen == answers[-1]).mean()


def violations(population, risk, samples, calibrate, draws):
    """How often, over draws of calibration data, the true risk is above the level."""
    logits, labels = population
    confidences = ka.policy.confidence(logits)
    rng = np.random.default_rng(1)
    violated = 0
    for _ in range(draws):
        rows = rng.integers(0, len(labels), samples)
        policy = calibrate(logits[:, rows], labels[rows], risk)
        exits = first_exit(confidences, policy.thresholds)
        violated += true_risk(risk, exits, logits, labels) > risk.level
    return violated


def most_allowed(delta, draws):
    """More than so many violations a valid procedure has once in a thousand times."""
    return stats.binom.ppf(0.999, draws, delta)


def valid(logits, labels, risk):
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "No policy passed")
        return ka.calibrate(logits, labels, COSTS, risk=risk, temperature=False)


def same_data(logits, labels, risk):
    """The invalid procedure: chooses and tests on the same data."""
    answers = logits.argmax(-1)
    right, agrees = answers == labels, answers == answers[-1]
    confidences = ka.policy.confidence(logits)
    costs = np.broadcast_to(COSTS[:, None], confidences.shape)
    chosen = None
    losses = risk.losses(right, right[-1:], agrees)
    for thresholds in risks._path(risk, confidences, losses, costs):
        exits = first_exit(confidences, thresholds)
        if losses[exits, np.arange(len(labels))].mean() <= risk.level:
            chosen = thresholds
    return ka.ExitPolicy(chosen)


@pytest.mark.parametrize("draws", DRAWS)
@pytest.mark.parametrize(
    ("metric", "bound", "level"),
    [
        ("accuracy_drop", "binomial", 0.05),
        ("accuracy_drop", "betting", 0.05),
        ("disagreement", "binomial", 0.1),
        ("error", "binomial", 0.3),
    ],
)
def test_the_guarantee_fails_no_more_often_than_delta(population, metric, bound, level, draws):
    risk = ka.RiskControl(metric, level, DELTA, bound=bound, steps=30)
    assert violations(population, risk, 400, valid, draws) <= most_allowed(DELTA, draws)


@pytest.mark.parametrize("draws", DRAWS)
def test_that_this_simulation_catches_an_invalid_procedure(population, draws):
    risk = ka.RiskControl("accuracy_drop", 0.05, DELTA, steps=30)
    assert violations(population, risk, 400, same_data, draws) > most_allowed(DELTA, draws)


def test_the_level_is_used_not_only_kept(population):
    logits, labels = population
    risk = ka.RiskControl("accuracy_drop", 0.05, 0.1)
    policy = ka.calibrate(logits[:, :8000], labels[:8000], COSTS, risk=risk)
    assert policy.details["mean_cost"] < COSTS[-1]
    assert 0.03 < true_risk(risk, policy.decide(logits), logits, labels) <= 0.05
    assert policy.details["guarantee"]["passed"]
    assert policy.details["guarantee"]["tested_samples"] == 4000
    assert policy.details["guarantee"]["p_value"] <= 0.1


def test_betting_on_the_signed_drop_allows_more(population):
    logits, labels = population[0][:, :8000], population[1][:8000]
    cost = {
        bound: ka.calibrate(
            logits, labels, COSTS, risk=ka.RiskControl("accuracy_drop", 0.05, 0.1, bound=bound)
        ).details["mean_cost"]
        for bound in risks.BOUNDS
    }
    assert cost["betting"] < cost["binomial"]


def test_disagreement_needs_no_labels(population):
    logits = population[0][:, :2000]
    policy = ka.calibrate(logits, None, COSTS, risk=ka.RiskControl("disagreement", 0.1))
    assert policy.details["guarantee"]["passed"]
    assert (policy.temperatures == 1).all()


def test_a_guarantee_holds_with_a_worst_case(population):
    logits, labels = population[0][:, :4000], population[1][:4000]
    for level, passes in ((0.4, True), (0.01, False)):
        risk = ka.RiskControl("disagreement", level)
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "No policy passed")
            policy = ka.calibrate(logits, labels, COSTS, risk=risk, worst_case=2)
        assert ka.evaluate(policy, logits, labels, COSTS).worst_cost <= 2
        # the guarantee is about the last exit of the network, in reach or not
        assert policy.details["guarantee"]["passed"] is passes
        exits = policy.decide(population[0])
        assert not passes or true_risk(risk, exits, *population) <= level


def test_when_nothing_passes_the_safe_policy_is_returned_and_said(population):
    logits, labels = population[0][:, :100], population[1][:100]
    with pytest.warns(UserWarning, match="No policy passed .*at least 597 samples"):
        policy = ka.calibrate(logits, labels, COSTS, risk=ka.RiskControl(level=0.01))
    assert (policy.decide(logits) == 2).all()
    assert not policy.details["guarantee"]["passed"]


@pytest.mark.parametrize(("missing", "advice"), [(2, "at least 9 samples"), (0, "Allow more risk")])
def test_more_samples_are_advised_only_where_there_are_too_few(missing, advice):
    risk = ka.RiskControl("error", level=0.5, bound="binomial")
    assert risk.samples_needed == 9
    logits = np.zeros((3, risk.samples_needed - missing, 2))
    logits[..., 0] = np.arange(3)[:, None] + 1.0
    with pytest.warns(UserWarning, match=f"No policy passed .*{advice}"):  # all answers are wrong
        ka.calibrate(logits, np.ones(logits.shape[1], int), COSTS, risk=risk, temperature=False)


def passing(rate, risk, most=10_000):
    """The fewest tested samples of this rate of losses that pass, by trying every number."""
    numbers = np.arange(1, most)
    return next(
        n
        for n in numbers
        if stats.binomtest(int(np.ceil(rate * n)), n, risk.level, "less").pvalue <= risk.delta
    )


def test_a_guarantee_that_saves_nothing_says_how_many_samples_it_needs():
    risk = ka.RiskControl("disagreement", level=0.05)
    # of the policies that leave early all have a disagreement of one in 25
    answers = np.zeros((2, 400), int)
    answers[0, ::25] = 1
    logits = 3.0 * np.eye(2)[answers]
    with pytest.warns(ka.NoSavingWarning, match="the guarantee saves nothing.* at least") as found:
        policy = ka.calibrate(logits, None, [1.0, 2.0], risk=risk)
    assert policy.thresholds.tolist() == [np.inf, -np.inf]
    guarantee = policy.details["guarantee"]
    assert guarantee["passed"]
    needed = guarantee["samples_needed"]
    assert f"at least {needed} samples" in str(found[0].message)
    _, tested = risk.halves(400)
    rate = (answers[0, tested] == 1).mean()
    assert abs(needed / 2 - passing(rate, risk)) <= 0.15 * needed / 2
    assert issubclass(ka.NoSavingWarning, UserWarning)
    # with enough, whatever the draw of the halves, it passes
    more = np.tile(logits, (1, 12, 1))
    assert ka.calibrate(more, None, [1.0, 2.0], risk=risk).details["mean_cost"] < 2


@pytest.mark.parametrize("bound", ["binomial", "betting"])
def test_samples_for_a_rate_of_losses(bound):
    risk = ka.RiskControl("accuracy_drop", level=0.1, bound=bound)
    losses = np.zeros(50, int)
    losses[::25] = 1
    needed = risk.samples_for(losses.tolist())
    assert needed > risk.samples_needed
    assert risk.p_value(np.resize(losses, needed)) <= risk.delta
    assert risk.p_value(np.resize(losses, needed // 4)) > risk.delta
    assert risk.samples_for(np.ones(5, int)) is None


def test_the_guarantee_is_saved_with_the_policy(population, tmp_path):
    logits, labels = population[0][:, :3000], population[1][:3000]
    policy = ka.calibrate(logits, labels, COSTS, risk=ka.RiskControl(level=0.1))
    policy.save(tmp_path / "policy.json")
    assert ka.ExitPolicy.load(tmp_path / "policy.json").details == policy.details


@pytest.mark.parametrize("mean", [0.3, 0.5, 0.7])
def test_betting_p_values_are_valid(mean):
    rng = np.random.default_rng(3)
    draws = rng.random((1000, 300)) < mean  # the mean is exactly what is tested
    p_values = np.array([risks.betting_p_value(row, mean, 0.1) for row in draws])
    assert (p_values <= 0.1).sum() <= stats.binom.ppf(0.999, 1000, 0.1)
    better = [risks.betting_p_value(row, mean, 0.1) for row in rng.random((100, 300)) < mean - 0.2]
    assert np.median(better) < 0.01


def test_binomial_p_value_is_exact():
    risk = ka.RiskControl("error", level=0.2)
    losses = np.array([1] * 3 + [0] * 27)
    expected = sum(stats.binom.pmf(k, 30, 0.2) for k in range(4))
    assert risk.p_value(losses) == pytest.approx(expected)


@pytest.mark.parametrize("mean", [0.3, 0.6])
def test_betting_p_value_is_one_over_the_greatest_wealth(rng, mean):
    values, delta = (rng.random(50) < 0.25) + 0.0, 0.1
    wealth, most, seen = 1.0, 0.0, []
    for value in values:
        # the variance as it was known before, half an observation of 1/2 being assumed
        known = 0.25
        for i in range(len(seen)):
            known += (seen[i] - (0.5 + sum(seen[: i + 1])) / (i + 2)) ** 2
        known /= len(seen) + 1
        stake = min(0.75 / (1 - mean), np.sqrt(2 * np.log(1 / delta) / (len(values) * known)))
        wealth *= 1 - stake * (value - mean)
        most = max(most, wealth)
        seen.append(value)
    assert risks.betting_p_value(values, mean, delta) == pytest.approx(1 / most)
    assert most > 1
    assert risks.betting_p_value(np.ones(50), mean, delta) == 1


def test_losses_by_hand():
    chosen, last = np.array([True, True, False, False]), np.array([True, False, True, False])
    agrees = np.array([True, False, False, True])
    for arguments, expected in [
        (("disagreement",), [0, 1, 1, 0]),
        (("error",), [0, 0, 1, 1]),
        (("accuracy_drop",), [0, 0, 1, 0]),
        (("accuracy_drop", 0.1, 0.1, "betting"), [0, -1, 1, 0]),
    ]:
        assert ka.RiskControl(*arguments).losses(chosen, last, agrees).tolist() == expected


def test_one_half_chooses_and_the_larger_one_is_tested():
    first, second = ka.RiskControl(seed=3).halves(11)
    assert (len(first), len(second)) == (5, 6)
    assert sorted([*first, *second]) == list(range(11))
    assert ka.RiskControl(seed=4).halves(11)[0].tolist() != first.tolist()


def test_testing_stops_at_the_first_failure():
    risk = ka.RiskControl("disagreement", level=0.2, delta=0.1)
    confidences = np.stack([np.arange(100.0), np.full(100, 200.0), np.full(100, 300.0)])
    losses = np.repeat([[1], [0], [0]], 100, axis=1)  # leaving at the first exit is wrong
    path = [np.array([t, -np.inf, -np.inf]) for t in (100, 95, 50, 99)]
    chosen, found = risks.fixed_sequence_test(risk, path, confidences, losses)
    p_values = [stats.binom.cdf(wrong, 100, 0.2) for wrong in (0, 5, 50, 1)]
    assert [p <= 0.1 for p in p_values] == [True, True, False, True]
    assert chosen.tolist() == path[1].tolist()
    assert found == {
        "metric": "disagreement",
        "level": 0.2,
        "delta": 0.1,
        "bound": "binomial",
        "tested_samples": 100,
        "policies_on_the_path": 4,
        "passed": True,
        "risk": 0.05,
        "p_value": pytest.approx(p_values[1]),
    }
    chosen, found = risks.fixed_sequence_test(risk, path[2:], confidences, losses)
    assert chosen.tolist() == [np.inf, np.inf, -np.inf]
    assert (found["passed"], found["risk"], found["p_value"]) == (False, None, None)


@pytest.mark.parametrize("bound", risks.BOUNDS)
def test_samples_needed_is_the_fewest_that_can_pass(bound):
    risk = ka.RiskControl(level=0.05, delta=0.1, bound=bound)
    tested = risk.samples_needed - risk.samples_needed // 2
    assert risk.p_value(np.zeros(tested, int)) <= 0.1
    assert risk.p_value(np.zeros(tested - 1, int)) > 0.1


def test_an_error_that_only_an_earlier_exit_reaches_can_be_guaranteed(rng):
    labels = rng.integers(0, 4, 2000)
    good = 5 * np.eye(4)[labels] * rng.uniform(0.5, 1, (2000, 1))
    bad = np.where(rng.random((2000, 1)) < 0.3, -good, good)
    logits = np.stack([bad, good, bad])
    risk = ka.RiskControl("error", 0.1)
    policy = ka.calibrate(logits, labels, COSTS, risk=risk, temperature=False)
    assert policy.details["guarantee"]["passed"]
    assert ka.evaluate(policy, logits, labels, COSTS).accuracy > 0.9


def test_more_data_is_not_asked_for_where_it_would_not_help(rng):
    labels = rng.integers(0, 4, 1000)
    logits = rng.normal(size=(3, 1000, 4))
    with pytest.warns(UserWarning, match=r"without a guarantee. Allow more risk\.$"):
        ka.calibrate(logits, labels, COSTS, risk=ka.RiskControl("error", 0.1))


def test_the_path_goes_from_safe_to_cheapest(population):
    logits, labels = population[0][:, :300], population[1][:300]
    answers, confidences = logits.argmax(-1), ka.policy.confidence(logits)
    right, costs = answers == labels, np.broadcast_to(COSTS[:, None], confidences.shape)
    for metric, steps in (("disagreement", 7), ("error", 7), ("accuracy_drop", 1000)):
        risk = ka.RiskControl(metric, 0.3, steps=steps)
        losses = risk.losses(right, right[-1:], answers == answers[-1])
        path = risks._path(risk, confidences, losses, costs)
        problem = Problem(confidences, 1 - losses, costs)
        outcomes = [problem.outcome(thresholds) for thresholds in path]
        found = front(problem)[0]
        if metric == "error":  # the last exit errs, too
            assert outcomes[0] == (found.right[-1], found.cost[-1])
        else:
            assert path[0].tolist() == [np.inf, np.inf, -np.inf]
            outcomes = outcomes[1:]
        assert outcomes[-1] == (found.right[0], found.cost[0])
        assert (np.diff(outcomes, axis=0) < 0).all()  # ever more losses, ever cheaper
        assert len(path) == 7 or steps == 1000


@pytest.mark.parametrize("steps", [1, 2, 5])
def test_the_path_has_at_most_so_many_steps(population, steps):
    logits, labels = population[0][:, :500], population[1][:500]
    risk = ka.RiskControl("disagreement", 0.3, steps=steps)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore" if steps == 1 else "error", ka.NoSavingWarning)
        policy = ka.calibrate(logits, labels, COSTS, risk=risk)
    assert policy.details["guarantee"]["policies_on_the_path"] <= steps


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"metric": "loss"}, "Received: metric=loss"),
        ({"bound": "hope"}, "Received: bound=hope"),
        ({"level": 0}, "Received: level=0"),
        ({"level": 1}, "Received: level=1"),
        ({"delta": 0}, "Received: delta=0"),
        ({"delta": 1}, "Received: delta=1"),
        ({"steps": 0}, "Received: steps=0"),
        ({"steps": True}, "Received: steps=True"),
        ({"seed": -1}, "Received: seed=-1"),
        ({"level": "a"}, "`level` must be a finite number"),
        ({"metric": "error", "bound": "betting"}, "is for the metric"),
    ],
)
def test_rejects_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ka.RiskControl(**arguments)


def test_calibrate_rejects_what_does_not_go_with_a_risk(population):
    logits, labels = population[0][:, :10], population[1][:10]
    with pytest.raises(TypeError, match="`risk` must be a RiskControl"):
        ka.calibrate(logits, labels, COSTS, risk=0.01)
    with pytest.raises(ValueError, match="Received: risk and|budget and risk"):
        ka.calibrate(logits, labels, COSTS, risk=ka.RiskControl(), budget=2)
    with pytest.raises(ValueError, match='must be "optimal"'):
        ka.calibrate(logits, labels, COSTS, risk=ka.RiskControl(), method="geometric")
    with pytest.raises(ValueError, match="at least two samples"):
        ka.calibrate(logits[:, :1], labels[:1], COSTS, risk=ka.RiskControl())
