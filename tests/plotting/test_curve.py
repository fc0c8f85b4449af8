from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest

import keras_adaptive as ka
from keras_adaptive import plotting
from keras_adaptive.tuning import Point


def test_curve_shows_every_point_and_every_exit(calibration, tmp_path):
    curve = ka.accuracy_cost_curve(*calibration, points=5)
    ax = plotting.accuracy_cost_curve(curve)
    line, exits = ax.get_lines()
    scale = 1e3
    np.testing.assert_allclose(line.get_xdata(), curve.costs / scale)
    np.testing.assert_allclose(line.get_ydata(), 100 * curve.accuracies)
    np.testing.assert_allclose(exits.get_xdata(), curve.exit_costs / scale)
    assert ax.get_xlabel() == "mean cost (kMACs per sample)"
    places = [text.xy for text in ax.texts]
    np.testing.assert_allclose(places, exits.get_xydata())
    assert [text.get_text() for text in ax.texts] == ["0", "1", "2"]
    ax.figure.savefig(tmp_path / "curve.png")


def test_curve_has_ordinary_networks_beside_it(calibration):
    curve = ka.accuracy_cost_curve(*calibration, points=2)
    static = {"small": (2e6, 0.5), "large": (4e6, 0.75)}
    ax = plotting.accuracy_cost_curve(curve, static=static)
    drawn = {points.get_label(): points.get_xydata().tolist() for points in ax.get_lines()[2:]}
    assert drawn == {"small": [[2.0, 50.0]], "large": [[4.0, 75.0]]}
    assert ax.get_xlabel() == "mean cost (MMACs per sample)"


def test_curve_draws_on_the_axes_given(calibration):
    figure, ax = plt.subplots()
    curve = ka.accuracy_cost_curve(*calibration, points=2)
    assert plotting.accuracy_cost_curve(curve, ax=ax) is ax


def test_networks_are_points_and_policies_curves():
    points = {"plain": (2e6, 0.8), "exits": ([1e6, 1.5e6], [0.7, 0.75])}
    ax = plotting.accuracy_and_cost(points)
    point, curve = ax.get_lines()
    assert (point.get_xdata().tolist(), point.get_ydata().tolist()) == ([2.0], [80.0])
    np.testing.assert_allclose(curve.get_xdata(), [1.0, 1.5])
    assert curve.get_label() == "exits"
    assert (point.get_linestyle(), curve.get_linestyle()) == ("None", "-")
    assert ax.get_xlabel() == "mean cost (MMACs per sample)"


@pytest.fixture
def points():
    pairs = [(0.4, 1000.0), (0.3, 1500.0), (0.6, 2000.0)]
    return [Point(f"0{i}", accuracy, cost, 100, {}) for i, (accuracy, cost) in enumerate(pairs)]


def test_shows_what_was_tried_the_front_and_the_others(points, tmp_path):
    front = [points[0], points[2]]
    ax = plotting.pareto_front(points, front, others={"preset": [(0.5, 2500.0)]})
    tried, best, preset = ax.get_lines()
    np.testing.assert_allclose(tried.get_xydata(), [[1, 40], [1.5, 30], [2, 60]])
    np.testing.assert_allclose(best.get_xydata(), [[1, 40], [2, 60]])
    np.testing.assert_allclose(preset.get_xydata(), [[2.5, 50]])
    assert [text.get_text() for text in ax.texts] == ["0", "2"]
    assert ax.get_xlabel() == "mean cost (kMACs per sample)"
    ax.figure.savefig(tmp_path / "front.png")


def test_draws_on_the_axes_given(points):
    figure, ax = plt.subplots()
    assert plotting.pareto_front(points, ax=ax) is ax
    assert len(ax.get_lines()) == 1


def test_needs_points():
    with pytest.raises(ValueError, match=r"Received: points=\[\]"):
        plotting.pareto_front([])


def test_sweep_shows_every_way_and_every_network():
    ways = {
        "learned": SimpleNamespace(costs=np.array([3e6, 2e6]), accuracies=np.array([0.9, 0.8])),
        "thresholds": SimpleNamespace(costs=[1e6], accuracies=[0.7]),
    }
    ax = plotting.sweep(ways, {"small": (2e6, 0.75)})
    learned, thresholds, network = ax.get_lines()
    assert learned.get_xdata().tolist() == [2.0, 3.0]  # in order of cost, in millions
    assert learned.get_ydata().tolist() == [80.0, 90.0]
    assert network.get_xdata() == [2.0]
    assert [text.get_text() for text in ax.get_legend().texts] == ["learned", "thresholds"]
    assert [text.get_text() for text in ax.texts] == ["small"]
    assert ax.get_xlabel() == "mean cost (MMACs per sample)"
    with pytest.raises(ValueError, match="`sweeps` must hold at least one"):
        plotting.sweep({})
