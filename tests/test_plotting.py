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


def test_exit_history_draws_every_exit_from_fit_or_from_its_file(tmp_path):
    logs = {f"{p}exit_{k}_accuracy": [0.1, 0.2 + 0.1 * k] for p in ("", "val_") for k in range(3)}
    ax = ka.plotting.exit_history({"loss": [2.0, 1.0], **logs})
    lines = {line.get_label(): line.get_ydata().tolist() for line in ax.get_lines()}
    assert lines["validation, exit 2"] == [0.1, 0.4]
    assert len(lines) == 6
    path = tmp_path / "history.csv"
    rows = zip(*logs.values(), strict=True)
    path.write_text("\n".join([",".join(logs), *(",".join(map(str, row)) for row in rows)]))
    again = ka.plotting.exit_history(path).get_lines()
    assert {line.get_label(): line.get_ydata().tolist() for line in again} == lines


def test_exit_history_needs_the_exits():
    with pytest.raises(ValueError, match="ExitHistory.*Received: .'loss'"):
        ka.plotting.exit_history({"loss": [1.0]})
