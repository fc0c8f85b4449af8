"""A learned policy: the layer's numbers in numpy, and what is done with them everywhere."""

import json

import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from shared import TINY
from strategies import problems

import keras_adaptive as ka
from anytime_tflite import AnytimeModel
from keras_adaptive.layers import StoppingPolicy
from keras_adaptive.policy.learned_policy import pack, unpack
from keras_adaptive.training import with_stopping
from keras_adaptive.training.collapse import collapse


def networks(rng, exits, classes, units=4):
    shapes = ((classes, units), (units, units), (units, 2))
    return [
        [(rng.normal(0, 2, shape), rng.normal(0, 0.5, shape[1])) for shape in shapes]
        for _ in range(exits - 1)
    ]


@pytest.fixture(scope="module")
def model(images):
    """A small network whose policies disagree about images. Not to be changed."""
    keras.utils.set_random_seed(0)
    model = with_stopping(ka.build_msdnet(**TINY, blocks=3, head_channels=4), StoppingPolicy(4))
    rng = np.random.default_rng(0)
    for exit in model.outputs:  # answers that differ from image to image
        logits = exit._keras_history.operation.logits
        logits.set_weights([rng.normal(0, 8, w.shape) for w in logits.get_weights()])
    answers = model.predict(images, verbose=0)
    for layer, logits in zip(model.stopping, answers, strict=False):
        for dense in (*layer.hidden, layer.decision):
            kernel, bias = dense.get_weights()
            dense.set_weights([rng.normal(0, 2, kernel.shape), rng.normal(0, 0.1, bias.shape)])
        decision = np.array(layer.log_probabilities(keras.ops.softmax(logits)))
        kernel, bias = layer.decision.get_weights()
        bias[0] -= np.median(decision[:, 0] - decision[:, 1]) + 1e-3  # half of them stop
        layer.decision.set_weights([kernel, bias])
    return model


@pytest.fixture(scope="module")
def answers(model, images):
    return np.stack(model.predict(images, verbose=0))


def test_confidence_is_the_layers_probability_of_stopping(model, answers):
    policy = model.learned_policy()
    found = policy.confidences(answers)
    for k, layer in enumerate(model.stopping):
        stop = keras.ops.convert_to_numpy(layer(keras.ops.softmax(answers[k])))[:, 0]
        np.testing.assert_allclose(found[k], stop, atol=1e-5)
    assert (found[-1] == 1).all()
    assert len(set(policy.decide(answers).tolist())) > 1  # the cases below are not all alike


@given(problems(), st.integers(0, 5))
def test_leaving_is_a_distribution_and_greedy_takes_the_first_likely_stop(problem, seed):
    logits, labels, costs = problem
    policy = ka.LearnedPolicy(networks(np.random.default_rng(seed), len(logits), logits.shape[-1]))
    leaving, stop = policy.leaving(logits), policy.confidences(logits)
    np.testing.assert_allclose(leaving.sum(axis=0), 1)
    by_hand = [next(k for k in range(len(stop)) if stop[k, i] >= 0.5) for i in range(len(labels))]
    greedy = policy.decide(logits)
    assert greedy.tolist() == [min(k, len(stop) - 1) for k in by_hand]
    leaves = [policy.leaves(k, z) for k, z in enumerate(logits)]
    assert greedy.tolist() == np.argmax(leaves, axis=0).tolist()
    report = ka.evaluate(policy.leaving(logits), logits, labels, costs)
    assert costs[0] - 1e-9 <= report.mean_cost <= costs[-1] + 1e-9
    assert report.exit_fractions.sum() == pytest.approx(1)


def test_leaving_and_expected_by_hand(rng):
    logits, labels = rng.normal(size=(3, 5, 4)), np.array([0, 1, 2, 3, 0])
    policy = ka.LearnedPolicy(networks(rng, 3, 4))
    stop, costs = policy.confidences(logits), np.array([1.0, 2.0, 5.0])
    by_hand = np.stack([stop[0], (1 - stop[0]) * stop[1], (1 - stop[0]) * (1 - stop[1])])
    np.testing.assert_allclose(policy.leaving(logits), by_hand)
    right = logits.argmax(-1) == labels
    report = ka.evaluate(policy.leaving(logits), logits, labels, costs)
    assert report.accuracy == pytest.approx((by_hand * right).sum() / 5)
    assert report.mean_cost == pytest.approx((by_hand.T @ costs).mean())
    assert report.worst_cost == 5
    np.testing.assert_allclose(report.exit_fractions, by_hand.mean(axis=1))
    np.testing.assert_allclose(report.exit_accuracies, right.mean(axis=1))
    each = costs[:, None] * np.arange(1.0, 6)
    assert ka.evaluate(policy.leaving(logits), logits, labels, each).mean_cost == pytest.approx(
        (by_hand * each).sum() / 5
    )


def test_another_threshold_changes_nothing_else(rng):
    logits = rng.normal(size=(3, 50, 4))
    policy = ka.LearnedPolicy(networks(rng, 3, 4), seed=5, details={"cost_weight": 0.1})
    other = policy.with_thresholds([0.9, 0.2, 0])
    assert other.thresholds.tolist() == [0.9, 0.2, -np.inf]
    assert (other.seed, other.details) == (5, {"cost_weight": 0.1})
    np.testing.assert_array_equal(other.confidences(logits), policy.confidences(logits))
    greedy = ka.LearnedPolicy(policy.networks, [0.9, 0.2, 0]).decide(logits)
    stop = policy.confidences(logits)
    expected = np.where(stop[0] >= 0.9, 0, np.where(stop[1] >= 0.2, 1, 2))
    np.testing.assert_array_equal(greedy, expected)
    assert policy.sampled(3).details == policy.details


def test_expected_is_the_mean_over_draws(rng):
    logits, labels = rng.normal(size=(3, 200, 4)) * 2, rng.integers(0, 4, 200)
    costs = np.array([1.0, 2.0, 5.0])
    policy = ka.LearnedPolicy(networks(rng, 3, 4))
    expected = ka.evaluate(policy.leaving(logits), logits, labels, costs)
    drawn = [ka.evaluate(policy.sampled(seed), logits, labels, costs) for seed in range(100)]
    for name in ("accuracy", "mean_cost"):
        values = np.array([getattr(report, name) for report in drawn])
        error = values.std() / np.sqrt(len(values))
        assert abs(values.mean() - getattr(expected, name)) < 4 * error
        assert error > 0
    again = policy.sampled(3)
    assert (again.decide(logits) == policy.sampled(3).decide(logits)).all()


def test_draws_leave_open_exits_alone_and_within_the_limit(rng):
    logits, costs = rng.normal(size=(4, 500, 5)), np.array([1.0, 2, 4, 8])
    each = np.cumsum(rng.uniform(0.5, 2, (4, 500)), axis=0)
    policy = ka.LearnedPolicy(networks(rng, 4, 5), [0.5, np.inf, -np.inf, 0], worst_case=4.0)
    stop = policy.confidences(logits)
    by_hand = np.stack([stop[0], np.zeros(500), 1 - stop[0], np.zeros(500)])
    np.testing.assert_allclose(policy.leaving(logits), by_hand)
    drawn = policy.sampled(1).decide(logits)
    assert set(drawn.tolist()) == {0, 2}
    assert abs((drawn == 0).mean() - stop[0].mean()) < 0.1
    affordable = (each <= 4).sum(axis=0) - 1
    assert (policy.sampled(1).decide(logits, each) <= affordable).all()
    np.testing.assert_array_equal(policy.sampled(1).decide(logits, costs), drawn)
    within = policy.leaving(logits, each)
    np.testing.assert_allclose(within.sum(axis=0), 1)
    for i in range(500):
        kept = by_hand[: affordable[i] + 1, i]
        assert within[: affordable[i], i] == pytest.approx(kept[:-1])
        assert within[affordable[i], i] == pytest.approx(by_hand[affordable[i] :, i].sum())


def test_a_file_keeps_it_and_every_policy_loads_it(model, answers, tmp_path):
    policy = model.learned_policy([0.4, 0.6, 0], details={"mean_cost": 5.0})
    policy.save(tmp_path / "policy.json")
    for kind in (ka.ExitPolicy, ka.LearnedPolicy):
        again = kind.load(tmp_path / "policy.json")
        assert isinstance(again, ka.LearnedPolicy)
        assert again.thresholds.tolist() == [0.4, 0.6, -np.inf]
        assert again.details == {"mean_cost": 5.0}
        np.testing.assert_array_equal(again.confidences(answers), policy.confidences(answers))
    policy.sampled(7).save(tmp_path / "policy.json")
    assert ka.ExitPolicy.load(tmp_path / "policy.json").seed == 7
    ka.ExitPolicy([0.5, 0.0]).save(tmp_path / "plain.json")
    with pytest.raises(ValueError, match="The file must hold a LearnedPolicy. Received: "):
        ka.LearnedPolicy.load(tmp_path / "plain.json")
    content = json.loads((tmp_path / "policy.json").read_text())
    content["networks"][0][0]["kernel"] = "no numbers!"
    (tmp_path / "policy.json").write_text(json.dumps(content))
    with pytest.raises(ValueError, match="`networks` must be layers of kernel, bias and shape"):
        ka.ExitPolicy.load(tmp_path / "policy.json")


def test_packing_keeps_every_bit(rng):
    given = [
        [(w.astype("float32"), b.astype("float32")) for w, b in n] for n in networks(rng, 3, 5)
    ]
    for old, new in zip(given, unpack(json.loads(json.dumps(pack(given)))), strict=True):
        for (w, b), (v, c) in zip(old, new, strict=True):
            assert (w == v).all()
            assert (b == c).all()


@pytest.fixture(scope="module")
def predictor(model):
    return ka.AdaptivePredictor(model, model.learned_policy(), engine="keras")


@pytest.mark.parametrize("batch_size", [1, 4])
def test_the_predictor_follows_it(predictor, images, answers, batch_size):
    found = predictor.predict(images, batch_size=batch_size)
    assert found.exits.tolist() == predictor.policy.decide(answers).tolist()


def test_the_predictor_needs_a_policy_that_does_not_draw(model):
    policy = model.learned_policy()
    for drawing in (policy.sampled(), [policy, policy.sampled(np.int64(1))]):
        with pytest.raises(ValueError, match="`policy` must be greedy"):
            ka.AdaptivePredictor(model, drawing)


@pytest.fixture(scope="module")
def exported(model, tmp_path_factory):
    path = tmp_path_factory.mktemp("exported") / "model.tflite"
    ka.export_tflite(model, path, model.learned_policy(), single_call=True)
    return path


def test_the_device_follows_it(model, images, answers, exported):
    expected = model.learned_policy().decide(answers)
    with AnytimeModel(exported) as device:
        found = [device.classify(image) for image in images]
        assert [answer.exit for answer in found] == expected.tolist()
        assert {answer.stopped_by for answer in found} <= {"confidence", "end"}
        assert [device.predict(image).exit for image in images] == expected.tolist()
        never = device.classify(images[0], thresholds=[np.inf, np.inf, 0])
        assert (never.exit, never.stopped_by) == (2, "end")
        assert [answer.exit for answer in device.stream(images[0])] == [0, 1, 2]


@pytest.mark.slow
def test_a_quantized_file_lets_as_many_leave(model, images, answers, tmp_path):
    ka.export_tflite(
        model,
        tmp_path / "model.tflite",
        model.learned_policy(),
        quantize="dynamic",
        calibration_data=images,
    )
    with AnytimeModel(tmp_path / "model.tflite") as device:
        assert device.info["confidence"] == "learned"
        exits = [device.classify(image).exit for image in images]
    expected = np.bincount(model.learned_policy().decide(answers), minlength=3)
    assert np.abs(np.bincount(exits, minlength=3) - expected).max() <= 1


def test_collapse_names_the_exit_and_what_to_change():
    assert collapse([0.5, 0.3, 0.2]) is None
    assert collapse([0.98, 0.02]) is None
    assert "Lower `cost_weight`" in collapse([0.995, 0.005])
    assert "Raise `cost_weight`" in collapse([0.0, 0.0, 1.0])
    assert "sends 99.5 % of the samples to exit 0, the first" in collapse([0.995, 0.005])
    assert "exit 1, and to no other" in collapse([0.0, 1.0, 0.0])
    assert collapse([0.9, 0.1], level=0.9)


@pytest.mark.parametrize(
    ("shapes", "message"),
    [
        ([(3, 4), (4, 2)], "three dense layers each"),
        ([(3, 4), (5, 4), (4, 2)], "three dense layers each"),
        ([(3, 4), (4, 4), (4, 3)], "three dense layers each"),
        ([(3, 4), (4, 5), (5, 4), (4, 2)], "three dense layers each"),
        ([(3,), (4, 4), (4, 2)], "three dense layers each"),
    ],
)
def test_rejects_impossible_networks(shapes, message):
    network = [(np.zeros(shape), np.zeros(shape[-1])) for shape in shapes]
    with pytest.raises(ValueError, match=message):
        ka.LearnedPolicy([network])


def test_rejects_what_does_not_fit(rng):
    for place, value in ((0, np.nan), (1, np.inf)):
        damaged = networks(rng, 2, 4)
        damaged[0][1][place].flat[0] = value
        with pytest.raises(ValueError, match="all finite"):
            ka.LearnedPolicy(damaged)
    short = networks(rng, 2, 4)
    short[0][1] = (short[0][1][0], np.zeros(3))  # a bias too few
    with pytest.raises(ValueError, match="three dense layers each"):
        ka.LearnedPolicy(short)
    with pytest.raises(ValueError, match="pairs"):
        ka.LearnedPolicy([[1, 2, 3]])
    with pytest.raises(ValueError, match="one number more than there are networks"):
        ka.LearnedPolicy(networks(rng, 3, 4), [0.5, 0.5])
    for thresholds in (0.5, "high", [0.5, np.nan]):
        with pytest.raises(ValueError, match="`thresholds` must be"):
            ka.LearnedPolicy(networks(rng, 2, 4), thresholds)
    for missing in (None, 3, "networks"):
        with pytest.raises(ValueError, match="`networks` must be a list of networks"):
            ka.LearnedPolicy(missing)
    with pytest.raises(ValueError, match="the same number of classes"):
        ka.LearnedPolicy([*networks(rng, 2, 4), *networks(rng, 2, 5)])
    policy = ka.LearnedPolicy(networks(rng, 2, 4))
    with pytest.raises(ValueError, match=r"of shape \(exits, samples, 4\) for this policy"):
        policy.decide(np.zeros((2, 3, 5)))
    with pytest.raises(ValueError, match="as many exits as the policy has thresholds"):
        policy.decide(np.zeros((3, 3, 4)))
