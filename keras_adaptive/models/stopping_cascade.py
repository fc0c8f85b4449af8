"""Cascades of residual networks that learn when to stop, as published."""

import numpy as np

from keras_adaptive._checks import check_image, integer, integer_sequence, numbers
from keras_adaptive.layers.stopping_policy import StoppingPolicy
from keras_adaptive.models.cascade import build_cascade
from keras_adaptive.models.presets import with_presets
from keras_adaptive.models.resnet import build_resnet
from keras_adaptive.training.add_stopping import add_stopping

CIFAR = {"depths": (8, 20, 32, 56, 110), "widths": (1, 1, 1, 1, 1), "units": 64}
PRESETS = {
    "cifar10": {**CIFAR, "classes": 10, "cost_weight": 0.001},
    "cifar100": {**CIFAR, "classes": 100, "cost_weight": 0.003},
    "imagenet32": {
        "classes": 1000,
        "depths": (40, 40, 40, 40, 40),
        "widths": (1, 1.5, 2, 3, 4),
        "units": 256,
        "cost_weight": 0.008,
        "top_k": 5,
    },
}


@with_presets(PRESETS)
def build_stopping_cascade(
    input_shape=(32, 32, 3),
    classes=10,
    *,
    preset=None,
    depths=(8, 20, 32, 56, 110),
    widths=(1, 1, 1, 1, 1),
    units=64,
    cost_weight=0.001,
    top_k=1,
    charge="before",
    normalize="first",
):
    """Builds Guan's cascade: residual networks of growing cost, and policies that stop.

    Every classifier answers alone. `training.fit(regime="stopping")` trains it end to end;
    `training.fit_policy` teaches the policies alone, on trained classifiers (the paper's
    simplified version).

    Args:
        input_shape: `(height, width, channels)`.
        classes: Integer, the number of classes.
        preset: `"cifar10"`, `"cifar100"` or `"imagenet32"`: the cascades of the paper's table 2.
            It fills the arguments left out.
        depths: Sequence of integers, of each `build_resnet(style="pre")`.
        widths: Sequence of numbers, likewise, one per depth.
        units: Integer, of the `StoppingPolicy`.
        cost_weight: Number, alpha.
        top_k, charge, normalize: As in `StoppingLoss`; for its other arguments compile again.

    Returns:
        A `training.StoppingModel` with one exit per classifier.

    Raises:
        ValueError: If an argument is impossible.

    Example:

    >>> model = build_stopping_cascade((8, 8, 1), 4, depths=(8, 14), widths=(0.25, 0.25), units=8)
    >>> model.num_exits, len(model.stopping)
    (2, 1)

    Reference:
        [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368).
    """
    input_shape, classes = check_image(input_shape, classes)
    depths = integer_sequence("depths", depths, 8, "integers, one per classifier")
    widths, units = numbers(widths, "widths"), integer("units", units, 1)
    if np.shape(widths) != np.shape(depths) or not depths:
        raise ValueError(
            f"`widths` must be numbers, one per depth. Received: widths={widths}, depths={depths}"
        )
    members = [
        build_resnet(input_shape, classes, depth=depth, width=width, style="pre")
        for depth, width in zip(depths, widths, strict=True)
    ]
    cascade = build_cascade(members, combine="last")
    loss = {"top_k": top_k, "charge": charge, "normalize": normalize}
    return add_stopping(cascade, StoppingPolicy(units), cost_weight, **loss)
