"""The accuracy of every exit on the samples that leave at each exit."""

import numpy as np

from keras_adaptive._checks import integer_sequence
from keras_adaptive.plotting._style import new_axes, numbers_of


def accuracy_matrix(matrix, *, samples=None, ax=None):
    """Draws the accuracy of every exit on the samples that leave at each exit.

    Args:
        matrix: Array `(exits, exits)`, from `evaluation.accuracy_matrix`.
        samples: Integer array `(exits,)`: how many leave at each exit. `None`: it is not said.
        ax: Matplotlib axes. `None`: new ones.

    Returns:
        The axes.

    Raises:
        ValueError: If the matrix is none, or `samples` does not fit it.

    Reference:
        [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368), figure 5.
    """
    must = "numbers of shape (exits, exits)"
    matrix = numbers_of(matrix, "matrix", must)
    if matrix.ndim != 2 or not matrix.size or len(set(matrix.shape)) > 1:
        raise ValueError(f"`matrix` must be {must}. Received: shape {matrix.shape}")
    if samples is not None:
        wanted = f"{len(matrix)} integers, one per exit"
        samples = integer_sequence("samples", samples, 0, wanted, len(matrix))
    ax = new_axes(ax, (3.6, 3.2))
    ax.imshow(matrix, vmin=0, vmax=1, cmap="Blues", origin="lower")
    for (i, j), value in np.ndenumerate(matrix):
        text = "-" if np.isnan(value) else f"{value:.3f}"
        ax.text(j, i, text, ha="center", va="center", color="white" if value > 0.6 else "black")
    names = range(len(matrix))
    if samples is not None:
        names = [f"{k}\nn = {n:,}" for k, n in zip(names, samples, strict=True)]
    ax.set_xticks(range(len(matrix)), names)
    ax.set_yticks(range(len(matrix)))
    ax.set_xlabel("samples that leave at exit")
    ax.set_ylabel("answer of exit")
    ax.set_title("accuracy, from 0 to 1", fontsize="medium")
    return ax
