import keras
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import keras_adaptive as ka
from keras_adaptive.models.deeplabv3 import build_deeplabv3
from keras_adaptive.models.segmentation_cascade import SegmentationCascade, join_cells, split_cells
from keras_adaptive.policy.confidence import softmax


def network(kernel, classes=3, size=(None, None)):
    """One convolution, so that a pixel sees `kernel // 2` pixels around it."""
    image = keras.Input((*size, 2))
    return keras.Model(image, keras.layers.Conv2D(classes, kernel, padding="same")(image))


@pytest.fixture(scope="module")
def members():
    keras.utils.set_random_seed(0)
    return [network(1), network(3), network(5)]


@pytest.fixture
def images(rng):
    return rng.normal(size=(3, 8, 12, 2)).astype("float32")


@given(st.integers(1, 3), st.integers(1, 3), st.integers(0, 2))
def test_cells_are_where_they_were(rows, columns, margin):
    maps = np.arange(2 * 6 * 6).reshape(2, 6, 6)
    cells = split_cells(maps, (rows, columns), margin)
    height, width = 6 // rows, 6 // columns
    assert cells.shape == (2 * rows * columns, height + 2 * margin, width + 2 * margin)
    inner = cells[:, margin : margin + height, margin : margin + width]
    np.testing.assert_array_equal(join_cells(inner, (rows, columns)), maps)
    padded = np.pad(maps, ((0, 0), (margin, margin), (margin, margin)), mode="symmetric")
    last = padded[-1, -height - 2 * margin :, -width - 2 * margin :]
    np.testing.assert_array_equal(cells[-1], last)


def test_with_enough_margin_a_cell_is_answered_as_in_the_whole_image(members, images):
    whole, _ = SegmentationCascade(members).predict_with_costs(images)
    cells, _ = SegmentationCascade(members, grid=(2, 3), margin=2).predict_with_costs(images)
    found = np.stack([join_cells(z, (2, 3)) for z in cells])
    # at the border of the image the margin is mirrored, where the whole image has zeros
    inner = (slice(None), slice(None), slice(2, -2), slice(2, -2))
    np.testing.assert_allclose(found[inner], whole[inner], atol=1e-5)
    bare, _ = SegmentationCascade(members, grid=(2, 3)).predict_with_costs(images)
    found = np.stack([join_cells(z, (2, 3)) for z in bare])
    assert np.abs(found[1:][inner[:]] - whole[1:][inner[:]]).max() > 1e-3


def test_exits_are_means_of_the_members(members, images):
    logits, _ = SegmentationCascade(members).predict_with_costs(images)
    own = np.stack([m.predict(images, verbose=0) for m in members])
    number = np.arange(1, 4).reshape(3, 1, 1, 1, 1)
    np.testing.assert_allclose(logits, own.cumsum(0) / number, atol=1e-5)


def test_costs_count_the_area_that_is_looked_at(members):
    cascade = SegmentationCascade(members, grid=(2, 3), margin=2)
    area, cell = 8 * 12, (4 + 4) * (4 + 4)
    expected = np.cumsum([area * 1 * 6 / 6, cell * 9 * 6, cell * 25 * 6])
    assert cascade.cell_costs((8, 12)).tolist() == expected.tolist()
    full = SegmentationCascade(members).cell_costs((8, 12))
    assert full.tolist() == np.cumsum([area * 6, area * 54, area * 150]).tolist()


@pytest.mark.parametrize("grid", [(1, 1), (2, 3)])
def test_predicts_what_the_policy_decides(members, images, grid):
    cascade = SegmentationCascade(members, grid=grid, margin=1)
    logits, costs = cascade.predict_with_costs(images)
    confidence = ka.policy.confidence(logits)
    policy = ka.ExitPolicy([np.median(s) for s in confidence])
    exits = policy.decide(logits)
    assert len(set(exits)) > 1
    found = cascade.predict(images, policy, batch_size=2)
    np.testing.assert_array_equal(found.exits.ravel(), exits)
    chosen = logits[exits, np.arange(len(exits))].argmax(-1)
    np.testing.assert_array_equal(found.labels, join_cells(chosen, grid))
    per_image = costs[exits].reshape(3, -1).sum(axis=1)
    np.testing.assert_allclose(found.costs, per_image)


def test_calibrates_like_any_other_network(members, images, rng):
    cascade = SegmentationCascade(members, grid=(2, 3))
    logits, costs = cascade.predict_with_costs(images)
    labels = rng.integers(-1, 3, images.shape[:3])
    budget = costs[:2].mean()
    policy = ka.calibrate(logits, split_cells(labels, (2, 3)), costs, budget=budget)
    report = ka.evaluate(policy, logits, split_cells(labels, (2, 3)), costs)
    assert report.mean_cost <= budget
    found = cascade.predict(images, policy)
    counted = labels >= 0
    assert (found.labels == labels)[counted].mean() == pytest.approx(report.accuracy)
    assert found.costs.mean() == pytest.approx(6 * report.mean_cost)


def test_a_cell_without_a_confident_pixel_goes_on(members, images):
    logits, _ = SegmentationCascade(members).predict_with_costs(images * 0)
    assert softmax(logits[0]).max() < 0.5
    assert set(ka.ExitPolicy([0.0, 0.0, 0.0]).decide(logits)) == {2}


def test_refuses_what_does_not_fit(members, images):
    x = keras.Input((4,))
    flat = keras.Model(x, keras.layers.Dense(3)(x))
    for wrong, message in [
        ({"members": []}, "must be a list"),
        ({"members": [flat]}, "from images to logits"),
        ({"members": [network(1), network(1, 4)]}, r"Received: \[3, 4\]"),
        ({"grid": 2}, "Received: grid=2"),
        ({"grid": (0, 2)}, r"Received: grid=\(0, 2\)"),
        ({"margin": -1}, "margin=-1"),
        ({"margin": True}, "margin=True"),
        ({"grid": (2, 2, 2)}, r"Received: grid=\(2, 2, 2\)"),
        ({"grid": (2, 1.0)}, r"Received: grid=\(2, 1.0\)"),
        ({"members": members[0]}, "must be a list"),
        ({"members": [lambda x: x]}, "from images to logits"),
    ]:
        with pytest.raises(ValueError, match=message):
            SegmentationCascade(**{"members": members, **wrong})
    with pytest.raises(ValueError, match="must divide"):
        SegmentationCascade(members, grid=(3, 3)).predict_with_costs(images)
    with pytest.raises(ValueError, match="at most the image's smaller side"):
        SegmentationCascade(members, grid=(2, 3), margin=9).predict_with_costs(images)
    for policy in (ka.ExitPolicy([0.5, 0.5]), [0.5, 0.5, 0.5]):
        with pytest.raises(ValueError, match="3 thresholds"):
            SegmentationCascade(members).predict(images, policy)
    with pytest.raises(ValueError, match="`policy` must have no `worst_case`"):
        SegmentationCascade(members).predict(images, ka.ExitPolicy([0.5] * 3, worst_case=9))


def test_cells_are_cut_from_the_whole_image_with_what_is_around_them():
    maps = np.arange(2 * 4 * 6).reshape(2, 4, 6, 1)
    cells = split_cells(maps, (2, 3), 1)
    assert cells.shape == (12, 4, 4, 1)
    padded = np.pad(maps, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="symmetric")
    for i, cell in enumerate(cells):  # the first image row by row, then the second
        image, row, column = i // 6, i % 6 // 3, i % 3
        expected = padded[image, 2 * row : 2 * row + 4, 2 * column : 2 * column + 4]
        np.testing.assert_array_equal(cell, expected)
    largest = split_cells(maps, (2, 3), 4)  # a margin as wide as the smaller side
    assert largest.shape == (12, 10, 10, 1)
    with pytest.raises(ValueError, match="Received: margin=5"):
        split_cells(maps, (2, 3), 5)
    with pytest.raises(ValueError, match=r"must divide .* grid=\(4, 4\), size \(4, 6\)"):
        split_cells(maps, (4, 4))


def test_a_member_of_one_size_costs_what_its_layers_do():
    cascade = SegmentationCascade([network(3, size=(8, 12))])
    assert cascade.cell_costs((8, 12)).tolist() == [8 * 12 * 9 * 2 * 3]


def test_logits_may_go_to_a_file_and_are_calibrated_from_there(members, images, rng, tmp_path):
    cascade = SegmentationCascade(members[:2], grid=(2, 3), margin=1)
    labels = split_cells(rng.integers(-1, 3, images.shape[:3]), (2, 3))
    logits, costs = cascade.predict_with_costs(images, batch_size=2)
    kept, _ = cascade.predict_with_costs(images, batch_size=2, file=tmp_path / "logits.npy")
    assert isinstance(kept, np.memmap)
    np.testing.assert_array_equal(kept, logits)
    np.testing.assert_array_equal(np.load(tmp_path / "logits.npy"), logits)
    policies = [ka.calibrate(z, labels, costs, budget_share=0.6) for z in (logits, kept)]
    assert policies[0].thresholds.tolist() == policies[1].thresholds.tolist()


def test_no_images_say_so(members):
    cascade = SegmentationCascade(members[:2], grid=(2, 3))
    nothing = np.zeros((0, 8, 12, 2))
    for work in (cascade.predict_with_costs, lambda x: cascade.predict(x, ka.ExitPolicy([0, 0]))):
        with pytest.raises(ValueError, match=r"at least one image. Received: shape \(0, 8"):
            work(nothing)
    with pytest.raises(ValueError, match="`batch_size` must be an integer of at least 1"):
        cascade.predict_with_costs(np.zeros((1, 8, 12, 2)), batch_size=0)


@pytest.mark.parametrize("ending", ["softmax", "own"])
def test_members_that_give_probabilities_are_read_by_their_logits(rng, ending):
    keras.utils.set_random_seed(0)
    x = keras.Input((None, None, 3))
    z = keras.layers.Conv2D(4, 3, padding="same")(x)
    p = keras.ops.softmax(z) if ending == "softmax" else keras.ops.exp(z - _log_sum(z))
    images = rng.normal(size=(2, 8, 8, 3)).astype("float32")
    plain, soft = (SegmentationCascade([keras.Model(x, y)] * 2) for y in (z, p))
    wanted, found = (softmax(c.predict_with_costs(images)[0]) for c in (plain, soft))
    np.testing.assert_allclose(found, wanted, atol=1e-5)
    with pytest.raises(ValueError, match="`members` must end in logits"):
        SegmentationCascade([keras.Model(x, keras.ops.sigmoid(z))])


def _log_sum(z):
    return keras.ops.logsumexp(z, axis=-1, keepdims=True)


def test_a_member_whose_logits_are_enlarged_is_taken_as_it_is():
    image = keras.Input((None, None, 3))
    features = keras.layers.Conv2D(8, 3, 2, padding="same", activation="relu")(image)
    member = build_deeplabv3(keras.Model(image, features), 5, channels=4, rates=(1, 2))
    assert SegmentationCascade([member]).members == [member]
