"""Squeeze and excitation: every channel is scaled by what the means of all channels say."""

import keras

LAYERS = {  # by rank of the features
    4: (keras.layers.GlobalAveragePooling2D, keras.layers.Conv2D),
    5: (keras.layers.GlobalAveragePooling3D, keras.layers.Conv3D),
}


def squeeze_and_excite(x, narrow, name, activation, kernel_initializer="glorot_uniform"):
    """Returns the features times their gate, `sigmoid(W2 activation(W1 mean(x)))`.

    Args:
        x: Features of images or clips, channels last.
        narrow: Integer, the channels of `W1`.
        name: String, the prefix of the layers' names.
        activation: String, between the two products.
        kernel_initializer: String or dictionary, of each product.

    Reference:
        [Squeeze-and-Excitation Networks (Hu et al., 2018)](https://arxiv.org/abs/1709.01507).
    """
    pool, convolution = LAYERS[len(x.shape)]
    gate = pool(keepdims=True, name=f"{name}_squeeze")(x)
    for filters, function, part in (
        (narrow, activation, "reduce"),
        (x.shape[-1], "sigmoid", "excite"),
    ):
        gate = convolution(
            filters,
            1,
            activation=function,
            kernel_initializer=kernel_initializer,
            name=f"{name}_{part}",
        )(gate)
    return keras.layers.Multiply(name=f"{name}_gate")([x, gate])
