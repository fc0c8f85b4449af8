"""Fine-tunes the Keras 2 copy of a network that tensorflow_model_optimization has wrapped."""

import tensorflow as tf

from keras_adaptive._checks import (
    check_inputs,
    check_labels_of,
    each_input,
    finite,
    integers,
    needs_extra,
)
from keras_adaptive.training._inputs import Inputs
from keras_adaptive.training._training_data import check_splits, for_training

MOMENTUM = 0.9
LOSS = "sparse_categorical_crossentropy"
MUST_TRAIN = (
    "`train` must be a tuple (x, y) of arrays, a tf.data.Dataset of batches or a data.Splits."
)


def checked(model, train, *, epochs, learning_rate, batch_size):
    """Returns what `fine_tune` takes as keywords, checked before there is any work.

    Args:
        model: The `AdaptiveModel`.
        train, epochs, learning_rate, batch_size: As in `cluster`.
    """
    epochs, batch_size = integers(1, epochs=epochs, batch_size=batch_size)
    rate = finite(learning_rate, "learning_rate")
    if rate <= 0:
        raise ValueError(
            f"`learning_rate` must be positive. Received: learning_rate={learning_rate}"
        )
    batches = _batches(model, train, batch_size)
    if int(batches.cardinality()) < 0:
        raise ValueError("`train` must be of known size. Received: a dataset of unknown size")
    return {"batches": batches, "epochs": epochs, "learning_rate": rate}


def fine_tune(model, wrapped, *, batches, epochs, learning_rate, verbose):
    """Trains a `tf_keras` model whose exits share one label.

    Args:
        model: The `AdaptiveModel` it was copied from, whose exit weights are used.
        wrapped: A `tf_keras.Model` with the same outputs.
        batches, epochs, learning_rate: As `checked` returns them.
        verbose: As in `cluster`.
    """
    with needs_extra("compress"):
        import tf_keras

    steps = int(batches.cardinality()) * epochs
    rate = tf_keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    wrapped.compile(
        tf_keras.optimizers.SGD(rate, momentum=MOMENTUM, nesterov=True),
        loss=[loss] * model.exits,
        loss_weights=model.exit_weights or [1.0] * model.exits,
    )
    each = batches.map(lambda x, *others: (x, *((part,) * model.exits for part in others)))
    wrapped.fit(each, epochs=epochs, verbose=verbose)


def _batches(model, train, batch_size):
    if hasattr(train, "batches"):
        check_splits("train", train, model)
        return train.batches("train", batch_size, training=True)
    if isinstance(train, (tuple, list)) and len(train) == 2:
        x, y = _arrays(model, *train)
        return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(y)).batch(batch_size)
    if not hasattr(train, "element_spec"):
        raise TypeError(f"{MUST_TRAIN} Received: train of type {type(train).__name__}")
    return for_training(train, model, LOSS, None, None)


def _arrays(model, x, y):
    """Returns checked arrays of a network's inputs, and labels as integers."""
    inputs = Inputs(model).inputs
    arrays = check_inputs(each_input(x, inputs, "train"), inputs, "train")
    labels = check_labels_of(y, (1, len(arrays[0]), model.outputs[-1].shape[-1]))
    return arrays[0] if len(arrays) == 1 else tuple(arrays), labels
