"""The answer of several exits together."""

import keras
import numpy as np

from keras_adaptive._checks import check_choice, integer

COMBINATIONS = ("product", "weighted")
EXCLUDED = -20.0  # the logarithm of a factor that stands for zero
LEAST = 1e-6  # of a logit above the mean, for its logarithm


@keras.saving.register_keras_serializable(package="keras_adaptive")
class CombinedExit(keras.layers.Layer):
    """Combines the answers of the exits so far into one.

    Of the logits `z_1, ..., z_m` of the first `m` exits, of `K`, it gives the logarithm of

    - `"product"`: `p(y) ~ prod_i relu(f_i(y))^(i/K)`, with `f_i = z_i - mean_y z_i`. A class
      that an exit rates below the mean is excluded there: its factor is `e^-20`, which
      stands for zero. So where every class has been excluded by some exit, those excluded
      least often remain. There is nothing to learn.
    - `"weighted"`: `p = softmax(mean_i e^(w_i) log softmax(z_i) + b)`, with one weight `w_i`
      per exit and a bias per class, all 0 at first.

    Logits are taken less their mean, since a softmax does not tell them from logits that are
    all larger by a number, while `relu` would.

    `training.combine_exits` puts the layer behind the exits of a trained network.

    Args:
        combine: `"product"` or `"weighted"`.
        exits: Integer, `K`: how many exits the network has.
        **kwargs: Passed to `keras.layers.Layer`.

    Input shape:
        `(batch, m, ..., classes)`: logits of the first `m` exits, one after the other.

    Output shape:
        `(batch, ..., classes)`, logarithms of probabilities.

    Raises:
        ValueError: If an argument is impossible, or the input has more than `exits` exits.

    Example:

    >>> logits = keras.ops.array([[[2.0, 0.0, -1.0], [1.0, 1.0, 0.0]]])  # of two exits
    >>> together = keras.ops.softmax(CombinedExit("product", exits=2)(logits))
    >>> keras.ops.convert_to_numpy(together).round(6).tolist()
    [[1.0, 0.0, 0.0]]

    References:
        `"product"`: [Towards Anytime Classification in Early-Exit Architectures by Enforcing
        Conditional Monotonicity (Jazbec et al., 2023)](https://arxiv.org/abs/2306.02652);
        `"weighted"`: [Zero Time Waste (Wolczyk et al., 2021)](
        https://arxiv.org/abs/2106.05409).
    """

    def __init__(self, combine, exits, **kwargs):
        super().__init__(**kwargs)
        check_choice(COMBINATIONS, combine=combine)
        self.combine = combine
        self.exits = integer("exits", exits, 1)

    def build(self, input_shape):
        number = input_shape[1]
        if number is None or number > self.exits:
            raise ValueError(
                f"The input must hold at most {self.exits} exits, (batch, exits, ..., classes). "
                f"Received: shape {tuple(input_shape)}"
            )
        if self.combine == "product":
            self.shares = np.arange(1, number + 1) / self.exits
        else:
            self.scales = self.add_weight(shape=(number,), initializer="zeros", name="scales")
            self.bias = self.add_weight(shape=(input_shape[-1],), initializer="zeros", name="bias")

    def call(self, logits):
        if self.combine == "weighted":
            logarithms = keras.ops.log_softmax(logits, axis=-1)
            shares = keras.ops.exp(self.scales) / logits.shape[1]
            combined = keras.ops.tensordot(logarithms, shares, axes=[[1], [0]]) + self.bias
        else:
            above = logits - keras.ops.mean(logits, axis=-1, keepdims=True)
            logarithms = keras.ops.log(keras.ops.maximum(above, LEAST))
            shares = keras.ops.convert_to_tensor(self.shares, logarithms.dtype)
            excluded = keras.ops.cast(above <= 0, logarithms.dtype)
            kept = logarithms * (1 - excluded)
            combined = keras.ops.tensordot(kept, shares, axes=[[1], [0]])
            combined = combined + EXCLUDED * keras.ops.sum(excluded, axis=1)
        return keras.ops.log_softmax(combined, axis=-1)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], *input_shape[2:])

    def get_config(self):
        return {**super().get_config(), "combine": self.combine, "exits": self.exits}
