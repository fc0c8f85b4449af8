"""The cost term of the loss of gated networks."""

import keras

from keras_adaptive import _graph
from keras_adaptive._checks import finite
from keras_adaptive.costs.exit_costs import check_unit
from keras_adaptive.costs.gated_costs import block_costs
from keras_adaptive.layers.gated_block import GatedBlock
from keras_adaptive.training._mean import mean


@keras.saving.register_keras_serializable(package="keras_adaptive")
class GateLoss:
    """Adds the cost of the computed blocks to the loss of a network with gates.

        loss = classification + weight * E
        E = mean over the batch of sum_b g_b * (channel gate_b + branch_b + s_b * last_b)

    in millions of the unit, with `g_b` the gate of block `b` and `s_b` the share of its
    channels that are open. The gradient reaches the gates through their straight-through
    estimator. With a `target` rate the sum over blocks of `(mean(g_b * s_b) - target)**2`
    takes the place of `E`, which holds every block at the same rate.

    What is always computed adds nothing: stem, shortcuts, heads, the gates of layers.

    Args:
        weight: Number of at least 0, alpha of the paper (2e-4 on CIFAR).
        unit: Unit of cost, as in `AdaptiveModel.exit_costs`, but not `"params"`.
        target: Number from 0 to 1, or `None`.

    Example:

    >>> GateLoss(weight=2e-4).get_config()
    {'weight': 0.0002, 'unit': 'macs', 'target': None}

    References:
        [Dual Dynamic Inference (Wang et al., 2019)](https://arxiv.org/abs/1907.04523),
        equation 5; target rates: [Convolutional Networks with Adaptive Inference Graphs
        (Veit and Belongie, 2018)](https://arxiv.org/abs/1711.11503).
    """

    def __init__(self, weight=2e-4, unit="macs", target=None):
        self.weight = finite(weight, "weight")
        self.target = None if target is None else finite(target, "target")
        if self.weight < 0:
            raise ValueError(f"`weight` must be at least 0. Received: weight={weight}")
        check_unit(unit)
        if target is not None and not 0 <= self.target <= 1:
            raise ValueError(f"`target` must be from 0 to 1. Received: target={target}")
        self.unit = unit

    def of_network(self, inputs, outputs):
        """Returns what the loss of a network is computed from, and how.

        Args:
            inputs, outputs: Lists of the network's symbolic tensors.

        Returns:
            Tuple: a list of symbolic tensors, and the function from their values to the loss.

        Raises:
            ValueError: If the network has no gates.
        """
        blocks, tensors = [], {}
        for node in _graph.nodes_between(inputs, outputs):
            if isinstance(node.operation, GatedBlock):
                gate, shares = [*node.input_tensors[2:], None][0], [*node.outputs, None][1]
                blocks.append((block_costs(node, self.unit), id(gate), id(shares)))
                tensors |= {id(t): t for t in (gate, shares) if t is not None}
        if not blocks:
            raise ValueError("`gate_loss` must be None for a network without gates.")

        def loss(values):
            known = dict(zip(tensors, values, strict=True))
            parts = [
                self.of_block(costs, known.get(gate, 1.0), known.get(shares))
                for costs, gate, shares in blocks
            ]
            return mean(keras.ops.reshape(sum(parts), (1,)))

        return list(tensors.values()), loss

    def of_block(self, costs, gate, shares):
        """Returns one block's part of the loss.

        Args:
            costs: Its `BlockCosts`.
            gate: `(batch, 1)`, or 1 where there is none.
            shares: `(batch, 2)`, as the block gives them, or `None`.
        """
        share = 1.0 if shares is None else keras.ops.cast(shares[:, :1], "float32")
        gate = keras.ops.cast(gate, "float32")
        if self.target is None:
            return self.weight * 1e-6 * keras.ops.mean(costs.executed(gate, share))
        return self.weight * (keras.ops.mean(gate * share) - self.target) ** 2

    def get_config(self):
        return {"weight": self.weight, "unit": self.unit, "target": self.target}

    @classmethod
    def from_config(cls, config):
        unit = config["unit"]
        if isinstance(unit, dict):
            unit = keras.saving.deserialize_keras_object(unit)
        return cls(**{**config, "unit": unit})
