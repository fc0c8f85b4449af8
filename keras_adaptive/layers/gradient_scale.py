"""The identity with a scaled gradient."""

import keras

from keras_adaptive._checks import finite


@keras.saving.register_keras_serializable(package="keras_adaptive")
class GradientScale(keras.layers.Layer):
    """Returns its input unchanged and multiplies the gradient in the backward pass.

    Forward: `y = x`. Backward: `dL/dx = scale * dL/dy`.

    Gradient Equilibrium is made of it: where exit `i` of `k`
    leaves the network, the gradient of its classifier counts `1 / (k - i)` and
    that of the rest of the network `(k - i - 1) / (k - i)`, so that the gradient
    of an early layer does not grow with the number of exits behind it. It has
    no effect at inference.

    Args:
        scale: Float, the factor of the gradient. Not negative.
        **kwargs: Passed to `keras.layers.Layer`.

    Input shape:
        Any.

    Output shape:
        The input's.

    Raises:
        ValueError: If `scale` is not a finite number of at least 0.

    Example:

    >>> float(GradientScale(0.25)(keras.ops.array(3.0)))
    3.0

    Reference:
        [Improved Techniques for Training Adaptive Deep Networks
        (Li et al., 2019)](https://arxiv.org/abs/1908.06294), section 3.1.
    """

    def __init__(self, scale, **kwargs):
        super().__init__(**kwargs)
        self.supports_masking = True
        self.scale = finite(scale, "scale")
        if self.scale < 0:
            raise ValueError(f"`scale` must be at least 0. Received: scale={scale}")

    def call(self, inputs):
        if isinstance(inputs, keras.KerasTensor):  # whose operations are counted: there are none
            return inputs

        @keras.ops.custom_gradient
        def identity(x):
            def backward(*args, upstream=None):
                upstream = args[0] if upstream is None else upstream
                return upstream * keras.ops.cast(self.scale, upstream.dtype)

            return x, backward

        return identity(inputs)

    def compute_output_shape(self, input_shape):
        return input_shape

    def get_config(self):
        return {**super().get_config(), "scale": self.scale}
