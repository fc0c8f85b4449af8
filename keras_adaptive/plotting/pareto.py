"""What a search has found."""

import numpy as np

from keras_adaptive.plotting.style import GRAY, new_axes, scaled, tidy


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
