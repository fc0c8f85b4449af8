"""X3D networks for clips of video, whose 3x3x3 convolutions are channelwise."""

import keras
import numpy as np

from keras_adaptive._checks import integer, integer_sequence, integers
from keras_adaptive.layers._data_format import check_channels_last
from keras_adaptive.models._squeeze_and_excite import squeeze_and_excite
from keras_adaptive.models.presets import with_presets
from keras_adaptive.training.adaptive_model import AdaptiveModel

EXPANSION, SQUEEZE = 2.25, 1 / 16
TOP = 2048
# frames and size of a clip, and the blocks of each stage
PRESETS = {
    "x3d_s": {"input_shape": (13, 160, 160, 3), "blocks": (3, 5, 11, 7)},
    "x3d_m": {"input_shape": (16, 224, 224, 3), "blocks": (3, 5, 11, 7)},
    "x3d_l": {"input_shape": (16, 312, 312, 3), "blocks": (5, 10, 25, 15)},
    # its width is printed nowhere: 12, 24, 48 and 96 channels times 2.9, to multiples of eight,
    # have its printed cost and parameters to 1 percent
    "x3d_xl": {
        "input_shape": (16, 312, 312, 3),
        "blocks": (5, 10, 25, 15),
        "width": (32, 72, 136, 280),
    },
}


@with_presets(PRESETS)
def build_x3d(
    input_shape=(16, 224, 224, 3),
    classes=400,
    *,
    preset=None,
    width=24,
    blocks=(3, 5, 11, 7),
    top=TOP,
):
    """Builds an X3D network for clips of video, as a network with one exit.

    A stem convolves over space (1x3x3), then over time (5x1x1). Stages of inverted residual blocks
    follow, which halve height and width and keep every frame; each has a channelwise
    3x3x3 convolution, and every other one squeeze and excitation.

    Grouped 3-D convolutions are not among the operations of LiteRT: these networks train
    and predict, but are not exported.

    Args:
        input_shape: `(frames, height, width, channels)`.
        classes: Integer, the number of classes.
        preset: `"x3d_s"`, `"x3d_m"`, `"x3d_l"` or `"x3d_xl"`; it fills the arguments left out.
            Their clips are those of training; they are tested at 256 (M) and 356 pixels (L, XL).
        width: Integer, channels of the first stage, doubled from stage to stage; or a sequence of
            one per stage.
        blocks: Sequence of integers, the blocks of each stage.
        top: Integer, features before the classifier.

    Returns:
        A compiled `AdaptiveModel` with one exit.

    Example:

    >>> model = build_x3d((4, 16, 16, 1), 10, width=8, blocks=(1, 1), top=16)
    >>> tuple(model.outputs[0].shape)
    (None, 10)

    Reference:
        [X3D (Feichtenhofer, 2020)](https://arxiv.org/abs/2004.04730).
    """
    check_channels_last()
    must = "(frames, height, width, channels), positive integers"
    input_shape = integer_sequence("input_shape", input_shape, 1, must, length=4)
    top = integer("top", top, 1)
    classes = integer("classes", classes, 2)
    blocks = integers(1, **{f"blocks[{i}]": n for i, n in enumerate(blocks)})
    if np.ndim(width) == 0:
        width = [integer("width", width, 1) * 2**stage for stage in range(len(blocks))]
    must = "a positive integer, or a sequence of one per stage"
    widths = integer_sequence("width", width, 1, must, len(blocks))

    clip = keras.Input(input_shape, name="clip")
    x = _convolution(clip, widths[0], (1, 3, 3), 2, "stem_space")
    x = _convolution(x, widths[0], (5, 1, 1), 1, "stem_time", groups=widths[0])
    x = _normalized(x, "stem", "relu")
    for stage, (count, channels) in enumerate(zip(blocks, widths, strict=True)):
        for block in range(count):
            name = f"stage_{stage}_block_{block}"
            x = _block(x, channels, 1 if block else 2, block % 2 == 0, name)
    x = _convolution(x, _inner(x.shape[-1]), (1, 1, 1), 1, "top")
    x = _normalized(x, "top", "relu")
    x = keras.layers.GlobalAveragePooling3D(name="mean")(x)
    x = keras.layers.Dense(top, activation="relu", use_bias=False, name="features")(x)
    x = keras.layers.Dropout(0.5, name="dropout")(x)
    model = AdaptiveModel(clip, [keras.layers.Dense(classes, name="exit_0")(x)], name="x3d")
    model.compile()
    return model


def _inner(channels):
    """Channels inside a block, a multiple of eight."""
    return max(8, int(channels * EXPANSION + 4) // 8 * 8) if channels >= 8 else 2 * channels


def _convolution(x, channels, kernel, strides, name, groups=1):
    return keras.layers.Conv3D(
        channels,
        kernel,
        strides=(1, strides, strides),
        padding="same",
        groups=groups,
        use_bias=False,
        name=f"{name}_conv",
    )(x)


def _normalized(x, name, activation=None):
    x = keras.layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    return keras.layers.Activation(activation, name=f"{name}_act")(x) if activation else x


def _block(inputs, channels, strides, squeeze, name):
    inner = _inner(channels)
    x = _convolution(inputs, inner, (1, 1, 1), 1, f"{name}_expand")
    x = _normalized(x, f"{name}_expand", "relu")
    x = _convolution(x, inner, (3, 3, 3), strides, f"{name}_channelwise", groups=inner)
    x = _normalized(x, f"{name}_channelwise")
    if squeeze:
        narrow = max(8, int(inner * SQUEEZE + 4) // 8 * 8)
        x = squeeze_and_excite(x, narrow, name, "relu")
    x = keras.layers.Activation("swish", name=f"{name}_swish")(x)
    x = _convolution(x, channels, (1, 1, 1), 1, f"{name}_project")
    x = _normalized(x, f"{name}_project")
    shortcut = inputs
    if strides > 1 or inputs.shape[-1] != channels:
        shortcut = _convolution(inputs, channels, (1, 1, 1), strides, f"{name}_shortcut")
        shortcut = _normalized(shortcut, f"{name}_shortcut")
    x = keras.layers.Add(name=f"{name}_add")([x, shortcut])
    return keras.layers.ReLU(name=f"{name}_relu")(x)
