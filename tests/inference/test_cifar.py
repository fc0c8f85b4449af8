"""The exits of the trained CIFAR network on the 5,000 test images, in each engine."""

import numpy as np
import oracle
import pytest

import keras_adaptive as ka
from benchmarks import common

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not common.DATA.exists(), reason="The images are not here."),
]


@pytest.fixture(scope="module")
def answers():
    model = common.cifar_net()
    splits = common.cifar()  # decoded once, as for the benchmarks
    x = splits.arrays("test")[0][:5000]
    return model, x, np.stack(model.predict(x, batch_size=250, verbose=0))


@pytest.mark.parametrize("factor", [1, 8], ids=["as trained", "saturated"])
@pytest.mark.parametrize("engine", ["keras", "litert"])
def test_exits_are_those_of_the_policy(answers, engine, factor):
    model, x, logits = answers
    weights = model.get_weights()
    try:
        for k in range(model.num_exits):  # the same answers, with another confidence
            head = list(model.get_layer(f"exit_{k}")._flatten_layers())
            last = [layer for layer in head if hasattr(layer, "kernel")][-1]
            last.set_weights([factor * w for w in last.get_weights()])
        logits = factor * logits
        costs = model.exit_costs()
        policy = ka.calibrate(
            logits, logits[-1].argmax(-1), costs, budget=0.5 * costs[-1], temperature=False
        )
        expected, far = oracle.exits(logits, "max_prob", policy.log_odds)
        assert (~far).sum() <= 5
        assert len(set(expected.tolist())) > 2
        np.testing.assert_array_equal(policy.decide(logits)[far], expected[far])
        found = ka.AdaptivePredictor(model, policy, engine=engine).predict(x, verbose=0)
        np.testing.assert_array_equal(found.exits[far], expected[far])
        assert (found.exits != expected).sum() <= 5
        np.testing.assert_array_equal(found.costs, costs[found.exits])
    finally:
        model.set_weights(weights)
