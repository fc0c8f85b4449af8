"""Blocks used: how much of each block was computed for each image."""

import numpy as np
from matplotlib.offsetbox import AnnotationBbox, OffsetImage

from keras_adaptive._checks import as_array
from keras_adaptive.plotting._style import counted, ink_on, new_axes, numbers_of

MOST_IMAGES = 30  # with more, a row has no room for a picture or a name
MOST_CELLS = 400  # with more, a cell has no room for its number
SIDE = 26.0  # points of a picture


def blocks_used(shares, *, images=None, labels=None, blocks=None, ax=None):
    """Draws which blocks each image used: one row per image, one column per block.

    A block that was computed is dark, one that was skipped is light; between them lie blocks of
    which some channels were computed. The rows are in the order given.

    Args:
        shares: Array `(blocks, images)` from 0 to 1, of `AdaptiveModel.predict_gates`. For
            early exits, an integer array `(images,)` of where each leaves, as `policy.decide`
            returns it: the blocks are then the stages up to that exit.
        images: Array `(images, height, width, channels)`, uint8, or floats from 0 to 1, drawn
            beside the rows, if there are at most 30. `None`: no pictures.
        labels: Sequence of one text per image. `None`: their numbers.
        blocks: Sequence of names of the blocks. `None`: their numbers; for early exits, those
            up to the last exit that is used.
        ax: Matplotlib axes to draw on. `None`: new ones.

    Returns:
        The axes.

    Raises:
        ValueError: If the arguments do not fit together.
    """
    kind, used = "gated block", as_array(shares, "shares")
    if used.ndim == 1 and used.dtype.kind in "iu" and used.size and used.min() >= 0:
        kind = "stage, up to the exit where the image leaves"
        stages = np.arange(used.max() + 1 if blocks is None else len(blocks))
        if used.max() >= len(stages):
            raise ValueError(
                f"`blocks` must be a name for each stage, {used.max() + 1} or more. "
                f"Received: blocks={blocks}"
            )
        used = stages[:, None] <= used
    must = "of shape (blocks, images), from 0 to 1, or exits, integers of shape (images,)"
    used = numbers_of(used, "shares", must)
    if used.ndim != 2 or not used.size or not (used.min() >= 0 and used.max() <= 1):
        raise ValueError(f"`shares` must be {must}. Received: shape {used.shape}")
    count, rows = used.shape
    for name, given, size in (
        ("images", images, rows),
        ("labels", labels, rows),
        ("blocks", blocks, count),
    ):
        if given is not None and len(given) != size:
            raise ValueError(f"`{name}` must be {size}, as `shares`. Received: {len(given)}")
    few = rows <= MOST_IMAGES
    pictured = images is not None and few
    ax = new_axes(ax, (1.8 + 0.42 * count, 1.1 + (0.42 if pictured else 0.25) * min(rows, 30)))
    drawn = ax.imshow(used.T, vmin=0, vmax=1, cmap="cividis_r", aspect="auto")
    ax.set_xticks(range(count), range(count) if blocks is None else blocks)
    if blocks is not None and max(map(len, map(str, blocks))) > 4:
        ax.tick_params(axis="x", rotation=90)
    if few:
        ax.set_yticks(range(rows), range(rows) if labels is None else labels)
    if pictured:
        _beside(ax, np.asarray(images))
    if used.size <= MOST_CELLS:
        for (block, image), share in np.ndenumerate(used):
            ink = ink_on(drawn.cmap(share))
            ax.text(
                block,
                image,
                f"{100 * share:.0f}",
                ha="center",
                va="center",
                color=ink,
                fontsize="x-small",
            )
    else:
        ax.figure.colorbar(drawn, ax=ax, label="computed (share of the block)")
    ax.set(xlabel=kind, ylabel=counted("image", rows))
    ax.set_title("computed of each block (%)" if used.size <= MOST_CELLS else "", fontsize="medium")
    return ax


def _beside(ax, images):
    """Draws a picture between each row and its name."""
    ax.tick_params(axis="y", pad=SIDE + 6, length=0)
    for row, image in enumerate(images):
        gray = image.shape[-1] == 1
        picture = OffsetImage(
            image[..., 0] if gray else image,
            zoom=SIDE / max(image.shape[:2]),
            cmap="gray" if gray else None,
        )
        picture.image.set_interpolation("nearest")
        ax.add_artist(
            AnnotationBbox(
                picture,
                (0, row),
                xybox=(-SIDE / 2 - 3, 0),
                xycoords=("axes fraction", "data"),
                boxcoords="offset points",
                frameon=False,
                annotation_clip=False,
            )
        )
