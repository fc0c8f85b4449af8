"""Exit policy that stops when several exits in a row agree."""

import numpy as np

from keras_adaptive._checks import integer
from keras_adaptive.policy.policy import Policy, answers_of


class PatiencePolicy(Policy):
    """Leaves at the first exit where several exits in a row give the same answer.

    A sample leaves at the first exit `k` where exits `k - patience + 1` to `k` name the
    same class, and at the last exit at the latest. It needs no thresholds and no
    calibration, but no sample leaves before exit `patience - 1`.

    Args:
        patience: Integer, how many exits in a row must agree. At least 2.

    Raises:
        ValueError: If `patience` is no such integer.

    Example:

    >>> cat, dog = [1.0, 0.0], [0.0, 1.0]
    >>> PatiencePolicy(2).decide([[cat, dog], [cat, cat], [dog, cat]]).tolist()
    [1, 2]

    Reference:
        [BERT Loses Patience (Zhou et al., 2020)](https://arxiv.org/abs/2006.04152).
    """

    def __init__(self, patience):
        self.patience = integer("patience", patience, 2)

    def _decide(self, logits, costs):
        answers = answers_of(logits)
        exits = np.full(answers.shape[1], len(answers) - 1)
        for k in range(len(answers) - 1, self.patience - 2, -1):
            window = answers[k - self.patience + 1 : k + 1]
            agreeing = (window == window[0]).all(axis=0)
            exits = np.where(agreeing, k, exits)
        return exits
