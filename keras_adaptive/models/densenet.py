"""DenseNets with early exits and gates."""

import math

import keras
import numpy as np

from keras_adaptive._checks import (
    check_choice,
    check_image,
    finite,
    integer,
    integer_sequence,
)
from keras_adaptive.layers._conv_unit import apply_layers, conv, norm_relu
from keras_adaptive.layers._data_format import check_channels_last
from keras_adaptive.models._exit_head import exit_head
from keras_adaptive.models._exit_positions import exit_positions
from keras_adaptive.models._gating import Gating
from keras_adaptive.models._stem import check_can_be_halved, imagenet_stem, stem_for
from keras_adaptive.models.presets import with_presets
from keras_adaptive.training.adaptive_model import AdaptiveModel

IMAGENET_DEPTHS = {
    121: (6, 12, 24, 16),
    169: (6, 12, 32, 32),
    201: (6, 12, 48, 32),
}
IMAGENET = {
    "input_shape": (224, 224, 3),
    "classes": 1000,
    "stem": "imagenet",
    "growth_rate": 32,
}
PRESETS = {
    # MSDNet's baseline: two exits in each of three blocks of eight layers. Its 3e8 operations
    # are two a MAC, heads included, to 3 percent.
    "densenet_mc": {"depth": 52, "growth_rate": 12, "exits": (3, 6, 11, 14, 19, 22)},
    # MSDNet's DenseNet*, growth doubled after every transition. Its sizes are not published: these
    # cost what DenseNet-BC-100 of growth 12 does, to 3 percent
    "densenet_star": {"depth": 100, "growth_rate": (8, 16, 32)},
    **{f"imagenet_{depth}": {**IMAGENET, "depth": depth} for depth in IMAGENET_DEPTHS},
    # DDI: after half of the first block, and a quarter and three quarters "of the remaining two,
    # respectively", which are three: read as those of the second and of the third
    "ddi_imagenet_201": {**IMAGENET, "depth": 201, "exits": (3, 9, 54), "pooled_exits": True},
}
BOTTLENECK = 4  # times the growth rate


@with_presets(PRESETS)
def build_densenet(
    input_shape=(32, 32, 3),
    classes=10,
    *,
    preset=None,
    weights=None,
    depth=100,
    growth_rate=12,
    reduction=0.5,
    bottleneck=True,
    stem=None,
    exits=None,
    head_channels=None,
    pooled_exits=False,
    gates=None,
    gate_kind="recurrent",
    soft_gates=False,
):
    """Builds a densely connected network, compiled with the recipe of `build_msdnet`.

    Layer `l` of a block reads all features before it: `x_l = concat(x_{l-1}, layer(x_{l-1}))`
    with `layer` normalization, ReLU, 3x3 convolution to `growth_rate` channels; with
    `bottleneck`, a normalization, ReLU and 1x1 convolution to four times as many come first.
    Between blocks a 1x1 convolution keeps a share `reduction` of the channels and an average
    halves the size. With gates, a skipped layer gives what the layer before it gave.

    Args:
        input_shape: `(height, width, channels)`.
        classes: Integer, the number of classes.
        preset: Name of a published configuration; it fills the arguments left out.
            `densenet_mc` (52 layers, seven exits), `densenet_star`, `imagenet_121`,
            `_169`, `_201`, `ddi_imagenet_201` (four exits).
        weights: Path of a `.weights.h5` file to load, or `None`: random.
        depth: Integer. For small images `6 n + 4` with bottlenecks, `3 n + 4` without, of
            three blocks of `n` layers. With the ImageNet stem 121, 169 or 201.
        growth_rate: Integer, channels that each layer adds; or a sequence of one per block.
        reduction: Number from 0 (excluded) to 1.
        bottleneck: Boolean.
        stem: `"cifar"`: a 3x3 convolution; `"imagenet"`: 7x7 with stride 2, then pooling.
            `None`: by the image's size, ImageNet from 128 pixels.
        exits: Where early exits stand: `None`: only the last exit; an integer: so many exits
            in all, after equal shares of the layers; a sequence of integers: after so many
            dense layers; a sequence of numbers between 0 and 1: after these shares of every
            block.
        head_channels: Integer, channels of the two convolutions of an early exit. `None`: 64;
            256 with the ImageNet stem.
        pooled_exits: Boolean, whether an early exit first shrinks its features to the size of the
            last block, by 2x2 maximum pooling, and its convolutions then keep it. False:
            convolutions of stride 2.
        gates: What may be skipped, decided per image: `None`: nothing; `"layer"`: whole
            layers, as one recurrent `SkipGate` decides; `"channel"`: channels, as one
            `ChannelGate` per layer decides; `"both"`. A block's first layer has no gate.
            Skipped channels lower the MAC count only, and latency does not change (see
            `ChannelGate`); skipped layers lower both.
        gate_kind: Of the gates of layers: `"recurrent"`, or `"feedforward"` or
            `"feedforward_deep"`, one gate per gated layer, which reads all features before it and
            so costs more than the layer; see `SkipGate`.
        soft_gates: Boolean, whether gates are probabilities while they learn (SkipNet's soft
            form), in place of hard ones with straight-through gradients.

    Returns:
        An `AdaptiveModel`.

    Raises:
        ValueError: If an argument is impossible.

    Example:

    >>> build_densenet(depth=40).exit_costs().tolist()  # 72,364,032 + 1,320
    [72365352.0]

    References:
        [Dual Dynamic Inference (Wang et al., 2019)](https://arxiv.org/abs/1907.04523);
        [Densely Connected Convolutional Networks (Huang et al., 2017)](
        https://arxiv.org/abs/1608.06993);
        [Multi-Scale Dense Networks (Huang et al., 2018)](https://arxiv.org/abs/1703.09844),
        section 5: DenseNet with several classifiers.
    """
    check_channels_last()
    input_shape, classes = check_image(input_shape, classes)
    depth = integer("depth", depth, 1)
    check_choice((True, False), bottleneck=bottleneck, pooled_exits=pooled_exits)
    if not 0 < finite(reduction, "reduction") <= 1:
        raise ValueError(
            f"`reduction` must be above 0 and at most 1. Received: reduction={reduction}"
        )
    stem = stem_for(stem, input_shape)
    if head_channels is None:
        head_channels = 256 if stem == "imagenet" else 64
    head_channels = integer("head_channels", head_channels, 1)
    blocks = _blocks(depth, bottleneck, stem)
    growths = _growths(growth_rate, blocks)
    early = exit_positions(exits, blocks)

    gating = Gating(gates, gate_kind, soft_gates)
    inputs = keras.Input(input_shape, name="image")
    x = _stem(inputs, growths[0], bottleneck, stem)
    outputs, done = [], 0
    for block, (layers, growth) in enumerate(zip(blocks, growths, strict=True)):
        if block > 0:
            x = _transition(x, reduction, f"block_{block}_transition")
        new = None
        for i in range(layers):
            name = f"block_{block}_layer_{i}"
            layer = _dense_layer(growth, bottleneck, name)
            if gating.any and i > 0:  # a skipped layer repeats the one before
                new = gating.block(x, new, layer, "replace", name, 2 * growth)
            else:
                new = apply_layers(layer, x)
            x = keras.layers.Concatenate(name=name)([x, new])
            done += 1
            if done in early or done == sum(blocks):
                name = f"exit_{len(outputs)}"
                features = apply_layers(norm_relu(f"{name}_features"), x)
                head = {}
                if done in early:
                    pools = len(blocks) - 1 - block if pooled_exits else None
                    head = {"convolutions": (head_channels,) * 2, "pools": pools}
                outputs.append(exit_head(features, classes, name, **head))

    model = AdaptiveModel(inputs, outputs, name="densenet")
    if weights is not None:
        model.load_weights(weights)
    model.compile()
    return model


def _blocks(depth, bottleneck, stem):
    """Returns the number of layers of every block."""
    if stem == "imagenet":
        if depth not in IMAGENET_DEPTHS or not bottleneck:
            raise ValueError(
                f"`depth` must be one of {tuple(IMAGENET_DEPTHS)}, with bottlenecks, with the "
                f"ImageNet stem. Received: depth={depth}, bottleneck={bottleneck}"
            )
        return IMAGENET_DEPTHS[depth]
    step = 6 if bottleneck else 3
    layers, rest = divmod(depth - 4, step)
    if rest or layers < 1:
        raise ValueError(
            f"`depth` must be {step} n + 4 for small images with bottleneck={bottleneck}. "
            f"Received: depth={depth}"
        )
    return (layers,) * 3


def _growths(growth_rate, blocks):
    """Returns the growth rate of every block."""
    if np.ndim(growth_rate) == 0:
        return [integer("growth_rate", growth_rate, 1)] * len(blocks)
    must = "a positive integer, or a sequence of one per block"
    return integer_sequence("growth_rate", growth_rate, 1, must, len(blocks))


def _stem(x, growth_rate, bottleneck, stem):
    if stem == "imagenet":
        return imagenet_stem(x, 2 * growth_rate, "stem")
    return apply_layers(conv(2 * growth_rate if bottleneck else 16, 3, name="stem"), x)


def _dense_layer(growth_rate, bottleneck, name):
    layers = []
    if bottleneck:
        layers += norm_relu(f"{name}_bottleneck")
        layers += conv(BOTTLENECK * growth_rate, 1, name=f"{name}_bottleneck")
    return [*layers, *norm_relu(f"{name}_new"), *conv(growth_rate, 3, name=f"{name}_new")]


def _transition(x, reduction, name):
    check_can_be_halved(x)
    kept = math.floor(reduction * x.shape[-1])
    if kept == 0:
        raise ValueError(
            "`reduction` must leave at least one channel of "
            f"{x.shape[-1]}. Received: reduction={reduction}"
        )
    x = apply_layers([*norm_relu(name), *conv(kept, 1, name=name)], x)
    return keras.layers.AveragePooling2D(2, name=name)(x)
