"""Trained networks that come with the library: weights, exit policy and model card."""

import json
from pathlib import Path
from typing import NamedTuple

import numpy as np

from keras_adaptive.policy.exit_policy import ExitPolicy

FOLDER = Path(__file__).parent / "weights"  # a folder each
ANSWERED = ("calibrate", "test")


class Pretrained(NamedTuple):
    """What is known about a trained network.

    Attributes:
        name: String, as in `AdaptiveModel.from_preset(name)`; where the builder has `weights`, as
            in `weights=name`.
        builder: String, the function that builds the network. `"add_exits"`: it added exits
            to a network of Keras's layers.
        arguments: Dictionary, the arguments it was built with.
        class_names: List of strings.
        mean, std: Lists of one number per channel: inputs are `(pixel / 255 - mean) / std`.
        policy: The `ExitPolicy` chosen for it, for half of its full cost.
        weights: Path of its weights.
        card: String, its model card, in Markdown: data, recipe, results, limits.
    """

    name: str
    builder: str
    arguments: dict
    class_names: list
    mean: list
    std: list
    policy: ExitPolicy
    weights: Path
    card: str

    def standardize(self, images):
        """Returns uint8 images as the network takes them: `(images / 255 - mean) / std`."""
        images = np.asarray(images, "float32") / 255
        return (images - np.float32(self.mean)) / np.float32(self.std)

    standardise = standardize  # its name before 0.2; until 0.3

    def answers(self, split):
        """Returns the network's logits for held-out images, and their labels.

        Thresholds can be chosen and tried on them without the images. Stored in float16.

        Args:
            split: `"calibrate"`, to choose on, or `"test"`, to report on.

        Returns:
            Tuple of logits, float32 `(exits, samples, classes)`, and labels, int64
            `(samples,)`.

        Raises:
            ValueError: If there is no such split.
        """
        if split not in ANSWERED:
            raise ValueError(f"`split` must be one of {ANSWERED}. Received: split={split}")
        with np.load(self.weights.with_name("answers.npz")) as kept:
            return kept[f"{split}_logits"].astype("float32"), kept[f"{split}_labels"].astype(int)


def pretrained_names():
    """Returns the names of the trained networks that come with the library."""
    return sorted(path.parent.name for path in FOLDER.glob("*/report.json"))


def pretrained(name):
    """Returns the facts of a trained network that comes with the library.

    Args:
        name: String; `pretrained_names()` lists them.

    Returns:
        A `Pretrained`. The network itself: `AdaptiveModel.from_preset(name)`.

    Raises:
        ValueError: If there is no such network.
    """
    if name not in pretrained_names():
        raise ValueError(f"`name` must be one of {pretrained_names()}. Received: name={name}")
    folder = FOLDER / name
    run = json.loads((folder / "report.json").read_text(encoding="utf-8"))["run"]
    return Pretrained(
        name,
        run["network"]["builder"],
        run["network"]["arguments"],
        run["class_names"],
        **run["preprocessing"],
        policy=ExitPolicy.load(folder / "policy.json"),
        weights=folder / "model.weights.h5",
        card=(folder / "card.md").read_text(encoding="utf-8"),
    )
