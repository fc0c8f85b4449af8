"""Ensembles of networks of one kind, growing or alike: the baseline of the MSDNet paper."""

from keras_adaptive._checks import integer_sequence
from keras_adaptive.models.cascade import build_cascade

PRESETS = {
    "imagenet_resnets": (10, 18, 26, 34, 50),
}


def build_depth_ensemble(build, depths, *, combine="mean_probs", **arguments):
    """Chains networks of one kind and growing or equal depth, trained independently.

    At every exit the predictions of all networks so far are averaged. Used whole it is an
    ensemble; calibrated, the ensemble with dynamic evaluation: an image goes on to a deeper
    network until the prediction is confident.

    Args:
        build: `build_resnet` or `build_densenet`, or another function that takes `depth`.
        depths: Sequence of integers that do not fall; equal ones are networks of their own. Or
            `"imagenet_resnets"`, the five depths of the MSDNet paper. Those for CIFAR are not
            published.
        combine: As in `build_cascade`. The paper averages predictions.
        **arguments: Passed to `build`, for example `input_shape=(32, 32, 3)`.

    Returns:
        A compiled `AdaptiveModel` with one exit per depth. Train the members alone, each as
        `build(depth=depth, **arguments)`, and chain them by `build_cascade`; or fit this
        model, which trains them together, through the averages.

    Raises:
        TypeError: If `build` is no function.
        ValueError: If the depths fall.

    Example:

    >>> from keras_adaptive import build_resnet
    >>> model = build_depth_ensemble(build_resnet, (8, 14), input_shape=(8, 8, 1), width=0.25)
    >>> own = [build_resnet((8, 8, 1), depth=d, width=0.25).exit_costs()[0] for d in (8, 14)]
    >>> model.exit_costs().tolist() == [own[0], own[0] + own[1]]
    True

    Reference:
        [MSDNet (Huang et al., 2018)](https://arxiv.org/abs/1703.09844), sections 5.1 and
        5.2.
    """
    if not callable(build):
        raise TypeError(
            "`build` must be a function that takes `depth`, such as `build_resnet`. "
            f"Received: build={build!r}"
        )
    must = f"integers that do not fall or one of {tuple(PRESETS)}"
    named = PRESETS.get(depths) if isinstance(depths, str) else depths
    found = integer_sequence("depths", depths if named is None else named, 1, must)
    if not found or sorted(found) != list(found):
        raise ValueError(f"`depths` must be {must}. Received: depths={depths}")
    return build_cascade([build(depth=d, **arguments) for d in found], combine=combine)
