"""Pictures. Each function draws on matplotlib axes and returns them."""

import matplotlib.pyplot as plt
import numpy as np


def accuracy_cost_curve(curve, *, ax=None, unit="MACs", label="leaving early"):
    """Draws accuracy against mean cost, with the exits used alone on it.

    Args:
        curve: A `Curve` of `keras_adaptive.accuracy_cost_curve`.
        ax: Matplotlib axes to draw on. `None`: new ones.
        unit: String, of the horizontal axis.
        label: String, of the curve.

    Returns:
        The axes.
    """
    ax = ax or plt.subplots(figsize=(6, 4), layout="constrained")[1]
    scale, prefix = next(
        ((s, p) for s, p in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if max(curve.exit_costs) >= s),
        (1, ""),
    )
    ax.plot(
        np.asarray(curve.costs) / scale, 100 * np.asarray(curve.accuracies), "-o", ms=3, label=label
    )
    ax.plot(
        np.asarray(curve.exit_costs) / scale,
        100 * np.asarray(curve.exit_accuracies),
        "s",
        mfc="none",
        color="tab:red",
        label="always the same exit",
    )
    for k, (x, y) in enumerate(zip(curve.exit_costs, curve.exit_accuracies, strict=True)):
        ax.annotate(str(k), (x / scale, 100 * y), xytext=(5, -11), textcoords="offset points")
    ax.set_xlabel(f"mean cost ({prefix}{unit} a sample)")
    ax.set_ylabel("accuracy (%)")
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right")
    return ax
