"""Base class of exit policies: rules that choose the exit for each sample."""

from keras_adaptive._checks import check_costs, check_logits


class UnreachableTargetError(ValueError):
    """Raised for a budget, accuracy or worst case that no policy can meet.

    The message says what can be reached. Other bad arguments raise a plain ValueError.
    """


class Policy:
    """Base class of exit policies. Subclasses define `_decide`."""

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
        raise NotImplementedError


def answers_of(logits):
    """Returns the class that each exit names, `(exits, samples)`."""
    if logits.ndim != 3:
        raise ValueError(
            "`logits` must be of shape (exits, samples, classes) for answers to be compared. "
            f"Received: shape {logits.shape}"
        )
    return logits.argmax(axis=-1)
