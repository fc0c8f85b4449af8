"""Gated networks on the host: what is spent, and limits that every sample keeps."""

import functools

import keras
import numpy as np
import pytest
from shared import half_open

import keras_adaptive as ka

keras_engine = functools.partial(ka.AdaptivePredictor, engine="keras")

SAMPLES = np.arange(9)


ROWS = [
    ("resnet", "both", 8),
    pytest.param(("resnet", "both", 14), marks=pytest.mark.slow),
    pytest.param(("densenet", "layer", 16), marks=pytest.mark.slow),
]


@pytest.fixture(scope="module", params=ROWS, ids=str)
def gated(request, images):
    """A gated network, the logits of its exits, and what each costs each image."""
    builder, gates, depth = request.param
    model = half_open(builder, gates, depth=depth)
    return model, *model.predict_with_costs(images, verbose=0)


@pytest.fixture(scope="module")
def free(gated):
    """A predictor with a policy by which half of the images leave early."""
    model, logits, _ = gated
    confidences = np.sort(ka.policy.confidence(logits, "logit_margin")[0])
    return keras_engine(model, ka.ExitPolicy([confidences[4:6].mean(), 0.0], "logit_margin"))


@pytest.fixture(scope="module")
def limited(gated):
    """A predictor with a policy by which nobody leaves early who need not."""
    model, _, costs = gated
    worst = float(costs[1].min() + costs[1].max()) / 2
    return keras_engine(model, ka.ExitPolicy([np.inf, 0.0], worst_case=worst))


@pytest.mark.parametrize("kind", ["free", "limited"])
@pytest.mark.parametrize("batch_size", [1, 4, 9])
def test_exits_and_costs_are_those_of_the_policy(request, gated, images, kind, batch_size):
    _, logits, costs = gated
    predictor = request.getfixturevalue(kind)
    result = predictor.predict(images, batch_size=batch_size)
    expected = predictor.policy.decide(logits, costs)
    assert set(expected) == {0, 1}
    np.testing.assert_array_equal(result.exits, expected)
    np.testing.assert_array_equal(result.labels, logits[expected, SAMPLES].argmax(-1))
    np.testing.assert_allclose(result.costs, costs[expected, SAMPLES], rtol=1e-6)
    assert costs[1].std() > 0
    if kind == "limited":
        assert result.costs.max() <= predictor.policy.worst_case


def test_a_closed_exit_costs_nothing(gated, images):
    model, _, costs = gated
    result = keras_engine(model, ka.ExitPolicy([np.inf, 0.0])).predict(images)
    head = model.exit_costs()[-1] - model.exit_costs(exits=[1])[-1]
    assert head > 0
    np.testing.assert_allclose(result.costs, costs[1] - head, rtol=1e-6)


def test_a_calibrated_worst_case_holds_for_every_image(gated, images):
    model, logits, costs = gated
    labels = logits[1].argmax(-1)
    worst = float(costs[1].min() + costs[1].max()) / 2
    policy = ka.calibrate(logits, labels, costs, budget=costs[1].mean(), worst_case=worst)
    report = ka.evaluate(policy, logits, labels, costs)
    assert report.worst_cost <= worst < costs[1].max()
    result = keras_engine(model, policy).predict(images)
    np.testing.assert_allclose(result.costs.mean(), report.mean_cost, rtol=1e-6)


def test_who_cannot_afford_the_first_exit_is_named(gated, images):
    model, _, costs = gated
    worst = 0.99 * float(costs[0].min())
    predictor = keras_engine(model, ka.ExitPolicy([0.0, 0.0], worst_case=worst))
    with pytest.raises(ValueError, match="`worst_case` must be at least .*Received: worst_case="):
        predictor.predict(images)


def test_dense_answers_carry_their_costs_too(rng):
    x = image = keras.Input((4, 4, 2))
    outputs = []
    for k in range(2):
        seen = keras.layers.GlobalAveragePooling2D()(x)
        gate = ka.layers.SkipGate(2)(keras.layers.Dense(2)(seen))
        branch = [keras.layers.Conv2D(2, 3, padding="same")]
        x = ka.layers.GatedBlock(branch, "add")(x, x, gate)
        outputs.append(keras.layers.Conv2D(3, 1, name=f"exit_{k}")(x))
    model = ka.AdaptiveModel(image, outputs)
    images = 5 * rng.normal(size=(6, 4, 4, 2)).astype("float32")
    _, costs = model.predict_with_costs(images, verbose=0)
    logits = np.stack(model.predict(images, verbose=0))
    confidences = np.sort(ka.policy.confidence(logits)[0])
    policy = ka.ExitPolicy([confidences[2:4].mean(), 0])
    result = keras_engine(model, policy).predict(images, batch_size=4)
    expected = policy.decide(logits)
    assert set(expected) == {0, 1}
    np.testing.assert_array_equal(result.exits, expected)
    np.testing.assert_allclose(result.costs, costs[expected, np.arange(6)])
    np.testing.assert_array_equal(result.labels, logits[expected, np.arange(6)].argmax(-1))
