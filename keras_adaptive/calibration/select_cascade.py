"""Choice of a cascade from a pool of trained models: members, order and thresholds.

Arrays in, a choice out; no network is run here. Use held-out data, and report on other
data, as for `calibrate`.
"""

import itertools
import os
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from keras_adaptive._checks import as_array, check_labels, check_logits, finite, integer, numbers
from keras_adaptive._progress import progress
from keras_adaptive.calibration import _search as search
from keras_adaptive.policy.exit_policy import ExitPolicy, first_exit
from keras_adaptive.policy.policy import UnreachableTargetError

MOST_MEMBERS = 4  # thresholds of more are too many to try them all
BLOCK = 2**18  # numbers of one model's logits that are worked on at once
ROUNDING = 1e-9  # relative, of budgets


class CascadeChoice(NamedTuple):
    """A cascade, and its results on the data it was chosen on.

    Attributes:
        members: Tuple of indices into the pool, in the order in which they run.
        copies: Tuple, which trained copy of the model each member is.
        policy: `ExitPolicy`, for `build_cascade` of these members.
        accuracy: Share of samples answered correctly.
        mean_cost: Mean cost per sample.
        worst_cost: The most any sample can cost: the sum of the members' costs.
        exit_fractions: `(members,)`, share of samples that leave after each member.
    """

    members: tuple
    copies: tuple
    policy: ExitPolicy
    accuracy: float
    mean_cost: float
    worst_cost: float
    exit_fractions: np.ndarray

    @property
    def thresholds(self):
        return self.policy.thresholds


def select_cascade(
    logits, labels, costs, *, max_members=4, budget=None, accuracy=None, worst_case=None
):
    """Chooses the best cascade of models from a pool, with its thresholds.

    Every ordered choice of one to `max_members` models is tried, together with all
    combinations of thresholds: 99 percentiles of each confidence, and `+inf`. The answer
    after a member is the mean of the logits so far, its confidence the largest
    probability. A model may be used as often as there are trained copies of it; its
    copies are used in order. The search is exact: what it leaves out cannot win.

    With eight models of four copies there are 4,680 choices, with a million combinations
    each. Means of the same members are computed once, whatever their order, and choices
    are left out by bounds on what they can still reach.

    Args:
        logits: List of arrays `(copies, samples, classes)`, one per model; of a model of one
            copy, `(samples, classes)` too.
        labels: Integer array `(samples,)`.
        costs: Array `(models,)`: the cost of running each model.
        max_members: Integer, from 1 to 4.
        budget: Number, the highest mean cost per sample: the highest accuracy within it is
            sought.
        accuracy: Number from 0 to 1: the lowest mean cost that reaches it is sought.
        worst_case: Number, the most that the members may cost together, or `None`. Given
            alone, the highest accuracy within it is sought.

    Returns:
        A `CascadeChoice`.

    Raises:
        UnreachableTargetError: If no cascade meets the target; the message says what can be
            reached.
        ValueError: If an argument is impossible.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 300)
    >>> def model(skill):
    ...     logits = rng.normal(size=(1, 300, 3))
    ...     logits[:, range(300), labels] += skill
    ...     return logits
    >>> choice = select_cascade([model(2.0), model(4.0)], labels, [1.0, 8.0], accuracy=0.97)
    >>> choice.members, choice.accuracy >= 0.97, choice.mean_cost < 8, choice.worst_cost
    ((0, 1), True, True, 9.0)

    Reference:
        [Wisdom of Committees (Wang et al., 2022)](https://arxiv.org/abs/2012.01988),
        section 5 and appendix C.
    """
    if budget is not None and accuracy is not None:
        raise ValueError("At most one of `budget` and `accuracy` must be given. Received: both")
    if budget is None and accuracy is None and worst_case is None:
        raise ValueError("One of `budget`, `accuracy`, `worst_case` must be given. Received: none")
    pool = _Pool(*_checked(logits, labels, costs, max_members))
    _check_limit("worst_case", worst_case, pool.costs.min())
    _check_limit("budget", budget, pool.costs.min())
    if accuracy is not None and not 0 <= finite(accuracy, "accuracy") <= 1:
        raise ValueError(f"`accuracy` must be from 0 to 1. Received: accuracy={accuracy}")
    if accuracy is None:
        most_cost = np.inf if budget is None else pool.samples * budget * (1 + ROUNDING)
        found = _searched(pool, _most_right(most_cost), worst_case)
        return pool.choice(found, found.right[found.cost <= most_cost][-1])
    least_right = int(np.ceil(pool.samples * accuracy - ROUNDING * pool.samples))
    found = _searched(pool, _cheapest(least_right), worst_case)
    if found.right[-1] < least_right:
        most = _searched(pool, _most_right(np.inf), worst_case).right[-1] / pool.samples
        raise UnreachableTargetError(
            f"`accuracy` must be reachable: at most {most:.6g} is on this data. "
            f"Received: accuracy={accuracy}"
        )
    return pool.choice(found, found.right[found.right >= least_right][0])


def cascade_front(logits, labels, costs, *, max_members=4, worst_case=None):
    """Returns the Pareto front of cascades in accuracy and mean cost.

    Args:
        logits, labels, costs, max_members, worst_case: As in `select_cascade`.

    Returns:
        List of `CascadeChoice`, cheapest first.
    """
    pool = _Pool(*_checked(logits, labels, costs, max_members))
    _check_limit("worst_case", worst_case, pool.costs.min())
    found = _searched(pool, lambda floor: floor, worst_case)
    return [pool.choice(found, right) for right in found.right]


# ---- targets: functions of the least cost known for each number of right answers, or more,
# to the cost below which a cascade with that number is worth knowing


def _most_right(most_cost):
    def limit(floor):
        limit = np.full(len(floor), np.nextafter(most_cost, np.inf))
        best = int(((floor <= most_cost) & (floor < np.inf)).sum()) - 1
        if best >= 0:
            limit[:best] = -np.inf
            limit[best] = floor[best]
        return limit

    return limit


def _cheapest(least_right):
    def limit(floor):
        limit = np.full(len(floor), -np.inf)
        least = floor[least_right]
        best = int((floor <= least).sum()) - 1  # the most right answers at that cost
        limit[least_right : best + 1] = least
        limit[best + 1 :] = np.nextafter(least, np.inf)
        return limit

    return limit


# ---- the search


def _searched(pool, target, worst_case):
    """Returns the `Front`, complete where the target wants it."""
    found = search.Front(pool.samples)
    chains = [
        chain
        for length in range(1, pool.max_members + 1)
        for chain in itertools.product(range(len(pool.costs)), repeat=length)
        if all(chain.count(m) <= pool.copies[m] for m in set(chain))
    ]
    for chain in progress(chains, unit="cascade"):
        total = pool.costs[list(chain)].sum()
        if worst_case is None or total <= worst_case * (1 + ROUNDING):
            _offer_chain(found, target, pool, chain)
    return found


def _offer_chain(found, target, pool, chain):
    """Offers those thresholds of one chain of members that can still be of use."""
    keys = [tuple(sorted(chain[: k + 1])) for k in range(len(chain))]
    right = [pool.right[key] for key in keys]
    bins = [pool.bins[key] for key in keys[:-1]]
    grids = [pool.grids[key] for key in keys[:-1]]
    prices = pool.costs[list(chain)]
    box = []
    if bins:
        box = _promising(target(found.floor), bins, grids, right, prices)
        if box is None:
            return
        box.append((0, len(grids[-1])))
    bins = [np.maximum(b - low, 0) for b, (low, _) in zip(bins, box, strict=True)]
    sizes = [high - low for low, high in box]

    def decode(cell):
        places = np.unravel_index(cell, sizes) if sizes else ()
        levels = [g[i + low] for g, i, (low, _) in zip(grids, places, box, strict=True)]
        return chain, np.array([*levels, -np.inf])

    found.offer(*_tables(bins, sizes, right, prices), decode)


def _promising(limit, bins, grids, right, prices):
    """Returns the box of all thresholds but the last that can still be of use, or `None`.

    If every sample that reaches the last member but one stops there, that gives `R` right
    answers at cost `C`. Each one more, of at most `gain`, costs at least the last member's
    price: there must be an `x <= gain` with `C + price * x < limit[R + x]`.
    """
    bins, sizes, price = bins[:-1], [len(g) for g in grids[:-1]], prices[-1]
    rights, costs = _tables(bins, sizes, right[:-1], prices[:-1])
    most = rights + _staying(bins, sizes, right[-1] & ~right[-2])
    top = int((limit < np.inf).sum())  # limits grow: from here on any cost will do
    spare = np.full(len(limit) + 1, -np.inf)
    spare[:top] = limit[:top] - price * np.arange(top)
    spare = np.maximum.accumulate(spare[::-1])[::-1]
    affordable = spare[rights] + price * rights > costs * (1 - ROUNDING)
    promising = (limit[most] > costs) & (affordable | (most >= top))
    if not promising.any():
        return None
    if not sizes:
        return []
    return [(int(p.min()), int(p.max()) + 1) for p in np.nonzero(promising)]


def _tables(bins, sizes, right, prices):
    """Returns right answers and cost of all thresholds, summed over the samples.

    Args:
        bins: List of `(samples,)`, one per threshold: a sample passes on at threshold `j`
            if its bin is at most `j`.
        sizes: Number of thresholds of each.
        right: List of `(samples,)`, one per member.
        prices: Sequence of numbers, one per member.
    """
    rights, costs = np.int32(right[0].sum()), prices[0] * len(right[0])
    for k in range(1, len(right)):
        gained = right[k].astype("int32") - right[k - 1]
        passed = _staying(bins[:k], sizes[:k], np.ones(len(gained), "int32"))
        rights = rights[..., None] + _staying(bins[:k], sizes[:k], gained)
        costs = costs[..., None] + prices[k] * passed
    return rights, costs


def _staying(bins, sizes, weights):
    """Returns the weights of those who pass on at every threshold, an array of shape `sizes`."""
    rows = np.flatnonzero(weights)
    for place, size in zip(bins, sizes, strict=True):
        rows = rows[place[rows] < size]
    if not bins:
        return np.int32(weights[rows].sum())
    flat = np.ravel_multi_index([place[rows] for place in bins], sizes)
    table = np.bincount(flat, weights[rows], minlength=int(np.prod(sizes)))
    table = table.astype("int32").reshape(sizes)
    for axis in range(table.ndim):
        np.cumsum(table, axis=axis, out=table)
    return table


class _Pool:
    """Whether each set of members is right, and its confidence; order does not matter."""

    def __init__(self, logits, labels, costs, max_members):
        self.costs, self.max_members = costs, max_members
        self.copies = [len(z) for z in logits]
        self.samples = len(labels)
        sets = [
            key
            for length in range(1, max_members + 1)
            for key in itertools.combinations_with_replacement(range(len(logits)), length)
            if all(key.count(m) <= self.copies[m] for m in set(key))
        ]
        self.right = {key: np.empty(self.samples, bool) for key in sets}
        self.confidences = {key: np.empty(self.samples) for key in sets if len(key) < max_members}

        def work(rows):
            self._add_member(logits, labels, rows, (), np.float32(0))

        step = max(1, BLOCK // logits[0].shape[-1])
        blocks = [slice(i, i + step) for i in range(0, self.samples, step)]
        with ThreadPoolExecutor(os.cpu_count()) as workers:
            results = workers.map(work, blocks)
            list(progress(results, total=len(blocks), unit="block", desc="sets of members"))
        # where all leave early, a shorter cascade does the same: -inf need not be tried
        self.grids = {key: search.grid(values)[1:] for key, values in self.confidences.items()}
        self.bins = {
            key: np.searchsorted(self.grids[key], values, side="right")
            for key, values in self.confidences.items()
        }

    def _add_member(self, logits, labels, rows, members, total):
        """Adds each further model's answers to some samples, and recurses from there."""
        for m in range(members[-1] if members else 0, len(logits)):
            key = (*members, m)
            if key not in self.right:
                continue
            own = total + logits[m][members.count(m)][rows].astype("float32", copy=False)
            answers = own.argmax(axis=-1)
            self.right[key][rows] = answers == labels[rows]
            if len(key) < self.max_members:
                self.confidences[key][rows] = _max_prob(own, answers, len(key))
                self._add_member(logits, labels, rows, key, own)

    def choice(self, found, right):
        chain, thresholds = found.thresholds(right)
        keys = [tuple(sorted(chain[: k + 1])) for k in range(len(chain))]
        confidences = [self.confidences[key] for key in keys[:-1]] + [np.zeros(self.samples)]
        exits = first_exit(confidences, thresholds)
        prices = np.cumsum(self.costs[list(chain)])
        accuracy, mean_cost = float(right / self.samples), float(prices[exits].mean())
        details = {"method": "select_cascade", "exact": True, "samples": self.samples}
        return CascadeChoice(
            members=chain,
            copies=tuple(chain[:k].count(m) for k, m in enumerate(chain)),
            policy=ExitPolicy(
                thresholds, details={**details, "accuracy": accuracy, "mean_cost": mean_cost}
            ),
            accuracy=accuracy,
            mean_cost=mean_cost,
            worst_cost=float(prices[-1]),
            exit_fractions=np.bincount(exits, minlength=len(chain)) / self.samples,
        )


def _max_prob(totals, answers, number):
    """Returns the largest probability of the mean logits, as precise as float32 logits are.

    The rule is `policy.confidence`'s; here it is in float32 and with the answers known, since
    thousands of sets of members are computed, and float64 would take several times longer.
    """
    rows = np.arange(len(totals))
    ratios = totals - totals[rows, answers][:, None]
    ratios /= number
    np.exp(ratios, out=ratios)
    ratios[rows, answers] = 0  # the 1 would swallow the others
    return 1 / (1 + ratios.sum(axis=-1).astype("float64"))


# ---- checks at the border


def _checked(logits, labels, costs, max_members):
    max_members = integer("max_members", max_members, 1)
    if max_members > MOST_MEMBERS:
        raise ValueError(
            f"`max_members` must be at most {MOST_MEMBERS}. Received: max_members={max_members}"
        )
    if not isinstance(logits, (list, tuple)) or not logits:
        raise ValueError(
            "`logits` must be a list of arrays (copies, samples, classes), one per model. "
            f"Received: {type(logits).__name__}"
        )
    logits = [as_array(z, "logits") for z in logits]
    logits = [z[None] if z.ndim == 2 else z for z in logits]  # a model of one copy
    if len({z.shape[1:] for z in logits}) > 1 or logits[0].ndim != 3:
        raise ValueError(
            "`logits` must be of shape (copies, samples, classes), with the same samples and "
            f"classes for every model. Received: shapes {[z.shape for z in logits]}"
        )
    logits = [check_logits(z) for z in logits]
    labels = check_labels(labels, logits[0])
    costs = numbers(costs, "costs")
    if costs.shape != (len(logits),) or not np.isfinite(costs).all() or (costs <= 0).any():
        raise ValueError(
            f"`costs` must be {len(logits)} positive numbers, one per model. "
            f"Received: costs={costs.tolist()}"
        )
    return logits, labels, costs, max_members


def _check_limit(name, value, least):
    if value is not None and not finite(value, name) >= least * (1 - ROUNDING):
        raise UnreachableTargetError(
            f"`{name}` must be at least what the cheapest model costs, {least:.10g}. "
            f"Received: {name}={value}"
        )
