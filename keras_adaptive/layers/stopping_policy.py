"""A small network that gives the probability of stopping at an exit."""

import keras

from keras_adaptive._checks import integer


@keras.saving.register_keras_serializable(package="keras_adaptive")
class StoppingPolicy(keras.layers.Layer):
    """Computes the probability of stopping at an exit from the exit's class probabilities.

    Three dense layers, the first two with ReLU:

        h_1 = relu(W_1 p + b_1),  h_2 = relu(W_2 h_1 + b_2)
        (P(stop), P(go)) = softmax(W_3 h_2 + b_3)

    With `s_k` the probability of stopping at exit `k`, a sample that has come so far stops
    there with probability `s_k`, so it leaves at `k` with `s_k * prod_{j<k} (1 - s_j)`. The
    last exit always stops and has no such layer. Forwards nothing is drawn or rounded, and
    the gradient is the softmax's; stops are drawn by `training.StoppingLoss`, which teaches
    the layer, and `LearnedPolicy` takes its weights to decide.

    Args:
        units: Integer, the width of the first two layers. 64 is the paper's for 10 and
            100 classes, 256 for 1000.
        **kwargs: Passed to `keras.layers.Layer`.

    Input shape:
        `(batch, classes)`, probabilities.

    Output shape:
        `(batch, 2)`, the probabilities of stopping and of going on.

    Raises:
        ValueError: If `units` is not a positive integer.

    Example:

    >>> probabilities = keras.ops.full((3, 10), 0.1)
    >>> decision = StoppingPolicy(units=4)(probabilities)
    >>> tuple(decision.shape)
    (3, 2)

    Reference:
        [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368).
    """

    def __init__(self, units=64, **kwargs):
        super().__init__(**kwargs)
        self.units = units = integer("units", units, 1)
        self.hidden = [
            keras.layers.Dense(
                units, activation="relu", dtype=self.dtype_policy, name=f"hidden_{i}"
            )
            for i in range(2)
        ]
        self.decision = keras.layers.Dense(2, dtype=self.dtype_policy, name="decision")

    def build(self, input_shape):
        self.hidden[0].build((None, input_shape[-1]))
        self.hidden[1].build((None, self.units))
        self.decision.build((None, self.units))

    def call(self, probabilities):
        return keras.ops.softmax(self._scores(probabilities), axis=-1)

    def log_probabilities(self, probabilities):
        """Returns the logarithms of the output, finite and in float32."""
        scores = keras.ops.cast(self._scores(probabilities), "float32")
        return keras.ops.log_softmax(scores, axis=-1)

    def _scores(self, probabilities):
        features = probabilities
        for layer in self.hidden:
            features = layer(features)
        return self.decision(features)

    def compute_output_shape(self, input_shape):
        return (input_shape[0], 2)

    def get_config(self):
        return {**super().get_config(), "units": self.units}
