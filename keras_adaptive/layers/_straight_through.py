"""A decision that gradients can pass."""

import keras


def hard(probability):
    """Returns `1[probability > 0.5]` forward and hands the gradient straight through.

    Backward, the derivative by `probability` is 1 (the straight-through estimator of
    [Bengio et al., 2013](https://arxiv.org/abs/1308.3432)).
    """
    decision = keras.ops.cast(probability > 0.5, probability.dtype)
    decision = keras.ops.stop_gradient(decision)
    return decision + (probability - keras.ops.stop_gradient(probability))
