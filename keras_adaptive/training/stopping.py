"""Puts stopping policies on the exits of a network, and teaches them."""

import re
import warnings

import keras
import numpy as np
from keras import ops

from keras_adaptive import costs
from keras_adaptive.layers import StoppingPolicy
from keras_adaptive.stopping import collapse
from keras_adaptive.training import stopping_loss as estimators

LEARNING_RATE = 0.05  # of a policy, as published: a tenth less every two epochs
DECAY, DECAY_EPOCHS = 0.9, 2
MOMENTUM = 0.9


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
            "`stopping` must be one policy an exit but the last, of at least two exits. "
            f"Received: {len(given)} policies, {len(outputs)} exits"
        )
    if any(len(logits.shape) != 2 for logits in outputs):
        raise ValueError(
            "`stopping` needs one answer a sample, logits of shape (batch, classes). "
            f"Received: outputs {[tuple(logits.shape) for logits in outputs]}"
        )
    for layer, logits in zip(given, outputs, strict=False):
        if not layer.built:
            layer.build((None, logits.shape[-1]))
            layer.built = True
    return given


def check_attached(model):
    """Raises a ValueError if a network has no stopping policies."""
    if model.stopping is None:
        raise ValueError(
            "`model` must have stopping policies; see `training.with_stopping`. Received: "
            f"{model.name!r}, which has none"
        )


def check(model, loss):
    """Checks a stopping loss for a network, and lets the policies learn if there is one."""
    if loss is not None:
        if not isinstance(loss, estimators.StoppingLoss):
            raise TypeError(
                f"`stopping_loss` must be a StoppingLoss. Received: stopping_loss={loss!r}"
            )
        check_attached(model)
        if loss.costs is not None and len(loss.costs) != model.exits:
            raise ValueError(
                f"`costs` of the stopping loss must be {model.exits} numbers, one an exit. "
                f"Received: costs={loss.costs}"
            )
        found = model.stopping_costs() if loss.costs is None else loss.costs
        model._charges = loss.charges(found)
        model._relative_costs = np.asarray(found, "float64") / found[-1]
    for layer in model.stopping or ():
        layer.trainable = loss is not None


def policy_costs(layers, unit):
    """Returns the cost of the policies met on the way to each exit, `(exits,)`."""
    each = []
    for layer in layers or ():
        probabilities = keras.Input((layer.hidden[0].kernel.shape[0],))
        each.append(costs.exit_costs([probabilities], [layer(probabilities)], unit)[0])
    # the last exit has none
    return np.cumsum([*each, 0.0]) if each else 0.0


def networks(layers):
    """Returns the weights of the policies as arrays."""
    return [
        [
            tuple(ops.convert_to_numpy(w) for w in (dense.kernel, dense.bias))
            for dense in (*layer.hidden, layer.decision)
        ]
        for layer in layers
    ]


def with_stopping(model, stopping, cost_weight=0.0, **how):
    """Puts stopping policies on the exits of any network.

    The layers are shared with `model`. The new one is compiled with the stopping loss, the
    MSDNet paper's optimizer for the network and the published one for the policies.

    Args:
        model: An `AdaptiveModel` of at least two exits: an MSDNet, a ResNet with gates, a
            cascade.
        stopping: As in `AdaptiveModel`.
        cost_weight, how: Passed to `StoppingLoss`.

    Returns:
        An `AdaptiveModel`.

    Example:

    >>> from keras_adaptive import build_msdnet
    >>> from keras_adaptive.layers import StoppingPolicy
    >>> model = build_msdnet((8, 8, 1), 10, blocks=2, channels=4, growth_rate=2)
    >>> model = with_stopping(model, StoppingPolicy(8), cost_weight=0.01)
    >>> (model.stopping_costs() - model.exit_costs()).tolist()
    [160.0, 160.0]
    """
    new = type(model)(model.inputs, model.outputs, name=model.name, stopping=stopping)
    new.compile(stopping_loss=estimators.StoppingLoss(cost_weight, **how))
    return new


def stopping_optimizer(
    model, members=None, steps_per_epoch=None, learning_rate=LEARNING_RATE, *, policy=None
):
    """Returns an optimizer with a learning rate of its own for the stopping policies.

    As published these learn by gradient descent with momentum 0.9. Where that ends with one
    exit for all samples, `policy=keras.optimizers.Adam(0.003)` often does not.

    Args:
        model: An `AdaptiveModel` with stopping policies.
        members: Optimizer of everything else. `None`: SGD that nothing uses, for frozen
            members.
        steps_per_epoch: Integer: the rate falls by a tenth every two epochs. `None`: it
            stays.
        learning_rate: Number, of the policies at the beginning.
        policy: Optimizer of the policies. `None`: the published one.
    """
    check_attached(model)
    rate = learning_rate
    if steps_per_epoch is not None:
        rate = keras.optimizers.schedules.ExponentialDecay(
            learning_rate, DECAY_EPOCHS * steps_per_epoch, DECAY, staircase=True
        )
    if policy is None:
        policy = keras.optimizers.SGD(rate, momentum=MOMENTUM)
    names = "|".join(re.escape(layer.name) for layer in model.stopping)
    return keras.optimizers.MultiOptimizer(
        keras.optimizers.OptimizerMap(
            keras.optimizers.SGD() if members is None else members,
            {rf"(.*/)?({names})/.*": policy},
        )
    )


def loss(model, y, logits, sample_weight, training):
    """Returns the stopping loss of a batch, and takes notice of what the policies do."""
    labels = _labels(y, logits[0].shape[-1])
    decisions = [
        layer.log_probabilities(ops.softmax(ops.cast(z, "float32"), axis=-1))
        for layer, z in zip(model.stopping, logits, strict=False)
    ]
    how = model.stopping_loss
    sampled = training and how.estimator == "sampled"
    seed = model.stopping_draws if sampled else None
    losses = how.losses(logits, labels, decisions, model._charges, seed)
    _notice(model, logits, labels, decisions)
    return estimators.Mean()(losses, losses, sample_weight)


def _labels(y, classes):
    y = ops.convert_to_tensor(y)
    if len(y.shape) == 2 and y.shape[-1] == classes and classes > 1:
        return ops.argmax(y, axis=-1)
    return ops.cast(ops.reshape(y, (-1,)), "int32")


def _notice(model, logits, labels, decisions):
    """Updates where the greedy policy leaves, and how often it is right there."""
    stops = ops.stack([d[:, 0] >= d[:, 1] for d in decisions], axis=1)
    stops = ops.concatenate([stops, ops.ones_like(stops[:, :1])], axis=1)
    exits = ops.one_hot(ops.argmax(ops.cast(stops, "int32"), axis=1), len(logits))
    answers = ops.stack([ops.argmax(z, axis=-1) for z in logits], axis=1)
    right = ops.cast(ops.equal(answers, ops.cast(labels, answers.dtype)[:, None]), exits.dtype)
    for k, share in enumerate(model.stopping_shares):
        share.update_state(exits[:, k])
    model.stopping_accuracy.update_state(ops.sum(right * exits, axis=1))


def summary(model):
    """Returns what `fit` shows of the greedy policy; its cost is a share of the whole."""
    shares = [share.result() for share in model.stopping_shares]
    cost = sum(s * float(c) for s, c in zip(shares, model._relative_costs, strict=True))
    return {"policy_accuracy": model.stopping_accuracy.result(), "policy_cost": cost}


def warn_of_collapse(shares):
    """Warns if one exit takes (nearly) every sample; says what to change."""
    found = collapse(shares)
    if found is not None:
        warnings.warn(found, stacklevel=3)


def fit_policy(
    model,
    logits,
    labels,
    *,
    cost_weight=None,
    epochs=10,
    batch_size=128,
    learning_rate=LEARNING_RATE,
    optimizer=None,
    verbose="auto",
    **how,
):
    """Trains the stopping policies alone, on logits that were computed before.

    This is the paper's simplified version: the members keep their weights, so each need
    answer only once, and training takes seconds. The policies of `model` learn in place.

    Args:
        model: An `AdaptiveModel` with stopping policies.
        logits: Array `(exits, samples, classes)`, from `predict`.
        labels: Integer array `(samples,)`.
        cost_weight, how: As in `StoppingLoss`. If neither is given, the loss is that the
            model was compiled with.
        epochs: Integer.
        batch_size: Integer.
        learning_rate: Number; it falls by a tenth every two epochs.
        optimizer: In place of the published one: `keras.optimizers.Adam(0.003)`, for example.
        verbose: As in `keras.Model.fit`.

    Returns:
        The `keras.callbacks.History`.
    """
    check_attached(model)
    logits = np.asarray(logits, "float32")
    if logits.ndim != 3 or len(logits) != model.exits:
        raise ValueError(
            f"`logits` must be of shape ({model.exits}, samples, classes). Received: shape "
            f"{logits.shape}"
        )
    config = {} if model.stopping_loss is None else model.stopping_loss.get_config()
    config |= {} if cost_weight is None else {"cost_weight": cost_weight}
    config |= {"costs": config.get("costs") or model.stopping_costs().tolist(), **how}
    read = keras.Input((model.exits, logits.shape[-1]))
    exits = [keras.layers.Identity(name=f"exit_{k}")(read[:, k]) for k in range(model.exits)]
    reader = type(model)(read, exits, stopping=list(model.stopping))
    steps = -(-logits.shape[1] // batch_size)
    if optimizer is not None:  # one that is given again, row by row, must not remember
        optimizer = type(optimizer).from_config(optimizer.get_config())
    reader.compile(
        stopping_optimizer(reader, None, steps, learning_rate, policy=optimizer),
        stopping_loss=estimators.StoppingLoss(**config),
        metrics=None,
    )
    return reader.fit(
        logits.swapaxes(0, 1),
        np.asarray(labels),
        epochs=epochs,
        batch_size=batch_size,
        verbose=verbose,
    )
