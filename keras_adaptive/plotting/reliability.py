"""Reliability diagrams: accuracy against confidence."""

import matplotlib.pyplot as plt

from keras_adaptive.calibration.temperature import reliability as _reliability
from keras_adaptive.plotting._style import BLUE, GRAY, ORANGE, tidy


def reliability(logits, labels, temperatures=None, *, axes=None, bins=15):
    """Draws a reliability diagram of every exit: accuracy against confidence.

    On the diagonal, confidence equals accuracy. With temperatures, both are drawn: before
    and after temperature scaling. The legend has the expected calibration error (ECE).

    Args:
        logits: Array `(exits, samples, classes)`.
        labels: Integer array `(samples,)`.
        temperatures: Array `(exits,)`, as in `ExitPolicy.temperatures`, or `None`.
        axes: Sequence of matplotlib axes, one per exit. `None`: new ones.
        bins: Integer, the number of bins of confidence.

    Returns:
        Array of axes, one per exit.
    """
    exits = len(logits)
    if axes is None:
        size = (2.8 * exits, 3.5)
        axes = plt.subplots(
            1, exits, figsize=size, layout="constrained", squeeze=False, sharey=True
        )[1][0]
    tables = [("as trained", ORANGE, _reliability(logits, labels, bins=bins))]
    if temperatures is not None:
        tables.append(("with temperature", BLUE, _reliability(logits, labels, temperatures, bins)))
    for k, ax in enumerate(axes):
        ax.plot([0, 1], [0, 1], ":", color=GRAY)
        for name, color, table in tables:
            label = f"{name}, ECE {100 * table.errors[k]:.1f} %"
            confidences, accuracies = table.confidences[k], table.accuracies[k]
            ax.plot(confidences, accuracies, "-o", color=color, ms=3, label=label)
        ax.set(xlim=(0, 1), ylim=(0, 1), aspect="equal", xlabel="confidence")
        ax.set_title(f"exit {k}", fontsize="medium")
        tidy(ax)
        ax.legend(fontsize="small", loc="upper center", bbox_to_anchor=(0.5, -0.2), frameon=False)
    axes[0].set_ylabel("accuracy")
    return axes
