"""Every check of an argument, once: what must hold, then what was received."""

import operator

import numpy as np

# ---- single values; wherever a number of Python is taken, so is one of numpy


def integer(name, value, least=None):
    """Returns an integer as Python's own; booleans and floats are none."""
    try:
        whole = None if isinstance(value, (bool, np.bool_)) else operator.index(value)
    except TypeError:
        whole = None
    if whole is None or (least is not None and whole < least):
        must = "an integer" if least is None else f"an integer of at least {least}"
        raise ValueError(f"`{name}` must be {must}. Received: {name}={value}")
    return whole


def integers(least, **arguments):
    """Returns the arguments as Python's integers, each of at least `least`."""
    return [integer(name, value, least) for name, value in arguments.items()]


def finite(value, name):
    """Returns a number as a float; raises a ValueError if it is none, or not finite."""
    try:
        number = np.nan if isinstance(value, (bool, np.bool_, str, bytes)) else float(value)
    except (TypeError, ValueError):
        number = np.nan
    if not np.isfinite(number):
        raise ValueError(f"`{name}` must be a finite number. Received: {name}={value!r}")
    return number


def check_choice(choices, **arguments):
    """Raises a ValueError for the first argument that is none of the choices."""
    for name, value in arguments.items():
        if value not in choices:
            raise ValueError(f"`{name}` must be one of {choices}. Received: {name}={value}")


def check_image(input_shape, classes):
    """Returns an image's shape and the number of classes as Python's integers."""
    try:
        shape = tuple(integer("input_shape", n, 1) for n in input_shape)
    except (TypeError, ValueError):
        shape = ()
    if len(shape) != 3:
        raise ValueError(
            "`input_shape` must be (height, width, channels), positive integers. "
            f"Received: input_shape={input_shape}"
        )
    return shape, integer("classes", classes, 2)


# ---- arrays


def check_logits(logits):
    logits = np.asarray(logits)
    if logits.dtype.name == "bfloat16":
        logits = logits.astype("float32")
    if logits.ndim not in (3, 5) or not logits.size or logits.shape[-1] < 2:
        raise ValueError(
            "`logits` must be of shape (exits, samples, classes) or (exits, cells, height, "
            "width, classes), with at least one exit, one sample and two classes. "
            f"Received: shape {logits.shape}"
        )
    if not np.issubdtype(logits.dtype, np.number):
        raise ValueError(f"`logits` must be numbers. Received: dtype {logits.dtype}")
    if not np.isfinite(logits).all():
        raise ValueError("`logits` must be finite. Received: NaN or infinite values")
    return logits


def check_costs(costs, logits):
    if costs is None:
        raise ValueError("`costs` must be given, one an exit. Received: costs=None")
    try:
        costs = np.asarray(costs, "float64")
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
    """Returns integer labels; -1 marks a pixel of a dense output that has none."""
    if labels is None:
        raise ValueError("`labels` must be given. Received: labels=None")
    labels = np.asarray(labels)
    shape, classes = logits.shape[1:-1], logits.shape[-1]
    if labels.shape != shape or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"`labels` must be integers of shape {shape}, one a sample. "
            f"Received: dtype {labels.dtype}, shape {labels.shape}"
        )
    least = 0 if labels.ndim == 1 else -1
    if labels.min() < least or labels.max() >= classes or labels.max() < 0:
        raise ValueError(
            f"`labels` must be at least {least} and below the number of classes, {classes}. "
            f"Received: labels from {labels.min()} to {labels.max()}"
        )
    return labels


def numbers(values, name):
    try:
        numbers = np.asarray(values, "float64")
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be numbers. Received: {name}={values}") from error
    if numbers.ndim != 1 or not numbers.size or np.isnan(numbers).any():
        raise ValueError(
            f"`{name}` must be one number an exit, none of them NaN. Received: {name}={values}"
        )
    return numbers
