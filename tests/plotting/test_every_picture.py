"""What every picture keeps: axes have names and units, and it says of how many samples."""

import itertools
import re
from types import SimpleNamespace

import matplotlib.pyplot as plt
import numpy as np
import pytest
from matplotlib.artist import Artist

import keras_adaptive as ka
from keras_adaptive import plotting
from keras_adaptive.plotting import _style as style
from keras_adaptive.tuning import Point

LONG = ["long_haired_alsatians", "short_tailed_weasels", "yellow_bellied_toads"]
RNG = np.random.default_rng(0)
LABELS = RNG.integers(0, 3, 24)
LOGITS = RNG.normal(size=(3, 24, 3)) + 2 * np.eye(3)[LABELS]
IMAGES = RNG.random((24, 6, 6, 3))
EXITS = np.arange(24) % 3
POINTS = [Point("00", 0.4, 1000.0, 100, {}), Point("01", 0.6, 2000.0, 100, {})]
HISTORY = {f"{p}exit_{k}_accuracy": [0.1, 0.2] for p in ("", "val_") for k in range(3)}


def curve(**how):
    return ka.accuracy_cost_curve(LOGITS, LABELS, [1e3, 2e3, 4e3], points=4, **how)


# name: how it is drawn, and the n that it must say
PICTURES = {
    "accuracy_cost_curve": (lambda: plotting.accuracy_cost_curve(curve()), 24),
    "accuracy_and_cost": (
        lambda: plotting.accuracy_and_cost({"a": (1e3, 0.5), "b": ([1, 2], [0, 1])}, samples=24),
        24,
    ),
    "pareto_front": (lambda: plotting.pareto_front(POINTS, POINTS, samples=24), 24),
    "sweep": (
        lambda: plotting.sweep(
            {"a": SimpleNamespace(costs=[1, 2], accuracies=[0.5, 0.6])}, samples=24
        ),
        24,
    ),
    "accuracy_matrix": (lambda: plotting.accuracy_matrix(np.eye(3), samples=[8, 7, 9]), 8),
    "exit_fractions": (
        lambda: plotting.exit_fractions([[0.5, 0.5], [1, 0]], LONG[:2], samples=24),
        24,
    ),
    "exit_history": (lambda: plotting.exit_history(HISTORY, samples=(24, 12)), 24),
    "latency": (lambda: plotting.latency(np.ones((24, 3))), 24),
    "reliability": (lambda: plotting.reliability(LOGITS, LABELS, [1.0, 1.5, 2.0]), 24),
    "skipping_ratios": (
        lambda: plotting.skipping_ratios(
            {"a": np.ones((3, 24)), "b": np.ones((3, 24))}, labels=LONG
        ),
        24,
    ),
    "blocks_used": (
        lambda: plotting.blocks_used(EXITS, images=IMAGES, labels=LONG * 8, blocks=LONG),
        24,
    ),
    "images_by_exit": (
        lambda: plotting.images_by_exit(
            IMAGES, EXITS, labels=LABELS, answers=LABELS[::-1], class_names=LONG
        ),
        24,
    ),
    "easy_and_hard": (lambda: plotting.easy_and_hard(IMAGES, np.arange(24.0), 24.0), 24),
    "examples": (
        lambda: plotting.examples(IMAGES, [[0, 3], [1, 4]], [name[:14] for name in LONG] * 8),
        24,
    ),
    "probability_strips": (
        lambda: plotting.probability_strips(IMAGES[:3], LOGITS[:, :3], [0, 1, 2], LONG),
        3,
    ),
}
GRIDS = ("images_by_exit", "easy_and_hard", "examples", "probability_strips")


def drawn(name):
    """Returns the figure of a picture as it is saved."""
    with plt.rc_context({"text.parse_math": False}):
        figure = np.ravel(PICTURES[name][0]())[0].figure
        figure.canvas.draw()
    return figure


def texts(figure):
    """Returns the texts that are seen outside of the data."""
    found = list(figure.texts)
    for ax in figure.axes:
        found += [ax.title, *(ax.get_legend().get_texts() if ax.get_legend() else ())]
        for axis in filter(Artist.get_visible, (ax.xaxis, ax.yaxis)):
            low, high = sorted(axis.get_view_interval())
            ticks = zip(axis.get_majorticklocs(), axis.get_majorticklabels(), strict=False)
            found += [axis.label, *(text for place, text in ticks if low <= place <= high)]
    return [text for text in found if text.get_visible() and text.get_text().strip()]


def test_every_public_function_is_here():
    public = {n for n in vars(plotting) if callable(getattr(plotting, n)) and not n.startswith("_")}
    assert public - {"exit_shares"} == set(PICTURES)


@pytest.mark.parametrize("name", PICTURES)
def test_it_says_of_how_many(name):
    figure, number = drawn(name), PICTURES[name][1]
    assert any(re.search(rf"n = {number}\b", text.get_text()) for text in texts(figure))


@pytest.mark.parametrize("name", sorted(set(PICTURES) - set(GRIDS)))
def test_every_axis_has_a_name(name):
    figure = drawn(name)
    for ax in figure.axes:
        assert ax.get_xlabel() or not ax.xaxis.get_visible() or ax.get_label() == "<colorbar>"
        assert ax.get_ylabel()


@pytest.mark.parametrize("name", GRIDS)
def test_every_row_of_images_has_a_name(name):
    axes = np.asarray(PICTURES[name][0]())
    assert all(row[0].get_ylabel() for row in axes)


@pytest.mark.parametrize("name", PICTURES)
def test_captions_do_not_overlap(name):
    boxes = [(text.get_text(), text.get_window_extent().padded(-1)) for text in texts(drawn(name))]
    for (one, first), (other, second) in itertools.combinations(boxes, 2):
        assert not first.overlaps(second), (one, other)


@pytest.mark.parametrize("samples", [None, 1, 360])
def test_series_differ_in_color_line_and_marker_alone(samples):
    kinds = [style.series_style(i) for i in range(4)]
    for part in ("color", "ls", "marker"):
        assert len({kind[part] for kind in kinds}) == 4
    every = [tuple(style.series_style(i).values()) for i in range(12)]
    assert len(set(every)) == 12
    assert style.counted("x", samples) == ("x" if samples is None else f"x, n = {samples}")


def test_curves_of_several_policies_stand_beside_baselines():
    policies = {"max_prob": curve(), "entropy": curve(confidence="entropy")}
    ax = plotting.accuracy_cost_curve(policies, static={"ResNet": (3e3, 0.7)})
    one, two, alone, network = ax.get_lines()
    for line, (name, found) in zip((one, two), policies.items(), strict=True):
        np.testing.assert_allclose(line.get_xdata(), found.costs / 1e3)
        np.testing.assert_allclose(line.get_ydata(), 100 * found.accuracies)
        assert line.get_label() == name
    assert one.get_linestyle() != two.get_linestyle()
    assert alone.get_label() == "each exit alone"  # once: it is the same network
    assert network.get_xydata().tolist() == [[3.0, 70.0]]
    other = curve()._replace(exit_accuracies=np.zeros(3))
    labels = [x.get_label() for x in plotting.accuracy_cost_curve({"a": curve(), "b": other}).lines]
    assert labels == ["a", "b", "each exit of a alone", "each exit of b alone"]
    with pytest.raises(ValueError, match="`curve` must be a curve, or hold at least one"):
        plotting.accuracy_cost_curve({})


@pytest.mark.parametrize(
    ("name", "arguments", "message"),
    [
        ("accuracy_and_cost", [{}], "`points` must hold at least one point"),
        ("accuracy_and_cost", [[(1e3, 0.5)]], "`points` must be a dictionary of names"),
        ("accuracy_and_cost", [{"a": 0.5}], "`points` must be a dictionary of names"),
        ("accuracy_and_cost", [{"a": (1, 2, 3)}], "`points` must be a dictionary of names"),
        ("accuracy_and_cost", [{"a": ([1, 2], [0.5])}], "`points` must be a dictionary of names"),
        ("accuracy_cost_curve", [[0.5, 0.6]], "`curve` must be a curve"),
        ("accuracy_cost_curve", [{"a": None}], "`curve` must be a curve"),
        ("sweep", [[1]], "`sweeps` must hold at least one"),
        ("sweep", [{"a": 1}], "`sweeps` must hold at least one"),
        ("accuracy_matrix", [[0.5, 0.4]], r"`matrix` must be numbers of shape \(exits, exits\)"),
        ("accuracy_matrix", [np.ones((2, 3))], "`matrix` must be numbers of shape"),
        ("accuracy_matrix", [{"a": 1}], "`matrix` must be numbers of shape"),
        ("accuracy_matrix", [np.zeros((0, 0))], "`matrix` must be numbers of shape"),
        ("exit_fractions", [{"a": [0.5, 0.5]}], "`fractions` must be .*Received: fractions={'a'"),
        ("latency", [{"a": [1.0, 2.0]}], "`milliseconds` must be .*Received: milliseconds={'a'"),
        ("latency", [["a"]], "`milliseconds` must be times"),
        ("skipping_ratios", ["a"], "`shares` must be of shape"),
        ("blocks_used", [{"a": 1}], "`shares` must be of shape"),
        ("exit_history", [None], "`history` must be what `fit` returned.*history=None"),
        ("exit_history", [[0.1]], "`history` must be what `fit` returned"),
        ("exit_history", ["none.csv"], "`history` must be a file .*none.csv, which does not"),
        ("images_by_exit", [IMAGES, EXITS + 0.5], "`exits` must be integers of at least 0"),
        ("images_by_exit", [IMAGES, EXITS - 1], "`exits` must be integers of at least 0"),
        ("easy_and_hard", [IMAGES, ["a"] * 24, 1.0], "`costs` must be numbers, one per image"),
        ("examples", [IMAGES, [0, 1]], "`rows` must be a list of one integer array per exit"),
        ("examples", [IMAGES, {"a": [0]}], "`rows` must be a list of one integer array per exit"),
        ("examples", [IMAGES, [[0], [24]]], "indices of images from 0 to 23"),
        ("examples", [IMAGES, [[], []]], "`rows` must be a list of one integer array per exit"),
        ("examples", [IMAGES, [[0]], ["a"]], "`labels` must be one per image, 24"),
        ("examples", [IMAGES[0], [[0]]], "`images` must be of shape"),
        ("probability_strips", [IMAGES, LOGITS[0], EXITS], "`logits` must be numbers of shape"),
        ("probability_strips", [IMAGES[:3], LOGITS, EXITS], "`logits` must be numbers of shape"),
        ("probability_strips", [IMAGES, LOGITS, [0]], "`exits` must be one integer per image, 24"),
        ("probability_strips", [IMAGES, LOGITS, EXITS + 3], "`exits` must be integers from 0 to 2"),
        ("probability_strips", [IMAGES, LOGITS, EXITS, ["a"]], "`class_names` must be 3 names"),
        ("easy_and_hard", [IMAGES, np.ones(24), 0], "`full` above 0. Received: costs=.*full=0"),
        ("easy_and_hard", [IMAGES, np.full(24, np.nan), 1], "`costs` must be finite"),
        ("easy_and_hard", [IMAGES, np.ones(24), "a"], "`full` must be a finite number"),
        ("pareto_front", [[1, 2]], "`points` must be a list of `tuning.Point`"),
    ],
)
def test_refuses_what_cannot_be_drawn(name, arguments, message):
    before = plt.get_fignums()
    with pytest.raises(ValueError, match=message):
        getattr(plotting, name)(*arguments)
    assert plt.get_fignums() == before  # refused before a figure is begun


@pytest.mark.parametrize("value", [0, -1, 2.5, None])
def test_counts_of_images_are_positive(value):
    with pytest.raises(ValueError, match="`columns` must be an integer of at least 1"):
        plotting.images_by_exit(IMAGES, EXITS, columns=value)
    with pytest.raises(ValueError, match="`count` must be an integer of at least 1"):
        plotting.easy_and_hard(IMAGES, np.arange(24.0), 24.0, count=value)
    with pytest.raises(ValueError, match="`top` must be an integer of at least 1"):
        plotting.probability_strips(IMAGES[:3], LOGITS[:, :3], [0, 1, 2], top=value)


def test_an_exit_may_have_no_examples():
    axes = plotting.examples(IMAGES, [np.array([0, 3]), np.array([], int), []])
    assert axes.shape == (3, 2)


@pytest.mark.parametrize(
    ("name", "arguments", "given", "message"),
    [
        ("images_by_exit", [IMAGES, EXITS], {"labels": LABELS - 1}, "`labels` must be integers of"),
        ("images_by_exit", [IMAGES, EXITS], {"answers": ["a"] * 24}, "`answers` must be integers"),
        (
            "images_by_exit",
            [IMAGES, EXITS],
            {"labels": LABELS, "class_names": ["a"]},
            "`labels` must be integers from 0 to 0",
        ),
        (
            "images_by_exit",
            [IMAGES, EXITS],
            {"class_names": {0: "a"}},
            "`class_names` must be 1 names",
        ),
        ("latency", [[1.0, 2.0]], {"percentiles": (5,)}, "`percentiles` must be two numbers"),
        ("latency", [[1.0, 2.0]], {"percentiles": (5, 101)}, "`percentiles` must be two numbers"),
        ("skipping_ratios", [np.ones((3, 4))], {"labels": ["a"]}, "`labels` must be one per block"),
        ("exit_history", [{"exit_0_accuracy": [0.5]}], {"samples": 5}, "`samples` must be two int"),
    ],
)
def test_refuses_what_does_not_fit(name, arguments, given, message):
    before = plt.get_fignums()
    with pytest.raises(ValueError, match=message):
        getattr(plotting, name)(*arguments, **given)
    assert plt.get_fignums() == before


def test_axes_that_are_given_are_as_many_as_are_drawn():
    row = plt.subplots(1, 2)[1]
    for draw in (
        lambda axes: plotting.reliability(LOGITS, LABELS, axes=axes),
        lambda axes: plotting.easy_and_hard(IMAGES, np.arange(24.0), 24.0, axes=axes),
        lambda axes: plotting.examples(IMAGES, [[0], [1], [2]], axes=axes),
        lambda axes: plotting.probability_strips(IMAGES, LOGITS, EXITS, axes=axes),
    ):
        for axes in (row, row[0]):
            with pytest.raises(ValueError, match="`axes` must be matplotlib axes of shape"):
                draw(axes)
    axes = plt.subplots(1, 3)[1]
    assert plotting.reliability(LOGITS, LABELS, axes=list(axes)).tolist() == axes.tolist()


def test_classes_of_one_name_have_a_bar_each():
    logits = np.log([[[0.5, 0.3, 0.2]]])
    (_, ax), *_ = plotting.probability_strips(IMAGES[:1], logits, [0], ["crane", "crane", "cat"])
    assert [text.get_text() for text in ax.get_yticklabels()] == ["cat", "crane", "crane"]
    bars = sorted(bar.get_y() for bar in ax.patches)
    assert min(np.diff(bars)) >= ax.patches[0].get_height()
