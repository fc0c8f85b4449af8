"""All stages in one function for a single sample: each runs only if the one before did not stop."""

import numpy as np
from keras import ops


def leaving_at(k, stages):
    """Returns thresholds, one per stage, with which every sample leaves at stage `k`."""
    return np.where(np.arange(stages) == k, -np.inf, np.inf).astype("float32")


def nested(apply, stages, policy, exits):
    """Returns a function of nested conditionals, one per exit.

    It follows `policy.step`, in float32, and a stage's own decision to stop, where its
    answer has one behind the logits.

    Args:
        apply: Function `(k, tensors) -> [answer, *features]` that computes stage `k`.
        stages: `Stages`.
        policy: A `Policy`.
        exits: Indices of the policy's exits, one per stage.

    Returns:
        Function `(images, thresholds) -> (answer, stage)`, of a batch of one; thresholds are
        those of `policy.step`.
    """
    last = len(stages) - 1

    def from_stage(k, tensors, state, thresholds):
        answer, *features = apply(k, [tensors[name] for name in stages.inputs[k]])
        here = (answer, ops.convert_to_tensor(k, "int32"))
        if k == last:
            return here
        tensors = {**tensors, **dict(zip(stages.outputs[k], features, strict=True))}
        tensors = {name: tensors[name] for name in stages.carried(k + 1)}
        logits = answer[..., : stages.classes]
        leaves, state = policy.step(exits[k], logits, state, ops, thresholds[k])
        leaves = leaves[0]
        if answer.shape[-1] > stages.classes:
            leaves = ops.logical_or(leaves, answer[0, -1] > 0)
        return ops.cond(
            leaves,
            lambda: here,
            lambda: from_stage(k + 1, tensors, state, thresholds),
        )

    def run(images, thresholds):
        state = policy.start(1, stages.classes, ops)
        return from_stage(0, {stages.inputs[0][0]: images}, state, thresholds)

    return run
