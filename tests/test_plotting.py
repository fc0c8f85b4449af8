import numpy as np
import pytest

import keras_adaptive as ka

matplotlib = pytest.importorskip("matplotlib", reason="the plot extra is not installed")
matplotlib.use("Agg")


def test_curve_shows_every_point_and_every_exit(calibration, tmp_path):
    curve = ka.accuracy_cost_curve(*calibration, points=5)
    ax = ka.plotting.accuracy_cost_curve(curve)
    line, exits = ax.get_lines()
    scale = 1e3
    np.testing.assert_allclose(line.get_xdata(), curve.costs / scale)
    np.testing.assert_allclose(line.get_ydata(), 100 * curve.accuracies)
    np.testing.assert_allclose(exits.get_xdata(), curve.exit_costs / scale)
    assert ax.get_xlabel() == "mean cost (kMACs a sample)"
    ax.figure.savefig(tmp_path / "curve.png")
    matplotlib.pyplot.close(ax.figure)


def test_curve_draws_on_the_axes_given(calibration):
    figure, ax = matplotlib.pyplot.subplots()
    curve = ka.accuracy_cost_curve(*calibration, points=2)
    assert ka.plotting.accuracy_cost_curve(curve, ax=ax) is ax
    matplotlib.pyplot.close(figure)


def test_reliability_shows_every_exit_before_and_after(calibration):
    logits, labels, _ = calibration
    temperatures = ka.temperature.fit_temperatures(logits, labels)
    axes = ka.plotting.reliability(logits, labels, temperatures)
    assert len(axes) == len(logits)
    before = ka.temperature.reliability(logits, labels).errors
    for ax, error in zip(axes, before, strict=True):
        diagonal, first, second = ax.get_lines()
        assert first.get_label() == f"as trained, ECE {100 * error:.1f} %"
        assert second.get_label().startswith("with temperature")
    matplotlib.pyplot.close(axes[0].figure)
