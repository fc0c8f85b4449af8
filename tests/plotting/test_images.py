import numpy as np
import pytest

from keras_adaptive import evaluation, plotting


def test_images_stand_in_the_row_of_their_exit(rng):
    images = rng.integers(0, 255, (5, 4, 4, 3), dtype="uint8")
    exits, labels, answers = [0, 2, 0, 0, 2], [1, 1, 1, 0, 0], [1, 0, 1, 0, 0]
    axes = plotting.images_by_exit(
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


def test_long_class_names_have_a_line_each_and_an_end(rng):
    names = ["a" * 20, "b" * 30]
    images = rng.integers(0, 255, (2, 4, 4, 3), dtype="uint8")
    axes = plotting.images_by_exit(images, [0, 0], labels=[0, 1], answers=[1, 1], class_names=names)
    shown = "b" * 23 + "…"
    assert axes[0, 0].get_title() == f"{shown},\nis {'a' * 20}"
    assert axes[0, 1].get_title() == shown


def test_images_need_an_exit_each(rng):
    with pytest.raises(ValueError, match="`exits` must be one integer per image, 2"):
        plotting.images_by_exit(rng.uniform(size=(2, 4, 4, 1)), [0])
    for shape in ((2, 4, 4), (2, 4, 4, 2), (0, 4, 4, 1)):
        with pytest.raises(ValueError, match="`images` must be of shape"):
            plotting.images_by_exit(rng.uniform(size=shape), [0] * shape[0])
    for name in ("labels", "answers"):
        with pytest.raises(ValueError, match=f"`{name}` must be one integer per image, 2"):
            plotting.images_by_exit(rng.uniform(size=(2, 4, 4, 1)), [0, 0], **{name: [1]})


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


def test_easy_and_hard_may_have_a_share_to_pass():
    images, costs = np.zeros((20, 2, 2, 1)), np.arange(20) + 1.0
    axes = plotting.easy_and_hard(images, costs, full=20.0, easy=0.9, hard=0.02, count=3)
    titles = [[ax.get_title() for ax in row if ax.images] for row in axes]
    assert titles == [["95 %"], ["0 %"]]  # of costs 1 and 20 alone: 0.9 and 0.05 do not pass


def test_easy_and_hard_need_enough_images():
    with pytest.raises(ValueError, match="`images` must be at least 16.*Received: "):
        plotting.easy_and_hard(np.zeros((9, 2, 2, 1)), np.zeros(9), 1.0)
    with pytest.raises(ValueError, match="`costs` one number per image. Received: "):
        plotting.easy_and_hard(np.zeros((20, 2, 2, 1)), np.zeros(9), 1.0)


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
