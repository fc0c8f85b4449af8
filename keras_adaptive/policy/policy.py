"""Base class of exit policies: rules that choose the exit for each sample."""

import json

import numpy as np

from keras_adaptive._checks import check_costs, check_logits, integer
from keras_adaptive._files import as_json, as_path, read_json, shown, write_whole
from keras_adaptive.policy.confidence import blocks

FORMAT = "keras_adaptive.ExitPolicy"
VERSION = 1
KINDS = {}  # the classes of policies that files hold, by name


class UnreachableTargetError(ValueError):
    """Raised for a budget, accuracy or worst case that no policy can meet.

    The message says what can be reached. Other bad arguments raise a plain ValueError.
    """


class Policy:
    """Base class of exit policies.

    Subclasses define one rule, `step`, which is followed exit by exit: by `decide` on cached
    logits, by predictors and inside graphs.

        state = policy.start(samples, classes)
        leaves, state = policy.step(exit, logits, state)

    Attributes:
        details: Dictionary of facts about how the policy was made, kept with it.
        unit: The unit of its costs, such as `"macs"` or `"ms"`. `None`: it does not say.
        network: The network it belongs to, a dictionary of `name` and `digest`. `None`: it
            does not say.
        worst_case: Number, the most that any sample may cost, or `None`.
        used_exits: Indices of the exits at which samples may leave. `None`: all there are.
        temperatures: One number per exit, by which logits are divided before probabilities are
            computed, or `None`: 1 each.
        log_odds: One number per exit, the thresholds as they are compared. `None`: it has none.
    """

    unit = network = worst_case = used_exits = temperatures = log_odds = None

    def __init_subclass__(cls):
        KINDS.setdefault(cls.__name__, cls)

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
        """Implements `decide`; logits and costs have been checked."""
        exits = self.exits_of(len(logits))
        found = np.full(logits.shape[1], exits[-1])
        for rows in blocks(logits.shape[1:]):
            part = logits[:, rows]
            left = np.zeros(part.shape[1], bool)
            state = self.start(part.shape[1], part.shape[-1])
            for k in exits[:-1]:
                leaves, state = self.step(k, part[k], state)
                found[rows][leaves & ~left] = k
                left |= leaves
        return self._within_limit(found, costs)

    def _within_limit(self, exits, costs):
        """Has samples leave where they can still afford to."""
        if costs is None or self.worst_case is None:
            return exits
        return np.minimum(exits, last_affordable(costs, self.worst_case, len(exits)))

    def exits_of(self, number):
        """Returns the indices of the exits that it uses in a network of so many, ascending.

        Raises:
            ValueError: If it is for another number of exits.
        """
        return list(range(number))

    def start(self, samples, classes, xp=np):
        """Returns what is known of samples before the first exit.

        Args:
            samples, classes: Integers.
            xp: `numpy`; inside a graph `keras.ops`.

        Returns:
            Tuple of arrays, each with the samples as its first axis; may be empty.
        """
        return ()

    def step(self, exit, logits, state=(), xp=np, thresholds=None):
        """Decides which of the samples that reach an exit leave there.

        The exits in use are gone through in order. At the last of them all samples leave,
        whatever the rule says.

        Args:
            exit: Index of the exit.
            logits: Array `(samples, classes)`, of this exit.
            state: What `start`, or `step` at the exit before, returned.
            xp: `numpy`; inside a graph `keras.ops`, for tensors.
            thresholds: Number or tensor in place of the policy's own threshold at this exit,
                in log-odds; for a policy that compares answers, the log-odds of `max_prob` at
                which a sample leaves in any case. `None`: the policy's own, or none.

        Returns:
            Tuple: boolean array `(samples,)`, and the state.
        """
        raise NotImplementedError

    def validate_stagewise(self, costs_known=False, most=None):
        """Raises a ValueError if the policy cannot be followed stage by stage.

        Args:
            costs_known: Boolean, whether what each sample cost is known there.
            most: Number, the most MACs that a sample can cost there, or `None`: not known.
        """
        limit = self.worst_case
        if limit is not None and self.unit not in (None, "macs"):
            raise ValueError(
                "`worst_case` must be in MACs, which samples are counted in here. Received: a "
                f"policy with worst_case={limit} in {self.unit!r}"
            )
        binding = limit is not None and (most is None or limit < most)
        if binding and not costs_known:
            raise ValueError(
                "`policy` must have no `worst_case` where the costs of a sample are not known "
                "beforehand. With costs of shape (exits,), `calibrate` puts it into the "
                f"thresholds. Received: worst_case={limit}"
            )

    def save(self, path):
        """Writes the policy to a JSON file, which `ExitPolicy.load` opens."""
        content = {"format": FORMAT, "version": VERSION, **self.content()}
        write_whole(path, json.dumps(content, indent=2, allow_nan=False) + "\n")

    def content(self):
        """Returns what makes the policy, as JSON can hold it."""
        return {
            "policy": type(self).__name__,
            "unit": self.unit,
            "network": self.network,
            "details": as_json(self.details, "details"),
        }

    @classmethod
    def load(cls, path):
        """Reads a policy written by `save`.

        Called of `ExitPolicy`, it opens policies of every class.

        Raises:
            ValueError: If the file is not a policy, of a version this library does not know,
                or holds a policy of another class.
        """
        content = read_json(as_path(path), "A policy file")
        if not isinstance(content, dict) or content.get("format") != FORMAT:
            raise ValueError(f'A policy file must say "format": "{FORMAT}". Received: path={path}')
        if content.get("version") != VERSION:
            raise ValueError(
                f"A policy file must be of version {VERSION}. "
                f"Received: version={shown(content.get('version'))} in {path}"
            )
        try:
            policy = policy_of(content)
        except (ArithmeticError, AttributeError, KeyError, TypeError, ValueError) as error:
            raise ValueError(
                "A policy file must hold thresholds, confidence, temperatures, pixel_floor, "
                f"worst_case and details. Received: path={path} ({shown(repr(error))})"
            ) from error
        if not issubclass(KINDS["ExitPolicy"], cls) and not isinstance(policy, cls):
            raise ValueError(
                f"The file must hold a {cls.__name__}. Received: path={path}, a "
                f"{type(policy).__name__}"
            )
        return policy


def policy_of(content):
    """Returns the policy that `Policy.content` described."""
    older = "LearnedPolicy" if content.get("confidence") == "learned" else "ExitPolicy"
    policy = KINDS[content.get("policy", older)].from_content(content)
    unit, network = content.get("unit"), content.get("network")
    if not isinstance(unit, (str, type(None))):
        raise ValueError(f"`unit` must be a string. Received: unit={unit!r}")
    if network is not None:
        network = {"name": str(network["name"]), "digest": str(network["digest"])}
    policy.unit, policy.network = unit, network
    return policy


def checked_details(details):
    """Returns facts about a policy as its file holds them."""
    if not isinstance(details, (dict, type(None))):
        raise TypeError(f"`details` must be a dictionary or None. Received: details={details!r}")
    return as_json(details or {}, "details")


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


def answers_of(logits, xp=np):
    """Returns the class that each sample is taken for, `(samples,)`, of logits of one exit."""
    if len(logits.shape) != 2:
        raise ValueError(
            "`logits` must be of shape (exits, samples, classes) for answers to be compared. "
            f"Received: for one exit, shape {tuple(logits.shape)}"
        )
    answers = xp.argmax(logits, axis=-1)
    return answers.astype("int32") if xp is np else xp.cast(answers, "int32")


def best_classes(logits):
    """Returns the most probable class of every answer: logits without their last axis."""
    found = np.empty(logits.shape[:-1], "int32")
    for k, of_exit in enumerate(logits):  # in parts: `argmax` copies what it may not write to
        for rows in blocks(of_exit.shape):
            found[k, rows] = of_exit[rows].argmax(axis=-1)
    return found


def right_answers(logits, labels, top_k=1):
    """Returns how many answers of each sample are right, `(exits, samples)`.

    Args:
        logits: Array `(exits, samples, classes)`: 0 or 1; or dense ones: pixels.
        labels: Array `(samples,)` or `(samples, height, width)`.
        top_k: Integer: an answer is right if the label is among so many most probable classes.
    """
    right = np.zeros(logits.shape[:2], "int32")
    for k, of_exit in enumerate(logits):
        for rows in blocks(of_exit.shape):
            correct = among_the_first(of_exit[rows], labels[rows], top_k)
            right[k, rows] = correct.reshape(len(correct), -1).sum(axis=1)
    return right


def among_the_first(logits, labels, top_k):
    """Returns whether each label is among the `top_k` most probable classes.

    Of equal logits the class that is listed first comes first, as in `argmax`.
    """
    if top_k == 1:
        return logits.argmax(axis=-1) == labels
    own = np.take_along_axis(logits, np.maximum(labels, 0)[..., None], axis=-1)
    first = np.arange(logits.shape[-1]) < labels[..., None]
    before = (logits > own) | ((logits == own) & first)
    return (before.sum(axis=-1) < top_k) & (labels >= 0)


def check_top_k(top_k, classes=None):
    """Returns `top_k` as an integer, which must be from 1 to the number of classes."""
    top_k = integer("top_k", top_k, 1)
    if classes is not None and top_k > classes:
        raise ValueError(
            f"`top_k` must be at most the number of classes, {classes}. Received: top_k={top_k}"
        )
    return top_k
