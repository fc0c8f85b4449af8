"""What a network is given: arrays, lists or dictionaries of them, or batches one by one."""

import keras
import numpy as np

KINDS = {"f": "fiub", "i": "iub", "u": "iub", "b": "b"}  # kinds of numbers that become others


class Inputs:
    """The inputs of a network, by which what it is given is checked.

    Args:
        model: An `AdaptiveModel`.

    Attributes:
        names: List of strings, one per input.
    """

    def __init__(self, model):
        given = model.input if isinstance(model.input, dict) else {}
        keys = {id(tensor): key for key, tensor in given.items()}
        self.tensors = model.inputs
        self.names = [keys.get(id(tensor), tensor.name) for tensor in self.tensors]

    @property
    def are_fixed(self):
        """Whether every size is known beforehand."""
        return not any(None in tensor.shape[1:] for tensor in self.tensors)

    def parts(self, x, size):
        """Returns batches, as lists of arrays, and how many samples there are, if that is known.

        Args:
            x: As `AdaptivePredictor.predict` takes it.
            size: Integer, samples of a batch where `x` holds all of them.
        """
        several = len(self.names) > 1
        if isinstance(x, (dict, list, tuple)) or hasattr(x, "shape"):
            if not several and isinstance(x, (list, tuple)):
                x = x[0] if len(x) == 1 and np.ndim(x[0]) == self._axes else np.asarray(x)
            arrays = self._each(x)
            total = len(arrays[0])
            self.checked([array[:1] for array in arrays])  # before any work
            if any(len(array) != total for array in arrays):
                raise ValueError(
                    "`x` must hold as many samples for each input. Received: "
                    f"{[len(array) for array in arrays]}"
                )
            starts = range(0, total, size)
            return (self.checked([a[i : i + size] for a in arrays]) for i in starts), total
        if isinstance(x, keras.utils.PyDataset):
            x = map(x.__getitem__, range(x.num_batches))
        return map(self.of_batch, x), None

    @property
    def _axes(self):
        return len(self.tensors[0].shape)

    def of_batch(self, batch):
        """Returns the arrays of one batch, of which labels may be a part."""
        if isinstance(batch, tuple) or (isinstance(batch, list) and len(self.names) == 1):
            first = batch[0]
            together = len(batch) == len(self.names) > 1 and hasattr(first, "shape")
            batch = batch if together else first
        return self.checked(self._each(batch))

    def _each(self, x):
        """Returns one array per input."""
        if isinstance(x, dict):
            found = [x.get(name) for name in self.names] if set(x) == set(self.names) else []
        else:
            found = list(x) if len(self.names) > 1 and isinstance(x, (list, tuple)) else [x]
        if len(found) != len(self.names):
            kind = f"the keys {sorted(x)}" if isinstance(x, dict) else f"{len(found)} of them"
            raise ValueError(
                f"`x` must hold an array for each of the {len(self.names)} inputs "
                f"{self.names}: a dictionary by name, or a list. Received: {kind}"
            )
        return [array if hasattr(array, "shape") else np.asarray(array) for array in found]

    def checked(self, arrays):
        """Returns a batch as arrays of the inputs' dtypes; an error says what does not fit."""
        pairs = zip(arrays, self.tensors, strict=True)
        found = [self._fitting(np.asarray(array), tensor) for array, tensor in pairs]
        if not len(found[0]):
            raise ValueError("`x` must hold at least one sample. Received: none")
        if len({len(array) for array in found}) > 1:
            raise ValueError(
                "`x` must hold as many samples for each input. Received: "
                f"{[len(array) for array in found]}"
            )
        return found

    def _fitting(self, array, tensor):
        sizes = zip(array.shape[1:], tensor.shape[1:], strict=False)
        if array.ndim != len(tensor.shape) or any(e not in (None, n) for n, e in sizes):
            raise ValueError(
                f"`x` must be of shape (samples, {', '.join(map(str, tensor.shape[1:]))}). "
                f"Received: shape {array.shape}"
            )
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        if dtype == "string":
            return array
        kind = "f" if keras.backend.is_float_dtype(dtype) else np.dtype(dtype).kind
        if array.dtype.kind not in KINDS[kind] and str(array.dtype) != dtype:
            raise ValueError(f"`x` must be numbers for {dtype}. Received: dtype {array.dtype}")
        if kind == "f" and array.dtype.kind == "f" and not np.isfinite(array).all():
            raise ValueError(
                "The logits must be finite. Received: NaN or infinity in `x`, from which they come"
            )
        return array.astype(dtype, copy=False)
