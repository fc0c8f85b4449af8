"""The cost per sample of a network with gates: what its gates left to be computed."""

from typing import NamedTuple

import keras
import numpy as np

from keras_adaptive import _graph
from keras_adaptive.costs._formulas import WEIGHTED
from keras_adaptive.costs.exit_costs import check_unit, node_cost
from keras_adaptive.layers._conv_unit import apply_layers
from keras_adaptive.layers.gated_block import GatedBlock


class BlockCosts(NamedTuple):
    """The costs of the parts of a gated block.

    Attributes:
        gate: Its channel gate, 0 without one.
        branch: Its branch but for the last convolution or dense layer.
        last: That.
    """

    gate: float
    branch: float
    last: float

    def executed(self, is_open, share):
        """Returns the cost where a share of the channels is open.

        A closed channel saves its share of the last layer. The channel gate is
        computed wherever the block's gate is open.
        """
        return is_open * (self.gate + self.branch + share * self.last)


class GatedCosts(NamedTuple):
    """The cost per sample of a gated network, as a function of its gates' decisions.

    Attributes:
        fixed: `(exits,)`, the cost that every sample has.
        gates: List of symbolic tensors: of every gated block its gate `(batch, 1)`, the
            gate's probability, and the shares of open channels `(batch, 2)`; `None` where
            it has none.
        exits: List of integers: the first exit that needs the block.
        blocks: List of `BlockCosts`.
    """

    fixed: np.ndarray
    gates: list
    exits: list
    blocks: list

    @property
    def tensors(self):
        """The tensors that are there, each once."""
        found = {id(t): t for three in self.gates for t in three if t is not None}
        return list(found.values())

    def per_sample(self, values, expected=False):
        """Returns costs `(exits, samples)`.

        Args:
            values: List of arrays, those of `tensors`.
            expected: Boolean. True: by probabilities instead of decisions.
        """
        pairs = list(self._decisions(values, expected))
        costs = np.repeat(self.fixed[:, None], len(pairs[0][0]), axis=1)
        for decision, exit, block in zip(pairs, self.exits, self.blocks, strict=True):
            costs[exit:] += block.executed(*decision)
        return costs

    def open_shares(self, values):
        """Returns how much of every block is computed, `(blocks, samples)`, from 0 to 1.

        Args:
            values: List of arrays, those of `tensors`.
        """
        return np.stack([is_open * share for is_open, share in self._decisions(values)])

    def _decisions(self, values, expected=False):
        """Yields of every block whether it is open, and the share of its channels that is."""
        known = {id(t): np.asarray(v, "float64") for t, v in zip(self.tensors, values, strict=True)}
        ones = np.ones(len(next(iter(known.values()))))
        for gate, probability, shares in self.gates:
            is_open = share = ones
            if gate is not None:
                is_open = known[id(probability if expected else gate)][:, 0]
            if shares is not None:
                share = known[id(shares)][:, int(expected)]
            yield is_open, share


def block_costs(node, unit="macs"):
    """Returns the `BlockCosts` of one call of a `GatedBlock`."""
    block, x = node.operation, node.input_tensors[0]
    start = keras.Input(batch_shape=x.shape, dtype=x.dtype)
    gate = 0
    if block.channel_gate is not None:
        gates = _graph.nodes_between([start], block.channel_gate(start)[:1])
        gate = sum(node_cost(each, unit) for each in gates)
    nodes = _graph.nodes_between([start], [apply_layers(block.branch, start)])
    parts = [node_cost(each, unit) for each in nodes]
    weighted = [i for i, each in enumerate(nodes) if isinstance(each.operation, WEIGHTED)]
    last = parts[weighted[-1]] if weighted else 0
    return BlockCosts(gate, sum(parts) - last, last)


def gated_costs(inputs, exits, unit="macs"):
    """Returns the `GatedCosts` of a network, or `None` if it has no gates.

    Args:
        inputs, exits, unit: As in `costs.exit_costs`, but not `"params"`: gates leave out
            work, not weights.

    Raises:
        ValueError: If the unit is unknown, or an operation cannot be counted.
    """
    check_unit(unit)
    stages = [stage.nodes for stage in _graph.split(inputs, exits)]
    if not any(isinstance(node.operation, GatedBlock) for nodes in stages for node in nodes):
        return None
    fixed = np.zeros(len(exits))
    found = GatedCosts(fixed, [], [], [])
    for k, nodes in enumerate(stages):
        for node in nodes:
            if not isinstance(node.operation, GatedBlock):
                fixed[k] += node_cost(node, unit)
                continue
            gate = probability = node.input_tensors[2] if len(node.input_tensors) > 2 else None
            if gate is not None:
                source = _graph.node_of(gate)
                if getattr(source.operation, "return_probability", False):
                    probability = source.outputs[1]
            shares = node.outputs[1] if node.operation.channel_gate is not None else None
            found.gates.append((gate, probability, shares))
            found.exits.append(k)
            found.blocks.append(block_costs(node, unit))
    return found._replace(fixed=np.cumsum(fixed))
