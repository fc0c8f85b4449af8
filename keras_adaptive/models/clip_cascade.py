"""A cascade for videos: clip after clip, until the answer is sure."""

import keras

from keras_adaptive.models.cascade import chain, check_model, logits_of
from keras_adaptive.models.presets import check_choice, check_integers


def build_clip_cascade(members, clips, *, exits="clip"):
    """Chains the clips of a video as stages of evidence, for one network or several.

    The input is a video's clips, `(clips, frames, height, width, channels)`, as
    `keras_adaptive.video.cut_clips` makes them. Each member looks at all clips, one after
    the other, and the answer is the mean of all logits so far. With `exits="clip"` a video
    may leave after any clip; with `"member"` only after all clips of a member (what the
    paper's table 5 compares, where cost is given for one clip).

    Args:
        members: A built `keras.Model` from a clip to logits, or a list of such, cheap ones
            first, for clips of the same shape.
        clips: Integer, the number of clips of a video: 30 in the paper, 10 places in time
            times 3 in space.
        exits: `"clip"` or `"member"`.

    Returns:
        A compiled `AdaptiveModel`, with an exit a clip or a member.

    Raises:
        ValueError: If the members do not fit together.

    Example:

    >>> x = keras.Input((2, 8, 8, 1))
    >>> features = keras.layers.GlobalAveragePooling3D()(keras.layers.Conv3D(4, 1)(x))
    >>> model = keras.Model(x, keras.layers.Dense(10)(features))
    >>> cascade = build_clip_cascade(model, clips=3)
    >>> tuple(cascade.inputs[0].shape), cascade.exit_costs().tolist()
    ((None, 3, 2, 8, 8, 1), [552.0, 1104.0, 1656.0])

    Reference:
        [Wisdom of Committees (Wang et al., 2022)](https://arxiv.org/abs/2012.01988),
        section 7.1. Whether the decision is per clip or per video is not published.
    """
    members = list(members) if isinstance(members, (list, tuple)) else [members]
    if not members:
        raise ValueError(f"`members` must be at least one model. Received: members={members}")
    check_integers(1, clips=clips)
    check_choice(("clip", "member"), exits=exits)
    for member in members:
        check_model(member, "members")
    for what, shapes in (
        ("take clips of the same shape", {tuple(m.inputs[0].shape[1:]) for m in members}),
        ("have the same classes", {m.outputs[-1].shape[-1] for m in members}),
    ):
        if len(shapes) > 1:
            raise ValueError(f"`members` must {what}. Received: {sorted(shapes, key=str)}")
    video = keras.Input((clips, *members[0].inputs[0].shape[1:]), name="video")
    logits = []
    for i, member in enumerate(members):
        network = logits_of(member, f"member_{i}")
        logits += [network(video[:, clip]) for clip in range(clips)]
    every = clips if exits == "member" else 1
    return chain(video, logits, "mean_logits", "clip_cascade", every)
