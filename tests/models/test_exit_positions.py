import pytest
from hypothesis import given
from hypothesis import strategies as st

from keras_adaptive.models._exit_positions import exit_positions

STAGES = st.lists(st.integers(1, 12), min_size=1, max_size=4)


def test_places_of_the_published_baselines():
    assert exit_positions((0.4, 0.8), [10, 10, 10]) == [4, 8, 14, 18, 24, 28]
    assert exit_positions((6, 12, 22, 28, 38, 44), [16] * 3) == [6, 12, 22, 28, 38, 44]
    assert exit_positions((0.25, 0.75), [8, 8, 8]) == [2, 6, 10, 14, 18, 22]


@given(STAGES, st.data())
def test_a_number_of_exits_gives_so_many_in_equal_shares(stages, data):
    total = sum(stages)
    exits = data.draw(st.integers(1, total))
    places = [*exit_positions(exits, stages), total]
    assert len(places) == exits == len(set(places))
    steps = [b - a for a, b in zip([0, *places], places, strict=False)]
    assert max(steps) - min(steps) <= 1


@given(STAGES, st.data())
def test_block_numbers_stay_what_they_are(stages, data):
    inner = st.integers(1, max(1, sum(stages) - 1))
    places = sorted(data.draw(st.sets(inner)))
    if sum(stages) > 1:
        assert exit_positions(places, stages) == places


@pytest.mark.parametrize(
    "exits", [0, 7, True, "3", (0,), (6,), (2, 1), (1, 1), (0.0,), (1.0,), (0.2, 0.3), (1, 0.5)]
)
def test_refuses_impossible_places(exits):
    with pytest.raises(ValueError, match="`exits`.*Received: exits="):
        exit_positions(exits, [2, 2, 2])
