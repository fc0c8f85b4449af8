"""Skipping ratios: how much of each gated block is skipped."""

import numpy as np

from keras_adaptive.plotting._style import COLORS, HATCHES, counted, new_axes, numbers_of, tidy


def skipping_ratios(shares, *, ax=None, labels=None):
    """Draws how much of each gated block is skipped on average.

    Args:
        shares: Array `(blocks, samples)`, of `AdaptiveModel.predict_gates`; or a dictionary
            of such arrays by name, drawn side by side.
        ax: Matplotlib axes to draw on. `None`: new ones.
        labels: Sequence of names of the blocks. `None`: their numbers.

    Returns:
        The axes.

    Raises:
        ValueError: If there are no shares, or the numbers of blocks differ.

    Reference:
        [SkipNet (Wang et al., 2018)](https://arxiv.org/abs/1711.09485), figure 8.
    """
    series = shares if isinstance(shares, dict) else {None: shares}
    series = {name: _shares(values) for name, values in series.items()}
    ratios = {name: 1 - values.mean(axis=1) for name, values in series.items()}
    blocks = {len(ratio) for ratio in ratios.values()}
    if len(blocks) != 1:
        raise ValueError(
            "`shares` must be of networks with the same number of gated blocks. "
            f"Received: numbers of blocks {sorted(blocks)}"
        )
    (count,) = blocks
    if labels is not None and len(labels) != count:
        raise ValueError(f"`labels` must be one per block, {count}. Received: labels={labels}")
    longest = max(len(str(label)) for label in (range(count) if labels is None else labels))
    upright = longest > 60 / count  # longer names would run into their neighbors
    ax = new_axes(ax, (8, 3 + (0.08 * longest if upright else 0)))
    width = 0.8 / len(ratios)
    for i, (name, ratio) in enumerate(ratios.items()):
        at = np.arange(count) + (i - (len(ratios) - 1) / 2) * width
        color, hatch = COLORS[i % len(COLORS)], HATCHES[i % len(HATCHES)]
        ax.bar(at, 100 * ratio, width, label=name, color=color, hatch=hatch, edgecolor="white")
    ax.set_xticks(range(count), range(count) if labels is None else labels)
    if upright:
        ax.tick_params(axis="x", rotation=90)
    ax.set_xlabel("gated block")
    ax.set_ylabel(counted("skipped (%)", [values.shape[1] for values in series.values()]))
    ax.set_ylim(0, 100)
    tidy(ax, grid="y")
    if isinstance(shares, dict):
        ax.legend(fontsize="small")
    return ax


def _shares(values):
    must = "of shape (blocks, samples), from 0 to 1"
    values = numbers_of(values, "shares", must)
    if values.ndim != 2 or not values.size or values.min() < 0 or values.max() > 1:
        raise ValueError(f"`shares` must be {must}. Received: shape {values.shape}")
    return values
