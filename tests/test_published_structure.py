"""Parameters and multiply-accumulates of the networks of the five papers' tables.

Each row builds a network as its paper describes it and compares what the paper prints, to the
digits that it prints. Rows of `NOT_REACHED` are the figures that no network here has, with what
the network here has instead; docs/papers.md says why.
"""

import keras
import numpy as np
import pytest

import keras_adaptive as ka
from keras_adaptive.costs import exit_costs, gated_costs

GIGA, MEGA = 1e9, 1e6


def own(model, unit="macs"):
    """The cost of the last exit, or of a model of Keras's."""
    return exit_costs(model.inputs, model.outputs[-1:], unit)[0]


def convolutions(model):
    """The cost without the dense layer of the last exit, which Guan leaves out."""
    return own(model) - np.prod(model.outputs[-1]._keras_history.operation.logits.kernel.shape)


def imta(unit):
    model = ka.build_msdnet(preset="cifar_budgeted_7", classes=100)
    return model.exit_costs(unit, lazy=False) / MEGA


def guan(**arguments):
    return lambda: [convolutions(ka.build_resnet(style="pre", **arguments)) / MEGA]


def policy(classes, units):
    def build():
        answer = keras.Input((classes,))
        network = ka.layers.StoppingPolicy(units)
        return [exit_costs([answer], [network(answer)], "macs")[0] / MEGA]

    return build


def twice(build, *args, scale=MEGA, **arguments):
    """Two operations a multiply-accumulate."""
    return lambda: [2 * build(*args, **arguments).exit_costs()[-1] / scale]


def channel_gates(build, **arguments):
    """The cost of the channel gates, as a percentage of the branches that they gate."""

    def measure():
        model = build(gates="channel", **arguments)
        blocks = gated_costs(model.inputs, model.outputs).blocks
        return [100 * np.median([x.gate / (x.branch + x.last) for x in blocks])]

    return measure


def application(name, size, **arguments):
    def build():
        network = getattr(keras.applications, name)
        return [own(network(weights=None, input_shape=(size, size, 3), **arguments)) / GIGA]

    return build


def x3d(preset, size):
    shape = (16, size, size, 3)
    return lambda: [ka.build_x3d(shape, 600, preset=preset).exit_costs()[-1] / GIGA]


def segmentation(name):
    def build():
        image = keras.Input((1024, 2048, 3))
        backbone = getattr(keras.applications, name)(
            include_top=False, weights=None, input_tensor=image
        )
        return [own(ka.build_deeplabv3(backbone, 19)) / GIGA]

    return build


EFFICIENT = {0: 224, 1: 240, 2: 260, 3: 300, 4: 380, 5: 456, 6: 528, 7: 600}
EFFICIENT_GFLOPS = (0.39, 0.69, 1.0, 1.8, 4.4, 10.3, 19.1, 37)
MOBILE = {
    "1.0@160": (160, 1.0),
    "1.0@192": (192, 1.0),
    "1.0@224": (224, 1.0),
    "1.4@224": (224, 1.4),
}
MOBILE_GFLOPS = (0.154, 0.22, 0.30, 0.58)
WIDE = {1: 85.64, 1.5: 192.36, 2: 341.68, 3: 768.13, 4: 1364.97}

# name: what is measured, what is printed, the tolerance: absolute (half a unit of the last digit
# printed), or relative as a string
ROWS = {
    "IMTA table 1, parameters": (
        lambda: imta("params"),
        [0.3, 0.65, 1.11, 1.73, 2.38, 3.05, 4.0],
        [0.05, 0.005, 0.005, 0.005, 0.0051, 0.005, 0.05],
    ),
    "IMTA table 1, MADDs": (
        lambda: imta("reference_flops"),
        [6.86, 14.35, 27.29, 48.45, 76.43, 108.9, 137.3],
        [0.005] * 5 + [0.05] * 2,
    ),
    **{
        f"Guan table 1, ResNet-{depth}": (guan(depth=depth), [printed], [0.005])
        for depth, printed in {8: 14.86, 20: 43.17, 32: 71.48, 56: 128.11, 110: 255.51}.items()
    },
    **{  # printed from a rounded sum
        f"Guan table 1, ResNet40-{width}": (
            guan(depth=40, width=width, classes=1000),
            [printed],
            "1e-4",
        )
        for width, printed in WIDE.items()
    },
    "Guan, policies of CIFAR-10, about 0.01": (policy(10, 64), [0.01], [0.0075]),
    "Guan, policies of CIFAR-100, about 0.01": (policy(100, 64), [0.01], [0.0075]),
    "MSDNet, ResNet-MC": (twice(ka.build_resnet, preset="resnet_mc", scale=1e8), [3], [0.5]),
    "MSDNet, DenseNet-MC": (twice(ka.build_densenet, preset="densenet_mc", scale=1e8), [3], [0.5]),
    **{
        f"DDI table II, DenseNet-{depth}": (twice(ka.build_densenet, depth=depth), [printed], [5])
        for depth, printed in {76: 370, 82: 420, 88: 470}.items()
    },
    "DDI, channel gates of a ResNet": (channel_gates(ka.build_resnet, depth=38), [12.5], [0.1]),
    "DDI, channel gates of a DenseNet, about 11": (
        channel_gates(ka.build_densenet, depth=100),
        [11],
        [1.6],
    ),
    **{
        f"Cascades table 1, EfficientNet-B{n}": (
            application(f"EfficientNetB{n}", size),
            [printed],
            "0.06",
        )
        for (n, size), printed in zip(EFFICIENT.items(), EFFICIENT_GFLOPS, strict=True)
    },
    **{
        f"Cascades table 1, MobileNetV2-{name}": (
            application("MobileNetV2", size, alpha=alpha),
            [printed],
            "0.02",
        )
        for (name, (size, alpha)), printed in zip(MOBILE.items(), MOBILE_GFLOPS, strict=True)
    },
    "Cascades table 5, X3D-M": (x3d("x3d_m", 256), [6.2], "0.015"),
    "Cascades table 5, X3D-L": (x3d("x3d_l", 356), [24.8], "0.015"),
    "Cascades table 5, X3D-XL": (x3d("x3d_xl", 356), [48.4], "0.015"),
}
# name: what is measured, what is printed, what is here
NOT_REACHED = {
    "Guan, policies of ImageNet32, about 0.1": (policy(1000, 256), 0.1, 0.322),
    **{
        f"DDI table II, ResNet-{depth}": (twice(ka.build_resnet, depth=depth), printed, here)
        for depth, printed, here in (
            (14, 59, 53.3),
            (20, 84, 81.6),
            (26, 117, 109.9),
            (38, 170, 166.6),
        )
    },
    **{
        f"Cascades table 1, ResNet-{depth}": (
            lambda depth=depth: [own(ka.build_resnet(preset=f"imagenet_{depth}")) / GIGA],
            printed,
            here,
        )
        for depth, printed, here in (
            (50, 3.5, 4.09),
            (101, 7.2, 7.8),
            (152, 10.9, 11.51),
            (200, 14.4, 15.01),
        )
    },
    "Cascades table 6, DeepLabv3-ResNet-50": (segmentation("ResNet50"), 348, 191.8),
    "Cascades table 6, DeepLabv3-ResNet-101": (segmentation("ResNet101"), 507, 346.9),
    "MSDNet, ImageNet, 5 to 10 at two a MAC": (
        twice(ka.build_msdnet, preset="imagenet_anytime", scale=GIGA),
        5,
        3.48,
    ),
}
QUICK = (
    "Guan table 1, ResNet-8",
    "Guan, policies of CIFAR-10, about 0.01",
    "Guan, policies of ImageNet32, about 0.1",
    "DDI table II, ResNet-14",
)


def quick_on(names):
    return [name if name in QUICK else pytest.param(name, marks=pytest.mark.slow) for name in names]


@pytest.mark.parametrize("name", quick_on(ROWS))
def test_is_what_the_paper_prints(name):
    measure, printed, tolerance = ROWS[name]
    if isinstance(tolerance, str):
        tolerance = float(tolerance) * np.array(printed)
    found = np.array(measure())
    keras.backend.clear_session()
    assert (np.abs(found - printed) <= np.array(tolerance) + 1e-9).all(), found


@pytest.mark.parametrize("name", quick_on(NOT_REACHED))
def test_what_is_not_reached_is_what_the_documentation_says(name):
    measure, printed, here = NOT_REACHED[name]
    (found,) = measure()
    keras.backend.clear_session()
    assert found == pytest.approx(here, rel=2e-3)
    assert abs(found - printed) > 0.015 * printed
