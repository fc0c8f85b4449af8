import numpy as np
import pytest

import keras_adaptive as ka

matplotlib = pytest.importorskip("matplotlib", reason="the plot extra is not installed")
matplotlib.use("Agg")

from keras_adaptive.plotting import _style as style  # noqa: E402


def test_curve_shows_every_point_and_every_exit(calibration, tmp_path):
    curve = ka.accuracy_cost_curve(*calibration, points=5)
    ax = ka.plotting.accuracy_cost_curve(curve)
    line, exits = ax.get_lines()
    scale = 1e3
    np.testing.assert_allclose(line.get_xdata(), curve.costs / scale)
    np.testing.assert_allclose(line.get_ydata(), 100 * curve.accuracies)
    np.testing.assert_allclose(exits.get_xdata(), curve.exit_costs / scale)
    assert ax.get_xlabel() == "mean cost (kMACs a sample)"
    places = [text.xy for text in ax.texts]
    np.testing.assert_allclose(places, exits.get_xydata())
    assert [text.get_text() for text in ax.texts] == ["0", "1", "2"]
    ax.figure.savefig(tmp_path / "curve.png")
    matplotlib.pyplot.close(ax.figure)


def test_curve_has_ordinary_networks_beside_it(calibration):
    curve = ka.accuracy_cost_curve(*calibration, points=2)
    static = {"small": (2e6, 0.5), "large": (4e6, 0.75)}
    ax = ka.plotting.accuracy_cost_curve(curve, static=static)
    drawn = {points.get_label(): points.get_offsets()[0].tolist() for points in ax.collections}
    assert drawn == {"small": [2.0, 50.0], "large": [4.0, 75.0]}
    assert ax.get_xlabel() == "mean cost (MMACs a sample)"
    matplotlib.pyplot.close(ax.figure)


def test_curve_draws_on_the_axes_given(calibration):
    figure, ax = matplotlib.pyplot.subplots()
    curve = ka.accuracy_cost_curve(*calibration, points=2)
    assert ka.plotting.accuracy_cost_curve(curve, ax=ax) is ax
    matplotlib.pyplot.close(figure)


def test_reliability_shows_every_exit_before_and_after(calibration):
    logits, labels, _ = calibration
    temperatures = ka.calibration.fit_temperatures(logits, labels)
    axes = ka.plotting.reliability(logits, labels, temperatures)
    assert len(axes) == len(logits)
    before = ka.calibration.reliability(logits, labels).errors
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
    assert all(line.get_xdata().tolist() == [1, 2] for line in ax.get_lines())
    styles = {line.get_label(): line.get_linestyle() for line in ax.get_lines()}
    assert (styles["exit 0"], styles["validation, exit 0"]) == (":", "-")
    path = tmp_path / "history.csv"
    rows = zip(*logs.values(), strict=True)
    path.write_text("\n".join([",".join(logs), *(",".join(map(str, row)) for row in rows)]))
    again = ka.plotting.exit_history(path).get_lines()
    assert {line.get_label(): line.get_ydata().tolist() for line in again} == lines


def test_exit_history_needs_the_exits():
    with pytest.raises(ValueError, match="ExitHistory.*Received: .'loss'"):
        ka.plotting.exit_history({"loss": [1.0]})


def test_exit_shares_fill_the_bar_of_every_policy():
    shares = [[0.6, 0.38, 0.02], [0.1, 0.0, 0.9]]
    ax = ka.plotting.exit_shares(shares, ["cheap", "dear"])
    bars = np.array([[bar.get_width() for bar in group] for group in ax.containers]).T
    np.testing.assert_allclose(bars, 100 * np.array(shares))
    ends = [bar.get_x() + bar.get_width() for bar in ax.containers[-1]]
    np.testing.assert_allclose(ends, 100)
    assert [tick.get_text() for tick in ax.get_yticklabels()] == ["cheap", "dear"]
    assert sorted(text.get_text() for text in ax.texts) == ["10", "38", "60", "90"]
    places = {text.get_text(): text.xy for text in ax.texts}  # in the middle of their bars
    assert {text: (round(x, 6), y) for text, (x, y) in places.items()} == {
        "60": (30, 0),
        "38": (79, 0),
        "10": (5, 1),
        "90": (55, 1),
    }
    assert ax.get_xlim() == (0, 100)
    assert ax.yaxis_inverted()  # the first policy on top
    matplotlib.pyplot.close(ax.figure)


def test_exit_shares_need_whole_shares():
    for wrong in ([0.5, 0.4], [1.5, -0.5], [[[1.0]]], [[0.5, 0.5], [0.5, 0.6]]):
        with pytest.raises(ValueError, match="of sum 1 a policy"):
            ka.plotting.exit_shares(wrong)
    with pytest.raises(ValueError, match="`names` must be one a policy, 1"):
        ka.plotting.exit_shares([0.5, 0.5], ["a", "b"])


def test_images_stand_in_the_row_of_their_exit(rng):
    images = rng.integers(0, 255, (5, 4, 4, 3), dtype="uint8")
    exits, labels, answers = [0, 2, 0, 0, 2], [1, 1, 1, 0, 0], [1, 0, 1, 0, 0]
    axes = ka.plotting.images_by_exit(
        images, exits, labels=labels, answers=answers, class_names=["cat", "dog"], columns=2
    )
    shown = [[ax.images[0].get_array() if ax.images else None for ax in row] for row in axes]
    np.testing.assert_array_equal(shown[0], images[[0, 2]])
    assert shown[1] == [None, None]
    np.testing.assert_array_equal(shown[2], images[[1, 4]])
    assert axes[0, 0].get_ylabel() == "exit 0\n60%"
    assert axes[2, 0].get_title() == "cat, is dog"
    assert axes[2, 1].get_title() == "cat"
    assert axes[2, 0].spines["left"].get_linestyle() == "--"
    assert axes[2, 1].spines["left"].get_linestyle() == "-"
    assert not axes[1, 0].spines["left"].get_visible()
    matplotlib.pyplot.close(axes[0, 0].figure)


def test_images_need_an_exit_each(rng):
    with pytest.raises(ValueError, match="`exits` must be one integer an image, 2"):
        ka.plotting.images_by_exit(rng.uniform(size=(2, 4, 4, 1)), [0])
    for shape in ((2, 4, 4), (2, 4, 4, 2), (0, 4, 4, 1)):
        with pytest.raises(ValueError, match="`images` must be of shape"):
            ka.plotting.images_by_exit(rng.uniform(size=shape), [0] * shape[0])
    for name in ("labels", "answers"):
        with pytest.raises(ValueError, match=f"`{name}` must be one integer an image, 2"):
            ka.plotting.images_by_exit(rng.uniform(size=(2, 4, 4, 1)), [0, 0], **{name: [1]})


def test_latency_shows_the_median_of_every_exit():
    times = np.array([[1.0, 2.0], [3.0, 6.0], [2.0, 4.0]])
    ax = ka.plotting.latency(times, static_ms=5.0)
    points = ax.containers[0].lines[0]
    assert points.get_ydata().tolist() == [2.0, 4.0]
    (bars,) = ax.containers[0].lines[2]
    ends = [segment[:, 1].tolist() for segment in bars.get_segments()]
    expected = np.percentile(times, (5, 99), axis=0).T
    np.testing.assert_allclose(ends, expected)
    assert ax.get_ylim()[0] == 0
    assert [text.get_text() for text in ax.texts] == ["2", "4"]
    labels = [text.get_text() for text in ax.get_legend().get_texts()]
    assert "ordinary network, 5 ms" in labels
    matplotlib.pyplot.close(ax.figure)
    for wrong in ([], [1.0, -1.0], [1.0, np.inf], [[[1.0]]]):
        with pytest.raises(ValueError, match="`milliseconds` must be times"):
            ka.plotting.latency(wrong)
    ax = ka.plotting.latency([1.0, 3.0])  # measured once: nothing scatters
    assert ax.get_legend().get_texts()[0].get_text() == "leaving there"
    assert not ax.containers[0].has_yerr
    matplotlib.pyplot.close(ax.figure)


@pytest.mark.parametrize(
    ("most", "expected"),
    [
        (999.0, (1, "")),
        (1e3, (1e3, "k")),
        (999e3, (1e3, "k")),
        (1e6, (1e6, "M")),
        (1e9, (1e9, "G")),
        (5e12, (1e9, "G")),
    ],
)
def test_large_numbers_are_written_shortly(most, expected):
    assert style.scaled(most) == expected


def test_ink_is_legible():
    assert style.ink_on((0.0, 0.0, 0.3, 1.0)) == "white"
    assert style.ink_on((1.0, 1.0, 0.0, 1.0)) == "black"
