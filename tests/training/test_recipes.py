import keras
import numpy as np
import pytest

from keras_adaptive.data import splits
from keras_adaptive.training import RECIPES, Recipe, recipes
from keras_adaptive.training._label_smoothing import SmoothedCrossentropy


def rates(recipe, steps=100):
    schedule = recipe.learning_rates(steps)
    return np.array([float(schedule(n)) for n in range(steps)])


def test_published_recipes():
    cifar = rates(RECIPES["cifar"])
    np.testing.assert_allclose(cifar[[0, 49, 60, 74, 80]], [0.1, 0.1, 0.01, 0.01, 0.001])
    imagenet = rates(RECIPES["imagenet"], 90)
    np.testing.assert_allclose(imagenet[[0, 29, 40, 70]], [0.1, 0.1, 0.01, 0.001])
    assert RECIPES["imagenet"].batch_size == 256
    ddi, resnet = RECIPES["ddi_cifar"], RECIPES["resnet_cifar"]
    assert set(rates(ddi)) == {np.float32(0.05)}
    np.testing.assert_allclose(rates(resnet, 64)[[31, 33, 47, 49]], [0.1, 0.01, 0.01, 0.001])
    assert [ddi.optimizer(9).nesterov, RECIPES["cifar"].optimizer(9).nesterov] == [False, True]
    assert (ddi.gate_weight, RECIPES["ddi_imagenet"].gate_weight) == (2e-4, 4e-6)
    # 90 epochs of the 1,281,167 images of ImageNet
    assert RECIPES["ddi_imagenet"].iterations[0] == round(90 * 1_281_167 / 512)


def test_short_schedules_end_near_zero():
    cosine, cycle = (rates(Recipe(schedule=name)) for name in ("cosine", "one_cycle"))
    assert cosine[0] == pytest.approx(0.1)
    assert cosine[-1] < 0.001
    assert cycle[0] < 0.01
    assert cycle.argmax() == 30
    assert cycle.max() == pytest.approx(0.1)
    assert cycle[-1] < 0.001


def test_schedules_end_low():
    steps = Recipe(learning_rate=0.1, schedule="steps").learning_rates(100)
    assert [float(steps(n)) for n in (0, 49, 60, 90)] == pytest.approx([0.1, 0.1, 0.01, 0.001])
    assert np.isclose(float(Recipe(schedule="cosine").learning_rates(100)(100)), 0)


@pytest.mark.parametrize("nesterov", [True, False])
def test_weight_decay_is_the_papers_inside_the_momentum(nesterov):
    """One weight without gradient shrinks as L2 inside the momentum makes it shrink."""
    how = {"schedule": "cosine", "learning_rate": 0.01, "nesterov": nesterov}
    recipe = Recipe(weight_decay=0.01, **how)
    optimizer = recipe.optimizer(10**9)
    weight = keras.Variable([1.0])
    optimizer.build([weight])
    expected, velocity = 1.0, 0.0
    for _ in range(400):
        optimizer.apply([keras.ops.zeros(1)])
        gradient = 0.01 * expected
        velocity = 0.9 * velocity - 0.01 * gradient
        expected += 0.9 * velocity - 0.01 * gradient if nesterov else velocity
    assert float(weight[0]) == pytest.approx(expected, rel=0.02)
    assert expected < 0.75


def test_numpy_numbers_are_kept_as_pythons():
    how = {"drops": np.array([0.5]), "iterations": np.array([7, 5])}
    given = Recipe(np.float32(0.5), np.int64(3), np.int32(16), **how)
    assert given == Recipe(0.5, 3, 16, drops=(0.5,), iterations=(7, 5))
    kinds = [type(value) for value in (given.learning_rate, given.epochs, given.batch_size)]
    assert kinds == [float, int, int]


@pytest.mark.parametrize(
    "arguments",
    [
        {"epochs": 0},
        {"epochs": 1.5},
        {"batch_size": True},
        {"momentum": np.nan},
        {"iterations": 0},
        {"gate_weight": -1.0},
    ],
)
def test_rejects_impossible_numbers(arguments):
    ((name, value),) = arguments.items()
    with pytest.raises(ValueError, match=f"`{name}` must be .*Received: {name}={value}"):
        Recipe(**arguments)


def test_without_drops_the_rate_stays():
    assert Recipe(drops=None) == Recipe(drops=())
    assert set(rates(Recipe(drops=None))) == {np.float32(0.1)}


@pytest.mark.parametrize("drops", [0.5, "half", [[0.5]], {"at": 0.5}])
def test_drops_are_a_sequence(drops):
    with pytest.raises(ValueError, match="`drops` must be a sequence of shares"):
        Recipe(drops=drops)


def test_rejects_unknown_augmentation():
    assert recipes.AUGMENTATIONS == splits.AUGMENTATIONS
    with pytest.raises(ValueError, match="`augmentation` must be one of .*augmentation=flip"):
        Recipe(augmentation="flip")


def test_rejects_unknown_schedule():
    with pytest.raises(ValueError, match="Received: schedule=triangle"):
        Recipe(schedule="triangle")


# ---- precision


@pytest.mark.parametrize(
    ("flags", "has"),
    [
        ("flags\t\t: fpu avx2 avx512f avx512_bf16 amx_tile\n", True),
        ("flags\t\t: fpu avx2 avx512f avx512_vnni\n", False),
        ("flags\t\t: fpu avx512_bf16x\n", False),
        ("", False),
    ],
)
def test_bfloat16_is_taken_where_the_processor_has_it(tmp_path, monkeypatch, flags, has):
    (tmp_path / "cpuinfo").write_text(f"processor\t: 0\n{flags}bugs\t\t: none\n")
    assert recipes.has_bfloat16(tmp_path / "cpuinfo") is has
    monkeypatch.setattr(recipes, "has_bfloat16", lambda: has)
    assert Recipe(mixed_precision="auto").in_bfloat16 is has
    assert Recipe(mixed_precision=True).in_bfloat16 is True
    assert Recipe(mixed_precision=np.False_).in_bfloat16 is False


def test_other_systems_compute_in_float32(tmp_path):
    assert recipes.has_bfloat16(tmp_path / "nothing") is False


@pytest.mark.parametrize("value", ["bfloat16", 2, None])
def test_rejects_unknown_precision(value):
    with pytest.raises(ValueError, match="`mixed_precision` must be one of .*Received: mixed_prec"):
        Recipe(mixed_precision=value)


# ---- label smoothing

LOGITS = np.array([[2.0, -1.0, 0.5], [0.0, 0.0, 3.0]], "float32")
LABELS = np.array([0, 1])


def smoothed_by_hand(share):
    p = np.exp(LOGITS) / np.exp(LOGITS).sum(-1, keepdims=True)
    target = (1 - share) * np.eye(3)[LABELS] + share / 3
    return -(target * np.log(p)).sum(-1).mean()


@pytest.mark.parametrize("share", [0.1, 0.5])
@pytest.mark.parametrize(
    ("loss", "labels"),
    [
        ("sparse_categorical_crossentropy", LABELS),
        ("SparseCategoricalCrossentropy", LABELS[:, np.newaxis]),
        (keras.losses.SparseCategoricalCrossentropy(from_logits=True), LABELS),
        ("categorical_crossentropy", np.eye(3)[LABELS]),
        (keras.losses.CategoricalCrossentropy(from_logits=True), np.eye(3)[LABELS]),
    ],
)
def test_a_share_of_each_label_is_spread_over_all_classes(share, loss, labels):
    smoothed = Recipe(label_smoothing=share).loss(loss)
    assert float(smoothed(labels, LOGITS)) == pytest.approx(smoothed_by_hand(share), rel=1e-5)
    again = keras.losses.deserialize(keras.losses.serialize(smoothed))
    assert float(again(labels, LOGITS)) == float(smoothed(labels, LOGITS))


def test_maps_of_labels_are_smoothed_too():
    logits, labels = np.stack([LOGITS] * 4, axis=1), np.stack([LABELS] * 4, axis=1)
    found = Recipe(label_smoothing=0.2).loss()(labels, logits)
    assert float(found) == pytest.approx(smoothed_by_hand(0.2), rel=1e-5)


def test_without_smoothing_any_loss_stays():
    assert Recipe().loss("mse") == "mse"
    assert Recipe().loss() == "sparse_categorical_crossentropy"


@pytest.mark.parametrize(
    "loss",
    [
        "mse",
        keras.losses.CategoricalFocalCrossentropy(from_logits=True),
        keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.3),
        keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=2),
        lambda y, z: z,
    ],
)
def test_smooths_no_other_losses(loss):
    with pytest.raises(ValueError, match="`label_smoothing` must be 0 unless.*Received: label_sm"):
        Recipe(label_smoothing=0.1).loss(loss)


@pytest.mark.parametrize("share", [-0.1, 1, 1.5])
def test_rejects_impossible_shares(share):
    message = f"`label_smoothing` must be at least 0 and below 1. Received: label_smoothing={share}"
    with pytest.raises(ValueError, match=message):
        Recipe(label_smoothing=share)
    with pytest.raises(ValueError, match=message):
        SmoothedCrossentropy(share)
