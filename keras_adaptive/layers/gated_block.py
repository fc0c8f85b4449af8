"""A block that is computed only for the inputs whose gate is open."""

import keras
import numpy as np

from keras_adaptive._checks import check_choice
from keras_adaptive.layers._conv_unit import apply_layers
from keras_adaptive.layers.channel_gate import ChannelGate

MERGES = ("add_relu", "add", "replace")
MODES = ("gather", "cond", "if")


@keras.saving.register_keras_serializable(package="keras_adaptive")
class GatedBlock(keras.layers.Layer):
    """Computes a block where its gate is open, and passes something else on where it is not.

    With `g` the gate of the image (0 or 1), times the gate of the channel if there is a
    `channel_gate`:

        output = g * block(x) + (1 - g) * instead

        block(x) = relu(instead + branch(x))      merge="add_relu"
                   instead + branch(x)            merge="add"
                   branch(x)                      merge="replace"

    Calling it computes the branch for every input and chooses afterwards, which is how it
    learns: the gradient reaches gate and branch alike. While training, normalizations see
    only the inputs whose gate is open, so that those skipped do not disturb the statistics
    of those computed (where no gate is open they see all).

    `to_skipping` returns the layer that really leaves the work out.

    Args:
        branch: List of layers, applied one after the other.
        merge: One of the names above.
        channel_gate: A `ChannelGate` with `return_probability`, evaluated only where the
            gate is open; or `None`.
        **kwargs: Passed to `keras.layers.Layer`.

    Call arguments:
        x: `(batch, ...)`, the input of the branch.
        instead: `(batch, ...)`, of the shape of the output.
        gate: `(batch, 1)`, 0 or 1. `None`: open.

    Output shape:
        That of `instead`. With a `channel_gate` a list: the output, and `(batch, 2)`: the
        share of channels that are open, and the mean probability of being so.

    Raises:
        ValueError: If an argument is impossible, or channels come first.

    Example:

    >>> block = GatedBlock([keras.layers.Dense(4)], merge="add")
    >>> x = keras.ops.ones((2, 4))
    >>> closed = block(x, x, keras.ops.zeros((2, 1)))
    >>> closed.numpy().tolist() == x.numpy().tolist()
    True

    References:
        [SkipNet (Wang et al., 2018)](https://arxiv.org/abs/1711.09485);
        [Dual Dynamic Inference (Wang et al., 2019)](https://arxiv.org/abs/1907.04523),
        equations 1 to 3.
    """

    def __init__(self, branch, merge="add_relu", channel_gate=None, **kwargs):
        super().__init__(**kwargs)
        branch = list(branch)
        if not branch or not all(isinstance(layer, keras.layers.Layer) for layer in branch):
            raise ValueError(f"`branch` must be a list of layers. Received: branch={branch}")
        for layer in branch:
            if getattr(layer, "data_format", None) == "channels_first":
                raise ValueError(
                    "Layers of `branch` must have data_format='channels_last'. Received: layer "
                    f"{layer.name!r} with data_format='channels_first'"
                )
        check_choice(MERGES, merge=merge)
        if channel_gate is not None and not (
            isinstance(channel_gate, ChannelGate) and channel_gate.return_probability
        ):
            raise ValueError(
                "`channel_gate` must be a ChannelGate with return_probability=True. "
                f"Received: channel_gate={channel_gate}"
            )
        self.branch = branch
        self.merge = merge
        self.channel_gate = channel_gate

    def build(self, x_shape, instead_shape, gate_shape=None):
        shape = tuple(x_shape)
        for layer in self.branch:
            if not layer.built:  # what comes from a file is built already
                layer.build(shape)
            shape = layer.compute_output_shape(shape)
        if tuple(shape[1:]) != tuple(instead_shape[1:]):
            raise ValueError(
                "`instead` must have the shape of the branch's output. "
                f"Received: {tuple(instead_shape)} and {tuple(shape)}"
            )
        if self.channel_gate is not None and not self.channel_gate.built:
            self.channel_gate.build(tuple(x_shape))

    def call(self, x, instead, gate=None, training=None):
        kept = None
        if gate is not None and training:
            kept = gate[:, 0] > 0.5
            kept = keras.ops.logical_or(kept, keras.ops.logical_not(keras.ops.any(kept)))
        output, shares = self._computed(x, instead, kept, training)
        if gate is not None:
            gate = keras.ops.cast(gate, output.dtype)
            by_image = keras.ops.reshape(gate, (-1,) + (1,) * (len(output.shape) - 1))
            output = by_image * output + (1 - by_image) * instead
        return output if shares is None else [output, shares]

    def _computed(self, x, instead, kept=None, training=None):
        """Returns the block's output, and the shares of open channels or `None`."""
        output = apply_layers(self.branch, x, kept, training)
        if self.merge != "replace":
            output = instead + output
        if self.merge == "add_relu":
            output = keras.ops.relu(output)
        if self.channel_gate is None:
            return output, None
        gates, probability = self.channel_gate(x, kept=kept, training=training)
        shares = [keras.ops.mean(value, axis=-1) for value in (gates, probability)]
        between = (1,) * (len(output.shape) - 2)
        by_channel = keras.ops.reshape(gates, (-1, *between, gates.shape[-1]))
        output = by_channel * output + (1 - by_channel) * instead
        return output, keras.ops.stack(shares, axis=-1)

    def to_skipping(self, mode):
        """Returns the layer that leaves the block out where its gate is closed.

        It is for inference, and keeps the weights as they are now.

        Args:
            mode: `"gather"`: the inputs whose gate is open are gathered, computed and put
                back; `"cond"` or `"if"`: a conditional, for batches of one.
        """
        return _SkippingBlock(self, mode, name=self.name, dtype=self.dtype_policy)

    skipping = to_skipping  # its name before 0.2; until 0.3

    def compute_output_spec(self, x, instead, gate=None, training=None):
        output = keras.KerasTensor(instead.shape, self.compute_dtype)
        if self.channel_gate is None:
            return output
        return [output, keras.KerasTensor((instead.shape[0], 2), self.compute_dtype)]

    def get_config(self):
        serialize = keras.saving.serialize_keras_object
        return {
            **super().get_config(),
            "branch": [serialize(layer) for layer in self.branch],
            "merge": self.merge,
            "channel_gate": serialize(self.channel_gate),
        }

    @classmethod
    def from_config(cls, config):
        restore = keras.saving.deserialize_keras_object
        branch = [restore(layer) for layer in config["branch"]]
        return cls(**{**config, "branch": branch, "channel_gate": restore(config["channel_gate"])})


class _SkippingBlock(keras.layers.Layer):
    """A `GatedBlock` that does not compute what nobody takes.

    `forced` is `None`, or a boolean for batches of one: open, whatever the gate says.
    """

    def __init__(self, block, mode, **kwargs):
        super().__init__(**kwargs)
        check_choice(MODES, mode=mode)
        self.block = block
        self.mode = mode
        self.values = [(variable, np.array(variable)) for variable in block.variables]
        self.built = True

    def call(self, x, instead, gate=None, forced=None):
        if gate is None:
            outputs = self._open(x, instead)
        elif self.mode != "gather":
            is_open = gate[0, 0] > 0.5
            if forced is not None:
                is_open = keras.ops.logical_or(is_open, forced)
            outputs = keras.ops.cond(
                is_open,
                lambda: self._open(x, instead),
                lambda: self._closed(instead, gate),
            )
        else:
            (rows,) = keras.ops.nonzero(gate[:, 0] > 0.5)
            # not computed at all where nobody needs it: TensorFlow's convolutions give
            # empty batches the wrong shape
            outputs = keras.ops.cond(
                keras.ops.size(rows) > 0,
                lambda: self._gathered(x, instead, gate, rows),
                lambda: self._closed(instead, gate),
            )
        return outputs if self.block.channel_gate is not None else outputs[0]

    def _gathered(self, x, instead, gate, rows):
        parts = [keras.ops.take(tensor, rows, axis=0) for tensor in (x, instead)]
        where = keras.ops.expand_dims(rows, -1)
        return [
            keras.ops.scatter_update(closed, where, opened)
            for closed, opened in zip(self._closed(instead, gate), self._open(*parts), strict=True)
        ]

    def _open(self, x, instead):
        # constants, inside the branch: as its inputs they could not be folded or packed
        with keras.StatelessScope([(v, keras.ops.convert_to_tensor(a)) for v, a in self.values]):
            output, shares = self.block._computed(x, instead)
        return [output] if shares is None else [output, shares]

    def _closed(self, instead, gate):
        if self.block.channel_gate is None:
            return [instead]
        none = keras.ops.zeros_like(gate)
        return [instead, keras.ops.concatenate([none, none], axis=-1)]

    def compute_output_spec(self, x, instead, gate=None, forced=None):
        return self.block.compute_output_spec(x, instead, gate)
