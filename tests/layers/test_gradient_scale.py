import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_adaptive import costs
from keras_adaptive.layers import GradientScale


@pytest.mark.parametrize("scale", [0, 0.25, 1, 3.0])
def test_keeps_the_value_and_scales_the_gradient(rng, scale):
    x = tf.constant(rng.normal(size=(2, 3)) * 1e10, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(x)
        y = GradientScale(scale)(x)
        loss = tf.reduce_sum(y)
    np.testing.assert_array_equal(y, x)
    np.testing.assert_array_equal(tape.gradient(loss, x), np.full((2, 3), scale, "float32"))


@pytest.mark.parametrize("scale", [-1, float("nan"), "1", None, True])
def test_rejects_impossible_scale(scale):
    with pytest.raises(ValueError, match=f"Received: scale={scale!r}"):
        GradientScale(scale)


def test_costs_nothing():
    image = keras.Input((4,))
    logits = keras.layers.Dense(2)(GradientScale(0.5)(image))
    assert costs.exit_costs([image], [logits]).tolist() == [8]
