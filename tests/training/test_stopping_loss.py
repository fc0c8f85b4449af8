"""Against sums over everything that can happen, and problems solved by hand."""

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_adaptive.layers import StoppingPolicy
from keras_adaptive.training import StoppingLoss
from keras_adaptive.training.stopping_loss import _leave_one_out, _squared_gradients, leaving

CLASSES, EXITS = 3, 3
CHARGES = np.array([1.0, 2.5, 4.0])


class Cascade:
    """Three linear classifiers with two policies: small enough for many gradients."""

    def __init__(self):
        keras.utils.set_random_seed(1)
        rng = np.random.default_rng(1)
        self.x = rng.normal(size=(4, 2)).astype("float32")
        self.y = np.array([0, 2, 1, 1])
        self.kernels = [tf.Variable(rng.normal(0, 1, (2, CLASSES)), dtype="float32") for _ in "abc"]
        self.policies = [StoppingPolicy(3) for _ in "ab"]
        for policy in self.policies:
            policy.build((None, CLASSES))
            policy.set_weights([rng.normal(0, 0.7, w.shape) for w in policy.weights])

    @property
    def variables(self):
        return self.kernels + [w.value for p in self.policies for w in p.weights]

    def losses(self, loss, seed, copies=1):
        x, y = np.tile(self.x, (copies, 1)), np.tile(self.y, copies)
        logits = [tf.matmul(x, kernel) for kernel in self.kernels]
        decisions = [
            policy.log_probabilities(tf.nn.softmax(z))
            for policy, z in zip(self.policies, logits, strict=False)
        ]
        return loss.losses(logits, y, decisions, CHARGES, seed)

    def gradient(self, loss, seed, copies=1):
        """Returns the gradient of the mean loss, as one vector."""
        with tf.GradientTape() as tape:
            value = tf.reduce_mean(self.losses(loss, seed, copies))
        gradients = tape.gradient(value, self.variables, unconnected_gradients="zero")
        return tf.concat([tf.reshape(g, (-1,)) for g in gradients], axis=0)

    def draws(self, loss, number, copies):
        """Returns `number` independent estimates of the gradient."""
        seed = keras.random.SeedGenerator(0)
        one = tf.function(lambda: self.gradient(loss, seed, copies))
        return np.stack([one().numpy() for _ in range(number)])


@pytest.fixture(scope="module")
def cascade():
    return Cascade()


@pytest.mark.parametrize(
    ("reward", "top_k", "baseline"),
    [
        pytest.param("sampled_label", 1, True, marks=pytest.mark.slow),
        ("sampled_label", 2, False),
        pytest.param("log_likelihood", 1, True, marks=pytest.mark.slow),
        pytest.param("sampled_label", 1, False, marks=pytest.mark.slow),
        pytest.param("sampled_label", 2, True, marks=pytest.mark.slow),
        pytest.param("best_label", 1, True, marks=pytest.mark.slow),
        pytest.param("best_label", 1, False, marks=pytest.mark.slow),
        pytest.param("log_likelihood", 1, False, marks=pytest.mark.slow),
    ],
)
def test_sampled_gradient_is_the_exact_one_in_the_mean(cascade, reward, top_k, baseline):
    how = {"cost_weight": 0.1, "reward": reward, "top_k": top_k}
    loss = StoppingLoss(**how, baseline=baseline)
    exact = cascade.gradient(loss, None).numpy()
    assert np.abs(exact[: CLASSES * 2]).max() > 1e-3  # the classifiers learn, too
    found = cascade.draws(loss, 60, copies=100)
    error = found.std(axis=0, ddof=1) / np.sqrt(len(found))
    z = (found.mean(axis=0) - exact) / np.maximum(error, 1e-7)
    assert error.max() < 0.02
    assert np.abs(z).max() < 4.5  # of some fifty numbers
    assert 0.5 < np.sqrt((z**2).mean()) < 1.5 or reward == "best_label"


def test_value_is_what_is_earned_in_the_mean(cascade):
    loss = StoppingLoss(0.1)
    exact = cascade.losses(loss, None).numpy()
    seed = keras.random.SeedGenerator(0)
    found = cascade.losses(loss, seed, copies=4000).numpy().reshape(-1, 4)
    error = found.std(axis=0) / np.sqrt(len(found))
    assert (np.abs(found.mean(axis=0) - exact) < 4 * error).all()


@pytest.mark.slow
def test_baseline_reduces_the_variance():
    """Measured: to 0.47 where samples earn 0.58 on average; nothing to gain where they earn 0."""
    cascade = Cascade()
    right = np.eye(CLASSES)[cascade.y] * 2 - 1
    for k, kernel in enumerate(cascade.kernels):  # classifiers that know something
        kernel.assign(1.5 * (k + 1) * np.linalg.lstsq(cascade.x, right, rcond=None)[0])
    variances = {
        baseline: cascade.draws(StoppingLoss(baseline=baseline), 200, copies=4).var(axis=0).sum()
        for baseline in (True, False)
    }
    assert variances[True] < 0.6 * variances[False]


def test_expectation_is_the_sum_over_exits_and_labels(cascade):
    losses = cascade.losses(StoppingLoss(0.1), None).numpy()
    for x, y, found in zip(cascade.x, cascade.y, losses, strict=True):
        earned, come = 0.0, 1.0
        for k, kernel in enumerate(cascade.kernels):
            probabilities = tf.nn.softmax(x[None] @ kernel.numpy())
            stop = 1.0 if k == 2 else float(cascade.policies[k](probabilities)[0, 0])
            for label in range(CLASSES):
                reward = float(label == y) - 0.1 * CHARGES[k]
                earned += come * stop * float(probabilities[0, label]) * reward
            come *= 1 - stop
        assert found == pytest.approx(-earned, abs=1e-6)


def test_best_label_counts_the_top_k():
    logits = [np.log([[0.5, 0.3, 0.2]] * 3).astype("float32")] * 2
    decisions = [np.log([[0.25, 0.75]] * 3).astype("float32")]
    for top_k, expected in ((1, [1, 0, 0]), (2, [1, 1, 0]), (3, [1, 1, 1])):
        loss = StoppingLoss(reward="best_label", top_k=top_k)
        found = loss.losses(logits, np.arange(3), decisions, [0.0, 0.0])
        np.testing.assert_allclose(-np.array(found), expected, atol=1e-6)


def test_leaving_is_a_distribution_over_the_exits():
    decisions = [np.log([[0.25, 0.75]]).astype("float32"), np.log([[0.5, 0.5]]).astype("float32")]
    np.testing.assert_allclose(np.exp(leaving(decisions)), [[0.25, 0.375, 0.375]], atol=1e-6)


def test_both_readings_of_the_cost():
    costs = [2.0, 6.0, 10.0]
    assert StoppingLoss().charges(costs).tolist() == [0.0, 1.0, 3.0]
    assert StoppingLoss(charge="including").charges(costs).tolist() == [1.0, 3.0, 5.0]
    by_last = StoppingLoss(charge="including", normalize="last")
    assert by_last.charges(costs).tolist() == pytest.approx([0.2, 0.6, 1.0])
    assert StoppingLoss(normalize=None).charges(costs).tolist() == [0.0, 2.0, 6.0]
    assert StoppingLoss.from_config(by_last.get_config()).normalize == "last"
    own = StoppingLoss(charge="including", costs=[4, 4, 6])
    assert own.charges(costs).tolist() == [1.0, 1.0, 1.5]
    assert StoppingLoss.from_config(own.get_config()).get_config() == own.get_config()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"cost_weight": -1}, "`cost_weight` must be at least 0"),
        ({"estimator": "exact"}, "`estimator` must be one of"),
        ({"reward": "hit"}, "`reward` must be one of"),
        ({"charge": "all"}, "`charge` must be one of"),
        ({"top_k": 0}, "`top_k` must be an integer of at least 1. Received: top_k=0"),
        ({"cost_weight": True}, "Received: cost_weight=True"),
        ({"cost_weight": float("nan")}, "Received: cost_weight=nan"),
        ({"top_k": True}, "Received: top_k=True"),
        ({"top_k": 1.5}, "Received: top_k=1.5"),
        ({"costs": [3, 2]}, "`costs` must be positive numbers"),
        ({"costs": [0, 2]}, "`costs` must be positive numbers"),
        ({"costs": []}, "`costs` must be positive numbers"),
        ({"costs": [1, np.inf]}, "`costs` must be positive numbers"),
        ({"costs": [1, np.nan]}, "`costs` must be positive numbers"),
        ({"costs": ["a"]}, "`costs` must be positive numbers"),
        ({"costs": 3}, "`costs` must be positive numbers"),
        ({"baseline": "no"}, "`baseline` must be one of"),
    ],
)
def test_rejects_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        StoppingLoss(**arguments)


def test_more_labels_drawn_are_right_more_often():
    logits = [np.log([[0.5, 0.3, 0.2]] * 3).astype("float32")] * 2
    decisions = [np.log([[0.25, 0.75]] * 3).astype("float32")]
    for top_k in (1, 2):
        loss = StoppingLoss(0.5, top_k=top_k)
        found = loss.losses(logits, np.arange(3), decisions, [1.0, 3.0])
        right = 1 - (1 - np.array([0.5, 0.3, 0.2])) ** top_k
        cost = 0.25 * 1 + 0.75 * 3
        np.testing.assert_allclose(found, 0.5 * cost - right, atol=1e-6)
    found = StoppingLoss(reward="log_likelihood").losses(logits, np.arange(3), decisions, [0, 0])
    np.testing.assert_allclose(found, -np.log([0.5, 0.3, 0.2]), atol=1e-6)


def test_a_baseline_is_the_weighted_mean_of_the_others():
    values, weights = np.array([1.0, 2.0, 4.0], "float32"), np.array([1.0, 0.5, 2.0], "float32")
    expected = [(1 + 8) / 2.5, (1 + 8) / 3, (1 + 1) / 1.5]
    np.testing.assert_allclose(_leave_one_out(values, weights), expected, rtol=1e-6)
    assert np.array(_leave_one_out(values[:1], weights[:1])).tolist() == [0]


def test_squared_gradients_are_those_of_the_softmax():
    scores = [tf.constant([[0.3, -0.2]]), tf.constant([[1.0, 0.4]])]
    for exit in range(3):
        with tf.GradientTape() as tape:
            tape.watch(scores)
            decisions = [tf.nn.log_softmax(s) for s in scores]
            chosen = leaving(decisions)[0, exit]
        gradients = tape.gradient(chosen, scores, unconnected_gradients="zero")
        expected = sum(float(tf.reduce_sum(g**2)) for g in gradients)
        assert float(_squared_gradients(decisions)[0, exit]) == pytest.approx(expected, rel=1e-5)


def test_the_layers_logarithms_are_those_of_its_output(cascade):
    probabilities = np.array([[0.2, 0.5, 0.3], [1.0, 0.0, 0.0]], "float32")
    policy = cascade.policies[0]
    features = probabilities
    for dense in policy.hidden:
        features = np.maximum(features @ dense.kernel + dense.bias, 0)
    scores = features @ policy.decision.kernel + policy.decision.bias
    expected = np.exp(scores) / np.exp(scores).sum(axis=1, keepdims=True)
    np.testing.assert_allclose(policy(probabilities), expected, atol=1e-6)
    np.testing.assert_allclose(np.exp(policy.log_probabilities(probabilities)), expected, atol=1e-6)
