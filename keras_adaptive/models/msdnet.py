"""Multi-Scale DenseNets: densely connected networks with many exits."""

import math

import keras

from keras_adaptive._checks import (
    check_choice,
    check_image,
    finite,
    integer,
    integer_sequence,
    integers,
)
from keras_adaptive.layers._conv_unit import apply_layers, conv_unit
from keras_adaptive.layers._data_format import check_channels_last
from keras_adaptive.layers.early_exit import EarlyExit, checked_weight
from keras_adaptive.layers.gradient_scale import GradientScale
from keras_adaptive.models._stem import imagenet_stem, stem_for
from keras_adaptive.models.presets import with_presets
from keras_adaptive.training.adaptive_model import AdaptiveModel

CIFAR = {"input_shape": (32, 32, 3), "classes": 10, "stem": "cifar"}
IMAGENET = {
    "input_shape": (224, 224, 3),
    "classes": 1000,
    "stem": "imagenet",
    "blocks": 5,
    "step_mode": "even",
    "channels": 32,
    "growth_rate": 16,
    "growth_factors": (1, 2, 4, 4),
    "bottleneck_factors": (1, 2, 4, 4),
}
PRESETS = {
    "cifar_anytime": {**CIFAR, "blocks": 11, "base": 4, "step": 2, "step_mode": "even"},
    **{f"cifar_budgeted_{exits}": {**CIFAR, "blocks": exits} for exits in (4, 5, 6, 7, 8)},
    # the anytime network of MSDNet's paper, of 23 layers, and IMTA's three: their first exit
    # stands three layers later than in the released code, that of the `imagenet_step` ones
    "imagenet_anytime": {**IMAGENET, "base": 7, "step": 4},
    **{f"imagenet_step{n}": {**IMAGENET, "base": n, "step": n} for n in (4, 6, 7)},
    **{f"imta_imagenet_{n}": {**IMAGENET, "base": n + 3, "step": n} for n in (4, 6, 7)},
}


@with_presets(PRESETS)
def build_msdnet(
    input_shape=(32, 32, 3),
    classes=10,
    *,
    preset=None,
    weights=None,
    blocks=5,
    base=1,
    step=1,
    step_mode="lin_grow",
    channels=16,
    growth_rate=6,
    growth_factors=(1, 2, 4),
    bottleneck_factors=(1, 2, 4),
    head_channels=None,
    prune="max",
    reduction=0.5,
    dense=True,
    multi_scale=True,
    stem=None,
    gradient_equilibrium=False,
    collaboration=None,
    collaboration_stop_gradient=True,
    collaboration_weight=1.0,
):
    """Builds a Multi-Scale DenseNet, compiled with the paper's recipe.

    Every layer keeps features at several scales, from fine to coarse. Layer `l` at
    scale `s` gives `concat[x_s, down(x_{s-1}), same(x_s)]`; the finest scale has no
    `down`. Exits read the coarsest scale, which is there from the first layer on.
    As the network gets deeper it drops its finest scale, one at a time, and then
    shrinks what is left by a 1x1 convolution.

    Only what some exit needs is built, so fine features that nothing reads at the end
    of the network do not exist.

    Args:
        input_shape: `(height, width, channels)`.
        classes: Integer, the number of classes.
        preset: Name of a published configuration; it fills the arguments left out.
            `cifar_anytime`, `cifar_budgeted_4` to `_8`, `imagenet_anytime`, `imagenet_step4`,
            `_step6`, `_step7`, `imta_imagenet_4`, `_6`, `_7`.
        weights: Path of a `.weights.h5` file to load; or the name of a trained network
            that comes with the library, which fills the arguments left out:
            `models.pretrained(name)` knows its classes, pixels and policy; or `None`: random.
        blocks: Integer, the number of exits.
        base: Integer, the number of layers before the first exit.
        step: Integer, the number of layers from one exit to the next; see `step_mode`.
        step_mode: `"even"`: `step` layers between exits; `"lin_grow"`: between exit
            `i - 1` and `i` there are `step * i + 1`.
        channels: Integer, channels of the first layer, times the growth factor of
            the scale.
        growth_rate: Integer, channels that each layer adds, times the growth factor.
        growth_factors: Sequence of integers, one per scale, finest first.
        bottleneck_factors: Sequence of integers, one per scale: a 1x1 convolution
            narrows the input to this many times the output of a 3x3 convolution, of
            the scale the input comes from.
        head_channels: Integer, channels of the two convolutions of an exit. `None`:
            128 with the CIFAR stem, as many as its input has with the ImageNet stem.
        prune: When scales are dropped. `"max"`: after equal shares of the layers;
            `"min"`: only in the last layers.
        reduction: Number from 0 to 1, the share of channels a transition keeps. 0:
            no transitions.
        dense: Boolean. False: a layer gives its new features alone, without those it reads.
        multi_scale: Boolean. False: there is one scale at a time, at first the finest; where
            the network would drop its finest scale, features are halved in size instead, by
            averages and by convolutions of stride 2, and exits read what there is. With `dense`,
            for the comparison of the paper's parts, in which the growth rate evens out the cost.
        stem: `"cifar"`: a 3x3 convolution; `"imagenet"`: 7x7 with stride 2, then
            pooling. `None`: by the image's size, ImageNet from 128 pixels.
        gradient_equilibrium: Whether the gradients of the exits are balanced.
            `"all"` or True: at every scale (as the paper says); `"coarsest"`: only at
            the scale that exits read (as its code does).
        collaboration: Whether an exit reads the one before: `None`, `"identity"`
            (adds its logits) or `"dense"` (reads an embedding of them).
        collaboration_stop_gradient: Whether the exit before gets no gradient through this
            connection (the paper: yes; its code: no). If it gets one, balanced gradients no
            longer have the published shares in the heads that are read.
        collaboration_weight: Positive number, times the logits that `"identity"` adds. 0.5,
            with `gradient_equilibrium="coarsest"`, is BoostNet.

    Returns:
        An `AdaptiveModel` with `blocks` exits.

    Raises:
        ValueError: If an argument is impossible.

    Example:

    >>> model = build_msdnet((8, 8, 1), 10, blocks=2, channels=4, growth_rate=2)
    >>> [tuple(logits.shape) for logits in model.outputs]
    [(None, 10), (None, 10)]
    >>> bool(model.exit_costs()[0] < model.exit_costs()[1])
    True

    References:
        [Multi-Scale Dense Networks for Resource Efficient Image Classification
        (Huang et al., 2018)](https://arxiv.org/abs/1703.09844);
        [Improved Techniques for Training Adaptive Deep Networks
        (Li et al., 2019)](https://arxiv.org/abs/1908.06294);
        [Boosted Dynamic Neural Networks
        (Yu et al., 2023)](https://arxiv.org/abs/2211.16726).
    """
    check_channels_last()
    input_shape, classes = check_image(input_shape, classes)
    blocks, base, step, channels, growth_rate = integers(
        1, blocks=blocks, base=base, step=step, channels=channels, growth_rate=growth_rate
    )
    check_choice(("lin_grow", "even"), step_mode=step_mode)
    check_choice(("max", "min"), prune=prune)
    check_choice((True, False), dense=dense, multi_scale=multi_scale)
    check_choice((False, True, "all", "coarsest"), gradient_equilibrium=gradient_equilibrium)
    check_choice((None, "identity", "dense"), collaboration=collaboration)
    collaboration_weight = checked_weight(collaboration, collaboration_weight)
    growth_factors, bottleneck_factors = _checked_factors(
        growth_factors, bottleneck_factors, growth_rate
    )
    if not 0 <= finite(reduction, "reduction") <= 1:
        raise ValueError(f"`reduction` must be from 0 to 1. Received: reduction={reduction}")
    if head_channels is not None:
        head_channels = integer("head_channels", head_channels, 1)
    stem = stem_for(stem, input_shape)
    if head_channels is None and stem == "cifar":
        head_channels = 128

    network = _Layers(growth_rate, growth_factors, bottleneck_factors, dense, multi_scale)
    plan = _plan(_layers_per_block(blocks, base, step, step_mode), len(growth_factors), prune)
    inputs = keras.Input(input_shape, name="image")
    features = network.first(inputs, channels, stem)
    outputs = []
    for layer in plan:
        features = network.layer(features, layer)
        if layer.transition and reduction > 0:
            features = network.transition(features, layer, reduction)
        if layer.exit is None:
            continue
        branch = features[-1]
        if gradient_equilibrium:
            branch, features = _balance(
                features, layer.exit, blocks, gradient_equilibrium == "coarsest"
            )
        width = head_channels or branch.shape[-1]
        previous = outputs[-1:] if collaboration else []
        head = EarlyExit(
            classes,
            convolutions=(width, width),
            collaboration=collaboration if previous else None,
            stop_gradient=collaboration_stop_gradient,
            collaboration_weight=collaboration_weight if previous else 1.0,
            name=f"exit_{layer.exit}",
        )
        outputs.append(head(branch, *previous))

    model = AdaptiveModel(inputs, outputs, name="msdnet")
    if weights is not None:
        model.load_weights(weights)
    model.compile()
    return model


class _Layer:
    """The position of a layer, the scales it reads and keeps, and what follows it."""

    def __init__(self, block, number, scales_in, scales_out, transition, exit):
        self.block, self.number = block, number
        self.scales_in, self.scales_out = scales_in, scales_out
        self.transition, self.exit = transition, exit
        self.name = f"block_{block}_layer_{number}"


def _layers_per_block(blocks, base, step, step_mode):
    grow = step_mode == "lin_grow"
    return [base] + [step * i + 1 if grow else step for i in range(1, blocks)]


def _plan(layers_per_block, scales, prune):
    """Lists the network's layers: scales read and kept, transitions, exits."""
    total = sum(layers_per_block)
    share = math.ceil(total / scales)
    plan = []
    for block, layers in enumerate(layers_per_block):
        for i in range(layers):
            number = len(plan) + 1
            if prune == "max":
                scales_in = scales - max(0, number - 2) // share
                scales_out = scales - (number - 1) // share
                transition = scales_out < scales_in
            else:
                scales_in = min(scales, total - number + 2)
                scales_out = min(scales, total - number + 1)
                transition = number in (total // 3, 2 * total // 3)
            exit = block if i == layers - 1 else None
            plan.append(_Layer(block, number, scales_in, scales_out, transition, exit))
    return plan


class _Layers:
    """Makes the layers of one network. Features are lists, one tensor per scale kept."""

    def __init__(self, growth_rate, growth_factors, bottleneck_factors, dense, multi_scale):
        self.dense, self.multi_scale = dense, multi_scale
        self.growth_rate = growth_rate
        self.growth = growth_factors
        self.bottleneck = bottleneck_factors
        self.scales = len(growth_factors)

    def first(self, x, channels, stem):
        features = []
        for scale, factor in enumerate(self.growth if self.multi_scale else self.growth[:1]):
            name = f"block_0_layer_0_scale_{scale}"
            if scale == 0 and stem == "imagenet":
                x = imagenet_stem(x, channels * factor, name, use_bias=True)
            else:
                strides = 2 if scale else 1
                x = apply_layers(conv_unit(channels * factor, 3, strides=strides, name=name), x)
            features.append(x)
        return features

    def layer(self, features, layer):
        if not self.multi_scale:
            return [self._single(*features, layer)]
        dropped = layer.scales_in - layer.scales_out
        offset = self.scales - layer.scales_in
        result = []
        for i in range(dropped, layer.scales_in):
            scale = offset + i
            width = self.growth_rate * self.growth[scale]
            name = f"{layer.name}_scale_{scale}"
            parts = [features[i]] if self.dense else []
            if i > 0:
                width //= 2
                parts.append(self._branch(features[i - 1], scale - 1, width, 2, f"{name}_down"))
            parts.append(self._branch(features[i], scale, width, 1, f"{name}_same"))
            result.append(_joined(parts, name))
        return result

    def _single(self, x, layer):
        """A layer of a network with one scale at a time."""
        scale, halved = self.scales - layer.scales_out, layer.scales_out < layer.scales_in
        name, width = f"{layer.name}_scale_{scale}", self.growth_rate * self.growth[scale]
        read, strides, kind = (scale - 1, 2, "down") if halved else (scale, 1, "same")
        parts = [self._branch(x, read, width, strides, f"{name}_{kind}")]
        if self.dense and halved:
            x = keras.layers.AveragePooling2D(2, padding="same", name=f"{name}_average")(x)
        return _joined([x, *parts] if self.dense else parts, name)

    def _branch(self, x, source_scale, width, strides, name):
        narrow = min(x.shape[-1], self.bottleneck[source_scale] * width)
        x = apply_layers(conv_unit(narrow, 1, name=f"{name}_bottleneck"), x)
        return apply_layers(conv_unit(width, 3, strides=strides, name=name), x)

    def transition(self, features, layer, reduction):
        result = []
        for i, x in enumerate(features):
            scale = self.scales - layer.scales_out + i
            factor = self.growth[scale]
            width = math.floor(reduction * (x.shape[-1] // factor)) * factor
            if width == 0:
                raise ValueError(
                    "`reduction` must leave at least one channel of "
                    f"{x.shape[-1]}. Received: reduction={reduction}"
                )
            name = f"{layer.name}_scale_{scale}_transition"
            result.append(apply_layers(conv_unit(width, 1, name=name), x))
        return result


def _joined(parts, name):
    if len(parts) == 1:
        return keras.layers.Identity(name=name)(parts[0])
    return keras.layers.Concatenate(name=name)(parts)


def _balance(features, exit, blocks, coarsest_only):
    """Gradient Equilibrium: what goes to the exit, and what goes on."""
    name = f"block_{exit}_balance"
    branch = GradientScale(1 / (blocks - exit), name=f"{name}_exit")(features[-1])
    if exit == blocks - 1:
        return branch, features
    onward = (blocks - exit - 1) / (blocks - exit)
    first = len(features) - 1 if coarsest_only else 0
    return branch, features[:first] + [
        GradientScale(onward, name=f"{name}_{first + i}")(x) for i, x in enumerate(features[first:])
    ]


def _checked_factors(growth_factors, bottleneck_factors, growth_rate):
    must = "positive integers, one per scale"
    growth = integer_sequence("growth_factors", growth_factors, 1, must)
    if not growth:
        raise ValueError(f"`growth_factors` must be {must}. Received: growth_factors=()")
    narrow = integer_sequence("bottleneck_factors", bottleneck_factors, 1, must, len(growth))
    if any(growth_rate * factor < 2 for factor in growth[1:]):
        raise ValueError(
            "`growth_rate` must give every coarser scale at least 2 channels. "
            f"Received: growth_rate={growth_rate}, growth_factors={growth}"
        )
    return growth, narrow
