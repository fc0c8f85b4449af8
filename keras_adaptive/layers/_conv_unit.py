"""Convolution, batch normalization, ReLU: the unit most networks here are made of."""

import keras

from keras_adaptive.layers._data_format import check_channels_last
from keras_adaptive.layers.batch_normalization import BatchNormalization

# He et al. (2015), fan-out: N(0, sqrt(2 / (k * k * filters))), as MSDNet is initialized.
HE_FAN_OUT = {"scale": 2.0, "mode": "fan_out", "distribution": "untruncated_normal"}


def conv_unit(filters, kernel_size, *, strides=1, use_bias=False, name, dtype=None):
    """Returns the layers of one convolution unit, in the order they are applied.

    The layers are Keras's, not one composite, so that converters and other libraries
    recognize them.

    Args:
        filters: Integer, the number of output channels.
        kernel_size: Odd integer.
        strides: Integer.
        use_bias: Boolean. Batch normalization makes a bias useless; one
            published stem has it nevertheless.
        name: String, the prefix of the layers' names.
        dtype: The dtype policy of the layers.
    """
    return [
        *conv(
            filters,
            kernel_size,
            strides=strides,
            use_bias=use_bias,
            name=name,
            dtype=dtype,
        ),
        *norm_relu(name, dtype),
    ]


def norm_relu(name, dtype=None):
    """Returns batch normalization and ReLU, which a pre-activation unit begins with."""
    return [
        BatchNormalization(momentum=0.9, epsilon=1e-5, name=f"{name}_norm", dtype=dtype),
        keras.layers.ReLU(name=f"{name}_relu", dtype=dtype),
    ]


def conv(filters, kernel_size, *, strides=1, use_bias=False, name, dtype=None):
    """Returns the layers of a convolution alone.

    The input is padded by `(kernel_size - 1) // 2` on every side, also when the
    stride is 2. (`padding="same"` pads an even image with stride 2 on one side
    only, which moves the picture by half a pixel.)
    """
    check_channels_last()
    padded = strides > 1 and kernel_size > 1
    layers = [
        keras.layers.Conv2D(
            filters,
            kernel_size,
            strides=strides,
            padding="valid" if padded else "same",
            use_bias=use_bias,
            kernel_initializer=keras.initializers.VarianceScaling(**HE_FAN_OUT),
            name=f"{name}_conv",
            dtype=dtype,
        )
    ]
    if padded:
        pad = keras.layers.ZeroPadding2D(kernel_size // 2, name=f"{name}_pad", dtype=dtype)
        layers.insert(0, pad)
    return layers


def apply_layers(layers, x, kept=None, training=None):
    """Applies layers one after the other.

    Args:
        layers: List of layers.
        x: The first one's input.
        kept: `None`, or booleans `(batch,)`: the images whose statistics normalizations use.
        training: As in `keras.layers.Layer`.
    """
    for layer in layers:
        if isinstance(layer, keras.layers.BatchNormalization) and kept is not None:
            everywhere = keras.ops.shape(x)[:-1]
            mask = keras.ops.reshape(kept, (-1,) + (1,) * (len(x.shape) - 2))
            x = layer(x, training=training, mask=keras.ops.broadcast_to(mask, everywhere))
            x = keras.ops.reshape(x, keras.ops.shape(x))  # Keras would hand the mask on
        elif training is not None and isinstance(layer, keras.layers.BatchNormalization):
            x = layer(x, training=training)
        else:
            x = layer(x)
    return x
