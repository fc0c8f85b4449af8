"""What each sample spends in a network with gates, computed beside the logits."""

from keras import ops

from keras_adaptive.costs._beside import Beside
from keras_adaptive.costs.gated_costs import gated_costs


def with_spending(inputs, exits):
    """Puts what gated blocks have cost each sample so far beside the logits of every exit.

    Args:
        inputs, exits: As in `gated_costs`.

    Returns:
        List of symbolic logits, for `costs._beside.giving_costs`; and `(exits,)`, what every
        sample spends besides. `exits` itself and `None` for a network without gates.
    """
    found = gated_costs(inputs, exits)
    if found is None:
        return exits, None
    spent, beside = 0.0, []
    for k, logits in enumerate(exits):
        first = (slice(None), *[0] * (len(logits.shape) - 2), slice(0, 1))
        spent = spent + ops.zeros_like(logits[first], dtype="float32")
        for (gate, _, shares), exit, block in zip(
            found.gates, found.exits, found.blocks, strict=True
        ):
            if exit == k:
                is_open = 1.0 if gate is None else ops.cast(gate, "float32")
                share = 1.0 if shares is None else ops.cast(shares[:, :1], "float32")
                spent = spent + block.executed(is_open, share)
        logits, spent = Beside()(logits, spent)
        beside.append(logits)
    return beside, found.fixed
