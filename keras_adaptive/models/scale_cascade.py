"""Cascades of EfficientNets, all members scaled together for a larger or smaller budget."""

import numbers

import numpy as np

from keras_adaptive.models.cascade import build_cascade
from keras_adaptive.models.efficientnet import build_efficientnet


def scale_cascade(scales, phi, *, build=build_efficientnet, combine="mean_logits", **arguments):
    """Builds a cascade with every member scaled by `phi`.

    A member of scale `s` becomes one of scale `s + phi`, which for EfficientNets means
    depth times `1.2**phi`, width times `1.1**phi` and resolution times `1.15**phi`. With
    (-2, 0, 0.75), the published C0, and growing `phi` comes the family C0, C1, ... of
    cascades for growing budgets. The members are new and have to be trained; thresholds
    have to be chosen anew.

    Args:
        scales: Sequence of the members' scales where `phi` is 0, of any sign.
        phi: Number, added to each scale.
        build: Function: scale and `arguments` to a model.
        combine: As in `build_cascade`.
        **arguments: Passed to `build`, for example `classes=10`.

    Returns:
        A compiled `AdaptiveModel`.

    Raises:
        ValueError: If the scales are not numbers.

    Example:

    >>> c0, c1 = (scale_cascade((-6, -5), phi, classes=10) for phi in (0, 1))
    >>> bool(c1.exit_costs()[-1] > c0.exit_costs()[-1])
    True

    Reference:
        [Wisdom of Committees (Wang et al., 2022)](https://arxiv.org/abs/2012.01988),
        appendix C.2.
    """
    if not _numbers(scales):
        raise ValueError(
            f"`scales` must be the scales of the members, numbers. Received: scales={scales}"
        )
    if not _numbers([phi]):
        raise ValueError(f"`phi` must be a number. Received: phi={phi}")
    return build_cascade([build(s + phi, **arguments) for s in scales], combine=combine)


def _numbers(values):
    return (
        isinstance(values, (list, tuple, np.ndarray))
        and len(values) > 0
        and all(isinstance(v, numbers.Real) and not isinstance(v, bool) for v in values)
    )
