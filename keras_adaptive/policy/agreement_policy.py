"""Exit policy that stops when enough exits so far agree."""

import math

import numpy as np

from keras_adaptive._checks import finite, integer
from keras_adaptive.policy.confidence import log_odds_of_exit
from keras_adaptive.policy.policy import Policy, answers_of, checked_details


class AgreementPolicy(Policy):
    """Leaves at the first exit where enough of the answers so far agree.

    At exit `k`, from `members - 1` on, a sample leaves if a share of at least `share` of
    the answers of exits 0 to `k` names the same class, and at the last exit at the
    latest. It suits cascades of models that answer independently of one another.

    Args:
        members: Integer, how many answers are needed before leaving. At least 2.
        share: Number above 0 and at most 1.
        details: As in `ExitPolicy`.

    Raises:
        ValueError: If an argument is none of these.

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

    def __init__(self, members, share=1.0, *, details=None):
        self.members = integer("members", members, 2)
        self.share = finite(share, "share")
        if not 0 < self.share <= 1:
            raise ValueError(f"`share` must be above 0 and at most 1. Received: share={share}")
        self.details = checked_details(details)

    def __repr__(self):
        return f"AgreementPolicy({self.members}, share={self.share:g})"

    def start(self, samples, classes, xp=np):
        """Returns how many of the exits so far have named each class, `(samples, classes)`."""
        return (xp.zeros((samples, classes), dtype="float32"),)

    def step(self, exit, logits, state, xp=np, thresholds=None):
        (votes,) = state
        answers = answers_of(logits, xp)[:, None]
        votes = votes + xp.where(answers == xp.arange(votes.shape[-1], dtype="int32"), 1.0, 0.0)
        needed = math.ceil(self.share * (exit + 1) - 1e-9) if exit + 1 >= self.members else np.inf
        leaves = xp.max(votes, axis=-1) >= needed
        if thresholds is not None:
            confident = log_odds_of_exit(logits, "max_prob", 1, xp) >= thresholds
            leaves = xp.logical_or(leaves, confident)
        return leaves, (votes,)

    def content(self):
        return {**super().content(), "members": self.members, "share": self.share}

    @classmethod
    def from_content(cls, content):
        return cls(content["members"], content["share"], details=content["details"])
