"""A metric of every exit during training."""

import reprlib
from pathlib import Path

import numpy as np

from keras_adaptive._checks import integer_sequence
from keras_adaptive._files import reading
from keras_adaptive.plotting._style import LINE_MARKERS, exit_colors, new_axes, tidy


def exit_history(history, metric="accuracy", *, samples=None, ax=None):
    """Draws a metric of every exit over the epochs of a training.

    Args:
        history: What `fit` returned with an `ExitHistory` among its callbacks, or the
            dictionary in it, or the path of the file `keras.callbacks.CSVLogger` wrote.
        metric: String. Training is drawn dotted, validation, if there is one, solid.
        samples: Tuple of integers: how many samples training and validation had. `None`: it is
            not said.
        ax: Matplotlib axes to draw on. `None`: new ones.

    Returns:
        The axes.

    Raises:
        ValueError: If the history does not hold the metric for every exit.
    """
    if isinstance(history, (str, Path)):
        with reading(history, "`history` must be a file that keras.callbacks.CSVLogger wrote"):
            table = np.genfromtxt(history, delimiter=",", names=True)
            history = {name: np.atleast_1d(table[name]) for name in table.dtype.names}
    history = getattr(history, "history", history)
    if not isinstance(history, dict):
        raise ValueError(
            "`history` must be what `fit` returned, the dictionary in it, or the path of a CSV "
            f"file. Received: history={reprlib.repr(history)}"
        )
    exits = 0
    while f"exit_{exits}_{metric}" in history:
        exits += 1
    if not exits:
        raise ValueError(
            f"`history` must hold exit_0_{metric}: train with the callback ExitHistory. "
            f"Received: {sorted(history)}"
        )
    if samples is not None:
        must = "two integers, of training and of validation"
        train, validation = integer_sequence("samples", samples, 0, must, 2)
    ax = new_axes(ax)
    for k, color in enumerate(exit_colors(exits)):
        for prefix, style in (("", ":"), ("val_", "-")):
            values = history.get(f"{prefix}exit_{k}_{metric}")
            if values is not None:
                label = f"{prefix.replace('val_', 'validation, ')}exit {k}"
                epochs = np.arange(1, len(values) + 1)
                marker = LINE_MARKERS[k % len(LINE_MARKERS)]
                ax.plot(epochs, values, style, marker=marker, ms=3, color=color, label=label)
    ax.set_xlabel("epoch")
    ax.xaxis.get_major_locator().set_params(integer=True)
    if samples is not None:
        metric += f", n = {train:,} (training), {validation:,} (validation)"
    ax.set_ylabel(metric)
    tidy(ax)
    ax.legend(fontsize="x-small", ncols=2)
    return ax
