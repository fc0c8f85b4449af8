"""Batch normalization: what Keras computes, forward, backward and in the moving statistics."""

import keras
import numpy as np
import pytest
import tensorflow as tf
from hypothesis import given, settings
from hypothesis import strategies as st

from keras_adaptive.layers import BatchNormalization

TOLERANCE = {"float32": 1e-4, "mixed_bfloat16": 2e-2}


def learned(kind, x, weights, upstream, **arguments):
    """Returns output, gradients, and moving statistics of one training step."""
    layer = kind(**arguments)
    layer.build(x.shape)
    layer.set_weights(weights[-len(layer.weights) :])
    x = tf.cast(x, layer.compute_dtype)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = layer(x, training=True)
        loss = tf.reduce_sum(tf.cast(y, "float32") * upstream)
    variables = [v.value for v in layer.trainable_variables]
    found = [y, *tape.gradient(loss, [x, *variables]), *layer.non_trainable_variables]
    return [keras.ops.convert_to_numpy(keras.ops.cast(f, "float32")) for f in found]


@pytest.mark.parametrize("dtype", TOLERANCE)
@settings(max_examples=15)
@given(
    shape=st.tuples(st.integers(2, 5), st.integers(1, 6), st.integers(1, 6)),
    channels=st.sampled_from([1, 3, 6, 16, 20, 32]),
    options=st.fixed_dictionaries(
        {
            "momentum": st.sampled_from([0.0, 0.9, 0.99]),
            "epsilon": st.sampled_from([1e-5, 1e-3]),
            "center": st.booleans(),
            "scale": st.booleans(),
        }
    ),
    seed=st.integers(0, 2**16),
)
def test_a_training_step_is_that_of_keras(dtype, shape, channels, options, seed):
    rng = np.random.default_rng(seed)
    x = rng.normal(1, 2, (*shape, channels)).astype("float32")
    upstream = rng.normal(size=x.shape).astype("float32")
    count = 2 + options["center"] + options["scale"]
    weights = [rng.uniform(0.5, 2, channels).astype("float32") for _ in range(count)]
    ours, theirs = (
        learned(kind, x, weights, upstream, dtype=dtype, **options)
        for kind in (BatchNormalization, keras.layers.BatchNormalization)
    )
    for found, expected in zip(ours, theirs, strict=True):
        # a nearly constant channel has gradients as large as 1 / sqrt(epsilon)
        scale = max(1.0, np.abs(expected).max())
        np.testing.assert_allclose(found, expected, atol=scale * TOLERANCE[dtype])


def test_it_is_differentiable_where_the_batch_size_is_open(rng):
    layer = BatchNormalization()
    layer.build((None, 4, 4, 6))

    @tf.function(input_signature=[tf.TensorSpec((None, 4, 4, 6))])
    def gradient(x):
        with tf.GradientTape() as tape:
            loss = tf.reduce_sum(layer(x, training=True) ** 3)
        return tape.gradient(loss, layer.gamma.value)

    for count in (2, 5):
        assert np.isfinite(gradient(rng.normal(size=(count, 4, 4, 6)).astype("float32"))).all()


def test_a_frozen_layer_keeps_its_statistics(rng):
    layer = BatchNormalization(trainable=False)
    x = rng.normal(3, 1, (4, 5, 5, 6)).astype("float32")
    np.testing.assert_allclose(layer(x, training=True), x / np.sqrt(1 + 1e-3), rtol=1e-5)
    np.testing.assert_array_equal(layer.moving_mean, np.zeros(6))


def test_a_mask_leaves_images_out_of_the_statistics(rng):
    layer = BatchNormalization(momentum=0.0)
    x = rng.normal(size=(4, 5, 5, 6)).astype("float32")
    mask = np.zeros((4, 5, 5), bool)
    mask[:2] = True
    layer(x, training=True, mask=mask)
    np.testing.assert_allclose(layer.moving_mean, x[:2].mean((0, 1, 2)), atol=1e-5)


def test_weights_of_keras_own_layer_load(rng, tmp_path):
    def model(kind):
        return keras.Sequential([keras.Input((4, 4, 3)), kind()])

    theirs, ours = model(keras.layers.BatchNormalization), model(BatchNormalization)
    theirs.layers[0].set_weights([rng.uniform(1, 2, 3) for _ in range(4)])
    theirs.save_weights(tmp_path / "net.weights.h5")
    ours.load_weights(tmp_path / "net.weights.h5")
    for found, expected in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_array_equal(found, expected)


@pytest.mark.parametrize(
    ("shape", "arguments"),
    [
        ((4, 5, 3, 6), {"axis": 1}),
        ((4, 5, 3, 6), {"axis": 2}),
        ((4, 5, 3, 6), {"axis": 3}),
        ((4, 5, 3, 6), {"dtype": "float64"}),
        ((4, 5, 6), {}),
        ((4, 6), {}),
        ((2, 3, 4, 5, 6), {}),
    ],
)
def test_what_is_no_image_is_left_to_keras(rng, shape, arguments):
    x, upstream = rng.normal(size=(2, *shape))
    channels = shape[arguments.get("axis", -1)]
    weights = [rng.uniform(0.5, 2, channels).astype("float32") for _ in range(4)]
    ours, theirs = (
        learned(kind, x, weights, upstream.astype("float32"), **arguments)
        for kind in (BatchNormalization, keras.layers.BatchNormalization)
    )
    for found, expected in zip(ours, theirs, strict=True):
        np.testing.assert_allclose(found, expected, atol=1e-4)
