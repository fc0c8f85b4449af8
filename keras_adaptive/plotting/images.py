"""Which images leave where, from easy to hard."""

import matplotlib.pyplot as plt
import numpy as np

from keras_adaptive.plotting.style import BLUE, RED


def images_by_exit(images, exits, *, labels=None, answers=None, class_names=None, columns=8):
    """Draws the first images that leave at each exit: a row an exit, easy ones on top.

    With labels and answers, right answers are framed blue, wrong ones red and dashed, and
    a wrong one says what was seen and what it is.

    Args:
        images: Array `(samples, height, width, channels)`, uint8, or floats from 0 to 1;
            1 or 3 channels.
        exits: Integer array `(samples,)`: where each leaves, as `policy.decide` gives it.
        labels: Integer array `(samples,)`, or `None`.
        answers: Integer array `(samples,)`: the class found for each, or `None`.
        class_names: List of strings. `None`: the numbers.
        columns: Integer, how many images a row.

    Returns:
        Array `(exits, columns)` of axes; rows from exit 0 to the last that is used.

    Raises:
        ValueError: If the arrays do not fit together.
    """
    images, exits = np.asarray(images), np.asarray(exits)
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(
            "`images` must be of shape (samples, height, width, channels) with 1 or 3 channels. "
            f"Received: shape {images.shape}"
        )
    given = {"exits": exits, "labels": labels, "answers": answers}
    for name, values in given.items():
        if values is not None and np.shape(values) != (len(images),):
            raise ValueError(
                f"`{name}` must be one integer an image, {len(images)}. "
                f"Received: shape {np.shape(values)}"
            )
    rows = int(exits.max()) + 1
    size = (0.9 + 0.95 * columns, 1.05 * rows)
    axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)[1]
    for row, line in enumerate(axes):
        found = np.flatnonzero(exits == row)
        text = f"exit {row}\n{len(found) / len(exits):.0%}"
        line[0].set_ylabel(text, rotation=0, ha="right", va="center")
        for ax, i in zip(line, [*found[:columns], *[None] * columns], strict=False):
            ax.set(xticks=[], yticks=[])
            if i is None:
                ax.spines[:].set_visible(False)
                continue
            ax.imshow(images[i].squeeze(), cmap="gray")
            if labels is not None and answers is not None:
                _frame(ax, int(labels[i]), int(answers[i]), class_names)
    return axes


def _frame(ax, label, answer, class_names):
    right = label == answer
    ax.spines[:].set(color=BLUE if right else RED, lw=2.5, ls="-" if right else "--")
    names = [str(class_names[n]) if class_names is not None else str(n) for n in (answer, label)]
    text = names[0] if right else f"{names[0]}, is {names[1]}"
    ax.set_title(text, fontsize=6.5, color="black" if right else RED, pad=2)
