"""What all pictures share: a palette for color-blind readers, axes, units."""

import reprlib

import numpy as np

from keras_adaptive._checks import as_array, needs_extra, numeric

with needs_extra("plot"):
    import matplotlib.pyplot as plt

# Okabe and Ito's palette, which color-blind readers can tell apart
BLUE, ORANGE, GREEN, RED = "#0072B2", "#E69F00", "#009E73", "#D55E00"
PURPLE, SKY, BLACK, GRAY = "#CC79A7", "#56B4E9", "#000000", "#666666"
MARKERS = "D^vPX*<>"
# of one picture: who prints in gray tells them apart by lines and markers
COLORS, LINES, LINE_MARKERS = (
    (BLUE, RED, GREEN, PURPLE, ORANGE, SKY),
    ("-", "--", "-.", ":"),
    "os^Dv",
)
HATCHES = ("", "//", "..", "xx", "--")


def new_axes(ax, size=(6, 4)):
    """Returns the axes given, or new ones."""
    return plt.subplots(figsize=size, layout="constrained")[1] if ax is None else ax


def axes_of(axes, shape):
    """Returns the axes given as an array of a shape."""
    found = np.asarray(axes, dtype=object)
    if found.shape != shape:
        raise ValueError(
            f"`axes` must be matplotlib axes of shape {shape}. Received: shape {found.shape}"
        )
    return found


def numbers_of(values, name, must):
    """Returns an array of numbers, booleans as 0 and 1; `must` is what the error asks of others."""
    try:
        array = as_array(values, name)
        return numeric(array.astype("float64") if array.dtype.kind == "b" else array)
    except (TypeError, ValueError) as error:
        raise ValueError(
            f"`{name}` must be {must}. Received: {name}={reprlib.repr(values)}"
        ) from error


def exit_colors(exits):
    """Returns one color per exit, from dark (easy) to light (hard)."""
    return [plt.get_cmap("cividis")(0.04 + 0.78 * k / max(exits - 1, 1)) for k in range(exits)]


def series_style(number):
    """Returns the color, the line and the marker of a series, as arguments of `Axes.plot`."""
    kinds = {"color": COLORS, "ls": LINES, "marker": LINE_MARKERS}
    return {name: kind[number % len(kind)] for name, kind in kinds.items()}


def counted(text, samples):
    """Returns a label that says how many samples there were; `None`: as many as nobody told."""
    numbers = sorted({int(n) for n in np.ravel(samples) if n is not None})
    return f"{text}, n = {' or '.join(f'{n:,}' for n in numbers)}" if numbers else text


def scaled(most):
    """Returns the divisor and the unit prefix that make a number short."""
    steps = ((1e9, "G"), (1e6, "M"), (1e3, "k"))
    return next(((s, prefix) for s, prefix in steps if most >= s), (1, ""))


def tidy(ax, grid="both"):
    """Removes the upper and right spines, and adds a faint grid."""
    ax.spines[["top", "right"]].set_visible(False)
    if grid:
        ax.grid(alpha=0.25, axis=grid)
        ax.set_axisbelow(True)


def ink_on(color):
    """Returns black or white, whichever is legible on a color."""
    return "white" if np.dot(color[:3], (0.299, 0.587, 0.114)) < 0.55 else "black"
