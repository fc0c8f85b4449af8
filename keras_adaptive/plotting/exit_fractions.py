"""Exit fractions: how many of the samples leave at each exit."""

import numpy as np

from keras_adaptive.plotting._style import counted, exit_colors, ink_on, new_axes, numbers_of, tidy

LEGIBLE = 0.045  # a smaller fraction has no room for its number


def exit_fractions(fractions, names=None, *, samples=None, ax=None):
    """Draws the fraction of the samples that leaves at each exit, one bar per policy.

    Args:
        fractions: Array `(exits,)` or `(policies, exits)`, as
            `EvaluationResult.exit_fractions`.
        names: Sequence of strings, one per policy. `None`: no names.
        samples: Integer, of how many samples these are fractions. `None`: it is not said.
        ax: Matplotlib axes to draw on. `None`: new ones.

    Returns:
        The axes.

    Raises:
        ValueError: If the fractions of a policy do not sum to 1.
    """
    must = "(exits,) or (policies, exits), of sum 1 for each policy"
    fractions = np.atleast_2d(numbers_of(fractions, "fractions", must))
    if fractions.ndim != 2 or (fractions < 0).any() or not np.allclose(fractions.sum(axis=1), 1):
        raise ValueError(f"`fractions` must be {must}. Received: fractions={fractions.tolist()}")
    policies, exits = fractions.shape
    names = [""] * policies if names is None else list(names)
    if len(names) != policies:
        raise ValueError(f"`names` must be one per policy, {policies}. Received: names={names}")
    ax = new_axes(ax, (6.4, 1.1 + 0.42 * policies))
    left = np.zeros(policies)
    for k, color in enumerate(exit_colors(exits)):
        ax.barh(
            np.arange(policies),
            100 * fractions[:, k],
            left=100 * left,
            height=0.72,
            color=color,
            edgecolor="white",
            lw=0.8,
            label=f"exit {k}",
        )
        for row in np.flatnonzero(fractions[:, k] >= LEGIBLE):
            ax.annotate(
                f"{100 * fractions[row, k]:.0f}",
                (100 * (left[row] + fractions[row, k] / 2), row),
                ha="center",
                va="center",
                color=ink_on(color),
                fontsize="small",
            )
        left += fractions[:, k]
    ax.set_yticks(np.arange(policies), names)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    label = "fraction of the samples that leaves at the exit (%)"
    ax.set(xlim=(0, 100), xlabel=counted(label, samples), ylabel="policy" if any(names) else "")
    tidy(ax, grid=None)
    ax.spines["left"].set_visible(False)
    ax.legend(
        loc="lower center",
        bbox_to_anchor=(0.5, 1.0),
        ncols=min(exits, 6),
        fontsize="small",
        frameon=False,
        handlelength=1,
        columnspacing=1.2,
    )
    return ax


exit_shares = exit_fractions  # its name before 0.2; until 0.3
