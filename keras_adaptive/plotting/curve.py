"""Accuracy against cost: curves, networks, sweeps and the Pareto front of a search."""

from typing import NamedTuple

import numpy as np

from keras_adaptive.plotting._style import BLUE, GRAY, GREEN, MARKERS, RED, new_axes, scaled, tidy


class _Series(NamedTuple):
    """Points of accuracy against cost, drawn in one style."""

    costs: np.ndarray
    accuracies: np.ndarray
    style: dict  # arguments of `Axes.plot`
    texts: tuple = ()  # one beside each point


def _draw(series, ax, unit, size=(6, 4)):
    """Draws every series on axes of accuracy against cost, and returns the axes."""
    ax = new_axes(ax, size)
    scale, prefix = scaled(max(np.max(one.costs) for one in series))
    for costs, accuracies, style, texts in series:
        x, y = np.atleast_1d(costs) / scale, 100 * np.atleast_1d(accuracies)
        (line,) = ax.plot(x, y, **style)
        for text, *place in zip(texts, x, y, strict=False):
            ax.annotate(
                str(text),
                place,
                xytext=(5, -12),
                textcoords="offset points",
                color=line.get_color(),
                fontsize="small",
            )
    ax.set_xlabel(f"mean cost ({prefix}{unit} per sample)")
    ax.set_ylabel("accuracy (%)")
    tidy(ax)
    ax.margins(y=0.12)  # room for the texts
    ax.legend(fontsize="small")
    return ax


def accuracy_cost_curve(curve, *, ax=None, unit="MACs", label="early exits", static=None):
    """Draws accuracy against mean cost, and each exit used alone for comparison.

    Args:
        curve: A `Curve` of `keras_adaptive.accuracy_cost_curve`.
        ax: Matplotlib axes to draw on. `None`: new ones.
        unit: String, the unit of the costs.
        label: String, of the curve.
        static: Dictionary: name of an ordinary network to compare with, to its
            `(cost, accuracy)`, in the curve's unit and from 0 to 1. `None`: no others.

    Returns:
        The axes.
    """
    style = {"color": BLUE, "marker": "o", "ms": 3, "lw": 1.8, "label": label}
    alone = {"color": RED, "marker": "s", "mfc": "none", "mew": 1.5, "label": "each exit alone"}
    exits = range(len(curve.exit_costs))
    networks = [
        _Series(*point, {"color": GREEN, "marker": MARKERS[i % len(MARKERS)], "label": name})
        for i, (name, point) in enumerate((static or {}).items())
    ]
    return _draw(
        [
            _Series(curve.costs, curve.accuracies, style),
            _Series(curve.exit_costs, curve.exit_accuracies, {"ls": "", **alone}, exits),
            *networks,
        ],
        ax,
        unit,
    )


def accuracy_and_cost(points, *, ax=None, unit="MACs"):
    """Draws accuracy against mean cost of several networks: points, or curves of policies.

    Args:
        points: Dictionary: name to a tuple of cost and accuracy. Numbers are drawn as a
            point, arrays as a curve.
        ax: Matplotlib axes to draw on. `None`: new ones.
        unit: String, the unit of the costs.

    Returns:
        The axes.
    """
    curve, point = {"marker": "o", "ms": 3}, {"marker": "s", "ms": 7, "ls": ""}
    return _draw(
        [
            _Series(*found, {**(curve if np.size(found[0]) > 1 else point), "label": name})
            for name, found in points.items()
        ],
        ax,
        unit,
    )


def pareto_front(points, front=(), *, others=None, ax=None, unit="MACs"):
    """Draws the trials of a search: accuracy against cost, and the Pareto front.

    Args:
        points: List of `tuning.Point`, as `tuning.trial_points` returns it.
        front: The same, as `tuning.pareto_front` returns it. It is drawn as steps, with the
            name of the trial beside every point.
        others: Dictionary: name to a list of `(accuracy, cost)`, drawn for comparison.
        ax: Matplotlib axes to draw on. `None`: new ones.
        unit: String, the unit of the costs.

    Returns:
        The axes.

    Raises:
        ValueError: If there are no points.
    """
    if not points:
        raise ValueError("`points` must hold at least one point. Received: points=[]")
    tried = {"color": GRAY, "marker": "o", "ms": 3, "ls": "", "label": "trials"}
    steps = {"drawstyle": "steps-post", "marker": "o", "ms": 4, "label": "Pareto front"}
    series = [_Series(*_columns(points), tried)]
    if front:
        names = tuple(point.trial.lstrip("0") or "0" for point in front)
        series.append(_Series(*_columns(front), steps, names))
    for name, pairs in (others or {}).items():
        accuracies, costs = np.asarray(pairs, "float64").T
        series.append(
            _Series(costs, accuracies, {"marker": "s", "mfc": "none", "ls": "", "label": name})
        )
    return _draw(series, ax, unit)


def _columns(points):
    return [np.array([getattr(p, name) for p in points]) for name in ("cost", "accuracy")]


def sweep(sweeps, static=None, *, ax=None, unit="MACs"):
    """Draws accuracy against mean cost of several stopping methods.

    Args:
        sweeps: Dictionary: name to an object with `costs` and `accuracies`: a `Sweep`, or a
            `Curve` of `accuracy_cost_curve` (thresholds on the same cascade).
        static: Dictionary: name to `(cost, accuracy)` of networks used alone, or `None`.
        ax: Matplotlib axes to draw on. `None`: new ones.
        unit: String, the unit of the costs.

    Returns:
        The axes.

    Raises:
        ValueError: If there are no sweeps.

    Reference:
        [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368), figure 2.
    """
    if not sweeps:
        raise ValueError(f"`sweeps` must hold at least one. Received: sweeps={sweeps}")
    series = []
    for name, found in sweeps.items():
        order = np.argsort(found.costs, kind="stable")
        columns = (np.asarray(values)[order] for values in (found.costs, found.accuracies))
        series.append(_Series(*columns, {"marker": "o", "ms": 3, "label": name}))
    network = {"color": GRAY, "marker": "s", "ms": 5, "ls": ""}
    series += [_Series(*point, network, (name,)) for name, point in (static or {}).items()]
    return _draw(series, ax, unit, (5.5, 3.6))
