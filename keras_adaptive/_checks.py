"""Checks of arguments: each raises a ValueError saying what must hold and what was received.

Wherever a Python number is accepted, a numpy scalar is; what is returned is Python's own
`int` or `float`.
"""

import contextlib
import difflib
import operator

import numpy as np

# ---- single values


def integer(name, value, least=None):
    """Returns an integer of at least `least`; booleans and floats are refused."""
    try:
        whole = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        whole = None
    if whole is None or (least is not None and whole < least):
        must = "an integer" if least is None else f"an integer of at least {least}"
        raise ValueError(f"`{name}` must be {must}. Received: {name}={value}")
    return whole


def integers(least, **arguments):
    """Returns the arguments as integers, each of at least `least`."""
    return [integer(name, value, least) for name, value in arguments.items()]


def integer_sequence(name, values, least, must, length=None):
    """Returns a sequence of integers as a tuple of Python's own; `must` is what the error asks."""
    try:
        found = tuple(integer(name, value, least) for value in values)
    except (TypeError, ValueError):
        found = None
    if found is None or length not in (None, len(found)):
        raise ValueError(f"`{name}` must be {must}. Received: {name}={values}")
    return found


def finite(value, name):
    """Returns a finite number as a float; booleans and strings are refused."""
    try:
        array = numeric(value)
        number = float(array) if array.ndim == 0 else np.nan
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(f"`{name}` must be a finite number. Received: {name}={value!r}")
    return number


def check_choice(choices, **arguments):
    """Checks that each argument is one of the choices."""
    for name, value in arguments.items():
        if value not in choices:
            hint = did_you_mean(value, choices)
            raise ValueError(f"`{name}` must be one of {choices}. Received: {name}={value}{hint}")


def did_you_mean(value, choices):
    """Returns what to end an error with where a text is nearly one of the choices."""
    texts = [choice for choice in choices if isinstance(choice, str)]
    close = difflib.get_close_matches(value, texts, 1) if isinstance(value, str) else []
    return f". Did you mean {close[0]!r}?" if close else ""


def check_image(input_shape, classes):
    """Returns an image's shape and the number of classes as integers."""
    must = "(height, width, channels), positive integers"
    shape = integer_sequence("input_shape", input_shape, 1, must, length=3)
    return shape, integer("classes", classes, 2)


def class_names(names, classes):
    """Returns one name per class as a list of Python's own strings.

    Names may come twice: ImageNet's do ("crane").
    """
    in_order = isinstance(names, (list, tuple)) or len(getattr(names, "shape", ())) == 1
    found = list(names) if in_order else []
    if len(found) != classes or not all(isinstance(name, str) for name in found):
        received = f"{len(found)} names" if in_order and len(found) != classes else repr(names)
        hint = ""
        if isinstance(names, dict):
            hint = ". Of a dictionary by number give [names[i] for i in range(len(names))]"
        raise ValueError(
            f"`class_names` must be {classes} names, one per class: a list of strings in the "
            f"order of the classes. Received: class_names={received}{hint}"
        )
    return [str(name) for name in found]


def preprocessing(given, channels=None):
    """Returns how pixels are standardized, mean and std of each channel, as Python's own floats.

    Args:
        given: Dictionary `{"mean", "std"}`, of pixels divided by 255.
        channels: Integer, how many numbers each must have. `None`: any.
    """
    try:
        plain = {key: [float(v) for v in values] for key, values in given.items()}
        fits = set(plain) == {"mean", "std"} and min(plain["std"]) > 0
        lengths = {len(values) for values in plain.values()}
        fits = fits and len(lengths) == 1 and channels in (None, *lengths)
        fits = fits and all(np.isfinite(values).all() for values in plain.values())
    except (AttributeError, TypeError, ValueError):
        fits = False
    if not fits:
        count = "as many numbers" if channels is None else f"{channels} numbers each"
        raise ValueError(
            f"`preprocessing` must be a dictionary of `mean` and `std`, {count}, with positive "
            f"`std`. Received: preprocessing={given}"
        )
    if min(plain["mean"]) < -1 or max(*plain["mean"], *plain["std"]) > 2:
        raise ValueError(
            "`preprocessing` must hold `mean` and `std` of pixels divided by 255, which are from "
            f"0 to 1: (pixel / 255 - mean) / std. Received: preprocessing={given}"
        )
    return plain


# ---- arrays


def as_array(values, name):
    """Returns an array; a masked one is refused, since its mask would be lost."""
    parts = values if isinstance(values, (list, tuple)) else [values]
    if any(isinstance(part, np.ma.MaskedArray) for part in parts):
        raise ValueError(
            f"`{name}` must be without a mask: leave masked samples out. Received: a masked array"
        )
    try:
        return np.asarray(values)
    except ValueError as error:  # NumPy's own message is about sequences
        shapes = [np.shape(part) for part in parts if hasattr(part, "shape")]
        raise ValueError(
            f"`{name}` must be an array, or a list of parts of one shape. Received: "
            + (f"parts of shapes {shapes[:4]}" if shapes else "parts of several shapes")
        ) from error


def numeric(values):
    """Returns an array of numbers; raises a ValueError or a TypeError for others."""
    array = as_array(values, "values")
    if array.dtype.kind in "bSUMmc":
        raise TypeError(f"no numbers: {array.dtype}")
    return array.astype("float64")


def check_confidences(confidences):
    """Returns confidences `(exits, samples)` as an array; those of the last exit do not count."""
    try:
        found = numeric(confidences)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`confidences` must be finite numbers of shape (exits, samples). Received: {error}"
        ) from error
    if found.ndim != 2 or not found.size or not np.isfinite(found[:-1]).all():
        raise ValueError(
            "`confidences` must be finite numbers of shape (exits, samples). "
            f"Received: shape {found.shape}"
        )
    return found


def check_logits(logits):
    """Returns finite logits `(exits, samples, classes)`, or dense ones, as an array."""
    logits = as_array(logits, "logits")
    half = logits.dtype.itemsize == 2
    if logits.dtype.name == "bfloat16":
        logits = logits.astype("float32")
    if logits.ndim not in (3, 5) or not logits.size or logits.shape[-1] < 2:
        none = ", which holds none" if logits.ndim in (3, 5) and not logits.size else ""
        raise ValueError(
            "`logits` must be of shape (exits, samples, classes) or (exits, cells, height, "
            "width, classes), with at least one exit, one sample and two classes. "
            f"Received: shape {logits.shape}{none}"
        )
    if logits.dtype.kind not in "iuf":
        raise ValueError(f"`logits` must be numbers. Received: dtype {logits.dtype}")
    if not _all_finite(logits):
        raise ValueError("`logits` must be finite. Received: NaN or infinite values")
    for k, z in enumerate(logits if logits.dtype.kind == "f" else ()):
        if _are_probabilities(z, 1e-2 if half else 1e-3):
            raise ValueError(
                "`logits` must be logits. Of probabilities p, give the logarithm: "
                "np.log(np.maximum(p, 1e-37)), or build the model with `from_logits=False`. Logits "
                "that look so by chance pass as `logits - 1`, whose softmax is the same. "
                f"Received: at exit {k}, rows that are at least 0 and sum to 1"
            )
    return logits


def _are_probabilities(z, near):
    """Whether all rows are at least 0 and sum to 1, and some more than a few are not one-hot.

    The first row that is none ends the search.
    """
    count, start, step = 0, 0, 1
    while start < len(z):
        rows = z[start : start + step].reshape(-1, z.shape[-1])
        if (rows < 0).any() or (np.abs(rows.sum(axis=1, dtype="float64") - 1) > near).any():
            return False
        count += int(((rows != 0) & (rows != 1)).any(axis=1).sum())
        start, step = start + step, 256
    return count >= 4


def _all_finite(array):
    """Whether all numbers are finite, part by part: arrays may be larger than the memory."""
    if array.size <= 2**20 or len(array) == 1 == array.ndim:
        return bool(np.isfinite(array).all())
    if len(array) == 1:
        return _all_finite(array[0])
    half = len(array) // 2
    return _all_finite(array[:half]) and _all_finite(array[half:])


def check_costs(costs, logits):
    """Returns cumulative costs `(exits,)` or `(exits, samples)` of checked logits."""
    if costs is None:
        raise ValueError("`costs` must be given, one per exit. Received: costs=None")
    try:
        costs = numeric(costs)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`costs` must be numbers. Received: costs={costs}") from error
    if costs.shape not in {logits.shape[:1], logits.shape[:2]}:
        raise ValueError(
            f"`costs` must be of shape {logits.shape[:1]} or {logits.shape[:2]}, as "
            f"`logits`. Received: shape {costs.shape}"
        )
    if not np.isfinite(costs).all() or (costs < 0).any() or (np.diff(costs, axis=0) < 0).any():
        raise ValueError(
            "`costs` must be finite, not negative, and not fall from exit to exit: they "
            f"are cumulative. Received: costs={costs.tolist() if costs.ndim == 1 else costs}"
        )
    return costs


def check_labels(labels, logits):
    """Returns integer labels of checked logits; -1 marks a pixel without a label.

    Taken is what `fit` takes: integers, floats that are whole, with or without an axis of one at
    the end, and one-hot labels; booleans where there are two classes, since more of them are
    rather answers that were right.

    Args:
        labels: Array.
        logits: Array of which the shape is looked at.
    """
    if labels is None:
        raise ValueError("`labels` must be given. Received: labels=None")
    labels = as_array(labels, "labels")
    shape, classes = logits.shape[1:-1], logits.shape[-1]
    if labels.shape == (*shape, 1):
        labels = labels[..., 0]
    elif labels.shape == (*shape, classes) and labels.dtype.kind in "biuf":
        labels = _of_one_hot(labels)
    whole = labels.dtype.kind == "f" and (labels == np.rint(labels)).all()
    if whole or (labels.dtype.kind == "b" and classes == 2):
        labels = labels.astype("int64")
    if labels.shape != shape or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"`labels` must be integers of shape {shape}, one per sample, or one-hot. "
            f"Received: dtype {labels.dtype}, shape {labels.shape}"
        )
    least = 0 if labels.ndim == 1 else -1
    if labels.min() < least or labels.max() >= classes or labels.max() < 0:
        raise ValueError(
            f"`labels` must be at least {least} and below the number of classes, {classes}. "
            f"Received: labels from {labels.min()} to {labels.max()}"
        )
    return labels


def check_labels_of(labels, shape):
    """Returns labels as `check_labels` does, where there are no logits yet: of their shape."""
    return check_labels(labels, np.broadcast_to(np.float32(0), shape))


def _of_one_hot(labels):
    """Returns the classes of one-hot labels; others as they are."""
    found = labels.argmax(axis=-1)
    ones = np.take_along_axis(labels, found[..., None], axis=-1)
    is_one_hot = (ones == 1).all() and ((labels == 0).sum(axis=-1) == labels.shape[-1] - 1).all()
    return found if is_one_hot else labels


def numbers(values, name):
    """Returns one number per exit, `(exits,)`; infinite ones are accepted."""
    try:
        array = numeric(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be numbers. Received: {name}={values}") from error
    if array.ndim != 1 or not array.size or np.isnan(array).any():
        raise ValueError(
            f"`{name}` must be one number per exit, none of them NaN. Received: {name}={values}"
        )
    return array


# ---- arrays for the inputs of a network

KINDS = {"f": "fiub", "i": "iub", "u": "iub", "b": "b"}  # kinds of numbers that become others


def each_input(x, inputs, argument):
    """Returns what is given for each input of a network, a list in the inputs' order.

    Args:
        x: Array, or a list of it alone; of several inputs a list, or a dictionary by name.
        inputs: List of dictionaries: `name`; `shape` without the batch, `None` where a size is
            open; `dtype`.
        argument: String, the name of `x`.
    """
    names = [one["name"] for one in inputs]
    is_list = isinstance(x, (list, tuple))
    if isinstance(x, dict):
        found = [x[name] for name in names] if set(x) == set(names) else []
    elif len(names) == 1:
        alone = is_list and len(x) == 1 and np.ndim(x[0]) == 1 + len(inputs[0]["shape"])
        found = x if alone else [x]
    else:
        found = x if is_list else [x]
    if len(found) != len(names):
        received = sorted(map(str, x)) if isinstance(x, dict) else f"{len(found)} of them"
        raise ValueError(
            f"`{argument}` must hold an array for each of the {len(names)} inputs {names}: "
            f"a dictionary by name, or a list. Received: {received}"
        )
    return [as_array(array, argument) if _is_ours(array) else array for array in found]


def _is_ours(array):
    """Returns whether something must become an array, or is one that is refused."""
    return not hasattr(array, "shape") or isinstance(array, np.ma.MaskedArray)


def check_inputs(arrays, inputs, argument):
    """Returns arrays of samples, one for each input of a network, in the inputs' dtypes.

    Args:
        arrays, inputs, argument: As `each_input` returns and takes them.
    """
    pairs = zip(arrays, inputs, strict=True)
    found = [_fitting(np.asarray(array), one, argument) for array, one in pairs]
    counts = [len(array) for array in found]
    if not counts[0]:
        raise ValueError(f"`{argument}` must hold at least one sample. Received: none")
    if len(set(counts)) > 1:
        raise ValueError(
            f"`{argument}` must hold as many samples for each input. Received: {counts}"
        )
    return found


def _fitting(array, one, argument):
    shape, dtype = one["shape"], one["dtype"]
    sizes = zip(array.shape[1:], shape, strict=False)
    if array.ndim != 1 + len(shape) or any(wanted not in (None, n) for n, wanted in sizes):
        raise ValueError(
            f"`{argument}` must be of shape ({', '.join(map(str, ['samples', *shape]))}). "
            f"Received: shape {array.shape}"
        )
    if dtype == "string":
        return array
    kind = "f" if "float" in dtype else np.dtype(dtype).kind
    if array.dtype.kind not in KINDS[kind] and str(array.dtype) != dtype:
        raise ValueError(f"`{argument}` must be numbers for {dtype}. Received: dtype {array.dtype}")
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise ValueError(
            f"The logits must be finite. Received: NaN or infinity in `{argument}`, from which "
            "they come"
        )
    return array.astype(dtype, copy=False)


# ---- optional packages


@contextlib.contextmanager
def needs_extra(extra):
    """Lets a failing import in its `with` block say which extra installs the missing module."""
    try:
        yield
    except ModuleNotFoundError as error:
        module = error.name.partition(".")[0]
        raise ImportError(
            f"The module {module} is missing: pip install 'keras_adaptive[{extra}]'"
        ) from error
