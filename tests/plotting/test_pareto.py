import matplotlib
import numpy as np
import pytest

from keras_adaptive.plotting import pareto_front
from keras_adaptive.tuning import Point

matplotlib.use("Agg")


@pytest.fixture
def points():
    pairs = [(0.4, 1000.0), (0.3, 1500.0), (0.6, 2000.0)]
    return [Point(f"0{i}", accuracy, cost, 100, {}) for i, (accuracy, cost) in enumerate(pairs)]


def test_shows_what_was_tried_the_front_and_the_others(points, tmp_path):
    front = [points[0], points[2]]
    ax = pareto_front(points, front, others={"preset": [(0.5, 2500.0)]})
    tried, best, preset = ax.get_lines()
    np.testing.assert_allclose(tried.get_xydata(), [[1, 40], [1.5, 30], [2, 60]])
    np.testing.assert_allclose(best.get_xydata(), [[1, 40], [2, 60]])
    np.testing.assert_allclose(preset.get_xydata(), [[2.5, 50]])
    assert [text.get_text() for text in ax.texts] == ["0", "2"]
    assert ax.get_xlabel() == "mean cost (kMACs a sample)"
    ax.figure.savefig(tmp_path / "front.png")
    matplotlib.pyplot.close(ax.figure)


def test_draws_on_the_axes_given(points):
    figure, ax = matplotlib.pyplot.subplots()
    assert pareto_front(points, ax=ax) is ax
    assert len(ax.get_lines()) == 1
    matplotlib.pyplot.close(figure)


def test_needs_points():
    with pytest.raises(ValueError, match=r"Received: points=\[\]"):
        pareto_front([])
