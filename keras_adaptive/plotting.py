"""Pictures. Each function draws on matplotlib axes and returns them."""

from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

from keras_adaptive.temperature import reliability as _reliability


def reliability(logits, labels, temperatures=None, *, axes=None, bins=15):
    """Draws how often answers of a given confidence are right, exit by exit.

    On the diagonal, confidence means what it says. With temperatures, before is drawn
    beside after. The expected calibration error is in the legend.

    Args:
        logits: Array `(exits, samples, classes)`.
        labels: Integer array `(samples,)`.
        temperatures: Array `(exits,)`, as in `ExitPolicy.temperatures`, or `None`.
        axes: Sequence of matplotlib axes, one an exit. `None`: new ones.
        bins: Integer.

    Returns:
        Array of axes, one an exit.
    """
    exits = len(logits)
    if axes is None:
        size = (2.6 * exits, 2.8)
        axes = plt.subplots(1, exits, figsize=size, layout="constrained", squeeze=False)[1][0]
    tables = [("as trained", _reliability(logits, labels, bins=bins))]
    if temperatures is not None:
        tables.append(("with temperature", _reliability(logits, labels, temperatures, bins)))
    for k, ax in enumerate(axes):
        ax.plot([0, 1], [0, 1], ":", color="gray")
        for name, table in tables:
            label = f"{name}, ECE {100 * table.errors[k]:.1f} %"
            ax.plot(table.confidences[k], table.accuracies[k], "-o", ms=3, label=label)
        ax.set_title(f"exit {k}", fontsize="medium")
        ax.set_xlabel("confidence")
        ax.legend(fontsize="x-small", loc="upper left")
    axes[0].set_ylabel("share right")
    return axes


def exit_history(history, metric="accuracy", *, ax=None):
    """Draws a metric of every exit over the epochs.

    Args:
        history: What `fit` returned with an `ExitHistory` among its callbacks, or the
            dictionary in it, or the path of the file `keras.callbacks.CSVLogger` wrote.
        metric: String. Training is drawn dotted, validation, if there is one, solid.
        ax: Matplotlib axes to draw on. `None`: new ones.

    Returns:
        The axes.

    Raises:
        ValueError: If the history has no such metric of an exit.
    """
    if isinstance(history, (str, Path)):
        table = np.genfromtxt(history, delimiter=",", names=True)
        history = {name: np.atleast_1d(table[name]) for name in table.dtype.names}
    history = getattr(history, "history", history)
    ax = ax or plt.subplots(figsize=(6, 4), layout="constrained")[1]
    exits = 0
    while f"exit_{exits}_{metric}" in history:
        exits += 1
    if not exits:
        raise ValueError(
            f"`history` must hold exit_0_{metric}: train with the callback ExitHistory. "
            f"Received: {sorted(history)}"
        )
    for k in range(exits):
        colour = plt.get_cmap("viridis")(k / max(exits, 2))
        for prefix, style in (("", ":"), ("val_", "-")):
            values = history.get(f"{prefix}exit_{k}_{metric}")
            if values is not None:
                label = f"{prefix.replace('val_', 'validation, ')}exit {k}"
                epochs = np.arange(1, len(values) + 1)
                ax.plot(epochs, values, style, marker=".", color=colour, label=label)
    ax.set_xlabel("epoch")
    ax.set_ylabel(metric)
    ax.grid(alpha=0.3)
    ax.legend(fontsize="x-small")
    return ax


def accuracy_cost_curve(curve, *, ax=None, unit="MACs", label="leaving early"):
    """Draws accuracy against mean cost, with the exits used alone on it.

    Args:
        curve: A `Curve` of `keras_adaptive.accuracy_cost_curve`.
        ax: Matplotlib axes to draw on. `None`: new ones.
        unit: String, of the horizontal axis.
        label: String, of the curve.

    Returns:
        The axes.
    """
    ax = ax or plt.subplots(figsize=(6, 4), layout="constrained")[1]
    scale, prefix = next(
        ((s, p) for s, p in ((1e9, "G"), (1e6, "M"), (1e3, "k")) if max(curve.exit_costs) >= s),
        (1, ""),
    )
    ax.plot(
        np.asarray(curve.costs) / scale, 100 * np.asarray(curve.accuracies), "-o", ms=3, label=label
    )
    ax.plot(
        np.asarray(curve.exit_costs) / scale,
        100 * np.asarray(curve.exit_accuracies),
        "s",
        mfc="none",
        color="tab:red",
        label="always the same exit",
    )
    for k, (x, y) in enumerate(zip(curve.exit_costs, curve.exit_accuracies, strict=True)):
        ax.annotate(str(k), (x / scale, 100 * y), xytext=(5, -11), textcoords="offset points")
    ax.set_xlabel(f"mean cost ({prefix}{unit} a sample)")
    ax.set_ylabel("accuracy (%)")
    ax.grid(alpha=0.3)
    ax.legend(loc="lower right")
    return ax
