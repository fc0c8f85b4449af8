"""Every check of an argument: what is accepted, what is refused, and what the message says."""

import json
import re

import numpy as np
import pytest

import keras_adaptive as ka
from keras_adaptive import _checks as checks

GRAMMAR = re.compile(r"^`\w+` must .+\. Received: .+", re.DOTALL)
LOGITS = np.zeros((2, 3, 4))


def received(error):
    assert GRAMMAR.match(str(error.value)), str(error.value)
    return str(error.value)


INTEGERS = [3, np.int8(3), np.int64(3), np.uint16(3), np.array(3)]
NO_INTEGERS = [True, np.True_, 3.0, np.float32(3), np.nan, "3", None, [3], np.array([3, 3])]
NUMBERS = [0.5, np.float16(0.5), np.float32(0.5), np.float64(0.5), np.array(0.5)]
NO_NUMBERS = [True, np.True_, np.array(True), np.nan, np.inf, "0.5", b"1", None, [0.5], 1j]


@pytest.mark.parametrize("value", INTEGERS)
def test_integers_are_accepted(value):
    for found in (checks.integer("n", value, 3), *checks.integers(0, a=value, b=value)):
        assert found == 3
        assert type(found) is int


@pytest.mark.parametrize("value", [*NO_INTEGERS, 2, np.int64(2)])
def test_others_than_integers_are_refused(value):
    with pytest.raises(ValueError, match="`n` must be an integer of at least 3") as error:
        checks.integer("n", value, 3)
    assert received(error).endswith(f"n={value}")


def test_an_integer_without_a_least_may_be_negative():
    assert checks.integer("n", np.int32(-7)) == -7
    with pytest.raises(ValueError, match="`n` must be an integer. Received: n=1.5"):
        checks.integer("n", 1.5)


@pytest.mark.parametrize("value", [*NUMBERS, *INTEGERS])
def test_finite_numbers_are_accepted(value):
    found = checks.finite(value, "x")
    assert found == float(value)
    assert type(found) is float


@pytest.mark.parametrize("value", NO_NUMBERS)
def test_others_than_finite_numbers_are_refused(value):
    with pytest.raises(ValueError, match="`x` must be a finite number") as error:
        checks.finite(value, "x")
    assert received(error).endswith(f"x={value!r}")


def test_choices():
    checks.check_choice(("a", "b"), first="a", second=np.str_("b"))
    for value in ("c", None, 1, ["a"]):
        with pytest.raises(ValueError, match="`second` must be one of") as error:
            checks.check_choice(("a", "b"), first="a", second=value)
        assert received(error).endswith(f"second={value}")


def test_images():
    shape, classes = checks.check_image(np.array([8, 9, 3]), np.int64(10))
    assert json.dumps([shape, classes]) == "[[8, 9, 3], 10]"
    for wrong in ((8, 9), (8, 9, 0), (8, 9, 3.0), (8, True, 3), None, "abc", (None, None, 3)):
        with pytest.raises(ValueError, match="`input_shape` must be") as error:
            checks.check_image(wrong, 10)
        received(error)
    with pytest.raises(ValueError, match="`classes` must be an integer of at least 2"):
        checks.check_image((8, 8, 3), 1)


@pytest.mark.parametrize(
    "values",
    [
        [0.5, -np.inf],
        (np.float32(0.5), -np.inf),
        np.array([0.5, -np.inf], "float16"),
        [np.array(0.5), np.float64(-np.inf)],
    ],
)
def test_numbers_are_accepted(values):
    found = checks.numbers(values, "thresholds")
    assert found.dtype == "float64"
    assert found.tolist() == [0.5, -np.inf]


@pytest.mark.parametrize(
    "values", [[], 0.5, [[0.5]], [0.5, np.nan], ["0.5"], None, [None], [True, False], "a", [1j]]
)
def test_others_than_numbers_are_refused(values):
    with pytest.raises(ValueError, match="`thresholds` must be") as error:
        checks.numbers(values, "thresholds")
    assert received(error).endswith(f"thresholds={values}")


@pytest.mark.parametrize("dtype", ["int8", "uint8", "float16", "float32", "float64"])
def test_logits_of_every_type_of_number_are_accepted(dtype):
    assert checks.check_logits(LOGITS.astype(dtype)).dtype == dtype
    assert checks.check_logits(LOGITS.astype(dtype).tolist()).shape == (2, 3, 4)


@pytest.mark.parametrize(
    "logits",
    [
        None,
        "a",
        1.0,
        LOGITS[0],
        LOGITS[:, :0],
        LOGITS[..., :1],
        LOGITS + np.nan,
        LOGITS > 0,
        1j * LOGITS,
    ]
    + [LOGITS.astype(str), LOGITS.astype(object)],
)
def test_others_than_logits_are_refused(logits):
    with pytest.raises(ValueError, match="`logits` must be") as error:
        checks.check_logits(logits)
    received(error)


@pytest.mark.parametrize(
    "costs",
    [[1, 2], [np.float32(1), np.int8(2)], np.array([1, 2], "uint8"), np.ones((2, 3))],
)
def test_costs_are_accepted(costs):
    assert checks.check_costs(costs, LOGITS).dtype == "float64"


@pytest.mark.parametrize(
    "costs",
    [
        None,
        "12",
        ["1", "2"],
        [True, True],
        1.0,
        [1.0],
        [2, 1],
        [-1, 1],
        [1, np.nan],
        [1, np.inf],
        [1j, 2j],
    ],
)
def test_others_than_costs_are_refused(costs):
    with pytest.raises(ValueError, match="`costs` must be") as error:
        checks.check_costs(costs, LOGITS)
    received(error)


@pytest.mark.parametrize("dtype", ["int8", "uint8", "int64"])
def test_labels_are_accepted(dtype):
    assert checks.check_labels(np.array([0, 3, 1], dtype), LOGITS).tolist() == [0, 3, 1]


@pytest.mark.parametrize(
    "labels",
    [None, "a", [0, 1], [0, 1, 4], [0, 1, -1], [0.5, 1, 2], [True, False, True], ["0", "1", "2"]]
    + [[np.nan, 1, 2], [1j, 0, 2], np.eye(4)[:3] / 2, np.ones((3, 4)), np.zeros((3, 4))]
    + [np.eye(3), np.ma.array([0, 3, 1], mask=[0, 0, 1]), [[0, 1], [1, 0], [2, 0]]],
)
def test_others_than_labels_are_refused(labels):
    with pytest.raises(ValueError, match="`labels` must be") as error:
        checks.check_labels(labels, LOGITS)
    received(error)


@pytest.mark.parametrize(
    "labels",
    [[[0], [3], [1]], [0.0, 3.0, 1.0], np.array([[0], [3], [1]], "float32"), np.eye(4)[[0, 3, 1]]]
    + [np.eye(4, dtype="int8")[[0, 3, 1]], np.eye(4, dtype=bool)[[0, 3, 1]].tolist()],
)
def test_labels_are_taken_as_fit_takes_them(labels):
    found = checks.check_labels(labels, LOGITS)
    assert found.tolist() == [0, 3, 1]
    assert np.issubdtype(found.dtype, np.integer)


@pytest.mark.parametrize("axis", [(), (..., None)])
def test_labels_of_two_classes_may_be_booleans(axis):
    found = checks.check_labels(np.array([True, False, True])[axis], LOGITS[..., :2])
    assert found.tolist() == [1, 0, 1]
    assert np.issubdtype(found.dtype, np.integer)


def test_labels_of_pixels_are_taken_as_fit_takes_them():
    dense, labels = np.zeros((1, 2, 1, 2, 3)), np.array([[[2, 0]], [[1, 1]]])
    for given in (labels, labels[..., None], labels.astype("float32"), np.eye(3)[labels]):
        assert checks.check_labels(given, dense).tolist() == labels.tolist()


def test_masked_arrays_are_refused():
    masked = np.ma.array(LOGITS, mask=LOGITS > -1)
    for values in (masked, list(masked)):
        with pytest.raises(ValueError, match="`logits` must be without a mask.*Received: a masked"):
            checks.check_logits(values)
    with pytest.raises(ValueError, match="`costs` must be numbers"):
        checks.check_costs(np.ma.array([1.0, 2.0], mask=[0, 1]), LOGITS)
    with pytest.raises(ValueError, match="`thresholds` must be numbers"):
        checks.numbers(np.ma.array([1.0, 2.0]), "thresholds")


def test_a_number_that_is_not_finite_is_found_wherever_it_is():
    logits = np.zeros((2, 3, 200_000), "float32")
    assert checks.check_logits(logits).shape == logits.shape
    for place in ((0, 0, 0), (1, 2, 199_999), (0, 1, 77)):
        damaged = logits.copy()
        damaged[place] = np.inf
        with pytest.raises(ValueError, match="`logits` must be finite"):
            checks.check_logits(damaged)


@pytest.mark.parametrize(
    "names", [["a", "b"], ("a", "b"), np.array(["a", "b"]), np.array(["a", "b"], object)]
)
def test_names_of_classes_are_taken_in_their_order(names):
    found = checks.class_names(names, 2)
    assert found == ["a", "b"]
    assert {type(name) for name in found} == {str}
    assert checks.class_names(["crane", "crane"], 2) == ["crane", "crane"]


@pytest.mark.parametrize(
    "names", [{0: "a", 1: "b"}, {"a", "b"}, "ab", b"ab", 2, ["a"], [0, 1], np.array([["a", "b"]])]
)
def test_others_than_names_of_classes_are_refused(names):
    with pytest.raises(ValueError, match="`class_names` must be 2 names.* Received: class_names="):
        checks.class_names(names, 2)


@pytest.mark.parametrize(
    ("mean", "std"), [(0, 1), (0.5, 0.5), (0, 1 / 255), (-1, 2), (0.4914, 0.2023)]
)
def test_means_of_pixels_from_0_to_1_are_taken(mean, std):
    given = {"mean": np.float64([mean]), "std": (std,)}
    assert checks.preprocessing(given, 1) == {"mean": [mean], "std": [std]}


@pytest.mark.parametrize(
    ("mean", "std"), [(127.5, 127.5), (0, 255), (103.9, 1), (-128, 1), (0.5, 58.4)]
)
def test_means_of_pixels_from_0_to_255_are_refused(mean, std):
    with pytest.raises(ValueError, match="of pixels divided by 255"):
        checks.preprocessing({"mean": [mean] * 3, "std": [std] * 3})


def test_no_samples_say_so():
    with pytest.raises(ValueError, match=r"Received: shape \(2, 0, 4\), which holds none"):
        checks.check_logits(np.zeros((2, 0, 4)))


def test_a_pixel_may_have_no_label_but_not_every_one():
    dense, labels = np.zeros((1, 1, 1, 2, 3)), np.array([[[-1, 2]]])
    assert checks.check_labels(labels, dense).tolist() == [[[-1, 2]]]
    with pytest.raises(ValueError, match="`labels` must be at least -1"):
        checks.check_labels(np.full_like(labels, -1), dense)


def test_policies_and_calibration_accept_numbers_of_numpy(rng, tmp_path):
    two, half = np.int64(2), np.float32(0.5)
    assert type(ka.PatiencePolicy(two).patience) is int
    assert type(ka.AgreementPolicy(two, share=half).share) is float
    policy = ka.ExitPolicy([half, np.array(0)], worst_case=two, pixel_floor=half)
    policy.save(tmp_path / "policy.json")
    assert ka.ExitPolicy.load(tmp_path / "policy.json").worst_case == 2
    risk = ka.RiskControl(level=half, delta=half, steps=two, seed=np.uint8(1))
    assert {type(risk.steps), type(risk.seed)} == {int}
    logits, labels = rng.normal(size=(2, 40, 3)), rng.integers(0, 3, 40)
    for target in ({"budget": np.float32(1.5)}, {"accuracy": np.array(0.25)}):
        ka.calibrate(logits, labels, [1, 2], **target).save(tmp_path / "policy.json")
    curve = ka.accuracy_cost_curve(logits, labels, [1, 2], points=two)
    assert len(curve.costs) == 2
    ka.select_cascade(list(logits[:, None]), labels, [1, 2], budget=two, max_members=two)
    ka.evaluation.most_and_least_confident([0, 1], [[1, 2], [3, 4]], count=two)
    ka.calibration.reliability(logits, labels, bins=two)
    ka.calibration.geometric_thresholds(rng.random((2, 9)), p=half)


def test_a_target_out_of_reach_is_an_error_of_its_own():
    logits, labels = np.zeros((2, 4, 3)), np.array([0, 1, 1, 1])
    pool = list(logits[:, None])
    risk = ka.RiskControl("disagreement", 0.5)
    for impossible in (
        lambda: ka.calibrate(logits, labels, [1, 2], budget=0.5),
        lambda: ka.calibrate(logits, labels, [1, 2], accuracy=0.9),
        lambda: ka.calibrate(logits, labels, [1, 2], budget=2, worst_case=0.5),
        lambda: ka.calibrate(logits, labels, [1, 2], risk=risk, worst_case=0.5),
        lambda: ka.accuracy_cost_curve(logits, labels, [1, 2], worst_case=0.5),
        lambda: ka.select_cascade(pool, labels, [1, 2], budget=0.5),
        lambda: ka.select_cascade(pool, labels, [1, 2], worst_case=0.5),
        lambda: ka.select_cascade(pool, labels, [1, 2], accuracy=0.9),
        lambda: ka.ExitPolicy([0, 0], worst_case=0.5).decide(logits, [1, 2]),
    ):
        with pytest.raises(ka.UnreachableTargetError, match="must be") as error:
            impossible()
        assert isinstance(error.value, ValueError)
        received(error)
    for wrong in ({"budget": "2"}, {"accuracy": 2}, {"budget": 2, "worst_case": np.nan}):
        with pytest.raises(ValueError, match="must be") as error:
            ka.calibrate(logits, labels, [1, 2], **wrong)
        assert not isinstance(error.value, ka.UnreachableTargetError)


def test_probabilities_are_no_logits(rng):
    logits = rng.normal(size=(2, 300, 4)) * 3
    p = np.exp(logits) / np.exp(logits).sum(axis=-1, keepdims=True)
    mixed = np.stack([logits[0], p[1]])
    wide = rng.dirichlet(np.ones(1000), size=(1, 20)).astype("float16")
    pixels = rng.dirichlet(np.ones(3), size=(1, 2, 4, 4))
    for wrong in (p, p.astype("float32"), mixed, wide, pixels, p[:, :4]):
        with pytest.raises(ValueError, match="`logits` must be logits.*`logits - 1`.*at exit"):
            checks.check_logits(wrong)
    nearly = p.copy()
    nearly[:, 299] += 0.01
    for right in (logits, np.log(p), p - 1, nearly, np.eye(4)[None], p[:, :3], 2 * p):
        assert checks.check_logits(right).shape == right.shape


IMAGE = {"name": "image", "shape": (4, None), "dtype": "float32"}
WORDS = {"name": "words", "shape": (3,), "dtype": "int32"}


@pytest.mark.parametrize(
    "x", [np.ones((2, 4, 5)), [np.ones((2, 4, 5))], np.ones((2, 4, 5)).tolist()]
)
def test_the_only_input_may_be_an_array_alone_in_a_list_or_a_list_of_samples(x):
    (found,) = checks.check_inputs(checks.each_input(x, [IMAGE], "x"), [IMAGE], "x")
    assert found.shape == (2, 4, 5)
    assert found.dtype == "float32"


@pytest.mark.parametrize(
    "as_given", [list, tuple, lambda pair: {"words": pair[1], "image": pair[0]}]
)
def test_several_inputs_come_in_their_order(as_given):
    pair = [np.ones((2, 4, 5), bool), np.ones((2, 3), np.uint8)]
    given = checks.each_input(as_given(pair), [IMAGE, WORDS], "x")
    found = checks.check_inputs(given, [IMAGE, WORDS], "x")
    assert [array.dtype for array in found] == ["float32", "int32"]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        ({"image": 0}, r"for each of the 2 inputs \['image', 'words'\].*Received: \['image'\]"),
        (np.ones((2, 4, 5)), "Received: 1 of them"),
        ([1.0, np.ones((2, 3), int)], r"of shape \(samples, 4, None\)\. Received: shape \(\)"),
        ([np.ones((2, 4, 5)), np.ones((2, 4), int)], r"of shape \(samples, 3\)"),
        ([np.ones((2, 4, 5)), np.ones((2, 3))], "numbers for int32. Received: dtype float64"),
        ([np.ones((2, 4, 5)), np.ones((1, 3), int)], r"as many samples .* Received: \[2, 1\]"),
        ([np.ones((0, 4, 5)), np.ones((0, 3), int)], "at least one sample. Received: none"),
    ],
)
def test_what_is_no_input_of_the_network_is_refused(x, message):
    with pytest.raises(ValueError, match=message) as error:
        checks.check_inputs(checks.each_input(x, [IMAGE, WORDS], "x"), [IMAGE, WORDS], "x")
    received(error)
