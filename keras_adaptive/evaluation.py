"""Accuracy against cost: what a policy, or a range of budgets, would give.

Arrays in, numbers out. Evaluate on data on which neither the network was trained nor
the thresholds were chosen.
"""

from typing import NamedTuple

import numpy as np

from keras_adaptive.calibration import calibrate_budgets
from keras_adaptive.policy import Policy, check_costs, check_labels, check_logits


class Report(NamedTuple):
    """What a policy does on some data.

    Attributes:
        accuracy: Share of samples (of labelled pixels, for dense outputs) answered rightly
            at the exit they leave at.
        mean_cost: Mean price a sample.
        worst_cost: The highest price any sample paid.
        exit_fractions: `(exits,)`, share of samples that leave at each exit.
        exit_accuracies: `(exits,)`, share of all samples each exit alone would answer
            rightly.
    """

    accuracy: float
    mean_cost: float
    worst_cost: float
    exit_fractions: np.ndarray
    exit_accuracies: np.ndarray


class Curve(NamedTuple):
    """Accuracy against cost, point by point, beside the exits used alone.

    Attributes:
        costs: `(points,)`, mean cost, ascending.
        accuracies: `(points,)`.
        policies: List of `ExitPolicy`, one a point.
        exit_costs: `(exits,)`, mean cost of always leaving at that exit.
        exit_accuracies: `(exits,)`.
    """

    costs: np.ndarray
    accuracies: np.ndarray
    policies: list
    exit_costs: np.ndarray
    exit_accuracies: np.ndarray

    @property
    def area(self):
        """Area under the curve, divided by its width: the mean accuracy over all budgets.

        Between two points accuracy is taken to change evenly. A curve of one cost has
        the accuracy of its best point.
        """
        width = self.costs[-1] - self.costs[0]
        if width == 0:
            return float(self.accuracies.max())
        return float(np.trapezoid(self.accuracies, self.costs) / width)


def evaluate(policy, logits, labels, costs):
    """Applies a policy to logits and says how accurate and how expensive it is.

    Args:
        policy: An `ExitPolicy`, or another `Policy`.
        logits: Array `(exits, samples, classes)`, or `(exits, cells, height, width,
            classes)` for dense outputs.
        labels: Integer array `(samples,)`, or `(cells, height, width)` with -1 where there
            is no label.
        costs: Array `(exits,)` or `(exits, samples)`.

    Returns:
        A `Report`.

    Example:

    >>> from keras_adaptive import ExitPolicy
    >>> logits = [[[0, 9], [0, 1]], [[0, 9], [2, 0]]]
    >>> report = evaluate(ExitPolicy([0.9, 0]), logits, [1, 0], costs=[1.0, 3.0])
    >>> report.accuracy, report.mean_cost, report.worst_cost
    (1.0, 2.0, 3.0)
    >>> report.exit_accuracies.tolist()
    [0.5, 1.0]
    """
    if not isinstance(policy, Policy):
        raise TypeError(f"`policy` must be an ExitPolicy. Received: policy={policy!r}")
    logits = check_logits(logits)
    labels = check_labels(labels, logits)
    costs = check_costs(costs, logits)
    exits = policy.decide(logits, costs)
    samples = len(exits)
    right = np.stack(
        [(z.argmax(axis=-1) == labels).reshape(samples, -1).sum(axis=1) for z in logits]
    )
    labelled = (labels >= 0).sum()
    costs = np.broadcast_to(costs.reshape(len(costs), -1), right.shape)
    paid = np.take_along_axis(costs, exits[None], axis=0)
    return Report(
        accuracy=float(np.take_along_axis(right, exits[None], axis=0).sum() / labelled),
        mean_cost=float(paid.mean()),
        worst_cost=float(paid.max()),
        exit_fractions=np.bincount(exits, minlength=len(logits)) / samples,
        exit_accuracies=right.sum(axis=1) / labelled,
    )


def accuracy_cost_curve(logits, labels, costs, *, points=30, test=None, **how):
    """Calibrates for a range of budgets and evaluates each policy.

    The budgets go in equal steps from the cost of the first exit to that of the last.

    Args:
        logits: Array `(exits, samples, classes)`, to choose thresholds on.
        labels: Integer array `(samples,)`.
        costs: Array `(exits,)` or `(exits, samples)`.
        points: Integer, the number of budgets. At least 2.
        test: Tuple `(logits, labels, costs)` of other data to report on. `None`: the
            same data, which flatters the curve a little.
        **how: Passed to `calibrate`: `method=`, `confidence=` and others.

    Returns:
        A `Curve`.
    """
    if isinstance(points, bool) or not isinstance(points, int) or points < 2:
        raise ValueError(f"`points` must be an integer of at least 2. Received: points={points}")
    if test is not None and len(test) != 3:
        raise ValueError(
            f"`test` must be a tuple (logits, labels, costs). Received: {len(test)} parts"
        )
    logits = check_logits(logits)
    costs = check_costs(costs, logits)
    per_exit = costs.reshape(len(costs), -1).mean(axis=1)
    budgets = np.linspace(per_exit[0], per_exit[-1], points)
    policies = calibrate_budgets(logits, labels, costs, budgets, **how)
    test_logits, test_labels, test_costs = (logits, labels, costs) if test is None else test
    reports = [evaluate(policy, test_logits, test_labels, test_costs) for policy in policies]
    order = np.argsort([report.mean_cost for report in reports], kind="stable")
    return Curve(
        costs=np.array([reports[i].mean_cost for i in order]),
        accuracies=np.array([reports[i].accuracy for i in order]),
        policies=[policies[i] for i in order],
        exit_costs=np.asarray(test_costs, "float64").reshape(len(costs), -1).mean(axis=1),
        exit_accuracies=reports[0].exit_accuracies,
    )


def anytime_accuracy(accuracies, costs, distribution, before=0.0):
    """Returns the expected accuracy of answering when the time is up.

    The budget `B` is drawn from a distribution; the answer is that of the last exit with
    `cost <= B`: `sum_k accuracy_k * P(cost_k <= B < cost_{k+1})`.

    Args:
        accuracies: Array `(exits,)`, as `Report.exit_accuracies`.
        costs: Array `(exits,)`, ascending.
        distribution: A frozen distribution of scipy, for example
            `scipy.stats.expon(scale=...)`: anything with a method `cdf`.
        before: Number, the accuracy where the budget is not enough for the first exit.

    Returns:
        Number.

    Example:

    >>> from scipy import stats
    >>> anytime_accuracy([0.5, 1.0], [1.0, 2.0], stats.uniform(0, 4))   # 1/4, 1/4, 1/2
    0.625

    Reference:
        [MSDNet (Huang et al., 2018)](https://arxiv.org/abs/1703.09844), section 3.
    """
    accuracies, costs = np.asarray(accuracies, "float64"), np.asarray(costs, "float64")
    if accuracies.ndim != 1 or accuracies.shape != costs.shape or (np.diff(costs) < 0).any():
        raise ValueError(
            "`accuracies` and `costs` must be one number an exit, costs ascending. "
            f"Received: accuracies={accuracies.tolist()}, costs={costs.tolist()}"
        )
    # a budget of exactly the cost is enough, so the probability is of B < cost
    below = distribution.cdf(np.nextafter(costs, -np.inf))
    shares = np.diff(np.append(below, 1.0))
    return float(before * below[0] + shares @ accuracies)


def accuracy_matrix(exits, logits, labels):
    """Returns how right every exit would be about the samples that leave at each.

    Where a policy sends samples to the exits that know them, the diagonal is higher than
    what stands above it: the earlier exits are worse on those samples.

    Args:
        exits: Integer array `(samples,)`, from `policy.decide`.
        logits: Array `(exits, samples, classes)`.
        labels: Integer array `(samples,)`.

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
    logits = check_logits(logits)
    right = logits.argmax(axis=-1) == check_labels(labels, logits)
    here = _check_exits(exits, logits) == np.arange(len(logits))[:, None]
    with np.errstate(invalid="ignore"):
        return right.astype(float) @ here.T / here.sum(axis=1)


def extremes(exits, scores, count=10):
    """Returns the samples each exit was surest of, and least sure of, among those it took.

    Args:
        exits: Integer array `(samples,)`, from `policy.decide`.
        scores: Array `(exits, samples)`: `LearnedPolicy.leaving`, as in the paper, or
            `policy.confidences`, of the same logits.
        count: Integer, how many samples at most.

    Returns:
        Two lists of one integer array an exit: indices of samples, the surest first and the
        least sure first.

    Example:

    >>> surest, least = extremes([0, 0, 1], [[0.9, 0.6, 0.1], [0.1, 0.4, 0.9]], count=1)
    >>> [rows.tolist() for rows in surest], [rows.tolist() for rows in least]
    ([[0], [2]], [[1], [2]])

    Reference:
        [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368), figure 3.
    """
    scores = np.asarray(scores, "float64")
    exits = _check_exits(exits, scores)
    if isinstance(count, bool) or not isinstance(count, int) or count < 1:
        raise ValueError(f"`count` must be a positive integer. Received: count={count}")
    ranked = [
        rows[np.argsort(-scores[k, rows], kind="stable")]
        for k, rows in enumerate(np.flatnonzero(exits == k) for k in range(len(scores)))
    ]
    return [rows[:count] for rows in ranked], [rows[::-1][:count] for rows in ranked]


def _check_exits(exits, per_exit):
    exits = np.asarray(exits)
    whole = np.issubdtype(exits.dtype, np.integer)
    if not whole or exits.shape != per_exit.shape[1:2] or not len(exits) or exits.min() < 0:
        raise ValueError(
            f"`exits` must be {per_exit.shape[1]} integers of at least 0, one a sample. "
            f"Received: dtype {exits.dtype}, shape {exits.shape}"
        )
    if exits.max() >= len(per_exit):
        raise ValueError(f"`exits` must be below {len(per_exit)}. Received: {exits.max()}")
    return exits
