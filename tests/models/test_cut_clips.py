import numpy as np
import pytest

from keras_adaptive.models.clip_cascade import cut_clips


def video(length, height, width):
    """Every number tells where it is from."""
    t, y, x = np.indices((length, height, width))
    return np.stack([t, y, x], axis=-1)


@pytest.mark.parametrize(("height", "width"), [(6, 10), (10, 6), (8, 8)])
def test_clips_are_spread_from_end_to_end_and_the_middle_comes_first(height, width):
    clips = cut_clips(video(20, height, width), 4, 5, temporal=5, spatial=3)
    assert clips.shape == (15, 4, 5, 5, 3)
    starts = clips[:, 0, 0, 0]
    assert starts[:5, 0].tolist() == [0, 4, 8, 12, 16]
    long, short = (2, 1) if width >= height else (1, 2)
    room = max(height, width) - 5
    assert starts[::5, long].tolist() == [round(room / 2), 0, room]
    assert set(starts[:, short]) == {(min(height, width) - 5) // 2}
    for clip in clips:  # whole pieces of the video, nothing moved
        np.testing.assert_array_equal(clip - clip[:1, :1, :1], video(4, 5, 5))


def test_one_clip_is_the_middle():
    (clip,) = cut_clips(video(9, 6, 8), 3, 4, temporal=1, spatial=1)
    assert clip[0, 0, 0].tolist() == [3, 1, 2]


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((video(3, 9, 9), 4, 5), "at least 4 frames of 5 x 5"),
        ((video(9, 4, 9), 4, 5), r"Received: shape \(9, 4, 9, 3\)"),
        ((video(9, 9, 9)[0], 4, 5), "must be of shape"),
        ((video(9, 9, 9), 0, 5), "Received: frames=0"),
        ((video(9, 9, 9), True, 5), "Received: frames=True"),
        ((video(9, 9, 9), 4, 0), "size=0"),
        ((video(9, 9, 4), 4, 5), r"Received: shape \(9, 9, 4, 3\)"),
    ],
)
def test_rejects_videos_that_are_too_small(arguments, message):
    with pytest.raises(ValueError, match=message):
        cut_clips(*arguments)


@pytest.mark.parametrize("places", [{"temporal": 0}, {"spatial": 0}, {"spatial": 2.0}])
def test_rejects_impossible_numbers_of_places(places):
    with pytest.raises(ValueError, match="must be an integer of at least 1"):
        cut_clips(video(9, 9, 9), 4, 5, **places)


def test_a_video_of_the_least_size_is_one_clip_many_times():
    clips = cut_clips(video(4, 5, 5), 4, 5, temporal=2, spatial=3)
    np.testing.assert_array_equal(clips, np.repeat(video(4, 5, 5)[None], 6, axis=0))


def test_places_nearer_to_the_middle_come_first():
    clips = cut_clips(video(4, 5, 13), 4, 5, temporal=1, spatial=5)
    assert clips[:, 0, 0, 0, 2].tolist() == [4, 2, 6, 0, 8]
    clips = cut_clips(video(7, 5, 8), 4, 5, temporal=2, spatial=2)
    assert clips[:, 0, 0, 0].tolist() == [[0, 0, 0], [3, 0, 0], [0, 0, 3], [3, 0, 3]]
