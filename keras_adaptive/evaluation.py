"""Evaluation of exit policies: accuracy and cost, and curves of them over budgets.

Arrays in, numbers out. Use held-out data, on which neither the network was trained nor
the thresholds were chosen.
"""

import reprlib
from typing import NamedTuple

import numpy as np
from scipy import stats

from keras_adaptive._checks import (
    as_array,
    check_costs,
    check_labels,
    check_logits,
    finite,
    integer,
    numeric,
)
from keras_adaptive.calibration.calibrate import calibrate_budgets
from keras_adaptive.policy.confidence import log_odds
from keras_adaptive.policy.policy import Policy, check_top_k, right_answers


class EvaluationResult(NamedTuple):
    """Accuracy, costs and exits of a policy on some data.

    Attributes:
        accuracy: Share of samples (of labeled pixels, for dense outputs) for which the exit
            they leave at is right.
        mean_cost: Mean cost per sample.
        worst_cost: The highest cost of any sample.
        exit_fractions: `(exits,)`, share of samples that leave at each exit.
        exit_accuracies: `(exits,)`, accuracy of each exit alone on all samples.
    """

    accuracy: float
    mean_cost: float
    worst_cost: float
    exit_fractions: np.ndarray
    exit_accuracies: np.ndarray


Report = EvaluationResult  # its name before 0.2; until 0.3


class Curve(NamedTuple):
    """Accuracy against cost, point by point, and of every exit used alone.

    Attributes:
        costs: `(points,)`, mean cost, ascending.
        accuracies: `(points,)`.
        policies: List of `ExitPolicy`, one per point.
        exit_costs: `(exits,)`, mean cost of always leaving at that exit.
        exit_accuracies: `(exits,)`.
        samples: Integer: on how many samples (labeled pixels, for dense outputs).
    """

    costs: np.ndarray
    accuracies: np.ndarray
    policies: list
    exit_costs: np.ndarray
    exit_accuracies: np.ndarray
    samples: int | None = None

    @property
    def area(self):
        """Area under the curve, divided by its width: the mean accuracy over all budgets.

        Between two points accuracy is interpolated linearly. The area of a curve whose points
        have one cost is the best accuracy.
        """
        width = self.costs[-1] - self.costs[0]
        if width == 0:
            return float(self.accuracies.max())
        return float(np.trapezoid(self.accuracies, self.costs) / width)


def evaluate(policy, logits, labels, costs, *, top_k=1):
    """Returns accuracy and cost of a policy on cached logits.

    Args:
        policy: A policy of any class. Or a model, for its `model.policy`. Or the probabilities
            of leaving at each exit, `(exits, samples)`, such as `LearnedPolicy.leaving`: the
            result is then the expectation over random exits.
        logits: Array `(exits, samples, classes)`, or `(exits, cells, height, width,
            classes)` for dense outputs.
        labels: Integer array `(samples,)`, or `(cells, height, width)` with -1 where there
            is no label.
        costs: Array `(exits,)` or `(exits, samples)`.
        top_k: Integer: an answer is right if the label is among so many most probable classes.

    Returns:
        An `EvaluationResult`.

    Raises:
        TypeError: If the policy is none of these.
        ValueError: If the arrays do not fit together, or a model has no policy.

    Example:

    >>> from keras_adaptive import ExitPolicy
    >>> logits = [[[0, 9], [0, 1]], [[0, 9], [2, 0]]]
    >>> result = evaluate(ExitPolicy([0.9, 0]), logits, [1, 0], costs=[1.0, 3.0])
    >>> result.accuracy, result.mean_cost, result.worst_cost
    (1.0, 2.0, 3.0)
    >>> result.exit_accuracies.tolist()
    [0.5, 1.0]
    """
    if hasattr(policy, "calibrate") and hasattr(policy, "policy"):  # an AdaptiveModel
        if policy.policy is None:
            raise ValueError(
                "A model in place of a policy must have one; `model.calibrate` chooses it. "
                "Received: policy=None in the model"
            )
        policy = policy.policy
    split = _Split(logits, labels, costs, top_k)
    if isinstance(policy, Policy):
        return split.result_of_exits(policy._decide(split.logits, split.costs))
    return split.result(_check_leaving(policy, split.right.shape))


class _Split:
    """Logits, labels and costs, checked once, and where each exit is right."""

    def __init__(self, logits, labels, costs, top_k=1):
        self.logits = check_logits(logits)
        top_k = check_top_k(top_k, self.logits.shape[-1])
        labels = check_labels(labels, self.logits)
        self.costs = check_costs(costs, self.logits)
        self.right = right_answers(self.logits, labels, top_k)
        self.labeled = (labels >= 0).sum()
        self.prices = np.broadcast_to(self.costs.reshape(len(self.costs), -1), self.right.shape)

    def result_of_exits(self, exits):
        return self.result(exits == np.arange(len(self.right))[:, None])

    def result(self, leaving):
        """Returns the `EvaluationResult` of the probabilities of leaving at each exit."""
        return EvaluationResult(
            accuracy=float((leaving * self.right).sum() / self.labeled),
            mean_cost=float((leaving * self.prices).sum(axis=0).mean()),
            worst_cost=float(self.prices[leaving > 0].max()),
            exit_fractions=leaving.mean(axis=1),
            exit_accuracies=self.right.sum(axis=1) / self.labeled,
        )


def _check_leaving(policy, shape):
    try:
        leaving = numeric(policy)
    except (TypeError, ValueError):
        leaving = np.zeros(())
    if leaving.ndim != 2:
        raise TypeError(
            "`policy` must be an ExitPolicy, or probabilities of shape (exits, samples). "
            f"Received: policy={policy!r}"
        )
    sums_to_1 = np.allclose(leaving.sum(axis=0), 1, rtol=0, atol=1e-4)
    if leaving.shape != shape or not (leaving >= 0).all() or not sums_to_1:
        raise ValueError(
            f"`policy`, given as probabilities, must be of shape {shape} and add up to 1 for each "
            f"sample. Received: shape {leaving.shape}"
        )
    return leaving


def accuracy_cost_curve(logits, labels, costs, *, points=30, test=None, top_k=1, **kwargs):
    """Returns the curve of accuracy against cost: one calibrated policy per budget.

    The budgets go in equal steps from the cost of the first exit to that of the last.

    Args:
        logits: Array `(exits, samples, classes)`, to choose thresholds on.
        labels: Integer array `(samples,)`.
        costs: Array `(exits,)` or `(exits, samples)`.
        points: Integer, the number of budgets. At least 2.
        test: Tuple `(logits, labels, costs)` of other data to report on. `None`: the
            same data, which makes the curve slightly optimistic.
        top_k: Integer: an answer is right if the label is among so many most probable classes,
            in choosing thresholds and in reporting.
        **kwargs: Passed to `calibrate`: `method=`, `confidence=` and others.

    Returns:
        A `Curve`.

    Raises:
        ValueError: If the arrays do not fit together.

    Example:

    >>> logits = [[[0, 1], [3, 0]], [[0, 9], [0, 9]]]
    >>> curve = accuracy_cost_curve(logits, [1, 1], [1.0, 3.0], points=3)
    >>> curve.costs.tolist(), curve.accuracies.tolist()
    ([1.0, 1.0, 3.0], [0.5, 0.5, 1.0])
    """
    points = integer("points", points, 2)
    if test is not None and (not hasattr(test, "__len__") or len(test) != 3):
        received = f"{len(test)} parts" if hasattr(test, "__len__") else f"test={test!r}"
        raise ValueError(f"`test` must be a tuple (logits, labels, costs). Received: {received}")
    logits = check_logits(logits)
    costs = check_costs(costs, logits)
    per_exit = costs.reshape(len(costs), -1).mean(axis=1)
    budgets = np.linspace(per_exit[0], per_exit[-1], points)
    policies = calibrate_budgets(logits, labels, costs, budgets, top_k=top_k, **kwargs)
    split = _Split(*((logits, labels, costs) if test is None else test), top_k)
    if len(split.logits) != len(logits):
        raise ValueError(
            f"`test` must have {len(logits)} exits, as `logits`. "
            f"Received: {len(split.logits)} exits"
        )
    # the policies of one calibration differ in their thresholds alone
    compared = np.stack([policies[0].compared(k, z) for k, z in enumerate(split.logits)])
    dense = split.logits.ndim > 3
    results = [
        split.result_of_exits(p.exits_of_compared(compared, dense, split.costs)) for p in policies
    ]
    order = np.argsort([result.mean_cost for result in results], kind="stable")
    return Curve(
        costs=np.array([results[i].mean_cost for i in order]),
        accuracies=np.array([results[i].accuracy for i in order]),
        policies=[policies[i] for i in order],
        exit_costs=split.prices.mean(axis=1),
        exit_accuracies=results[0].exit_accuracies,
        samples=int(split.labeled),
    )


def interpolated(costs, accuracies, budgets):
    """Returns the accuracy of several networks at budgets between their costs.

    A share `alpha` of the samples, drawn at random, is classified by the network of cost `C1`
    and the rest by that of the next cost `C2`, so that `B = alpha C1 + (1 - alpha) C2` is spent.

    Args:
        costs: Array `(networks,)`.
        accuracies: Array `(networks,)`.
        budgets: Array of any shape.

    Returns:
        Float array of that shape: NaN below the least cost, the accuracy of the most expensive
        network from its cost on.

    Raises:
        ValueError: If costs, accuracies and budgets are not such numbers.

    Example:

    >>> interpolated([1.0, 3.0], [0.5, 0.9], [0.5, 1.5, 4.0]).round(6).tolist()
    [nan, 0.6, 0.9]

    Reference:
        [MSDNet (Huang et al., 2018)](https://arxiv.org/abs/1703.09844), section 5.2.
    """
    (x, fits), (y, too) = _of_rank(1, costs), _of_rank(1, accuracies)
    if not (fits and too) or x.shape != y.shape or len(np.unique(x)) < x.size:
        raise ValueError(
            "`costs` and `accuracies` must be one number per network, costs all different. "
            f"Received: costs={reprlib.repr(costs)}, accuracies={reprlib.repr(accuracies)}"
        )
    try:
        where = numeric(budgets)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`budgets` must be numbers. Received: budgets={reprlib.repr(budgets)}"
        ) from error
    order = np.argsort(x)
    return np.interp(where, x[order], y[order], left=np.nan)


class Best(NamedTuple):
    """What `best_of` returns, budget by budget.

    Attributes:
        costs: `(budgets,)`, the mean cost of the chosen policy on test data; NaN where none is
            within the budget.
        accuracies: `(budgets,)`, likewise.
        networks: List of the names of the chosen networks, or `None`.
        policies: List of the chosen policies, or `None`.
    """

    costs: np.ndarray
    accuracies: np.ndarray
    networks: list
    policies: list


def best_of(curves, budgets):
    """Returns, for each budget, what the best of several networks does.

    Network and policy are chosen on the data that the policies were calibrated on: of those
    within the budget there, the one of the highest accuracy there. What is returned is measured
    on the test data of the curves.

    Args:
        curves: Dictionary: name of a network to its `Curve`, made with `test=`.
        budgets: Array `(budgets,)`.

    Returns:
        A `Best`.

    Raises:
        ValueError: If `curves` is no such dictionary or empty, or there are no budgets.

    Reference:
        [MSDNet (Huang et al., 2018)](https://arxiv.org/abs/1703.09844), section 5.2, figure 4.
    """
    are_curves = isinstance(curves, dict) and all(isinstance(c, Curve) for c in curves.values())
    if not are_curves or not curves:
        raise ValueError(
            "`curves` must be a dictionary of names to `Curve`, at least one. "
            f"Received: curves={reprlib.repr(curves)}"
        )
    budgets = _budgets(budgets)
    found = []
    for name, curve in curves.items():
        for cost, accuracy, policy in zip(
            curve.costs, curve.accuracies, curve.policies, strict=True
        ):
            details = policy.details
            found.append((details["accuracy"], -details["mean_cost"], cost, accuracy, name, policy))
    chosen = []
    for budget in budgets:
        within = [each for each in found if -each[1] <= budget * (1 + 1e-9)]
        best = max(
            within, key=lambda each: each[:2], default=(None, None, np.nan, np.nan, None, None)
        )
        chosen.append(best[2:])
    costs, accuracies, networks, policies = zip(*chosen, strict=True)
    return Best(np.array(costs), np.array(accuracies), list(networks), list(policies))


def _budgets(budgets):
    """Returns budgets `(budgets,)`, at least one."""
    found, fits = _of_rank(1, budgets)
    if not fits:
        raise ValueError(
            "`budgets` must be numbers of shape (budgets,), at least one. "
            f"Received: budgets={budgets}"
        )
    return found


def _of_rank(rank, values):
    """Returns an array, and whether it holds numbers of this rank, at least one and none NaN."""
    try:
        found = numeric(values)
    except (TypeError, ValueError):
        found = np.zeros(())
    return found, found.ndim == rank and found.size > 0 and not np.isnan(found).any()


def anytime_accuracy(accuracies, costs, distribution, before=0.0):
    """Returns the expected accuracy of an anytime network under a random budget.

    The budget `B` is drawn from a distribution; the answer is that of the last exit with
    `cost <= B`: `sum_k accuracy_k * P(cost_k <= B < cost_{k+1})`.

    Args:
        accuracies: Array `(exits,)`, as `EvaluationResult.exit_accuracies`.
        costs: Array `(exits,)`, ascending.
        distribution: A frozen distribution of scipy, for example
            `scipy.stats.expon(scale=...)`: anything with a method `cdf`. Not the words that
            `training.exit_weights` takes, which are of no budget.
        before: Number, the accuracy where the budget is not enough for the first exit.

    Returns:
        Number.

    Raises:
        ValueError: If the arrays do not fit together, or the distribution is none.

    Example:

    >>> from scipy import stats
    >>> anytime_accuracy([0.5, 1.0], [1.0, 2.0], stats.uniform(0, 4))   # 1/4, 1/4, 1/2
    0.625

    Reference:
        [MSDNet (Huang et al., 2018)](https://arxiv.org/abs/1703.09844), section 3.
    """
    (right, fits), (prices, too) = _of_rank(1, accuracies), _of_rank(1, costs)
    if not (fits and too) or right.shape != prices.shape or (np.diff(prices) < 0).any():
        raise ValueError(
            "`accuracies` and `costs` must be one number per exit, costs ascending. "
            f"Received: accuracies={reprlib.repr(accuracies)}, costs={reprlib.repr(costs)}"
        )
    too_small, shares = budget_probabilities(distribution, prices)
    return float(finite(before, "before") * too_small + shares @ right)


def budget_probabilities(distribution, costs):
    """Returns the probability that a random budget ends at each exit.

    Args:
        distribution: As in `anytime_accuracy`.
        costs: Array `(exits,)`, ascending.

    Returns:
        Tuple: the probability that the budget `B` is not enough for the first exit, and the
        array `(exits,)` of `P(cost_k <= B < cost_{k+1})`.

    Raises:
        ValueError: If the distribution has no method `cdf` or is not frozen, or the costs are not
            ascending.
    """
    prices, fits = _of_rank(1, costs)
    if not fits or (np.diff(prices) < 0).any():
        raise ValueError(
            f"`costs` must be one number per exit, ascending. Received: costs={reprlib.repr(costs)}"
        )
    costs, name = prices, getattr(distribution, "name", None)
    frozen = not isinstance(distribution, type) and not (
        isinstance(name, str) and getattr(stats, name, None) is distribution
    )
    if not callable(getattr(distribution, "cdf", None)) or not frozen:
        raise ValueError(
            "`distribution` must be a frozen distribution of scipy, such as "
            f"`scipy.stats.uniform(0, {costs[-1]:g})`, or have a method `cdf`. "
            f"Received: distribution={distribution!r}"
        )
    # a budget of exactly the cost is enough, so the probability is of B < cost
    below = distribution.cdf(np.nextafter(costs, -np.inf))
    return below[0], np.diff(np.append(below, 1.0))


def accuracy_matrix(exits, logits, labels, *, top_k=1):
    """Returns the accuracy of every exit on the samples that leave at each.

    Where a policy sends samples to the exits that classify them well, the diagonal is higher
    than the entries above it: earlier exits are worse on those samples.

    Args:
        exits: Integer array `(samples,)`, from `policy.decide`.
        logits: Array `(exits, samples, classes)`.
        labels: Integer array `(samples,)`.
        top_k: Integer: an answer is right if the label is among so many most probable classes.

    Returns:
        Float array `(exits, exits)`: row `i`, column `j` is the accuracy of exit `i` on the
        samples that leave at exit `j`; NaN where none does.

    Example:

    >>> logits = [[[9, 0], [9, 0]], [[9, 0], [0, 9]]]
    >>> accuracy_matrix([0, 1], logits, [0, 1]).tolist()
    [[1.0, 0.0], [1.0, 1.0]]

    Reference:
        [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368), figure 5.
    """
    logits = _one_per_sample(logits)
    labels = check_labels(labels, logits)
    right = right_answers(logits, labels, check_top_k(top_k, logits.shape[-1]))
    here = _check_exits(exits, logits) == np.arange(len(logits))[:, None]
    with np.errstate(invalid="ignore"):
        return right.astype(float) @ here.T / here.sum(axis=1)


def most_and_least_confident(exits, scores, count=10):
    """Returns the most and the least confident of the samples that leave at each exit.

    Args:
        exits: Integer array `(samples,)`, from `policy.decide`.
        scores: Array `(exits, samples)`: `LearnedPolicy.leaving`, as in the paper, or
            `policy.confidences`, of the same logits.
        count: Integer, how many samples at most.

    Returns:
        Two lists of one integer array per exit: indices of samples, the most confident first
        and the least confident first.

    Example:

    >>> exits, scores = [0, 0, 1], [[0.9, 0.6, 0.1], [0.1, 0.4, 0.9]]
    >>> most, least = most_and_least_confident(exits, scores, count=1)
    >>> [rows.tolist() for rows in most], [rows.tolist() for rows in least]
    ([[0], [2]], [[1], [2]])

    Reference:
        [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368), figure 3.
    """
    scores = _check_scores(scores)
    exits = _check_exits(exits, scores)
    count = integer("count", count, 1)
    ranked = [
        rows[np.argsort(-scores[k, rows], kind="stable")]
        for k, rows in enumerate(np.flatnonzero(exits == k) for k in range(len(scores)))
    ]
    return [rows[:count] for rows in ranked], [rows[::-1][:count] for rows in ranked]


def _check_scores(scores):
    """Returns scores `(exits, samples)`; NaN, of which there is no order, is refused."""
    found, fits = _of_rank(2, scores)
    if not fits:
        raise ValueError(
            "`scores` must be numbers of shape (exits, samples), none of them NaN. "
            f"Received: scores={reprlib.repr(scores)} of shape {found.shape}"
        )
    return found


def failure_auroc(logits, labels, *, confidence="max_prob"):
    """Returns how well the confidence of each exit tells its right answers from its wrong ones.

    It is the area under the ROC curve of the confidence as a score for "this exit is right":
    the probability that of a right and a wrong answer, drawn at random, the right one is the
    more confident; ties count half. 0.5 is chance, 1 is perfect. It does not depend on
    whether the confidence is too high altogether, which `reliability` measures.

    Args:
        logits: Array `(exits, samples, classes)`.
        labels: Integer array `(samples,)`.
        confidence: `"max_prob"`, `"prob_margin"`, `"logit_margin"` or `"entropy"`.

    Returns:
        Float array `(exits,)`; NaN for an exit whose answers are all right or all wrong.

    Example:

    >>> logits = [[[0, 3], [0, 1], [2, 0]]]   # right, right, wrong
    >>> failure_auroc(logits, [1, 1, 1]).tolist()
    [0.5]

    Reference:
        [Failure Prediction Is a Better Performance Proxy for Early-Exit Networks Than
        Calibration (Kubaty et al., 2025)](https://arxiv.org/abs/2508.21495).
    """
    found = []
    for score, right in zip(*_judged(logits, labels, confidence), strict=True):
        of_right, of_wrong = right.sum(), (~right).sum()
        above = stats.rankdata(score)[right].sum() - of_right * (of_right + 1) / 2
        found.append(above / (of_right * of_wrong) if of_right and of_wrong else np.nan)
    return np.array(found)


def aurc(logits, labels, *, confidence="max_prob"):
    """Returns the area under the risk-coverage curve of each exit.

    The risk at coverage `n / samples` is the share of wrong answers among the `n` most
    confident samples; the area is its mean over `n = 1, ..., samples`. Samples of equal
    confidence are in random order, of which the expectation is taken. 0 is perfect; answers
    with a confidence that says nothing have the exit's share of wrong answers.

    Args:
        logits: Array `(exits, samples, classes)`.
        labels: Integer array `(samples,)`.
        confidence: As in `failure_auroc`.

    Returns:
        Float array `(exits,)`.

    Example:

    >>> logits = [[[0, 3], [0, 1], [2, 0]]]   # right, right, wrong; wrong in the second place
    >>> aurc(logits, [1, 1, 1]).round(4).tolist()
    [0.2778]

    Reference:
        [Bias-Reduced Uncertainty Estimation for Deep Neural Classifiers (Geifman et al.,
        2019)](https://arxiv.org/abs/1805.08206).
    """
    found = []
    for score, right in zip(*_judged(logits, labels, confidence), strict=True):
        wrong = _ranked(score, ~right)
        found.append((np.cumsum(wrong) / np.arange(1, len(wrong) + 1)).mean())
    return np.array(found)


def selective_accuracy(logits, labels, *, confidence="max_prob", shares=100):
    """Returns the accuracy of the most confident part of the samples, for growing parts.

    Samples of equal confidence are in random order, of which the expectation is taken.

    Args:
        logits: Array `(exits, samples, classes)`.
        labels: Integer array `(samples,)`.
        confidence: As in `failure_auroc`.
        shares: Integer: the part grows from one of so many equal steps to all.

    Returns:
        Tuple of the parts `(shares,)`, the accuracy of each exit on its most confident samples
        `(exits, shares)`, and the most that any confidence could reach,
        `min(1, accuracy / part)`, of the same shape.

    Example:

    >>> logits = [[[0, 3], [0, 2], [1, 0], [0, 4]]]   # right but for the third
    >>> [a.tolist() for a in selective_accuracy(logits, [1, 1, 1, 1], shares=2)[1:]]
    [[[1.0, 0.75]], [[1.0, 0.75]]]

    Reference:
        [Wisdom of Committees (Wang et al., 2022)](https://arxiv.org/abs/2012.01988), figure A of
        its first version.
    """
    shares = integer("shares", shares, 1)
    scores, right = _judged(logits, labels, confidence)
    parts = np.arange(1, shares + 1) / shares
    counts = np.maximum(np.rint(parts * right.shape[1]).astype(int), 1)
    ranked = np.stack([_ranked(*pair) for pair in zip(scores, right, strict=True)])
    found = np.cumsum(ranked, axis=1)[:, counts - 1] / counts
    most = np.minimum(1, ranked.sum(axis=1, keepdims=True) / counts)
    return parts, found, most


def _ranked(score, values):
    """Returns values by their score, the highest first; of equal scores each has the mean."""
    _, place, counts = np.unique(-score, return_inverse=True, return_counts=True)
    return np.repeat(np.bincount(place, values) / counts, counts)


def confidence_ranks(logits, *, confidence="max_prob"):
    """Returns the rank of every sample's confidence at each exit, and how far two exits agree.

    Args:
        logits: Array `(exits, samples, classes)`.
        confidence: As in `failure_auroc`.

    Returns:
        Tuple of ranks `(exits, samples)`, from 1, the least confident, on, ties in the middle;
        and of Spearman's correlation of the ranks of every two exits, `(exits, exits)`.

    Example:

    >>> ranks, agreement = confidence_ranks([[[0, 3], [0, 2]], [[0, 1], [0, 4]]])
    >>> ranks.tolist(), agreement.round(6).tolist()
    ([[2.0, 1.0], [1.0, 2.0]], [[1.0, -1.0], [-1.0, 1.0]])

    Reference:
        [Improved Techniques for Training Adaptive Deep Networks
        (Li et al., 2019)](https://arxiv.org/abs/1908.06294), figure 7.
    """
    logits = _one_per_sample(logits)
    ranks = stats.rankdata(log_odds(logits, confidence), axis=-1)
    return ranks, np.atleast_2d(np.corrcoef(ranks))


def _judged(logits, labels, confidence):
    """Returns the confidence of every answer, as it is compared, and whether it is right."""
    logits = _one_per_sample(logits)
    right = right_answers(logits, check_labels(labels, logits)) == 1
    return log_odds(logits, confidence), right


def _one_per_sample(logits):
    """Returns logits of which each sample has one answer, not one per pixel."""
    logits = check_logits(logits)
    if logits.ndim != 3:
        raise ValueError(
            f"`logits` must be of shape (exits, samples, classes). Received: shape {logits.shape}"
        )
    return logits


extremes = most_and_least_confident  # its name before 0.2; until 0.3


def _check_exits(exits, per_exit):
    exits = np.asarray(exits)
    whole = np.issubdtype(exits.dtype, np.integer)
    if not whole or exits.shape != per_exit.shape[1:2] or not len(exits) or exits.min() < 0:
        raise ValueError(
            f"`exits` must be {per_exit.shape[1]} integers of at least 0, one per sample. "
            f"Received: dtype {exits.dtype}, shape {exits.shape}"
        )
    if exits.max() >= len(per_exit):
        raise ValueError(f"`exits` must be below {len(per_exit)}. Received: {exits.max()}")
    return exits


def mean_iou(predicted, labels, classes):
    """Returns the mean intersection over union of the classes of a segmentation.

    Of a class it is `correct / (predicted or labeled)` pixels.

    Args:
        predicted: Integer array of classes.
        labels: Integer array of the same shape; pixels of -1 are not counted.
        classes: Integer, the number of classes. Those that occur nowhere are left out.

    Raises:
        ValueError: If the arrays are not integers of one shape, or hold other classes, or no
            pixel has a label.

    Example:

    >>> mean_iou(np.array([0, 0, 1, 1]), np.array([0, 1, 1, -1]), classes=3)
    0.5
    """
    classes = integer("classes", classes, 1)
    predicted, labels = as_array(predicted, "predicted"), as_array(labels, "labels")
    for name, array in (("predicted", predicted), ("labels", labels)):
        if array.dtype.kind not in "iu" or array.shape != labels.shape:
            raise ValueError(
                f"`{name}` must be integers, of the same shape for predictions and labels. "
                f"Received: dtype {array.dtype}, shapes {predicted.shape} and {labels.shape}"
            )
    counted = labels != -1
    if not counted.any():
        raise ValueError(
            "`labels` must hold a pixel with a label, which -1 is not. "
            f"Received: labels of shape {labels.shape}, none of them other than -1"
        )
    # the type of small images, uint8, is too small for pairs
    predicted, labels = predicted[counted].astype("int64"), labels[counted].astype("int64")
    for name, array in (("predicted", predicted), ("labels", labels)):
        if array.min() < 0 or array.max() >= classes:
            raise ValueError(
                f"`{name}` must be classes from 0 to {classes - 1} where there is a label; -1 "
                f"marks a pixel without one. Received: from {array.min()} to {array.max()}"
            )
    pairs = np.bincount(labels * classes + predicted, minlength=classes**2)
    pairs = pairs.reshape(classes, classes)
    union = pairs.sum(0) + pairs.sum(1) - pairs.diagonal()
    return float((pairs.diagonal()[union > 0] / union[union > 0]).mean())
