"""Fine-tunes the Keras 2 copy of a network that tensorflow_model_optimization has wrapped."""

import numpy as np
import tensorflow as tf

from keras_adaptive._checks import integer, needs_extra

MOMENTUM = 0.9


def fine_tune(model, wrapped, train, *, epochs, learning_rate, batch_size, verbose):
    """Trains a `tf_keras` model whose exits share one label.

    Args:
        model: The `AdaptiveModel` it was copied from, whose exit weights are used.
        wrapped: A `tf_keras.Model` with the same outputs.
        train, epochs, learning_rate, batch_size, verbose: As in `cluster`.
    """
    with needs_extra("compress"):
        import tf_keras

    epochs = integer("epochs", epochs, 1)
    batches = _batches(train, batch_size)
    steps = int(batches.cardinality()) * epochs
    if steps < 0:
        raise ValueError("`train` must be of known size. Received: a dataset of unknown size")
    rate = tf_keras.optimizers.schedules.CosineDecay(learning_rate, steps)
    loss = tf_keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    wrapped.compile(
        tf_keras.optimizers.SGD(rate, momentum=MOMENTUM, nesterov=True),
        loss=[loss] * model.exits,
        loss_weights=model.exit_weights or [1.0] * model.exits,
    )
    each = batches.map(lambda x, y: (x, (y,) * model.exits))
    wrapped.fit(each, epochs=epochs, verbose=verbose)


def _batches(train, batch_size):
    if hasattr(train, "batches"):
        return train.batches("train", batch_size, training=True)
    if isinstance(train, tuple):
        x, y = (np.asarray(part) for part in train)
        return tf.data.Dataset.from_tensor_slices((x, y)).shuffle(len(y)).batch(batch_size)
    return train
