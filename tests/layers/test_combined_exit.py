import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from keras_adaptive.layers import CombinedExit
from keras_adaptive.policy.confidence import softmax

LOGITS = hnp.arrays(
    "float32",
    st.tuples(st.integers(1, 4), st.just(3), st.just(4)),  # exits, samples, classes
    elements=st.floats(-20, 20, width=32),
)


def combined(combine, logits, exits=4, weights=None):
    """The probabilities of the answers so far, `(exits, samples, classes)`."""
    found = []
    for m in range(1, len(logits) + 1):
        layer = CombinedExit(combine, exits)
        layer.build((None, m, logits.shape[-1]))
        if weights is not None:
            layer.set_weights([weights[0][:m], weights[1]])
        found.append(softmax(np.asarray(layer(logits[:m].swapaxes(0, 1)))))
    return np.stack(found)


few = settings(max_examples=25)  # each builds layers


@few
@given(LOGITS)
def test_a_product_of_what_lies_above_the_mean(logits):
    z = logits.astype("float64")
    factors = np.maximum(z - z.mean(axis=-1, keepdims=True), 0)
    shares = np.arange(1, len(z) + 1) / 4
    products = np.cumprod(factors ** shares[:, None, None], axis=0)
    found = combined("product", logits)
    total = products.sum(axis=-1)
    # not where it vanishes, nor where rounding decides what lies above the mean
    clear = np.minimum.accumulate((np.abs(factors - 0.01) > 0.01).all(axis=-1), axis=0)
    clear &= (total > 1e-3) & (total < np.inf)
    expected = products / np.where(total > 0, total, 1)[..., None]
    np.testing.assert_allclose(found[clear], expected[clear], atol=1e-4)


@few
@given(LOGITS)
def test_a_product_goes_on_where_every_class_has_been_excluded(logits):
    found = combined("product", logits)
    assert np.isfinite(found).all()
    np.testing.assert_allclose(found.sum(axis=-1), 1, atol=1e-5)


def test_classes_excluded_least_often_remain():
    logits = np.array([[[3, 0, 0]], [[0, 3, 0]], [[0, 3, 0]]], "float32")
    found = combined("product", logits, exits=3)
    assert found[0, 0, 0] > 0.999
    assert set(np.flatnonzero(found[1, 0] > 0.1)) == {0, 1}  # each has been excluded once
    assert found[2, 0, 1] > 0.999


@few
@given(LOGITS, st.floats(-50, 50, width=32))
def test_logits_count_by_their_differences(logits, shift):
    rounded = np.round(logits * 8) / 8  # so that no difference is lost
    for combine in ("product", "weighted"):
        both = [combined(combine, z) for z in (rounded, rounded + np.round(shift))]
        above = rounded - rounded.mean(axis=-1, keepdims=True)
        clear = (np.abs(above) > 1e-3).all(axis=(0, 2))
        np.testing.assert_allclose(both[0][:, clear], both[1][:, clear], atol=1e-3)


@few
@given(LOGITS, st.integers(0, 5))
def test_a_weighted_mean_of_logarithms(logits, seed):
    rng = np.random.default_rng(seed)
    scales, bias = rng.normal(0, 0.5, len(logits)), rng.normal(0, 1, 4)
    logarithms = np.log(softmax(logits))
    for m, found in enumerate(combined("weighted", logits, weights=(scales, bias)), 1):
        shares = np.exp(scales[:m]) / m
        expected = softmax(np.tensordot(shares, logarithms[:m], 1) + bias)
        np.testing.assert_allclose(found, expected, atol=1e-4)


def test_dense_outputs_are_combined_place_by_place(rng):
    logits = rng.normal(size=(2, 3, 4, 5, 6)).astype("float32")
    for combine in ("product", "weighted"):
        found = np.asarray(CombinedExit(combine, 3)(logits))
        assert found.shape == (2, 4, 5, 6)
        at = np.asarray(CombinedExit(combine, 3)(logits[:, :, 1, 2]))
        np.testing.assert_allclose(found[:, 1, 2], at, atol=1e-5)


def test_rejects_impossible_arguments():
    with pytest.raises(ValueError, match="`combine` must be one of"):
        CombinedExit("sum", 3)
    with pytest.raises(ValueError, match="Received: exits=0"):
        CombinedExit("product", 0)
    for shape in ((None, 4, 10), (None, None, 10)):
        with pytest.raises(ValueError, match="The input must hold at most 3 exits"):
            CombinedExit("product", 3)(keras.Input(shape[1:]))
