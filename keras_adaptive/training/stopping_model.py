"""Learned stopping: networks whose exits have policies that learn when to stop."""

import re
import warnings

import keras
import numpy as np
from keras import ops

from keras_adaptive import _graph, costs
from keras_adaptive._checks import finite
from keras_adaptive.layers.stopping_policy import StoppingPolicy
from keras_adaptive.policy.learned_policy import LearnedPolicy
from keras_adaptive.training import stopping_loss as estimators
from keras_adaptive.training._mean import mean
from keras_adaptive.training.adaptive_model import AdaptiveModel, class_labels
from keras_adaptive.training.collapse import collapse

LEARNING_RATE = 0.05  # of a policy, as published: a tenth less every two epochs
DECAY, DECAY_EPOCHS = 0.9, 2
MOMENTUM = 0.9


@keras.saving.register_keras_serializable(package="keras_adaptive")
class StoppingModel(AdaptiveModel):
    """An `AdaptiveModel` whose exits have policies that learn when to stop. Experimental.

    Small networks read the probabilities of every exit but the last. They are part of the
    model, saved and trained with it (see `StoppingLoss`), but not of its outputs;
    `learned_policy` makes a policy of them. They learn where there is a stopping loss, and
    rest otherwise.

    Of 36 learned policies that were measured none was better than calibrated thresholds
    (benchmarks/results/stopping.md), so try `calibrate` first. This class may change.

    Args:
        inputs, outputs, name: As in `AdaptiveModel`.
        stopping: A `StoppingPolicy`, of which every exit but the last gets its own copy with
            its own weights; or a list of them, to be used as they are. It must be given:
            `keras.models.clone_model` does not, so clone by
            `StoppingModel.from_config(model.get_config())`.

    Raises:
        TypeError, ValueError: If the policies do not fit the exits.

    Example:

    >>> from keras_adaptive.layers import StoppingPolicy
    >>> image = keras.Input((6,))
    >>> exits = [keras.layers.Dense(3, name=f"exit_{k}")(image) for k in range(2)]
    >>> model = StoppingModel(image, exits, stopping=StoppingPolicy(4))
    >>> model.compile(stopping_loss=estimators.StoppingLoss(cost_weight=0.01))
    >>> model.learned_policy().thresholds.tolist()
    [0.5, -inf]

    Reference:
        [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368).
    """

    stopping_loss = None

    def __init__(self, inputs, outputs, name=None, *, stopping=None, **kwargs):
        if stopping is None:  # so does `clone_model`, which knows the network only
            raise ValueError(
                "`stopping` must be a StoppingPolicy or a list of them. To clone a StoppingModel, "
                "in the place of `keras.models.clone_model` take "
                "`StoppingModel.from_config(model.get_config())`. Received: stopping=None"
            )
        super().__init__(inputs, outputs, name=name, **kwargs)
        self.stopping = policies(stopping, self.outputs)
        _graph.freeze_inside(self)
        self.stopping_draws = keras.random.SeedGenerator()
        self.stopping_shares = [keras.metrics.Mean(f"share_{k}") for k in range(self.num_exits)]
        self.stopping_accuracy = keras.metrics.Mean("policy_accuracy")

    def get_config(self):
        layers = [keras.saving.serialize_keras_object(layer) for layer in self.stopping]
        return {**super().get_config(), "stopping": layers}

    @classmethod
    def from_config(cls, config, custom_objects=None):
        layers = [keras.saving.deserialize_keras_object(each) for each in config["stopping"]]
        return super().from_config({**config, "stopping": layers}, custom_objects)

    # compiled without a loss of their own the policies get no gradient, and must not decay
    # either; whether they are `trainable` is the user's to say

    def _resting(self):
        if self.stopping_loss is not None or not getattr(self, "compiled", False):
            return set()
        return {id(v) for layer in self.stopping for v in layer.variables}

    @property
    def trainable_variables(self):
        resting = self._resting()
        return [v for v in super().trainable_variables if id(v) not in resting]

    @property
    def trainable_weights(self):
        resting = self._resting()
        return [v for v in super().trainable_weights if id(v) not in resting]

    @property
    def non_trainable_variables(self):
        learning = {id(v) for v in self.trainable_variables}
        return [v for v in self.variables if id(v) not in learning]

    @property
    def non_trainable_weights(self):
        learning = {id(v) for v in self.trainable_weights}
        return [v for v in self.weights if id(v) not in learning]

    def compile(self, *args, stopping_loss=None, **kwargs):
        """As `AdaptiveModel.compile`.

        Args:
            *args, **kwargs: As there, but `optimizer=None` is `stopping_optimizer` with that
                one for the network, and `exit_weights=None` 0 each, if there is a stopping
                loss.
            stopping_loss: A `StoppingLoss`, or `None`: the policies rest.
        """
        self.check_stopping_loss(stopping_loss)
        if stopping_loss is not None:
            given = stopping_loss.costs
            found = self.stopping_costs() if given is None else given
            self._charges = stopping_loss.charges(found)
            self._relative_costs = np.asarray(found, "float64") / found[-1]
        self.stopping_loss = stopping_loss
        super().compile(*args, **kwargs)

    def check_stopping_loss(self, loss):
        """Raises a TypeError or a ValueError if a stopping loss is not one for this network."""
        if loss is None:
            return
        if not isinstance(loss, estimators.StoppingLoss):
            raise TypeError(
                f"`stopping_loss` must be a StoppingLoss. Received: stopping_loss={loss!r}"
            )
        if loss.costs is not None and len(loss.costs) != self.num_exits:
            raise ValueError(
                f"`costs` of the stopping loss must be {self.num_exits} numbers, one per exit. "
                f"Received: costs={loss.costs}"
            )

    def compiled_with(self):
        found = super().compiled_with()
        return {**found, "stopping_loss": self.stopping_loss} if self.compiled else found

    def _exit_weights(self):
        if self.exit_weights is None and self.stopping_loss is not None:
            return [0.0] * self.num_exits
        return super()._exit_weights()

    def _default_optimizer(self):
        optimizer = super()._default_optimizer()
        return optimizer if self.stopping_loss is None else stopping_optimizer(self, optimizer)

    def get_compile_config(self):
        config = super().get_compile_config()
        if config:
            config["stopping_loss"] = keras.saving.serialize_keras_object(self.stopping_loss)
        return config

    def compute_loss(self, x=None, y=None, y_pred=None, sample_weight=None, training=True):
        loss = super().compute_loss(x, y, y_pred, sample_weight, training)
        if self.stopping_loss is None:
            return loss
        labels = class_labels(self.per_exit(y)[-1], y_pred[0].shape[-1])
        decisions = [
            layer.log_probabilities(ops.softmax(ops.cast(z, "float32"), axis=-1))
            for layer, z in zip(self.stopping, y_pred, strict=False)
        ]
        sampled = training and self.stopping_loss.estimator == "sampled"
        seed = self.stopping_draws if sampled else None
        losses = self.stopping_loss.losses(y_pred, labels, decisions, self._charges, seed)
        self._notice(y_pred, labels, decisions)
        weights = None if sample_weight is None else self.per_exit(sample_weight)[-1]
        return loss + mean(losses, weights)

    def _notice(self, logits, labels, decisions):
        """Updates where the greedy policy leaves, and how often it is right there."""
        stops = ops.stack([d[:, 0] >= d[:, 1] for d in decisions], axis=1)
        stops = ops.concatenate([stops, ops.ones_like(stops[:, :1])], axis=1)
        exits = ops.one_hot(ops.argmax(ops.cast(stops, "int32"), axis=1), len(logits))
        answers = ops.stack([ops.argmax(z, axis=-1) for z in logits], axis=1)
        right = ops.cast(ops.equal(answers, ops.cast(labels, answers.dtype)[:, None]), exits.dtype)
        for k, share in enumerate(self.stopping_shares):
            share.update_state(exits[:, k])
        self.stopping_accuracy.update_state(ops.sum(right * exits, axis=1))

    def get_metrics_result(self):
        """As in `AdaptiveModel`; the cost of the greedy policy is a share of the whole."""
        summary = super().get_metrics_result()
        if self.stopping_loss is not None:
            shares = [share.result() for share in self.stopping_shares]
            summary["policy_accuracy"] = self.stopping_accuracy.result()
            summary["policy_cost"] = sum(
                s * float(c) for s, c in zip(shares, self._relative_costs, strict=True)
            )
        return summary

    def fit(self, *args, **kwargs):
        """As in Keras. A stopping policy that has collapsed is warned about."""
        history = super().fit(*args, **kwargs)
        if self.stopping_loss is not None:
            found = collapse([float(share.result()) for share in self.stopping_shares])
            if found is not None:
                warnings.warn(found, stacklevel=2)
        return history

    def stopping_costs(self, unit="macs"):
        """Returns `exit_costs` with the stopping policies of all exits visited included."""
        return self.exit_costs(unit) + policy_costs(self.stopping, unit)

    def learned_policy(self, thresholds=None, **kwargs):
        """Returns the learned stopping policies as a `LearnedPolicy`.

        Args:
            thresholds: Sequence of one number per exit: the probabilities from which to stop.
                `None`: 0.5 each.
            **kwargs: Passed to `LearnedPolicy`.
        """
        policy = LearnedPolicy(networks(self.stopping), thresholds, **kwargs)
        policy.network = self.network
        return policy


def check_attached(model):
    """Raises a ValueError if a network has no stopping policies."""
    if not isinstance(model, StoppingModel):
        raise ValueError(
            "`model` must have stopping policies; see `training.add_stopping`. Received: "
            f"{getattr(model, 'name', model)!r}, which has none"
        )


def policies(given, outputs):
    """Returns the built policies of the exits: every exit's but the last's.

    Args:
        given: A `StoppingPolicy`, the pattern of all, or a list of them.
        outputs: List of the exits' symbolic logits.
    """
    if isinstance(given, StoppingPolicy):
        config = given.get_config()
        given = [
            StoppingPolicy.from_config({**config, "name": f"{given.name}_{k}"})
            for k in range(len(outputs) - 1)
        ]
    given = list(given) if isinstance(given, (list, tuple)) else [given]
    if not all(isinstance(layer, StoppingPolicy) for layer in given):
        raise TypeError(
            f"`stopping` must be a StoppingPolicy or a list of them. Received: stopping={given}"
        )
    if len(outputs) < 2 or len(given) != len(outputs) - 1:
        raise ValueError(
            "`stopping` must be one policy per exit but the last, of at least two exits. "
            f"Received: {len(given)} policies, {len(outputs)} exits"
        )
    if any(len(logits.shape) != 2 for logits in outputs):
        raise ValueError(
            "`stopping` needs one answer per sample, logits of shape (batch, classes). "
            f"Received: outputs {[tuple(logits.shape) for logits in outputs]}"
        )
    for layer, logits in zip(given, outputs, strict=False):
        if not layer.built:
            layer.build((None, logits.shape[-1]))
            layer.built = True
        if layer.hidden[0].kernel.shape[0] != logits.shape[-1]:
            raise ValueError(
                f"`stopping` must be policies for {logits.shape[-1]} classes, or not built. "
                f"Received: {layer.name!r}, for {layer.hidden[0].kernel.shape[0]}"
            )
    return given


def policy_costs(layers, unit):
    """Returns the cost of the policies met on the way to each exit, `(exits,)`."""
    each = []
    for layer in layers:
        probabilities = keras.Input((layer.hidden[0].kernel.shape[0],))
        each.append(costs.exit_costs([probabilities], [layer(probabilities)], unit)[0])
    # the last exit has none
    return np.cumsum([*each, 0.0])


def networks(layers):
    """Returns the weights of the policies as arrays."""
    return [
        [
            tuple(ops.convert_to_numpy(w) for w in (dense.kernel, dense.bias))
            for dense in (*layer.hidden, layer.decision)
        ]
        for layer in layers
    ]


def stopping_optimizer(
    model, members=None, steps_per_epoch=None, learning_rate=LEARNING_RATE, *, policy=None
):
    """Returns an optimizer with a learning rate of its own for the stopping policies.

    As published these learn by gradient descent with momentum 0.9. Where that ends with one
    exit for all samples, `policy=keras.optimizers.Adam(0.003)` often does not.

    Args:
        model: A `StoppingModel`.
        members: Optimizer of everything else. `None`: SGD that nothing uses, for frozen
            members.
        steps_per_epoch: Integer: the rate falls by a tenth every two epochs. `None`: it
            stays.
        learning_rate: Positive number, of the policies at the beginning.
        policy: Optimizer of the policies. `None`: the published one.

    Raises:
        ValueError: If the model has no policies, or the learning rate is impossible.
    """
    check_attached(model)
    if policy is None:
        policy = policy_optimizer(steps_per_epoch, learning_rate)
    names = "|".join(re.escape(layer.name) for layer in model.stopping)
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(
            keras.optimizers.SGD() if members is None else members,
            {rf"(.*/)?({names})/.*": policy},
        )
    )


def policy_optimizer(steps_per_epoch=None, learning_rate=LEARNING_RATE):
    """Returns the published optimizer of stopping policies; see `stopping_optimizer`."""
    is_schedule = isinstance(learning_rate, keras.optimizers.schedules.LearningRateSchedule)
    if is_schedule and steps_per_epoch is not None:
        raise ValueError(
            "`learning_rate` must be a positive number, which falls by a tenth every two epochs; "
            "for another schedule give an optimizer, `keras.optimizers.SGD(schedule)`. Received: "
            f"learning_rate={learning_rate!r}"
        )
    rate = learning_rate if is_schedule else finite(learning_rate, "learning_rate")
    if not is_schedule and rate <= 0:
        raise ValueError(f"`learning_rate` must be positive. Received: learning_rate={rate}")
    if steps_per_epoch is not None:
        rate = keras.optimizers.schedules.ExponentialDecay(
            rate, DECAY_EPOCHS * steps_per_epoch, DECAY, staircase=True
        )
    return keras.optimizers.SGD(rate, momentum=MOMENTUM)


def check_rate(optimizer, name):
    """Raises a ValueError if the learning rate of an optimizer is impossible.

    Args:
        optimizer: A Keras optimizer, which may be made of others.
        name: String, what an error calls it.
    """
    for each in getattr(optimizer, "optimizers", [optimizer]):
        rate = float(keras.ops.convert_to_numpy(each.learning_rate))
        if not 0 <= rate < float("inf"):
            raise ValueError(
                f"The learning rate of {name} must be a finite number of at least 0. Received: "
                f"learning_rate={rate}"
            )
