"""Training of stopping policies alone, on cached logits."""

import keras

from keras_adaptive._checks import check_labels, check_logits, integers
from keras_adaptive.training import stopping_loss as estimators
from keras_adaptive.training.stopping_model import (
    LEARNING_RATE,
    StoppingModel,
    check_attached,
    stopping_optimizer,
)


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
    **kwargs,
):
    """Trains the stopping policies alone, on cached logits.

    This is the paper's simplified version: the members keep their weights, so each need
    answer only once, and training takes seconds. The policies of `model` learn in place.

    Args:
        model: A `StoppingModel`.
        logits: Array `(exits, samples, classes)`, from `predict`.
        labels: Labels `(samples,)`, as `fit` takes them.
        cost_weight, **kwargs: As in `StoppingLoss`. If neither is given, the loss is that the
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
    epochs, batch_size = integers(1, epochs=epochs, batch_size=batch_size)
    logits = check_logits(logits).astype("float32", copy=False)
    if logits.ndim != 3 or len(logits) != model.num_exits:
        raise ValueError(
            f"`logits` must be of shape ({model.num_exits}, samples, classes). Received: shape "
            f"{logits.shape}"
        )
    labels = check_labels(labels, logits)
    config = {} if model.stopping_loss is None else model.stopping_loss.get_config()
    config |= {} if cost_weight is None else {"cost_weight": cost_weight}
    config |= {"costs": config.get("costs") or model.stopping_costs().tolist(), **kwargs}
    read = keras.Input((model.num_exits, logits.shape[-1]))
    exits = [keras.layers.Identity(name=f"exit_{k}")(read[:, k]) for k in range(model.num_exits)]
    reader = StoppingModel(read, exits, stopping=list(model.stopping))
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
        labels,
        epochs=epochs,
        batch_size=batch_size,
        verbose=verbose,
    )
