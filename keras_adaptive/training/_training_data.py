"""Data for training: arrays in an order that follows from a seed, and what is checked before."""

import keras
import numpy as np

from keras_adaptive import _graph
from keras_adaptive._checks import finite, integer

MUST_TRAIN = (
    "`train` must be a tuple (x, y) of arrays, a tf.data.Dataset, a keras.utils.PyDataset or a "
    "data.Splits."
)
MUST_VALIDATE = MUST_TRAIN.replace("`train` must be", "`validation` must be None,").replace(
    " or a data", ", a generator of batches or a data"
)


class Arrays(keras.utils.PyDataset):
    """Batches of arrays, whose order follows from the seed and the number of the epoch.

    Args:
        data: Tuple `(x, y)` or `(x, y, sample_weight)` of arrays, or structures of arrays.
        batch_size: Integer.
        seed: Integer.
    """

    def __init__(self, data, batch_size, seed):
        super().__init__()
        self.data = keras.tree.map_structure(_indexable, _as_data(data))
        self.size = len(keras.tree.flatten(self.data)[0])
        self.batch_size, self.seed, self.epoch = batch_size, seed, 0
        self._order = None, None

    @property
    def num_batches(self):
        return -(-self.size // self.batch_size)

    def __getitem__(self, index):
        if self._order[0] != self.epoch:
            rng = np.random.default_rng([self.seed, self.epoch])
            self._order = self.epoch, rng.permutation(self.size)
        rows = self._order[1][index * self.batch_size : (index + 1) * self.batch_size]
        return keras.tree.map_structure(lambda array: array[rows], self.data)


class Batches(keras.utils.PyDataset):
    """Batches that are in memory, the same in every pass."""

    def __init__(self, batches):
        super().__init__()
        self.batches = [_as_data(batch) for batch in batches]

    @property
    def num_batches(self):
        return len(self.batches)

    def __getitem__(self, index):
        return self.batches[index]


class Changed(keras.utils.PyDataset):
    """The batches of a `PyDataset`, changed.

    Tuples stand for lists, since they are the only sequences that Keras takes of batches.

    Args:
        data: A `PyDataset`.
        weigh: Function from a batch to a batch, or `None`.
    """

    def __init__(self, data, weigh=None):
        names = ("workers", "use_multiprocessing", "max_queue_size")
        super().__init__(**{name: getattr(data, name) for name in names})
        self.data, self.weigh = data, weigh

    @property
    def num_batches(self):
        return self.data.num_batches

    def __getitem__(self, index):
        batch = _as_data(self.data[index])
        return batch if self.weigh is None else self.weigh(batch)

    def on_epoch_begin(self):
        self.data.on_epoch_begin()

    def on_epoch_end(self):
        self.data.on_epoch_end()


class ClassWeights:
    """Multiplies the sample weights of arrays by the weights of the samples' classes.

    Args:
        class_weight: Dictionary from classes to numbers; other classes have the weight 1.
        model: An `AdaptiveModel`.
    """

    def __init__(self, class_weight, model):
        self.names = list(model.output_names)
        self.shapes = [tuple(logits.shape) for logits in model.outputs]
        self.table = np.ones(self.shapes[-1][-1], "float32")
        for label, weight in class_weight.items():
            self.table[label] = weight

    def __call__(self, data):
        x, y, *given = data
        given = given[0] if given else None
        if not isinstance(y, (tuple, dict)) and not isinstance(given, (tuple, dict)):
            return x, y, self._weights(y, given, self.shapes[-1])
        each = zip(self._each(y), self._each(given), self.shapes, strict=True)
        return x, y, tuple(self._weights(*one) for one in each)

    def _each(self, value):
        if isinstance(value, dict):
            return [value[name] for name in self.names]
        return value if isinstance(value, tuple) else [value] * len(self.names)

    def _weights(self, labels, given, shape):
        labels = _indexable(labels)
        if _one_hot(labels.shape, shape):
            labels = labels.argmax(axis=-1)
        elif labels.ndim == len(shape):
            labels = labels[..., 0]
        labels = labels.astype("int64")
        known = (labels >= 0) & (labels < len(self.table))  # not a pixel without a label
        weights = np.where(known, self.table[np.where(known, labels, 0)], np.float32(1))
        if given is None:
            return weights
        given = _indexable(given)
        return weights * given.reshape(given.shape + (1,) * (weights.ndim - given.ndim))


def checked_class_weight(class_weight, model):
    """Returns weights of classes by Python's own integers, or `None`.

    Raises:
        ValueError: If they are not a dictionary from classes of the network to numbers.
    """
    if class_weight is None:
        return None
    classes = model.outputs[-1].shape[-1]
    try:
        found = {integer("a class", k, 0): finite(v, "") for k, v in class_weight.items()}
    except (AttributeError, ValueError):
        found = {}
    if not found or max(found) >= classes or min(found.values()) < 0:
        raise ValueError(
            f"`class_weight` must be a dictionary from integers from 0 to {classes - 1}, the "
            "classes, to numbers of at least 0. "
            f"Received: class_weight={class_weight}"
        )
    return found


def for_fit(class_weight, train, model):
    """Returns `class_weight` as Keras takes it beside a data set; `None` where it has been used."""
    if class_weight is None or not hasattr(train, "element_spec"):
        return None
    return {label: class_weight.get(label, 1.0) for label in range(model.outputs[-1].shape[-1])}


def for_training(train, model, loss, recipe, seed, class_weight=None):
    """Returns checked data as `fit` takes it, with an attribute `epoch` where we shuffle.

    Of data sets the weights of classes are left to Keras; see `for_fit`.

    Raises:
        TypeError, ValueError: If it is not data for this network and loss.
    """
    if callable(getattr(train, "batches", None)):
        check_splits("train", train, model)
        return train.batches(
            "train",
            recipe.batch_size,
            training=True,
            augmentation=recipe.augmentation,
            seed=seed,
        )
    if isinstance(train, (tuple, list)):
        train = _as_data(train)
        _check_arrays("train", train, model, loss)
        if class_weight is not None:
            train = ClassWeights(class_weight, model)(train)
        return Arrays(train, recipe.batch_size, seed)
    train = _checked_batches("train", train, model, loss, MUST_TRAIN)
    if class_weight is None:
        return train
    if isinstance(train, keras.utils.PyDataset):
        return Changed(train, ClassWeights(class_weight, model))
    _check_weighable(train.element_spec, model)
    return train


def _checked_batches(argument, data, model, loss, must):
    """Returns batches that the model can learn from or be tried on; raises an error of others."""
    if isinstance(data, keras.utils.PyDataset):
        _check_length(argument, data)
        first = data[0]
        _check_arrays(argument, _as_data(first), model, loss)
        return Changed(data) if _holds_lists(first) else data
    if hasattr(data, "element_spec"):
        _check_dataset(argument, data, model, loss)
        return data
    raise TypeError(f"{must} Received: {argument} of type {type(data).__name__}")


def for_validation(validation, model, loss, recipe):
    """Returns checked data as `validation_data` of `fit`, which may be read again and again."""
    if validation is None:
        return None
    if callable(getattr(validation, "batches", None)):
        check_splits("validation", validation, model)
        return validation.batches("calibrate", recipe.batch_size)
    if isinstance(validation, (tuple, list)):
        validation = _as_data(validation)
        _check_arrays("validation", validation, model, loss)
        return validation
    if hasattr(validation, "__next__"):  # could be read once only
        validation = Batches(list(validation))
        if not validation.batches:
            raise ValueError("`validation` must have at least one batch. Received: none")
    return _checked_batches("validation", validation, model, loss, MUST_VALIDATE)


def steps(data):
    """Returns the number of batches per epoch, `None` where it is not known."""
    if not hasattr(data, "element_spec"):
        return data.num_batches
    count = int(data.cardinality())
    return count if count >= 0 else None


def is_open(data):
    """Returns whether data is read to an end that is not known before."""
    return hasattr(data, "element_spec") and steps(data) is None


def has_epochs(train):
    """Returns whether data gives the order of any epoch when it is told the epoch's number."""
    return isinstance(train, Arrays) or (hasattr(train, "element_spec") and hasattr(train, "epoch"))


def go_on(train, epochs):
    """Begins as many passes over a dataset of the user's as have been made, for its shuffling."""
    if hasattr(train, "element_spec") and not has_epochs(train):
        for _ in range(2 * epochs):  # Keras begins two in every epoch
            iter(train)


def _as_data(data):
    """Returns `(x, y, ...)` without lists: tuples for them, and arrays for lists of numbers."""
    return tuple(map(_without_lists, data)) if isinstance(data, (tuple, list)) else data


def _without_lists(data):
    if isinstance(data, list) and data and all(map(np.isscalar, data)):
        return np.array(data)
    if isinstance(data, (tuple, list)):
        return tuple(map(_without_lists, data))
    if isinstance(data, dict):
        return {key: _without_lists(part) for key, part in data.items()}
    return data


def _holds_lists(data):
    parts = data.values() if isinstance(data, dict) else data
    inside = isinstance(data, (tuple, dict)) and any(map(_holds_lists, parts))
    return isinstance(data, list) or inside


def _check_length(name, data):
    try:
        length = data.num_batches
    except NotImplementedError:
        length = None
    if not length:
        raise ValueError(
            f"`{name}` must have a known number of batches, at least one: give the PyDataset "
            f"`__len__` or `num_batches`. Received: num_batches={length}"
        )


def _indexable(array):
    return array if isinstance(array, np.ndarray) else np.asarray(array)


# ---- checks


def check_splits(name, splits, model):
    if not hasattr(splits, "class_names"):  # something like a Splits
        return
    found, classes = len(splits.class_names), model.outputs[-1].shape[-1]
    if found > classes:
        raise ValueError(
            f"The classes of `{name}` must be at most those of the network, {classes}. "
            f"Received: {found} classes"
        )
    _check_inputs(name, [(None, *splits.input_shape)], model)


def _check_arrays(name, data, model, loss):
    """Checks `(x, y)` or `(x, y, sample_weight)`, arrays or structures of arrays."""
    must = f"`{name}` must be (x, y) or (x, y, sample_weight), arrays with one row per sample."
    if not isinstance(data, (tuple, list)) or len(data) not in (2, 3) or data[1] is None:
        length = f" of length {len(data)}" if isinstance(data, (tuple, list)) else ""
        raise ValueError(f"{must} Received: a {type(data).__name__}{length}")
    arrays = [_indexable(array) for array in keras.tree.flatten(tuple(data))]
    lengths = {array.shape[0] if array.ndim else None for array in arrays}
    if len(lengths) != 1 or lengths & {0, None}:
        shapes = ", ".join(str(array.shape) for array in arrays)
        raise ValueError(f"{must} Received: shapes {shapes}")
    _check_inputs(name, [np.shape(x) for x in _each_input(name, data[0], model)], model)
    for labels, logits in _labels_of(name, data[1], model):
        _check_labels(name, _indexable(labels), logits, loss)
    if len(data) == 3:
        _check_sample_weights(name, data[2], model)


def _check_dataset(name, dataset, model, loss):
    """Checks what a `tf.data.Dataset` says of its batches."""
    spec = dataset.element_spec
    if int(dataset.cardinality()) == 0:
        raise ValueError(f"`{name}` must have at least one batch. Received: an empty dataset")
    if int(dataset.cardinality()) == -1:
        raise ValueError(
            f"`{name}` must be of known size, or at least end; leave out `.repeat()`. Received: a "
            "dataset without end"
        )
    if not isinstance(spec, (tuple, list)) or len(spec) not in (2, 3):
        raise ValueError(
            f"`{name}` must be a dataset of batches (x, y) or (x, y, sample_weight). Received: "
            f"elements {spec}"
        )
    shapes = [_rank_known(x.shape) for x in _each_input(name, spec[0], model)]
    if None not in shapes:
        try:
            _check_inputs(name, shapes, model)
        except ValueError as error:
            single = [(None, *shape) for shape in shapes]
            if _fit_inputs(single, model):
                raise ValueError(
                    f"`{name}` must be a dataset of batches. Received: single samples; use "
                    "`.batch(...)`"
                ) from error
            raise
    for labels, logits in _labels_of(name, spec[1], model):
        shape = _rank_known(labels.shape)
        if shape is not None and _is_sparse(loss) and _one_hot(shape, logits.shape):
            _refuse_one_hot(name, shape)


def _check_weighable(spec, model):
    """Raises an error unless Keras can give each sample of a data set the weight of its class."""
    alone = len(spec) == 2 and not isinstance(spec[1], (tuple, dict))
    if not alone or len(model.outputs[-1].shape) != 2:
        raise ValueError(
            "`class_weight` must be of a dataset with one label per sample, alike for every exit, "
            "and without sample weights. Give sample weights instead: `dataset.map(lambda x, y: "
            f"(x, y, weight))`. Received: elements {spec}"
        )


def _rank_known(shape):
    return None if shape.rank is None else tuple(shape)


def _labels_of(name, y, model):
    """Returns the labels of every exit that are told apart, and the exit's logits."""
    if isinstance(y, (list, tuple, dict)):
        return zip(model.per_exit(y, f"the labels of `{name}`"), model.outputs, strict=True)
    return [(y, model.outputs[-1])]


def _each_input(name, x, model):
    """Returns what is given for each input, in the network's order, as Keras finds it."""
    keys = _graph.input_keys(model)
    if isinstance(x, dict) and set(x) != set(keys):
        raise ValueError(
            f"The inputs of `{name}` must be a dictionary with the keys {keys}, or a list in this "
            f"order. Received: the keys {[*x]}"
        )
    return keras.tree.flatten(_graph.in_order(model, x))


def _fit_inputs(shapes, model):
    wanted = [tuple(tensor.shape) for tensor in model.inputs]
    if len(shapes) != len(wanted):
        return False
    for shape, want in zip(shapes, wanted, strict=True):
        if len(shape) + 1 == len(want) and want[-1] == 1:  # Keras adds and takes off an axis
            shape = (*shape, 1)
        elif len(shape) == len(want) + 1 and shape[-1] == 1:
            shape = shape[:-1]
        pairs = zip(shape[1:], want[1:], strict=False)
        if len(shape) != len(want) or any(None not in pair and len({*pair}) > 1 for pair in pairs):
            return False
    return True


def _check_inputs(name, shapes, model):
    if not _fit_inputs(shapes, model):
        wanted = ", ".join(str(tuple(tensor.shape)) for tensor in model.inputs)
        found = ", ".join(str(tuple(shape)) for shape in shapes)
        raise ValueError(
            f"The inputs of `{name}` must fit the network's, {wanted}. Received: shapes {found}"
        )


def _check_sample_weights(name, weights, model):
    for each in model.per_exit(weights, f"the sample weights of `{name}`"):
        array = _indexable(each)
        if array.dtype.kind not in "biuf" or not np.isfinite(array).all():
            what = f"weights of type {array.dtype}" if array.dtype.kind not in "biuf" else "NaN"
            raise ValueError(
                f"The sample weights of `{name}` must be finite numbers. Received: {what}"
            )


def _is_sparse(loss):
    if isinstance(loss, str):
        return loss.lower().replace("_", "") == "sparsecategoricalcrossentropy"
    return isinstance(loss, keras.losses.SparseCategoricalCrossentropy)


def _is_categorical(loss):
    if isinstance(loss, str):
        return loss.lower().replace("_", "") == "categoricalcrossentropy"
    return isinstance(loss, keras.losses.CategoricalCrossentropy)


def _one_hot(shape, logits):
    """Returns whether labels of a shape are one-hot, for logits of a shape."""
    return len(shape) == len(logits) and shape[-1] == logits[-1] > 1


def _refuse_one_hot(name, shape):
    raise ValueError(
        f"The labels of `{name}` must be integers, one per sample, for this loss; for one-hot "
        'labels use `compile(loss="categorical_crossentropy")`. Received: labels of shape '
        f"{tuple(shape)}"
    )


def _check_labels(name, labels, logits, loss):
    """Checks the labels of one exit; other losses than cross-entropies may take anything."""
    rank, classes = len(logits.shape), logits.shape[-1]
    if labels.dtype.kind not in "biuf" and labels.dtype.name != "bfloat16":
        raise ValueError(
            f"The labels of `{name}` must be numbers. Received: labels of type {labels.dtype}"
        )
    if _is_categorical(loss) and not _one_hot(labels.shape, logits.shape):
        raise ValueError(
            f"The labels of `{name}` must be one-hot, {classes} numbers per sample, for this "
            f"loss. Received: labels of shape {labels.shape}"
        )
    if not _is_sparse(loss):
        return
    if _one_hot(labels.shape, logits.shape):
        _refuse_one_hot(name, labels.shape)
    if labels.ndim != rank - 1 and not (labels.ndim == rank and labels.shape[-1] == 1):
        raise ValueError(
            f"The labels of `{name}` must be integers, one per sample. Received: labels of shape "
            f"{labels.shape}"
        )
    values = labels.astype("float64") if labels.dtype.kind not in "iu" else labels
    values = values[values != getattr(loss, "ignore_class", None)]
    if not values.size:
        return
    least, most = values.min(), values.max()
    whole = labels.dtype.kind in "iu" or bool((values == np.floor(values)).all())
    if not whole or least < (0 if rank == 2 else -1) or most >= classes:
        raise ValueError(
            f"The labels of `{name}` must be integers from 0 to {classes - 1}, below the number "
            f"of classes. Received: labels from {least} to {most}"
        )
