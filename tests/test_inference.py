import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import keras_adaptive as ka
from keras_adaptive.inference.plan import Plan


@pytest.fixture(scope="module")
def logits(trained, test_images):
    return np.stack(trained.predict(test_images[0], verbose=0))


@pytest.fixture(scope="module")
def predictor(trained, policy):
    return ka.AdaptivePredictor(trained, policy)


@settings(max_examples=10, deadline=None)
@given(batch_size=st.integers(1, 400), seed=st.integers(0, 9))
def test_decides_as_the_policy_does_on_all_logits(
    predictor, policy, logits, test_images, far_from_thresholds, batch_size, seed
):
    order = np.random.default_rng(seed).permutation(len(test_images[0]))[:60]
    result = predictor.predict(test_images[0][order], batch_size=batch_size)
    far = far_from_thresholds(policy, logits[:, order])
    expected = policy.decide(logits[:, order])
    np.testing.assert_array_equal(result.exits[far], expected[far])
    chosen = logits[result.exits, order]
    np.testing.assert_array_equal(result.labels, chosen.argmax(-1))
    np.testing.assert_allclose(result.probabilities, ka.policy.softmax(chosen), atol=1e-5)


def test_costs_are_those_of_the_exits(predictor, trained, test_images):
    result = predictor.predict(test_images[0])
    assert len(set(result.exits)) > 1
    np.testing.assert_array_equal(result.costs, trained.exit_costs()[result.exits])


@pytest.fixture
def sizes(monkeypatch):
    """The batch sizes that each stage is asked for, in a predictor that goes by stages."""

    def watch(predictor):
        seen = [[] for _ in range(len(predictor._runners[0].network.stages))]
        stages = predictor._runners[0].network.stages
        run = stages.stage
        monkeypatch.setattr(Plan, "choose", lambda self: "stages")
        monkeypatch.setattr(Plan, "regroup", lambda self, *arguments: True)
        monkeypatch.setattr(stages, "stage", lambda k, x: (seen[k].append(len(x[0])), run(k, x))[1])
        return seen

    return watch


def test_later_stages_see_only_who_is_left(trained, policy, test_images, sizes):
    predictor = ka.AdaptivePredictor(trained, policy)
    seen = sizes(predictor)
    exits = predictor.predict(test_images[0], batch_size=len(test_images[0])).exits
    for k, found in enumerate(seen):
        arriving = int((exits >= k).sum())
        assert arriving <= sum(found) < 2 * arriving  # filled up to a power of two


def test_late_stages_run_full(trained, policy, test_images, sizes):
    predictor = ka.AdaptivePredictor(trained, policy)
    seen = sizes(predictor)
    exits = predictor.predict(test_images[0], batch_size=32).exits
    for k, found in enumerate(seen):
        full, rest = divmod(int((exits >= k).sum()), 32)
        assert found[:full] == [32] * full
        assert len(found) == full + (rest > 0)


def test_closed_exits_are_not_computed(trained, logits, test_images):
    policy = ka.ExitPolicy([np.inf, 0.9, 0])
    predictor = ka.AdaptivePredictor(trained, policy)
    result = predictor.predict(test_images[0])
    np.testing.assert_array_equal(result.exits, policy.decide(logits))
    assert 0 not in result.exits
    models = predictor._runners[0].network.stages.models
    names = {layer.name for model in models for layer in model.layers}
    assert "exit_0" not in names
    assert "exit_1" in names
    assert result.costs.max() < trained.exit_costs()[-1]


def test_temperatures_soften_the_probabilities(trained, test_images, logits):
    policy = ka.ExitPolicy([np.inf, np.inf, 0], temperatures=[1, 1, 3.0])
    result = ka.AdaptivePredictor(trained, policy).predict(test_images[0])
    expected = ka.policy.softmax(logits[-1] / 3)
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("x", [np.zeros((2, 8, 8)), np.zeros((2, 9, 8, 1)), np.zeros(3)])
def test_rejects_images_of_another_shape(predictor, x):
    with pytest.raises(ValueError, match=r"`x` must be of shape \(samples, 8, 8, 1\)"):
        predictor.predict(x)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rejects_images_that_give_no_answer(predictor, value):
    with pytest.raises(ValueError, match="The logits must be finite. Received: NaN or infinity"):
        predictor.predict(np.full((1, 8, 8, 1), value))


def test_rejects_no_images_and_impossible_batches(predictor):
    with pytest.raises(ValueError, match="at least one sample"):
        predictor.predict(np.zeros((0, 8, 8, 1)))
    with pytest.raises(ValueError, match="Received: batch_size=0"):
        predictor.predict(np.zeros((1, 8, 8, 1)), batch_size=0)


def test_rejects_a_policy_for_another_network(trained):
    with pytest.raises(ValueError, match="2 thresholds, 3 exits"):
        ka.AdaptivePredictor(trained, ka.ExitPolicy([0.5, 0]))
    with pytest.raises(TypeError, match="`policy` must be an ExitPolicy"):
        ka.AdaptivePredictor(trained, [0.5, 0.5, 0])
    with pytest.raises(TypeError, match="`model` must be an AdaptiveModel"):
        ka.AdaptivePredictor("model", ka.ExitPolicy([0.5, 0]))
