"""Positions of early exits in a network of stages and blocks."""

import math
import numbers

import numpy as np

from keras_adaptive._checks import integer, integer_sequence


def exit_positions(exits, stages):
    """Returns the number of blocks before each early exit; the last exit is not listed.

    Args:
        exits: `None`: no early exit. An integer: so many exits in all, after equal shares of
            the blocks. A sequence of integers: after so many blocks, counted through the
            network. A sequence of numbers between 0 and 1: after these shares of the blocks
            of every stage.
        stages: List of the number of blocks of every stage.

    Raises:
        ValueError: If there is no such position.

    Example:

    >>> exit_positions(3, [6, 6, 6])
    [6, 12]
    >>> exit_positions((0.25, 0.75), [8, 8, 8])
    [2, 6, 10, 14, 18, 22]
    """
    total = sum(stages)
    if exits is None:
        return []
    if not isinstance(exits, (tuple, list, np.ndarray)) or np.ndim(exits) == 0:
        exits = integer("exits", exits, 1)
        if exits > total:
            raise ValueError(f"`exits` must be from 1 to {total} blocks. Received: exits={exits}")
        return [_round(total * (i + 1) / exits) for i in range(exits - 1)]
    places = list(exits)
    if all(isinstance(n, numbers.Real) and not isinstance(n, numbers.Integral) for n in places):
        if not all(0 < share < 1 for share in places):
            raise ValueError(f"`exits` as shares must be between 0 and 1. Received: exits={exits}")
        starts = [sum(stages[:i]) for i in range(len(stages))]
        places = [
            start + max(1, _round(share * blocks))
            for start, blocks in zip(starts, stages, strict=True)
            for share in places
        ]
    must = f"ascending numbers of blocks, from 1 to {total - 1}"
    found = integer_sequence("exits", places, 1, must)
    if sorted(set(found)) != list(found) or max(found, default=0) >= total:
        raise ValueError(f"`exits` must be {must}. Received: exits={exits}")
    return list(found)


def _round(x):
    """Rounds halves up."""
    return math.floor(x + 0.5)
