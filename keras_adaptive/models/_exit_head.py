"""The classifier of an exit in a network of stages."""

import keras

from keras_adaptive.layers.early_exit import EarlyExit
from keras_adaptive.models._stem import check_can_be_halved


def exit_head(x, classes, name, convolutions=(), pools=None):
    """Applies the classifier of an exit and returns its logits.

    Args:
        x: Symbolic features.
        classes: Integer.
        name: String, of the `EarlyExit`.
        convolutions: As in `EarlyExit`.
        pools: Integer: so many 2x2 maximum poolings come first, and convolutions keep the size
            (DDI). `None`: convolutions halve it (MSDNet).
    """
    for i in range(pools or 0):
        check_can_be_halved(x)
        x = keras.layers.MaxPooling2D(2, name=f"{name}_pool_{i}")(x)
    strides = 2 if pools is None else 1
    return EarlyExit(classes, convolutions, strides=strides, name=name)(x)
