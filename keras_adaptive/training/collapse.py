"""Detects learned policies that send all samples to one exit."""

import numpy as np

COLLAPSED = 0.99  # share of the samples at one exit


def collapse(fractions, level=COLLAPSED):
    """Returns why a policy is of no use, and what to change, or `None` if it is.

    Args:
        fractions: Array `(exits,)`, share of samples that leave at each exit.
        level: Number: from such a share on, the policy counts as collapsed.
    """
    k, last = int(np.argmax(fractions)), len(fractions) - 1
    if fractions[k] < level:
        return None
    found = f"The stopping policy sends {100 * fractions[k]:.1f} % of the samples to exit {k}"
    if k == last:
        return (
            f"{found}, the last: nothing is saved. Raise `cost_weight`, or check that later "
            "exits are not so much better that going on always pays."
        )
    advice = (
        "Lower `cost_weight`, train the members first (regime 'stopping') so that later exits "
        "are worth their price, let Adam teach the policies (see `stopping_optimizer`), or use "
        "`estimator='expected'`, whose gradient has no noise."
    )
    place = "the first: later exits are never used" if k == 0 else "and to no other"
    return f"{found}, {place}. {advice}"
