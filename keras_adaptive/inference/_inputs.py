"""What a network is given: arrays, lists or dictionaries of them, or batches one by one."""

import keras
import numpy as np

KINDS = {"f": "fiub", "i": "iub", "u": "iub", "b": "b"}  # kinds of numbers that become others


class Inputs:
    """The inputs of a network, by which what it is given is checked."""

    def __init__(self, model):
        given = model.input if isinstance(model.input, dict) else {}
        keys = {id(tensor): key for key, tensor in given.items()}
        self.tensors = model.inputs
        self.names = [keys.get(id(tensor), tensor.name) for tensor in self.tensors]
        self.are_fixed = not any(None in tensor.shape[1:] for tensor in self.tensors)

    def parts(self, x, size):
        """Returns batches, lists of one array per input, and how many samples, if it is known."""
        if isinstance(x, (dict, list, tuple)) or hasattr(x, "shape"):
            if len(self.names) == 1 and isinstance(x, (list, tuple)):
                alone = len(x) == 1 and np.ndim(x[0]) == len(self.tensors[0].shape)
                x = x[0] if alone else np.asarray(x)
            arrays = self._each(x)
            total = max(map(len, arrays))
            if total <= size:
                return [self.checked(arrays)], total
            self.checked([array[:1] for array in arrays])  # before any work
            starts = range(0, total, size)
            return (self.checked([a[i : i + size] for a in arrays]) for i in starts), total
        if isinstance(x, keras.utils.PyDataset):
            x = map(x.__getitem__, range(x.num_batches))
        return map(self.of_batch, x), None

    def of_batch(self, batch):
        """Returns the arrays of one batch, of which labels may be a part."""
        if isinstance(batch, tuple) or (isinstance(batch, list) and len(self.names) == 1):
            together = len(batch) == len(self.names) > 1 and hasattr(batch[0], "shape")
            batch = batch if together else batch[0]
        return self.checked(self._each(batch))

    def _each(self, x):
        if isinstance(x, dict):
            found = [x.get(name) for name in self.names] if set(x) == set(self.names) else []
        else:
            found = list(x) if len(self.names) > 1 and isinstance(x, (list, tuple)) else [x]
        if len(found) != len(self.names):
            raise ValueError(
                f"`x` must hold an array for each of the {len(self.names)} inputs {self.names}: "
                f"a dictionary by name, or a list. Received: {len(x)} of them"
                + (f", {sorted(x)}" if isinstance(x, dict) else "")
            )
        return [array if hasattr(array, "shape") else np.asarray(array) for array in found]

    def checked(self, arrays):
        """Returns a batch as arrays of the inputs' dtypes; an error says what does not fit."""
        found = [self._fitting(np.asarray(a), t) for a, t in zip(arrays, self.tensors, strict=True)]
        counts = [len(array) for array in found]
        if not counts[0]:
            raise ValueError("`x` must hold at least one sample. Received: none")
        if len(set(counts)) > 1:
            raise ValueError(
                f"`x` must hold as many samples for each input. Received: {counts} in a batch"
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
