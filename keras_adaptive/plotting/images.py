"""Which images leave where, from easy to hard."""

import matplotlib.pyplot as plt
import numpy as np

from keras_adaptive.plotting._style import BLUE, RED
from keras_adaptive.plotting.accuracy_matrix import _show


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


def easy_and_hard(images, costs, full, *, axes=None, count=8):
    """Shows the images for which most is skipped, and those for which least is.

    Args:
        images: Array `(samples, height, width, channels)` that can be shown: bytes, or
            numbers from 0 to 1.
        costs: Array `(samples,)`, what each costs, of `predict_with_costs`.
        full: Number, what an image costs with all gates open.
        axes: Array `(2, count)` of matplotlib axes. `None`: new ones.
        count: Integer, images a row.

    Returns:
        Array `(2, count)` of axes: above the easy ones, below the hard ones, each with its
        skipping ratio, `1 - cost / full`.

    Raises:
        ValueError: If there are fewer images than are shown.

    Reference:
        [Dual Dynamic Inference (Wang et al., 2019)](https://arxiv.org/abs/1907.04523),
        figure 13.
    """
    images, costs = np.asarray(images), np.asarray(costs)
    if costs.shape != images.shape[:1] or len(images) < 2 * count:
        raise ValueError(
            f"`images` must be at least {2 * count}, and `costs` one number an image. "
            f"Received: shapes {images.shape} and {costs.shape}"
        )
    if axes is None:
        size = (1.1 * count, 2.8)
        axes = plt.subplots(2, count, figsize=size, layout="constrained", squeeze=False)[1]
    order = np.argsort(costs, kind="stable")
    rows = (("easy", order[:count]), ("hard", order[::-1][:count]))
    for (name, row), line in zip(rows, axes, strict=True):
        for i, ax in zip(row, line, strict=True):
            ax.imshow(images[i].squeeze(), cmap="gray")
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_title(f"{100 * (1 - costs[i] / full):.0f} %", fontsize="small")
        line[0].set_ylabel(name)
    return axes


def examples(images, rows, labels=None, *, axes=None):
    """Draws, exit by exit, some of the images that leave there.

    Args:
        images: Array `(samples, height, width, channels)` of pixels.
        rows: List of one integer array an exit, from `evaluation.extremes`.
        labels: Sequence of one text a sample, or `None`.
        axes: Array of matplotlib axes `(exits, images)`. `None`: new ones.

    Returns:
        The array of axes.
    """
    columns = max(len(found) for found in rows)
    if axes is None:
        size = (0.8 * columns + 0.6, 0.9 * len(rows))
        axes = plt.subplots(len(rows), columns, figsize=size, layout="constrained", squeeze=False)[
            1
        ]
    for k, found in enumerate(rows):
        for ax in axes[k]:
            ax.set_xticks([])
            ax.set_yticks([])
            ax.set_frame_on(False)
        for ax, sample in zip(axes[k], found, strict=False):
            _show(ax, images[sample])
            if labels is not None:
                ax.set_title(str(labels[sample]), fontsize="x-small")
        axes[k][0].set_ylabel(f"exit {k}", fontsize="small")
    return axes


def probability_strips(images, logits, exits, class_names=None, *, top=3, axes=None):
    """Draws images with what every exit they visited thought of them.

    Each row is an image; beside it, exit by exit until it left, stand the most probable
    classes.

    Args:
        images: Array `(samples, height, width, channels)` of pixels.
        logits: Array `(exits, samples, classes)`.
        exits: Integer array `(samples,)`, where each leaves.
        class_names: List of strings, or `None`: numbers.
        top: Integer, how many classes are shown.
        axes: Array of matplotlib axes `(samples, 1 + exits)`. `None`: new ones.

    Returns:
        The array of axes.

    Reference:
        [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368), figure 4.
    """
    logits = np.asarray(logits)
    shape = (logits.shape[1], 1 + len(logits))
    if axes is None:
        size = (1.8 * shape[1], 1.1 * shape[0])
        axes = plt.subplots(*shape, figsize=size, layout="constrained", squeeze=False)[1]
    shifted = np.exp(logits - logits.max(axis=-1, keepdims=True))
    probabilities = shifted / shifted.sum(axis=-1, keepdims=True)
    for row, sample in zip(axes, range(shape[0]), strict=True):
        _show(row[0], images[sample])
        row[0].axis("off")
        for k, ax in enumerate(row[1:]):
            if k > exits[sample]:
                ax.axis("off")
                continue
            best = np.argsort(-probabilities[k, sample], kind="stable")[:top][::-1]
            names = [str(c) if class_names is None else class_names[c] for c in best]
            ax.barh(names, probabilities[k, sample, best])
            ax.set_xlim(0, 1)
            ax.tick_params(labelsize="x-small")
            leaves = ", leaves" if k == exits[sample] else ""
            ax.set_title(f"exit {k}{leaves}", fontsize="x-small")
    return axes
