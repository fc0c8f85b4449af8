import numpy as np
import pytest

from keras_adaptive import plotting


def cells(ax):
    return np.asarray(ax.images[0].get_array())


def test_rows_are_images_and_columns_are_blocks(rng):
    shares = rng.random((3, 5)).round(2)
    ax = plotting.blocks_used(shares)
    np.testing.assert_array_equal(cells(ax), shares.T)
    assert ax.images[0].get_clim() == (0, 1)
    written = {tuple(map(int, text.get_position())): text.get_text() for text in ax.texts}
    assert written[2, 4] == f"{100 * shares[2, 4]:.0f}"
    assert len(written) == 15
    assert ax.get_xlabel() == "gated block"
    assert ax.get_ylabel() == "image, n = 5"


def test_a_gated_network_says_what_it_skipped(rng):
    import keras_adaptive as ka

    model = ka.build_resnet((8, 8, 1), 10, depth=14, width=0.25, gates="layer")
    shares = model.predict_gates(rng.random((4, 8, 8, 1)), verbose=0)
    np.testing.assert_array_equal(cells(plotting.blocks_used(shares)), shares.T)


def test_exits_use_the_stages_before_them():
    ax = plotting.blocks_used([0, 2, 1], blocks=["stem", "middle", "end", "never"])
    used = [[1, 0, 0, 0], [1, 1, 1, 0], [1, 1, 0, 0]]
    np.testing.assert_array_equal(cells(ax), used)
    assert [tick.get_text() for tick in ax.get_xticklabels()] == ["stem", "middle", "end", "never"]
    assert ax.get_xlabel().startswith("stage")
    assert cells(plotting.blocks_used([0, 1])).shape == (2, 2)


@pytest.mark.parametrize("channels", [1, 3])
def test_each_image_stands_beside_its_row(rng, channels, tmp_path):
    images = rng.random((4, 6, 6, channels))
    ax = plotting.blocks_used(rng.random((2, 4)), images=images, labels="abcd")
    drawn = sorted(ax.artists, key=lambda box: box.xy[1])
    assert [box.xy[1] for box in drawn] == [0, 1, 2, 3]
    for box, image in zip(drawn, images, strict=True):
        np.testing.assert_array_equal(box.offsetbox.get_data(), image.squeeze())
    assert [tick.get_text() for tick in ax.get_yticklabels()] == list("abcd")
    ax.figure.savefig(tmp_path / "blocks.png")


def test_of_many_images_colors_alone_are_drawn(rng):
    shares = rng.random((4, 200))
    ax = plotting.blocks_used(shares, images=rng.random((200, 6, 6, 1)))
    np.testing.assert_array_equal(cells(ax), shares.T)
    assert not ax.texts
    assert not ax.artists
    assert ax.figure.axes[1].get_ylabel() == "computed (share of the block)"


@pytest.mark.parametrize(
    "shares",
    [
        [],
        [0.5, 1.0],
        [-1, 2],
        np.zeros((0, 3)),
        2 * np.ones((2, 3)),
        [[np.nan]],
        np.ones((1, 1, 1)),
    ],
)
def test_blocks_used_needs_shares_or_exits(shares):
    with pytest.raises(ValueError, match="`shares` must be of shape .*Received: shape"):
        plotting.blocks_used(shares)


def test_names_and_images_fit_the_shares():
    for name, given in (("images", np.ones((2, 4, 4, 1))), ("labels", ["a"]), ("blocks", "abc")):
        with pytest.raises(ValueError, match=f"`{name}` must be .*Received: {len(given)}"):
            plotting.blocks_used(np.ones((2, 3)), **{name: given})
    with pytest.raises(ValueError, match="`blocks` must be a name for each stage, 3 or more"):
        plotting.blocks_used([0, 2], blocks=["a"])
