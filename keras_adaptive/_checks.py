"""Checks of arguments: each raises a ValueError saying what must hold and what was received.

Wherever a Python number is accepted, a numpy scalar is; what is returned is Python's own
`int` or `float`.
"""

import contextlib
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
        array = _numeric(value)
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
            raise ValueError(f"`{name}` must be one of {choices}. Received: {name}={value}")


def check_image(input_shape, classes):
    """Returns an image's shape and the number of classes as integers."""
    must = "(height, width, channels), positive integers"
    shape = integer_sequence("input_shape", input_shape, 1, must, length=3)
    return shape, integer("classes", classes, 2)


# ---- arrays


def _numeric(values):
    """Returns an array of numbers; raises a ValueError or a TypeError for others."""
    array = np.asarray(values)
    if array.dtype.kind in "bSUMmc":
        raise TypeError(f"no numbers: {array.dtype}")
    return array.astype("float64")


def check_logits(logits):
    """Returns finite logits `(exits, samples, classes)`, or dense ones, as an array."""
    logits = np.asarray(logits)
    if logits.dtype.name == "bfloat16":
        logits = logits.astype("float32")
    if logits.ndim not in (3, 5) or not logits.size or logits.shape[-1] < 2:
        raise ValueError(
            "`logits` must be of shape (exits, samples, classes) or (exits, cells, height, "
            "width, classes), with at least one exit, one sample and two classes. "
            f"Received: shape {logits.shape}"
        )
    if logits.dtype.kind not in "iuf":
        raise ValueError(f"`logits` must be numbers. Received: dtype {logits.dtype}")
    if not np.isfinite(logits).all():
        raise ValueError("`logits` must be finite. Received: NaN or infinite values")
    return logits


def check_costs(costs, logits):
    """Returns cumulative costs `(exits,)` or `(exits, samples)` of checked logits."""
    if costs is None:
        raise ValueError("`costs` must be given, one per exit. Received: costs=None")
    try:
        costs = _numeric(costs)
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
    """Returns integer labels of checked logits; -1 marks a pixel without a label."""
    if labels is None:
        raise ValueError("`labels` must be given. Received: labels=None")
    labels = np.asarray(labels)
    shape, classes = logits.shape[1:-1], logits.shape[-1]
    if labels.shape != shape or not np.issubdtype(labels.dtype, np.integer):
        raise ValueError(
            f"`labels` must be integers of shape {shape}, one per sample. "
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
    """Returns one number per exit, `(exits,)`; infinite ones are accepted."""
    try:
        array = _numeric(values)
    except (TypeError, ValueError) as error:
        raise ValueError(f"`{name}` must be numbers. Received: {name}={values}") from error
    if array.ndim != 1 or not array.size or np.isnan(array).any():
        raise ValueError(
            f"`{name}` must be one number per exit, none of them NaN. Received: {name}={values}"
        )
    return array


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
