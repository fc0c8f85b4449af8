"""The ways of stopping that are compared, on made-up logits."""

import keras
import numpy as np
import pytest

import keras_adaptive as ka
from benchmarks import stopping_ways as ways


@pytest.fixture
def data(rng):
    """Three exits, each better than the one before."""
    labels = rng.integers(0, 5, 800)
    logits = rng.normal(size=(3, 800, 5))
    logits[:, range(800), labels] += rng.uniform(0, 3, 800) * np.array([[0.7], [1], [1.3]])
    return ways.Data(
        logits[:, :400], labels[:400], logits[:, 400:], labels[400:], np.array([1e5, 2e5, 4e5])
    )


def costs_on_held_out(found):
    return [ka.evaluate(p, own.held, own.labels, own.costs).mean_cost for p, own in found]


@pytest.mark.parametrize("way", ["exact", "shared", "geometric", "pcee"])
def test_budgets_are_kept(data, way):
    for cost, budget in zip(costs_on_held_out(getattr(ways, way)(data)), data.budgets, strict=True):
        assert 0.5 * budget < cost <= budget * (1 + 1e-9)


def test_answers_together_are_those_of_the_network(data):
    again = ways.together(data, "product")
    np.testing.assert_allclose(np.exp(again.test).sum(axis=-1), 1, atol=1e-4)
    assert (again.costs - data.costs).tolist() == [5, 15, 30]
    kept = ways.together(data, "weighted")
    np.testing.assert_allclose(kept.held[2], data.held[2], rtol=1e-6)


@pytest.mark.slow
def test_differences_are_those_of_accuracies(data, monkeypatch):
    deferral = ways.learned(target="deferral", optimizer=keras.optimizers.Adam(0.01))
    chosen = {"patience": ways.patience, "agreement": ways.agreement, "deferral": deferral}
    monkeypatch.setattr(ways, "WAYS", chosen)
    monkeypatch.setattr(ways, "POLICY_EPOCHS", 1)
    rows = ways.compared("a network", data)
    assert [row["way"] for row in rows] == ["exact"] * 3 + ["patience"] * 3 + ["deferral"] * 3
    for row in rows[3:]:
        gain = 100 * (row["accuracy"] - row["exact_accuracy"])
        assert row["gain_points"] == pytest.approx(gain)
        assert row["interval_points"] > 0
    counted = ways.counts({"networks": {"a network": {"ways": rows}}})
    assert counted["patience"]["all"] == sum(
        counted["patience"][w] for w in ("better", "worse", "tie")
    )
    assert "agreement" in {row["way"] for row in ways.compared(ways.CASCADE, data)}
