import numpy as np
import pytest

matplotlib = pytest.importorskip("matplotlib", reason="the plot extra is not installed")
matplotlib.use("Agg")

from keras_adaptive import plotting  # noqa: E402


@pytest.fixture(autouse=True)
def no_picture_stays_open():
    yield
    matplotlib.pyplot.close("all")


def test_skipping_ratios_are_bars_a_block(rng, tmp_path):
    shares = rng.random((5, 40))
    ax = plotting.skipping_ratios(shares)
    heights = [bar.get_height() for bar in ax.patches]
    np.testing.assert_allclose(heights, 100 * (1 - shares.mean(axis=1)))
    ax.figure.savefig(tmp_path / "ratios.png")
    both = plotting.skipping_ratios({"layer": shares, "both": shares**2}, labels="abcde")
    assert len(both.patches) == 10
    middles = np.array([bar.get_x() + bar.get_width() / 2 for bar in both.patches])
    np.testing.assert_allclose(middles, [*(np.arange(5) - 0.2), *(np.arange(5) + 0.2)])
    assert both.get_ylim() == (0, 100)
    assert [text.get_text() for text in both.get_legend().get_texts()] == ["layer", "both"]
    assert [tick.get_text() for tick in both.get_xticklabels()] == list("abcde")


@pytest.mark.parametrize(
    "shares",
    [
        np.ones(3),
        2 * np.ones((2, 3)),
        np.zeros((0, 3)),
        {"a": np.ones((2, 3)), "b": np.ones((3, 3))},
    ],
)
def test_skipping_ratios_need_shares(shares):
    with pytest.raises(ValueError, match="`shares` must be of .*Received: "):
        plotting.skipping_ratios(shares)


@pytest.mark.parametrize("channels", [1, 3])
def test_easy_images_are_the_cheap_ones(rng, channels):
    images = np.broadcast_to(np.arange(20)[:, None, None, None], (20, 4, 4, channels))
    costs = rng.permutation(20) + 1.0
    axes = plotting.easy_and_hard(images.astype("uint8"), costs, full=25.0, count=3)
    shown = [[int(ax.images[0].get_array().max()) for ax in row] for row in axes]
    assert costs[shown[0]].tolist() == [1, 2, 3]
    assert costs[shown[1]].tolist() == [20, 19, 18]
    assert axes[0, 0].get_title() == "96 %"
    assert [row[0].get_ylabel() for row in axes] == ["easy", "hard"]


def test_easy_and_hard_need_enough_images():
    with pytest.raises(ValueError, match="`images` must be at least 16.*Received: "):
        plotting.easy_and_hard(np.zeros((9, 2, 2, 1)), np.zeros(9), 1.0)
    with pytest.raises(ValueError, match="`costs` one number an image. Received: "):
        plotting.easy_and_hard(np.zeros((20, 2, 2, 1)), np.zeros(9), 1.0)


def test_networks_are_points_and_policies_curves():
    points = {"plain": (2e6, 0.8), "exits": ([1e6, 1.5e6], [0.7, 0.75])}
    ax = plotting.accuracy_and_cost(points)
    point, curve = ax.get_lines()
    assert (point.get_xdata().tolist(), point.get_ydata().tolist()) == ([2.0], [80.0])
    np.testing.assert_allclose(curve.get_xdata(), [1.0, 1.5])
    assert curve.get_label() == "exits"
    assert ax.get_xlabel() == "mean cost (MMACs a sample)"
