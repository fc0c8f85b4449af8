import importlib
import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import keras_adaptive as ka
from keras_adaptive.calibration import _search as search

DECIMALS = 6  # of confidences, so that equal answers are equally confident in float32 and float64

selection = importlib.import_module("keras_adaptive.calibration.select_cascade")


@pytest.fixture(scope="class")
def _rounded():
    exact = selection._max_prob
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(selection, "_max_prob", lambda *a: exact(*a).round(DECIMALS))
        yield


@st.composite
def pools(draw, max_models=3, max_samples=9):
    """Models of few distinct logits, so that there are ties, and whole costs."""
    samples, classes = draw(st.integers(1, max_samples)), draw(st.integers(2, 3))
    models = draw(st.integers(1, max_models))
    logits = [
        draw(
            hnp.arrays(
                "float32",
                (draw(st.integers(1, 2)), samples, classes),
                elements=st.integers(-2, 2).map(float),
            )
        )
        for _ in range(models)
    ]
    labels = draw(hnp.arrays("int64", samples, elements=st.integers(0, classes - 1)))
    costs = draw(hnp.arrays("float64", models, elements=st.integers(1, 9).map(float)))
    return logits, labels, costs


def chains(logits, max_members):
    for length in range(1, max_members + 1):
        for chain in itertools.product(range(len(logits)), repeat=length):
            if all(chain.count(m) <= len(logits[m]) for m in chain):
                yield chain


def running(logits, chain):
    """The mean of the logits after each member, in an order of adding that does not matter."""
    members = [logits[m][chain[:k].count(m)].astype("float64") for k, m in enumerate(chain)]
    return np.cumsum(members, axis=0) / np.arange(1, len(chain) + 1)[:, None, None]


def every_outcome(logits, labels, costs, max_members, worst_case=np.inf):
    """Right answers, cost and worst case of everything that can be chosen, one by one."""
    for chain in chains(logits, max_members):
        prices = np.cumsum(costs[list(chain)])
        if prices[-1] > worst_case:
            continue
        means = running(logits, chain)
        right = means.argmax(-1) == labels
        confidences = ka.policy.confidence(means).round(DECIMALS)
        grids = [search.grid(c)[1:] for c in confidences[:-1]]
        for thresholds in itertools.product(*grids):
            exits = search.first_exit(confidences, np.append(thresholds, -np.inf))
            yield int(right[exits, range(len(labels))].sum()), float(prices[exits].sum())


def unbeaten(outcomes):
    best = {}
    for right, cost in outcomes:
        best[right] = min(cost, best.get(right, np.inf))
    return [
        (right, best[right])
        for right in sorted(best)
        if all(best[more] > best[right] for more in best if more > right)
    ]


@pytest.mark.usefixtures("_rounded")
class TestEqualsBruteForce:
    @settings(max_examples=40)
    @given(pools(), st.integers(1, 3), st.data())
    def test_up_to_three_members(self, pool, max_members, data):
        logits, labels, costs = pool
        samples = len(labels)
        worst_case = data.draw(st.sampled_from([None, costs.min(), costs.min() + 3, 12.0]))
        if worst_case is not None and worst_case < costs.min():
            worst_case = costs.min()
        outcomes = list(every_outcome(*pool, max_members, worst_case or np.inf))
        expected = unbeaten(outcomes)
        found = selection.cascade_front(*pool, max_members=max_members, worst_case=worst_case)
        assert [(round(c.accuracy * samples), c.mean_cost * samples) for c in found] == [
            (right, pytest.approx(cost)) for right, cost in expected
        ]
        how = {"max_members": max_members, "worst_case": worst_case}
        for right, cost in expected:
            choice = ka.select_cascade(*pool, accuracy=right / samples, **how)
            assert choice.mean_cost * samples == pytest.approx(cost)
            choice = ka.select_cascade(*pool, budget=cost / samples, **how)
            assert choice.accuracy * samples == pytest.approx(right)
            assert choice.mean_cost * samples == pytest.approx(cost)
        if worst_case is not None:
            choice = ka.select_cascade(*pool, **how)
            assert choice.accuracy * samples == pytest.approx(expected[-1][0])
            assert choice.worst_cost <= worst_case

    @settings(max_examples=3)
    @given(pools(max_models=2, max_samples=6))
    def test_four_members(self, pool):
        samples = len(pool[1])
        found = selection.cascade_front(*pool)
        expected = unbeaten(every_outcome(*pool, 4))
        assert [(round(c.accuracy * samples), c.mean_cost * samples) for c in found] == [
            (right, pytest.approx(cost)) for right, cost in expected
        ]


def noisy(rng, skills, copies=2, samples=400, classes=4):
    labels = rng.integers(0, classes, samples)
    ease = rng.normal(size=samples)
    pool = []
    for skill in skills:
        logits = rng.normal(size=(copies, samples, classes)).astype("float32")
        logits[:, np.arange(samples), labels] += np.float32(skill + ease)
        pool.append(logits)
    return pool, labels


@pytest.fixture
def pool(rng):
    return *noisy(rng, [0.5, 1.5, 2.5]), np.array([1.0, 3.0, 10.0])


def test_the_policy_does_to_the_cascade_what_the_choice_says(pool):
    logits, labels, costs = pool
    for choice in selection.cascade_front(*pool)[::10]:
        means = running(logits, choice.members).astype("float32")
        prices = np.cumsum(costs[list(choice.members)])
        report = ka.evaluate(choice.policy, means, labels, prices)
        # float32 sums in another order may move a sample that is just at a threshold
        assert report.accuracy == pytest.approx(choice.accuracy, abs=1 / len(labels))
        assert report.mean_cost == pytest.approx(choice.mean_cost, abs=10 / len(labels))
        np.testing.assert_allclose(report.exit_fractions, choice.exit_fractions, atol=0.003)
        assert choice.worst_cost == prices[-1]
        used = [choice.members[:k].count(m) for k, m in enumerate(choice.members)]
        assert list(choice.copies) == used


def test_more_money_buys_no_less(pool):
    front = selection.cascade_front(*pool)
    costs, accuracies = [c.mean_cost for c in front], [c.accuracy for c in front]
    assert (np.diff(costs) > 0).all()
    assert (np.diff(accuracies) > 0).all()
    for budget in np.linspace(1, 14, 7):
        best = ka.select_cascade(*pool, budget=budget)
        assert best.mean_cost <= budget
        assert best.accuracy == max(
            a for a, c in zip(accuracies, costs, strict=True) if c <= budget
        )


def test_a_smaller_pool_or_a_worst_case_is_never_better(pool):
    logits, labels, costs = pool
    best = ka.select_cascade(*pool, budget=5.0)
    for fewer in (
        ka.select_cascade(*pool, budget=5.0, max_members=2),
        ka.select_cascade(*pool, budget=5.0, worst_case=9.0),
        ka.select_cascade([z[:1] for z in logits], labels, costs, budget=5.0),
    ):
        assert fewer.accuracy <= best.accuracy
    assert fewer.copies == (0,) * len(fewer.members)


@pytest.mark.parametrize("worst_case", [1.0, 4.0, 13.0, 40.0])
def test_worst_case_holds_and_is_reported(pool, worst_case):
    choice = ka.select_cascade(*pool, worst_case=worst_case)
    assert choice.worst_cost <= worst_case
    assert choice.mean_cost <= choice.worst_cost


def test_confidences_are_those_of_the_policy(rng):
    logits, labels = noisy(rng, [1.0, 9.0, 30.0], copies=1)
    found = selection._Pool(logits, labels, np.ones(3), 4)
    for chain in [(0,), (0, 1), (0, 1, 2)]:
        expected = ka.policy.confidence(running(logits, chain)[-1:])[0]
        np.testing.assert_allclose(1 - found.confidences[chain], 1 - expected, rtol=1e-4, atol=1e-9)


def test_samples_are_worked_on_in_blocks(pool, monkeypatch):
    whole = ka.select_cascade(*pool, budget=5.0)
    monkeypatch.setattr(selection, "BLOCK", 100)
    pieces = ka.select_cascade(*pool, budget=5.0)
    assert pieces.members == whole.members
    assert pieces.thresholds.tolist() == whole.thresholds.tolist()


@pytest.mark.parametrize(
    ("change", "how", "message"),
    [
        ({}, {}, "One of .* must be given"),
        ({}, {"budget": 3.0, "accuracy": 0.5}, "At most one .* Received: both"),
        ({}, {"budget": 0.5}, r"cheapest model costs, 1. Received: budget=0.5"),
        ({}, {"worst_case": 0.5}, "Received: worst_case=0.5"),
        ({}, {"accuracy": 1.5}, "from 0 to 1. Received: accuracy=1.5"),
        ({}, {"accuracy": 1.0}, "reachable: at most 0.9.* Received: accuracy=1.0"),
        ({}, {"budget": np.nan}, "finite number"),
        ({}, {"budget": 3.0, "max_members": 5}, "Received: max_members=5"),
        ({}, {"budget": 3.0, "max_members": 0}, "Received: max_members=0"),
        ({}, {"accuracy": -0.1}, "from 0 to 1. Received: accuracy=-0.1"),
        ({"costs": [np.inf, 1.0, 2.0]}, {"budget": 3.0}, "positive"),
        ({"logits": [np.zeros((1, 9, 2)), np.zeros((1, 9, 3))]}, {"budget": 3.0}, "classes"),
        ({}, {"budget": 3.0, "max_members": True}, "Received: max_members=True"),
        ({"logits": np.zeros((3, 1, 9, 2))}, {"budget": 3.0}, "must be a list"),
        ({"logits": []}, {"budget": 3.0}, "must be a list"),
        ({"logits": [np.zeros((1, 9, 2)), np.zeros((1, 8, 2))]}, {"budget": 3.0}, "same samples"),
        (
            {"costs": [1.0, 2.0]},
            {"budget": 3.0},
            r"3 positive numbers.* Received: costs=\[1.0, 2.0\]",
        ),
        ({"logits": [np.zeros(9)]}, {"budget": 3.0}, r"\(copies, samples, .*shapes \[\(9,\)\]"),
        ({"logits": [np.zeros((2, 1, 9, 4, 2))]}, {"budget": 3.0}, r"\(copies, samples, classes"),
        ({"costs": [0.0, 1.0, 2.0]}, {"budget": 3.0}, "positive"),
        ({"labels": np.full(400, 0.5)}, {"budget": 3.0}, "integers"),
    ],
)
def test_rejects_what_is_impossible(pool, change, how, message):
    arguments = {**dict(zip(("logits", "labels", "costs"), pool, strict=True)), **change}
    with pytest.raises(ValueError, match=message):
        ka.select_cascade(**arguments, **how)


def test_a_model_of_one_copy_needs_no_axis_of_copies(rng):
    labels = rng.integers(0, 3, 90)
    logits = rng.normal(size=(2, 90, 3)) + 2 * np.eye(3)[labels]
    choice = ka.select_cascade([*logits], labels, [1.0, 3.0], budget=2.0)
    expected = ka.select_cascade([z[None] for z in logits], labels, [1.0, 3.0], budget=2.0)
    assert (choice.members, choice.accuracy) == (expected.members, expected.accuracy)
    assert choice.thresholds.tolist() == expected.thresholds.tolist()
