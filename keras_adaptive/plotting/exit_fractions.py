"""Who leaves where."""

import numpy as np

from keras_adaptive.plotting._style import exit_colours, ink_on, new_axes, tidy

LEGIBLE = 0.045  # a smaller share has no room for its number


def exit_shares(shares, names=None, *, ax=None):
    """Draws which share of the samples leaves at each exit, one bar a policy.

    Args:
        shares: Array `(exits,)` or `(policies, exits)`, as `Report.exit_fractions`.
        names: Sequence of strings, one a policy. `None`: no names.
        ax: Matplotlib axes to draw on. `None`: new ones.

    Returns:
        The axes.

    Raises:
        ValueError: If the shares of a policy do not sum to 1.
    """
    shares = np.atleast_2d(np.asarray(shares, "float64"))
    if shares.ndim != 2 or (shares < 0).any() or not np.allclose(shares.sum(axis=1), 1):
        raise ValueError(
            "`shares` must be (exits,) or (policies, exits), of sum 1 a policy. "
            f"Received: shares={shares.tolist()}"
        )
    policies, exits = shares.shape
    names = [""] * policies if names is None else list(names)
    if len(names) != policies:
        raise ValueError(f"`names` must be one a policy, {policies}. Received: names={names}")
    ax = new_axes(ax, (6.4, 1.1 + 0.42 * policies))
    left = np.zeros(policies)
    for k, colour in enumerate(exit_colours(exits)):
        ax.barh(
            np.arange(policies),
            100 * shares[:, k],
            left=100 * left,
            height=0.72,
            color=colour,
            edgecolor="white",
            lw=0.8,
            label=f"exit {k}",
        )
        for row in np.flatnonzero(shares[:, k] >= LEGIBLE):
            ax.annotate(
                f"{100 * shares[row, k]:.0f}",
                (100 * (left[row] + shares[row, k] / 2), row),
                ha="center",
                va="center",
                color=ink_on(colour),
                fontsize="small",
            )
        left += shares[:, k]
    ax.set_yticks(np.arange(policies), names)
    ax.tick_params(axis="y", length=0)
    ax.invert_yaxis()
    ax.set(xlim=(0, 100), xlabel="share of the samples that leave there (%)")
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
