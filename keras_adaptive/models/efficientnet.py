"""EfficientNets of any scale, members for cascades whose members are scaled together."""

import math

import keras

from keras_adaptive._checks import check_image, finite, integers
from keras_adaptive.layers._data_format import check_channels_last
from keras_adaptive.layers.batch_normalization import BatchNormalization
from keras_adaptive.models._squeeze_and_excite import squeeze_and_excite
from keras_adaptive.training.adaptive_model import AdaptiveModel

DEPTH, WIDTH, RESOLUTION = 1.2, 1.1, 1.15  # to the power phi
SIZE, STEM, TOP = 224, 32, 1280
# kernel size, repeats, channels, expansion, stride
STAGES = (
    (3, 1, 16, 1, 1),
    (3, 2, 24, 6, 2),
    (5, 2, 40, 6, 2),
    (3, 3, 80, 6, 2),
    (5, 3, 112, 6, 1),
    (5, 4, 192, 6, 2),
    (3, 1, 320, 6, 1),
)
SQUEEZE = 0.25
KERNEL = {"scale": 2.0, "mode": "fan_out", "distribution": "truncated_normal"}
HEAD = {"scale": 1 / 3, "mode": "fan_out", "distribution": "uniform"}


def compound_scaling(phi):
    """Returns EfficientNet's factors of depth, width and resolution.

    They are `1.2**phi`, `1.1**phi` and `1.15**phi`; `phi` may be of any sign. (The
    published B1 to B7 are rounded by hand; this is the formula they come from.)

    Example:

    >>> [round(factor, 3) for factor in compound_scaling(-2)]
    [0.694, 0.826, 0.756]

    Reference:
        [EfficientNet (Tan and Le, 2019)](https://arxiv.org/abs/1905.11946).
    """
    return DEPTH**phi, WIDTH**phi, RESOLUTION**phi


def build_efficientnet(phi=0.0, classes=1000, *, input_shape=None, dropout=0.2):
    """Builds an EfficientNet of a scale, as a network with one exit.

    Inverted residual blocks with squeeze and excitation; depth, width and resolution are
    those of B0 times `compound_scaling(phi)`. Pixels are expected from 0 to 255. No
    weights come with it; `keras.applications` has trained ones for B0 to B7, and those
    networks go into `build_cascade` as they are.

    Args:
        phi: Number, the scale. 0 is B0.
        classes: Integer, the number of classes.
        input_shape: `(height, width, channels)`. `None`: 224 pixels times the scale's
            factor, 3 channels.
        dropout: Number from 0 to 1, of the features before the classifier.

    Returns:
        A compiled `AdaptiveModel` with one exit.

    Raises:
        ValueError: If an argument is impossible.

    Example:

    >>> model = build_efficientnet(-4, 10)
    >>> tuple(model.inputs[0].shape), tuple(model.outputs[0].shape)
    ((None, 128, 128, 3), (None, 10))
    """
    check_channels_last()
    if not abs(finite(phi, "phi")) <= 20:
        raise ValueError(f"`phi` must be a number from -20 to 20. Received: phi={phi}")
    if not 0 <= finite(dropout, "dropout") < 1:
        raise ValueError(f"`dropout` must be from 0 to below 1. Received: dropout={dropout}")
    depth, width, resolution = compound_scaling(phi)
    if input_shape is None:
        input_shape = (round(SIZE * resolution), round(SIZE * resolution), 3)
    input_shape, classes = check_image(input_shape, classes)
    integers(8, height=input_shape[0], width=input_shape[1])

    image = keras.Input(input_shape, name="image")
    x = keras.layers.Rescaling(1 / 255, name="pixels")(image)
    x = _unit(x, _channels(STEM, width), 3, 2, "stem")
    for stage, (kernel, repeats, channels, expansion, strides) in enumerate(STAGES):
        for block in range(math.ceil(depth * repeats)):
            name = f"stage_{stage}_block_{block}"
            channels_out = _channels(channels, width)
            x = _block(x, channels_out, kernel, expansion, 1 if block else strides, name)
    x = _unit(x, _channels(TOP, width), 1, 1, "top")
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    if dropout:
        x = keras.layers.Dropout(dropout, name="dropout")(x)
    head = keras.layers.Dense(classes, kernel_initializer=_initializer(HEAD), name="exit_0")
    model = AdaptiveModel(image, [head(x)], name="efficientnet")
    model.compile()
    return model


def _channels(channels, width):
    """Channels times width, rounded to a multiple of 8, but not down by more than a tenth."""
    wanted = channels * width
    rounded = max(8, int(wanted + 4) // 8 * 8)
    return rounded + 8 if rounded < 0.9 * wanted else rounded


def _initializer(config):
    return keras.initializers.VarianceScaling(**config)


def _unit(x, filters, kernel, strides, name, depthwise=False, activation=True):
    """Convolution, batch normalization, and swish if wanted."""
    padding = "same"
    if strides > 1:
        after = kernel // 2
        before = [after - (1 - n % 2) for n in x.shape[1:3]]
        x = keras.layers.ZeroPadding2D(tuple((b, after) for b in before), name=f"{name}_pad")(x)
        padding = "valid"
    common = {"strides": strides, "padding": padding, "use_bias": False, "name": f"{name}_conv"}
    if depthwise:
        x = keras.layers.DepthwiseConv2D(
            kernel, depthwise_initializer=_initializer(KERNEL), **common
        )(x)
    else:
        x = keras.layers.Conv2D(filters, kernel, kernel_initializer=_initializer(KERNEL), **common)(
            x
        )
    x = BatchNormalization(name=f"{name}_norm")(x)
    return keras.layers.Activation("swish", name=f"{name}_swish")(x) if activation else x


def _block(inputs, filters, kernel, expansion, strides, name):
    x, channels = inputs, inputs.shape[-1]
    if expansion > 1:
        x = _unit(x, channels * expansion, 1, 1, f"{name}_expand")
    x = _unit(x, None, kernel, strides, f"{name}_depthwise", depthwise=True)
    narrow = max(1, int(channels * SQUEEZE))
    start = {"class_name": "VarianceScaling", "config": KERNEL}
    x = squeeze_and_excite(x, narrow, name, "swish", start)
    x = _unit(x, filters, 1, 1, f"{name}_project", activation=False)
    if strides > 1 or filters != channels:
        return x
    return keras.layers.Add(name=f"{name}_add")([x, inputs])
