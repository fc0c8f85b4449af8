import numpy as np
import pytest
from scipy.optimize import minimize_scalar

from keras_adaptive.calibration.temperature import fit_temperatures, reliability


def loss(logits, labels, temperature):
    z = logits / temperature
    z = z - z.max(-1, keepdims=True)
    return np.mean(np.log(np.exp(z).sum(-1)) - z[np.arange(len(labels)), labels])


@pytest.mark.parametrize("scale", [0.2, 1.0, 5.0])
def test_finds_the_most_likely_temperature(rng, scale):
    labels = rng.integers(0, 4, 800)
    logits = scale * (rng.normal(size=(800, 4)) + 1.5 * np.eye(4)[labels])
    (found,) = fit_temperatures(logits[None], labels)
    expected = minimize_scalar(
        lambda t: loss(logits, labels, t), bounds=(0.05, 20), method="bounded"
    ).x
    assert found == pytest.approx(expected, rel=1e-3)


def test_stays_in_bounds_when_always_right_or_never_sure():
    labels = np.array([0, 1, 0, 1])
    right = np.eye(2)[labels]
    cold, warm, flat = fit_temperatures(np.stack([right, -right, 0 * right]), labels)
    assert cold == pytest.approx(0.05, rel=1e-3)
    assert warm == pytest.approx(20, rel=1e-3)
    assert 0.05 <= flat <= 20


@pytest.mark.parametrize(("dtype", "scale"), [("float32", 3e38), ("float64", 1e200)])
def test_huge_logits_are_as_confident_as_can_be(dtype, scale):
    labels = np.array([0, 1, 0, 1])
    right = scale * (2 * np.eye(2)[labels] - 1)
    found = fit_temperatures(np.stack([right, -right]).astype(dtype), labels)
    assert 0.05 <= found[0] <= 20  # right at every temperature
    assert found[1] == pytest.approx(20, rel=1e-3)


def test_pixels_without_label_do_not_count(rng):
    labels = rng.integers(0, 3, size=(5, 4, 4))
    logits = rng.normal(size=(1, 5, 4, 4, 3)) + 2 * np.eye(3)[labels]
    expected = fit_temperatures(logits, labels)
    more = np.concatenate([logits, 9 * rng.normal(size=(1, 2, 4, 4, 3))], axis=1)
    labels = np.concatenate([labels, np.full((2, 4, 4), -1)])
    np.testing.assert_allclose(fit_temperatures(more, labels), expected, rtol=1e-4)


def test_calibration_error_is_the_gap_between_sure_and_right():
    logits = np.zeros((1, 10, 2))
    logits[0, :, 0] = np.log(9)  # confidence 90 % in class 0
    labels = np.array([0] * 6 + [1] * 4)  # 60 % right
    table = reliability(logits, labels)
    assert table.errors[0] == pytest.approx(0.3)
    assert table.shares.sum() == pytest.approx(1)
    assert np.nanmax(table.accuracies) == pytest.approx(0.6)
    assert np.nanmax(table.confidences) == pytest.approx(0.9)


def test_a_fitted_temperature_lowers_the_error(rng):
    labels = rng.integers(0, 4, 5000)
    truth = rng.normal(size=(5000, 4))
    labels = (truth + rng.gumbel(size=truth.shape)).argmax(-1)
    logits = 4 * truth[None]
    before = reliability(logits, labels).errors[0]
    after = reliability(logits, labels, fit_temperatures(logits, labels)).errors[0]
    assert after < 0.03 < 0.2 < before


def test_rejects_impossible_bins_and_dense_logits():
    with pytest.raises(ValueError, match="Received: bins=0"):
        reliability(np.zeros((1, 2, 2)), np.zeros(2, int), bins=0)
    with pytest.raises(ValueError, match="`temperatures` must be positive"):
        reliability(np.zeros((1, 2, 2)), np.zeros(2, int), temperatures=[0.0])
    with pytest.raises(ValueError, match="`temperatures` must hold one number per exit"):
        reliability(np.zeros((1, 2, 2)), np.zeros(2, int), temperatures=[1.0, 1.0])
    with pytest.raises(ValueError, match="must be of shape"):
        reliability(np.zeros((1, 2, 2, 2, 2)), np.zeros((2, 2, 2), int))


def test_fits_on_some_of_the_samples(rng):
    labels = rng.integers(0, 4, 80)
    logits = rng.normal(size=(2, 80, 4))
    expected = fit_temperatures(logits[:, 20:60], labels[20:60])
    mask = (np.arange(80) >= 20) & (np.arange(80) < 60)
    for rows in (np.arange(20, 60), list(range(20, 60)), np.arange(20, 60, dtype="uint8"), mask):
        assert fit_temperatures(logits, labels, rows).tolist() == expected.tolist()


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([], "at least one. Received: dtype float64, shape"),
        ([999], "from 0 to 3, as there are 4 samples. Received: rows from 999 to 999"),
        ([-1, 2], "Received: rows from -1 to 2"),
        (np.ones(3, bool), "Received: dtype bool"),
        (np.zeros(4, bool), r"at least one. Received: dtype int64, shape \(0,\)"),
        ([0.0, 1.0], "Received: dtype float64"),
        ([[0, 1]], "indices of samples"),
        (2, "indices of samples"),
    ],
)
def test_rejects_impossible_rows(rows, message):
    with pytest.raises(ValueError, match=f"`rows` must be .*{message}"):
        fit_temperatures(np.zeros((1, 4, 2)), np.zeros(4, int), rows)


def test_dense_outputs_have_no_rows():
    with pytest.raises(ValueError, match="`rows` must be None for dense outputs"):
        fit_temperatures(np.zeros((1, 2, 2, 2, 2)), np.zeros((2, 2, 2), int), [0])
