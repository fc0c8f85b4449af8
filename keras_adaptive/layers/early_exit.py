"""A classifier head that lets easy inputs leave the network early."""

import keras

from keras_adaptive._checks import check_choice, finite, integer
from keras_adaptive.layers._conv_unit import HE_FAN_OUT, apply_layers, conv_unit
from keras_adaptive.layers._data_format import check_channels_last
from keras_adaptive.layers.batch_normalization import BatchNormalization

# torch.nn.Linear's and Lua's: uniform in +-1/sqrt(inputs).
DENSE_INITIALIZER = {"scale": 1 / 3, "mode": "fan_in", "distribution": "uniform"}
COLLABORATIONS = (None, "identity", "dense")
HALF = ("float16", "bfloat16")
POOLINGS = ("mean", "max", "first", "last")


@keras.saving.register_keras_serializable(package="keras_adaptive")
class EarlyExit(keras.layers.Layer):
    """Classifies intermediate features, so that easy inputs can stop here.

    The features go through the convolutions, if any, are averaged over every
    axis between the batch and the channels, and are mapped to one logit per class:
    `logits = kernel . mean(features) + bias`. With a mask (`Embedding(mask_zero=True)`,
    `Masking`) the mean is over what it keeps, so that padding changes nothing; where it
    keeps nothing, the mean is 0. In place of the mean, `pooling` takes the largest of the
    steps, the first one (a class token) or the last one that the mask keeps.

    With `collaboration`, the head also reads the logits of the exit before it:
    `"identity"` adds them to its own, times `collaboration_weight`: with 0.5, exit `n` of
    a network answers `F_n = f_n + 0.5 * F_{n-1}` (BoostNet); `"dense"` turns them into an
    embedding `ReLU(BN(dense(previous)))` as wide as its own features and classifies both
    side by side.

    Logits are float32 also where the layer computes in half precision.

    The layer never decides whether to stop. It only offers an answer;
    `ExitPolicy` reads the answers of all exits and takes the first one
    that is confident enough. Training and inference differ only through
    the batch normalization of `convolutions` and of `"dense"`.

    Args:
        classes: Integer, the number of classes. At least 2.
        convolutions: Sequence of integers, the channels of the convolution units
            (convolution, batch normalization, ReLU) before the average. They
            take features of rank 4. MSDNet's heads have `(128, 128)`.
        kernel_size: Odd integer, of the convolutions.
        strides: Integer, of the convolutions.
        collaboration: `None`, `"identity"` or `"dense"`.
        stop_gradient: Boolean, whether the exit before is shielded from this
            exit's gradient. Only with `collaboration`.
        pooling: `"mean"`, `"max"`, or, of sequences `(batch, steps, channels)`, `"first"` or
            `"last"`: what is kept of all places.
        collaboration_weight: Positive number, times the logits of the exit before. Other
            than 1 with `"identity"` only.
        **kwargs: Passed to `keras.layers.Layer`, for example `name="exit_1"`.

    Call arguments:
        features: `(batch, ..., channels)`, of rank 2 or more; rank 4 with
            `convolutions`.
        previous: `(batch, classes)`, the logits of the exit before. Needed with
            `collaboration`, refused without.
        mask: Booleans `(batch, ...)`, the steps that count, as Keras hands them on; none
            with `convolutions`, which would read across steps that do not count.

    Output shape:
        `(batch, classes)`, unnormalized logits.

    Raises:
        ValueError: If an argument is impossible, `previous` is missing or
            not expected, or channels come first.

    Example:

    >>> features = keras.ops.ones((2, 8, 8, 16))
    >>> logits = EarlyExit(classes=10)(features)
    >>> tuple(logits.shape)
    (2, 10)
    >>> tuple(EarlyExit(10, collaboration="identity")(features, logits).shape)
    (2, 10)

    References:
        [BranchyNet (Teerapittayanon et al., 2016)](
        https://arxiv.org/abs/1709.01686);
        [MSDNet (Huang et al., 2018)](https://arxiv.org/abs/1703.09844);
        collaboration: [Improved Techniques for Training Adaptive Deep Networks
        (Li et al., 2019)](https://arxiv.org/abs/1908.06294), section 3.2;
        its weight: [Boosted Dynamic Neural Networks
        (Yu et al., 2023)](https://arxiv.org/abs/2211.16726).
    """

    def __init__(
        self,
        classes,
        convolutions=(),
        kernel_size=3,
        strides=2,
        collaboration=None,
        stop_gradient=True,
        collaboration_weight=1.0,
        pooling="mean",
        **kwargs,
    ):
        super().__init__(**kwargs)
        self.supports_masking = True
        classes, strides = integer("classes", classes, 2), integer("strides", strides, 1)
        convolutions = tuple(
            integer(f"convolutions[{i}]", c, 1) for i, c in enumerate(convolutions)
        )
        kernel_size = integer("kernel_size", kernel_size, 1)
        if kernel_size % 2 == 0:
            raise ValueError(f"`kernel_size` must be odd. Received: kernel_size={kernel_size}")
        check_choice(COLLABORATIONS, collaboration=collaboration)
        check_choice(POOLINGS, pooling=pooling)
        collaboration_weight = checked_weight(collaboration, collaboration_weight)
        self.classes = classes
        self.convolutions = convolutions
        self.kernel_size = kernel_size
        self.strides = strides
        self.collaboration = collaboration
        self.stop_gradient = bool(stop_gradient)
        self.collaboration_weight = collaboration_weight
        self.pooling = pooling
        self.units = [
            layer
            for i, channels in enumerate(self.convolutions)
            for layer in conv_unit(
                channels,
                kernel_size,
                strides=strides,
                name=f"convolution_{i}",
                dtype=self.dtype_policy,
            )
        ]
        self.logits = keras.layers.Dense(
            classes,
            kernel_initializer=keras.initializers.VarianceScaling(**DENSE_INITIALIZER),
            dtype="float32" if self.compute_dtype in HALF else self.dtype_policy,
            name="logits",
        )

    def build(self, features_shape, previous_shape=None):
        shape = tuple(features_shape)
        if len(shape) > 2:
            check_channels_last()
        if self.pooling in ("first", "last") and len(shape) != 3:
            raise ValueError(
                "`pooling` must be 'mean' or 'max' where features are not those of steps. "
                f"Received: pooling={self.pooling!r}, features of shape {shape}"
            )
        for layer in self.units:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        channels = shape[-1]
        if self.collaboration == "dense":
            self.embedding = [
                keras.layers.Dense(
                    channels,
                    kernel_initializer=keras.initializers.VarianceScaling(**HE_FAN_OUT),
                    dtype=self.dtype_policy,
                    name="previous_dense",
                ),
                BatchNormalization(
                    momentum=0.9, epsilon=1e-5, dtype=self.dtype_policy, name="previous_norm"
                ),
                keras.layers.ReLU(dtype=self.dtype_policy, name="previous_relu"),
            ]
            self.embedding[0].build((shape[0], self.classes))
            self.embedding[1].build((shape[0], channels))
            channels = 2 * channels
        self.logits.build((shape[0], channels))

    def call(self, features, previous=None, mask=None, features_mask=None):
        if (previous is None) != (self.collaboration is None):
            raise ValueError(
                "`previous`, the logits of the exit before, must be given with "
                "`collaboration` and only then. "
                f"Received: previous={previous}, collaboration={self.collaboration}"
            )
        mask = features_mask if mask is None else mask  # as Keras names it beside `previous`
        if mask is not None and self.units:
            raise ValueError(
                "`convolutions` must be empty where features have a mask. "
                f"Received: convolutions={self.convolutions}"
            )
        features = _pooled(apply_layers(self.units, features), mask, self.pooling)
        if previous is not None and self.stop_gradient:
            previous = keras.ops.stop_gradient(previous)
        if self.collaboration == "dense":
            features = keras.ops.concatenate(
                [features, apply_layers(self.embedding, previous)], axis=-1
            )
        logits = self.logits(features)
        if self.collaboration != "identity":
            return logits
        if self.collaboration_weight != 1:
            previous = self.collaboration_weight * previous
        return logits + keras.ops.cast(previous, logits.dtype)

    def compute_output_shape(self, features_shape, previous_shape=None):
        return (features_shape[0], self.classes)

    def compute_output_spec(self, features, previous=None, mask=None, features_mask=None):
        shape = self.compute_output_shape(features.shape)
        return keras.KerasTensor(shape, self.logits.compute_dtype)

    def compute_mask(self, features, previous=None, mask=None):
        return None

    def get_config(self):
        return {
            **super().get_config(),
            "classes": self.classes,
            "convolutions": self.convolutions,
            "kernel_size": self.kernel_size,
            "strides": self.strides,
            "collaboration": self.collaboration,
            "stop_gradient": self.stop_gradient,
            "collaboration_weight": self.collaboration_weight,
            "pooling": self.pooling,
        }


def checked_weight(collaboration, collaboration_weight):
    """Returns the weight of the logits of the exit before as a float.

    Raises:
        ValueError: If it is not positive, or nothing is multiplied by it.
    """
    weight = finite(collaboration_weight, "collaboration_weight")
    if not weight > 0:
        raise ValueError(
            "`collaboration_weight` must be positive. "
            f"Received: collaboration_weight={collaboration_weight}"
        )
    if weight != 1 and collaboration != "identity":
        raise ValueError(
            '`collaboration_weight` must be 1 without `collaboration="identity"`. '
            f"Received: collaboration_weight={collaboration_weight}, collaboration={collaboration}"
        )
    return weight


def _pooled(features, mask, pooling):
    """Returns what is kept of all places, `(batch, channels)`."""
    if len(features.shape) == 2:
        return features
    if pooling == "mean":
        return _mean(features, mask)
    if pooling == "first":
        return features[:, 0]
    if mask is not None:
        mask = keras.ops.cast(mask, "bool")
        mask = keras.ops.reshape(mask, (*keras.ops.shape(mask), *(1,) * _missing(features, mask)))
    if pooling == "max":
        places = tuple(range(1, len(features.shape) - 1))
        if mask is not None:  # the least of all places is no more than the most of those kept
            least = keras.ops.min(features, axis=places, keepdims=True)
            features = keras.ops.where(mask, features, least)
        return keras.ops.max(features, axis=places)
    if mask is None:
        return features[:, -1]
    kept = keras.ops.cast(mask, features.dtype)
    behind = keras.ops.flip(keras.ops.cumsum(keras.ops.flip(kept, 1), axis=1), 1)
    last = keras.ops.cast(keras.ops.equal(behind, 1), features.dtype) * kept
    return keras.ops.sum(keras.ops.where(mask, features, 0) * last, axis=1)


def _missing(features, mask):
    return len(features.shape) - len(mask.shape)


def _mean(features, mask=None):
    """Returns the mean of `(batch, ..., channels)` over every axis between, where the mask is."""
    rank, masked = len(features.shape), 1 if mask is None else len(mask.shape)
    if masked >= rank:  # handed on to features that have no such steps any more
        masked = 1
    unmasked = tuple(range(masked, rank - 1))
    if unmasked:
        features = keras.ops.mean(features, axis=unmasked)
    if masked == 1:
        return features
    between = tuple(range(1, masked))
    mask = keras.ops.expand_dims(keras.ops.cast(mask, "bool"), -1)
    kept = keras.ops.cast(mask, features.dtype)
    count = keras.ops.sum(kept, axis=between, keepdims=True)
    weights = kept / keras.ops.maximum(count, keras.ops.ones_like(count))
    return keras.ops.sum(keras.ops.where(mask, features, 0) * weights, axis=between)
