"""The best thresholds on a grid: every combination, counted at once.

Each exit has a grid of candidate thresholds. A policy is one index into each grid, and its
right answers and its cost are sums over the samples. Written as

    value = sum_i v_0 + sum_s sum_{i: below t_0, ..., below t_{s-1}} (v_s - v_{s-1})

where `v_s` is the value of sample `i` if it leaves at exit `s`, every term is a cumulative
histogram, so computing a table of all combinations takes time proportional to its size.
"""

import itertools
from typing import NamedTuple

import numpy as np

from keras_adaptive.policy.exit_policy import always_last, first_exit

PERCENTILES = 100
EXACT_THRESHOLDS = 4  # up to this number the search is exhaustive
CELLS = 2_000_000  # of a table that is computed at once
FRONT = 2**21  # numbers of right answers that a front tells apart
SWEEPS = 20


class Problem(NamedTuple):
    """Confidence, correctness and cost of every sample at every exit.

    Attributes:
        confidences: `(exits, samples)`, in the form in which they are compared.
        right: `(exits, samples)`, 1 where the answer is right; for dense outputs the
            number of right pixels.
        costs: `(exits, samples)`.
    """

    confidences: np.ndarray
    right: np.ndarray
    costs: np.ndarray

    def outcome(self, thresholds):
        """Returns the right answers and the cost of a policy, summed over the samples."""
        exits = first_exit(self.confidences, thresholds)
        samples = np.arange(len(exits))
        return int(self.right[exits, samples].sum()), float(self.costs[exits, samples].sum())


def grid(confidences, percentiles=PERCENTILES, closed=True):
    """Returns candidate thresholds for one exit, ascending.

    They are `-inf` (every sample leaves), the midpoints between neighboring confidences
    nearest to each percentile, and `+inf` (no sample leaves).

    Args:
        confidences: Array `(samples,)`.
        percentiles: Integer, into how many equal shares the samples are divided.
        closed: Boolean, whether `+inf` is among them.
    """
    ordered = np.sort(confidences)
    places = (np.arange(1, percentiles) * len(ordered)) // percentiles
    if len(ordered) <= percentiles:
        places = np.arange(1, len(ordered))
    upper = ordered[places[places > 0]]
    # equal confidences cannot be separated: go down to where they begin
    begin = np.unique(np.searchsorted(ordered, upper, side="left"))
    begin = begin[begin > 0]
    between = midpoint(ordered[begin - 1], ordered[begin])
    return np.concatenate([[-np.inf], between, [np.inf] if closed else []])


def midpoint(low, high):
    """Returns a number above `low` and at most `high`, halfway if there is room."""
    with np.errstate(invalid="ignore"):  # from -inf there is none
        middle = low + (high - low) / 2
    return np.where(middle > low, middle, high)


class Front:
    """The Pareto front of policies in right answers and cost.

    Args:
        most_right: Integer, the most right answers there can be.
        unit: Integer: of so many neighboring numbers of right answers the cheapest policy is
            kept. Above 1 the front of very many pixels needs little memory.

    Attributes:
        right: Integers, ascending.
        cost: Floats, ascending.
        floor: The least cost known for so many right answers or more, by that number.
    """

    def __init__(self, most_right, unit=1):
        self.unit = unit
        self._least = np.full(most_right // unit + 1, np.inf)  # cost, by number of right answers
        self.floor = self._least.copy()
        self._where = np.zeros((len(self._least), 2), int)
        self._right = np.zeros(len(self._least) if unit > 1 else 0, int)
        self._decoders = []

    def offer(self, right, cost, decode):
        """Adds the policies of a table.

        Args:
            right, cost: Arrays of one shape; right answers are whole numbers.
            decode: Function: index in the flat table to thresholds.
        """
        right, cost = np.ravel(right), np.ravel(cost)
        if not np.issubdtype(right.dtype, np.integer):
            right = np.rint(right).astype(np.int64)
        place = right if self.unit == 1 else right // self.unit
        cells = np.flatnonzero(cost < self.floor.take(place))
        if not len(cells):
            return
        by_cost = (cost[cells], place[cells])
        cells = cells[np.lexsort(by_cost if self.unit == 1 else (-right[cells], *by_cost))]
        cells = cells[np.unique(place[cells], return_index=True)[1]]
        cells = cells[cost[cells] < self._least[place[cells]]]
        self._least[place[cells]] = cost[cells]
        self._where[place[cells], 0] = len(self._decoders)
        self._where[place[cells], 1] = cells
        if self.unit > 1:
            self._right[place[cells]] = right[cells]
        self._decoders.append(decode)
        self.floor = np.minimum.accumulate(self._least[::-1])[::-1]

    def _points(self):
        reached = np.isfinite(self._least) & (self._least <= self.floor)
        beaten = np.append(self.floor[1:], np.inf) <= self._least
        return np.flatnonzero(reached & ~beaten)

    @property
    def right(self):
        points = self._points()
        return points if self.unit == 1 else self._right[points]

    @property
    def cost(self):
        return self._least[self._points()]

    def thresholds(self, right):
        """Returns the thresholds of the point with this number of right answers."""
        table, cell = self._where[right // self.unit]
        return self._decoders[table](cell)


def front_of(problem):
    """Returns an empty `Front` for the policies of a problem, of bounded size."""
    most = int(problem.right.max(axis=0).sum())
    return Front(most, 1 + most // FRONT)


def front(problem, percentiles=PERCENTILES, closed=True):
    """Returns the `Front` of all policies on the grid.

    With up to four thresholds every combination is counted. With more, every choice
    of three exits beside the last is, the others being closed.

    Args:
        problem: A `Problem`.
        percentiles: As in `grid`.
        closed: Whether an exit may be closed.

    Returns:
        Tuple of the front and whether it is exact.
    """
    exits = len(problem.confidences)
    if exits - 1 <= EXACT_THRESHOLDS:
        found = full_front(problem, percentiles, closed)
        return found, found.unit == 1
    grids = [grid(c, percentiles, closed) for c in problem.confidences[:-1]]
    bins = _bins(problem.confidences, grids)
    found = front_of(problem)
    others = always_last(exits)
    fallback = np.full(problem.right.shape[1], exits - 1)
    for block in itertools.combinations(range(exits - 1), EXACT_THRESHOLDS - 1):
        _offer_block(found, problem, grids, bins, block, others, fallback)
    return found, False


def full_front(problem, percentiles, closed=True):
    """Returns the `Front` of every combination on the grid, however many exits there are.

    Args:
        problem: A `Problem`.
        percentiles: As in `grid`. The number of combinations is its power.
        closed: Whether an exit may be closed.
    """
    grids = [grid(c, percentiles, closed) for c in problem.confidences[:-1]]
    bins = _bins(problem.confidences, grids)
    found = front_of(problem)
    exits = len(problem.confidences)
    others = always_last(exits)
    fallback = np.full(problem.right.shape[1], exits - 1)
    _offer_block(found, problem, grids, bins, tuple(range(exits - 1)), others, fallback)
    return found


def improve(problem, thresholds, better, percentiles=PERCENTILES):
    """Improves two thresholds at a time, until no change helps.

    Args:
        problem: A `Problem`.
        thresholds: Array `(exits,)`, where to start.
        better: Function: a `Front` to the best number of right answers on it that meets
            the target, or `None`.

    Returns:
        Array `(exits,)`.
    """
    exits = len(thresholds)
    grids = [
        np.unique(np.append(grid(c, percentiles), t))
        for c, t in zip(problem.confidences[:-1], thresholds[:-1], strict=True)
    ]
    bins = _bins(problem.confidences, grids)
    best = problem.outcome(thresholds)
    for _ in range(SWEEPS):
        before = best
        for block in itertools.combinations(range(exits - 1), min(2, exits - 1)):
            others = np.array(thresholds)
            others[list(block)] = np.inf
            fallback = first_exit(problem.confidences, others)
            found = front_of(problem)
            _offer_block(found, problem, grids, bins, block, others, fallback)
            right = better(found)
            if right is None:
                continue
            changed = found.thresholds(right)
            outcome = problem.outcome(changed)
            if outcome != best:
                thresholds, best = changed, outcome
        if best == before:
            break
    return thresholds


def _bins(confidences, grids):
    """Returns the highest threshold of each grid that each confidence reaches, by index."""
    return [
        np.searchsorted(levels, c, side="right") - 1
        for c, levels in zip(confidences[:-1], grids, strict=True)
    ]


def _offer_block(found, problem, grids, bins, block, others, fallback):
    """Offers all combinations of the thresholds of some exits, the others being fixed.

    Args:
        found: A `Front`.
        block: Exits whose thresholds vary, ascending.
        others: Array `(exits,)`, the thresholds of the other exits.
        fallback: Array `(samples,)`, the exit a sample leaves at if not in the block.
    """
    samples = np.arange(problem.right.shape[1])
    places = [np.minimum(exit, fallback) for exit in block] + [fallback]
    values = [problem.right[p, samples].astype("int64") for p in places]
    prices = [problem.costs[p, samples] for p in places]
    levels = [len(grids[exit]) for exit in block]
    own = [bins[exit] for exit in block]

    def decoder(head):
        def decode(cell):
            tail = np.unravel_index(cell, levels[len(head) :])
            thresholds = np.array(others)
            for exit, index in zip(block, (*head, *tail), strict=True):
                thresholds[exit] = grids[exit][index]
            return thresholds

        return decode

    if not block:
        found.offer(values[0].sum(keepdims=True), prices[0].sum(keepdims=True), decoder(()))
    elif np.prod(levels) <= CELLS:
        tables = [_table(v, own, levels) for v in (values, prices)]
        found.offer(*tables, decoder(()))
    else:
        by_first = (_tables_by_first(v, own, levels) for v in (values, prices))
        for index, tables in enumerate(zip(*by_first, strict=True)):
            found.offer(*tables, decoder((index,)))


def _table(values, bins, levels):
    """Returns the sums of all combinations, an array of shape `levels`."""
    table = np.array(values[0].sum())
    for s in range(1, len(values)):
        change = values[s] - values[s - 1]
        table = table[..., None] + _cumulative(_histogram(change, bins[:s], levels[:s]))
    return table


def _tables_by_first(values, bins, levels):
    """Yields what `_table` returns, one index of the first axis after the other."""
    first, rest, sizes = bins[0], bins[1:], levels[1:]
    base = values[0].sum()
    histograms = [np.zeros(sizes[:s], values[0].dtype) for s in range(1, len(sizes) + 1)]
    for index in range(levels[0]):
        new = np.flatnonzero(first == index - 1)
        base += (values[1][new] - values[0][new]).sum()
        table = np.array(base)
        for s, histogram in enumerate(histograms, 1):
            change = values[s + 1][new] - values[s][new]
            np.add.at(histogram, tuple(b[new] for b in rest[:s]), change)
            table = table[..., None] + _cumulative(histogram)
        yield table


def _histogram(weights, bins, levels):
    flat = np.ravel_multi_index(bins, levels)
    return np.bincount(flat, weights, minlength=int(np.prod(levels))).reshape(levels)


def _cumulative(histogram):
    """Returns the sums over all bins below each index."""
    axes = histogram.ndim
    table = np.zeros_like(histogram)
    table[(slice(1, None),) * axes] = histogram[(slice(None, -1),) * axes]
    for axis in range(axes - 1):  # the same sums as `np.cumsum`, which is slow on these axes
        rows = np.moveaxis(table, axis, 0)
        for before, row in itertools.pairwise(rows):
            row += before
    return np.cumsum(table, axis=-1, out=table)
