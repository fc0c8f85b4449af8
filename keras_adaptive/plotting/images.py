"""Images by the exit they leave at, from easy to hard."""

import reprlib

import matplotlib.pyplot as plt
import numpy as np

from keras_adaptive._checks import as_array, finite, integer
from keras_adaptive._checks import class_names as names_of_classes
from keras_adaptive.plotting._style import BLUE, RED, axes_of, counted, numbers_of
from keras_adaptive.policy.confidence import softmax

CAPTION, LETTER = 7, 0.062  # points, and inches that a letter of that size takes
LONGEST = 24  # letters of a class name that are shown


def images_by_exit(images, exits, *, labels=None, answers=None, class_names=None, columns=8):
    """Draws the first images that leave at each exit, one row per exit, easy ones on top.

    With labels and answers, correct answers have a blue frame and wrong ones a red, dashed
    frame, with the predicted and the true class above, of which the first 24 letters are shown.

    Args:
        images: Array `(samples, height, width, channels)`, uint8, or floats from 0 to 1;
            1 or 3 channels.
        exits: Integer array `(samples,)`: where each leaves, as `policy.decide` returns it.
        labels: Integer array `(samples,)`, or `None`.
        answers: Integer array `(samples,)`: the predicted classes, or `None`.
        class_names: List of strings. `None`: the numbers.
        columns: Integer, how many images per row, at least 1.

    Returns:
        Array `(exits, columns)` of axes; rows from exit 0 to the last that is used.

    Raises:
        ValueError: If the arrays do not fit together.
    """
    images = _check_images(images)
    columns = integer("columns", columns, 1)
    exits = _one_each("exits", exits, images)
    most = None
    if class_names is not None:
        class_names = names_of_classes(class_names, len(class_names))
        most = len(class_names) - 1
    if labels is not None:
        labels = _one_each("labels", labels, images, most)
    if answers is not None:
        answers = _one_each("answers", answers, images, most)
    found = [np.flatnonzero(exits == k) for k in range(int(exits.max()) + 1)]
    names = [f"exit {k}\n{len(row) / len(exits):.0%}" for k, row in enumerate(found)]
    rows = [row[:columns] for row in found]
    shown = np.concatenate(rows)
    captions, widest = {}, 0
    if labels is not None and answers is not None:
        captions = {i: _caption(int(labels[i]), int(answers[i]), class_names) for i in shown}
        widest = max(len(line) for text in captions.values() for line in text.splitlines())
    side = max(1.05, LETTER * widest)
    text = counted("images", len(images))
    if captions:
        text += "; blue frame: right, dashed red frame: wrong"
    axes = _new_grid(None, len(rows), columns, text, cell=(side, side + 0.2))
    _draw_rows(axes, images, rows, names)
    for line, row in zip(axes, rows, strict=True):
        for ax, i in zip(line, row, strict=False):
            if i in captions:
                _frame(ax, labels[i] == answers[i], captions[i])
    return axes


def _one_each(name, values, images, most=None):
    """Returns one integer per image, from 0 to `most`."""
    found = as_array(values, name)
    if found.shape != images.shape[:1]:
        raise ValueError(
            f"`{name}` must be one integer per image, {len(images)}. Received: shape {found.shape}"
        )
    whole = found.dtype.kind in "iub" or (found.dtype.kind == "f" and (found % 1 == 0).all())
    if not whole or found.min() < 0 or (most is not None and found.max() > most):
        bounds = "of at least 0" if most is None else f"from 0 to {most}"
        raise ValueError(
            f"`{name}` must be integers {bounds}. Received: {name}={reprlib.repr(values)}"
        )
    return found.astype("int64")


def _check_images(images):
    """Returns images that can be drawn as an array."""
    images = as_array(images, "images")
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or not len(images):
        raise ValueError(
            "`images` must be of shape (samples, height, width, channels) with 1 or 3 channels. "
            f"Received: shape {images.shape}"
        )
    return images


def _caption(label, answer, class_names):
    """Returns the predicted class, and the true one if it is another; on two lines if long."""
    names = [str(n) if class_names is None else str(class_names[n]) for n in (answer, label)]
    names = [name if len(name) <= LONGEST else f"{name[: LONGEST - 1]}…" for name in names]
    if label == answer:
        return names[0]
    short = len(" ".join(names)) <= 12
    return f"{names[0]},{' ' if short else chr(10)}is {names[1]}"


def _frame(ax, right, caption):
    ax.spines[:].set(visible=True, color=BLUE if right else RED, lw=2.5, ls="-" if right else "--")
    ax.set_title(caption, fontsize=CAPTION, color="black" if right else RED, pad=4)


def easy_and_hard(images, costs, full, *, easy=None, hard=None, axes=None, count=8):
    """Draws the images of which a gated network skips most, and those of which it skips least.

    Args:
        images: Array `(samples, height, width, channels)`, uint8, or floats from 0 to 1.
        costs: Array `(samples,)`, the cost of each, of `predict_with_costs`.
        full: Number, the cost of an image with all gates open.
        easy, hard: Numbers from 0 to 1: only images of which more than `easy`, or less than
            `hard`, is skipped are shown (the paper: 0.6 and 0.4). `None`: whatever is extreme.
        axes: Array `(2, count)` of matplotlib axes. `None`: new ones.
        count: Integer, images per row.

    Returns:
        Array `(2, count)` of axes: the easy ones above, the hard ones below, each with its
        skipping ratio, `1 - cost / full`.

    Raises:
        ValueError: If there are fewer images than are shown.

    Reference:
        [Dual Dynamic Inference (Wang et al., 2019)](https://arxiv.org/abs/1907.04523),
        figure 13.
    """
    count = integer("count", count, 1)
    images, costs = _check_images(images), numbers_of(costs, "costs", "numbers, one per image")
    full = finite(full, "full")
    if full <= 0 or not np.isfinite(costs).all():
        raise ValueError(
            "`costs` must be finite, and `full` above 0. "
            f"Received: costs={reprlib.repr(costs)}, full={full}"
        )
    if costs.shape != images.shape[:1] or len(images) < 2 * count:
        raise ValueError(
            f"`images` must be at least {2 * count}, and `costs` one number per image. "
            f"Received: shapes {images.shape} and {costs.shape}"
        )
    order, skipped = np.argsort(costs, kind="stable"), 1 - costs / full
    most, least = order, order[::-1]
    if easy is not None:
        most = most[skipped[most] > easy]
    if hard is not None:
        least = least[skipped[least] < hard]
    ratios = [f"{100 * share:.0f} %" for share in skipped]
    text = counted("skipped of the full cost (%), extremes of images", len(images))
    axes = _new_grid(axes, 2, count, text)
    return _draw_rows(axes, images, [most[:count], least[:count]], ["easy", "hard"], ratios)


def examples(images, rows, labels=None, *, axes=None):
    """Draws some of the images that leave at each exit, one row per exit.

    Args:
        images: Array `(samples, height, width, channels)`, uint8, or floats from 0 to 1.
        rows: List of one integer array per exit, from `evaluation.most_and_least_confident`.
        labels: Sequence of one text per sample, or `None`.
        axes: Array of matplotlib axes `(exits, images)`. `None`: new ones.

    Returns:
        The array of axes.

    Raises:
        ValueError: If the arguments do not fit together, or no row has an image.
    """
    images = _check_images(images)
    rows = _check_rows(rows, len(images))
    if labels is not None and len(labels) != len(images):
        raise ValueError(
            f"`labels` must be one per image, {len(images)}. Received: {len(labels)} labels"
        )
    names = [f"exit {k}" for k in range(len(rows))]
    axes = _new_grid(axes, len(rows), max(map(len, rows)), counted("of images", len(images)))
    return _draw_rows(axes, images, rows, names, labels)


def _check_rows(rows, images):
    """Returns one array of indices of images per exit; some may be empty, not all."""
    found = [np.asarray(row) for row in rows] if isinstance(rows, (list, tuple, np.ndarray)) else []
    fits = any(row.size for row in found) and all(
        row.ndim == 1
        and (not row.size or (row.dtype.kind in "iu" and row.min() >= 0 and row.max() < images))
        for row in found
    )
    if not fits:
        raise ValueError(
            "`rows` must be a list of one integer array per exit, indices of images from 0 to "
            f"{images - 1}, at least one. Received: rows={reprlib.repr(rows)}"
        )
    return found


def probability_strips(images, logits, exits, class_names=None, *, top=3, axes=None):
    """Draws each image beside the class probabilities of every exit that it visited.

    Args:
        images: Array `(samples, height, width, channels)`, uint8, or floats from 0 to 1.
        logits: Array `(exits, samples, classes)`.
        exits: Integer array `(samples,)`, where each leaves.
        class_names: List of strings, or `None`: numbers.
        top: Integer, how many classes are shown.
        axes: Array of matplotlib axes `(samples, 1 + exits)`. `None`: new ones.

    Returns:
        The array of axes.

    Raises:
        ValueError: If the arrays do not fit together.

    Reference:
        [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368), figure 4.
    """
    images, top = _check_images(images), integer("top", top, 1)
    must = "numbers of shape (exits, samples, classes), with as many samples as images"
    logits = numbers_of(logits, "logits", must)
    if logits.ndim != 3 or not logits.size or logits.shape[1] != len(images):
        raise ValueError(
            f"`logits` must be {must}. Received: shape {logits.shape}, {len(images)} images"
        )
    exits = _one_each("exits", exits, images, len(logits) - 1)
    if class_names is not None:
        class_names = names_of_classes(class_names, logits.shape[2])
    probabilities = softmax(logits)
    count, samples = probabilities.shape[:2]
    axes = _new_grid(axes, samples, 1 + count, counted("images", samples), cell=(1.8, 1.1))
    for sample, (first, *line) in enumerate(axes):
        _show(first, images[sample])
        first.set_ylabel(f"image {sample}", fontsize="x-small")
        for k, ax in enumerate(line):
            if k > exits[sample]:
                ax.axis("off")
                continue
            best = np.argsort(-probabilities[k, sample], kind="stable")[:top][::-1]
            names = [str(c) if class_names is None else class_names[c] for c in best]
            places = range(len(best))  # names may come twice
            ax.barh(places, probabilities[k, sample, best], color=BLUE)
            ax.set_yticks(places, names)
            ax.set_xlim(0, 1)
            ax.tick_params(labelsize="x-small")
            leaves = ", leaves" if k == exits[sample] else ""
            ax.set_title(f"exit {k}{leaves}", fontsize="x-small")
            ax.set_xlabel("probability", fontsize="x-small", labelpad=1)
    return axes


def _new_grid(axes, rows, columns, text, cell=(1.05, 1.1)):
    """Returns the axes given, or a new array of them with a text below."""
    if axes is not None:
        return axes_of(axes, (rows, columns))
    size = (cell[0] * columns, cell[1] * rows + 0.25)
    figure, axes = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)
    figure.supxlabel(text, fontsize="small")
    return axes


def _draw_rows(axes, images, rows, names, titles=None):
    """Draws rows of images, given by their indices, and returns the axes."""
    for line, row, name in zip(axes, rows, names, strict=True):
        for ax in line:
            ax.set(xticks=[], yticks=[])
            ax.spines[:].set_visible(False)
        for ax, i in zip(line, row, strict=False):
            _show(ax, images[i])
            if titles is not None:
                ax.set_title(str(titles[i]), fontsize="x-small", pad=2)
        line[0].set_ylabel(name, rotation=0, ha="right", va="center", fontsize="small")
    return axes


def _show(ax, image):
    gray = image.shape[-1] == 1
    ax.imshow(image[..., 0] if gray else image, cmap="gray" if gray else None)
    ax.set(xticks=[], yticks=[])
    ax.spines[:].set_visible(False)
