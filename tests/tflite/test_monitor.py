"""Monitor: drifts are found, and as few are imagined as is said."""

import json
import math

import numpy as np
import pytest

from anytime_tflite import Answer, BatchResult, Monitor, monitor, read_info
from keras_adaptive.calibration import _reference
from keras_adaptive.calibration.calibrate import calibrate

INFO = {"exits": [0, 1, 2]}
COSTS = np.array([1.0, 2.0, 4.0])


def answers(rng, samples, harder=0.0):
    """Returns results of samples that are so much harder, in standard deviations."""
    difficulty = rng.normal(size=samples) + harder
    exits = np.digitize(difficulty, [-0.5, 0.3])
    confidences = 1 / (1 + np.exp(difficulty - 1 + rng.normal(scale=0.5, size=samples)))
    probabilities = np.stack([confidences, np.zeros(samples)], axis=1).astype("float32")
    return BatchResult(probabilities, np.zeros(samples, int), exits, COSTS[exits])


def logits(rng, samples, exits=3, classes=5):
    """Returns logits that become better from exit to exit, and labels."""
    labels = rng.integers(classes, size=samples)
    made = rng.normal(size=(exits, samples, classes))
    made[:, range(samples), labels] += np.array([[1.0], [2.0], [4.0]])[:exits]
    return made, labels


def test_fractions_and_means_are_those_of_the_latest(rng):
    reference, seen = answers(rng, 400), answers(rng, 300)
    watch = Monitor(INFO, reference, window=100)
    expected = watch.expected
    shares = [(reference.exits == k).mean() for k in range(3)]
    np.testing.assert_allclose(expected.exit_fractions, shares)
    assert expected.mean_cost == pytest.approx(reference.costs.mean())
    confidences = reference.probabilities[:, 0].astype("float64")
    assert expected.mean_confidence == pytest.approx(confidences.mean(), abs=1e-4)
    status = watch.update(seen)
    assert (status.samples, status.drifted, status.drifted_at) == (300, False, None)
    shares = [(seen.exits[-100:] == k).mean() for k in range(3)]
    np.testing.assert_allclose(status.exit_fractions, shares)
    assert status.mean_cost == pytest.approx(seen.costs[-100:].mean())


def test_a_drift_is_found_soon_and_said_to_cost_too_much(rng):
    for harder, most, costly in ((1.0, 150, True), (-1.0, 150, False), (0.4, 1200, True)):
        watch = Monitor(INFO, answers(rng, 1000))
        assert not watch.update(answers(rng, 1000)).drifted
        status = watch.update(answers(rng, 1500, harder))
        assert status.drifted
        assert 1000 < status.drifted_at <= 1000 + most
        assert status.evidence == 1
        assert status.over_budget == costly
        generous = Monitor(INFO, answers(rng, 1000), budget=4.0)
        status = generous.update(answers(rng, 1500, harder))
        assert (status.drifted, status.over_budget) == (True, False)


def test_a_drift_of_the_confidence_alone_is_found(rng):
    watch, seen = Monitor(INFO, answers(rng, 1000)), answers(rng, 1000)
    flat = seen.probabilities * np.float32(0.8)
    status = watch.update(seen._replace(probabilities=flat))
    assert status.drifted
    assert not status.over_budget


def test_one_answer_at_a_time_is_as_good_as_many(rng):
    reference, seen = answers(rng, 300), answers(rng, 60, 1.0)
    together = Monitor(INFO, reference).update(seen)
    watch = Monitor(INFO, reference)
    state = np.random.default_rng(0).random((2, 60))

    class Given:  # the same chance, given one by one
        def random(self, shape):
            assert shape == (2, 1)
            return state[:, [watch.status.samples]]

    watch._rng = Given()
    for probabilities, label, exit, cost in zip(*seen, strict=True):
        status = watch.update(Answer(probabilities, label, exit, "end", 1.0, None, cost))
    assert status.samples == together.samples
    assert status.evidence == pytest.approx(together.evidence)
    np.testing.assert_array_equal(status.exit_fractions, together.exit_fractions)


def by_hand(counts, places, chances):
    """The same bets, from their definition: one stake for each time to begin and each slope."""
    seen, wealth = [p for p, n in enumerate(counts) for _ in range(n)], []
    stakes, slopes = [], (-2, -1, -0.5, -0.25, 0.25, 0.5, 1, 2)
    for t, (place, chance) in enumerate(zip(places, chances, strict=True), 1):
        seen.append(place)
        above = sum(other > place for other in seen)
        same = sum(other == place for other in seen)
        p = (above + chance * same) / len(seen)
        stakes += [[1 / (t * (t + 1) * len(slopes)), slope] for slope in slopes]
        for stake in stakes:
            stake[0] *= 1 + stake[1] * (p - 0.5)
        unused = 1 - sum(1 / (s * (s + 1)) for s in range(1, t + 1))
        wealth.append(sum(value for value, _ in stakes) + unused)
    return wealth


def test_bets_are_as_defined(rng):
    counts, places, chances = [5, 3, 0, 2], rng.integers(4, size=40), rng.random(40)
    bets = monitor._Bets(list(counts))
    found = [bets.bet(int(place), chance) for place, chance in zip(places, chances, strict=True)]
    np.testing.assert_allclose(found, by_hand(counts, places, chances), rtol=1e-9)


@pytest.mark.slow
def test_no_more_streams_are_said_to_drift_than_promised(rng):
    """600 streams without a drift, few and many calibration samples, at 0.1."""
    alarms = 0
    for i in range(600):
        watch = Monitor(INFO, answers(rng, (50, 2000)[i % 2]), false_alarm=0.1, seed=i)
        alarms += watch.update(answers(rng, 500)).drifted
    assert alarms / 600 <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 600)
    assert alarms > 5  # it is a test, and not one that never says so


@pytest.mark.slow
def test_nor_where_thresholds_were_chosen_on_the_same_data(rng):
    """Policies of `calibrate` and its own summary, 150 streams, at 0.1."""
    alarms = 0
    for seed in range(150):
        policy = calibrate(*logits(rng, 400), COSTS, budget=2.2)
        info = {**INFO, "macs": COSTS.tolist(), "policy": policy.details}
        info["log_odds"] = policy.log_odds.tolist()
        seen, _ = logits(rng, 500)
        exits, rows = policy.decide(seen), np.arange(500)
        left = seen[exits, rows] / policy.temperatures[exits][:, None]
        p = np.exp(left - left.max(axis=1, keepdims=True))
        result = BatchResult(p / p.sum(axis=1, keepdims=True), left.argmax(1), exits, COSTS[exits])
        alarms += Monitor(info, false_alarm=0.1, seed=seed).update(result).drifted
    assert alarms / 150 <= 0.1 + 3 * math.sqrt(0.1 * 0.9 / 150)


# ---- what files hold


def test_what_calibrate_keeps_is_what_a_result_says(rng):
    made, labels = logits(rng, 500)
    for costs in (COSTS, COSTS[:, None] * rng.uniform(0.5, 1.5, 500)):
        policy = calibrate(made, labels, costs, budget=2.2)
        info = {**INFO, "macs": COSTS.tolist(), "log_odds": policy.log_odds.tolist()}
        info["policy"] = json.loads(json.dumps(policy.details))
        exits, rows = policy.decide(made), np.arange(500)
        left = made[exits, rows] / policy.temperatures[exits][:, None]
        p = np.exp(left - left.max(axis=1, keepdims=True))
        p = (p / p.sum(axis=1, keepdims=True)).astype("float32")
        spent = np.broadcast_to(costs.reshape(3, -1), (3, 500))[exits, rows]
        kept, seen = Monitor(info), Monitor(INFO, BatchResult(p, left.argmax(1), exits, spent))
        np.testing.assert_allclose(kept.expected.exit_fractions, seen.expected.exit_fractions)
        assert kept.expected.mean_cost == pytest.approx(seen.expected.mean_cost)
        assert kept.expected.mean_cost == pytest.approx(policy.details["mean_cost"])
        assert kept.expected.mean_confidence == pytest.approx(seen.expected.mean_confidence, 1e-3)
        assert kept._bounds == pytest.approx(seen._bounds, abs=2e-4)


def test_both_summaries_are_one(rng):
    result = answers(rng, 700)
    rounded = result.probabilities[:, 0].astype("float64").round(4)
    mine = monitor.summary(result.exits, rounded, result.costs, 3)
    theirs = _reference.summary(result.exits, result.probabilities[:, 0], 3)
    assert {key: mine[key] for key in theirs} == theirs


def test_answers_that_are_certain_are_alike_in_float32_and_float64():
    nearly = 1 - np.linspace(0, 1e-7, 200)
    summary = _reference.summary(np.zeros(200, int), nearly, 1)
    assert summary["confidence_bounds"] == [1.0]
    info = {"exits": [0], "macs": [1.0], "log_odds": [-math.inf]}
    info["policy"] = {"reference": {**summary, "log_odds": ["-Infinity"], "mean_cost": None}}
    certain = np.ones((3000, 1), "float32")
    nothing = np.zeros(3000, int)
    assert not Monitor(info).update(BatchResult(certain, nothing, nothing, certain[:, 0])).drifted


def test_other_thresholds_need_another_reference(rng):
    made, labels = logits(rng, 300)
    policy = calibrate(made, labels, COSTS, budget=2.2)
    other = policy.with_thresholds([0.99, 0.99, 0.0])
    info = {**INFO, "macs": COSTS.tolist(), "log_odds": other.log_odds.tolist()}
    with pytest.raises(ValueError, match="`reference` must be given"):
        Monitor({**info, "policy": other.details})
    right = {**INFO, "macs": COSTS.tolist(), "log_odds": policy.log_odds.tolist()}
    assert Monitor({**right, "policy": policy.details}).expected.samples == 300
    reference = policy.details["reference"]
    for wrong in (
        {"exits": [1, 2]},
        {"exits": [1, 2, -3]},
        {"exits": None},
        {"confidence_bounds": [2.0, 1.0]},
        {"confidence_bounds": ["a"]},
        {"confidence_counts": [1]},
        {"mean_cost": math.nan},
        {"mean_cost": "much"},
        {"mean_confidence": None},
        {"log_odds": ["x"]},
    ):
        with pytest.raises(ValueError, match="`reference` must be given"):
            Monitor({**right, "policy": {"reference": {**reference, **wrong}}})


def test_old_files_need_a_reference(rng):
    import file_vectors

    info = read_info(file_vectors.FOLDER / "float32.tflite")
    with pytest.raises(ValueError, match="`reference` must be given"):
        Monitor(info)
    assert Monitor(info, answers(rng, 50)).expected.samples == 50


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"false_alarm": 0}, ValueError, "`false_alarm` must be a number between 0 and 1"),
        ({"false_alarm": True}, ValueError, "`false_alarm` must be"),
        ({"budget": -1}, ValueError, "`budget` must be a positive number"),
        ({"budget": "low"}, ValueError, "`budget` must be a positive number"),
        ({"window": 1}, ValueError, "`window` must be an integer of at least 2"),
        ({"seed": -1}, ValueError, "`seed` must be an integer of at least 0"),
        ({"reference": [1]}, TypeError, "`reference` must be a BatchResult"),
        ({"info": "model.tflite"}, TypeError, "`info` must be what a file says of itself"),
    ],
)
def test_impossible_arguments_are_refused(rng, arguments, error, message):
    given = {"info": INFO, "reference": answers(rng, 10), **arguments}
    with pytest.raises(error, match=message):
        Monitor(**given)


def test_answers_that_say_nothing_are_refused(rng):
    watch = Monitor(INFO, answers(rng, 10))
    assert math.isnan(watch.status.mean_cost)
    with pytest.raises(ValueError, match="must have stopped by themselves"):
        watch.update(Answer(np.ones(2), 0, 0, "deadline", 1.0, None, 1.0))
    with pytest.raises(TypeError, match="must be an Answer or a BatchResult"):
        watch.update([1])
    with pytest.raises(ValueError, match=r"Received: exits \[7\]"):
        watch.update(answers(rng, 1)._replace(exits=np.array([7])))


@pytest.mark.slow
def test_digits_that_drift_are_noticed(exported, digits, test_images, rng):
    from anytime_tflite import BatchPredictor

    held_out, _ = digits.arrays("calibrate")
    with BatchPredictor(exported, workers=1) as predictor:
        watch = Monitor(predictor.info, predictor.predict(held_out))
        x = test_images[0]
        assert not watch.update(predictor.predict(x)).drifted
        dirt = np.linspace(0, 2, len(x))[:, None, None, None] * rng.normal(size=x.shape)
        status = watch.update(predictor.predict((x + dirt).clip(x.min(), x.max())))
        assert status.drifted
        assert status.over_budget
        assert status.mean_cost > watch.expected.mean_cost


@pytest.mark.parametrize(
    "change",
    [
        lambda found: found._replace(probabilities=found.probabilities * np.nan),
        lambda found: found._replace(probabilities=found.probabilities[0]),
        lambda found: found._replace(exits=found.exits[:2]),
        lambda found: found._replace(costs=found.costs[:2]),
        lambda found: BatchResult(*(column[0] for column in found)),
    ],
)
def test_answers_that_do_not_fit_each_other_are_refused(rng, change):
    """NaN has no place among the confidences: it would pass for a drift."""
    found = answers(rng, 20)
    watch = Monitor(INFO, found)
    for call in (watch.update, lambda wrong: Monitor(INFO, wrong)):
        with pytest.raises(ValueError, match="The answers must be as `predict` returns them"):
            call(change(found))
    assert watch.status.samples == 0
