"""Where early exits stand in a network of stages and blocks."""

import math


def exit_positions(exits, stages):
    """Returns after how many blocks each early exit stands; the last exit is not listed.

    Args:
        exits: `None`: no early exit. An integer: so many exits in all, after equal shares of
            the blocks. A sequence of integers: after so many blocks, counted through the
            network. A sequence of numbers between 0 and 1: after these shares of the blocks
            of every stage.
        stages: List of the number of blocks of every stage.

    Raises:
        ValueError: If there is no such place.

    Example:

    >>> exit_positions(3, [6, 6, 6])
    [6, 12]
    >>> exit_positions((0.25, 0.75), [8, 8, 8])
    [2, 6, 10, 14, 18, 22]
    """
    total = sum(stages)
    if exits is None:
        return []
    if isinstance(exits, int) and not isinstance(exits, bool):
        if not 1 <= exits <= total:
            raise ValueError(f"`exits` must be from 1 to {total} blocks. Received: exits={exits}")
        return [_round(total * (i + 1) / exits) for i in range(exits - 1)]
    if not isinstance(exits, (tuple, list)):
        raise ValueError(f"`exits` must be an integer or a sequence. Received: exits={exits}")
    places = list(exits)
    if all(isinstance(n, float) for n in places):
        if not all(0 < share < 1 for share in places):
            raise ValueError(f"`exits` as shares must be between 0 and 1. Received: exits={exits}")
        starts = [sum(stages[:i]) for i in range(len(stages))]
        places = [
            start + max(1, _round(share * blocks))
            for start, blocks in zip(starts, stages, strict=True)
            for share in places
        ]
    whole = all(isinstance(n, int) and not isinstance(n, bool) and 0 < n < total for n in places)
    if not whole or sorted(set(places)) != places:
        raise ValueError(
            f"`exits` must stand after ascending numbers of blocks below {total}. "
            f"Received: exits={exits}"
        )
    return places


def _round(x):
    """Rounds halves up."""
    return math.floor(x + 0.5)
