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
from keras_adaptive._checks import (
    check_choice,
    check_costs,
    check_labels,
    check_logits,
    did_you_mean,
    finite,
)
from keras_adaptive.calibration import _search as search
from keras_adaptive.calibration._reference import reference
from keras_adaptive.calibration.geometric import (
    MORE_P,
    PUBLISHED_P,
    best_geometric,
    most_confident_first,
    shares_leaving,
)
from keras_adaptive.calibration.pcee import pcee_thresholds
from keras_adaptive.calibration.risk_control import (
    NoSavingWarning,
    RiskControl,
    controlled_thresholds,
)
from keras_adaptive.calibration.temperature import fit_temperatures
from keras_adaptive.policy.confidence import CONFIDENCES, from_log_odds
from keras_adaptive.policy.exit_policy import ExitPolicy, always_last
from keras_adaptive.policy.learned_policy import LearnedPolicy
from keras_adaptive.policy.policy import (
    UnreachableTargetError,
    best_classes,
    check_top_k,
    last_affordable,
    policy_of,
    right_answers,
)

METHODS = ("optimal", "geometric", "percentile", "pcee")
TARGETS = ("budget", "budget_share", "accuracy", "risk")
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
    budget_share=None,
    accuracy=None,
    risk=None,
    q=None,
    worst_case=None,
    method="optimal",
    confidence="max_prob",
    temperature=None,
    pixel_floor=0.5,
    unit=None,
    top_k=1,
):
    """Chooses the thresholds of an `ExitPolicy` for a budget, an accuracy or a risk.

    Exactly one of `budget`, `budget_share`, `accuracy` and `risk` is the target. Use held-out
    data; only `risk` gives a guarantee for new data.

    `"optimal"` is the best on the data given. On new images it is as accurate as
    `"geometric"` for the same cost, or up to 0.2 points less, since it fits some noise
    (benchmarks/results/calibration.md). It adds accuracy targets, worst-case limits and
    guarantees, and does not spend budget that gains no accuracy.

    Logits may be larger than the memory, as a `numpy.memmap`: they are read part by part.

    Args:
        logits: Array `(exits, samples, classes)`, or `(exits, cells, height, width,
            classes)` for dense outputs, where a cell is a sample.
        labels: Labels as `fit` takes them: integers `(samples,)` or `(samples, 1)`, or one-hot;
            of dense outputs `(cells, height, width)` with -1 where there is no label. Not
            needed by `method="geometric"` with a budget, nor by `RiskControl("disagreement")`.
        costs: Array `(exits,)` or `(exits, samples)`: the cost of leaving at each
            exit, earlier heads included.
        budget: Number, the highest mean cost per sample, in the unit of `costs`: the highest
            accuracy within it is sought.
        budget_share: Number above 0 and at most 1: the budget as a share of the full cost, that
            of the last exit.
        accuracy: Number from 0 to 1: the lowest mean cost that reaches it is sought.
        risk: A `RiskControl`: the lowest mean cost with its guarantee is sought.
        q: Number between 0 and 1, with `method="geometric"` in place of a target: a share of
            about `q * (1 - q)**k` leaves at exit `k`, that is `p = 1 - q`.
        worst_case: Number, the most that any one sample may cost, or `None`. Where all samples
            cost the same it is put into the thresholds; else the policy holds it.
        method: `"optimal"`: the best thresholds on a grid of 100 percentiles of each
            exit's confidence, an exit possibly being closed; exact for up to five exits,
            beyond that at least as good as the best choice of three exits beside the last;
            never worse than the other methods. `"percentile"`: the best combination of
            percentiles, every exit open (Cascades; 100 percentiles for up to five exits,
            fewer beyond). `"geometric"`: MSDNet's rule, `geometric_thresholds`, with the
            best `p`. `"pcee"`, with `accuracy`: a sample leaves at the first exit that is right
            for at least this share of the samples of like confidence, `pcee_thresholds`; it
            needs no search, and the accuracy of the policy may be higher or lower.
        confidence: `"max_prob"`, `"prob_margin"`, `"logit_margin"` or `"entropy"`; or a
            `LearnedPolicy`, whose probability of stopping it then is and whose own thresholds
            do not count.
        temperature: Whether a temperature is fitted for each exit. `None`: where labels are
            given, the method is `"optimal"`, and the confidence is not a learned one, which
            has none.
        pixel_floor: Number: pixels less confident than this are treated as unlabeled. Only for
            dense outputs.
        unit: String, the unit of the costs, which the policy keeps. `None`: not said.
        top_k: Integer: an answer counts as right if the label is among so many most probable
            classes.

    Returns:
        An `ExitPolicy`, for a learned confidence a `LearnedPolicy`, whose `details` say how it
        was made. On the data given, its mean cost is at most `budget`, or its accuracy at least
        `accuracy` (not with `"pcee"`).

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
        https://arxiv.org/abs/2012.01988), appendix B.2; `"pcee"`: [Performance Control in Early
        Exiting (Mofakhami et al., 2024)](https://arxiv.org/abs/2412.19325).
    """
    how = {
        "budget": budget,
        "budget_share": budget_share,
        "accuracy": accuracy,
        "risk": risk,
        "q": q,
        "worst_case": worst_case,
        "method": method,
        "confidence": confidence,
        "temperature": temperature,
        "pixel_floor": pixel_floor,
        "unit": unit,
        "top_k": top_k,
    }
    kind, value = check_how(**how)
    if kind == "risk":
        return _calibrate_risk(logits, labels, costs, how)
    return _calibrate(logits, labels, costs, kind, [value], how)[0]


def calibrate_budgets(logits, labels, costs, budgets=None, *, budget_share=None, **kwargs):
    """Returns one policy per budget, all from one search.

    Args:
        logits, labels, costs: As in `calibrate`.
        budgets: Sequence of numbers.
        budget_share: Sequence of numbers, in place of `budgets`: shares of the full cost.
        **kwargs: The other arguments of `calibrate`: `method=`, `confidence=` and others.

    Returns:
        List of `ExitPolicy`, as `calibrate` returns them.

    Raises:
        UnreachableTargetError, ValueError: As `calibrate`.
    """
    if (budgets is None) == (budget_share is None):
        raise ValueError(
            "Exactly one of `budgets` and `budget_share` must be given. Received: "
            f"{'none' if budgets is None else 'both'}"
        )
    kind, values = ("budget", budgets) if budget_share is None else ("budget_share", budget_share)
    if np.ndim(values) != 1 or not len(values):
        raise ValueError(
            f"`{kind if budgets is None else 'budgets'}` must be a sequence of numbers. "
            f"Received: {values!r}"
        )
    check_names(kwargs)
    values = [check_how(**{kind: value}, **kwargs)[1] for value in values]
    return _calibrate(logits, labels, costs, kind, values, {**DEFAULTS, **kwargs})


DEFAULTS = {
    "worst_case": None,
    "method": "optimal",
    "confidence": "max_prob",
    "temperature": None,
    "pixel_floor": 0.5,
    "unit": None,
    "top_k": 1,
}


def check_names(kwargs):
    """Raises a ValueError unless these are arguments that `calibrate_budgets` passes on."""
    names, unknown = tuple(DEFAULTS), tuple(sorted(set(kwargs) - set(DEFAULTS)))
    if unknown:
        hint = did_you_mean(unknown[0], names)
        raise ValueError(f"The arguments must be among {names}. Received: {unknown}{hint}")


def check_how(
    *,
    budget=None,
    budget_share=None,
    accuracy=None,
    risk=None,
    q=None,
    worst_case=None,
    method="optimal",
    confidence="max_prob",
    temperature=None,
    pixel_floor=0.5,
    unit=None,
    top_k=1,
    costs=None,
    labels_given=True,
):
    """Checks what can be known of `calibrate`'s arguments before there are logits.

    Args:
        costs: Array `(exits,)`, if all samples cost the same: what can be reached is then
            known. `None`: not known.
        labels_given: Boolean.

    Returns:
        Tuple of the target's name and its value.

    Raises:
        UnreachableTargetError, TypeError, ValueError: As `calibrate`.
    """
    check_choice(METHODS, method=method)
    if not isinstance(confidence, LearnedPolicy):
        check_choice(CONFIDENCES, confidence=confidence)
    elif temperature:
        raise ValueError(
            "`temperature` must be None or False for a LearnedPolicy, which has no temperatures. "
            f"Received: temperature={temperature}"
        )
    elif confidence.seed is not None:
        raise ValueError(
            "`confidence` must be a greedy LearnedPolicy. Received: one that draws, with "
            f"seed={confidence.seed}"
        )
    given = dict(zip(TARGETS, (budget, budget_share, accuracy, risk), strict=True))
    if method == "geometric":
        given["q"] = q
    elif q is not None:
        raise ValueError(
            f'`q` must be given with method="geometric" only. Received: q={q}, method={method}'
        )
    found = [name for name, value in given.items() if value is not None]
    if len(found) != 1:
        names = [f"`{name}`" for name in given]
        raise ValueError(
            f"Exactly one of {', '.join(names[:-1])} and {names[-1]} must be given. "
            f"Received: {' and '.join(found) or 'none'}"
        )
    kind, value = found[0], given[found[0]]
    if kind == "risk":
        if not isinstance(risk, RiskControl):
            raise TypeError(f"`risk` must be a RiskControl. Received: risk={risk!r}")
        if method != "optimal":
            raise ValueError(f'With `risk`, `method` must be "optimal". Received: method={method}')
    else:
        value = finite(value, kind)
    if kind == "accuracy" and not 0 <= value <= 1:
        raise ValueError(f"`accuracy` must be from 0 to 1. Received: accuracy={accuracy}")
    if method == "pcee" and kind != "accuracy":
        raise ValueError(
            f'With method="pcee", `accuracy` must be the target. Received: {kind}={value}'
        )
    if kind == "budget_share" and not 0 < value <= 1:
        raise ValueError(
            "`budget_share` must be above 0 and at most 1, a share of the full cost. "
            f"Received: budget_share={budget_share}"
        )
    if kind == "q" and not 0 < value < 1:
        raise ValueError(f"`q` must be between 0 and 1. Received: q={q}")
    if temperature not in (None, True, False):
        raise ValueError(
            f"`temperature` must be True, False or None. Received: temperature={temperature}"
        )
    finite(pixel_floor, "pixel_floor")
    check_top_k(top_k)
    if not isinstance(unit, (str, type(None))):
        raise ValueError(f"`unit` must be a string. Received: unit={unit!r}")
    if not labels_given:
        disagreement = kind == "risk" and risk.metric == "disagreement"
        if kind == "accuracy" or not (method == "geometric" or disagreement):
            raise ValueError("`labels` must be given. Received: labels=None")
        if temperature:
            raise ValueError("`labels` must be given to fit temperatures. Received: labels=None")
    if worst_case is not None:
        worst_case = finite(worst_case, "worst_case")
    if costs is not None:
        costs = np.reshape(costs, (-1, 1))
        if worst_case is not None:
            last_affordable(costs, worst_case, 1)
        if kind in ("budget", "budget_share"):
            _limit(kind, value, costs)
    return kind, value


def _limit(kind, value, costs):
    """Returns the budget in the unit of the costs.

    Args:
        kind: `"budget"` or `"budget_share"`.
        value: Number.
        costs: Array `(exits, samples)`.
    """
    least, full = float(costs[0].mean()), float(costs[-1].mean())
    budget = value * full if kind == "budget_share" else value
    if budget >= least * (1 - ROUNDING):
        return budget
    if kind == "budget_share":
        raise UnreachableTargetError(
            "`budget_share` must be at least the share of the full cost that leaving at the "
            f"first exit costs, {least / full:.6g}. Received: budget_share={value:.10g}"
        )
    hint = ""
    if 0 < value <= 1 and least >= 10 * value:
        hint = f"; for a share of the full cost give budget_share={value:g}"
    raise UnreachableTargetError(
        "`budget` must be at least what leaving at the first exit costs, "
        f"{least:.10g}. Received: budget={value:.10g}{hint}"
    )


def _calibrate(logits, labels, costs, kind, values, how):
    method = how["method"]
    logits = check_logits(logits)
    costs = _checked_costs(costs, logits)
    if labels is not None or method != "geometric" or kind == "accuracy":
        labels = check_labels(labels, logits)
    limits = list(values)
    if kind in ("budget", "budget_share"):
        limits = [_limit(kind, value, costs.reshape(len(costs), -1)) for value in values]
    pattern = _pattern(logits, labels, how)
    problem, total, reach = _problem(logits, labels, costs, pattern, how)
    samples = logits.shape[1]
    if method == "pcee":
        if logits.ndim != 3:
            raise ValueError(
                'With method="pcee", `logits` must be of shape (exits, samples, classes). '
                f"Received: shape {logits.shape}"
            )
        solved = [(pcee_thresholds(*problem[:2], value), None) for value in values]
    elif kind == "q":
        confidences = problem.confidences
        orders = most_confident_first(confidences)
        solved = [(shares_leaving(confidences, orders, 1 - value), None) for value in values]
    else:
        solved = _solve(problem, [_target(kind, v, total, samples) for v in limits], method)
    policies = []
    for value, limit, (thresholds, exact) in zip(values, limits, solved, strict=True):
        if thresholds is None:
            _raise_unreachable(kind, value, problem, total, how["worst_case"], method)
        if reach is not None:
            thresholds = _stop_at(thresholds, reach.max())
        right, cost = problem.outcome(thresholds)
        details = {
            "method": method,
            kind: float(value),
            "exact": exact,
            "mean_cost": cost / samples,
            "accuracy": None if labels is None else right / total,
        }
        if kind == "budget_share":
            details["budget"] = limit
        if method == "pcee":
            details["accuracy_wanted"] = float(value)
        policies.append(_policy(thresholds, pattern, how, details, logits, costs, problem))
    return policies


def _checked_costs(costs, logits):
    """Returns costs as `(exits,)` where they are the same for all samples."""
    costs = check_costs(costs, logits)
    if costs.ndim == 2 and (costs == costs[:, :1]).all():
        return costs[:, 0]
    return costs


def _calibrate_risk(logits, labels, costs, how):
    risk = how["risk"]
    logits = check_logits(logits)
    costs = _checked_costs(costs, logits)
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
    # temperatures on the half that the policies are chosen on, not on the one they are tested on
    pattern = _pattern(logits, labels, how, risk.halves(logits.shape[1])[0])
    problem, _, reach = _problem(logits, labels, costs, pattern, how)
    agrees = (answers := best_classes(logits)) == answers[-1]
    right = agrees if labels is None else right_answers(logits, labels, how["top_k"]) == 1
    best = right[-1:]
    if reach is not None:  # an exit out of reach gives the answer of the last one in reach
        places = np.minimum(np.arange(len(logits))[:, None], reach[None])
        right, agrees = (np.take_along_axis(each, places, axis=0) for each in (right, agrees))
    losses = risk.losses(right, best, agrees)
    thresholds, guarantee = controlled_thresholds(risk, problem.confidences, losses, problem.costs)
    if (thresholds[:-1] == np.inf).all() and len(thresholds) > 1:
        _warn_of_no_saving(risk, guarantee)
    if reach is not None:
        thresholds = _stop_at(thresholds, reach.max())
    _, cost = problem.outcome(thresholds)
    details = {
        "method": how["method"],
        "guarantee": guarantee,
        "mean_cost": cost / logits.shape[1],
    }
    return _policy(thresholds, pattern, how, details, logits, costs, problem)


def _warn_of_no_saving(risk, guarantee):
    needed = guarantee["samples_needed"]
    if guarantee["policies_on_the_path"] == 1 and risk.steps == 1:
        advice = "Give the RiskControl more steps."
    elif needed is not None:
        advice = f"Calibrate with at least {needed} samples, or allow more risk."
    else:
        advice = "Allow more risk."
    safe = "the safe policy, always the last exit in reach,"
    test = (
        f"the test of {risk.metric} at level {risk.level} with {guarantee['tested_samples']} "
        "tested samples"
    )
    warnings.warn(
        f"No policy passed {test} but {safe.strip(',')}: the guarantee saves nothing. {advice}"
        if guarantee["passed"]
        else f"No policy passed {test}; {safe} is returned, without a guarantee. {advice}",
        NoSavingWarning,
        stacklevel=4,
    )


def _problem(logits, labels, costs, pattern, how):
    """Returns the `Problem`, the number of labels, and each sample's last exit in reach."""
    confidences = np.stack([pattern.compared(k, z) for k, z in enumerate(logits)])
    exits, samples = confidences.shape
    costs = np.broadcast_to(costs.reshape(exits, -1), (exits, samples))
    right = np.zeros((exits, samples), "int32")
    total = samples
    if labels is not None:
        right = right_answers(logits, labels, check_top_k(how["top_k"], logits.shape[-1]))
        total = int(np.count_nonzero(labels >= 0))
    limits = None
    if how["worst_case"] is not None:
        limits = last_affordable(costs, float(how["worst_case"]), samples)
        reach = np.minimum(np.arange(exits)[:, None], limits[None])
        right = np.take_along_axis(right, reach, axis=0)
        costs = np.take_along_axis(costs, reach, axis=0)
    return search.Problem(confidences, right, costs), total, limits


def _target(kind, value, total, samples):
    if kind == "accuracy":
        return Target(kind, (value - ROUNDING) * total)
    return Target("budget", value * samples * (1 + ROUNDING))


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


def _pattern(logits, labels, how, rows=None):
    """Returns the policy that computes confidences; its thresholds are still to be chosen.

    Args:
        logits, labels: As in `calibrate`.
        how: The arguments of `calibrate`, by name.
        rows: Indices of the samples that temperatures are fitted on. `None`: all.
    """
    confidence, temperature = how["confidence"], how["temperature"]
    if isinstance(confidence, LearnedPolicy):
        confidence.exits_of(len(logits))
        return confidence
    if temperature is None:
        temperature = labels is not None and how["method"] == "optimal"
    if temperature and labels is None:
        raise ValueError("`labels` must be given to fit temperatures. Received: labels=None")
    temperatures = fit_temperatures(logits, labels, rows) if temperature else None
    thresholds = always_last(len(logits))
    return ExitPolicy(thresholds, confidence, temperatures, pixel_floor=how["pixel_floor"])


def _stop_at(thresholds, exit):
    """Makes every sample that reaches this exit leave there, and closes later exits."""
    stopped = np.array(thresholds)
    stopped[exit] = -np.inf
    stopped[exit + 1 : -1] = np.inf
    return stopped


def _policy(thresholds, pattern, how, details, logits, costs, problem):
    """Returns the policy; thresholds are in the form that is compared."""
    worst_case = None if how["worst_case"] is None else float(how["worst_case"])
    details = {
        **details,
        **({} if how["top_k"] == 1 else {"top_k": int(how["top_k"])}),
        "worst_case": worst_case,
        "samples": logits.shape[1],
        "versions": {
            "keras_adaptive": __version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
        },
    }
    exact, per_sample = None, costs.ndim == 2
    if logits.ndim == 3:  # of geometric thresholds too: the sample's own confidence
        if not per_sample or (worst_case is None and how["unit"] in (None, "macs")):
            details["reference"] = reference(
                problem.confidences,
                thresholds,
                logits,
                pattern.temperatures,
                costs if per_sample else None,
            )
        exact, thresholds = thresholds, from_log_odds(thresholds, pattern.confidence)
    return policy_of(
        {
            **pattern.content(),
            "thresholds": thresholds,
            "log_odds": exact,
            # where all samples cost the same, the thresholds alone hold it
            "worst_case": worst_case if per_sample else None,
            "details": details,
            "unit": how["unit"],
        }
    )
