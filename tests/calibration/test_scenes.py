"""Scenes of a video: against the rule written as a loop, and `tau` against its definition."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp
from strategies import problems

import keras_adaptive as ka
from keras_adaptive.calibration import UnreachableTargetError, fit_tau, scene_starts
from keras_adaptive.calibration.scenes import TAUS
from keras_adaptive.policy import softmax

POLICY = ka.ExitPolicy([0.8, 0.0])
taus = st.one_of(st.floats(0, 2), st.just(np.inf))


@st.composite
def sequences(draw):
    """Probabilities `(frames, classes)`, some of which are repeated."""
    shape = draw(st.integers(1, 12)), draw(st.integers(2, 4))
    values = draw(st.sampled_from([st.integers(-2, 2), st.floats(-5, 5)]))
    return softmax(draw(hnp.arrays("float64", shape, elements=values)))


def by_hand(probabilities, tau):
    first, starts = 0, []
    for t, p in enumerate(probabilities):
        p_0 = probabilities[first]
        if np.sqrt(((p - p_0) ** 2).sum()) > tau or p.argmax() != p_0.argmax():
            first = t
        starts.append(first)
    return starts


@given(sequences(), taus)
def test_a_frame_belongs_to_the_scene_that_it_is_near(probabilities, tau):
    assert scene_starts(probabilities, tau).tolist() == by_hand(probabilities, tau)


@given(sequences(), st.lists(taus, min_size=1, max_size=4))
def test_several_tau_are_as_each_alone(probabilities, several):
    found = scene_starts(probabilities, several)
    assert found.shape == (len(several), len(probabilities))
    for starts, tau in zip(found, several, strict=True):
        np.testing.assert_array_equal(starts, scene_starts(probabilities, tau))


@given(sequences())
def test_no_distance_is_beyond_the_largest_tau(probabilities):
    np.testing.assert_array_equal(
        scene_starts(probabilities, TAUS[-1] + 1e-9), scene_starts(probabilities, np.inf)
    )


def losses(policy, logits, labels):
    """How much accuracy each tau loses, frame by frame."""
    exits = policy.decide(logits)
    alone = logits[exits, np.arange(len(labels))].argmax(axis=-1)
    first = softmax(logits[0] / policy.temperatures[0])
    answers = [alone[by_hand(first, tau)] for tau in TAUS]
    return np.array([np.mean(alone == labels) - np.mean(found == labels) for found in answers])


@settings(max_examples=50)
@given(problems(max_exits=3), st.sampled_from([0.0, 0.05, 0.2, 0.5, 1.0]), st.data())
def test_tau_is_the_largest_up_to_which_no_more_is_lost(problem, max_loss, data):
    logits, labels, _ = problem
    temperatures = data.draw(hnp.arrays("float64", len(logits), elements=st.floats(0.5, 2)))
    policy = ka.ExitPolicy(np.full(len(logits), 0.7), temperatures=temperatures)
    lost = losses(policy, logits, labels)
    too_much = np.flatnonzero(lost > max_loss + 1e-9)
    if len(too_much) and too_much[0] == 0:
        with pytest.raises(UnreachableTargetError, match="`max_loss` must be at least what frames"):
            fit_tau(policy, logits, labels, max_loss)
        return
    expected = TAUS[too_much[0] - 1] if len(too_much) else TAUS[-1]
    assert fit_tau(policy, logits, labels, max_loss) == expected


@pytest.fixture
def video(rng):
    """Scenes of ten frames, in which logits wander about; later exits say more."""
    labels = np.repeat(rng.integers(0, 5, 60), 10)
    signal = np.stack([2 * np.eye(5)[labels], 4 * np.eye(5)[labels]])
    of_scenes = np.repeat(rng.normal(size=(60, 5)), 10, axis=0)
    return signal + of_scenes + 0.5 * rng.normal(size=signal.shape), labels


def test_more_may_be_lost_for_more_reuse(video):
    logits, labels = video
    found = [fit_tau(POLICY, logits, labels, loss) for loss in (0, 0.02, 0.1, 1)]
    assert found == sorted(found)
    assert found[0] < found[-1] == TAUS[-1]
    reused = [(np.diff(scene_starts(softmax(logits[0]), tau)) == 0).mean() for tau in found]
    assert reused[0] < reused[1] < reused[2]


def test_with_its_own_answers_as_labels_the_loss_is_how_many_differ(video):
    logits, _ = video
    answers = logits[POLICY.decide(logits), np.arange(600)].argmax(axis=-1)
    tau = fit_tau(POLICY, logits, answers, 0.05)
    differ = answers[scene_starts(softmax(logits[0]), tau)] != answers
    assert 0 < differ.mean() <= 0.05


def test_the_first_exit_is_the_first_that_is_open(video):
    logits, labels = video
    closed = np.stack([-logits[0], *logits])
    policy = ka.ExitPolicy([np.inf, *POLICY.thresholds])
    assert fit_tau(policy, closed, labels, 0.02) == fit_tau(POLICY, logits, labels, 0.02)


def test_policies_that_compare_answers_have_no_temperatures(video):
    logits, labels = video
    assert fit_tau(ka.PatiencePolicy(2), logits, labels, 1.0) == TAUS[-1]


@pytest.mark.parametrize(
    "probabilities", [[0.5, 0.5], np.zeros((0, 3)), [[np.nan, 1.0]], "p", None]
)
def test_rejects_impossible_probabilities(probabilities):
    with pytest.raises(ValueError, match=r"`probabilities` must be finite numbers of shape"):
        scene_starts(probabilities, 0.1)


@pytest.mark.parametrize("tau", [-0.1, np.nan, "0.1", None, [[0.1]], [0.1, -1]])
def test_rejects_impossible_tau(tau):
    with pytest.raises(ValueError, match="`tau` must be a number of at least 0. Received: tau="):
        scene_starts([[0.5, 0.5]], tau)


@pytest.mark.parametrize("max_loss", [-0.1, np.nan, "0.1", None])
def test_rejects_impossible_losses(video, max_loss):
    with pytest.raises(ValueError, match=r"`max_loss` must be a .*number.* Received: max_loss="):
        fit_tau(POLICY, *video, max_loss)


def test_rejects_what_does_not_fit_together(video):
    logits, labels = video
    with pytest.raises(ValueError, match="`labels` must be integers of shape"):
        fit_tau(POLICY, logits, labels[1:])
    with pytest.raises(ValueError, match=r"`logits` must be of shape \(exits, frames, classes\)"):
        fit_tau(POLICY, np.zeros((2, 3, 4, 4, 2)), np.zeros((3, 4, 4), int))
    with pytest.raises(ValueError, match="as many exits as the policy has thresholds"):
        fit_tau(ka.ExitPolicy([0.5, 0.5, 0.0]), logits, labels)
    with pytest.raises(TypeError, match="`policy` must be a policy, such as an ExitPolicy"):
        fit_tau(0.5, logits, labels)
