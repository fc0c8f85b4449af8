import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_adaptive.calibration import _search as search


@st.composite
def small_problems(draw):
    exits, samples = draw(st.integers(1, 5)), draw(st.integers(1, 6))
    shape = (exits, samples)
    confidences = draw(hnp.arrays("float64", shape, elements=st.integers(0, 4).map(float)))
    right = draw(hnp.arrays("int64", shape, elements=st.integers(0, 2)))
    costs = np.cumsum(draw(hnp.arrays("int64", shape, elements=st.integers(0, 5))), axis=0)
    return search.Problem(confidences, right, costs.astype(float))


def every_outcome(problem, closed=True):
    grids = [search.grid(c, closed=closed) for c in problem.confidences[:-1]]
    return {problem.outcome(np.append(t, -np.inf)) for t in itertools.product(*grids)}


def unbeaten(outcomes):
    return sorted(
        (right, cost)
        for right, cost in outcomes
        if not any(r >= right and c <= cost and (r, c) != (right, cost) for r, c in outcomes)
    )


@settings(max_examples=100, deadline=None)
@given(small_problems(), st.booleans())
def test_front_equals_brute_force(problem, closed):
    found = search.full_front(problem, search.PERCENTILES, closed)
    expected = unbeaten(every_outcome(problem, closed))
    assert list(zip(found.right, found.cost, strict=True)) == expected
    for right, cost in expected:
        assert problem.outcome(found.thresholds(right)) == (right, cost)


@settings(max_examples=25, deadline=None)
@given(small_problems())
def test_tables_made_piece_by_piece_are_the_same(problem):
    whole = search.front(problem)[0]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "CELLS", 1)
        pieces = search.front(problem)[0]
    assert whole.right.tolist() == pieces.right.tolist()
    assert whole.cost.tolist() == pieces.cost.tolist()


@settings(max_examples=50, deadline=None)
@given(small_problems(), st.integers(0, 60))
def test_improving_never_makes_worse_and_keeps_the_budget(problem, limit):
    def better(front):
        met = front.right[front.cost <= limit]
        return met[-1] if len(met) else None

    start = np.append(np.full(len(problem.confidences) - 1, np.inf), -np.inf)
    before = problem.outcome(start)
    after = problem.outcome(search.improve(problem, start, better))
    if before[1] <= limit:
        assert after[1] <= limit
        assert (after[0], -after[1]) >= (before[0], -before[1])


def test_grid_lies_between_neighbours_and_has_both_ends():
    found = search.grid(np.array([0.1, 0.3, 0.3, 0.9]))
    np.testing.assert_allclose(found, [-np.inf, 0.2, 0.6, np.inf])
    assert search.grid(np.full(5, 0.5)).tolist() == [-np.inf, np.inf]
    assert search.grid(np.array([-np.inf, 0.5])).tolist() == [-np.inf, 0.5, np.inf]


def test_grid_divides_many_samples_into_equal_shares(rng):
    confidences = rng.random(10_000)
    found = search.grid(confidences)
    assert len(found) == 101
    below = (confidences[:, None] < found).mean(axis=0)
    np.testing.assert_allclose(below, np.arange(101) / 100, atol=1e-9)


def test_midpoint_of_neighbouring_floats_is_the_upper_one():
    low = 0.5
    high = np.nextafter(low, 1)
    assert search.midpoint(low, high) == high


@settings(max_examples=50, deadline=None)
@given(small_problems(), st.integers(0, 60))
def test_improving_two_thresholds_finds_the_best(problem, limit):
    def better(front):
        met = front.right[front.cost <= limit]
        return met[-1] if len(met) else None

    problem = search.Problem(*(values[:3] for values in problem))
    best = [(r, c) for r, c in unbeaten(every_outcome(problem)) if c <= limit]
    start = search.always_last(len(problem.confidences))
    found = problem.outcome(search.improve(problem, start, better))
    assert found == best[-1] if best else found == problem.outcome(start)


@settings(max_examples=25, deadline=None)
@given(small_problems())
def test_beyond_what_is_exact_every_choice_of_a_few_exits_is_tried(problem):
    exits = len(problem.confidences)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(search, "EXACT_THRESHOLDS", 2)
        found, exact = search.front(problem)
    assert exact == (exits <= 3)
    if exact:
        return
    outcomes = set()
    for k in range(exits - 1):
        for threshold in search.grid(problem.confidences[k]):
            thresholds = search.always_last(exits)
            thresholds[k] = threshold
            outcomes.add(problem.outcome(thresholds))
    assert list(zip(found.right, found.cost, strict=True)) == unbeaten(outcomes)


def test_a_sample_leaves_where_it_is_as_sure_as_the_threshold():
    confidences = [[0.5, 0.4, 0.9], [0.9, 0.2, 0.9], [0.0, 0.0, 0.0]]
    assert search.first_exit(np.array(confidences), [0.5, 0.3, -np.inf]).tolist() == [0, 2, 0]
    assert search.first_exit(np.array(confidences), search.always_last(3)).tolist() == [2, 2, 2]
    problem = search.Problem(
        np.array(confidences),
        np.array([[1, 0, 0], [1, 1, 1], [1, 1, 0]]),
        np.arange(9.0).reshape(3, 3),
    )
    assert problem.outcome([0.5, 0.3, -np.inf]) == (2, 0 + 7 + 2)


def test_a_grid_of_few_percentiles_has_few_thresholds():
    ordered = np.arange(8.0)
    assert search.grid(ordered, 4).tolist() == [-np.inf, 1.5, 3.5, 5.5, np.inf]
    assert search.grid(ordered, 4, closed=False).tolist() == [-np.inf, 1.5, 3.5, 5.5]
    assert search.grid(ordered, 8).tolist() == [-np.inf, *(np.arange(7) + 0.5), np.inf]


@settings(max_examples=60, deadline=None)
@given(small_problems(), st.integers(2, 4))
def test_a_coarse_front_keeps_the_cheapest_of_neighboring_numbers(problem, unit):
    with pytest.MonkeyPatch.context() as patch:
        most = int(problem.right.max(axis=0).sum())
        patch.setattr(search, "FRONT", max(1, most // unit))
        coarse = search.full_front(problem, search.PERCENTILES)
    unit = coarse.unit
    outcomes = every_outcome(problem)
    for right, cost in zip(coarse.right, coarse.cost, strict=True):
        assert problem.outcome(coarse.thresholds(right)) == (right, cost)
    for right, cost in unbeaten(outcomes):  # one as cheap is kept, with nearly as many right
        kept = [r for r, c in zip(coarse.right, coarse.cost, strict=True) if c <= cost]
        assert max(kept) > right - unit


def test_a_front_of_many_pixels_is_of_bounded_size():
    pixels = 10**10
    problem = search.Problem(
        np.array([[0.1, 0.9], [0.0, 0.0]]),
        np.array([[pixels // 4, pixels // 2], [pixels // 2, pixels // 2]]),
        np.array([[1.0, 1.0], [3.0, 3.0]]),
    )
    found, exact = search.front(problem)
    assert not exact
    assert found.floor.nbytes <= 8 * (search.FRONT + 1)
    right, cost = found.right.tolist(), found.cost.tolist()
    assert right == [3 * pixels // 4, pixels]
    assert cost == [2.0, 4.0]
    assert [problem.outcome(found.thresholds(r)) for r in right] == list(
        zip(right, cost, strict=True)
    )
