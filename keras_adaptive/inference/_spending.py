"""Costs per sample of networks with gates, and the worst-case limit on them."""

from typing import NamedTuple

import numpy as np
from keras import ops

from keras_adaptive.costs.gated_costs import gated_costs

ROUNDING = 1e-6  # relative, of float32


class Spending(NamedTuple):
    """Answers with what they cost.

    Attributes:
        answers: List of symbolic tensors, one per exit: the logits, and behind them three
            numbers per sample: what it has spent in gated blocks; the position of the exit
            that answers, -1 if none can be afforded; 1 if no later exit may answer, else 0.
        fixed: Array `(exits,)`, what every sample spends.
    """

    answers: list
    fixed: np.ndarray


def spending(inputs, exits, worst_case=None):
    """Adds the cost of each sample to the answers of a network with gates.

    Args:
        inputs, exits: As in `gated_costs`.
        worst_case: Number, the most MACs that an answer may cost, or `None`. A sample for
            which an exit is too expensive keeps the answer of the exit before.

    Returns:
        A `Spending`, or `None` for a network without gates.
    """
    found = gated_costs(inputs, exits)
    if found is None:
        return None
    limit = np.inf if worst_case is None else worst_case * (1 + ROUNDING)
    may_spend = limit - np.append(found.fixed, -np.inf)
    answers, spent = [], None
    for k, logits in enumerate(exits):
        logits = ops.cast(logits, "float32")
        if spent is None:
            first = (slice(None), *[0] * (len(logits.shape) - 2), slice(0, 1))
            spent = ops.zeros_like(logits[first])
        for (gate, _, shares), exit, block in zip(
            found.gates, found.exits, found.blocks, strict=True
        ):
            if exit == k:
                is_open = 1.0 if gate is None else ops.cast(gate, "float32")
                share = 1.0 if shares is None else ops.cast(shares[:, :1], "float32")
                spent = spent + block.executed(is_open, share)
        answers.append(_answer(k, logits, spent, answers[-1:], may_spend[k : k + 2]))
    return Spending(answers, found.fixed)


def _answer(k, logits, spent, before, may_spend):
    here, next_one = may_spend
    nowhere = ops.zeros_like(spent)
    if np.isinf(here):  # no limit
        return _beside(logits, [spent, nowhere + k, nowhere])
    # to continue, a sample must afford at least the fixed cost of the next exit
    final = ops.cast(spent > next_one, "float32")
    fits = spent <= here
    if not before:
        return _beside(logits, [spent, ops.where(fits, nowhere, -1.0), final])
    own = _beside(logits, [spent, nowhere + k, final])
    kept = before[0][..., :-1]
    kept = ops.concatenate([kept, ops.ones_like(kept[..., :1])], axis=-1)
    return ops.where(_as_wide(fits, logits), own, kept)


def _beside(logits, columns):
    """Puts columns `(batch, 1)` behind the logits."""
    columns = _as_wide(ops.concatenate(columns, axis=-1), logits)
    return ops.concatenate([logits, columns], axis=-1)


def _as_wide(columns, logits):
    between = logits.shape[1:-1]
    if not between:
        return columns
    columns = ops.reshape(columns, (-1, *[1] * len(between), columns.shape[-1]))
    return columns + ops.zeros_like(logits[..., :1])
