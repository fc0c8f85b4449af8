"""REINFORCE for gates: decisions are drawn at random and rewarded."""

import keras

from keras_adaptive import _graph
from keras_adaptive._checks import check_choice, finite
from keras_adaptive.layers.gated_block import GatedBlock
from keras_adaptive.layers.skip_gate import SkipGate
from keras_adaptive.training._mean import mean
from keras_adaptive.training.adaptive_model import AdaptiveModel, class_labels

LEAST = 1e-6  # of a probability, for its logarithm


@keras.saving.register_keras_serializable(package="keras_adaptive")
class Reinforce:
    """SkipNet's second stage: REINFORCE on the gates of layers, after supervised training.

    While training, a gate is open with its probability `p`, `a ~ Bernoulli(p)`; at test time
    it is `1[p > 0.5]` as before. Of each image, decision `t` of `T` is rewarded by what it
    and the later ones skip, and by the answer:

        return_t = sum_{s >= t} (1 - a_s) * reward / T - cross entropy
        loss = cross entropy - weight * sum_t (return_t - baseline_t) * log p(a_t)

    both as means over the batch; the return is a constant, and the last exit's cross entropy
    counts. Gates learn by the second term alone, the network by the first.

    Normalizations keep their weights and statistics: what is drawn at random shows a block
    images that it will not see, and statistics that followed them would fit no longer.

    Args:
        reward: Number of at least 0, for skipping everything; alpha of the paper.
        weight: Number of at least 0. (SkipNet's code sums over the batch instead of taking
            the mean: its 0.01 is 1.28 here, with its batches of 128.)
        baseline: Boolean, whether the mean return over the batch is subtracted, which makes
            the gradient less noisy.
        rate: Number, times the recipe's learning rate.

    Raises:
        ValueError: If an argument is impossible.

    Example:

    >>> Reinforce(reward=0.2).get_config()
    {'reward': 0.2, 'weight': 0.01, 'baseline': False, 'rate': 0.001}

    Reference:
        [SkipNet (Wang et al., 2018)](https://arxiv.org/abs/1711.09485), section 3.3.
    """

    def __init__(self, reward=0.1, weight=0.01, baseline=False, rate=1e-3):
        self.reward, self.weight = finite(reward, "reward"), finite(weight, "weight")
        for name, value in (("reward", self.reward), ("weight", self.weight)):
            if value < 0:
                raise ValueError(f"`{name}` must be at least 0. Received: {name}={value}")
        check_choice((True, False), baseline=baseline)
        self.baseline = bool(baseline)
        self.rate = finite(rate, "rate")
        if not self.rate > 0:
            raise ValueError(f"`rate` must be positive. Received: rate={rate}")

    def returns(self, actions, losses):
        """Returns the return of each decision, `(batch, T)`.

        Args:
            actions: `(batch, T)`, 0 or 1.
            losses: `(batch,)`, the cross entropy of each image.
        """
        rewards = (1 - actions) * self.reward / actions.shape[1]
        to_come = keras.ops.flip(keras.ops.cumsum(keras.ops.flip(rewards, 1), axis=1), 1)
        return to_come - keras.ops.expand_dims(losses, 1)

    def loss(self, actions, probabilities, losses):
        """Returns the gates' part of the loss.

        Args:
            actions, losses: As in `returns`.
            probabilities: `(batch, T)`, of being open.
        """
        found = self.returns(actions, losses)
        if self.baseline:
            found = found - keras.ops.mean(found, axis=0, keepdims=True)
        taken = actions * probabilities + (1 - actions) * (1 - probabilities)
        logs = keras.ops.log(keras.ops.maximum(taken, LEAST))
        per_image = keras.ops.sum(keras.ops.stop_gradient(found) * logs, axis=1)
        return -self.weight * mean(per_image)

    def get_config(self):
        return {
            "reward": self.reward,
            "weight": self.weight,
            "baseline": self.baseline,
            "rate": self.rate,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def gate_nodes(model, reinforce):
    """Returns the gates of a network's blocks, symbolic tensors, and the nodes that give them.

    Raises:
        ValueError: If there are none that can be drawn.
    """
    nodes = _graph.nodes_between(model.inputs, model.outputs)
    gates = [
        node.input_tensors[2]
        for node in nodes
        if isinstance(node.operation, GatedBlock) and len(node.input_tensors) > 2
    ]
    sources = [_graph.node_of(gate) for gate in gates]
    if not gates or not all(_says_its_probability(node.operation) for node in sources):
        raise ValueError(
            "`reinforce` must be None for a network without gates of layers that return their "
            f"probability. Received: reinforce={reinforce}"
        )
    return gates, sources


def with_drawn_gates(model, reinforce):
    """Returns an `AdaptiveModel` with the same layers whose gates are drawn while it learns."""
    nodes = _graph.nodes_between(model.inputs, model.outputs)
    gates, sources = gate_nodes(model, reinforce)
    inputs = [keras.Input(batch_shape=t.shape, dtype=t.dtype, name=t.name) for t in model.inputs]
    tensors = {id(old): new for old, new in zip(model.inputs, inputs, strict=True)}
    drawn = {id(node.operation): _DrawnGate(node.operation) for node in sources}
    targets = [*model.outputs, *gates, *(node.outputs[1] for node in sources)]
    outputs = _graph.call_again(nodes, tensors, targets, instead=drawn)
    return _DrawingModel(inputs, outputs, model.num_exits, reinforce, name=model.name)


def _says_its_probability(gate):
    return isinstance(gate, SkipGate) and gate.return_probability


class _DrawnGate(keras.layers.Layer):
    """A `SkipGate` that is open with its probability while it learns."""

    def __init__(self, gate):
        super().__init__(name=f"{gate.name}_drawn", dtype=gate.dtype_policy)
        self.gate = gate
        self.seeds = keras.random.SeedGenerator()
        self.built = True

    def call(self, features, state=None, training=None):
        outputs = self.gate(features, state)
        if training:
            probability = outputs[1]
            draw = keras.random.uniform(keras.ops.shape(probability), seed=self.seeds)
            is_open = keras.ops.cast(
                draw < keras.ops.cast(probability, draw.dtype), probability.dtype
            )
            outputs = [keras.ops.stop_gradient(is_open), *outputs[1:]]
        return outputs

    def compute_output_spec(self, features, state=None, training=None):
        return self.gate.compute_output_spec(features, state)


class _DrawingModel(AdaptiveModel):
    """An `AdaptiveModel` that remembers, from its call to its loss, what was drawn."""

    def __init__(self, inputs, outputs, exits, reinforce, name):
        super().__init__(inputs, outputs[:exits], name=name)
        self.reinforce = reinforce
        self._drawn = tuple(outputs[exits:])

    def compile(self, *args, **kwargs):
        super().compile(*args, **kwargs)
        self._watch(self._drawn)

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        drawn = self._seen
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if not training:
            return loss
        actions, probabilities = (
            keras.ops.cast(keras.ops.concatenate(part, axis=1), "float32")
            for part in (drawn[: len(drawn) // 2], drawn[len(drawn) // 2 :])
        )
        labels = class_labels(self.per_exit(y)[-1], y_pred[-1].shape[-1])
        losses = keras.losses.sparse_categorical_crossentropy(labels, y_pred[-1], from_logits=True)
        return loss + self.reinforce.loss(actions, probabilities, losses)
