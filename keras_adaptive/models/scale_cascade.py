"""Cascades of any size: all members scaled together."""

from collections.abc import Callable
from typing import NamedTuple

from keras_adaptive.models.cascade import build_cascade
from keras_adaptive.models.efficientnet import build_efficientnet
from keras_adaptive.training import AdaptiveModel


class Family(NamedTuple):
    """How a cascade was made, so that a larger one can be.

    Attributes:
        scales: Tuple of numbers, the scale of each member.
        build: Function: scale to model.
        arguments: Dictionary, the other arguments of `build`.
        combine: As in `build_cascade`.
    """

    scales: tuple
    build: Callable
    arguments: dict
    combine: str


def scale_cascade(cascade, phi, *, build=build_efficientnet, combine="mean_logits", **arguments):
    """Builds a cascade again with every member scaled by `phi`.

    A member of scale `s` becomes one of scale `s + phi`, which for EfficientNets means
    depth times `1.2**phi`, width times `1.1**phi` and resolution times `1.15**phi`. With
    (-2, 0, 0.75), the published C0, and growing `phi` comes the family C0, C1, ... of
    cascades for growing budgets. The members are new and have to be trained; thresholds
    have to be chosen anew.

    Args:
        cascade: Sequence of the members' scales, of any sign; or a cascade made by this
            function, whose `build`, `combine` and arguments are then used again. (One that
            was saved and loaded has forgotten them.)
        phi: Number, added to each scale.
        build: Function: scale and `arguments` to a model.
        combine: As in `build_cascade`.
        **arguments: Passed to `build`, for example `classes=10`.

    Returns:
        A compiled `AdaptiveModel`; its `family.scales` are the members' scales.

    Raises:
        ValueError: If there is no cascade to scale.

    Example:

    >>> c0 = scale_cascade((-6, -5), 0, classes=10)
    >>> c1 = scale_cascade(c0, 1)
    >>> c1.family.scales, bool(c1.exit_costs()[-1] > c0.exit_costs()[-1])
    ((-5, -4), True)

    Reference:
        [Wisdom of Committees (Wang et al., 2022)](https://arxiv.org/abs/2012.01988),
        appendix C.2.
    """
    family = getattr(cascade, "family", None)
    if family is None:
        if isinstance(cascade, AdaptiveModel) or not _numbers(cascade):
            raise ValueError(
                "`cascade` must be the scales of the members, or a cascade made by "
                f"`scale_cascade` and not loaded from a file. Received: cascade={cascade}"
            )
        family = Family(tuple(cascade), build, arguments, combine)
    if not _numbers([phi]):
        raise ValueError(f"`phi` must be a number. Received: phi={phi}")
    scales = tuple(scale + phi for scale in family.scales)
    members = [family.build(scale, **family.arguments) for scale in scales]
    model = build_cascade(members, combine=family.combine)
    model.family = Family(scales, *family[1:])
    return model


def _numbers(values):
    return (
        isinstance(values, (list, tuple))
        and bool(values)
        and all(isinstance(v, (int, float)) and not isinstance(v, bool) for v in values)
    )
