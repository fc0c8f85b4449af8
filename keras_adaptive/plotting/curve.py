"""Accuracy against cost: curves, networks, sweeps and the Pareto front of a search."""

import reprlib
from itertools import cycle
from typing import NamedTuple

import numpy as np

from keras_adaptive.plotting._style import (
    BLACK,
    GRAY,
    LINES,
    MARKERS,
    counted,
    new_axes,
    numbers_of,
    scaled,
    series_style,
    tidy,
)


class _Series(NamedTuple):
    """Points of accuracy against cost, drawn in one style."""

    costs: np.ndarray
    accuracies: np.ndarray
    style: dict  # arguments of `Axes.plot`
    texts: tuple = ()  # one beside each point


def _draw(series, ax, unit, samples, size=(6, 4)):
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
    ax.set_ylabel(counted("accuracy (%)", samples))
    tidy(ax)
    ax.margins(y=0.12)  # room for the texts
    ax.legend(fontsize="small")
    return ax


def accuracy_cost_curve(curve, *, ax=None, unit="MACs", label="early exits", static=None):
    """Draws accuracy against mean cost, and each exit used alone for comparison.

    Args:
        curve: A `Curve` of `keras_adaptive.accuracy_cost_curve`; or a dictionary of them by
            name, for example of several policies on one network.
        ax: Matplotlib axes to draw on. `None`: new ones.
        unit: String, the unit of the costs.
        label: String, of the curve where it is one.
        static: Dictionary: name of an ordinary network to compare with, to its
            `(cost, accuracy)`, in the curve's unit and from 0 to 1. `None`: no others.

    Returns:
        The axes.

    Raises:
        ValueError: If there are no curves.
    """
    curves = curve if isinstance(curve, dict) else {label: curve}
    if not curves or not all(hasattr(found, "exit_accuracies") for found in curves.values()):
        raise ValueError(
            f"`curve` must be a curve, or hold at least one. Received: curve={reprlib.repr(curve)}"
        )
    static = _points(static or {}, "static")
    lines = [
        _Series(
            found.costs, found.accuracies, {**series_style(i), "ms": 3, "lw": 1.8, "label": name}
        )
        for i, (name, found) in enumerate(curves.items())
    ]
    networks = [
        _Series(
            *point, {"color": GRAY, "marker": MARKERS[i % len(MARKERS)], "ls": "", "label": name}
        )
        for i, (name, point) in enumerate(static.items())
    ]
    samples = [found.samples for found in curves.values()]
    return _draw([*lines, *_exits_alone(curves), *networks], ax, unit, samples)


def _points(points, name):
    """Returns a dictionary of names to cost and accuracy, of one shape, as arrays."""
    must = "a dictionary of names to (cost, accuracy), numbers or arrays of one shape"
    pairs = points.values() if isinstance(points, dict) else ()
    arrays = [numbers_of(pair, name, must) for pair in pairs]
    if not isinstance(points, dict) or not all(a.ndim in (1, 2) and len(a) == 2 for a in arrays):
        raise ValueError(f"`{name}` must be {must}. Received: {name}={reprlib.repr(points)}")
    return dict(zip(points, arrays, strict=True))


def _exits_alone(curves):
    """Returns the exits of each network, once though it may have several curves."""
    found = {}
    for name, curve in curves.items():
        points = np.stack([curve.exit_costs, curve.exit_accuracies])
        found.setdefault(points.tobytes(), (name, points))
    series = []
    for (name, (costs, accuracies)), marker in zip(found.values(), cycle("sDhp")):
        label = "each exit alone" if len(found) == 1 else f"each exit of {name} alone"
        style = {"color": BLACK, "marker": marker, "mfc": "none", "mew": 1.5, "ls": ""}
        series.append(_Series(costs, accuracies, {**style, "label": label}, range(len(costs))))
    return series


def accuracy_and_cost(points, *, ax=None, unit="MACs", samples=None):
    """Draws accuracy against mean cost of several networks: points, or curves of policies.

    Args:
        points: Dictionary: name to a tuple of cost and accuracy. Numbers are drawn as a
            point, arrays as a curve.
        ax: Matplotlib axes to draw on. `None`: new ones.
        unit: String, the unit of the costs.
        samples: Integer, on how many samples accuracy was measured. `None`: it is not said.

    Returns:
        The axes.

    Raises:
        ValueError: If there are no points, or they are something else.
    """
    points = _points(points, "points")
    if not points:
        raise ValueError("`points` must hold at least one point. Received: points={}")
    series, lines = [], cycle(LINES)
    for i, (name, found) in enumerate(points.items()):
        style = {"ms": 3, "ls": next(lines)} if np.size(found[0]) > 1 else {"ms": 7, "ls": ""}
        series.append(_Series(*found, {**series_style(i), **style, "label": name}))
    return _draw(series, ax, unit, samples)


def pareto_front(points, front=(), *, others=None, ax=None, unit="MACs", samples=None):
    """Draws the trials of a search: accuracy against cost, and the Pareto front.

    Args:
        points: List of `tuning.Point`, as `tuning.trial_points` returns it.
        front: The same, as `tuning.pareto_front` returns it. It is drawn as steps, with the
            name of the trial beside every point.
        others: Dictionary: name to a list of `(accuracy, cost)`, drawn for comparison.
        ax: Matplotlib axes to draw on. `None`: new ones.
        unit: String, the unit of the costs.
        samples: Integer, on how many samples accuracy was measured. `None`: it is not said.

    Returns:
        The axes.

    Raises:
        ValueError: If there are no points.
    """
    if not points:
        raise ValueError("`points` must hold at least one point. Received: points=[]")
    for name, given in (("points", points), ("front", front)):
        if not all(hasattr(point, "cost") and hasattr(point, "accuracy") for point in given):
            raise ValueError(
                f"`{name}` must be a list of `tuning.Point`. Received: {name}={reprlib.repr(given)}"
            )
    tried = {"color": GRAY, "marker": "o", "ms": 3, "ls": "", "label": f"{len(points):,} trials"}
    steps = {**series_style(0), "drawstyle": "steps-post", "ms": 4, "label": "Pareto front"}
    series = [_Series(*_columns(points), tried)]
    if front:
        names = tuple(point.trial.lstrip("0") or "0" for point in front)
        series.append(_Series(*_columns(front), steps, names))
    for i, (name, pairs) in enumerate((others or {}).items(), 1):
        accuracies, costs = np.asarray(pairs, "float64").T
        style = {**series_style(i), "mfc": "none", "ls": "", "label": name}
        series.append(_Series(costs, accuracies, style))
    return _draw(series, ax, unit, samples)


def _columns(points):
    return [np.array([getattr(p, name) for p in points]) for name in ("cost", "accuracy")]


def sweep(sweeps, static=None, *, ax=None, unit="MACs", samples=None):
    """Draws accuracy against mean cost of several stopping methods.

    Args:
        sweeps: Dictionary: name to an object with `costs` and `accuracies`: a `Sweep`, or a
            `Curve` of `accuracy_cost_curve` (thresholds on the same cascade).
        static: Dictionary: name to `(cost, accuracy)` of networks used alone, or `None`.
        ax: Matplotlib axes to draw on. `None`: new ones.
        unit: String, the unit of the costs.
        samples: Integer, on how many samples accuracy was measured. `None`: it is not said.

    Returns:
        The axes.

    Raises:
        ValueError: If there are no sweeps.

    Reference:
        [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368), figure 2.
    """
    are_sweeps = isinstance(sweeps, dict) and all(hasattr(s, "costs") for s in sweeps.values())
    if not are_sweeps or not sweeps:
        raise ValueError(
            "`sweeps` must hold at least one, a dictionary by name. "
            f"Received: sweeps={reprlib.repr(sweeps)}"
        )
    static = _points(static or {}, "static")
    series = []
    for i, (name, found) in enumerate(sweeps.items()):
        order = np.argsort(found.costs, kind="stable")
        columns = (np.asarray(values)[order] for values in (found.costs, found.accuracies))
        series.append(_Series(*columns, {**series_style(i), "ms": 3, "label": name}))
    network = {"color": GRAY, "marker": "s", "ms": 5, "ls": ""}
    series += [_Series(*point, network, (name,)) for name, point in static.items()]
    return _draw(series, ax, unit, samples, (5.5, 3.6))
