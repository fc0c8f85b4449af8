import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import problems

import keras_adaptive as ka

INF = np.inf
LOGITS = np.zeros((2, 3, 4))


@settings(max_examples=60, deadline=None)
@given(problems(), st.data())
def test_nobody_leaves_later_when_a_threshold_falls(problem, data):
    logits, _, costs = problem
    exits = len(costs)
    numbers = st.floats(0, 1) | st.just(INF)
    thresholds = np.array(data.draw(st.lists(numbers, min_size=exits, max_size=exits)))
    lower = thresholds.copy()
    which = data.draw(st.integers(0, exits - 1))
    lower[which] -= data.draw(st.floats(0, 1))
    before = ka.ExitPolicy(thresholds).decide(logits)
    assert (ka.ExitPolicy(lower).decide(logits) <= before).all()


def test_leaves_at_the_first_exit_that_is_confident_enough():
    logits = np.array([[[0.0, 5.0], [0.0, 0.1]], [[0.0, 5.0], [0.0, 5.0]], [[0.0, 0.0]] * 2])
    assert ka.ExitPolicy([0.9, 0.9, 0.9]).decide(logits).tolist() == [0, 1]
    assert ka.ExitPolicy([INF, 0.9, 0.9]).decide(logits).tolist() == [1, 1]
    assert ka.ExitPolicy([INF, INF, INF]).decide(logits).tolist() == [2, 2]


def test_a_confidence_equal_to_the_threshold_is_enough():
    logits = np.zeros((2, 1, 2))
    assert ka.ExitPolicy([0.5, 0]).decide(logits).tolist() == [0]


def test_leaves_exit_by_exit_as_decide_does(rng):
    logits = rng.normal(size=(3, 100, 5)) * 3
    policy = ka.ExitPolicy([0.9, 0.7, 0], temperatures=[0.5, 2, 1])
    found = np.full(100, -1)
    for k in range(3):
        found[(found < 0) & policy.leaves(k, logits[k])] = k
    np.testing.assert_array_equal(found, policy.decide(logits))


def test_the_last_threshold_is_always_minus_infinity():
    given = np.array([0.5, 0.7])
    policy = ka.ExitPolicy(given)
    assert policy.thresholds.tolist() == [0.5, -INF]
    assert given.tolist() == [0.5, 0.7]
    assert policy.used_exits == [0, 1]
    assert ka.ExitPolicy([INF, 0.2, 0]).used_exits == [1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (([],), "`thresholds` must be one number per exit"),
        (([np.nan, 0],), "none of them NaN"),
        ((["high", 0],), "`thresholds` must be numbers"),
        (([0.5, 0], "loudest"), "Received: confidence=loudest"),
        (([0.5, 0], "max_prob", [1.0]), "1 temperatures, 2 thresholds"),
        (([0.5, 0], "max_prob", [1.0, 0.0]), "`temperatures` must be positive"),
        (([0.5, 0], "max_prob", [1.0, INF]), "`temperatures` must be positive"),
    ],
)
def test_policy_rejects_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ka.ExitPolicy(*arguments)


def test_exits_behind_one_where_everybody_leaves_are_not_used():
    assert ka.ExitPolicy([0.5, -INF, 0.3, 0]).used_exits == [0, 1]


def test_half_precision_logits_are_taken(rng):
    import ml_dtypes

    logits = rng.normal(size=(2, 5, 3)).astype(ml_dtypes.bfloat16)
    policy = ka.ExitPolicy([0.5, 0])
    assert policy.decide(logits).tolist() == policy.decide(logits.astype("float32")).tolist()


def test_decide_rejects_another_number_of_exits():
    with pytest.raises(ValueError, match="2 exits, 3 thresholds"):
        ka.ExitPolicy([0.5, 0.5, 0]).decide(LOGITS)


def test_saved_policy_decides_the_same(tmp_path, rng):
    policy = ka.ExitPolicy(
        [0.123456789012345678, INF, 0], "entropy", [1.5, 1, 0.3], details={"budget": 3.0}
    )
    policy.save(tmp_path / "policy.json")
    again = ka.ExitPolicy.load(tmp_path / "policy.json")
    assert again.thresholds.tolist() == policy.thresholds.tolist()
    assert again.temperatures.tolist() == policy.temperatures.tolist()
    assert (again.confidence, again.details) == (policy.confidence, policy.details)
    json.loads((tmp_path / "policy.json").read_text(), parse_constant=pytest.fail)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "must hold JSON"),
        (b"\xff\xfe\x00", "must hold JSON"),
        ("[]", '"format": "keras_adaptive.ExitPolicy"'),
        ('{"format": "other"}', '"format": "keras_adaptive.ExitPolicy"'),
        ('{"format": "keras_adaptive.ExitPolicy", "version": 99}', "Received: version=99"),
        ('{"format": "keras_adaptive.ExitPolicy", "version": 1}', "must hold thresholds"),
    ],
)
def test_load_rejects_what_is_no_policy(tmp_path, content, message):
    path = tmp_path / "policy.json"
    path.write_bytes(content if isinstance(content, bytes) else content.encode())
    with pytest.raises(ValueError, match=message):
        ka.ExitPolicy.load(path)


def test_a_worst_case_is_held_sample_by_sample():
    logits = np.zeros((3, 2, 4))
    policy = ka.ExitPolicy([INF, INF, 0], worst_case=5)
    costs = np.array([[1, 1], [2, 5], [6, 9.0]])
    assert policy.decide(logits, costs).tolist() == [1, 1]
    assert policy.decide(logits, costs / 2).tolist() == [2, 2 - 0]
    assert policy.decide(logits).tolist() == [2, 2]
    with pytest.raises(ValueError, match="`worst_case` must be at least .* costs, 10"):
        policy.decide(logits, costs * 10)


def brute_force(answers, leaves):
    exits = []
    for sample in answers.T:
        exits.append(next(k for k in range(len(sample)) if leaves(sample[: k + 1], len(sample))))
    return exits


@settings(max_examples=60, deadline=None)
@given(problems(max_exits=6), st.integers(2, 4))
def test_patience_waits_for_a_run_of_equal_answers(problem, patience):
    logits = problem[0]

    def leaves(so_far, exits):
        run = so_far[-patience:]
        return len(so_far) == exits or (len(run) == patience and len(set(run)) == 1)

    found = ka.PatiencePolicy(patience).decide(logits)
    assert found.tolist() == brute_force(logits.argmax(-1), leaves)


@settings(max_examples=60, deadline=None)
@given(problems(max_exits=6), st.integers(2, 4), st.sampled_from([0.5, 0.75, 1.0]))
def test_agreement_waits_for_a_majority(problem, members, share):
    logits = problem[0]

    def leaves(so_far, exits):
        votes = np.bincount(so_far).max()
        enough = len(so_far) >= members and votes >= share * len(so_far)
        return len(so_far) == exits or enough

    found = ka.AgreementPolicy(members, share).decide(logits)
    assert found.tolist() == brute_force(logits.argmax(-1), leaves)


def test_every_policy_can_be_evaluated(calibration):
    for policy in (ka.PatiencePolicy(2), ka.AgreementPolicy(2)):
        report = ka.evaluate(policy, *calibration)
        assert 0 < report.accuracy <= 1


@pytest.mark.parametrize("patience", [1, 0, 2.0, True])
def test_rejects_impossible_patience(patience):
    with pytest.raises(ValueError, match=f"Received: patience={patience}"):
        ka.PatiencePolicy(patience)


def test_rejects_impossible_agreement():
    with pytest.raises(ValueError, match="Received: members=1"):
        ka.AgreementPolicy(1)
    with pytest.raises(ValueError, match="Received: share=0"):
        ka.AgreementPolicy(2, share=0)
    with pytest.raises(ValueError, match="for answers to be compared"):
        ka.AgreementPolicy(2).decide(np.zeros((2, 3, 4, 4, 5)))
