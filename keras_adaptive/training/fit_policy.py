"""Training of stopping policies alone, on cached logits."""

import inspect

import keras
import numpy as np

from keras_adaptive._checks import check_choice, check_labels, integers
from keras_adaptive.policy.policy import right_answers
from keras_adaptive.training import stopping_loss as estimators
from keras_adaptive.training.adaptive_model import check_logits_of
from keras_adaptive.training.stopping_model import (
    LEARNING_RATE,
    StoppingModel,
    check_attached,
    check_rate,
    policy_optimizer,
    stopping_optimizer,
)

TARGETS = ("reward", "deferral")


def fit_policy(
    model,
    logits,
    labels,
    *,
    target="reward",
    cost_weight=None,
    epochs=10,
    batch_size=128,
    learning_rate=LEARNING_RATE,
    optimizer=None,
    verbose="auto",
    **kwargs,
):
    """Trains the stopping policies alone, on cached logits.

    The members keep their weights, so each need answer only once, and training takes
    seconds. The policies of `model` learn in place.

    - `"reward"` is the paper's simplified version: the policies learn to stop where that earns
      most, by `StoppingLoss`, at the cost weight given.
    - `"deferral"` tells the policies what going on to the next exit would gain: with `r_k`
      whether exit `k` is right, 1 or 0, `s_k` learns by cross-entropy from
      `(1 + r_k - r_{k+1}) / 2`, and so becomes `(1 - gain_k) / 2`, with the gain of accuracy
      that is expected of the next exit. Costs do not count here. Thresholds are chosen
      afterwards, by `calibrate(..., confidence=model.learned_policy())`.

    On four networks at equal cost `"deferral"` was never better than exact thresholds on
    `max_prob`, and worse in 2 of 12 comparisons (benchmarks/results/stopping_ways.md), so try
    `calibrate` first.

    Learn from held-out logits, since networks are nearly always right on the images that they
    were trained on, and choose thresholds on others.

    Args:
        model: A `StoppingModel`.
        logits: Array `(exits, samples, classes)`, from `predict`.
        labels: Labels `(samples,)`, as `fit` takes them.
        target: `"reward"` or `"deferral"`.
        cost_weight, **kwargs: As in `StoppingLoss`. If neither is given, the loss is that the
            model was compiled with. Not for `"deferral"`.
        epochs: Integer.
        batch_size: Integer.
        learning_rate: Positive number; it falls by a tenth every two epochs. Not of another
            `optimizer`.
        optimizer: In place of the published one: `keras.optimizers.Adam(0.003)`, for example, or
            a name, `"adam"`.
        verbose: As in `keras.Model.fit`.

    Returns:
        The `keras.callbacks.History`.

    Raises:
        TypeError, ValueError: If an argument is impossible, before anything is trained.

    Example:

    >>> from keras_adaptive import calibrate
    >>> from keras_adaptive.layers import StoppingPolicy
    >>> image = keras.Input((6,))
    >>> exits = [keras.layers.Dense(3, name=f"exit_{k}")(image) for k in range(2)]
    >>> model = StoppingModel(image, exits, stopping=StoppingPolicy(4))
    >>> rng = np.random.default_rng(0)
    >>> labels = rng.integers(0, 3, 60)
    >>> logits = rng.normal(size=(2, 60, 3))
    >>> history = fit_policy(model, logits, labels, target="deferral", verbose=0)
    >>> learned = model.learned_policy()
    >>> calibrate(logits, labels, [1, 2], budget=1.5, confidence=learned).exact
    True

    References:
        `"reward"`: [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368); `"deferral"`: [When Does
        Confidence-Based Cascade Deferral Suffice? (Jitkrittum et al., 2023)](
        https://arxiv.org/abs/2307.02764).
    """
    if cost_weight is not None:
        kwargs["cost_weight"] = cost_weight
    how = {"target": target, "epochs": epochs, "batch_size": batch_size}
    check_training(model, **how, learning_rate=learning_rate, optimizer=optimizer, **kwargs)
    epochs, batch_size = integers(1, epochs=epochs, batch_size=batch_size)
    logits = check_logits_of(model, logits).astype("float32", copy=False)
    labels = check_labels(labels, logits)
    steps = -(-logits.shape[1] // batch_size)
    if isinstance(optimizer, str):
        optimizer = keras.optimizers.get(optimizer)
    elif optimizer is not None:  # one that is given again, row by row, must not remember
        optimizer = type(optimizer).from_config(optimizer.get_config())
    read = keras.Input((model.num_exits, logits.shape[-1]))
    if target == "deferral":
        probabilities = keras.ops.softmax(read, axis=-1)
        decisions = [layer(probabilities[:, k]) for k, layer in enumerate(model.stopping)]
        reader = keras.Model(read, decisions)
        reader.compile(
            optimizer or policy_optimizer(steps, learning_rate), "categorical_crossentropy"
        )
        wanted = list(_deferral(logits, labels))
    else:
        config = _loss_config(model, kwargs)
        config["costs"] = config.get("costs") or model.stopping_costs().tolist()
        exits = [
            keras.layers.Identity(name=f"exit_{k}")(read[:, k]) for k in range(model.num_exits)
        ]
        reader = StoppingModel(read, exits, stopping=list(model.stopping))
        reader.compile(
            stopping_optimizer(reader, None, steps, learning_rate, policy=optimizer),
            stopping_loss=estimators.StoppingLoss(**config),
            metrics=None,
        )
        wanted = labels
    return reader.fit(
        logits.swapaxes(0, 1),
        wanted,
        epochs=epochs,
        batch_size=batch_size,
        verbose=verbose,
    )


def check_training(
    model,
    *,
    target="reward",
    epochs=1,
    batch_size=1,
    learning_rate=LEARNING_RATE,
    optimizer=None,
    **kwargs,
):
    """Checks the arguments of `fit_policy`, but the logits and the labels.

    Raises:
        TypeError, ValueError: If one is impossible.
    """
    check_attached(model)
    check_choice(TARGETS, target=target)
    integers(1, epochs=epochs, batch_size=batch_size)
    estimators.check_names(kwargs, "fit_policy", tuple(inspect.signature(fit_policy).parameters))
    if target == "deferral" and kwargs:
        raise ValueError(
            'With `target="deferral"`, arguments of StoppingLoss must not be given. '
            f"Received: {sorted(kwargs)}"
        )
    estimators.StoppingLoss(**_loss_config(model, kwargs))
    if optimizer is None:
        policy_optimizer(1, learning_rate)
    else:
        check_rate(_optimizer(optimizer), "`optimizer`")


def _optimizer(given):
    """Returns an optimizer by its name."""
    try:
        found = keras.optimizers.get(given) if isinstance(given, str) else given
    except ValueError:  # Keras's own message is about saved files
        found = None
    if not isinstance(found, keras.optimizers.Optimizer):
        raise TypeError(
            "`optimizer` must be a keras.optimizers.Optimizer, or the name of one. "
            f"Received: optimizer={given!r}"
        )
    return found


def _loss_config(model, changes):
    """Returns the arguments of the model's loss with changes."""
    return {**({} if model.stopping_loss is None else model.stopping_loss.get_config()), **changes}


def _deferral(logits, labels):
    """Returns the wanted probabilities of stopping and going on, `(exits - 1, samples, 2)`."""
    right = right_answers(logits, labels)
    stop = (1 + right[:-1] - right[1:]) / 2
    return np.stack([stop, 1 - stop], axis=-1).astype("float32")
