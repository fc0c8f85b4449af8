"""A gate that decides per image which channels of a block are computed."""

import keras

from keras_adaptive._checks import check_choice, integer
from keras_adaptive.layers._conv_unit import apply_layers, conv, norm_relu
from keras_adaptive.layers._data_format import check_channels_last
from keras_adaptive.layers._straight_through import straight_through
from keras_adaptive.layers.skip_gate import OPEN_AT_FIRST


@keras.saving.register_keras_serializable(package="keras_adaptive")
class ChannelGate(keras.layers.Layer):
    """Decides from a block's input which of its output channels are worth computing.

        p = sigmoid(dense . mean(relu(convolution(features))) + bias)
        forward:   gates = 1[p > 0.5]
        backward:  d gates / d p = 1

    with a 3x3 convolution of stride 2 that keeps the number of channels: an eighth of the
    cost of a ResNet block. With `bottleneck` (for dense layers, whose input is wide) it is a
    1x1 convolution of stride 2 to `bottleneck` channels and a 3x3 convolution to `channels`,
    each after a normalization and ReLU.

    Closed channels lower the count of MACs only; latency does not change. A channel that is
    closed for one image is open for another, and neither the host nor a phone has a
    convolution that omits single filters faster than it computes them all; only whole
    blocks are really skipped.

    Args:
        channels: Integer, the number of channels decided on.
        bottleneck: Integer, the width of the light form, or `None`.
        return_probability: Boolean, whether the probabilities are returned too.
        forced: `None`: the gate decides. Boolean: all channels are open, or closed.
        soft: Boolean: while it learns, gates are the probabilities themselves.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        features: `(batch, height, width, any)`.
        kept: `None`, or booleans `(batch,)`: the images whose statistics the normalizations of
            the light form use.

    Output shape:
        `(batch, channels)`, zeros and ones; with `return_probability` a list of these and
        the probabilities.

    Raises:
        ValueError: If an argument is impossible, or channels come first.

    Example:

    >>> gates = ChannelGate(16)(keras.ops.ones((2, 8, 8, 16)))
    >>> tuple(gates.shape)
    (2, 16)

    Reference:
        [Dual Dynamic Inference (Wang et al., 2019)](https://arxiv.org/abs/1907.04523),
        section III.
    """

    def __init__(
        self,
        channels,
        bottleneck=None,
        return_probability=False,
        forced=None,
        soft=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_channels_last()
        channels = integer("channels", channels, 1)
        if bottleneck is not None:
            bottleneck = integer("bottleneck", bottleneck, 1)
        check_choice((None, True, False), forced=forced)
        self.channels = channels
        self.bottleneck = bottleneck
        self.return_probability = bool(return_probability)
        self.forced = None if forced is None else bool(forced)
        self.soft = bool(soft)
        self.pool = keras.layers.GlobalAveragePooling2D(dtype=self.dtype_policy, name="average")
        self.decision = keras.layers.Dense(
            channels,
            bias_initializer=keras.initializers.Constant(OPEN_AT_FIRST),
            activation="sigmoid",
            dtype=self.dtype_policy,
            name="decision",
        )

    def build(self, features_shape):
        policy = self.dtype_policy
        shape = tuple(features_shape)
        if self.bottleneck is None:
            self.convolutions = [
                *conv(shape[-1], 3, strides=2, use_bias=True, name="convolution", dtype=policy),
                keras.layers.ReLU(dtype=policy, name="relu"),
            ]
        else:
            self.convolutions = [
                *norm_relu("narrow", policy),
                *conv(self.bottleneck, 1, strides=2, name="narrow", dtype=policy),
                *norm_relu("convolution", policy),
                *conv(self.channels, 3, name="convolution", dtype=policy),
            ]
        for layer in self.convolutions:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        self.decision.build((None, shape[-1]))

    def call(self, features, kept=None, training=None):
        features = apply_layers(self.convolutions, features, kept, training)
        probability = self.decision(self.pool(features))
        if self.forced is None:
            gates = probability if self.soft and training else straight_through(probability)
        else:
            gates = keras.ops.full_like(probability, float(self.forced))
        return [gates, probability] if self.return_probability else gates

    def compute_output_spec(self, features, kept=None, training=None):
        shape = (features.shape[0], self.channels)
        specs = [keras.KerasTensor(shape, self.compute_dtype) for _ in range(2)]
        return specs if self.return_probability else specs[0]

    def get_config(self):
        return {
            **super().get_config(),
            "channels": self.channels,
            "bottleneck": self.bottleneck,
            "return_probability": self.return_probability,
            "forced": self.forced,
            "soft": self.soft,
        }
