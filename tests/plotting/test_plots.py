import numpy as np
import pytest

import keras_adaptive as ka
from keras_adaptive import plotting
from keras_adaptive.plotting import _style as style


def test_reliability_shows_every_exit_before_and_after(calibration):
    logits, labels, _ = calibration
    temperatures = ka.calibration.fit_temperatures(logits, labels)
    axes = plotting.reliability(logits, labels, temperatures)
    assert len(axes) == len(logits)
    before = ka.calibration.reliability(logits, labels).errors
    for ax, error in zip(axes, before, strict=True):
        diagonal, first, second = ax.get_lines()
        assert first.get_label() == f"as trained, ECE {100 * error:.1f} %"
        assert second.get_label().startswith("with temperature")


def test_exit_history_draws_every_exit_from_fit_or_from_its_file(tmp_path):
    logs = {f"{p}exit_{k}_accuracy": [0.1, 0.2 + 0.1 * k] for p in ("", "val_") for k in range(3)}
    ax = plotting.exit_history({"loss": [2.0, 1.0], **logs})
    lines = {line.get_label(): line.get_ydata().tolist() for line in ax.get_lines()}
    assert lines["validation, exit 2"] == [0.1, 0.4]
    assert len(lines) == 6
    assert all(line.get_xdata().tolist() == [1, 2] for line in ax.get_lines())
    styles = {line.get_label(): line.get_linestyle() for line in ax.get_lines()}
    assert (styles["exit 0"], styles["validation, exit 0"]) == (":", "-")
    path = tmp_path / "history.csv"
    rows = zip(*logs.values(), strict=True)
    path.write_text("\n".join([",".join(logs), *(",".join(map(str, row)) for row in rows)]))
    again = plotting.exit_history(path).get_lines()
    assert {line.get_label(): line.get_ydata().tolist() for line in again} == lines


def test_exit_history_needs_the_exits():
    with pytest.raises(ValueError, match="ExitHistory.*Received: .'loss'"):
        plotting.exit_history({"loss": [1.0]})


def test_exit_fractions_fill_the_bar_of_every_policy():
    shares = [[0.6, 0.38, 0.02], [0.1, 0.0, 0.9]]
    ax = plotting.exit_fractions(shares, ["cheap", "dear"])
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


def test_exit_fractions_must_sum_to_1():
    for wrong in ([0.5, 0.4], [1.5, -0.5], [[[1.0]]], [[0.5, 0.5], [0.5, 0.6]]):
        with pytest.raises(ValueError, match="of sum 1 for each policy"):
            plotting.exit_fractions(wrong)
    with pytest.raises(ValueError, match="`names` must be one per policy, 1"):
        plotting.exit_fractions([0.5, 0.5], ["a", "b"])


def test_latency_shows_the_median_of_every_exit():
    times = np.array([[1.0, 2.0], [3.0, 6.0], [2.0, 4.0]])
    ax = plotting.latency(times, static_ms=5.0)
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
    for wrong in ([], [1.0, -1.0], [1.0, np.inf], [[[1.0]]]):
        with pytest.raises(ValueError, match="`milliseconds` must be times"):
            plotting.latency(wrong)
    ax = plotting.latency([1.0, 3.0])  # measured once: nothing scatters
    assert ax.get_legend().get_texts()[0].get_text() == "one measurement"
    assert not ax.containers[0].has_yerr


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


def test_the_matrix_shows_its_numbers():
    ax = plotting.accuracy_matrix([[1.0, np.nan], [0.5, 0.25]])
    assert [text.get_text() for text in ax.texts] == ["1.000", "-", "0.500", "0.250"]
