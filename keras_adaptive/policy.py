"""Decides who leaves where.

A policy reads logits and no network. `decide` is the same for all of them.
"""

import json

import numpy as np

from keras_adaptive.confidence import check_kind, one_exit
from keras_adaptive.confidence import confidence as confidence
from keras_adaptive.confidence import softmax as softmax
from keras_adaptive.files import read_json, write_whole
from keras_adaptive.thresholds import first_exit

FORMAT = "keras_adaptive.ExitPolicy"
VERSION = 1
LOADERS = {}  # confidence: the class of its policies, where that is not ExitPolicy


# ---- policies


class Policy:
    """What every policy can do. Not to be used itself."""

    def decide(self, logits, costs=None):
        """Returns the exit each sample leaves at.

        Args:
            logits: Array `(exits, samples, classes)`, or `(exits, cells, height, width,
                classes)` for dense outputs.
            costs: Array `(exits,)` or `(exits, samples)`; only for a policy with a
                hard limit.

        Returns:
            Integer array `(samples,)`.
        """
        logits = check_logits(logits)
        return self._decide(logits, None if costs is None else check_costs(costs, logits))

    def _decide(self, logits, costs):
        """Returns what `decide` does; logits and costs have been checked."""
        raise NotImplementedError


class ExitPolicy(Policy):
    """Leaves at the first exit that is confident enough.

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
        pixel_floor: Number, see `confidence`; only for dense outputs.
        worst_case: Number, the most that any sample may cost, or `None`. `decide` holds
            it when it is given costs: a sample then leaves at the last exit it can
            afford, sure or not.
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

    def __init__(
        self,
        thresholds,
        confidence="max_prob",
        temperatures=None,
        *,
        pixel_floor=0.5,
        worst_case=None,
        details=None,
    ):
        check_kind(confidence)
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
        self.pixel_floor = finite(pixel_floor, "pixel_floor")
        self.worst_case = None if worst_case is None else finite(worst_case, "worst_case")
        self.details = dict(details or {})

    def __repr__(self):
        thresholds = ", ".join(f"{t:.4g}" for t in self.thresholds)
        return f"ExitPolicy([{thresholds}], confidence={self.confidence!r})"

    @property
    def exact(self):
        """Whether no other thresholds on the grid would have met the target better.

        `None` if the policy does not say, for example when it was made by hand.
        """
        return self.details.get("exact")

    @property
    def used_exits(self):
        """Indices of the exits somebody may leave at.

        Those closed by `+inf` are not among them, nor those behind an exit where everybody
        leaves (`-inf`).
        """
        last = int((self.thresholds == -np.inf).argmax())
        return [k for k in range(last + 1) if self.thresholds[k] < np.inf]

    def confidences(self, logits):
        """Returns the confidence of every answer, `(exits, samples)`."""
        return confidence(logits, self.confidence, self.temperatures, self.pixel_floor)

    def check_thresholds_suffice(self, costs_known=False):
        """Raises a ValueError if the policy cannot be followed stage by stage.

        Args:
            costs_known: Boolean, whether what each sample cost is known there.
        """
        if self.worst_case is not None and not costs_known:
            raise ValueError(
                "`policy` must have no `worst_case` where the costs of a sample are not known "
                "beforehand. With costs of shape (exits,), `calibrate` puts it into the "
                f"thresholds. Received: worst_case={self.worst_case}"
            )

    def leaves(self, exit, logits):
        """Returns which samples, having come to this exit, leave at it.

        Args:
            exit: Index of the exit.
            logits: Array `(samples, classes)`, of this exit.

        Returns:
            Boolean array `(samples,)`.
        """
        return self.sureness(exit, logits) >= self.thresholds[exit]

    def sureness(self, exit, logits):
        """Returns the confidence of one exit's answers, `(samples,)`."""
        return one_exit(logits, self.confidence, self.temperatures[exit], self.pixel_floor)

    def with_thresholds(self, thresholds):
        """Returns the policy with other thresholds and no hard limit."""
        return ExitPolicy(
            thresholds,
            self.confidence,
            self.temperatures,
            pixel_floor=self.pixel_floor,
            details=self.details,
        )

    def _decide(self, logits, costs):
        if len(logits) != len(self.thresholds):
            raise ValueError(
                "`logits` must hold as many exits as the policy has thresholds. "
                f"Received: {len(logits)} exits, {len(self.thresholds)} thresholds"
            )
        return self._first_exit(self.confidences(logits), costs)

    def _first_exit(self, confidences, costs):
        """Returns the exit each sample leaves at, of confidences `(exits, samples)`."""
        exits = first_exit(confidences, self.thresholds)
        if costs is None or self.worst_case is None:
            return exits
        return np.minimum(exits, last_affordable(costs, self.worst_case, len(exits)))

    def save(self, path):
        """Writes the policy to a JSON file."""
        content = {"format": FORMAT, "version": VERSION, **self.content()}
        write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def content(self):
        """Returns what makes the policy, as JSON can hold it."""
        return {
            "confidence": self.confidence,
            "thresholds": [to_json(t) for t in self.thresholds],
            "temperatures": self.temperatures.tolist(),
            "pixel_floor": to_json(self.pixel_floor),
            "worst_case": self.worst_case,
            "details": self.details,
        }

    @classmethod
    def from_content(cls, content):
        """Returns the policy that `content` described."""
        return cls(
            [float(t) for t in content["thresholds"]],
            content["confidence"],
            content["temperatures"],
            pixel_floor=float(content["pixel_floor"]),
            worst_case=content["worst_case"],
            details=content["details"],
        )

    @classmethod
    def load(cls, path):
        """Reads a policy written by `save`; a learnt one comes back as a `LearnedPolicy`.

        Raises:
            ValueError: If the file is not a policy, or of a version this library does
                not know.
        """
        content = read_json(path, "A policy file")
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f'A policy file must say "format": "{FORMAT}". Received: path={path}')
        if content.get("version") != VERSION:
            raise ValueError(
                f"A policy file must be of version {VERSION}. "
                f"Received: version={content.get('version')} in {path}"
            )
        try:
            policy = LOADERS.get(content["confidence"], ExitPolicy).from_content(content)
        except (KeyError, TypeError) as error:
            raise ValueError(
                "A policy file must hold thresholds, confidence, temperatures, pixel_floor, "
                f"worst_case and details. Received: path={path} ({error!r})"
            ) from error
        if not isinstance(policy, cls):
            raise ValueError(
                f"The file must hold a {cls.__name__}. Received: path={path}, a "
                f"{type(policy).__name__}"
            )
        return policy


class PatiencePolicy(Policy):
    """Leaves when several exits in a row have given the same answer.

    A sample leaves at the first exit `k` where exits `k - patience + 1` to `k` name the
    same class, and at the last exit at the latest. It needs no thresholds and no
    calibration, but early exits are always computed.

    Args:
        patience: Integer, how many exits in a row must agree. At least 2.

    Example:

    >>> cat, dog = [1.0, 0.0], [0.0, 1.0]
    >>> PatiencePolicy(2).decide([[cat, dog], [cat, cat], [dog, cat]]).tolist()
    [1, 2]

    Reference:
        [BERT Loses Patience (Zhou et al., 2020)](https://arxiv.org/abs/2006.04152).
    """

    def __init__(self, patience):
        if isinstance(patience, bool) or not isinstance(patience, int) or patience < 2:
            raise ValueError(
                f"`patience` must be an integer of at least 2. Received: patience={patience}"
            )
        self.patience = patience

    def _decide(self, logits, costs):
        answers = _answers(logits)
        exits = np.full(answers.shape[1], len(answers) - 1)
        for k in range(len(answers) - 1, self.patience - 2, -1):
            window = answers[k - self.patience + 1 : k + 1]
            agreeing = (window == window[0]).all(axis=0)
            exits = np.where(agreeing, k, exits)
        return exits


class AgreementPolicy(Policy):
    """Leaves when enough of the answers so far agree.

    At exit `k`, from `members - 1` on, a sample leaves if a share of at least `share` of
    the answers of exits 0 to `k` names the same class, and at the last exit at the
    latest. It suits cascades of models that answer independently of one another.

    Args:
        members: Integer, how many answers there must be at least. At least 2.
        share: Number above 0 and at most 1.

    Example:

    >>> cat, dog = [1.0, 0.0], [0.0, 1.0]
    >>> AgreementPolicy(2).decide([[cat, dog], [cat, cat], [dog, cat]]).tolist()
    [1, 2]
    >>> AgreementPolicy(3, share=0.6).decide([[cat], [dog], [cat], [cat]]).tolist()
    [2]

    Reference:
        [Agreement-Based Cascading (Kolawole et al., 2024)](
        https://arxiv.org/abs/2407.02348).
    """

    def __init__(self, members, share=1.0):
        if isinstance(members, bool) or not isinstance(members, int) or members < 2:
            raise ValueError(
                f"`members` must be an integer of at least 2. Received: members={members}"
            )
        if not 0 < share <= 1:
            raise ValueError(f"`share` must be above 0 and at most 1. Received: share={share}")
        self.members = members
        self.share = float(share)

    def _decide(self, logits, costs):
        answers = _answers(logits)
        exits = np.full(answers.shape[1], len(answers) - 1)
        for k in range(len(answers) - 1, self.members - 2, -1):
            so_far = answers[: k + 1]
            votes = (so_far[:, None] == so_far[None]).sum(axis=0).max(axis=0)
            exits = np.where(votes >= self.share * (k + 1) - 1e-9, k, exits)
        return exits


def _answers(logits):
    if logits.ndim != 3:
        raise ValueError(
            "`logits` must be of shape (exits, samples, classes) for answers to be compared. "
            f"Received: shape {logits.shape}"
        )
    return logits.argmax(axis=-1)


def last_affordable(costs, worst_case, samples):
    """Returns the last exit that costs each sample at most `worst_case`.

    Args:
        costs: Array `(exits,)` or `(exits, samples)`, not falling.
        worst_case: Number.
        samples: Integer.

    Raises:
        ValueError: If some sample cannot afford even the first exit.
    """
    affordable = (np.asarray(costs) <= worst_case * (1 + 1e-9)).sum(axis=0) - 1
    if np.min(affordable) < 0:
        raise ValueError(
            "`worst_case` must be at least what leaving at the first exit costs, "
            f"{np.max(costs[0]):.10g}. Received: worst_case={worst_case}"
        )
    return np.broadcast_to(affordable, (samples,))


def finite(value, name):
    """Returns a number as a float; raises a ValueError if it is none, or not finite."""
    if isinstance(value, (bool, str)) or not np.isscalar(value) or not np.isfinite(value):
        raise ValueError(f"`{name}` must be a finite number. Received: {name}={value!r}")
    return float(value)


def to_json(number):
    """JSON has no infinity; the names below are read by every language's parser."""
    if np.isinf(number):
        return "Infinity" if number > 0 else "-Infinity"
    return float(number)


# ---- checks at the border


def check_logits(logits):
    logits = np.asarray(logits)
    if logits.dtype.name == "bfloat16":
        logits = logits.astype("float32")
    if logits.ndim not in (3, 5) or not logits.size or logits.shape[-1] < 2:
        raise ValueError(
            "`logits` must be of shape (exits, samples, classes) or (exits, cells, height, "
            "width, classes), with at least one exit, one sample and two classes. "
            f"Received: shape {logits.shape}"
        )
    if not np.issubdtype(logits.dtype, np.number):
        raise ValueError(f"`logits` must be numbers. Received: dtype {logits.dtype}")
    if not np.isfinite(logits).all():
        raise ValueError("`logits` must be finite. Received: NaN or infinite values")
    return logits


def check_costs(costs, logits):
    if costs is None:
        raise ValueError("`costs` must be given, one an exit. Received: costs=None")
    try:
        costs = np.asarray(costs, "float64")
    except (TypeError, ValueError) as error:
        raise ValueError(f"`costs` must be numbers. Received: costs={costs}") from error
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
    """Returns integer labels; -1 marks a pixel of a dense output that has none."""
    if labels is None:
        raise ValueError("`labels` must be given. Received: labels=None")
    labels = np.asarray(labels)
    shape, classes = logits.shape[1:-1], logits.shape[-1]
    if labels.shape != shape or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"`labels` must be integers of shape {shape}, one a sample. "
            f"Received: dtype {labels.dtype}, shape {labels.shape}"
        )
    least = 0 if labels.ndim == 1 else -1
    if labels.min() < least or labels.max() >= classes or labels.max() < 0:
        raise ValueError(
            f"`labels` must be at least {least} and below the number of classes, {classes}. "
            f"Received: labels from {labels.min()} to {labels.max()}"
        )
    return labels


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
