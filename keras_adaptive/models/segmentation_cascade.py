"""Cascades for dense outputs: only the unsure cells of an image go on.

The first member sees the whole image. Its answer is cut into a grid of cells, and each
cell is a sample to `calibrate`, `evaluate` and `ExitPolicy`: sure ones keep the answer,
the others are cut out of the image and given to the next member.
"""

from typing import NamedTuple

import keras
import numpy as np

from keras_adaptive import _graph, costs
from keras_adaptive.policy.exit_policy import ExitPolicy


class Segmentation(NamedTuple):
    """The answers to a batch of images, in input order.

    Attributes:
        labels: `(images, height, width)`, the most probable class of every pixel.
        exits: `(images, rows, columns)`, the member a cell left at.
        costs: `(images,)`, MACs spent on an image.
    """

    labels: np.ndarray
    exits: np.ndarray
    costs: np.ndarray


def cut(maps, grid, margin=0):
    """Cuts images, labels or logits into cells.

    Args:
        maps: Array `(images, height, width, ...)`. Height and width must be multiples of
            the grid's.
        grid: `(rows, columns)`.
        margin: Integer, pixels of context around a cell; outside the image it is mirrored.

    Returns:
        Array `(images * rows * columns, cell height + 2 margin, cell width + 2 margin,
        ...)`: the cells of the first image row by row, then those of the next.

    Example:

    >>> cut(np.arange(8).reshape(1, 2, 4), (1, 2)).tolist()
    [[[0, 1], [4, 5]], [[2, 3], [6, 7]]]
    """
    maps = np.asarray(maps)
    height, width = _cell_size(maps.shape[1:3], grid, margin)
    if margin:
        around = [(0, 0), (margin, margin), (margin, margin)] + [(0, 0)] * (maps.ndim - 3)
        maps = np.pad(maps, around, mode="symmetric")
    rows, columns = grid
    cells = [
        maps[:, r * height :, c * width :][:, : height + 2 * margin, : width + 2 * margin]
        for r in range(rows)
        for c in range(columns)
    ]
    return np.stack(cells, axis=1).reshape(-1, *cells[0].shape[1:])


def join(cells, grid):
    """Puts cells without a margin together again: `join(cut(x, grid), grid)` is `x`."""
    rows, columns = grid
    height, width = cells.shape[1:3]
    maps = cells.reshape(-1, rows, columns, *cells.shape[1:])
    return np.moveaxis(maps, 3, 2).reshape(-1, rows * height, columns * width, *cells.shape[3:])


def mean_iou(predicted, labels, classes):
    """Returns the mean over the classes of `right / (predicted or labelled)` pixels.

    Args:
        predicted: Integer array of classes.
        labels: Integer array of the same shape; pixels of -1 are not counted.
        classes: Integer, the number of classes. Those that occur nowhere are left out.

    Example:

    >>> mean_iou(np.array([0, 0, 1, 1]), np.array([0, 1, 1, -1]), classes=3)
    0.5
    """
    predicted, labels = np.ravel(predicted), np.ravel(labels)
    counted = labels >= 0
    pairs = np.bincount(
        labels[counted] * classes + predicted[counted], minlength=classes**2
    ).reshape(classes, classes)
    union = pairs.sum(0) + pairs.sum(1) - pairs.diagonal()
    return float((pairs.diagonal()[union > 0] / union[union > 0]).mean())


class SegmentationCascade:
    """Segmentation networks, asked one after the other about ever fewer cells.

    Exit `k` of a cell is the mean of the logits of members 0 to `k`. The first member sees
    the whole image, the others a cell and `margin` pixels around it. What a cell costs is
    its share of the first member's MACs, and the later members' at the size of a cell with
    its margin. With a grid of (1, 1) whole images go on, without a margin.

    Args:
        members: List of functional `keras.Model`s from images to logits `(batch, height,
            width, classes)`; the later ones must take images of the size of a cell.
        grid: `(rows, columns)` of the cells.
        margin: Integer, pixels.

    Raises:
        ValueError: If the members do not fit together.

    Example:

    >>> image = keras.Input((None, None, 3))
    >>> small, large = (keras.layers.Conv2D(4, n, padding="same")(image) for n in (1, 3))
    >>> members = [keras.Model(image, small), keras.Model(image, large)]
    >>> cascade = SegmentationCascade(members, grid=(2, 2), margin=1)
    >>> cascade.cell_costs((8, 8)).tolist()       # 16 x 12, then 36 x 108 more
    [192.0, 4080.0]
    >>> logits, costs = cascade.predict_with_costs(np.zeros((3, 8, 8, 3)))
    >>> logits.shape
    (2, 12, 4, 4, 4)

    Reference:
        [Wisdom of Committees (Wang et al., 2022)](https://arxiv.org/abs/2012.01988),
        section 7.2. How much context a cell is given is not published.
    """

    def __init__(self, members, *, grid=(1, 1), margin=0):
        if not isinstance(members, (list, tuple)) or not members:
            raise ValueError(f"`members` must be a list of models. Received: members={members}")
        for member in members:
            outputs = getattr(member, "outputs", None)
            if not outputs or len(outputs) != 1 or len(outputs[0].shape) != 4:
                raise ValueError(
                    "`members` must be functional models from images to logits (batch, "
                    f"height, width, classes). Received: {member!r}"
                )
        classes = {member.outputs[0].shape[-1] for member in members}
        if len(classes) > 1:
            raise ValueError(
                f"`members` must have the same number of classes. Received: {sorted(classes)}"
            )
        _check_whole(grid, margin)
        self.members = list(members)
        self.grid = tuple(grid)
        self.margin = 0 if self.grid == (1, 1) else margin

    def cell_costs(self, image_size, unit="macs"):
        """Returns what a cell has cost after each member, array `(members,)`.

        Args:
            image_size: `(height, width)` of the images.
            unit: As in `AdaptiveModel.exit_costs`; not `"params"`.
        """
        height, width = _cell_size(image_size, self.grid, self.margin)
        sizes = [tuple(image_size)]
        sizes += [(height + 2 * self.margin, width + 2 * self.margin)] * (len(self.members) - 1)
        own = [_cost(m, size, unit) for m, size in zip(self.members, sizes, strict=True)]
        own[0] /= self.grid[0] * self.grid[1]
        return np.cumsum(own)

    def predict_with_costs(self, images, batch_size=8, unit="macs"):
        """Asks every member about every cell.

        Args:
            images: Array `(images, height, width, channels)`.
            batch_size: Integer, whole images at a time.
            unit: As in `cell_costs`.

        Returns:
            Tuple of logits `(members, cells, cell height, cell width, classes)` and costs
            `(members,)`, for `calibrate` and `evaluate`. Labels are cut likewise:
            `cut(labels, grid)`.
        """
        total, exits = 0, []
        cells = None
        for k, member in enumerate(self.members):
            if k == 0:
                own = cut(_ask(member, images, batch_size), self.grid)
            else:
                cells = cut(images, self.grid, self.margin) if cells is None else cells
                own = self._inside(_ask(member, cells, batch_size * len(cells) // len(images)))
            total = total + own
            exits.append(total / (k + 1))
        return np.stack(exits), self.cell_costs(images.shape[1:3], unit)

    def predict(self, images, policy, batch_size=8):
        """Segments images, asking a member only about cells that the policy sends on.

        Args:
            images: Array `(images, height, width, channels)`.
            policy: `ExitPolicy` with one threshold a member.
            batch_size: Integer, whole images at a time.

        Returns:
            A `Segmentation`.
        """
        if not isinstance(policy, ExitPolicy) or len(policy.thresholds) != len(self.members):
            raise ValueError(
                f"`policy` must be an ExitPolicy with {len(self.members)} thresholds, one a "
                f"member. Received: policy={policy!r}"
            )
        policy.check_thresholds_suffice()
        images = np.asarray(images)
        parts = [
            self._batch(images[i : i + batch_size], policy)
            for i in range(0, len(images), batch_size)
        ]
        labels, exits = (np.concatenate(part) for part in zip(*parts, strict=True))
        spent = self.cell_costs(images.shape[1:3])[exits].sum(axis=(1, 2))
        return Segmentation(labels, exits, spent)

    def _batch(self, images, policy):
        total = cut(_ask(self.members[0], images, len(images)), self.grid)
        exits = np.zeros(len(total), int)
        rows = np.flatnonzero(~policy.leaves(0, total))
        if len(rows) and len(self.members) > 1:
            cells = cut(images, self.grid, self.margin)
        for k, member in enumerate(self.members[1:], 1):
            if not len(rows):
                break
            total[rows] += self._inside(_ask(member, cells[rows], len(cells)))
            exits[rows] = k
            rows = rows[~policy.leaves(k, total[rows] / (k + 1))]
        labels = join(total.argmax(axis=-1), self.grid)
        return labels, exits.reshape(-1, *self.grid)

    def _inside(self, logits):
        if not self.margin:
            return logits
        return logits[:, self.margin : -self.margin, self.margin : -self.margin]


def _ask(member, images, batch_size):
    batch_size = max(1, batch_size)
    parts = [
        member.predict_on_batch(images[i : i + batch_size])
        for i in range(0, len(images), batch_size)
    ]
    return np.array(np.concatenate(parts))


def _cost(member, size, unit):
    """The cost of a member for one image of this size."""
    image = keras.Input((*size, member.inputs[0].shape[-1]))
    nodes = _graph.nodes_between(member.inputs, member.outputs)
    logits = _graph.call_again(nodes, {id(member.inputs[0]): image}, member.outputs)
    return float(costs.exit_costs([image], logits, unit)[0])


def _check_whole(grid, margin):
    whole = isinstance(grid, (tuple, list)) and len(grid) == 2
    numbers = [*grid, margin] if whole else [None]
    if not all(isinstance(n, int) and not isinstance(n, bool) for n in numbers) or (
        min(grid) < 1 or margin < 0
    ):
        raise ValueError(
            "`grid` must be (rows, columns), positive integers, and `margin` an integer of at "
            f"least 0. Received: grid={grid}, margin={margin}"
        )


def _cell_size(size, grid, margin):
    _check_whole(grid, margin)
    height, width = (n // g for n, g in zip(size, grid, strict=True))
    if (height * grid[0], width * grid[1]) != tuple(size):
        raise ValueError(
            "`grid` must divide the image's height and width. "
            f"Received: grid={tuple(grid)}, size {tuple(size)}"
        )
    if margin > min(size):
        raise ValueError(
            f"`margin` must be at most the image's smaller side. Received: margin={margin}"
        )
    return height, width
