"""Latency: the time until the answer of each exit."""

import numpy as np

from keras_adaptive.plotting._style import BLUE, GRAY, counted, new_axes, numbers_of, tidy


def latency(milliseconds, *, ax=None, static_ms=None, percentiles=(5, 99)):
    """Draws the time until the answer of each exit: its median and percentiles.

    Args:
        milliseconds: Array `(samples, exits)`, for example of `elapsed_ms` of
            `AnytimeModel.stream`; or `(exits,)`, of `measure_latency`.
        ax: Matplotlib axes to draw on. `None`: new ones.
        static_ms: Number, the time of an ordinary network to compare with, or `None`.
        percentiles: Tuple, the percentiles at the lower and the upper end of the bars.

    Returns:
        The axes.

    Raises:
        ValueError: If there are no times, or some are negative or not finite.
    """
    must = "times of shape (samples, exits), or (exits,)"
    times = np.atleast_2d(numbers_of(milliseconds, "milliseconds", must))
    if times.ndim != 2 or not times.size or not (np.isfinite(times).all() and (times >= 0).all()):
        raise ValueError(
            f"`milliseconds` must be {must}, finite and at least 0. Received: shape {times.shape}"
        )
    ends = numbers_of(percentiles, "percentiles", "two numbers from 0 to 100")
    if ends.shape != (2,) or not ((ends >= 0) & (ends <= 100)).all():
        raise ValueError(
            f"`percentiles` must be two numbers from 0 to 100. Received: percentiles={percentiles}"
        )
    ax = new_axes(ax)
    median = np.median(times, axis=0)
    low, high = np.percentile(times, percentiles, axis=0)
    places = np.arange(times.shape[1])
    scatter = len(times) > 1
    ax.errorbar(
        places,
        median,
        yerr=[median - low, high - median] if scatter else None,
        fmt="o",
        ms=6,
        color=BLUE,
        capsize=4,
        label=f"median, and percentiles {percentiles[0]} to {percentiles[1]}"
        if scatter
        else "one measurement",
    )
    for x, y in zip(places, median, strict=True):
        ax.annotate(
            f"{y:.3g}",
            (x, y),
            xytext=(8, 0),
            textcoords="offset points",
            va="center",
            fontsize="small",
        )
    if static_ms is not None:
        ax.axhline(static_ms, color=GRAY, ls="--", label=f"ordinary network, {static_ms:.3g} ms")
    ax.set_xticks(places)
    ax.set(xlabel="exit", ylabel=counted("time until its answer (ms)", len(times)))
    ax.set_xlim(-0.4, len(places) - 0.4)
    ax.set_ylim(bottom=0)
    tidy(ax, grid="y")
    ax.legend(fontsize="small", loc="upper left")
    return ax
