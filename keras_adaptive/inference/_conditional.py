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
        sure = _confidence(logits, policy, exits[k])
        leaves = sure >= thresholds[k]
        if answer.shape[-1] > stages.classes:
            leaves = ops.logical_or(leaves, answer[0, -1] > 0)
        return ops.cond(
            leaves,
            lambda: here,
            lambda: from_stage(k + 1, tensors, thresholds),
        )

    return lambda images, thresholds: from_stage(0, {stages.takes[0][0]: images}, thresholds)


def _confidence(logits, policy, exit):
    """`policy.sureness` of one answer, as a scalar in the graph."""
    kind = policy.confidence
    scaled = ops.cast(logits, "float32")[0] / float(policy.temperatures[exit])
    if kind == "learned":
        return _stopping_probability(policy.networks[exit], ops.softmax(scaled)[None])
    if kind == "entropy":
        return ops.sum(ops.softmax(scaled) * ops.log_softmax(scaled))
    if kind == "max_prob":
        return ops.max(ops.softmax(scaled))
    top = ops.top_k(ops.softmax(scaled) if kind == "prob_margin" else scaled, 2)[0]
    return top[0] - top[1]


def _stopping_probability(network, features):
    """`stopping.stopping_probability` in the graph."""
    for i, (kernel, bias) in enumerate(network):
        if i > 0:
            features = ops.relu(features)
        features = ops.matmul(features, kernel) + bias
    return ops.softmax(features)[0, 0]
