"""Exit policies that compare confidence with thresholds, and the decision rule itself."""

import json

import numpy as np

from keras_adaptive._checks import check_choice, finite, numbers
from keras_adaptive._files import read_json, to_json, write_whole
from keras_adaptive.policy.confidence import CONFIDENCES, confidence, confidence_of_exit
from keras_adaptive.policy.policy import Policy, UnreachableTargetError

FORMAT = "keras_adaptive.ExitPolicy"
VERSION = 1
LOADERS = {}  # confidence: the class of its policies, where that is not ExitPolicy


class ExitPolicy(Policy):
    """Leaves at the first exit that is confident enough.

    A sample leaves at the first exit `k` with
    `confidence(logits_k / temperatures_k) >= thresholds_k`; samples that reach the last
    exit leave there. A threshold of `+inf` closes an exit: it need not be computed.

    A policy does not know the network; use it with the network, and in the numeric
    precision, whose logits it was made from.

    Args:
        thresholds: Sequence of numbers, one per exit, in units of the confidence. The
            last is always `-inf`, whatever is given.
        confidence: `"max_prob"`, `"prob_margin"`, `"logit_margin"` or `"entropy"`.
        temperatures: Sequence of positive numbers, one per exit, or `None`: 1 each.
        pixel_floor: Number, see `confidence`; only for dense outputs.
        worst_case: Number, the most that any sample may cost, or `None`. `decide` enforces
            it when it is given costs: a sample then leaves at the last exit it can
            afford, whether confident or not.
        details: Dictionary of facts about how the policy was made, kept with it.

    Raises:
        ValueError: If a threshold is NaN, a temperature not positive, the lengths
            differ, or the confidence is unknown.

    Example:

    >>> policy = ExitPolicy([0.8, -np.inf])
    >>> confident, doubtful = [0.0, 9.0], [0.0, 1.0]
    >>> policy.decide([[confident, doubtful], [confident, doubtful]]).tolist()
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
        check_choice(tuple(CONFIDENCES), confidence=confidence)
        self.thresholds = numbers(thresholds, "thresholds").copy()
        self.thresholds[-1] = -np.inf
        self.confidence = confidence
        self.temperatures = numbers(
            np.ones(len(self.thresholds)) if temperatures is None else temperatures,
            "temperatures",
        )
        if len(self.temperatures) != len(self.thresholds):
            raise ValueError(
                "`temperatures` must hold one number per exit, as `thresholds`. Received: "
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
        """Whether no other thresholds on the search grid would have met the target better.

        `None` if the policy does not say, for example when it was made by hand.
        """
        return self.details.get("exact")

    @property
    def used_exits(self):
        """Indices of the exits at which samples may leave.

        Exits closed by `+inf` are not among them, nor those behind an exit where every
        sample leaves (`-inf`).
        """
        last = int((self.thresholds == -np.inf).argmax())
        return [k for k in range(last + 1) if self.thresholds[k] < np.inf]

    def confidences(self, logits):
        """Returns the confidence of every answer, `(exits, samples)`."""
        return confidence(logits, self.confidence, self.temperatures, self.pixel_floor)

    def validate_stagewise(self, costs_known=False):
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
        """Returns which of the samples that reach an exit leave there.

        Args:
            exit: Index of the exit.
            logits: Array `(samples, classes)`, of this exit.

        Returns:
            Boolean array `(samples,)`.
        """
        return self.confidence_of(exit, logits) >= self.thresholds[exit]

    def confidence_of(self, exit, logits, xp=np):
        """Returns the confidence of one exit's answers, `(samples,)`.

        Args:
            exit: Index of the exit.
            logits: Array `(samples, classes)`, of this exit.
            xp: `numpy`; inside a graph `keras.ops`, for tensors.
        """
        return confidence_of_exit(
            logits, self.confidence, self.temperatures[exit], self.pixel_floor, xp
        )

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
        """Reads a policy written by `save`; a learned one is returned as a `LearnedPolicy`.

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


def last_affordable(costs, worst_case, samples):
    """Returns the last exit that costs each sample at most `worst_case`.

    Args:
        costs: Array `(exits,)` or `(exits, samples)`, not falling.
        worst_case: Number.
        samples: Integer.

    Raises:
        UnreachableTargetError: If some sample cannot afford even the first exit.
    """
    affordable = (np.asarray(costs) <= worst_case * (1 + 1e-9)).sum(axis=0) - 1
    if np.min(affordable) < 0:
        raise UnreachableTargetError(
            "`worst_case` must be at least what leaving at the first exit costs, "
            f"{np.max(costs[0]):.10g}. Received: worst_case={worst_case}"
        )
    return np.broadcast_to(affordable, (samples,))


def first_exit(confidences, thresholds, xp=np):
    """Returns the first exit whose confidence is at least its threshold, `(samples,)`.

    Args:
        confidences: Array `(exits, samples)`.
        thresholds: Array `(exits,)`; the last is not looked at.
        xp: `numpy`; inside a graph `keras.ops`, for tensors.
    """
    last = len(thresholds) - 1
    exits = xp.full(confidences[0].shape, last, dtype=int)
    for k in reversed(range(last)):
        exits = xp.where(confidences[k] >= thresholds[k], k, exits)
    return exits


def always_last(exits):
    """Returns the thresholds with which every sample goes to the last exit."""
    return np.append(np.full(exits - 1, np.inf), -np.inf)
