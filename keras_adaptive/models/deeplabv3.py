"""Segmentation networks with the head of DeepLabv3, members for segmentation cascades."""

import keras

from keras_adaptive import _graph
from keras_adaptive._checks import integer, integers
from keras_adaptive.layers._data_format import check_channels_last
from keras_adaptive.layers.batch_normalization import BatchNormalization

LARGE = 2**12  # pixels, to see by how much a backbone makes an image smaller


@keras.saving.register_keras_serializable(package="keras_adaptive")
class UpsampleLike(keras.layers.Layer):
    """Enlarges the first input, bilinearly, and crops it to the size of the second.

    As `keras.ops.image.resize` by a whole factor, which cannot be used in a compiled
    function where height and width are open.

    Args:
        factor: Integer, how much larger height and width become.

    Input shape:
        Two tensors `(batch, height, width, channels)`.

    Output shape:
        That of the first, with the height and width of the second.
    """

    def __init__(self, factor, **kwargs):
        super().__init__(**kwargs)
        self.factor = integer("factor", factor, 1)

    def call(self, x, like):
        height, width = keras.ops.shape(like)[1:3]
        return self._enlarged(self._enlarged(x, 1), 2)[:, :height, :width]

    def _enlarged(self, x, axis):
        """Each place becomes `factor` places between its neighbors."""
        x = keras.ops.moveaxis(x, axis, 1)
        before = keras.ops.concatenate([x[:, :1], x[:, :-1]], axis=1)
        after = keras.ops.concatenate([x[:, 1:], x[:, -1:]], axis=1)
        places = []
        for i in range(self.factor):
            shift = (i + 0.5) / self.factor - 0.5
            neighbor = before if shift < 0 else after
            places.append((1 - abs(shift)) * x + abs(shift) * neighbor)
        _, length, other, channels = keras.ops.shape(x)
        x = keras.ops.stack(places, axis=2)
        x = keras.ops.reshape(x, (-1, length * self.factor, other, channels))
        return keras.ops.moveaxis(x, 1, axis)

    def compute_output_shape(self, x_shape, like_shape):
        return (x_shape[0], *like_shape[1:3], x_shape[3])

    def get_config(self):
        return {**super().get_config(), "factor": self.factor}


def build_deeplabv3(backbone, classes, *, features=None, channels=256, rates=(6, 12, 18)):
    """Builds a segmentation network with the head of DeepLabv3 on a backbone.

    The features go through a 1x1 convolution, one dilated 3x3 convolution per rate, and
    their mean over the image (atrous spatial pyramid pooling), are joined by a 1x1
    convolution and classified, and the logits are resized to the image. The backbone is
    used as it is: its strides are not turned into dilation.

    Args:
        backbone: Functional `keras.Model` from images to features, for example
            `keras.applications.ResNet50(include_top=False, weights=None)`. With an input
            of open size, the network takes images of any size.
        classes: Integer, the number of classes.
        features: Name of the backbone's layer to read. `None`: its output.
        channels: Integer, of each branch of the head.
        rates: Sequence of integers, the dilations of the 3x3 convolutions.

    Returns:
        A `keras.Model` that gives logits `(batch, height, width, classes)`; not compiled.

    Raises:
        ValueError: If an argument is impossible.

    Example:

    >>> image = keras.Input((None, None, 3))
    >>> backbone = keras.Model(image, keras.layers.Conv2D(8, 3, 2, padding="same")(image))
    >>> model = build_deeplabv3(backbone, 5, channels=4, rates=(1, 2))
    >>> tuple(model(keras.ops.zeros((1, 12, 20, 3))).shape)
    (1, 12, 20, 5)

    Reference:
        [DeepLabv3 (Chen et al., 2017)](https://arxiv.org/abs/1706.05587).
    """
    check_channels_last()
    classes = integer("classes", classes, 2)
    channels, *rates = integers(
        1, channels=channels, **{f"rates[{i}]": r for i, r in enumerate(rates)}
    )
    if not getattr(backbone, "inputs", None) or len(backbone.inputs[0].shape) != 4:
        raise ValueError(
            "`backbone` must be a functional keras.Model that takes images. "
            f"Received: backbone={backbone!r}"
        )
    _graph.check_channels_last(backbone.inputs, backbone.outputs, "backbone")
    names = [layer.name for layer in backbone.layers]
    if features is not None and features not in names:
        raise ValueError(
            f"`features` must be the name of a layer of the backbone. Received: features={features}"
        )
    image = backbone.inputs[0]
    x = backbone.outputs[-1] if features is None else backbone.get_layer(features).output
    if len(getattr(x, "shape", ())) != 4:
        must = "`backbone` must end in a feature map, or give `features=`, the name of a layer"
        if features is not None:
            must = "`features` must be the name of a layer that gives a feature map"
        raise ValueError(
            f"{must}: (batch, height, width, channels). Received: {features or 'an output'} "
            f"of shape {getattr(x, 'shape', None)}"
        )
    factor = _stride(image, x)
    branches = [_unit(x, channels, 1, 1, "pyramid_0")]
    for i, rate in enumerate(rates):
        branches.append(_unit(x, channels, 3, rate, f"pyramid_{i + 1}"))
    mean = keras.layers.GlobalAveragePooling2D(keepdims=True, name="image_mean")(x)
    # joined by a sum: the same as a 1x1 convolution of all side by side
    joined = [
        keras.layers.Conv2D(channels, 1, use_bias=False, name=f"join_{i}")(branch)
        for i, branch in enumerate([*branches, mean])
    ]
    x = keras.layers.Add(name="join")(joined)
    x = BatchNormalization(momentum=0.9, name="join_norm")(x)
    x = keras.layers.ReLU(name="join_relu")(x)
    x = keras.layers.Conv2D(classes, 1, name="classify")(x)
    logits = UpsampleLike(factor, name="logits")(x, image)
    return keras.Model(image, logits, name="deeplabv3")


def _stride(image, features):
    """How many times smaller the features are than the image."""
    if image.shape[1] is not None:
        return -(-image.shape[1] // features.shape[1])
    shape = keras.Model(image, features).compute_output_shape((1, LARGE, LARGE, image.shape[-1]))
    return -(-LARGE // shape[1])


def _unit(x, channels, kernel, rate, name):
    x = keras.layers.Conv2D(
        channels,
        kernel,
        dilation_rate=rate,
        padding="same",
        use_bias=False,
        name=f"{name}_conv",
    )(x)
    x = BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)
    return keras.layers.ReLU(name=f"{name}_relu")(x)
