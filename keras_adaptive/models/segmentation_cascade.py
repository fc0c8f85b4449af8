"""Segmentation cascades: only the cells of an image that are not confident go on.

The first member sees the whole image. Its answer is cut into a grid of cells, and each
cell is a sample to `calibrate`, `evaluate` and `ExitPolicy`: confident ones keep the
answer, the others are cut out of the image and given to the next member.
"""

from typing import NamedTuple

import keras
import numpy as np

from keras_adaptive import _graph, costs
from keras_adaptive._checks import integer, integer_sequence
from keras_adaptive.evaluation import mean_iou as mean_iou
from keras_adaptive.layers._data_format import check_channels_last
from keras_adaptive.policy.exit_policy import ExitPolicy
from keras_adaptive.training._logits import logits_of


class Segmentation(NamedTuple):
    """The segmentation of a batch of images, in input order.

    Attributes:
        labels: `(images, height, width)`, the most probable class of every pixel.
        exits: `(images, rows, columns)`, the index of the last member each cell needed.
        costs: `(images,)`, MACs spent per image.
    """

    labels: np.ndarray
    exits: np.ndarray
    costs: np.ndarray


def split_cells(maps, grid, margin=0):
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

    >>> split_cells(np.arange(8).reshape(1, 2, 4), (1, 2)).tolist()
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


def join_cells(cells, grid):
    """Returns the maps that `split_cells` with the same grid and no margin has cut."""
    rows, columns = grid
    height, width = cells.shape[1:3]
    maps = cells.reshape(-1, rows, columns, *cells.shape[1:])
    return np.moveaxis(maps, 3, 2).reshape(-1, rows * height, columns * width, *cells.shape[3:])


class SegmentationCascade:
    """Segmentation networks, run one after the other on fewer and fewer cells.

    Exit `k` of a cell is the mean of the logits of members 0 to `k`. The first member sees
    the whole image, the others a cell and `margin` pixels around it. What a cell costs is
    its share of the first member's MACs, and the later members' at the size of a cell with
    its margin. With a grid of (1, 1) whole images go on, without a margin.

    Args:
        members: List of functional `keras.Model`s from images to logits `(batch, height,
            width, classes)`; the later ones must take images of the size of a cell.
        grid: `(rows, columns)` of the cells.
        margin: Integer, pixels.
        from_logits: Boolean, whether the members give logits, or probabilities, whose
            logarithm counts. `None`: as their layers and their answers to random input show.

    Raises:
        ValueError: If the members do not fit together, or it is unclear what one gives.

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

    def __init__(self, members, *, grid=(1, 1), margin=0, from_logits=None):
        if not isinstance(members, (list, tuple)) or not members:
            raise ValueError(f"`members` must be a list of models. Received: members={members}")
        check_channels_last()
        for member in members:
            outputs = getattr(member, "outputs", None)
            if not outputs or len(outputs) != 1 or len(outputs[0].shape) != 4:
                raise ValueError(
                    "`members` must be functional models from images to logits (batch, "
                    f"height, width, classes). Received: {member!r}"
                )
            _graph.check_channels_last(member.inputs, outputs, "members")
        classes = {member.outputs[0].shape[-1] for member in members}
        if len(classes) > 1:
            raise ValueError(
                f"`members` must have the same number of classes. Received: {sorted(classes)}"
            )
        self.grid, margin = _checked(grid, margin)
        self.members = [_with_logits(member, from_logits) for member in members]
        self.margin = 0 if self.grid == (1, 1) else margin

    def cell_costs(self, image_size, unit="macs"):
        """Returns the cost of a cell after each member, array `(members,)`.

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

    def predict_with_costs(self, images, batch_size=8, unit="macs", file=None):
        """Runs every member on every cell.

        Args:
            images: Array `(images, height, width, channels)`.
            batch_size: Integer, whole images at a time.
            unit: As in `cell_costs`.
            file: Path of a .npy file to write the logits to, for more than the memory holds;
                they are returned as a `numpy.memmap` of it. `None`: they stay in memory.

        Returns:
            Tuple of logits `(members, cells, cell height, cell width, classes)` and costs
            `(members,)`, for `calibrate` and `evaluate`. Labels are cut likewise:
            `split_cells(labels, grid)`.
        """
        images, batch_size = _checked_images(images), integer("batch_size", batch_size, 1)
        cells, logits = self.grid[0] * self.grid[1], None
        for i in range(0, len(images), batch_size):
            answers = self._answers(images[i : i + batch_size])
            if logits is None:
                shape = (len(self.members), cells * len(images), *answers[0].shape[1:])
                if file is None:
                    logits = np.empty(shape, answers[0].dtype)
                else:
                    logits = np.lib.format.open_memmap(file, "w+", answers[0].dtype, shape)
            for k, own in enumerate(answers):
                logits[k, cells * i : cells * i + len(own)] = own
        return logits, self.cell_costs(images.shape[1:3], unit)

    def _answers(self, images):
        """Returns the logits of every exit for every cell of a batch."""
        total, exits = 0, []
        cells = None
        for k, member in enumerate(self.members):
            if k == 0:
                own = split_cells(_ask(member, images, len(images)), self.grid)
            else:
                cells = split_cells(images, self.grid, self.margin) if cells is None else cells
                own = self._inside(_ask(member, cells, len(cells)))
            total = total + own
            exits.append(total / (k + 1))
        return exits

    def predict(self, images, policy, batch_size=8):
        """Segments images, running a member only on cells that the policy sends on.

        Args:
            images: Array `(images, height, width, channels)`.
            policy: `ExitPolicy` with one threshold per member.
            batch_size: Integer, whole images at a time.

        Returns:
            A `Segmentation`.
        """
        if not isinstance(policy, ExitPolicy) or len(policy.thresholds) != len(self.members):
            raise ValueError(
                f"`policy` must be an ExitPolicy with {len(self.members)} thresholds, one per "
                f"member. Received: policy={policy!r}"
            )
        policy.validate_stagewise()
        images, batch_size = _checked_images(images), integer("batch_size", batch_size, 1)
        parts = [
            self._batch(images[i : i + batch_size], policy)
            for i in range(0, len(images), batch_size)
        ]
        labels, exits = (np.concatenate(part) for part in zip(*parts, strict=True))
        spent = self.cell_costs(images.shape[1:3])[exits].sum(axis=(1, 2))
        return Segmentation(labels, exits, spent)

    def _batch(self, images, policy):
        total = split_cells(_ask(self.members[0], images, len(images)), self.grid)
        exits = np.zeros(len(total), int)
        rows = np.flatnonzero(~policy.leaves(0, total))
        if len(rows) and len(self.members) > 1:
            cells = split_cells(images, self.grid, self.margin)
        for k, member in enumerate(self.members[1:], 1):
            if not len(rows):
                break
            total[rows] += self._inside(_ask(member, cells[rows], len(cells)))
            exits[rows] = k
            rows = rows[~policy.leaves(k, total[rows] / (k + 1))]
        labels = join_cells(total.argmax(axis=-1), self.grid)
        return labels, exits.reshape(-1, *self.grid)

    def _inside(self, logits):
        if not self.margin:
            return logits
        return logits[:, self.margin : -self.margin, self.margin : -self.margin]


def _with_logits(member, from_logits):
    """Returns a model of the same layers that gives logits: the member, where it does."""
    (answer,) = member.outputs
    logits = logits_of(member.inputs, answer, from_logits, argument="members")
    return member if logits is answer else keras.Model(member.inputs[0], logits)


def _ask(member, images, batch_size):
    batch_size = max(1, batch_size)
    parts = [
        member.predict_on_batch(images[i : i + batch_size])
        for i in range(0, len(images), batch_size)
    ]
    return np.array(np.concatenate(parts))


def _checked_images(images):
    images = np.asarray(images)
    if images.ndim != 4 or not len(images):
        raise ValueError(
            "`images` must be of shape (images, height, width, channels), with at least one "
            f"image. Received: shape {images.shape}"
        )
    return images


def _cost(member, size, unit):
    """The cost of a member for one image of this size."""
    image = keras.Input((*size, member.inputs[0].shape[-1]))
    nodes = _graph.nodes_between(member.inputs, member.outputs)
    logits = _graph.call_again(nodes, {id(member.inputs[0]): image}, member.outputs)
    return float(costs.exit_costs([image], logits, unit)[0])


def _checked(grid, margin):
    must = "(rows, columns), positive integers"
    return integer_sequence("grid", grid, 1, must, length=2), integer("margin", margin, 0)


def _cell_size(size, grid, margin):
    grid, margin = _checked(grid, margin)
    height, width = (n // g for n, g in zip(size, grid, strict=True))
    if (height * grid[0], width * grid[1]) != tuple(size):
        raise ValueError(
            "`grid` must divide the image's height and width. "
            f"Received: grid={grid}, size {tuple(size)}"
        )
    if margin > min(size):
        raise ValueError(
            f"`margin` must be at most the image's smaller side. Received: margin={margin}"
        )
    return height, width
