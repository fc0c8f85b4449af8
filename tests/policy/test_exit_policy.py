import functools
import json

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from strategies import problems

import keras_adaptive as ka
from keras_adaptive.policy.policy import policy_of

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


# ---- one rule, followed exit by exit


def learned(rng, exits=3, classes=5):
    shapes = ((classes, 4), (4, 4), (4, 2))
    return ka.LearnedPolicy(
        [[(rng.normal(0, 2, s), rng.normal(0, 0.5, s[1])) for s in shapes]] * (exits - 1),
        [0.6, np.inf, 0][:exits] if exits == 3 else None,
    )


POLICIES = {
    "exit": lambda rng: ka.ExitPolicy([0.9, 0.7, 0], temperatures=[0.5, 2, 1]),
    "closed": lambda rng: ka.ExitPolicy([INF, -0.4, 0], "entropy"),
    "learned": learned,
    "patience": lambda rng: ka.PatiencePolicy(2),
    "agreement": lambda rng: ka.AgreementPolicy(2, 0.6),
}


def followed(policy, logits, xp):
    """Leaves exit by exit, in one namespace."""
    tensor = np.asarray if xp is np else lambda z: keras.ops.convert_to_tensor(z, "float32")
    exits = policy.exits_of(len(logits))
    state = policy.start(logits.shape[1], logits.shape[2], xp)
    found = np.full(logits.shape[1], exits[-1])
    left = np.zeros(logits.shape[1], bool)
    for k in exits[:-1]:
        leaves, state = policy.step(k, tensor(logits[k]), state, xp)
        assert all(len(part) == logits.shape[1] for part in state)
        leaves = keras.ops.convert_to_numpy(leaves)
        assert leaves.dtype == bool
        found[leaves & ~left] = k
        left |= leaves
    return found


@pytest.mark.parametrize("xp", [np, keras.ops], ids=["numpy", "keras.ops"])
@pytest.mark.parametrize("name", POLICIES)
def test_every_policy_steps_to_where_it_decides(rng, name, xp):
    policy, logits = POLICIES[name](rng), rng.normal(size=(3, 80, 5)) * 3
    expected = policy.decide(logits)
    assert len(set(expected.tolist())) > 1
    assert set(expected.tolist()) <= set(policy.exits_of(3))
    np.testing.assert_array_equal(followed(policy, logits, xp), expected)


@pytest.mark.parametrize("name", POLICIES)
def test_other_thresholds_at_a_step(rng, name):
    policy, logits = POLICIES[name](rng), rng.normal(size=(3, 40, 5)) * 3
    state = policy.start(40, 5)
    for k in policy.exits_of(3)[:-1]:
        assert policy.step(k, logits[k], state, thresholds=-INF)[0].all()
        own = policy.step(k, logits[k], state)[0]
        never, state = policy.step(k, logits[k], state, thresholds=INF)
        if policy.log_odds is None:  # answers are compared in any case
            np.testing.assert_array_equal(never, own)
            likely = np.exp(logits[k]).max(-1) / np.exp(logits[k]).sum(-1) >= 0.5
            half = policy.step(k, logits[k], POLICIES[name](rng).start(40, 5), thresholds=0.0)[0]
            np.testing.assert_array_equal(half, likely)
        else:
            assert not never.any()


@pytest.mark.parametrize("name", POLICIES)
def test_a_file_keeps_policies_of_every_class(rng, name, tmp_path):
    policy, logits = POLICIES[name](rng), rng.normal(size=(3, 80, 5)) * 3
    policy.unit, policy.network = "ms", {"name": "a", "digest": "0"}
    policy.save(tmp_path / "policy.json")
    for kind in (ka.ExitPolicy, type(policy)):
        again = kind.load(tmp_path / "policy.json")
        assert type(again) is type(policy)
        assert again.content() == policy.content()
        assert (again.unit, again.network) == (policy.unit, policy.network)
        np.testing.assert_array_equal(again.decide(logits), policy.decide(logits))
    other = ka.PatiencePolicy if name == "agreement" else ka.AgreementPolicy
    with pytest.raises(
        ValueError, match=f"must hold a {other.__name__}. Received: .*a {type(policy).__name__}"
    ):
        other.load(tmp_path / "policy.json")


@pytest.mark.parametrize("name", POLICIES)
def test_details_of_numpy_are_saved_as_python_has_them(rng, name, tmp_path):
    policy, path = POLICIES[name](rng), tmp_path / "policy.json"
    facts = {"accuracy": np.float32(0.5), "samples": np.int64(7), "shares": np.ones(2), "of": {}}
    made = policy_of({**policy.content(), "details": facts})
    assert made.details == {"accuracy": 0.5, "samples": 7, "shares": [1.0, 1.0], "of": {}}
    made.details["later"] = np.bool_(True)
    made.save(path)
    assert ka.ExitPolicy.load(path).details == made.details


@pytest.mark.parametrize(
    "details",
    [5, "text", [1], {"loss": np.nan}, {"x": np.inf}, {"model": object()}, {(1, 2): 3}]
    + [{"x": 10**50}, functools.reduce(lambda inside, _: {"x": inside}, range(200), {})],
)
def test_details_that_no_file_can_hold_are_refused(details):
    for make in (
        lambda: ka.ExitPolicy([0.5, 0], details=details),
        lambda: ka.LearnedPolicy([], details=details),
        lambda: ka.PatiencePolicy(2, details=details),
        lambda: ka.AgreementPolicy(2, details=details),
    ):
        with pytest.raises((TypeError, ValueError), match="`details` must .*Received: details="):
            make()


def test_details_that_were_damaged_leave_the_file_alone(tmp_path):
    path, policy = tmp_path / "policy.json", ka.ExitPolicy([0.5, 0])
    policy.save(path)
    policy.details["loss"] = np.nan
    with pytest.raises(ValueError, match="`details` must hold what JSON can"):
        policy.save(path)
    assert ka.ExitPolicy.load(path).details == {}


def test_only_paths_are_loaded():
    """A number would be read as that of an open file."""
    with pytest.raises(TypeError, match="`path` must be a string or a path. Received: path=0"):
        ka.ExitPolicy.load(0)


@pytest.mark.parametrize(
    "change",
    [{"thresholds": [1, 2, 3]}, {"log_odds": [1.0]}, {"temperatures": 3}, {"policy": "Other"}]
    + [{"thresholds": "high"}, {"details": [1]}, {"worst_case": "much"}, {"confidence": []}],
)
def test_a_damaged_file_is_named(tmp_path, change):
    path = tmp_path / "policy.json"
    ka.ExitPolicy([0.5, 0]).save(path)
    path.write_text(json.dumps({**json.loads(path.read_text()), **change}))
    with pytest.raises(ValueError, match="A policy file must hold .* Received: path=.*policy.json"):
        ka.ExitPolicy.load(path)


# ---- log-odds


@pytest.mark.parametrize("kind", ["max_prob", "prob_margin", "logit_margin", "entropy"])
def test_decides_by_log_odds_where_probabilities_are_all_one(rng, kind):
    logits = rng.normal(size=(3, 200, 6)) * np.repeat([1, 8, 32, 64], 50)[:, None]
    exact = ka.policy.log_odds(logits, kind)
    bars = np.append(np.quantile(exact[:2], 0.7, axis=1), -INF)
    policy = ka.ExitPolicy([0.5, 0.5, 0], kind, log_odds=bars)
    expected = (exact >= bars[:, None]).argmax(axis=0)
    np.testing.assert_array_equal(policy.decide(logits), expected)
    for k in range(2):
        np.testing.assert_array_equal(policy.leaves(k, logits[k]), exact[k] >= bars[k])


def test_a_finite_threshold_keeps_its_head_and_infinity_closes_it():
    policy = ka.ExitPolicy([1.0, 2.0, INF, 0])
    assert policy.log_odds.tolist() == [INF, INF, INF, -INF]
    assert policy.used_exits == [0, 1, 3]
    assert policy.decide(np.full((4, 1, 2), [[0, 99.0]])).tolist() == [3]


def test_other_thresholds_keep_limits_closed_exits_and_exact_log_odds(rng):
    exact = [40.0, 41.0, INF, -INF]
    policy = ka.ExitPolicy(
        [1.0, 1.0, INF, 0], log_odds=exact, worst_case=3.0, details={"budget": 2}
    )
    other = policy.with_thresholds([1.0, 0.5, INF, 0])
    assert other.log_odds.round(9).tolist() == [40, 0, INF, -INF]
    assert (other.worst_case, other.details) == (3.0, {"budget": 2})
    assert other.used_exits == [0, 1, 3]
    both = learned(rng)
    both.worst_case = 4.0
    for kept in (both.with_thresholds([0.6, INF, 0]), both.sampled(3)):
        assert kept.worst_case == 4.0
        assert kept.used_exits == [0, 2]
        np.testing.assert_array_equal(kept.log_odds, both.log_odds)
    with pytest.raises(ValueError, match="2 temperatures, 3 thresholds|4 temperatures"):
        policy.with_thresholds([0.5, 0.5, 0])


def test_log_odds_are_one_number_per_exit():
    with pytest.raises(ValueError, match="1 log_odds, 2 thresholds"):
        ka.ExitPolicy([0.5, 0], log_odds=[0.0])
