"""Frames of a video: the arrays' rule is the device's, and what is not reused is as ever."""

import itertools
import json
import math
import threading

import file_vectors
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from anytime_tflite import AnytimeModel
from keras_adaptive.calibration import scene_starts

POOL = 12  # images that videos are made of
NEVER = [np.inf] * 3
FILES = json.loads((file_vectors.FOLDER / "answers.json").read_text())["cases"]
taus = st.sampled_from([0.0, 1e-3, 0.05, 0.1, 0.3, 0.6, 1.0, 2.0, math.inf])
videos = st.lists(st.integers(0, POOL - 1), min_size=1, max_size=15)


@pytest.fixture(scope="module")
def device(exported):
    return AnytimeModel(exported, num_threads=1)


@pytest.fixture(scope="module")
def pool(device, test_images):
    """Images, of each the answer alone, and what the first exit says; by number."""
    images = test_images[0][:POOL]
    first = np.stack([next(device.stream(image)).probabilities for image in images])
    return images, [device.classify(image) for image in images], first


def without_time(answer):
    return (*answer[1:4], *answer[5:], answer.probabilities.tolist())


def as_frames_alone(stream, expected):
    return list(map(without_time, stream)) == list(map(without_time, expected))


@settings(max_examples=60)
@given(videos, taus)
def test_answers_and_spends_what_the_arrays_say(device, pool, video, tau):
    images, answers, first = pool
    starts = scene_starts(first[video], tau)
    macs = device.info["macs"]
    for t, found in enumerate(device.stream_frames(images[video], tau)):
        kept = answers[video[starts[t]]]
        assert (found.label, found.exit, found.stopped_by) == kept[1:4]
        np.testing.assert_array_equal(found.probabilities, kept.probabilities)
        assert found.reused == (starts[t] != t)
        assert found.cost == macs[0 if found.reused else device.exits.index(kept.exit)]
        assert found.class_name == str(found.label)
        assert found.elapsed_ms > 0


@given(videos)
def test_with_tau_0_only_what_is_the_same_is_reused(device, pool, video):
    images, _, _ = pool
    found = list(device.stream_frames(images[video], tau=0))
    assert [a.reused for a in found] == [False, *(a == b for a, b in itertools.pairwise(video))]


@given(videos)
def test_with_tau_infinite_the_label_of_the_first_exit_decides(device, pool, video):
    images, _, first = pool
    labels = first[video].argmax(axis=1)
    found = list(device.stream_frames(images[video], tau=math.inf))
    assert [a.reused for a in found] == [False, *(labels[1:] == labels[:-1])]


@given(st.permutations(range(POOL)))
def test_where_every_frame_is_another_scene_all_is_as_with_classify(device, pool, order):
    images, answers, _ = pool
    stream = device.stream_frames(images[order], tau=0)
    assert as_frames_alone(stream, [answers[i] for i in order])


@given(st.lists(st.tuples(st.integers(0, POOL - 1), st.booleans()), min_size=1, max_size=10))
def test_after_a_reset_a_frame_is_computed_alone(device, pool, video):
    images, answers, _ = pool
    stream = device.stream_frames((images[i] for i, _ in video), tau=math.inf)
    for i, reset in video:
        if reset:
            stream.reset()
        found = next(stream)
        assert not (reset and found.reused)
        if not found.reused:
            assert without_time(found) == without_time(answers[i])


@settings(max_examples=30)
@given(videos, videos, taus, taus)
def test_streams_over_one_model_do_not_disturb_each_other(device, pool, one, other, tau, its_tau):
    images, answers, _ = pool
    apart = (
        [*device.stream_frames(images[one], tau)],
        [*device.stream_frames(images[other], its_tau)],
    )
    first, second = (
        device.stream_frames(images[one], tau),
        device.stream_frames(images[other], its_tau),
    )
    mixed = [], []
    for a, b in itertools.zip_longest(first, second):
        mixed[0].append(a)
        mixed[1].append(b)
        assert without_time(device.classify(images[0])) == without_time(answers[0])
    for found, expected in zip(mixed, apart, strict=True):
        assert as_frames_alone(filter(None, found), expected)


def test_tau_may_change_between_frames(device, pool):
    images, _, first = pool
    i, j = next(  # of one label at the first exit, but not the same
        (i, j)
        for i, j in itertools.combinations(range(POOL), 2)
        if first[i].argmax() == first[j].argmax() and not np.array_equal(first[i], first[j])
    )
    stream = device.stream_frames(images[[i, j, j]], tau=0)
    assert [next(stream).reused, next(stream).reused] == [False, False]
    stream.tau = math.inf
    assert next(stream).reused


def test_no_frame_is_read_before_its_answer_is_asked_for(device, pool):
    read = []
    camera = (read.append(i) or pool[0][0] for i in itertools.count())
    stream = device.stream_frames(camera)
    assert read == []
    assert [next(stream).reused for _ in range(3)] == [False, True, True]
    assert read == [0, 1, 2]


def test_pixels_that_differ_a_little_are_one_scene(device, digits, pool):
    pixels = np.rint((pool[0][0] * digits.std + digits.mean) * 255).astype("uint8")
    a_little = pixels.copy()
    a_little[4, 4] ^= 1
    frames = [pixels, a_little, 255 - pixels]
    one, other, _ = first = [next(device.stream(frame)).probabilities for frame in frames]
    distance = math.dist(one, other)
    assert 0 < distance < min(math.dist(one, first[2]), 0.1)
    for tau, reused in ((1.1 * distance, True), (0.9 * distance, False)):
        assert [a.reused for a in device.stream_frames(frames, tau)] == [False, reused, False]


@pytest.mark.parametrize("case", FILES, ids=lambda case: case["file"][:-7])
def test_every_kind_of_file_reuses_after_its_first_stage(case):
    arrays = {name: file_vectors.unpack(packed) for name, packed in case["inputs"].items()}
    costs = file_vectors.unpack(case["costs"])
    with AnytimeModel(file_vectors.FOLDER / case["file"], num_threads=1) as device:
        for row, expected in enumerate(case["expected"]):
            frame = {name: array[row] for name, array in arrays.items()}
            first, second = device.stream_frames([frame, frame], tau=0)
            for found in (first, second):
                assert (found.label, found.exit) == (expected["label"], expected["exit"])
                assert found.stopped_by == expected["stopped_by"]
            assert (first.reused, second.reused) == (False, True)
            assert first.cost == pytest.approx(costs[row, device.exits.index(first.exit)])
            assert second.cost == pytest.approx(costs[row, 0])


# ---- answers that a scene is not given


def test_an_answer_that_was_out_of_time_is_not_kept(exported, pool):
    device = AnytimeModel(exported, num_threads=1)
    frames = pool[0][[0, 0, 0]]
    stream = device.stream_frames(frames, math.inf, deadline_ms=0, thresholds=NEVER)
    for answer in stream:
        assert (answer.exit, answer.stopped_by, answer.reused) == (0, "deadline", False)
    calm = list(device.stream_frames(frames, math.inf, deadline_ms=1e9, thresholds=NEVER))
    assert [(a.exit, a.stopped_by) for a in calm] == [(2, "end")] * 3
    assert [a.reused for a in calm] == [False, True, True]


def test_an_answer_that_was_cancelled_is_not_kept(exported, pool):
    device = AnytimeModel(exported, num_threads=1)
    stream, run = device.stream_frames(pool[0][[0, 0, 0]], 0, thresholds=NEVER), device._backend.run

    def run_and_cancel(i):
        thread = threading.Thread(target=device.cancel)
        thread.start()
        thread.join()
        return run(i)

    device._backend.run = run_and_cancel
    first = next(stream)
    device._backend.run = run
    assert (first.exit, first.stopped_by) == (0, "cancelled")
    assert [(a.exit, a.reused) for a in stream] == [(2, False), (2, True)]


# ---- what is refused


@pytest.mark.parametrize("tau", [-1, math.nan, -math.inf])
def test_rejects_impossible_tau(device, pool, tau):
    with pytest.raises(
        ValueError, match=rf"`tau` must be a number of at least 0. Received: tau={tau}"
    ):
        device.stream_frames(pool[0], tau)


@pytest.mark.parametrize("tau", [None, "0.1", [0.1, 0.2], True])
def test_a_tau_of_a_wrong_type_is_a_type_error(device, pool, tau):
    with pytest.raises(TypeError, match="`tau` must be a number of at least 0. Received: tau="):
        device.stream_frames(pool[0], tau)


@pytest.mark.parametrize("frames", [None, 3, "video.mp4", b"frames", {"image": []}, np.array(1.0)])
def test_what_is_no_row_of_frames_is_a_type_error(device, frames):
    with pytest.raises(TypeError, match="`frames` must be an array of frames, or an iterable"):
        device.stream_frames(frames)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"deadline_ms": -1}, "`deadline_ms` must be a number of at least 0"),
        ({"thresholds": [0.5]}, "`thresholds` must be 3 numbers"),
    ],
)
def test_arguments_are_refused_before_the_first_frame(device, arguments, message):
    with pytest.raises(ValueError, match=message):
        device.stream_frames(iter([]), **arguments)


def test_one_image_is_no_video(device, pool):
    with pytest.raises(ValueError, match=r"`frames\[0\]` must be of shape \(8, 8, 1\)"):
        list(device.stream_frames(pool[0][0]))


def test_after_a_frame_that_is_refused_the_next_can_be_given(device, pool):
    image = pool[0][0]
    stream = device.stream_frames([image, image[:4], image], tau=0)
    assert not next(stream).reused
    with pytest.raises(ValueError, match=r"`frames\[1\]` must be of shape .* Received: shape"):
        next(stream)
    assert next(stream).reused
    with pytest.raises(StopIteration):
        next(stream)


def test_a_closed_model_says_so(exported, pool):
    device = AnytimeModel(exported, num_threads=1)
    stream = device.stream_frames(pool[0])
    next(stream)
    device.close()
    with pytest.raises(ValueError, match="The model must be open"):
        next(stream)
    with pytest.raises(ValueError, match="The model must be open"):
        device.stream_frames(pool[0])


@pytest.mark.parametrize("tau", [-1, math.nan, "near", None, True])
def test_tau_is_checked_where_it_is_changed(device, pool, tau):
    stream = device.stream_frames(pool[0][:1], tau=0.2)
    with pytest.raises(ValueError, match="`tau` must be a number of at least 0"):
        stream.tau = tau
    assert stream.tau == 0.2
    stream.tau = np.float32(0.5)
    assert stream.tau == 0.5
