"""Chooses when to stop: thresholds from logits.

Arrays in, a policy out; no network is run here. Use data that trained nothing: a
network is surer of images it was trained on, and thresholds fitted on them stop too
early on new ones. Report results on a third split, since thresholds are fitted too.
"""

import json
from pathlib import Path

import numpy as np

from keras_adaptive.files import write_whole

FORMAT = "keras_adaptive.ExitPolicy"
VERSION = 1
METHODS = ("geometric",)
ROUNDING = 1e-9  # relative; means of equal costs differ in their last digits


# ---- confidence: how sure an answer looks, (..., classes) -> (...)


def _shifted(logits):
    logits = np.asarray(logits, "float64")
    return logits - logits.max(axis=-1, keepdims=True)


def softmax(logits):
    """Returns class probabilities, `exp(z) / sum(exp(z))`, over the last axis."""
    exponentials = np.exp(_shifted(logits))
    return exponentials / exponentials.sum(axis=-1, keepdims=True)


def _max_prob(logits):
    return 1 / np.exp(_shifted(logits)).sum(axis=-1)


def _margin(values):
    top = np.partition(values, -2, axis=-1)
    return top[..., -1] - top[..., -2]


def _prob_margin(logits):
    return _margin(softmax(logits))


def _logit_margin(logits):
    return _margin(np.asarray(logits, "float64"))


def _entropy(logits):
    shifted = _shifted(logits)
    exponentials = np.exp(shifted)
    total = exponentials.sum(axis=-1)
    return (exponentials * shifted).sum(axis=-1) / total - np.log(total)


CONFIDENCES = {
    "max_prob": _max_prob,
    "prob_margin": _prob_margin,
    "logit_margin": _logit_margin,
    "entropy": _entropy,
}


def confidence(logits, kind="max_prob", temperatures=None):
    """Returns how sure each answer looks; higher is surer.

    With `p = softmax(logits / temperature)`: `"max_prob"` is `max p`;
    `"prob_margin"` the largest minus the second largest `p`; `"logit_margin"` the
    same of `logits / temperature`; `"entropy"` is `sum p log p`, the negative
    entropy.

    Args:
        logits: Array `(exits, samples, classes)`.
        kind: One of the four names.
        temperatures: Array `(exits,)`. `None`: 1 each.

    Returns:
        Float array `(exits, samples)`.

    Example:

    >>> confidence([[[0.0, 0.0]], [[0.0, 2.0]]]).round(3).tolist()
    [[0.5], [0.881]]
    """
    _check_kind(kind)
    divisors = np.ones(len(logits)) if temperatures is None else temperatures
    return np.stack(
        [CONFIDENCES[kind](np.asarray(z) / t) for z, t in zip(logits, divisors, strict=True)]
    )


# ---- policy


class ExitPolicy:
    """Decides at which exit a sample leaves.

    A sample leaves at the first exit `k` with
    `confidence(logits_k / temperatures_k) >= thresholds_k`. The last exit takes
    whoever is left. A threshold of `+inf` closes an exit: it need not be computed.

    A policy does not know the network; it must be used with the one, in the numeric
    precision, whose logits it was made from.

    Args:
        thresholds: Sequence of one number an exit, in units of the confidence. The
            last is always `-inf`, whatever is given.
        confidence: `"max_prob"`, `"prob_margin"`, `"logit_margin"` or `"entropy"`.
        temperatures: Sequence of one positive number an exit, or `None`: 1 each.
        details: Dictionary of facts about how the policy was made, kept with it.

    Raises:
        ValueError: If a threshold is NaN, a temperature not positive, the lengths
            differ, or the confidence is unknown.

    Example:

    >>> policy = ExitPolicy([0.8, -np.inf])
    >>> sure, unsure = [0.0, 9.0], [0.0, 1.0]
    >>> policy.decide([[sure, unsure], [sure, unsure]]).tolist()
    [0, 1]
    """

    def __init__(self, thresholds, confidence="max_prob", temperatures=None, *, details=None):
        _check_kind(confidence)
        self.thresholds = _numbers(thresholds, "thresholds").copy()
        self.thresholds[-1] = -np.inf
        self.confidence = confidence
        self.temperatures = _numbers(
            np.ones(len(self.thresholds)) if temperatures is None else temperatures,
            "temperatures",
        )
        if len(self.temperatures) != len(self.thresholds):
            raise ValueError(
                "`temperatures` must hold one number an exit, as `thresholds`. Received: "
                f"{len(self.temperatures)} temperatures, {len(self.thresholds)} thresholds"
            )
        if not (np.isfinite(self.temperatures) & (self.temperatures > 0)).all():
            raise ValueError(
                "`temperatures` must be positive and finite. "
                f"Received: temperatures={self.temperatures.tolist()}"
            )
        self.details = dict(details or {})

    def __repr__(self):
        thresholds = ", ".join(f"{t:.4g}" for t in self.thresholds)
        return f"ExitPolicy([{thresholds}], confidence={self.confidence!r})"

    @property
    def used_exits(self):
        """Indices of the exits somebody may leave at: those not closed by `+inf`."""
        return [int(k) for k in np.flatnonzero(self.thresholds < np.inf)]

    def confidences(self, logits):
        """Returns the confidence of every answer, `(exits, samples)`."""
        return confidence(logits, self.confidence, self.temperatures)

    def leaves(self, exit, logits):
        """Returns which samples, having come to this exit, leave at it.

        Args:
            exit: Index of the exit.
            logits: Array `(samples, classes)`, of this exit.

        Returns:
            Boolean array `(samples,)`.
        """
        sure = CONFIDENCES[self.confidence](np.asarray(logits) / self.temperatures[exit])
        return sure >= self.thresholds[exit]

    def decide(self, logits, costs=None):
        """Returns the exit each sample leaves at.

        Args:
            logits: Array `(exits, samples, classes)`.
            costs: Array `(exits,)` or `(exits, samples)`; only for policies with a
                hard limit. Thresholds alone do not look at it.

        Returns:
            Integer array `(samples,)`.
        """
        logits = check_logits(logits)
        if len(logits) != len(self.thresholds):
            raise ValueError(
                "`logits` must hold as many exits as the policy has thresholds. "
                f"Received: {len(logits)} exits, {len(self.thresholds)} thresholds"
            )
        if costs is not None:
            check_costs(costs, logits)
        return first_exit(self.confidences(logits), self.thresholds)

    def save(self, path):
        """Writes the policy to a JSON file."""
        content = {
            "format": FORMAT,
            "version": VERSION,
            "confidence": self.confidence,
            "thresholds": [to_json(t) for t in self.thresholds],
            "temperatures": self.temperatures.tolist(),
            "details": self.details,
        }
        write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")

    @classmethod
    def load(cls, path):
        """Reads a policy written by `save`.

        Raises:
            ValueError: If the file is not a policy, or of a version this library does
                not know.
        """
        try:
            content = json.loads(Path(path).read_text())
        except (UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"A policy file must hold JSON. Received: path={path} ({error})"
            ) from error
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f'A policy file must say "format": "{FORMAT}". Received: path={path}')
        if content.get("version") != VERSION:
            raise ValueError(
                f"A policy file must be of version {VERSION}. "
                f"Received: version={content.get('version')} in {path}"
            )
        try:
            return cls(
                [float(t) for t in content["thresholds"]],
                content["confidence"],
                content["temperatures"],
                details=content.get("details"),
            )
        except (KeyError, TypeError) as error:
            raise ValueError(
                f"A policy file must hold thresholds, confidence and temperatures. "
                f"Received: path={path} ({error!r})"
            ) from error


def first_exit(confidences, thresholds):
    """Returns the first exit whose confidence is at least its threshold.

    Args:
        confidences: Array `(exits, samples)`.
        thresholds: Array `(exits,)`, the last `-inf`.
    """
    return (np.asarray(confidences) >= np.asarray(thresholds)[:, None]).argmax(axis=0)


def to_json(number):
    """JSON has no infinity; the names below are read by every language's parser."""
    if np.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return float(number)


# ---- methods


def geometric_thresholds(confidences, p):
    """Returns MSDNet's thresholds: a share of about `p**(k+1)` leaves at exit `k`.

    The shares are `q_k = p**(k+1) / sum_j p**(j+1)`. Exit by exit, the threshold is
    the confidence of the `floor(samples * q_k)`-th surest sample that is still there;
    `+inf` when that is none. With `p < 1` most leave early, with `p > 1` late.

    Args:
        confidences: Array `(exits, samples)`.
        p: Positive number.

    Returns:
        Float array `(exits,)`; the last is `-inf`.

    Raises:
        ValueError: If `p` is not positive or the confidences are not finite.

    Example:

    >>> geometric_thresholds([[0.9, 0.5, 0.7, 0.2], [1.0, 1.0, 1.0, 1.0]], p=1)
    array([ 0.7, -inf])

    Reference:
        [MSDNet (Huang et al., 2018)](https://arxiv.org/abs/1703.09844), section 5.2,
        as the authors' code computes it.
    """
    confidences = np.asarray(confidences)
    if confidences.ndim != 2 or not confidences.size or not np.isfinite(confidences).all():
        raise ValueError(
            "`confidences` must be finite numbers of shape (exits, samples). "
            f"Received: shape {confidences.shape}"
        )
    if not (np.isscalar(p) and p > 0 and np.isfinite(p)):
        raise ValueError(f"`p` must be a positive number. Received: p={p}")
    return _geometric(confidences, _surest_first(confidences), p)


def _surest_first(confidences):
    return np.argsort(-confidences[:-1], axis=1, kind="stable")


def _geometric(confidences, orders, p):
    exits, samples = confidences.shape
    # p**(k+1) would overflow for many exits: only the ratio matters
    powers = np.exp(np.log(p) * (np.arange(exits) - (exits - 1 if p > 1 else 0)))
    wanted = np.floor(samples * powers / powers.sum()).astype(int)
    thresholds = np.full(exits, np.inf)
    thresholds[-1] = -np.inf
    staying = np.ones(samples, bool)
    for k, order in enumerate(orders):
        found = np.flatnonzero(staying[order])
        if 0 < wanted[k] <= len(found):
            thresholds[k] = confidences[k, order[found[wanted[k] - 1]]]
            staying &= confidences[k] < thresholds[k]
    return thresholds


def _geometric_for_budget(confidences, costs, budget):
    """The geometric thresholds of greatest mean cost that the budget allows."""
    orders = _surest_first(confidences)
    best = {}

    budget *= 1 + ROUNDING

    def try_out(thresholds):
        cost = mean_cost(first_exit(confidences, thresholds), costs)
        if cost <= budget and cost >= best.get("cost", -np.inf):
            best.update(cost=cost, thresholds=thresholds)
        return cost

    everybody_first = np.append(confidences[:-1].min(axis=1), -np.inf)
    everybody_last = np.append(np.full(len(confidences) - 1, np.inf), -np.inf)
    try_out(everybody_first)
    try_out(everybody_last)
    logs = np.log(np.append(np.arange(1, 40) / 20, np.geomspace(1e-3, 1e3, 61)))
    logs.sort()
    affordable = [try_out(_geometric(confidences, orders, np.exp(x))) <= budget for x in logs]
    if any(affordable) and not affordable[-1]:
        low = np.flatnonzero(affordable)[-1]
        low, high = logs[low], logs[low + 1]
        for _ in range(30):  # until one sample more or less decides
            middle = (low + high) / 2
            if try_out(_geometric(confidences, orders, np.exp(middle))) <= budget:
                low = middle
            else:
                high = middle
    return best["thresholds"]


def mean_cost(exits, costs):
    """Mean price paid by samples that leave at `exits`, an array `(samples,)`."""
    costs = np.asarray(costs, "float64")
    if costs.ndim == 1:
        return float(costs[exits].mean())
    return float(np.take_along_axis(costs, exits[None], axis=0).mean())


def calibrate(
    logits,
    labels=None,
    costs=None,
    *,
    budget=None,
    method="geometric",
    confidence="max_prob",
):
    """Chooses the thresholds of an `ExitPolicy` for an average budget.

    Args:
        logits: Array `(exits, samples, classes)` of data that trained nothing.
        labels: Integer array `(samples,)`. Not needed by `"geometric"`.
        costs: Array `(exits,)` or `(exits, samples)`: the price of leaving at each
            exit, earlier heads included.
        budget: Number, the mean cost a sample that may be spent, in the unit of
            `costs`.
        method: `"geometric"`: MSDNet's rule (`geometric_thresholds`) with the `p`
            that spends most of the budget.
        confidence: `"max_prob"`, `"prob_margin"`, `"logit_margin"` or `"entropy"`.

    Returns:
        An `ExitPolicy`. On the data given, its mean cost is at most `budget`.

    Raises:
        ValueError: If an argument is impossible; the message says what is feasible.

    Example:

    >>> rng = np.random.default_rng(0)
    >>> logits = rng.normal(size=(2, 100, 10))
    >>> policy = calibrate(logits, costs=[1.0, 3.0], budget=2.0, method="geometric")
    >>> int((policy.decide(logits) == 0).sum())
    50
    """
    logits = check_logits(logits)
    costs = check_costs(costs, logits)
    if labels is not None:
        check_labels(labels, logits)
    if method not in METHODS:
        raise ValueError(f"`method` must be one of {METHODS}. Received: method={method}")
    if budget is None:
        raise ValueError("`budget` must be given. Received: budget=None")
    least = float(costs[0].mean())
    if not budget >= least * (1 - ROUNDING):
        raise ValueError(
            "`budget` must be at least what leaving at the first exit costs, "
            f"{least:.10g}. Received: budget={budget}"
        )
    sure = ExitPolicy(np.zeros(len(logits)), confidence).confidences(logits)
    thresholds = _geometric_for_budget(sure, costs, budget)
    details = {
        "method": method,
        "budget": float(budget),
        "mean_cost": mean_cost(first_exit(sure, thresholds), costs),
        "samples": int(logits.shape[1]),
    }
    return ExitPolicy(thresholds, confidence, details=details)


# ---- checks at the border


def check_logits(logits):
    logits = np.asarray(logits)
    if logits.ndim != 3 or not logits.size or logits.shape[-1] < 2:
        raise ValueError(
            "`logits` must be of shape (exits, samples, classes), with at least one "
            f"exit, one sample and two classes. Received: shape {logits.shape}"
        )
    if not np.issubdtype(logits.dtype, np.number) or not np.isfinite(logits).all():
        raise ValueError(
            "`logits` must be finite numbers. Received: "
            f"dtype {logits.dtype} with NaN, infinite or other values"
        )
    return logits


def check_costs(costs, logits):
    if costs is None:
        raise ValueError("`costs` must be given, one an exit. Received: costs=None")
    costs = np.asarray(costs, "float64")
    if costs.shape not in {logits.shape[:1], logits.shape[:2]}:
        raise ValueError(
            f"`costs` must be of shape {logits.shape[:1]} or {logits.shape[:2]}, as "
            f"`logits`. Received: shape {costs.shape}"
        )
    if not np.isfinite(costs).all() or (costs < 0).any() or (np.diff(costs, axis=0) < 0).any():
        raise ValueError(
            "`costs` must be finite, not negative, and not fall from exit to exit: they "
            f"are cumulative. Received: costs={costs.tolist() if costs.ndim == 1 else costs}"
        )
    return costs


def check_labels(labels, logits):
    if labels is None:
        raise ValueError("`labels` must be given. Received: labels=None")
    labels = np.asarray(labels)
    samples, classes = logits.shape[1:3]
    if labels.shape != (samples,) or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"`labels` must be integers of shape ({samples},), one a sample. "
            f"Received: dtype {labels.dtype}, shape {labels.shape}"
        )
    if labels.min() < 0 or labels.max() >= classes:
        raise ValueError(
            f"`labels` must be at least 0 and below the number of classes, {classes}. "
            f"Received: labels from {labels.min()} to {labels.max()}"
        )
    return labels


def _check_kind(kind):
    if kind not in CONFIDENCES:
        raise ValueError(
            f"`confidence` must be one of {tuple(CONFIDENCES)}. Received: confidence={kind}"
        )


def _numbers(values, name):
    try:
        numbers = np.asarray(values, "float64")
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be numbers. Received: {name}={values}") from error
    if numbers.ndim != 1 or not numbers.size or np.isnan(numbers).any():
        raise ValueError(
            f"`{name}` must be one number an exit, none of them NaN. Received: {name}={values}"
        )
    return numbers
