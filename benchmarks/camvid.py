"""Two segmentation networks on CamVid, for the cascade benchmark.

The networks are small and trained briefly; what is kept under runs/cascades is used again.
"""

import io
import tarfile

import keras
import numpy as np
from PIL import Image

from benchmarks import common
from keras_adaptive.layers._conv_unit import apply_layers, conv_unit
from keras_adaptive.models.deeplabv3 import build_deeplabv3
from keras_adaptive.training.recipes import Recipe

DATA = common.DATA.parent / "camvid_180x240.tar.xz"
FOLDER = common.RUNS / "cascades"
CLASSES = 11
VOID = 11
# name: (channels of the backbone's three scales, convolutions at each)
NETWORKS = {"small": ((6, 12, 24), 1), "large": ((24, 48, 96), 2)}
CROP = (120, 160)
RECIPE = Recipe(learning_rate=0.1, epochs=16, batch_size=8, schedule="one_cycle", weight_decay=5e-4)


def load(split):
    """Returns standardized images and labels, -1 where there is none."""
    images, labels = {}, {}
    with tarfile.open(DATA) as archive:
        for entry in archive:
            _, folder, name = entry.name.split("/") if entry.isfile() else ("", "", "")
            if folder in (split, f"{split}annot"):
                picture = np.array(Image.open(io.BytesIO(archive.extractfile(entry).read())))
                (images if folder == split else labels)[name.split(".")[0]] = picture
    names = sorted(images)
    labels = np.stack([labels[name] for name in names]).astype("int32")
    images = np.stack([images[name] for name in names]).astype("float32") / 127.5 - 1
    return images, np.where(labels == VOID, -1, labels)


def build(name):
    widths, convolutions = NETWORKS[name]
    image = keras.Input((None, None, 3), name="image")
    x = image
    for scale, width in enumerate(widths):
        for i in range(convolutions + (scale > 0)):
            strides = 2 if i == 0 else 1
            x = apply_layers(conv_unit(width, 3, strides=strides, name=f"scale_{scale}_{i}"), x)
    backbone = keras.Model(image, x, name=f"backbone_{name}")
    return build_deeplabv3(backbone, CLASSES, channels=widths[-1], rates=(2, 4, 6))


def crops(images, labels, rng):
    """One random crop of every image, half of them mirrored, in random order."""
    for i in rng.permutation(len(images)):
        top = rng.integers(0, images.shape[1] - CROP[0] + 1)
        left = rng.integers(0, images.shape[2] - CROP[1] + 1)
        place = (slice(top, top + CROP[0]), slice(left, left + CROP[1]))
        x, y = images[i][place], labels[i][place]
        yield (x[:, ::-1], y[:, ::-1]) if rng.random() < 0.5 else (x, y)


class Crops(keras.utils.PyDataset):
    def __init__(self, images, labels, seed):
        super().__init__()
        self.images, self.labels = images, labels
        self.rng = np.random.default_rng(seed)
        self.on_epoch_end()

    def on_epoch_end(self):
        x, y = (
            np.stack(part) for part in zip(*crops(self.images, self.labels, self.rng), strict=True)
        )
        self.epoch = x, y

    def __len__(self):
        return len(self.images) // RECIPE.batch_size

    def __getitem__(self, i):
        rows = slice(i * RECIPE.batch_size, (i + 1) * RECIPE.batch_size)
        return self.epoch[0][rows], self.epoch[1][rows]


def network(name):
    """Returns a trained network; trains it where that has not been done."""
    seed = list(NETWORKS).index(name)
    keras.utils.set_random_seed(seed)

    def train(model):
        batches = Crops(*load("train"), seed)
        loss = keras.losses.SparseCategoricalCrossentropy(from_logits=True, ignore_class=-1)
        model.compile(RECIPE.optimizer(RECIPE.epochs * len(batches)), loss)
        model.fit(batches, epochs=RECIPE.epochs, verbose=2)

    return common.trained(build(name), FOLDER / f"camvid_{name}.weights.h5", train)
