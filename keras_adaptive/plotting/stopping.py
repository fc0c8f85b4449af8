"""What a stopping policy does."""

import matplotlib.pyplot as plt
import numpy as np

from keras_adaptive.plotting.style import new_axes, scaled


def sweep(sweeps, static=None, *, ax=None, unit="MACs"):
    """Draws accuracy against mean cost for several ways of stopping.

    Args:
        sweeps: Dictionary: name to what has `costs` and `accuracies`: a `Sweep`, a `Curve`
            of `accuracy_cost_curve` (thresholds on the same cascade).
        static: Dictionary: name to `(cost, accuracy)` of networks used alone, or `None`.
        ax: Matplotlib axes. `None`: new ones.
        unit: String, of the costs.

    Returns:
        The axes.

    Reference:
        [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368), figure 2.
    """
    if not sweeps:
        raise ValueError(f"`sweeps` must hold at least one. Received: sweeps={sweeps}")
    ax = new_axes(ax, (5.5, 3.6))
    scale, prefix = scaled(max(np.max(found.costs) for found in sweeps.values()))
    for name, found in sweeps.items():
        order = np.argsort(found.costs, kind="stable")
        costs, accuracies = np.asarray(found.costs)[order], np.asarray(found.accuracies)[order]
        ax.plot(costs / scale, 100 * accuracies, "-o", ms=3, label=name)
    for name, (cost, accuracy) in (static or {}).items():
        ax.plot(cost / scale, 100 * accuracy, "s", color="gray", ms=5)
        ax.annotate(
            name,
            (cost / scale, 100 * accuracy),
            xytext=(5, -8),
            textcoords="offset points",
            fontsize="small",
            color="gray",
        )
    ax.set_xlabel(f"mean cost ({prefix}{unit} a sample)")
    ax.set_ylabel("accuracy (%)")
    ax.grid(alpha=0.3)
    ax.legend(fontsize="small")
    return ax


def accuracy_matrix(matrix, *, ax=None):
    """Draws how right every exit is about the samples that leave at each.

    Args:
        matrix: Array `(exits, exits)`, from `evaluation.accuracy_matrix`.
        ax: Matplotlib axes. `None`: new ones.

    Returns:
        The axes.

    Reference:
        [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368), figure 5.
    """
    ax = new_axes(ax, (3.6, 3.2))
    matrix = np.asarray(matrix)
    ax.imshow(matrix, vmin=0, vmax=1, cmap="Blues", origin="lower")
    for (i, j), value in np.ndenumerate(matrix):
        text = "-" if np.isnan(value) else f"{value:.3f}"
        ax.text(j, i, text, ha="center", va="center", color="white" if value > 0.6 else "black")
    ax.set_xticks(range(len(matrix)))
    ax.set_yticks(range(len(matrix)))
    ax.set_xlabel("leaves at exit")
    ax.set_ylabel("judged by exit")
    return ax


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


def _show(ax, image):
    gray = image.shape[-1] == 1
    ax.imshow(image[..., 0] if gray else image, cmap="gray" if gray else None)
