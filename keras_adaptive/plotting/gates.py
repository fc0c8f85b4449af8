"""What gates skip."""

import matplotlib.pyplot as plt
import numpy as np

from keras_adaptive.plotting.style import new_axes, scaled, tidy


def skipping_ratios(shares, *, ax=None, labels=None):
    """Draws, block by block, how much is skipped on average.

    Args:
        shares: Array `(blocks, samples)`, of `AdaptiveModel.predict_gates`; or a dictionary
            of such arrays by name, drawn side by side.
        ax: Matplotlib axes to draw on. `None`: new ones.
        labels: Sequence of names of the blocks. `None`: their numbers.

    Returns:
        The axes.

    Raises:
        ValueError: If there are no shares, or those of different numbers of blocks.

    Reference:
        [SkipNet (Wang et al., 2018)](https://arxiv.org/abs/1711.09485), figure 8.
    """
    series = shares if isinstance(shares, dict) else {None: shares}
    ratios = {name: 1 - _shares(values).mean(axis=1) for name, values in series.items()}
    blocks = {len(ratio) for ratio in ratios.values()}
    if len(blocks) != 1:
        raise ValueError(
            "`shares` must be of one network or of networks with as many gated blocks. "
            f"Received: numbers of blocks {sorted(blocks)}"
        )
    (count,) = blocks
    ax = new_axes(ax, (8, 3))
    width = 0.8 / len(ratios)
    for i, (name, ratio) in enumerate(ratios.items()):
        at = np.arange(count) + (i - (len(ratios) - 1) / 2) * width
        ax.bar(at, 100 * ratio, width, label=name)
    ax.set_xticks(range(count), range(count) if labels is None else labels)
    ax.set_xlabel("gated block")
    ax.set_ylabel("skipped (%)")
    ax.set_ylim(0, 100)
    tidy(ax, grid="y")
    if isinstance(shares, dict):
        ax.legend(fontsize="small")
    return ax


def easy_and_hard(images, costs, full, *, axes=None, count=8):
    """Shows the images for which most is skipped, and those for which least is.

    Args:
        images: Array `(samples, height, width, channels)` that can be shown: bytes, or
            numbers from 0 to 1.
        costs: Array `(samples,)`, what each costs, of `predict_with_costs`.
        full: Number, what an image costs with all gates open.
        axes: Array `(2, count)` of matplotlib axes. `None`: new ones.
        count: Integer, images a row.

    Returns:
        Array `(2, count)` of axes: above the easy ones, below the hard ones, each with its
        skipping ratio, `1 - cost / full`.

    Raises:
        ValueError: If there are fewer images than are shown.

    Reference:
        [Dual Dynamic Inference (Wang et al., 2019)](https://arxiv.org/abs/1907.04523),
        figure 13.
    """
    images, costs = np.asarray(images), np.asarray(costs)
    if costs.shape != images.shape[:1] or len(images) < 2 * count:
        raise ValueError(
            f"`images` must be at least {2 * count}, and `costs` one number an image. "
            f"Received: shapes {images.shape} and {costs.shape}"
        )
    if axes is None:
        size = (1.1 * count, 2.8)
        axes = plt.subplots(2, count, figsize=size, layout="constrained", squeeze=False)[1]
    order = np.argsort(costs, kind="stable")
    rows = (("easy", order[:count]), ("hard", order[::-1][:count]))
    for (name, row), line in zip(rows, axes, strict=True):
        for i, ax in zip(row, line, strict=True):
            ax.imshow(images[i].squeeze(), cmap="gray")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_title(f"{100 * (1 - costs[i] / full):.0f} %", fontsize="small")
        line[0].set_ylabel(name)
    return axes


def accuracy_and_cost(points, *, ax=None, unit="MACs"):
    """Draws networks as points and curves of accuracy against mean cost.

    Args:
        points: Dictionary: name to a tuple of cost and accuracy, numbers or arrays; of
            arrays a curve is drawn.
        ax: Matplotlib axes to draw on. `None`: new ones.
        unit: String, of the horizontal axis.

    Returns:
        The axes.
    """
    ax = new_axes(ax)
    scale, prefix = scaled(max(np.max(costs) for costs, _ in points.values()))
    for name, (costs, accuracies) in points.items():
        costs, accuracies = np.atleast_1d(costs), np.atleast_1d(accuracies)
        marker = "-o" if len(costs) > 1 else "s"
        size = 3 if len(costs) > 1 else 7
        ax.plot(costs / scale, 100 * accuracies, marker, ms=size, label=name)
    ax.set_xlabel(f"mean cost ({prefix}{unit} a sample)")
    ax.set_ylabel("accuracy (%)")
    tidy(ax)
    ax.legend(fontsize="small")
    return ax


def _shares(values):
    values = np.asarray(values, "float64")
    if values.ndim != 2 or not values.size or values.min() < 0 or values.max() > 1:
        raise ValueError(
            "`shares` must be of shape (blocks, samples), from 0 to 1. "
            f"Received: shape {values.shape}"
        )
    return values
