"""One sample, one function: a stage runs only if the one before was not sure enough."""

import numpy as np
from keras import ops


def leaving_at(k, stages):
    """Returns thresholds with which any sample leaves at stage `k` of so many."""
    return np.where(np.arange(stages) == k, -np.inf, np.inf).astype("float32")


def nested(apply, stages, policy, exits):
    """Returns a function with one conditional inside the other, an exit each.

    It follows `policy.decide`, in float32, and what stands behind the logits.

    Args:
        apply: Function `(k, tensors) -> [answer, *gives]` that computes stage `k`.
        stages: `Stages`.
        policy: An `ExitPolicy`.
        exits: Indices of the policy's exits, one a stage.

    Returns:
        Function `(images, thresholds) -> (answer, stage)`, of a batch of one.
    """
    last = len(stages) - 1

    def from_stage(k, tensors, thresholds):
        answer, *features = apply(k, [tensors[name] for name in stages.takes[k]])
        here = (answer, ops.convert_to_tensor(k, "int32"))
        if k == last:
            return here
        tensors = {**tensors, **dict(zip(stages.gives[k], features, strict=True))}
        tensors = {name: tensors[name] for name in stages.carried(k + 1)}
        logits = answer[..., : stages.classes]
        leaves = policy.confidence_of(exits[k], logits, ops)[0] >= thresholds[k]
        if answer.shape[-1] > stages.classes:
            leaves = ops.logical_or(leaves, answer[0, -1] > 0)
        return ops.cond(
            leaves,
            lambda: here,
            lambda: from_stage(k + 1, tensors, thresholds),
        )

    return lambda images, thresholds: from_stage(0, {stages.takes[0][0]: images}, thresholds)
