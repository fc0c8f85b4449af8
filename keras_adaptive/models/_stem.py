"""The stem of a network for images: which kind, and the layers of ImageNet's."""

import keras

from keras_adaptive._checks import check_choice
from keras_adaptive.layers._conv_unit import apply_layers, conv_unit

STEMS = (None, "cifar", "imagenet")
IMAGENET_FROM = 128  # pixels: the smallest side for which `stem=None` means "imagenet"


def stem_for(stem, input_shape):
    """Returns the stem, checked; where it is `None`, the one for images of this size."""
    check_choice(STEMS, stem=stem)
    if stem is not None:
        return stem
    return "imagenet" if min(input_shape[:2]) >= IMAGENET_FROM else "cifar"


def check_can_be_halved(x):
    """Raises an error where a 2x2 pooling would leave nothing of an image's features."""
    height, width = x.shape[1:3]
    if min(height, width) < 2:
        raise ValueError(
            "`input_shape` must be large enough for the network's poolings, each of which halves "
            f"height and width. Received: features of {height} x {width} before a pooling"
        )


def imagenet_stem(x, channels, name, use_bias=False):
    """Applies a 7x7 convolution unit with stride 2, then 3x3 max pooling with stride 2."""
    x = apply_layers(conv_unit(channels, 7, strides=2, use_bias=use_bias, name=name), x)
    # after a ReLU, padding with zeros is padding with minus infinity
    x = keras.layers.ZeroPadding2D(1, name=f"{name}_pool_pad")(x)
    return keras.layers.MaxPooling2D(3, 2, name=f"{name}_pool")(x)
