"""Times of stages, on a simulated clock that moves in steps."""

import itertools
import math
import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytime_tflite import AnytimeModel
from anytime_tflite.backends import BACKENDS
from anytime_tflite.stage_times import StageTimes

READ_MS = 1e-4  # what reading the clock takes


class Clock:
    """Simulated time, shown in steps of `tick_ms`, 0 for none."""

    def __init__(self, tick_ms):
        self.tick_ms, self.now_ms = tick_ms, 12_345.678

    def read(self):
        self.now_ms += READ_MS
        steps = math.floor(self.now_ms / self.tick_ms) * self.tick_ms if self.tick_ms else None
        return (self.now_ms if steps is None else steps) / 1000


def simulated(tick_ms, stage_ms, hiccup=None):
    """Returns a clock, and times learned from it by stages that take this long.

    The run of number `hiccup` takes 20 ms longer.
    """
    clock, runs = Clock(tick_ms), itertools.count()

    def run(stage):
        clock.now_ms += stage_ms[stage] + 20 * (next(runs) == hiccup)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", clock.read)
        times = StageTimes(len(stage_ms))
        times.measure(run, 5)
    return clock, times


def learn(clock, times, stage, took_ms, runs):
    for _ in range(runs):
        before = clock.read()
        clock.now_ms += took_ms
        times.learn(stage, 1000 * (clock.read() - before))


TICKS = st.sampled_from([0, 0.1, 1, 4, 16])
STAGES = st.lists(st.floats(0.05, 50), min_size=1, max_size=3)


@settings(max_examples=25)
@given(tick=TICKS, stage_ms=STAGES)
def test_times_are_right_from_the_start_whatever_the_clock(tick, stage_ms):
    _, times = simulated(tick, stage_ms)
    np.testing.assert_allclose(times.expected_ms, stage_ms, rtol=0.15)


@settings(max_examples=50)
@given(tick=TICKS, stage_ms=STAGES, hiccup=st.integers(0, 1000))
def test_one_hiccup_while_a_file_is_opened_is_not_learned(tick, stage_ms, hiccup):
    _, times = simulated(tick, stage_ms, hiccup)
    np.testing.assert_allclose(times.expected_ms, stage_ms, rtol=0.15)


@settings(max_examples=8)
@given(tick=st.sampled_from([0, 0.1, 1]), first=st.floats(0.5, 5), slower=st.floats(1.5, 4))
def test_times_follow_a_stage_that_becomes_slower_or_faster(tick, first, slower):
    clock, times = simulated(tick, [first])
    each = 1 + math.ceil(64 * tick / first)  # runs until something is learned
    learn(clock, times, 0, slower * first, 30 * each)
    assert times.expected_ms[0] == pytest.approx(slower * first, rel=0.1)
    learn(clock, times, 0, first, 160 * each)
    assert times.expected_ms[0] == pytest.approx(first, rel=0.2)


@pytest.mark.parametrize("tick", [0, 1, 4, 16])
def test_one_hiccup_is_forgotten(tick):
    clock, times = simulated(tick, [2.0])
    learn(clock, times, 0, 500.0, 1)
    assert times.expected_ms[0] < 1.3 * 2.3


def test_a_clock_that_stands_still_ends():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(time, "perf_counter", lambda: 1.0)
        times = StageTimes(1)
        times.measure(lambda stage: None, 5)
    assert times.expected_ms == [0.0]
    times.learn(0, 3.0)  # and from nothing times can rise
    assert times.expected_ms[0] == 1.5


# ---- the whole runtime on such a clock


@pytest.fixture(params=[1, 4, 16])
def coarse(request, exported, monkeypatch):
    """A model of three stages on a clock with steps; and how long the stages take."""
    clock, stage_ms = Clock(request.param), [0.3, 0.7, 2.5]

    class Simulated:
        signatures, cost, direct = {"info"}, None, True
        inputs = {"image": ((8, 8, 1), np.dtype("float32"))}

        def __init__(self, *_):
            pass

        def start(self, tensors):
            pass

        def run(self, stage):
            clock.now_ms += stage_ms[stage]
            return np.zeros(10)

        def close(self):
            pass

    monkeypatch.setitem(BACKENDS, "interpreter", Simulated)
    monkeypatch.setattr(time, "perf_counter", clock.read)
    return AnytimeModel(exported), stage_ms, clock


def test_deadlines_are_foreseen_on_a_coarse_clock(coarse, rng):
    device, stage_ms, clock = coarse
    image, never = np.zeros((8, 8, 1), "float32"), [np.inf] * 3
    for _ in range(200):
        clock.now_ms += rng.uniform(0, clock.tick_ms)  # anywhere between two steps
        answer = device.classify(image, 0.5 * stage_ms[1], never)
        assert (answer.exit, answer.stopped_by) == (0, "deadline")
        answer = device.classify(image, 0.5 * stage_ms[2], never)
        assert answer.exit <= 1
        assert answer.stopped_by == "deadline"
        plenty = 2 * (sum(stage_ms) + clock.tick_ms)
        assert device.classify(image, plenty, never).stopped_by == "end"
