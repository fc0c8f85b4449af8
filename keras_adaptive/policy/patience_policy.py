"""Exit policy that stops when several exits in a row agree."""

import numpy as np

from keras_adaptive._checks import integer
from keras_adaptive.policy.confidence import log_odds_of_exit
from keras_adaptive.policy.policy import Policy, answers_of, checked_details


class PatiencePolicy(Policy):
    """Leaves at the first exit where several exits in a row give the same answer.

    A sample leaves at the first exit `k` where exits `k - patience + 1` to `k` name the
    same class, and at the last exit at the latest. It needs no thresholds and no
    calibration, but no sample leaves before exit `patience - 1`. At equal cost it was worse
    than exact thresholds in 6 of 12 comparisons, and better in none
    (benchmarks/results/stopping_ways.md).

    Args:
        patience: Integer, how many exits in a row must agree. At least 2.
        details: As in `ExitPolicy`.

    Raises:
        ValueError: If `patience` is no such integer.

    Example:

    >>> cat, dog = [1.0, 0.0], [0.0, 1.0]
    >>> PatiencePolicy(2).decide([[cat, dog], [cat, cat], [dog, cat]]).tolist()
    [1, 2]

    Reference:
        [BERT Loses Patience (Zhou et al., 2020)](https://arxiv.org/abs/2006.04152).
    """

    def __init__(self, patience, *, details=None):
        self.patience = integer("patience", patience, 2)
        self.details = checked_details(details)

    def __repr__(self):
        return f"PatiencePolicy({self.patience})"

    def start(self, samples, classes, xp=np):
        """Returns each sample's last answer, and how many exits in a row gave it."""
        return xp.full((samples,), -1, dtype="int32"), xp.zeros((samples,), dtype="int32")

    def step(self, exit, logits, state, xp=np, thresholds=None):
        last, agreeing = state
        answers = answers_of(logits, xp)
        agreeing = xp.where(answers == last, agreeing + 1, 1)
        leaves = agreeing >= self.patience
        if thresholds is not None:
            confident = log_odds_of_exit(logits, "max_prob", 1, xp) >= thresholds
            leaves = xp.logical_or(leaves, confident)
        return leaves, (answers, agreeing)

    def content(self):
        return {**super().content(), "patience": self.patience}

    @classmethod
    def from_content(cls, content):
        return cls(content["patience"], details=content["details"])
