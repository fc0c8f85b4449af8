"""Policies that learn what going on would gain; tests of the reward are in test_add_stopping."""

import keras
import numpy as np
import pytest

import keras_adaptive as ka
from keras_adaptive.training import StoppingModel, fit_policy


def reader(exits=2, classes=2):
    """A network that hands on logits, with policies."""
    keras.utils.set_random_seed(0)
    read = keras.Input((exits, classes))
    heads = [keras.layers.Identity(name=f"exit_{k}")(read[:, k]) for k in range(exits)]
    return StoppingModel(read, heads, stopping=ka.layers.StoppingPolicy(8))


def test_learns_how_much_the_next_exit_gains():
    # the first exit says one of two things, and is right about 9 and 5 of 10; the second always
    first = np.log(np.repeat([[0.9, 0.1], [0.5001, 0.4999]], 200, axis=0))
    labels = np.concatenate([np.arange(200) % 10 == 0, np.arange(200) % 2 == 0]).astype(int)
    logits = np.stack([first, 20.0 * np.eye(2)[labels]])
    model = reader()
    adam = keras.optimizers.Adam(0.02)
    history = fit_policy(
        model, logits, labels, target="deferral", epochs=30, optimizer=adam, verbose=0
    ).history
    assert history["loss"][-1] < history["loss"][0]
    learned = model.learned_policy()
    stop = learned.confidences(logits)[0]
    np.testing.assert_allclose(stop[[0, -1]], [(1 - 0.1) / 2, (1 - 0.5) / 2], atol=0.03)
    policy = ka.calibrate(logits, labels, [1, 3], budget=2, confidence=learned)
    assert policy.decide(logits).tolist() == [0] * 200 + [1] * 200
    assert isinstance(policy, ka.LearnedPolicy)


def test_an_exit_that_would_lose_is_worth_stopping_at(rng):
    labels = rng.integers(0, 2, 300)
    right = 5.0 * np.eye(2)[labels]
    logits = np.stack([right, -right, right])  # the second is always wrong
    model = reader(exits=3)
    adam = keras.optimizers.Adam(0.05)
    fit_policy(model, logits, labels, target="deferral", epochs=10, optimizer=adam, verbose=0)
    stop = model.learned_policy().confidences(logits)
    assert stop[0].min() > 0.9
    assert stop[1].max() < 0.1


def test_arguments_of_the_reward_are_refused():
    logits, labels = np.zeros((2, 4, 2)), np.zeros(4, int)
    for given in ({"cost_weight": 0.1}, {"estimator": "expected"}):
        with pytest.raises(ValueError, match="arguments of StoppingLoss must not be given"):
            fit_policy(reader(), logits, labels, target="deferral", **given)
    with pytest.raises(ValueError, match="`target` must be one of"):
        fit_policy(reader(), logits, labels, target="gain")


LOGITS, LABELS = np.zeros((2, 4, 2)), np.zeros(4, int)
SCHEDULE = keras.optimizers.schedules.CosineDecay(0.1, 10)


@pytest.mark.parametrize("target", ["reward", "deferral"])
@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        ({"learning_rate": -1}, ValueError, "`learning_rate` must be positive"),
        ({"learning_rate": 0}, ValueError, "`learning_rate` must be positive"),
        ({"learning_rate": np.nan}, ValueError, "`learning_rate` must be a finite number"),
        ({"learning_rate": "fast"}, ValueError, "`learning_rate` must be a finite number"),
        ({"learning_rate": SCHEDULE}, ValueError, "for another schedule give an optimizer"),
        ({"optimizer": "adan"}, TypeError, "`optimizer` must be a .*Received: optimizer='adan'"),
        ({"optimizer": 0.1}, TypeError, "or the name of one. Received: optimizer=0.1"),
        ({"optimizer": keras.optimizers.SGD(-1.0)}, ValueError, "rate of `optimizer` must be"),
        ({"learning_rates": 0.1}, TypeError, "Did you mean 'learning_rate'"),
        ({"epochs": 0}, ValueError, "`epochs` must be an integer"),
    ],
)
def test_impossible_arguments_leave_policies_as_they_were(target, given, error, message):
    model = reader()
    before = model.get_weights()
    with pytest.raises(error, match=message):
        fit_policy(model, LOGITS, LABELS, target=target, **given)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize("optimizer", ["adam", keras.optimizers.SGD(SCHEDULE)])
def test_optimizers_have_names_and_schedules(optimizer):
    model = reader()
    before = model.get_weights()
    how = {"epochs": 1, "verbose": 0, "target": "deferral"}
    fit_policy(model, LOGITS, LABELS, optimizer=optimizer, **how)
    now = model.get_weights()
    assert any(not np.array_equal(a, b) for a, b in zip(before, now, strict=True))
