"""A gate that decides per image whether the next block is computed."""

import keras
import numpy as np

from keras_adaptive._checks import check_choice, integer
from keras_adaptive.layers._conv_unit import apply_layers, conv_unit
from keras_adaptive.layers._data_format import check_channels_last
from keras_adaptive.layers._straight_through import straight_through

KINDS = ("recurrent", "feedforward", "feedforward_deep")
OPEN_AT_FIRST = 2.0  # logit: an untrained gate lets nine of ten through


@keras.saving.register_keras_serializable(package="keras_adaptive")
class SkipGate(keras.layers.Layer):
    """Decides from the features so far whether the next block is worth computing.

    Recurrent: features are averaged over the image and projected to `units` numbers, which
    an LSTM takes as its next input; its output gives the probability:

        (h, c) = LSTM(projection . mean(features) + bias, (h, c))
        p = sigmoid(w . h + b)
        forward:   gate = 1[p > 0.5]
        backward:  d gate / d p = 1

    One gate serves all blocks of a network: pass the state on (`return_state=True`), and,
    where blocks differ in width, project outside and give `(batch, units)`, which is taken
    as it is.

    Feed-forward: a convolution with normalization and ReLU and stride 2, an average, a dense
    layer and a sigmoid; `"feedforward_deep"`: 2x2 maximum pooling and one more convolution,
    with stride 1, before it. Such a gate belongs to one block.

    The gate computes no block and skips none; `GatedBlock` acts on its decision.

    Args:
        units: Integer, of the LSTM.
        kind: `"recurrent"`, `"feedforward"` or `"feedforward_deep"`.
        return_probability: Boolean, whether the probability is returned too.
        return_state: Boolean, whether `h` and `c` are returned too. Recurrent only.
        forced: `None`: the gate decides. Boolean: it is always open, or always closed,
            whatever the features.
        soft: Boolean: while it learns, the gate is the probability itself. At inference it is 0
            or 1 all the same.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        features: `(batch, height, width, channels)`, or for a recurrent gate
            `(batch, units)`.
        state: List of `h` and `c`, `(batch, units)` each. `None`: zeros.

    Output shape:
        `(batch, 1)`, 0 or 1 (while a soft gate learns, between them); with the flags a list:
        gate, probability, `h`, `c`.

    Raises:
        ValueError: If an argument is impossible, or channels come first.

    Example:

    >>> gate = SkipGate(units=10)(keras.ops.ones((2, 8, 8, 16)))
    >>> tuple(gate.shape)
    (2, 1)

    References:
        [SkipNet (Wang et al., 2018)](https://arxiv.org/abs/1711.09485);
        [Dual Dynamic Inference (Wang et al., 2019)](https://arxiv.org/abs/1907.04523).
    """

    def __init__(
        self,
        units=10,
        kind="recurrent",
        return_probability=False,
        return_state=False,
        forced=None,
        soft=False,
        **kwargs,
    ):
        super().__init__(**kwargs)
        check_channels_last()
        units = integer("units", units, 1)
        check_choice(KINDS, kind=kind)
        check_choice((None, True, False), forced=forced)
        if return_state and kind != "recurrent":
            raise ValueError(
                "`return_state` must be False for a gate without state. "
                f"Received: return_state={return_state}, kind={kind}"
            )
        self.units = units
        self.kind = kind
        self.return_probability = bool(return_probability)
        self.return_state = bool(return_state)
        self.forced = None if forced is None else bool(forced)
        self.soft = bool(soft)
        self.decision = keras.layers.Dense(
            1,
            bias_initializer=keras.initializers.Constant(OPEN_AT_FIRST),
            activation="sigmoid",
            dtype=self.dtype_policy,
            name="decision",
        )
        self.pool = keras.layers.GlobalAveragePooling2D(dtype=self.dtype_policy, name="average")
        if kind == "recurrent":
            self.cell = keras.layers.LSTMCell(units, dtype=self.dtype_policy, name="cell")

    def build(self, features_shape, state_shape=None):
        rank = len(features_shape)
        if rank != 4 and (rank, self.kind) != (2, "recurrent"):
            raise ValueError(
                "`features` must be of rank 4, or for a recurrent gate of rank 2. "
                f"Received: shape {tuple(features_shape)}, kind={self.kind}"
            )
        channels = features_shape[-1]
        if self.kind == "recurrent":
            if rank == 4:
                self.projection = keras.layers.Dense(
                    self.units, dtype=self.dtype_policy, name="projection"
                )
                self.projection.build((None, channels))
            elif channels != self.units:
                raise ValueError(
                    f"`features` of rank 2 must be of width `units`, {self.units}. "
                    f"Received: shape {tuple(features_shape)}"
                )
            self.cell.build((None, self.units))
            self.decision.build((None, self.units))
            return
        self.convolutions = conv_unit(
            channels, 3, strides=2, name="convolution", dtype=self.dtype_policy
        )
        if self.kind == "feedforward_deep":
            if any(size == 1 for size in features_shape[1:3]):
                raise ValueError(
                    "`features` must be of 2 x 2 places or more for a deep gate, which halves "
                    f"them. Received: shape {tuple(features_shape)}, kind={self.kind}"
                )
            self.convolutions = [
                keras.layers.MaxPooling2D(2, dtype=self.dtype_policy, name="maximum"),
                *conv_unit(channels, 3, name="convolution_0", dtype=self.dtype_policy),
                *self.convolutions,
            ]
        shape = tuple(features_shape)
        for layer in self.convolutions:
            layer.build(shape)
            shape = layer.compute_output_shape(shape)
        self.decision.build((None, channels))

    def call(self, features, state=None, training=None):
        if self.kind == "recurrent":
            if len(features.shape) == 4:
                features = self.projection(self.pool(features))
            if state is None:
                zeros = keras.ops.zeros_like(features)
                state = [zeros, zeros]
            output, state = self.cell(features, list(state))
        else:
            output = self.pool(apply_layers(self.convolutions, features))
        probability = self.decision(output)
        if self.forced is None:
            gate = probability if self.soft and training else straight_through(probability)
        else:
            # compared all the same, so that a forced gate costs what a free one does
            gate = keras.ops.cast(probability > (-1.0 if self.forced else 2.0), probability.dtype)
        outputs = [gate]
        if self.return_probability:
            outputs.append(probability)
        if self.return_state:
            outputs += state
        return outputs if len(outputs) > 1 else gate

    def fused(self):
        """Returns the layer that decides the same in fewer operations, for inference.

        It keeps the weights as they are now. Of a gate that is not recurrent: itself.
        """
        return _FusedGate(self) if self.kind == "recurrent" else self

    def compute_output_spec(self, features, state=None, training=None):
        widths = [1] * (1 + self.return_probability) + [self.units] * (2 * self.return_state)
        specs = [keras.KerasTensor((features.shape[0], n), self.compute_dtype) for n in widths]
        return specs if len(specs) > 1 else specs[0]

    def get_config(self):
        return {
            **super().get_config(),
            "units": self.units,
            "kind": self.kind,
            "return_probability": self.return_probability,
            "return_state": self.return_state,
            "forced": self.forced,
            "soft": self.soft,
        }


class _FusedGate(keras.layers.Layer):
    """A recurrent `SkipGate` with one product and one sigmoid for its LSTM.

    `tanh(z) = 2 sigmoid(2 z) - 1` lets the sigmoid serve the candidate too. Projections before
    the LSTM are multiplied into its kernel. Biases are rows of a kernel, or thresholds: at
    this size TensorFlow's product with a bias takes three times as long as the bare one.
    """

    def __init__(self, gate):
        super().__init__(name=gate.name, dtype=gate.dtype_policy)
        self.gate = gate
        kernel, recurrent, bias = gate.cell.get_weights()
        if hasattr(gate, "projection"):
            kernel, bias = self.folding(gate.projection)(kernel, bias)
        twice = np.repeat(np.float32([1, 1, 2, 1]), gate.units)
        self.kernel, self.recurrent, self.bias = kernel * twice, recurrent * twice, bias * twice
        self.weight, (self.offset,) = gate.decision.get_weights()
        self.built = True

    def call(self, features, state=None, projection=None):
        """`projection`: `None`, or what `folding` gives, to be applied to the features."""
        ops, dtype = keras.ops, self.compute_dtype
        if len(features.shape) == 4:
            features = self.gate.pool(features)
        kernel, bias = self.kernel, self.bias
        if projection is not None:
            kernel, bias = projection(kernel, bias)
        rows, columns = [kernel, bias[None]], [features, ops.ones_like(features[:, :1])]
        if state is not None:
            rows, columns = [*rows, self.recurrent], [*columns, state[0]]
        kernel = ops.convert_to_tensor(np.concatenate(rows), dtype)
        parts = ops.sigmoid(ops.matmul(ops.concatenate(columns, axis=-1), kernel))
        enter, keep, candidate, leave = ops.split(parts, 4, axis=-1)
        memory = enter * (2 * candidate - 1)
        if state is not None:
            memory = keep * state[1] + memory
        hidden = leave * ops.tanh(memory)
        logit = ops.matmul(hidden, ops.convert_to_tensor(self.weight, dtype))
        least = {None: -self.offset, True: -np.inf, False: np.inf}[self.gate.forced]
        gate = ops.cast(logit > ops.convert_to_tensor(least, dtype), dtype)
        outputs = [gate]
        if self.gate.return_probability:
            outputs.append(ops.sigmoid(logit + self.offset))
        if self.gate.return_state:
            outputs += [hidden, memory]
        return outputs if len(outputs) > 1 else gate

    def compute_output_spec(self, features, state=None, projection=None):
        return self.gate.compute_output_spec(features, state)

    @staticmethod
    def folding(dense):
        """Returns the function that puts a dense layer before another's kernel and bias."""
        first, *offset = dense.get_weights()
        return lambda kernel, bias: (first @ kernel, sum((b @ kernel for b in offset), bias))
