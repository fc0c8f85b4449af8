import numpy as np
import pytest

import keras_adaptive as ka


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


def test_curve_goes_from_the_first_exit_to_the_full_network(calibration):
    logits, labels, costs = calibration
    curve = ka.accuracy_cost_curve(logits, labels, costs, points=12)
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


@pytest.mark.parametrize("points", [1, 2.5, True])
def test_curve_rejects_impossible_points(calibration, points):
    with pytest.raises(ValueError, match="`points` must be an integer of at least 2"):
        ka.accuracy_cost_curve(*calibration, points=points)


def test_evaluate_needs_a_policy_and_labels(calibration):
    logits, labels, costs = calibration
    with pytest.raises(TypeError, match="`policy` must be an ExitPolicy"):
        ka.evaluate([0.5, 0.5, 0], logits, labels, costs)
    with pytest.raises(ValueError, match="`labels` must be given"):
        ka.evaluate(ka.ExitPolicy([0.5, 0.5, 0]), logits, None, costs)
