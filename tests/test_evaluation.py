import numpy as np
import pytest
import scipy
import sklearn.metrics
from hypothesis import given
from hypothesis import strategies as st
from strategies import problems

import keras_adaptive as ka
from keras_adaptive import evaluation
from keras_adaptive.policy.confidence import log_odds


def test_report_is_what_counting_gives(rng):
    logits, labels = rng.normal(size=(3, 500, 4)) * 2, rng.integers(0, 4, 500)
    costs = np.array([1.0, 3.0, 7.0])
    policy = ka.ExitPolicy([0.8, 0.7, 0])
    report = ka.evaluate(policy, logits, labels, costs)
    right, paid, left = 0, [], [0, 0, 0]
    for i in range(500):
        for k in range(3):
            p = np.exp(logits[k, i]) / np.exp(logits[k, i]).sum()
            if p.max() >= (0.8, 0.7, -1)[k]:
                break
        right += p.argmax() == labels[i]
        paid.append(costs[k])
        left[k] += 1
    assert report.accuracy == right / 500
    assert report.mean_cost == pytest.approx(np.mean(paid))
    assert report.worst_cost == max(paid)
    assert report.exit_fractions.tolist() == [n / 500 for n in left]
    for k in range(3):
        assert report.exit_accuracies[k] == (logits[k].argmax(-1) == labels).mean()


def test_costs_of_each_sample_are_paid_by_that_sample():
    logits = np.array([[[0, 9.0], [0, 0.0]], [[0, 9.0], [0, 9.0]]])
    report = ka.evaluate(ka.ExitPolicy([0.9, 0]), logits, np.array([1, 1]), [[1, 10], [5, 30]])
    assert report.mean_cost == (1 + 30) / 2
    assert report.worst_cost == 30


def test_optimal_curve_rises_and_is_never_below_an_exit_alone(calibration):
    logits, labels, costs = calibration
    curve = ka.accuracy_cost_curve(logits, labels, costs, points=20, temperature=False)
    assert (np.diff(curve.accuracies) >= 0).all()
    for cost, accuracy in zip(costs, curve.exit_accuracies, strict=True):
        alone = ka.calibrate(logits, labels, costs, budget=cost, temperature=False)
        assert alone.details["accuracy"] >= accuracy


def test_geometric_curve_goes_from_the_first_exit_to_the_full_network(calibration):
    logits, labels, costs = calibration
    curve = ka.accuracy_cost_curve(logits, labels, costs, points=12, method="geometric")
    assert len(curve.policies) == len(curve.costs) == len(curve.accuracies) == 12
    assert (np.diff(curve.costs) >= 0).all()
    assert curve.costs[0] == pytest.approx(costs[0])
    assert curve.costs[-1] == pytest.approx(costs[-1])
    assert curve.accuracies[0] == pytest.approx(curve.exit_accuracies[0])
    assert curve.accuracies[-1] == pytest.approx(curve.exit_accuracies[-1])
    np.testing.assert_array_equal(curve.exit_costs, costs)


def test_curve_reports_on_the_test_data_when_given(calibration, trained, test_images):
    logits, labels, costs = calibration
    x, y = test_images
    test = np.stack(trained.predict(x, verbose=0)), y, costs
    curve = ka.accuracy_cost_curve(logits, labels, costs, points=5, test=test)
    reports = [ka.evaluate(policy, *test) for policy in curve.policies]
    assert [r.accuracy for r in reports] == curve.accuracies.tolist()
    assert curve.exit_accuracies.tolist() == [(z.argmax(-1) == y).mean() for z in test[0]]


def test_a_curve_computes_confidences_once(calibration, monkeypatch):
    calls = []
    compared = ka.ExitPolicy.compared

    def counted(policy, exit, logits, *more):
        calls.append(exit)
        return compared(policy, exit, logits, *more)

    monkeypatch.setattr(ka.ExitPolicy, "compared", counted)
    curve = ka.accuracy_cost_curve(*calibration, points=12, method="geometric")
    assert calls == [0, 1, 2, 0, 1, 2]  # to choose all thresholds, and to evaluate them
    results = [ka.evaluate(policy, *calibration) for policy in curve.policies]
    assert len(calls) > 6 + 12
    assert [r.mean_cost for r in results] == curve.costs.tolist()
    assert [r.accuracy for r in results] == curve.accuracies.tolist()


def test_test_data_of_another_number_of_exits_are_refused(calibration):
    logits, labels, costs = calibration
    with pytest.raises(ValueError, match="`test` must have 3 exits.*Received: 2 exits"):
        ka.accuracy_cost_curve(*calibration, points=2, test=(logits[:2], labels, costs[:2]))


def test_probabilities_of_leaving_give_the_mean(calibration):
    logits, labels, costs = calibration
    policy = ka.ExitPolicy([0.8, 0.7, 0])
    certain = (policy.decide(logits) == np.arange(3)[:, None]).astype(float)
    for by_hand, found in zip(
        ka.evaluate(policy, logits, labels, costs),
        ka.evaluate(certain, logits, labels, costs),
        strict=True,
    ):
        np.testing.assert_array_equal(found, by_hand)
    half = ka.evaluate((certain + np.eye(3)[2][:, None]) / 2, logits, labels, costs)
    both = [ka.evaluate(p, logits, labels, costs) for p in (policy, ka.ExitPolicy([np.inf] * 3))]
    assert half.accuracy == pytest.approx(np.mean([r.accuracy for r in both]))
    assert half.mean_cost == pytest.approx(np.mean([r.mean_cost for r in both]))
    for wrong in (0.9 * certain, 2 * certain - np.eye(3)[0][:, None], certain[:2], certain[:, 1:]):
        with pytest.raises(ValueError, match="`policy`, given as probabilities, must be of shape"):
            ka.evaluate(wrong, logits, labels, costs)


@pytest.mark.parametrize("points", [1, 2.5, True])
def test_curve_rejects_impossible_points(calibration, points):
    with pytest.raises(ValueError, match="`points` must be an integer of at least 2"):
        ka.accuracy_cost_curve(*calibration, points=points)


def test_curve_needs_three_parts_of_test_data(calibration):
    with pytest.raises(ValueError, match="`test` must be"):
        ka.accuracy_cost_curve(*calibration, points=2, test=calibration[:2])


def test_labels_are_taken_as_fit_takes_them(calibration):
    logits, labels, costs = calibration
    policy = ka.ExitPolicy([0.8, 0.7, 0])
    expected = ka.evaluate(policy, logits, labels, costs).accuracy
    for y in (labels[:, None], labels.astype("float32"), np.eye(10)[labels], labels.tolist()):
        assert ka.evaluate(policy, logits, y, costs).accuracy == expected
    for name in ("labels", "costs", "logits"):
        arrays = {"logits": logits, "labels": labels, "costs": costs}
        arrays[name] = np.ma.array(arrays[name])
        with pytest.raises(ValueError, match=f"`{name}` must be"):
            ka.evaluate(policy, **arrays)
    with pytest.raises(TypeError, match="`policy` must be an ExitPolicy"):
        ka.evaluate(np.ones((3, len(labels))) / 3 + 0j, logits, labels, costs)


def test_evaluate_needs_a_policy_and_labels(calibration):
    logits, labels, costs = calibration
    with pytest.raises(TypeError, match="`policy` must be an ExitPolicy"):
        ka.evaluate([0.5, 0.5, 0], logits, labels, costs)
    with pytest.raises(ValueError, match="`labels` must be given"):
        ka.evaluate(ka.ExitPolicy([0.5, 0.5, 0]), logits, None, costs)


def test_area_under_the_curve_is_the_mean_accuracy_over_budgets():
    curve = ka.evaluation.Curve(
        np.array([1.0, 2.0, 4.0]), np.array([0.5, 0.7, 0.9]), [], np.ones(1), np.ones(1)
    )
    assert curve.area == pytest.approx((0.6 * 1 + 0.8 * 2) / 3)
    assert curve._replace(costs=np.ones(3)).area == 0.9


def test_anytime_accuracy_equals_drawing_budgets(rng):
    from scipy import stats

    accuracies, costs = np.array([0.5, 0.7, 0.9]), np.array([1.0, 2.0, 5.0])
    for distribution in (stats.expon(scale=2), stats.uniform(0, 6), stats.norm(3, 1)):
        budgets = distribution.rvs(100_000, random_state=rng)
        exits = np.searchsorted(costs, budgets, side="right") - 1
        expected = np.where(exits >= 0, accuracies[exits], 0.1).mean()
        found = ka.evaluation.anytime_accuracy(accuracies, costs, distribution, before=0.1)
        assert found == pytest.approx(expected, abs=0.005)


def test_a_budget_of_exactly_the_cost_is_enough():
    from scipy import stats

    always_two = stats.rv_discrete(values=([2], [1.0]))
    assert ka.evaluation.anytime_accuracy([0.5, 0.7], [1.0, 2.0], always_two) == 0.7


def test_anytime_accuracy_rejects_impossible_costs():
    two = [0.5, 0.7]
    for accuracies, costs in ((two, [2.0, 1.0]), ([0.5], [1.0, 2.0]), ([[0.5]], [[1.0]]), ([], [])):
        with pytest.raises(ValueError, match="costs ascending"):
            ka.evaluation.anytime_accuracy(accuracies, costs, None)
    for accuracies, costs in ((two, [1.0, np.nan]), ([0.5, np.nan], [1.0, 2.0]), (["a"], [1.0])):
        with pytest.raises(ValueError, match="costs ascending"):
            ka.evaluation.anytime_accuracy(accuracies, costs, None)
    with pytest.raises(ValueError, match=r"`costs` must be one number per exit, ascending"):
        ka.evaluation.budget_probabilities(scipy.stats.uniform(0, 3), [2.0, 1.0])
    with pytest.raises(ValueError, match="`before` must be a finite number"):
        ka.evaluation.anytime_accuracy(two, [1, 2], scipy.stats.uniform(0, 3), before="a")


@pytest.mark.parametrize(
    "distribution",
    ["uniform", None, [0.5, 0.5], {"cdf": 1}, scipy.stats.uniform, scipy.stats.poisson],
)
def test_anytime_accuracy_needs_a_distribution(distribution):
    with pytest.raises(ValueError, match=r"`distribution` must be .*scipy.stats.uniform\(0, 2\)"):
        ka.evaluation.anytime_accuracy([0.5, 0.7], [1.0, 2.0], distribution)


@given(problems(), st.integers(0, 5))
def test_accuracy_matrix_splits_the_accuracies_of_the_exits(problem, seed):
    logits, labels, _ = problem
    exits = np.random.default_rng(seed).integers(0, len(logits), len(labels))
    matrix = evaluation.accuracy_matrix(exits, logits, labels)
    shares = np.bincount(exits, minlength=len(logits)) / len(labels)
    right = (logits.argmax(-1) == labels).mean(axis=1)
    np.testing.assert_allclose(np.nan_to_num(matrix) @ shares, right, atol=1e-12)
    assert (np.isnan(matrix) == (shares == 0)).all()


def test_most_and_least_confident_are_of_those_that_leave_there(rng):
    exits, scores = rng.integers(0, 3, 40), rng.random((3, 40))
    most, least = evaluation.most_and_least_confident(exits, scores, count=4)
    for k in range(3):
        own = np.flatnonzero(exits == k)
        assert set(most[k]) | set(least[k]) <= set(own)
        assert scores[k, most[k]].tolist() == sorted(scores[k, own], reverse=True)[:4]
        assert scores[k, least[k]].tolist() == sorted(scores[k, own])[:4]
    for wrong in (exits[:-1], exits - 1, exits / 1.0):
        with pytest.raises(ValueError, match="`exits` must be 40 integers"):
            evaluation.most_and_least_confident(wrong, scores)
    with pytest.raises(ValueError, match="`exits` must be below 3"):
        evaluation.most_and_least_confident(exits + 3, scores)
    with pytest.raises(ValueError, match="`count` must be an integer of at least 1"):
        evaluation.most_and_least_confident(exits, scores, count=0)
    for wrong in (scores[0], scores[None], "a", None, {"a": 1}, scores * np.nan, scores[:, :0]):
        with pytest.raises(ValueError, match=r"`scores` must be .*\(exits, samples\)"):
            evaluation.most_and_least_confident(exits, wrong)


def test_mean_iou_is_that_of_sets(rng):
    predicted, labels = rng.integers(0, 4, (2, 500))
    labels[:50] = -1
    scores = []
    for c in range(4):
        p = {i for i in range(500) if predicted[i] == c and labels[i] >= 0}
        t = {i for i in range(500) if labels[i] == c}
        scores.append(len(p & t) / len(p | t))
    assert evaluation.mean_iou(predicted, labels, 6) == pytest.approx(np.mean(scores))


def test_mean_iou_by_hand():
    predicted, labels = np.array([[0, 0, 1], [2, 2, 1]]), np.array([[0, 1, 1], [2, -1, 0]])
    # class 0: 1 of 3; class 1: 1 of 3; class 2: 1 of 1
    assert evaluation.mean_iou(predicted, labels, 4) == pytest.approx((1 / 3 + 1 / 3 + 1) / 3)
    assert evaluation.mean_iou(labels, np.array([[0, 1, 1], [2, -1, 0]]), 3) == 1


def test_mean_iou_of_small_integers_is_the_same(rng):
    predicted, labels = rng.integers(0, 21, (2, 500))
    expected = evaluation.mean_iou(predicted, labels, 21)
    for dtype in ("uint8", "int8"):
        found = evaluation.mean_iou(predicted.astype(dtype), labels.astype(dtype), 21)
        assert found == expected


@pytest.mark.parametrize(
    ("predicted", "labels", "message"),
    [
        ([0, 3], [0, 0], "`predicted` must be classes from 0 to 2 .*Received: from 0 to 3"),
        ([0, -1], [0, 1], "`predicted` must be classes from 0 to 2 .*Received: from -1 to 0"),
        ([0, 1], [0, 3], "`labels` must be classes from 0 to 2 .*Received: from 0 to 3"),
        ([0, 1], [0, -2], "`labels` must be classes from 0 to 2 .*Received: from -2 to 0"),
        ([0.0, 1.0], [0, 1], "`predicted` must be integers, .*Received: dtype float64"),
        ([0, 1], [False, True], "`labels` must be integers, .*Received: dtype bool"),
        ([[0.2, 0.8, 0.0]], [1], "`predicted` must be integers"),
        ([0, 1], [[0], [1]], "`predicted` must be integers, of the same shape"),
        ([0, 1], [0, 1, 1], r"Received: dtype int64, shapes \(2,\) and \(3,\)"),
        ([0, 1], [-1, -1], "`labels` must hold a pixel with a label"),
        (np.zeros(0, int), np.zeros(0, int), "`labels` must hold a pixel with a label"),
    ],
)
def test_mean_iou_needs_classes(predicted, labels, message):
    with pytest.raises(ValueError, match=message):
        evaluation.mean_iou(predicted, labels, 3)


@given(problems())
def test_failure_auroc_is_that_of_scikit_learn(problem):
    logits, labels, _ = problem
    found = evaluation.failure_auroc(logits, labels)
    for k, z in enumerate(logits):
        right = z.argmax(-1) == labels
        if right.all() or not right.any():
            assert np.isnan(found[k])
        else:
            score = log_odds(logits)[k]
            assert found[k] == pytest.approx(sklearn.metrics.roc_auc_score(right, score))


def test_aurc_is_the_mean_risk_over_coverage(rng):
    logits = rng.normal(size=(2, 50, 4))
    labels = rng.integers(0, 4, 50)
    for k, value in enumerate(evaluation.aurc(logits, labels)):
        z = logits[k]
        p = np.exp(z) / np.exp(z).sum(-1, keepdims=True)
        order = sorted(range(50), key=lambda i: -p[i].max())
        wrong = [z[i].argmax() != labels[i] for i in order]
        risks = [sum(wrong[:n]) / n for n in range(1, 51)]
        assert value == pytest.approx(sum(risks) / 50)
    alike = np.zeros((1, 8, 2))  # the order of equal confidences says nothing
    assert evaluation.aurc(alike, [0, 0, 0, 0, 0, 0, 1, 1])[0] == pytest.approx(0.25)
    dense = np.zeros((1, 2, 3, 3, 4))
    with pytest.raises(ValueError, match=r"`logits` must be of shape \(exits, samples, classes\)"):
        evaluation.aurc(dense, np.zeros((2, 3, 3), int))


@given(problems(), st.integers(1, 4))
def test_the_label_may_be_among_the_first(problem, top_k):
    logits, labels, costs = problem
    classes = logits.shape[-1]
    if top_k > classes:
        with pytest.raises(ValueError, match=f"`top_k` must be at most .* {classes}"):
            ka.evaluate(ka.ExitPolicy([0] * len(logits)), logits, labels, costs, top_k=top_k)
        return
    first = np.argsort(-logits, axis=-1, kind="stable")[..., :top_k]
    right = (first == labels[:, None]).any(axis=-1)
    policy = ka.calibrate(logits, labels, costs, budget_share=1.0, top_k=top_k)
    exits = policy.decide(logits)
    result = ka.evaluate(policy, logits, labels, costs, top_k=top_k)
    assert result.accuracy == pytest.approx(right[exits, np.arange(len(labels))].mean())
    assert result.exit_accuracies.tolist() == pytest.approx(right.mean(axis=1))
    assert policy.details["accuracy"] == pytest.approx(result.accuracy)
    assert policy.details["accuracy"] >= right.mean(axis=1).max() - 1e-12  # of any exit alone
    matrix = evaluation.accuracy_matrix(exits, logits, labels, top_k=top_k)
    parts = np.nan_to_num(matrix.diagonal()) @ result.exit_fractions
    assert parts == pytest.approx(result.accuracy)
    curve = ka.accuracy_cost_curve(logits, labels, costs, points=2, top_k=top_k)
    assert curve.exit_accuracies.tolist() == pytest.approx(right.mean(axis=1))


def test_a_guarantee_may_be_of_the_first_classes(rng):
    labels = rng.integers(0, 10, 2000)
    logits = rng.normal(size=(2, 2000, 10))
    logits[:, range(2000), labels] += np.array([[2.0], [3.0]])
    risk = ka.RiskControl("error", 0.2, 0.1)
    policy = ka.calibrate(logits, labels, [1, 2], risk=risk, top_k=3)
    assert policy.details["top_k"] == 3
    assert ka.evaluate(policy, logits, labels, [1, 2], top_k=3).accuracy > 0.8
    with pytest.warns(ka.NoSavingWarning):
        ka.calibrate(logits, labels, [1, 2], risk=ka.RiskControl("error", 0.05, 0.1))


# ---- comparisons of networks


def test_between_two_networks_a_share_of_the_samples_goes_to_each(rng):
    costs, accuracies = [4.0, 1.0, 2.0], [0.9, 0.5, 0.8]
    found = evaluation.interpolated(costs, accuracies, [0.9, 1.0, 1.25, 3.5, 4.0, 9.0])
    assert np.isnan(found[0])
    # 1.25 = 0.75 * 1 + 0.25 * 2; 3.5 = 0.25 * 2 + 0.75 * 4
    by_hand = [0.5, 0.75 * 0.5 + 0.25 * 0.8, 0.25 * 0.8 + 0.75 * 0.9, 0.9, 0.9]
    np.testing.assert_allclose(found[1:], by_hand)


@pytest.mark.parametrize(
    "costs", [[1.0, 1.0], [1.0], [[1.0, 2.0]], [1.0, np.nan], ["a", "b"], [], None]
)
def test_interpolates_between_different_costs_only(costs):
    with pytest.raises(ValueError, match="`costs` and `accuracies` must be one number per network"):
        evaluation.interpolated(costs, [0.5, 0.6], [1.0])
    with pytest.raises(ValueError, match="`budgets` must be numbers. Received: budgets='a'"):
        evaluation.interpolated([1.0, 2.0], [0.5, 0.6], "a")


def test_the_best_network_is_chosen_on_the_data_of_calibration(rng):
    """Whatever the test data says, on which the other one may be better."""
    labels, curves, seen = rng.integers(0, 3, 60), {}, []
    for name, costs in (("small", [1.0, 2.0]), ("large", [3.0, 6.0])):
        chosen_on, reported_on = (rng.normal(size=(2, 60, 3)) for _ in range(2))
        curves[name] = ka.accuracy_cost_curve(
            chosen_on, labels, costs, points=4, test=(reported_on, labels, costs)
        )
        for policy in curves[name].policies:
            own = ka.evaluate(policy, chosen_on, labels, costs)
            new = ka.evaluate(policy, reported_on, labels, costs)
            seen.append((own, new, name, policy))
    budgets = [0.5, 1.2, 2.0, 4.0, 6.0]
    best = evaluation.best_of(curves, budgets)
    assert np.isnan(best.costs[0])
    assert (best.networks[0], best.policies[0]) == (None, None)
    for i, budget in enumerate(budgets[1:], start=1):
        most = max(own.accuracy for own, *_ in seen if own.mean_cost <= budget + 1e-9)
        own, new, name, _ = next(each for each in seen if each[3] is best.policies[i])
        assert (own.accuracy, name) == (most, best.networks[i])
        assert (best.costs[i], best.accuracies[i]) == (new.mean_cost, new.accuracy)


@pytest.mark.parametrize("curves", [{}, [], ["curve"], None, {"a": None}, {"a": [0.5, 0.6]}])
def test_the_best_is_of_curves_by_name(curves):
    with pytest.raises(ValueError, match="`curves` must be a dictionary .*Received: curves="):
        evaluation.best_of(curves, [1.0])


@pytest.mark.parametrize("budgets", [[], 2.0, [[1.0]], "a", [np.nan], None])
def test_the_best_is_within_budgets(budgets):
    logits = [[[0, 1], [3, 0]], [[0, 9], [0, 9]]]
    curve = ka.accuracy_cost_curve(logits, [1, 1], [1.0, 3.0], points=2)
    assert evaluation.best_of({"a": curve}, [1.0]).networks == ["a"]
    with pytest.raises(ValueError, match="`budgets` must be numbers of shape"):
        evaluation.best_of({"a": curve}, budgets)


def test_the_most_confident_part_by_counting(rng):
    logits, labels = rng.normal(size=(2, 50, 4)) * 3, rng.integers(0, 4, 50)
    parts, found, most = evaluation.selective_accuracy(logits, labels, shares=10)
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    for k in range(2):
        order = sorted(range(50), key=lambda i: -p[k, i].max())  # noqa: B023
        right = [p[k, i].argmax() == labels[i] for i in order]
        for j, part in enumerate(parts):
            count = round(50 * part)
            assert found[k, j] == pytest.approx(sum(right[:count]) / count)
            assert most[k, j] == pytest.approx(min(1, sum(right) / count))
    assert (found <= most + 1e-12).all()


def test_the_order_of_the_samples_decides_nothing(rng):
    logits, labels = rng.integers(0, 3, (2, 60, 3)).astype(float), rng.integers(0, 3, 60)
    order = rng.permutation(60)
    for function in (evaluation.selective_accuracy, evaluation.aurc, evaluation.failure_auroc):
        one, other = function(logits, labels), function(logits[:, order], labels[order])
        for a, b in zip(one, other, strict=True):
            np.testing.assert_allclose(a, b)


@pytest.mark.parametrize("name", ["accuracy_matrix", "confidence_ranks", "aurc", "failure_auroc"])
def test_what_is_of_samples_refuses_pixels(name, rng):
    logits, labels = rng.normal(size=(2, 3, 4, 4, 5)), rng.integers(0, 5, (3, 4, 4))
    given = {"accuracy_matrix": ([0, 1, 1], logits, labels), "confidence_ranks": (logits,)}
    with pytest.raises(ValueError, match=r"must be of shape \(exits, samples, classes\). Received"):
        getattr(evaluation, name)(*given.get(name, (logits, labels)))


def test_ranks_agree_as_far_as_spearman_says(rng):
    logits = rng.normal(size=(3, 40, 5))
    ranks, agreement = evaluation.confidence_ranks(logits, confidence="prob_margin")
    p = np.sort(np.exp(logits) / np.exp(logits).sum(-1, keepdims=True), axis=-1)
    margins = p[..., -1] - p[..., -2]
    np.testing.assert_array_equal(ranks, margins.argsort(-1).argsort(-1) + 1)
    for i in range(3):
        for j in range(3):
            gaps = ((ranks[i] - ranks[j]) ** 2).sum()
            assert agreement[i, j] == pytest.approx(1 - 6 * gaps / (40 * (40**2 - 1)))
