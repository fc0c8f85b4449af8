"""The inputs of a network in its file: their names, shapes and dtypes, and data for them."""

import re

import keras
import numpy as np

from anytime_tflite.inputs import Inputs
from keras_adaptive import _graph
from keras_adaptive._checks import check_inputs, each_input
from keras_adaptive.costs.exit_costs import input_shapes

DTYPES = ("float32", "uint8", "int32", "int64", "bool")
# names that Keras gives by itself, and those that other tensors of a file have
AUTOMATIC = r"(input|input_layer|keras_tensor)(_\d+)?"
TAKEN = r"(logits|cost|thresholds|exit_index|leaves|open_blocks|(features|state|stage)_\d+)"


def at_size(inputs, outputs, input_shape):
    """Returns inputs and outputs of the network at a given size of its inputs.

    Args:
        inputs, outputs: Lists of symbolic tensors.
        input_shape: As in `costs.exit_costs`. `None`: as they are.
    """
    if input_shape is None:
        return inputs, outputs
    shapes = input_shapes(inputs, input_shape)
    starts = [
        keras.Input(shape, dtype=t.dtype, name=t.name)
        for shape, t in zip(shapes, inputs, strict=True)
    ]
    places = {id(old): new for old, new in zip(inputs, starts, strict=True)}
    return starts, _graph.call_again(_graph.nodes_between(inputs, outputs), places, outputs)


def inputs_of(tensors, names=None):
    """Returns the inputs of a network as `info` holds them.

    Args:
        tensors: List of symbolic tensors.
        names: List of strings, what the network calls them. `None`: their own names.

    Returns:
        List of dictionaries: `name`, that of the network's own input where it was given one,
        else `input_0`, `input_1`, ...; `shape` without the batch; `dtype`.

    Raises:
        ValueError: If a file cannot have such inputs.
    """
    found = []
    for i, tensor in enumerate(tensors):
        name = re.sub(r"\W", "_", tensor.name if names is None else str(names[i]))
        if re.fullmatch(f"{AUTOMATIC}|{TAKEN}", name) or name in [one["name"] for one in found]:
            name = f"input_{i}"
        dtype = keras.backend.standardize_dtype(tensor.dtype)
        found.append({"name": name, "shape": list(tensor.shape[1:]), "dtype": dtype})
    if any(None in one["shape"] for one in found):
        raise ValueError(
            "`model` must have inputs of fixed shape; `input_shape=(224, 224, 3)` sets that of "
            f"an image. Received: inputs {[tuple(tensor.shape) for tensor in tensors]}"
        )
    if any(one["dtype"] == "string" for one in found):
        raise ValueError(
            "`model` must take numbers, as a file does on a device. Keep the layers that read "
            "text (TextVectorization, StringLookup) outside of the model, which then takes their "
            f"numbers. Received: inputs of {', '.join(one['dtype'] for one in found)}"
        )
    if any(one["dtype"] not in DTYPES for one in found):
        raise ValueError(
            f"`model` must have inputs of the dtypes {', '.join(DTYPES)}. Build it with "
            "float32 inputs: its layers compute in float32 all the same. Received: inputs of "
            f"{', '.join(one['dtype'] for one in found)}"
        )
    return found


def renamed(stages, inputs):
    """Returns the stages of `_graph.minimal_stages` with the inputs named as in the file."""
    names = {f"input_{i}": one["name"] for i, one in enumerate(inputs)}
    return [(model, [names.get(n, n) for n in reads], adds) for model, reads, adds in stages]


def checked_data(inputs, x, preprocessing=None):
    """Returns data as a dictionary: name of each input to an array `(samples, ...)`.

    Args:
        inputs: As `inputs_of` returns them.
        x: An array; of several inputs a dictionary by name, or a list in their order.
        preprocessing: `{"mean", "std"}`, by which uint8 pixels of the only input become floats,
            as on a device; or `None`.

    Raises:
        ValueError: If it does not fit the inputs.
    """
    given = each_input(x, inputs, "calibration_data")
    arrays = check_inputs(given, inputs, "calibration_data")
    if preprocessing is not None:
        shapes = {one["name"]: (tuple(one["shape"]), np.dtype(one["dtype"])) for one in inputs}
        pixels = np.asarray(given[0])
        pixels = {inputs[0]["name"]: pixels if pixels.dtype.kind in "iub" else arrays[0]}
        return Inputs(shapes, preprocessing).batch(pixels, "calibration_data")
    return {one["name"]: array for one, array in zip(inputs, arrays, strict=True)}


def random_data(inputs, samples):
    """Returns random data for the inputs, as a dictionary.

    Integers may be indices, of tables of any length: only 0 and 1 fit them all. Where 0 is what
    masks leave out, the first step stays, since means of nothing are NaN.
    """
    rng = np.random.default_rng(0)
    found = {}
    for one in inputs:
        shape, dtype = (samples, *one["shape"]), np.dtype(one["dtype"])
        values = rng.normal(size=shape) if dtype.kind == "f" else rng.integers(2, size=shape)
        if dtype.kind != "f" and values.ndim > 1:
            values[:, 0] = 1
        found[one["name"]] = values.astype(dtype)
    return found


def rows_of(data, rows):
    """Returns some of the samples of a dictionary of arrays; `rows` is a slice or indices."""
    return {name: array[rows] for name, array in data.items()}


def count(data):
    """Returns the number of samples of a dictionary of arrays."""
    return len(next(iter(data.values())))
