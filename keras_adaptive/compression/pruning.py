"""Magnitude pruning: sets the smallest weights to zero during training."""

import functools

import keras

from keras_adaptive._checks import check_choice, finite, integer
from keras_adaptive.compression._libraries import tfmot
from keras_adaptive.compression.sizes import weighted_layers

UPDATES = 100  # of the masks, for a sparsity given as a number
RISING = 0.5  # of the training, likewise; the rest recovers


class MagnitudePruning(keras.callbacks.Callback):
    """Prunes the kernels of all convolutions and dense layers during `fit`.

    After every step the entries that the mask leaves out are set to zero. A kernel's mask
    keeps its entries of largest magnitude, or its blocks of largest mean magnitude; it is
    renewed when the schedule says so. Masks are chosen as by tensorflow_model_optimization,
    which itself does not support Keras 3 models. When training ends nothing has to be
    removed: the model is an ordinary one with zeros in it.

    The schedule counts the optimizer's steps, so a training that resumes from a backup
    continues where it was, and each phase of a regime runs through the schedule anew.

    Zeros alone make a .tflite file neither smaller nor faster; `gzipped_size` shows what
    they save once the file is compressed.

    Args:
        sparsity: Number from 0 to below 1, the fraction of zeros in each kernel at the end:
            it rises in the first half of the training, fast at first. Or a `PruningSchedule`
            of tensorflow_model_optimization.
        block_size: Tuple of two integers. A kernel is seen as the matrix
            `(height * width * inputs, outputs)` and pruned in blocks of this many rows and
            columns.
        block_pooling: `"AVG"` or `"MAX"`: whether blocks are compared by the mean or by the
            largest of their magnitudes.
        layers: Sequence of layers to prune. `None`: all convolutions and dense layers of the
            model, those inside others included.

    Raises:
        ValueError: If an argument is impossible, or the number of steps is not known where
            `sparsity` is a number.

    Example:

    >>> model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(10)])
    >>> model.compile("sgd", "mse")
    >>> x, y = keras.ops.ones((16, 8)), keras.ops.zeros((16, 10))
    >>> pruning = MagnitudePruning(sparsity=0.5)
    >>> history = model.fit(x, y, batch_size=8, epochs=2, callbacks=[pruning], verbose=0)
    >>> [float((kernel == 0).mean()) for kernel in pruning.kernels()]
    [0.5]

    Reference:
        [To prune, or not to prune (Zhu and Gupta, 2017)](https://arxiv.org/abs/1710.01878).
    """

    def __init__(self, sparsity, block_size=(1, 1), block_pooling="AVG", layers=None):
        super().__init__()
        if not callable(sparsity) and not 0 <= finite(sparsity, "sparsity") < 1:
            raise ValueError(
                "`sparsity` must be a number from 0 to below 1, or a PruningSchedule. "
                f"Received: sparsity={sparsity}"
            )
        try:
            rows, columns = (integer("block_size", n, 1) for n in block_size)
        except (TypeError, ValueError) as error:
            raise ValueError(
                f"`block_size` must be two positive integers. Received: block_size={block_size}"
            ) from error
        check_choice(("AVG", "MAX"), block_pooling=block_pooling)
        self.sparsity = sparsity if callable(sparsity) else float(sparsity)
        self.block_size = rows, columns
        self.block_pooling = block_pooling
        in_order = isinstance(layers, (list, tuple, type(None)))
        if not in_order or not all(isinstance(x, keras.Layer) for x in layers or ()):
            raise TypeError(
                "`layers` must be a list of Keras layers, or None. Received: "
                f"layers={layers if not in_order else list(layers)!r}"
            )
        self.layers = None if layers is None else list(layers)
        self._pruned = []
        self._step = self._done = None

    def kernels(self):
        """Returns the kernels that are pruned, as arrays."""
        return [keras.ops.convert_to_numpy(layer.kernel) for layer in self._pruned]

    def on_train_begin(self, logs=None):
        self._pruned = weighted_layers(self.model) if self.layers is None else self.layers
        if not self._pruned:
            raise ValueError(
                "`model` must have convolutions or dense layers to prune. "
                f"Received: {self.model.name!r}, which has none"
            )
        bare = [x.name for x in self._pruned if getattr(x, "kernel", None) is None]
        if bare:
            raise ValueError(
                f"`layers` must be built layers that have a kernel. Received: {bare}, without one"
            )
        self._done = None  # a backup may be restored before the first step
        self._step = _pruning_step(
            [layer.kernel.value for layer in self._pruned],
            self._schedule(),
            self.block_size,
            self.block_pooling,
        )

    def on_train_batch_begin(self, batch, logs=None):
        if self._done is None:
            self._done = int(self.model.optimizer.iterations)

    def on_train_batch_end(self, batch, logs=None):
        steps = int(self.model.optimizer.iterations)
        for step in range(self._done + 1, steps + 1):  # several, with `steps_per_execution`
            self._step(step)
        self._done = steps

    def _schedule(self):
        if callable(self.sparsity):
            return self.sparsity
        steps = self.params.get("steps")
        if steps is None:
            raise ValueError(
                "`sparsity` must be a PruningSchedule where the number of steps is not known. "
                f"Received: sparsity={self.sparsity}"
            )
        # of several batches each, with `gradient_accumulation_steps`
        optimizer = getattr(self.model, "optimizer", None)
        optimizer = getattr(optimizer, "inner_optimizer", optimizer)  # which scales the loss
        each = getattr(optimizer, "gradient_accumulation_steps", None) or 1
        end = max(int(RISING * steps * self.params["epochs"] / each), 1)
        schedules = tfmot().sparsity.keras
        frequency = max(end // UPDATES, 1)
        end = 1 + (end - 1) // frequency * frequency  # so that the last update is at the end
        if end == 1:
            return schedules.ConstantSparsity(self.sparsity, 1, frequency=1)
        return schedules.PolynomialDecay(0.0, self.sparsity, 1, end, frequency=frequency)


def _pruning_step(kernels, schedule, block_size, block_pooling):
    """Returns a function of the step's number that prunes TensorFlow variables."""
    tfmot()  # says so where the backend is another
    import tensorflow as tf

    # masks are not saved: a training that goes on needs new ones before the next update
    first = tf.Variable(True, trainable=False)
    masks = [tf.Variable(tf.ones_like(kernel), trainable=False) for kernel in kernels]

    @tf.function(autograph=False)
    def prune(step):
        due, sparsity = schedule(step)
        due = tf.logical_or(due, tf.logical_and(first, step >= schedule.begin_step))
        for kernel, mask in zip(kernels, masks, strict=True):
            new = functools.partial(_mask, kernel, sparsity, block_size, block_pooling)
            mask.assign(tf.cond(due, new, mask.read_value))
            kernel.assign(kernel * mask)
        first.assign(False)

    return lambda iterations: prune(tf.constant(iterations, tf.int64))


def _mask(kernel, sparsity, block_size, block_pooling):
    """Returns 1 for the blocks of largest magnitude, 0 for the fraction `sparsity`."""
    import tensorflow as tf

    matrix = tf.reshape(tf.abs(kernel), (-1, kernel.shape[-1]))
    blocks = tf.nn.pool(
        matrix[None, :, :, None], block_size, block_pooling, strides=block_size, padding="SAME"
    )[0, :, :, 0]
    largest = tf.sort(tf.reshape(blocks, (-1,)), direction="DESCENDING")
    kept = tf.round(tf.cast(tf.size(blocks), "float32") * (1 - sparsity))
    mask = tf.cast(blocks >= largest[tf.cast(tf.maximum(kept, 1), "int32") - 1], kernel.dtype)
    for axis, size in enumerate(block_size):
        mask = tf.repeat(mask, size, axis=axis)
    return tf.reshape(mask[: matrix.shape[0], : matrix.shape[1]], kernel.shape)
