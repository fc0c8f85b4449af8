from types import SimpleNamespace

import numpy as np
import pytest

from keras_adaptive import evaluation

matplotlib = pytest.importorskip("matplotlib", reason="the plot extra is not installed")
matplotlib.use("Agg")

from keras_adaptive import plotting  # noqa: E402


@pytest.fixture(autouse=True)
def _close():
    yield
    matplotlib.pyplot.close("all")


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
    assert ax.get_xlabel() == "mean cost (MMACs a sample)"
    with pytest.raises(ValueError, match="`sweeps` must hold at least one"):
        plotting.sweep({})


def test_the_matrix_shows_its_numbers():
    ax = plotting.accuracy_matrix([[1.0, np.nan], [0.5, 0.25]])
    assert [text.get_text() for text in ax.texts] == ["1.000", "-", "0.500", "0.250"]


def test_examples_and_strips_show_the_images(rng):
    images = rng.random((4, 6, 6, 1))
    rows, _ = evaluation.extremes([0, 0, 1, 0], rng.random((2, 4)), count=2)
    axes = plotting.examples(images, rows, labels="abcd")
    assert axes.shape == (2, 2)
    assert axes[1][0].get_title() == "c"
    np.testing.assert_array_equal(axes[1][0].images[0].get_array(), images[2, ..., 0])
    assert not axes[1][1].images
    logits = np.log(np.array([[[0.7, 0.2, 0.1]] * 2, [[0.1, 0.3, 0.6]] * 2]))
    axes = plotting.probability_strips(images[:2], logits, [0, 1], ["cat", "dog", "owl"], top=2)
    assert axes.shape == (2, 3)
    assert [bar.get_width() for bar in axes[1][2].patches] == pytest.approx([0.3, 0.6])
    assert [t.get_text() for t in axes[1][2].get_yticklabels()] == ["dog", "owl"]
    assert not axes[0][2].patches  # it left before
    assert axes[0][1].get_title() == "exit 0, leaves"
