"""Leaves when several exits in a row agree."""

import numpy as np

from keras_adaptive.policy.policy import Policy, answers_of


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
        answers = answers_of(logits)
        exits = np.full(answers.shape[1], len(answers) - 1)
        for k in range(len(answers) - 1, self.patience - 2, -1):
            window = answers[k - self.patience + 1 : k + 1]
            agreeing = (window == window[0]).all(axis=0)
            exits = np.where(agreeing, k, exits)
        return exits
