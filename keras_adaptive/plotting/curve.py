"""Accuracy against cost."""

import numpy as np

from keras_adaptive.plotting._style import BLUE, GRAY, GREEN, MARKERS, RED, new_axes, scaled, tidy


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


def pareto_front(points, front=(), *, others=None, ax=None, unit="MACs"):
    """Draws what a search has found: accuracy against cost, and the front.

    Args:
        points: List of `tuning.Point`, as `tuning.trial_points` returns it.
        front: The same, as `tuning.pareto_front` returns it; it is joined by steps and
            every point is named by its trial.
        others: Dictionary: name to a list of `(accuracy, cost)`, drawn for comparison.
        ax: Matplotlib axes to draw on. `None`: new ones.
        unit: String, of the horizontal axis.

    Returns:
        The axes.

    Raises:
        ValueError: If there are no points.
    """
    if not points:
        raise ValueError("`points` must hold at least one point. Received: points=[]")
    ax = new_axes(ax)
    scale, prefix = scaled(max(point.cost for point in points))
    ax.plot(*_places(points, scale), "o", ms=3, color=GRAY, label="tried")
    if front:
        x, y = _places(front, scale)
        ax.step(x, y, "-o", ms=4, where="post", label="front")
        for point, *place in zip(front, x, y, strict=True):
            name = point.trial.lstrip("0") or "0"
            ax.annotate(name, place, xytext=(4, -10), textcoords="offset points", size="x-small")
    for name, pairs in (others or {}).items():
        accuracies, costs = np.asarray(pairs, "float64").T
        ax.plot(costs / scale, 100 * accuracies, "s", mfc="none", label=name)
    ax.set_xlabel(f"mean cost ({prefix}{unit} a sample)")
    ax.set_ylabel("accuracy (%)")
    tidy(ax)
    ax.legend(fontsize="x-small", loc="lower right")
    return ax


def _places(points, scale):
    costs, accuracies = ([getattr(p, name) for p in points] for name in ("cost", "accuracy"))
    return np.asarray(costs) / scale, 100 * np.asarray(accuracies)


def sweep(sweeps, static=None, *, ax=None, unit="MACs"):
    """Draws accuracy against mean cost for several ways of stopping.

    Args:
        sweeps: Dictionary: name to what has `costs` and `accuracies`: a `Sweep`, a `Curve`
            of `accuracy_cost_curve` (thresholds on the same cascade).
        static: Dictionary: name to `(cost, accuracy)` of networks used alone, or `None`.
        ax: Matplotlib axes. `None`: new ones.
        unit: String, of the costs.

    Returns:
        The axes.

    Reference:
        [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368), figure 2.
    """
    if not sweeps:
        raise ValueError(f"`sweeps` must hold at least one. Received: sweeps={sweeps}")
    ax = new_axes(ax, (5.5, 3.6))
    scale, prefix = scaled(max(np.max(found.costs) for found in sweeps.values()))
    for name, found in sweeps.items():
        order = np.argsort(found.costs, kind="stable")
        costs, accuracies = np.asarray(found.costs)[order], np.asarray(found.accuracies)[order]
        ax.plot(costs / scale, 100 * accuracies, "-o", ms=3, label=name)
    for name, (cost, accuracy) in (static or {}).items():
        ax.plot(cost / scale, 100 * accuracy, "s", color="gray", ms=5)
        ax.annotate(
            name,
            (cost / scale, 100 * accuracy),
            xytext=(5, -8),
            textcoords="offset points",
            fontsize="small",
            color="gray",
        )
    ax.set_xlabel(f"mean cost ({prefix}{unit} a sample)")
    ax.set_ylabel("accuracy (%)")
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small")
    return ax
