"""What a network is given: arrays, lists or dictionaries of them, or batches one by one."""

import keras
import numpy as np

from keras_adaptive import _graph
from keras_adaptive._checks import check_inputs, each_input


class Inputs:
    """The inputs of a network, by which what it is given is checked."""

    def __init__(self, model):
        self.inputs = [
            {
                "name": name,
                "shape": tensor.shape[1:],
                "dtype": keras.backend.standardize_dtype(tensor.dtype),
            }
            for name, tensor in zip(_graph.input_keys(model), model.inputs, strict=True)
        ]
        self.are_fixed = not any(None in one["shape"] for one in self.inputs)

    def parts(self, x, size):
        """Returns batches, lists of one array per input, and how many samples, if it is known."""
        if isinstance(x, (dict, list, tuple)) or hasattr(x, "shape"):
            arrays = each_input(x, self.inputs, "x")
            # before any work
            check_inputs([a[:1] if len(a.shape) else a for a in arrays], self.inputs, "x")
            total = max(map(len, arrays))
            slices = (slice(start, start + size) for start in range(0, total, size))
            return (check_inputs([a[i] for a in arrays], self.inputs, "x") for i in slices), total
        if isinstance(x, keras.utils.PyDataset):
            x = map(x.__getitem__, range(x.num_batches))
        return map(self.of_batch, x), None

    def of_batch(self, batch):
        """Returns the arrays of one batch, of which labels may be a part."""
        several = len(self.inputs) > 1
        if isinstance(batch, tuple) or (isinstance(batch, list) and not several):
            together = several and len(batch) == len(self.inputs) and hasattr(batch[0], "shape")
            batch = batch if together else batch[0]
        return check_inputs(each_input(batch, self.inputs, "x"), self.inputs, "x")

    def blank(self, samples):
        """Returns arrays of zeros, one per input, which must be of fixed size."""
        return [np.zeros((samples, *one["shape"]), one["dtype"]) for one in self.inputs]
