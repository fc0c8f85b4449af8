"""ResNets with early exits and gates: SkipNet's and DDI's, Guan's, ImageNet's."""

import keras

from keras_adaptive._checks import check_choice, check_image, finite, integer
from keras_adaptive.layers._conv_unit import apply_layers, conv, conv_unit, norm_relu
from keras_adaptive.layers._data_format import check_channels_last
from keras_adaptive.models._exit_head import exit_head
from keras_adaptive.models._exit_positions import exit_positions
from keras_adaptive.models._gating import Gating
from keras_adaptive.models._stem import imagenet_stem, stem_for
from keras_adaptive.models.presets import with_presets
from keras_adaptive.training.adaptive_model import AdaptiveModel

STYLES = ("post", "pre")
# depth: blocks of the four stages, whether a block is a bottleneck
IMAGENET_DEPTHS = {
    10: ((1, 1, 1, 1), False),
    18: ((2, 2, 2, 2), False),
    26: ((3, 3, 3, 3), False),
    34: ((3, 4, 6, 3), False),
    50: ((3, 4, 6, 3), True),
    101: ((3, 4, 23, 3), True),
    152: ((3, 8, 36, 3), True),
    200: ((3, 24, 36, 3), True),
}
IMAGENET = {"input_shape": (224, 224, 3), "classes": 1000, "stem": "imagenet"}
PRESETS = {
    # MSDNet's baseline: exits after the 4th and 8th of the 10 blocks of every stage
    "resnet_mc": {"depth": 62, "exits": (0.4, 0.8)},
    **{f"imagenet_{depth}": {**IMAGENET, "depth": depth} for depth in IMAGENET_DEPTHS},
}
EXPANSION = 4  # of a bottleneck


@with_presets(PRESETS)
def build_resnet(
    input_shape=(32, 32, 3),
    classes=10,
    *,
    preset=None,
    weights=None,
    depth=38,
    style="post",
    width=1,
    stem=None,
    exits=None,
    head_channels=None,
    pooled_exits=False,
    gates=None,
    gate_kind="recurrent",
    soft_gates=False,
):
    """Builds a residual network, compiled with the recipe of `build_msdnet`.

    A block of style `"post"` (He et al., 2015; SkipNet, DDI) gives
    `relu(shortcut(x) + branch(x))` with `branch` convolution, normalization, ReLU,
    convolution, normalization; where a stage begins, `shortcut` is a 1x1 convolution with
    stride 2 and a normalization. A block of style `"pre"` (Guan et al., 2018) gives
    `x + branch(x)` with `branch` twice normalization, ReLU, convolution; where a stage
    begins, a 1x1 convolution with stride 2 comes first, and is followed by blocks of equal
    width.

    With gates, a skipped block passes on its shortcut (where a stage begins that is the
    convolution with stride 2, which is always computed).

    Networks for small images have three stages of `(depth - 2) // 6` blocks with 16, 32 and
    64 channels. Networks with the ImageNet stem have four stages from 64 channels on, of
    the published depths; from depth 50 on a block is a bottleneck.

    Args:
        input_shape: `(height, width, channels)`.
        classes: Integer, the number of classes.
        preset: Name of a published configuration; it fills the arguments left out.
            `resnet_mc` (62 layers, seven exits), `imagenet_18`, `_34`, `_50`, `_101`, `_152`,
            `_200`.
        weights: Path of a `.weights.h5` file to load; or the name of a trained network
            that comes with the library (`"cifar10_tiny"`), which fills the arguments left out;
            or `None`: random.
        depth: Integer. For small images `6 n + 2`, for style `"pre"` also `6 n + 4` (so wide
            networks are counted). With the ImageNet stem 10, 18, 26, 34, 50, 101, 152 or 200.
        style: `"post"` or `"pre"`: where the activations are. The ImageNet stem knows
            `"post"` only.
        width: Number, multiplies the channels (WRN-40-k of Guan et al. is
            `depth=40, style="pre", width=k`).
        stem: `"cifar"`: a 3x3 convolution; `"imagenet"`: 7x7 with stride 2, then pooling.
            `None`: by the image's size, ImageNet from 128 pixels.
        exits: Where early exits stand: `None`: only the last exit; an integer: so many exits
            in all, after equal shares of the blocks; a sequence of integers: after so many
            blocks; a sequence of numbers between 0 and 1: after these shares of every stage.
        head_channels: Integer, channels of the two convolutions of an early exit. `None`:
            as many as the last stage of small images has: `64 * width`; 256 with the
            ImageNet stem.
        pooled_exits: Boolean, whether an early exit first shrinks its features to the size of the
            last stage, by 2x2 maximum pooling, and its convolutions then keep it (DDI, whose
            heads are described so and not published). False: convolutions of stride 2.
        gates: What may be skipped, decided per image: `None`: nothing; `"layer"`: whole
            blocks, as one recurrent `SkipGate` decides; `"channel"`: channels, as one
            `ChannelGate` per block decides; `"both"`. The first block has no gate.
            Skipped channels lower the MAC count only, and latency does not change (see
            `ChannelGate`); skipped blocks lower both.
        gate_kind: Of the gates of layers: `"recurrent"`, or `"feedforward"` or
            `"feedforward_deep"`, one gate per gated layer; see `SkipGate`.
        soft_gates: Boolean, whether gates are probabilities while they learn (SkipNet's soft
            form), in place of hard ones with straight-through gradients.

    Returns:
        An `AdaptiveModel`.

    Raises:
        ValueError: If an argument is impossible.

    Example:

    >>> model = build_resnet((16, 16, 3), 10, depth=8, exits=3)
    >>> model.exits
    3
    >>> build_resnet(depth=32, style="pre").exit_costs().tolist()  # 71,483,392 + 640
    [71484032.0]

    References:
        [SkipNet (Wang et al., 2018)](https://arxiv.org/abs/1711.09485);
        [Dual Dynamic Inference (Wang et al., 2019)](https://arxiv.org/abs/1907.04523);
        [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368);
        [Multi-Scale Dense Networks (Huang et al., 2018)](https://arxiv.org/abs/1703.09844),
        section 5: ResNet with several classifiers.
    """
    check_channels_last()
    input_shape, classes = check_image(input_shape, classes)
    depth = integer("depth", depth, 8)
    check_choice(STYLES, style=style)
    check_choice((True, False), pooled_exits=pooled_exits)
    if not finite(width, "width") > 0:
        raise ValueError(f"`width` must be a positive number. Received: width={width}")
    if head_channels is not None:
        head_channels = integer("head_channels", head_channels, 1)
    stem = stem_for(stem, input_shape)
    stages, bottleneck = _stages(depth, style, stem)
    base = 64 if stem == "imagenet" else 16
    channels = [max(1, round(base * width * 2**i)) for i in range(len(stages))]
    if head_channels is None:
        head_channels = 256 if stem == "imagenet" else channels[-1]
    early = exit_positions(exits, stages)

    gating = Gating(gates, gate_kind, soft_gates)
    inputs = keras.Input(input_shape, name="image")
    x = _stem(inputs, channels[0], stem, style)
    outputs = []
    places = [(stage, block) for stage, blocks in enumerate(stages) for block in range(blocks)]
    for done, (stage, block) in enumerate(places, start=1):
        strides = 2 if stage > 0 and block == 0 else 1
        name = f"stage_{stage}_block_{block}"
        if style == "pre":
            parts = _pre_block(x, channels[stage], strides, name)
        else:
            parts = _post_block(x, channels[stage], strides, bottleneck, name)
        gated = gating.any and done > 1  # the first block is always computed
        x = gating.block(*parts, name) if gated else _plain_block(*parts, name)
        if done in early or done == len(places):
            name = f"exit_{len(outputs)}"
            features = apply_layers(norm_relu(f"{name}_features"), x) if style == "pre" else x
            head = {}
            if done in early:
                pools = len(stages) - 1 - stage if pooled_exits else None
                head = {"convolutions": (head_channels,) * 2, "pools": pools}
            outputs.append(exit_head(features, classes, name, **head))

    model = AdaptiveModel(inputs, outputs, name="resnet")
    if weights is not None:
        model.load_weights(weights)
    model.compile()
    return model


def _stages(depth, style, stem):
    """Returns the number of blocks of every stage, and whether they are bottlenecks."""
    if stem == "imagenet":
        if depth not in IMAGENET_DEPTHS or style != "post":
            raise ValueError(
                f"`depth` must be one of {tuple(IMAGENET_DEPTHS)} and `style` 'post' with the "
                f"ImageNet stem. Received: depth={depth}, style={style}"
            )
        return IMAGENET_DEPTHS[depth]
    remainders = (2, 4) if style == "pre" else (2,)
    if depth % 6 not in remainders:
        forms = " or ".join(f"6 n + {r}" for r in remainders)
        raise ValueError(
            f"`depth` must be {forms} for small images of style {style!r}. Received: depth={depth}"
        )
    return ((depth - 2) // 6,) * 3, False


def _stem(x, channels, stem, style):
    if stem == "imagenet":
        return imagenet_stem(x, channels, "stem")
    make = conv if style == "pre" else conv_unit
    return apply_layers(make(channels, 3, name="stem"), x)


# A block's parts: input of the branch, shortcut, branch, how they are merged.


def _post_block(x, channels, strides, bottleneck, name):
    if bottleneck:
        branch = [
            *conv_unit(channels, 1, name=f"{name}_0"),
            *conv_unit(channels, 3, strides=strides, name=f"{name}_1"),
            *conv_unit(EXPANSION * channels, 1, name=f"{name}_2")[:-1],
        ]
        channels *= EXPANSION
    else:
        branch = [
            *conv_unit(channels, 3, strides=strides, name=f"{name}_0"),
            *conv_unit(channels, 3, name=f"{name}_1")[:-1],
        ]
    shortcut = x
    if strides > 1 or x.shape[-1] != channels:
        unit = conv_unit(channels, 1, strides=strides, name=f"{name}_shortcut")[:-1]
        shortcut = apply_layers(unit, x)
    return x, shortcut, branch, "add_relu"


def _pre_block(x, channels, strides, name):
    if strides > 1:
        x = apply_layers(conv(channels, 1, strides=strides, name=f"{name}_projection"), x)
    branch = [
        *norm_relu(f"{name}_0"),
        *conv(channels, 3, name=f"{name}_0"),
        *norm_relu(f"{name}_1"),
        *conv(channels, 3, name=f"{name}_1"),
    ]
    return x, x, branch, "add"


def _plain_block(x, shortcut, branch, merge, name):
    if merge == "add":
        return keras.layers.Add(name=name)([shortcut, apply_layers(branch, x)])
    x = keras.layers.Add(name=f"{name}_add")([shortcut, apply_layers(branch, x)])
    return keras.layers.ReLU(name=name)(x)
