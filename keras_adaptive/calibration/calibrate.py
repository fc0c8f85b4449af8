"""Calibration: thresholds of an exit policy from cached logits.

Arrays in, a policy out; no network is run here. Use held-out data: networks are
overconfident on their training images, so thresholds fitted on them stop too early on new
ones. Report results on a third split, since thresholds are fitted too.
"""

import warnings
from typing import NamedTuple

import numpy as np
import scipy

from keras_adaptive import __version__
from keras_adaptive._checks import check_choice, check_costs, check_labels, check_logits, finite
from keras_adaptive.calibration import _search as search
from keras_adaptive.calibration.geometric import (
    MORE_P,
    PUBLISHED_P,
    best_geometric,
    most_confident_first,
    shares_leaving,
)
from keras_adaptive.calibration.risk_control import RiskControl, controlled_thresholds
from keras_adaptive.calibration.temperature import fit_temperatures
from keras_adaptive.policy.confidence import confidence as confidence_of
from keras_adaptive.policy.confidence import from_log_odds, log_odds
from keras_adaptive.policy.exit_policy import ExitPolicy
from keras_adaptive.policy.policy import UnreachableTargetError, last_affordable

METHODS = ("optimal", "geometric", "percentile")
ROUNDING = 1e-9  # relative; means of equal costs differ in their last digits


class Target(NamedTuple):
    """The target: the most right answers within a cost, or the least cost for a number of them.

    Attributes:
        kind: `"budget"` or `"accuracy"`.
        limit: Total cost allowed, or number of right answers wanted.
    """

    kind: str
    limit: float

    def rank(self, right, cost):
        """Returns what to maximize, or `None` if the target is missed."""
        if self.kind == "budget":
            return (right, -cost) if cost <= self.limit else None
        return (-cost, right) if right >= self.limit else None

    def pick(self, front):
        """Returns the number of right answers of the best point on a front, or `None`."""
        right, cost = front.right, front.cost
        if self.kind == "budget":
            met = right[cost <= self.limit]
            return met[-1] if len(met) else None
        met = right[right >= self.limit]
        return met[0] if len(met) else None


def _percentile_front(problem):
    """All combinations of percentiles: 100 for up to four thresholds, else fewer."""
    thresholds = len(problem.confidences) - 1
    percentiles = search.PERCENTILES
    if thresholds > search.EXACT_THRESHOLDS:
        percentiles = int(search.CELLS ** (1 / thresholds))
    if percentiles < 2:
        raise ValueError(
            'With `method="percentile"` there must be fewer exits: their combinations are too '
            f"many. Received: {thresholds + 1} exits"
        )
    return search.full_front(problem, percentiles, closed=False)


def _solve(problem, targets, method):
    """Returns thresholds and exactness for each target; thresholds `None` if none meets it."""
    geometric = (
        [None] * len(targets) if method == "percentile" else best_geometric(problem, targets)
    )
    if method == "geometric":
        return [(thresholds, None) for thresholds in geometric]
    fronts, exact = [], None
    if method == "optimal":
        found, exact = search.front(problem)
        fronts.append(found)
    few = 2 ** (len(problem.confidences) - 1) <= search.CELLS
    if method == "percentile" or (few and not exact):  # an exact search has tried them all
        fronts.append(_percentile_front(problem))
    solved = []
    for target, published in zip(targets, geometric, strict=True):
        candidates = []
        for found in fronts:
            right = target.pick(found)
            if right is not None:
                candidates.append(found.thresholds(right))
        if published is not None:
            candidates.append(_between(problem, published))
        best = _best(problem, target, candidates)
        if best is not None and method == "optimal" and not exact:
            best = search.improve(problem, best, target.pick)
        solved.append((best, exact))
    return solved


def _between(problem, thresholds):
    """Moves thresholds that are confidences midway to the next lower one: same decisions."""
    moved = np.array(thresholds)
    for k in np.flatnonzero(np.isfinite(thresholds)):
        lower = problem.confidences[k][problem.confidences[k] < thresholds[k]]
        moved[k] = search.midpoint(lower.max(), thresholds[k]) if len(lower) else -np.inf
    return moved


def _best(problem, target, candidates):
    ranked = [
        (rank, -i)
        for i, thresholds in enumerate(candidates)
        if thresholds is not None
        and (rank := target.rank(*problem.outcome(thresholds))) is not None
    ]
    return candidates[-max(ranked)[1]] if ranked else None


def calibrate(
    logits,
    labels=None,
    costs=None,
    *,
    budget=None,
    accuracy=None,
    risk=None,
    worst_case=None,
    method="optimal",
    confidence="max_prob",
    temperature=None,
    pixel_floor=0.5,
):
    """Chooses the thresholds of an `ExitPolicy` for a budget, an accuracy or a risk.

    Exactly one of `budget`, `accuracy` and `risk` is the target. Use held-out data; only
    `risk` gives a guarantee for new data.

    `"optimal"` is the best on the data given. On new images it is as accurate as
    `"geometric"` for the same cost, or up to 0.2 points less, since it fits some noise
    (benchmarks/results/calibration.md). It adds accuracy targets, worst-case limits and
    guarantees, and does not spend budget that gains no accuracy.

    Args:
        logits: Array `(exits, samples, classes)`, or `(exits, cells, height, width,
            classes)` for dense outputs, where a cell is a sample.
        labels: Integer array `(samples,)`, or `(cells, height, width)` with -1 where
            there is no label. Not needed by `method="geometric"` with a budget, nor by
            `RiskControl("disagreement")`.
        costs: Array `(exits,)` or `(exits, samples)`: the cost of leaving at each
            exit, earlier heads included.
        budget: Number, the highest mean cost per sample, in the unit of `costs`: the highest
            accuracy within it is sought.
        accuracy: Number from 0 to 1: the lowest mean cost that reaches it is sought.
        risk: A `RiskControl`: the lowest mean cost with its guarantee is sought.
        worst_case: Number, the most that any one sample may cost, or `None`.
        method: `"optimal"`: the best thresholds on a grid of 100 percentiles of each
            exit's confidence, an exit possibly being closed; exact for up to five exits,
            beyond that at least as good as the best choice of three exits beside the last;
            never worse than the other methods. `"percentile"`: the best combination of
            percentiles, every exit open (Cascades; 100 percentiles for up to five exits,
            fewer beyond). `"geometric"`: MSDNet's rule, `geometric_thresholds`, with the
            best `p`.
        confidence: `"max_prob"`, `"prob_margin"`, `"logit_margin"` or `"entropy"`.
        temperature: Whether a temperature is fitted for each exit. `None`: where labels are
            given and the method is not `"geometric"`.
        pixel_floor: Number: pixels less confident than this are treated as unlabeled. Only for
            dense outputs.

    Returns:
        An `ExitPolicy`, whose `details` say how it was made. On the data given, its mean
        cost is at most `budget`, or its accuracy at least `accuracy`.

    Raises:
        UnreachableTargetError: If no policy meets the target; the message says what can be
            reached.
        ValueError: If an argument is impossible.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 10, 500)
    >>> logits = rng.normal(size=(3, 500, 10))
    >>> logits[:, range(500), labels] += np.array([[1.0], [2.0], [3.0]])
    >>> policy = calibrate(logits, labels, [1.0, 2.0, 4.0], budget=2.5)
    >>> policy.details["mean_cost"] <= 2.5, policy.exact
    (True, True)

    References:
        `"geometric"`: [MSDNet (Huang et al., 2018)](https://arxiv.org/abs/1703.09844);
        `"percentile"`: [Wisdom of Committees (Wang et al., 2022)](
        https://arxiv.org/abs/2012.01988), appendix B.2.
    """
    given = [
        name
        for name, value in (("budget", budget), ("accuracy", accuracy), ("risk", risk))
        if value is not None
    ]
    if len(given) != 1:
        raise ValueError(
            "Exactly one of `budget`, `accuracy` and `risk` must be given. "
            f"Received: {' and '.join(given) or 'none'}"
        )
    how = {
        "worst_case": worst_case,
        "method": method,
        "confidence": confidence,
        "temperature": temperature,
        "pixel_floor": pixel_floor,
    }
    if risk is not None:
        return _calibrate_risk(logits, labels, costs, risk, **how)
    values = [budget if accuracy is None else accuracy]
    return _calibrate(logits, labels, costs, given[0], values, **how)[0]


def calibrate_budgets(logits, labels, costs, budgets, **kwargs):
    """Returns one policy per budget, all from one search.

    Args:
        logits, labels, costs: As in `calibrate`.
        budgets: Sequence of numbers.
        **kwargs: The other arguments of `calibrate`.

    Returns:
        List of `ExitPolicy`.

    Raises:
        UnreachableTargetError, ValueError: As `calibrate`.
    """
    defaults = {
        "worst_case": None,
        "method": "optimal",
        "confidence": "max_prob",
        "temperature": None,
        "pixel_floor": 0.5,
    }
    unknown = set(kwargs) - set(defaults)
    if unknown:
        raise ValueError(
            f"The arguments must be among {tuple(defaults)}. Received: {tuple(sorted(unknown))}"
        )
    return _calibrate(logits, labels, costs, "budget", list(budgets), **{**defaults, **kwargs})


def _calibrate(logits, labels, costs, kind, values, *, method, **how):
    check_choice(METHODS, method=method)
    logits = check_logits(logits)
    costs = check_costs(costs, logits)
    needs_labels = method != "geometric" or kind == "accuracy"
    if labels is not None or needs_labels:
        labels = check_labels(labels, logits)
    temperatures = _temperatures(logits, labels, how["temperature"], method)
    problem, total, limits = _problem(logits, labels, costs, temperatures, how)
    samples = logits.shape[1]
    targets = [_target(kind, value, problem, total, samples) for value in values]
    policies = []
    for value, (thresholds, exact) in zip(values, _solve(problem, targets, method), strict=True):
        if thresholds is None:
            _raise_unreachable(kind, value, problem, total, how["worst_case"], method)
        if limits is not None:
            thresholds = _stop_at(thresholds, limits.max())
        right, cost = problem.outcome(thresholds)
        details = {
            "method": method,
            kind: float(value),
            "exact": exact,
            "mean_cost": cost / samples,
            "accuracy": None if labels is None else right / total,
        }
        policies.append(_policy(thresholds, temperatures, how, details, logits, costs.ndim == 2))
    return policies


def _calibrate_risk(logits, labels, costs, risk, *, method, **how):
    if not isinstance(risk, RiskControl):
        raise TypeError(f"`risk` must be a RiskControl. Received: risk={risk!r}")
    if method != "optimal":
        raise ValueError(f'With `risk`, `method` must be "optimal". Received: method={method}')
    logits = check_logits(logits)
    costs = check_costs(costs, logits)
    if logits.ndim != 3:
        raise ValueError(
            "With `risk`, `logits` must be of shape (exits, samples, classes). "
            f"Received: shape {logits.shape}"
        )
    if labels is not None or risk.metric != "disagreement":
        labels = check_labels(labels, logits)
    if logits.shape[1] < 2:
        raise ValueError(
            "`logits` must hold at least two samples, to be cut in halves. Received: 1"
        )
    temperatures = np.ones(len(logits))
    if how["temperature"] or (how["temperature"] is None and labels is not None):
        # on the half that the policies are chosen on, not on the one they are tested on
        half, _ = risk.halves(logits.shape[1])
        temperatures = _temperatures(logits[:, half], labels[half], True, method)
    problem, _, limits = _problem(logits, labels, costs, temperatures, how)
    answers = logits.argmax(axis=-1)
    reached = answers
    if limits is not None:  # an exit out of reach gives the answer of the last one in reach
        reach = np.minimum(np.arange(len(logits))[:, None], limits[None])
        reached = np.take_along_axis(answers, reach, axis=0)
    truth = answers[-1] if labels is None else labels
    losses = risk.losses(reached == truth, answers[-1:] == truth, reached == answers[-1])
    thresholds, guarantee = controlled_thresholds(risk, problem.confidences, losses, problem.costs)
    if not guarantee["passed"]:
        enough = guarantee["tested_samples"] >= (risk.samples_needed + 1) // 2
        warnings.warn(
            f"No policy passed the test of {risk.metric} at level {risk.level} with "
            f"{guarantee['tested_samples']} tested samples; the safe policy, always the last "
            "exit in reach, is returned, without a guarantee. "
            + (
                "Allow more risk."
                if enough
                else f"Calibrate with at least {risk.samples_needed} samples, or allow more risk."
            ),
            stacklevel=3,
        )
    if limits is not None:
        thresholds = _stop_at(thresholds, limits.max())
    _, cost = problem.outcome(thresholds)
    details = {
        "method": method,
        "guarantee": guarantee,
        "mean_cost": cost / logits.shape[1],
    }
    return _policy(thresholds, temperatures, how, details, logits, costs.ndim == 2)


def _problem(logits, labels, costs, temperatures, how):
    """Returns the `Problem`, the number of labels, and each sample's last exit in reach."""
    if logits.ndim > 3:
        confidences = confidence_of(logits, how["confidence"], temperatures, how["pixel_floor"])
    else:
        confidences = log_odds(logits, how["confidence"], temperatures)
    exits, samples = confidences.shape
    costs = np.broadcast_to(costs.reshape(exits, -1), (exits, samples))
    right = np.zeros((exits, samples), "int32")
    total = samples
    if labels is not None:
        for k in range(exits):
            correct = logits[k].argmax(axis=-1) == labels
            right[k] = correct.reshape(samples, -1).sum(axis=1)
        total = int((labels >= 0).sum())
    limits = None
    if how["worst_case"] is not None:
        limits = last_affordable(costs, finite(how["worst_case"], "worst_case"), samples)
        reach = np.minimum(np.arange(exits)[:, None], limits[None])
        right = np.take_along_axis(right, reach, axis=0)
        costs = np.take_along_axis(costs, reach, axis=0)
    return search.Problem(confidences, right, costs), total, limits


def _target(kind, value, problem, total, samples):
    value = finite(value, kind)
    if kind == "budget":
        least = float(problem.costs[0].mean())
        if not value >= least * (1 - ROUNDING):
            raise UnreachableTargetError(
                "`budget` must be at least what leaving at the first exit costs, "
                f"{least:.10g}. Received: budget={value}"
            )
        return Target(kind, value * samples * (1 + ROUNDING))
    if not 0 <= value <= 1:
        raise ValueError(f"`accuracy` must be from 0 to 1. Received: accuracy={value}")
    return Target(kind, (value - ROUNDING) * total)


def _most_right(problem, method):
    """Returns the most right answers of any policy of a method."""
    if method == "optimal":
        return search.front(problem)[0].right[-1]
    if method == "percentile":
        return _percentile_front(problem).right[-1]
    orders = most_confident_first(problem.confidences)
    policies = [shares_leaving(problem.confidences, orders, p) for p in (*PUBLISHED_P, *MORE_P)]
    return max(problem.outcome(thresholds)[0] for thresholds in policies)


def _raise_unreachable(kind, value, problem, total, worst_case, method):
    most = _most_right(problem, method)
    within = "" if worst_case is None else f" with worst_case={worst_case}"
    raise UnreachableTargetError(
        f"`{kind}` must be reachable: at most {most / total:.6g} is on this "
        f"data with method={method!r}{within}. Received: {kind}={value}"
    )


def _temperatures(logits, labels, temperature, method):
    if temperature not in (None, True, False):
        raise ValueError(
            f"`temperature` must be True, False or None. Received: temperature={temperature}"
        )
    if temperature is None:
        temperature = labels is not None and method != "geometric"
    if not temperature:
        return np.ones(len(logits))
    if labels is None:
        raise ValueError("`labels` must be given to fit temperatures. Received: labels=None")
    return fit_temperatures(logits, labels)


def _stop_at(thresholds, exit):
    """Makes every sample that reaches this exit leave there, and closes later exits."""
    stopped = np.array(thresholds)
    stopped[exit] = -np.inf
    stopped[exit + 1 : -1] = np.inf
    return stopped


def _policy(thresholds, temperatures, how, details, logits, per_sample):
    """Returns the policy; thresholds are in the form that is compared."""
    worst_case = None if how["worst_case"] is None else float(how["worst_case"])
    details = {
        **details,
        "worst_case": worst_case,
        "samples": logits.shape[1],
        "versions": {
            "keras_adaptive": __version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
    }
    exact = None
    if logits.ndim == 3:
        exact, thresholds = thresholds, from_log_odds(thresholds, how["confidence"])
    return ExitPolicy(
        thresholds,
        how["confidence"],
        temperatures,
        log_odds=exact,
        pixel_floor=how["pixel_floor"],
        # where a sample's costs are known beforehand, the thresholds alone hold it
        worst_case=worst_case if per_sample else None,
        details=details,
    )
