"""What a network is given: arrays, lists or dictionaries of them, or batches one by one."""

import contextlib
import itertools
import warnings

import keras
import numpy as np

from keras_adaptive import _graph
from keras_adaptive._checks import check_inputs, each_input

PART = 1024  # samples of an array that are checked at a time


class Inputs:
    """The inputs of a network, by which what it is given is checked.

    Args:
        model: A functional model.
        adapts: Boolean, whether a last axis of one may be missing or too much, as in Keras.
    """

    def __init__(self, model, adapts=False):
        self.adapts = adapts
        self.inputs = [
            {
                "name": name,
                "shape": tensor.shape[1:],
                "dtype": keras.backend.standardize_dtype(tensor.dtype),
            }
            for name, tensor in zip(_graph.input_keys(model), model.inputs, strict=True)
        ]
        self.are_fixed = not any(None in one["shape"] for one in self.inputs)

    def arrays(self, x):
        """Returns arrays, one per input, the first rows of which fit; `None` of batches."""
        if isinstance(x, (dict, list, tuple)) or hasattr(x, "shape"):
            arrays = self._ranked(each_input(x, self.inputs, "x"))
            self._checked([array[:1] if len(array.shape) else array for array in arrays])
            return arrays
        return None

    def parts(self, x, size):
        """Returns batches, lists of one array per input, and how many samples, if it is known."""
        arrays = self.arrays(x)  # before any work
        if arrays is None:
            return map(self.of_batch, batches_of(x)), None
        total = max(map(len, arrays))
        return self._slices(arrays, total, size), total

    def _slices(self, arrays, total, size):
        for start in range(0, total, size):
            yield self._checked([array[start : start + size] for array in arrays])

    def of_batch(self, batch):
        """Returns the arrays of one batch, of which labels may be a part."""
        several = len(self.inputs) > 1
        if isinstance(batch, tuple) or (isinstance(batch, list) and not several):
            together = several and len(batch) == len(self.inputs) and hasattr(batch[0], "shape")
            batch = batch if together else batch[0]
        arrays = each_input(batch, self.inputs, "x")
        pairs = zip(arrays, self.inputs, strict=True)
        if all(_fits(array.shape, one["shape"]) for array, one in pairs):
            raise ValueError(
                "`x` must hold batches of samples; `.batch(...)` makes them of a data set. "
                f"Received: single samples, of shape {', '.join(str(a.shape) for a in arrays)}"
            )
        arrays = self._checked(self._ranked(arrays))
        # a generator may fill its array anew before this batch is computed
        return [array.copy() if isinstance(array, np.ndarray) else array for array in arrays]

    @contextlib.contextmanager
    def for_predict(self, x):
        """Gives what `predict` takes, checked arrays or batches that are checked as they come.

        Yields:
            Tuple of that, and a list to which `(shapes, samples)` of every batch is added.
        """
        seen, failed = [], []
        given = self.arrays(x)
        if given is None:
            given = _for_keras(map(self.of_batch, batches_of(x)), seen, failed)
            first = next(given, None)
            if first is None:
                raise ValueError("`x` must hold at least one sample. Received: none")
            given = itertools.chain([first], given)
            given = (batch for batch in given)  # of all iterators Keras takes generators alone
        else:
            total = max(map(len, given))
            for _ in self._slices(given, total, PART):
                pass
            seen.append((tuple(tuple(array.shape[1:]) for array in given), total))
            given = given if len(given) > 1 else given[0]
        try:
            with warnings.catch_warnings():  # that batches read once have an end
                warnings.filterwarnings("ignore", "Your input ran out of data")
                yield given, seen
        except Exception as error:
            if failed and error is not failed[0]:  # which TensorFlow has put into words of its own
                raise failed[0] from None
            raise

    def blank(self, samples):
        """Returns arrays of ones, one per input, which must be of fixed size.

        Zeros are what masks leave out: where nothing is left, means are NaN.
        """
        return [np.ones((samples, *one["shape"]), one["dtype"]) for one in self.inputs]

    def _checked(self, arrays):
        return check_inputs(arrays, self.inputs, "x")

    def _ranked(self, arrays):
        """Returns arrays with a last axis of one more or less, where they then fit."""
        if not self.adapts:
            return arrays
        return [_ranked(a, one["shape"]) for a, one in zip(arrays, self.inputs, strict=True)]


def batches_of(x):
    """Returns an iterator over batches, of a `PyDataset` too."""
    if isinstance(x, keras.utils.PyDataset):
        return map(x.__getitem__, range(x.num_batches))
    if isinstance(x, (str, bytes)) or not hasattr(x, "__iter__"):
        raise TypeError(
            "`x` must be an array, a list or dictionary of arrays, or an iterable of batches. "
            f"Received: x={x!r}"
        )
    return iter(x)


def _for_keras(batches, seen, failed):
    """Yields batches, lists of arrays, as Keras takes them from generators.

    Args:
        batches: Iterator of lists of arrays.
        seen: List, to which `(shapes, samples)` of every batch is added.
        failed: List, to which an error that ends the batches is added.
    """
    try:
        for arrays in batches:
            seen.append((tuple(array.shape[1:] for array in arrays), len(arrays[0])))
            yield (tuple(arrays) if len(arrays) > 1 else arrays[0],)
    except Exception as error:
        failed.append(error)
        raise


def _ranked(array, shape):
    rank = len(array.shape) - 1
    if rank == len(shape) - 1 and _fits((*array.shape[1:], 1), shape):
        return np.asarray(array)[..., None]
    if rank == len(shape) + 1 and array.shape[-1] == 1 and _fits(array.shape[1:-1], shape):
        return np.asarray(array)[..., 0]
    return array


def _fits(found, shape):
    return len(found) == len(shape) and all(
        wanted in (None, size) for size, wanted in zip(found, shape, strict=True)
    )
