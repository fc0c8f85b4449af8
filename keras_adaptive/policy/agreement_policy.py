"""Exit policy that stops when enough exits so far agree."""

import numpy as np

from keras_adaptive._checks import finite, integer
from keras_adaptive.policy.policy import Policy, answers_of


class AgreementPolicy(Policy):
    """Leaves at the first exit where enough of the answers so far agree.

    At exit `k`, from `members - 1` on, a sample leaves if a share of at least `share` of
    the answers of exits 0 to `k` names the same class, and at the last exit at the
    latest. It suits cascades of models that answer independently of one another.

    Args:
        members: Integer, how many answers are needed before leaving. At least 2.
        share: Number above 0 and at most 1.

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

    def __init__(self, members, share=1.0):
        self.members = integer("members", members, 2)
        self.share = finite(share, "share")
        if not 0 < self.share <= 1:
            raise ValueError(f"`share` must be above 0 and at most 1. Received: share={share}")

    def _decide(self, logits, costs):
        answers = answers_of(logits)
        exits = np.full(answers.shape[1], len(answers) - 1)
        for k in range(len(answers) - 1, self.members - 2, -1):
            so_far = answers[: k + 1]
            votes = (so_far[:, None] == so_far[None]).sum(axis=0).max(axis=0)
            exits = np.where(votes >= self.share * (k + 1) - 1e-9, k, exits)
        return exits
