"""Accuracy against cost."""

import numpy as np

from keras_adaptive.plotting.style import BLUE, GREEN, MARKERS, RED, new_axes, scaled, tidy


def accuracy_cost_curve(curve, *, ax=None, unit="MACs", label="leaving early", static=None):
    """Draws accuracy against mean cost, with the exits used alone on it.

    Args:
        curve: A `Curve` of `keras_adaptive.accuracy_cost_curve`.
        ax: Matplotlib axes to draw on. `None`: new ones.
        unit: String, of the horizontal axis.
        label: String, of the curve.
        static: Dictionary: name of an ordinary network to compare with, to its
            `(cost, accuracy)`, in the curve's unit and from 0 to 1. `None`: no others.

    Returns:
        The axes.
    """
    ax = new_axes(ax)
    static = static or {}
    most = max([*curve.exit_costs, *(cost for cost, _ in static.values())])
    scale, prefix = scaled(most)
    ax.plot(
        np.asarray(curve.costs) / scale,
        100 * np.asarray(curve.accuracies),
        "-o",
        color=BLUE,
        ms=3,
        lw=1.8,
        label=label,
    )
    ax.plot(
        np.asarray(curve.exit_costs) / scale,
        100 * np.asarray(curve.exit_accuracies),
        "s",
        mfc="none",
        mew=1.5,
        color=RED,
        label="always the same exit",
    )
    for k, (x, y) in enumerate(zip(curve.exit_costs, curve.exit_accuracies, strict=True)):
        ax.annotate(
            str(k),
            (x / scale, 100 * y),
            xytext=(5, -12),
            textcoords="offset points",
            color=RED,
            fontsize="small",
        )
    for i, (name, (cost, accuracy)) in enumerate(static.items()):
        marker = MARKERS[i % len(MARKERS)]
        ax.scatter(cost / scale, 100 * accuracy, marker=marker, color=GREEN, zorder=3, label=name)
    ax.set_xlabel(f"mean cost ({prefix}{unit} a sample)")
    ax.set_ylabel("accuracy (%)")
    tidy(ax)
    ax.margins(y=0.12)  # room for the numbers
    ax.legend(loc="best", fontsize="small")
    return ax
