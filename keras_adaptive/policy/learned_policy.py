"""Learned exit policies: a small network per exit decides whether to stop.

Arrays in, numbers out. `training.StoppingLoss` trains the networks.
"""

import base64

import numpy as np

from keras_adaptive._checks import check_costs, check_logits, integer, numbers
from keras_adaptive.policy.confidence import from_log_odds, stopping_log_odds
from keras_adaptive.policy.exit_policy import ExitPolicy, log_odds_of
from keras_adaptive.policy.policy import last_affordable, policy_of


class LearnedPolicy(ExitPolicy):
    """Leaves at the first exit whose learned probability of stopping is high enough.

    An `ExitPolicy` whose confidence is learned: that of exit `k` is the probability of
    stopping, `s_k`, which three dense layers (`layers.StoppingPolicy`) compute from the
    exit's class probabilities. It is saved, evaluated, exported and used by predictors as
    every `ExitPolicy`.

    Greedily, as on the device, a sample leaves at the first exit with
    `s_k >= thresholds_k`. With a seed it leaves with probability `s_k`, as in training; never
    at an exit that is closed (`+inf`), always where every sample leaves (`-inf`).

    Args:
        networks: Sequence of networks, one per exit but the last, each three pairs of arrays
            `(kernel, bias)`, as `training.StoppingModel.learned_policy` returns them.
        thresholds: Sequence of numbers, one per exit. `None`: 0.5 each.
        seed: Integer: `decide` draws stops at random with it; such a policy can be
            evaluated, but not used by a predictor or exported. `None`: greedy.
        log_odds, worst_case, details: As in `ExitPolicy`.

    Raises:
        ValueError: If the networks do not have that form.

    Example:

    >>> network = [(np.eye(2), [0, 0]), (np.eye(2), [0, 0]), ([[9, 0], [-9, 0]], [-1, 0])]
    >>> policy = LearnedPolicy([network])  # stops where the first class is the likely one
    >>> policy.decide([[[2.0, 0.0], [0.0, 2.0]], [[0.0, 1.0], [0.0, 1.0]]]).tolist()
    [0, 1]

    Reference:
        [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368).
    """

    def __init__(
        self,
        networks,
        thresholds=None,
        *,
        log_odds=None,
        seed=None,
        worst_case=None,
        details=None,
    ):
        if not isinstance(networks, (list, tuple)):
            raise ValueError(
                "`networks` must be a list of networks, one per exit but the last. Received: "
                f"networks={networks!r}"
            )
        self.networks = [_checked(network) for network in networks]
        if len({network[0][0].shape[0] for network in self.networks}) > 1:
            raise ValueError("`networks` must all be for the same number of classes.")
        if thresholds is None:
            thresholds = np.full(len(self.networks) + 1, 0.5)
        thresholds = numbers(thresholds, "thresholds")
        if len(thresholds) != len(self.networks) + 1:
            raise ValueError(
                "`thresholds` must hold one number more than there are networks. Received: "
                f"{len(thresholds)} thresholds, {len(self.networks)} networks"
            )
        super().__init__(thresholds, worst_case=worst_case, details=details)
        self._set(thresholds, "learned", None, log_odds)
        self.seed = None if seed is None else integer("seed", seed, 0)

    def __repr__(self):
        return super().__repr__().replace("ExitPolicy(", "LearnedPolicy(")

    def sampled(self, seed=0):
        """Returns the policy that stops at random with the learned probabilities.

        Its thresholds, and with them the exits that are closed, and its limit are kept.
        """
        return policy_of({**self.content(), "seed": integer("seed", seed, 0)})

    def compared(self, exit, logits, xp=np):
        if exit == len(self.networks):
            return xp.full((logits.shape[0],), np.inf)
        return stopping_log_odds(self.networks[exit], logits, xp)

    def confidence_of(self, exit, logits, xp=np):
        if exit == len(self.networks):
            return xp.ones(logits.shape[:1])
        return from_log_odds(self.compared(exit, logits, xp), "learned", xp)

    def confidences(self, logits):
        """Returns the probability of stopping at every exit, `(exits, samples)`."""
        return np.stack([self.confidence_of(k, np.asarray(z)) for k, z in enumerate(logits)])

    def validate_stagewise(self, costs_known=False, most=None):
        super().validate_stagewise(costs_known, most)
        if self.seed is not None:
            raise ValueError(
                "`policy` must be greedy where a network is really left early. Received: a "
                f"policy that draws, with seed={self.seed}"
            )

    def leaving(self, logits, costs=None):
        """Returns the probability of leaving at every exit, `(exits, samples)`.

        `evaluate` of these probabilities returns the expectation over random stops.

        Args:
            logits, costs: As in `decide`.
        """
        logits = check_logits(logits)
        stop = self._stopping(logits)
        leaving = stop * np.cumprod(np.vstack([np.ones_like(stop[:1]), 1 - stop[:-1]]), axis=0)
        if costs is None or self.worst_case is None:
            return leaving
        costs = check_costs(costs, logits)
        last = last_affordable(costs, self.worst_case, logits.shape[1])
        later = np.arange(len(leaving))[:, None] > last
        leaving[last, np.arange(len(last))] += (leaving * later).sum(axis=0)
        return np.where(later, 0, leaving)

    def _stopping(self, logits):
        """Returns the probability with which a sample that reaches an exit stops there."""
        self._check_exits(logits)
        stop = self.confidences(logits)
        stop[self.thresholds == np.inf] = 0
        stop[self.thresholds == -np.inf] = 1
        return stop

    def _decide(self, logits, costs):
        if self.seed is None:
            return super()._decide(logits, costs)
        draws = np.random.default_rng(self.seed).random((len(self.thresholds), len(logits[0])))
        return self._within_limit((self._stopping(logits) > draws).argmax(axis=0), costs)

    def content(self):
        return {
            **super().content(),
            "networks": pack(self.networks),
            "seed": self.seed,
        }

    @classmethod
    def from_content(cls, content):
        return cls(
            unpack(content["networks"]),
            [float(t) for t in content["thresholds"]],
            log_odds=log_odds_of(content),
            seed=content["seed"],
            worst_case=content["worst_case"],
            details=content["details"],
        )


def pack(networks):
    """Returns networks as JSON values: float32, little-endian, in base64."""
    return [
        [
            {"kernel": _text(kernel), "bias": _text(bias), "shape": list(kernel.shape)}
            for kernel, bias in network
        ]
        for network in networks
    ]


def unpack(networks):
    """Returns the networks that `pack` wrote.

    Raises:
        ValueError: If they are damaged.
    """
    try:
        return [
            [(_numbers(x["kernel"]).reshape(x["shape"]), _numbers(x["bias"])) for x in network]
            for network in networks
        ]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(
            "`networks` must be layers of kernel, bias and shape, in base64. "
            f"Received: {str(error) or repr(error)}"
        ) from error


def _text(array):
    return base64.b64encode(np.asarray(array, "<f4").tobytes()).decode()


def _numbers(text):
    return np.frombuffer(base64.b64decode(text, validate=True), "<f4")


def _checked(network):
    """Returns three pairs of finite float32 arrays that follow one another."""
    try:
        layers = [(np.asarray(w, "float32"), np.asarray(b, "float32")) for w, b in network]
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`networks` must hold pairs (kernel, bias) of numbers. Received: {error}"
        ) from error
    shapes = [(w.shape, b.shape) for w, b in layers]
    fits = len(layers) == 3 and all(
        w.ndim == 2 and b.shape == w.shape[1:] and np.isfinite(w).all() and np.isfinite(b).all()
        for w, b in layers
    )
    if not fits or [w.shape[0] for w, _ in layers[1:]] + [2] != [w.shape[1] for w, _ in layers]:
        raise ValueError(
            "`networks` must hold three dense layers each, one after the other, the last of "
            f"width 2, all finite. Received: shapes {shapes}"
        )
    return layers
