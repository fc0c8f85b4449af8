"""The mean output of several models that run one after the other."""

import math

import keras

from keras_adaptive._checks import check_choice, integer

KINDS = ("logits", "probs")


@keras.saving.register_keras_serializable(package="keras_adaptive")
class RunningMean(keras.layers.Layer):
    """Updates the mean of several models' logits with those of the next model.

    With the model's logits `z_k`, the `k`-th, and the mean so far `m_{k-1}`:

    - `"logits"`: `m_k = m_{k-1} + (z_k - m_{k-1}) / k`;
    - `"probs"`: `m_k = log(((k - 1) softmax(m_{k-1}) + softmax(z_k)) / k)`, so that
      `softmax(m_k)` is the mean of the models' probabilities.

    The mean of probabilities is computed from logarithms and is finite whatever the
    logits. The layer has no weights.

    Args:
        average: `"logits"` or `"probs"`: what is averaged.
        count: Integer, `k`: how many models the mean is of, this one included.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        logits: `(batch, ..., classes)`, of the `k`-th model.
        previous: The same, the mean of the models before. Needed from `count=2` on.

    Output shape:
        The input's.

    Raises:
        ValueError: If an argument is impossible.

    Example:

    >>> first, second = keras.ops.array([[0.0, 2.0]]), keras.ops.array([[4.0, 0.0]])
    >>> keras.ops.convert_to_numpy(RunningMean("logits", 2)(second, first)).tolist()
    [[2.0, 1.0]]

    Reference:
        [Wisdom of Committees (Wang et al., 2022)](https://arxiv.org/abs/2012.01988),
        algorithm 1.
    """

    def __init__(self, average, count, **kwargs):
        super().__init__(**kwargs)
        check_choice(KINDS, average=average)
        self.average = average
        self.count = integer("count", count, 1)

    def call(self, logits, previous=None):
        if (previous is None) != (self.count == 1):
            raise ValueError(
                "`previous`, the mean so far, must be given from `count=2` on and only then. "
                f"Received: previous={previous}, count={self.count}"
            )
        if self.average == "probs":
            logits = keras.ops.log_softmax(logits, axis=-1)
        if previous is None:
            return logits
        if self.average == "logits":
            return previous + (logits - previous) / self.count
        previous = previous + math.log((self.count - 1) / self.count)
        logits = logits - math.log(self.count)
        # keras.ops.logaddexp would need an operation that LiteRT does not have
        highest = keras.ops.maximum(previous, logits)
        rest = keras.ops.exp(previous - highest) + keras.ops.exp(logits - highest)
        return highest + keras.ops.log(rest)

    def compute_output_shape(self, logits_shape, previous_shape=None):
        return logits_shape

    def get_config(self):
        return {**super().get_config(), "average": self.average, "count": self.count}

    @classmethod
    def from_config(cls, config):
        config = dict(config)
        if "of" in config:  # its name before 0.2
            config["average"] = config.pop("of")
        return cls(**config)
