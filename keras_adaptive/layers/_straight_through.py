"""The straight-through estimator: a hard decision that gradients pass."""

import keras


def straight_through(probability):
    """Returns `1[probability > 0.5]` and passes the gradient on unchanged.

    Backward, the derivative with respect to `probability` is 1 (the straight-through estimator of
    [Bengio et al., 2013](https://arxiv.org/abs/1308.3432)).
    """
    decision = keras.ops.cast(probability > 0.5, probability.dtype)
    decision = keras.ops.stop_gradient(decision)
    return decision + (probability - keras.ops.stop_gradient(probability))
