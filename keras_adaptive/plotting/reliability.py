"""Reliability diagrams: accuracy against confidence."""

import matplotlib.pyplot as plt
import numpy as np

from keras_adaptive.calibration.temperature import reliability as _reliability
from keras_adaptive.plotting._style import BLUE, GRAY, ORANGE, axes_of, counted, tidy

WIDEST = 3  # exits side by side


def reliability(logits, labels, temperatures=None, *, axes=None, bins=15):
    """Draws a reliability diagram of every exit: accuracy against confidence.

    On the diagonal, confidence equals accuracy. With temperatures, both are drawn: before
    and after temperature scaling. The legend has the expected calibration error (ECE). Gray bars
    say how many samples there are at each confidence: where they are few, accuracy says little.

    Args:
        logits: Array `(exits, samples, classes)`.
        labels: Integer array `(samples,)`.
        temperatures: Array `(exits,)`, as in `ExitPolicy.temperatures`, or `None`.
        axes: Sequence of matplotlib axes, one per exit. `None`: new ones.
        bins: Integer, the number of bins of confidence.

    Returns:
        Array of axes, one per exit.

    Raises:
        ValueError: If the arrays do not fit together, or there are not as many axes as exits.
    """
    exits = len(logits)
    if axes is None:
        columns, rows = min(exits, WIDEST), -(-exits // WIDEST)
        size = (3.1 * columns, 3.6 * rows)
        grid = plt.subplots(rows, columns, figsize=size, layout="constrained", squeeze=False)[1]
        axes, spare = grid.ravel()[:exits], grid.ravel()[exits:]
        for ax in spare:
            ax.remove()
    else:
        axes = axes_of(np.ravel(axes), (exits,))
    tables = [("as trained", ORANGE, _reliability(logits, labels, bins=bins))]
    if temperatures is not None:
        tables.append(("with temperature", BLUE, _reliability(logits, labels, temperatures, bins)))
    samples = len(np.asarray(labels))
    for k, ax in enumerate(axes):
        _counts(ax, tables[-1][2], k, samples)
        ax.plot([0, 1], [0, 1], ":", color=GRAY)
        for name, color, table in tables:
            label = f"{name}, ECE {100 * table.errors[k]:.1f} %"
            confidences, accuracies = table.confidences[k], table.accuracies[k]
            style = {"marker": "o", "ls": "--"} if color == ORANGE else {"marker": "s", "ls": "-"}
            ax.plot(confidences, accuracies, color=color, ms=3, label=label, clip_on=False, **style)
        ax.set(xlim=(0, 1), ylim=(0, 1), xlabel="confidence")
        ax.set_box_aspect(1)
        ax.set_title(counted(f"exit {k}", samples), fontsize="medium")
        tidy(ax)
        ax.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
        ax.set_ylabel("accuracy")
    return axes


def _counts(ax, table, exit, samples):
    """Draws how many samples are in each bin, behind the axes, in their lower third."""
    bars = ax.twinx()
    middles, width = (table.edges[:-1] + table.edges[1:]) / 2, np.diff(table.edges)
    counts = samples * table.shares[exit]
    bars.bar(middles, counts, 0.9 * width, color=GRAY, alpha=0.3)
    bars.set_ylim(0, 3 * counts.max())
    bars.set_yticks([0, round(counts.max())])
    bars.tick_params(labelsize="x-small", colors=GRAY)
    bars.set_ylabel("samples in the bin", color=GRAY, fontsize="x-small", loc="bottom", labelpad=8)
    bars.spines[:].set_visible(False)
    bars.set_box_aspect(1)
    ax.set_zorder(bars.get_zorder() + 1)
    ax.patch.set_visible(False)
