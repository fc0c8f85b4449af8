"""Puts gates on the blocks of a network."""

import keras

from keras_adaptive._checks import check_choice
from keras_adaptive.layers.channel_gate import ChannelGate
from keras_adaptive.layers.gated_block import GatedBlock
from keras_adaptive.layers.skip_gate import KINDS, SkipGate

GATES = (None, "layer", "channel", "both")
UNITS = 10  # of the recurrent gate, as published


class Gating:
    """Makes the gated blocks of one network; one recurrent gate decides on all of them.

    Args:
        gates: `None`, `"layer"`, `"channel"` or `"both"`.
        kind, soft: Of the gates of layers, and of all gates, as in `SkipGate`.
    """

    def __init__(self, gates, kind="recurrent", soft=False):
        check_choice(GATES, gates=gates)
        check_choice(KINDS, gate_kind=kind)
        check_choice((True, False), soft_gates=soft)
        self.layers, self.channels = gates in ("layer", "both"), gates in ("channel", "both")
        if kind != "recurrent" and not self.layers:
            raise ValueError(
                '`gate_kind` must be "recurrent" where no layers are gated. '
                f"Received: gate_kind={kind}, gates={gates}"
            )
        self.how = {"kind": kind, "soft": soft, "return_probability": True}
        self.gate = self.state = None
        if self.layers and kind == "recurrent":
            self.gate = SkipGate(UNITS, return_state=True, name="skip_gate", **self.how)
        self.any = gates is not None

    def block(self, x, instead, branch, merge, name, bottleneck=None):
        """Applies a gated block.

        Args:
            x: Input of the branch and of its gates; a recurrent skip gate reads the mean of it.
            instead: The output where the block is skipped.
            branch, merge: As in `GatedBlock`.
            name: String, the prefix of names.
            bottleneck: As in `ChannelGate`.
        """
        inputs = [x, instead]
        if self.gate is not None:
            mean = keras.layers.GlobalAveragePooling2D(name=f"{name}_gate_mean")(x)
            seen = keras.layers.Dense(UNITS, name=f"{name}_gate_projection")(mean)
            gate, _, *self.state = self.gate(seen, self.state)
            inputs.append(gate)
        elif self.layers:
            inputs.append(SkipGate(name=f"{name}_skip_gate", **self.how)(x)[0])
        channel_gate = None
        if self.channels:
            channel_gate = ChannelGate(
                instead.shape[-1],
                bottleneck,
                return_probability=True,
                soft=self.how["soft"],
                name="channel_gate",
            )
        outputs = GatedBlock(branch, merge, channel_gate, name=f"{name}_gated")(*inputs)
        return outputs[0] if self.channels else outputs
