import keras
import numpy as np
import pytest

import keras_adaptive as ka
from keras_adaptive.models import build_clip_cascade, build_x3d


def network(channels, shape=(3, 6, 6, 1), classes=4):
    clip = keras.Input(shape)
    x = keras.layers.Conv3D(channels, 2, activation="relu")(clip)
    x = keras.layers.GlobalAveragePooling3D()(x)
    return keras.Model(clip, keras.layers.Dense(classes)(x))


@pytest.fixture(scope="module")
def members():
    keras.utils.set_random_seed(3)
    return [network(3), network(6)]


@pytest.fixture
def videos(rng):
    return rng.normal(size=(7, 4, 3, 6, 6, 1)).astype("float32")


def answers(member, videos):
    """The logits of every clip, `(clips, videos, classes)`."""
    return np.stack([np.asarray(member(videos[:, clip])) for clip in range(videos.shape[1])])


def test_every_exit_is_the_mean_over_the_clips_so_far(members, videos):
    cascade = build_clip_cascade(members[0], clips=4)
    own = answers(members[0], videos)
    expected = own.cumsum(0) / np.arange(1, 5)[:, None, None]
    np.testing.assert_allclose(np.stack(cascade(videos)), expected, atol=1e-6)
    costs = cascade.exit_costs()
    one = ka.costs.exit_costs(members[0].inputs, members[0].outputs)[0]
    assert costs.tolist() == (one * np.arange(1, 5)).tolist()


def test_members_look_at_all_clips_before_the_next_is_asked(members, videos):
    cascade = build_clip_cascade(members, clips=4, exits="member")
    own = [answers(member, videos).mean(0) for member in members]
    first, second = cascade(videos)
    np.testing.assert_allclose(first, own[0], atol=1e-6)
    np.testing.assert_allclose(second, (own[0] + own[1]) / 2, atol=1e-6)
    by_clip = build_clip_cascade(members, clips=4)
    assert cascade.exit_costs().tolist() == by_clip.exit_costs()[3::4].tolist()


def test_a_confident_video_goes_no_further(members, videos):
    cascade = build_clip_cascade(members[0], clips=4)
    logits = np.stack(cascade.predict(videos, verbose=0))
    confidence = ka.policy.confidence(logits)
    policy = ka.ExitPolicy([np.sort(s)[3:5].mean() for s in confidence])
    result = ka.AdaptivePredictor(cascade, policy, engine="keras").predict(videos)
    np.testing.assert_array_equal(result.exits, policy.decide(logits))
    assert len(set(result.exits)) > 1
    assert result.costs.tolist() == cascade.exit_costs()[result.exits].tolist()


def test_the_same_member_twice_is_saved_and_loaded_again(members, videos, tmp_path):
    cascade = build_clip_cascade([members[0], members[0]], clips=4, exits="member")
    cascade.save(tmp_path / "cascade.keras")
    again = keras.models.load_model(tmp_path / "cascade.keras")
    for found, expected in zip(again(videos), cascade(videos), strict=True):
        np.testing.assert_array_equal(found, expected)


def test_members_that_share_layers_are_refused(members):
    member = members[0]
    other = keras.Model(member.inputs, keras.layers.Dense(4)(member.layers[-2].output))
    with pytest.raises(ValueError, match="must not share layers.*'member_0' and 'member_1'"):
        build_clip_cascade([member, other], clips=2)


def test_keeps_the_names_of_the_classes():
    model = network(2)
    member = ka.AdaptiveModel(model.input, model.outputs)
    member.class_names = ["bow", "jump", "run", "wave"]
    assert build_clip_cascade(member, clips=2).class_names == member.class_names


@pytest.mark.slow
def test_x3d_costs_what_is_published():
    # 6.2 billion and 3.8 million, for 256 x 256 pixels
    model = build_x3d(preset="x3d_m", input_shape=(16, 256, 256, 3))
    assert model.exit_costs()[0] / 1e9 == pytest.approx(6.2, rel=0.02)
    assert model.exit_costs("params")[0] / 1e6 == pytest.approx(3.8, rel=0.02)


def test_x3d_is_a_member(rng):
    model = build_x3d((4, 8, 8, 1), 3, width=8, blocks=(1, 2), top=16)
    cascade = build_clip_cascade(model, clips=2)
    clips = rng.normal(size=(2, 2, 4, 8, 8, 1)).astype("float32")
    own = answers(lambda x: model(x)[0], clips)
    np.testing.assert_allclose(cascade(clips)[1], own.mean(0), atol=1e-5)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"members": []}, "at least one model"),
        ({"clips": 0}, "Received: clips=0"),
        ({"exits": "frame"}, "Received: exits=frame"),
        ({"members": [network(2), network(2, (4, 6, 6, 1))]}, "clips of the same shape"),
        (
            {"members": [network(2), network(2, classes=5)]},
            r"number of classes. Received: \[4, 5\]",
        ),
    ],
)
def test_rejects_what_does_not_fit(members, arguments, message):
    with pytest.raises(ValueError, match=message):
        build_clip_cascade(**{"members": members, "clips": 2, **arguments})


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"input_shape": (8, 8, 1)}, "Received: input_shape"),
        ({"classes": 1}, "Received: classes=1"),
        ({"blocks": (1, 0)}, r"Received: blocks\[1\]=0"),
        ({"preset": "x3d_z"}, "Received: preset=x3d_z"),
        ({"width": (8, 16)}, "one per stage. Received: width="),
    ],
)
def test_x3d_rejects_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        build_x3d(**arguments)
