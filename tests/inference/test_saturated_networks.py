"""Very confident networks: probabilities are all 1, and samples still leave where they should."""

import keras
import numpy as np
import oracle
import pytest

import keras_adaptive as ka

EXITS, SAMPLES, CLASSES = 3, 120, 6
FACTORS = (1, 8, 64)


@pytest.fixture(scope="module")
def model():
    """A network whose answers are what it is given."""
    given = keras.Input((EXITS, CLASSES))
    exits = [keras.layers.Identity(name=f"exit_{k}")(given[:, k]) for k in range(EXITS)]
    return ka.AdaptiveModel(given, exits)


def problem(factor):
    rng = np.random.default_rng(factor)
    logits = rng.normal(size=(EXITS, SAMPLES, CLASSES)) * rng.uniform(0.3, 3, (SAMPLES, 1))
    labels = np.where(rng.random(SAMPLES) < 0.8, logits[-1].argmax(-1), 0)
    return (factor * logits).astype("float32"), labels


def calibrated(kind, temperature, mean_costs=(1.5, 2.2)):
    """Policies of all factors, each with the data it was made of."""
    found = []
    for factor in FACTORS:
        logits, labels = problem(factor)
        for budget in mean_costs:
            how = {"confidence": kind, "temperature": temperature}
            policy = ka.calibrate(logits, labels, [1.0, 2.0, 3.0], budget=budget, **how)
            policy.details["mean_cost"] = len(found)  # for the predictor to pick by
            found.append((policy, logits))
    return found


ENGINES = ["keras", pytest.param("litert", marks=pytest.mark.slow)]


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("temperature", [False, True])
@pytest.mark.parametrize("kind", oracle.KINDS)
def test_samples_leave_where_an_exact_rule_says(model, kind, temperature, engine):
    cases = calibrated(kind, temperature)
    predictor = ka.AdaptivePredictor(model, [policy for policy, _ in cases], engine=engine)
    early, compared = 0, []
    for number, (policy, logits) in enumerate(cases):
        # thresholds are midway between samples: rounding moves none, however near it is
        expected, far = oracle.exits(logits, kind, policy.log_odds, policy.temperatures)
        early += (expected < EXITS - 1).sum()
        np.testing.assert_array_equal(policy.decide(logits), expected)
        result = predictor.predict(logits.swapaxes(0, 1), 50, budget=number, verbose=0)
        sure = far | (engine == "keras")  # the rule of a file is float32 as a whole
        compared.append(sure.mean())
        np.testing.assert_array_equal(result.exits[sure], expected[sure])
    # a temperature of 20 makes entropies alike: of that case a sixth is near a threshold
    assert np.mean(compared) > 0.95
    assert early > len(cases) * SAMPLES / 10
