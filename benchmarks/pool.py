"""A pool of small networks of different cost, trained alike, for the cascade benchmark.

Every member is fitted on the same 20,000 images of CIFAR-10 (JPEG) in the same way and is
kept under runs/cascades, so that an interrupted run resumes with the next member.
"""

import keras
import numpy as np

from benchmarks import common
from keras_adaptive.layers._conv_unit import apply_layers, conv_unit
from keras_adaptive.training.recipes import Recipe

# name: (channels of the first convolution, residual blocks at each of two resolutions)
MEMBERS = {"4x1": (4, 1), "8x1": (8, 1), "8x2": (8, 2), "16x1": (16, 1), "16x2": (16, 2)}
COPIES = 2
TRAIN_IMAGES = 20_000
RECIPE = Recipe(learning_rate=0.1, epochs=8, batch_size=64, schedule="one_cycle")
FOLDER = common.RUNS / "cascades"


def build(name, input_shape=(32, 32, 3)):
    """Returns one member: a residual network of any input size, logits out."""
    channels, blocks = MEMBERS[name]
    inputs = keras.Input(input_shape)
    x = apply_layers(conv_unit(channels, 3, name="first"), inputs)
    for stage in (1, 2):
        width = channels * 2**stage
        for block in range(blocks):
            x = _residual(x, width, 1 if block else 2, f"stage_{stage}_block_{block}")
    x = keras.layers.GlobalAveragePooling2D(name="mean")(x)
    return keras.Model(inputs, keras.layers.Dense(10, name="logits")(x), name=f"net_{name}")


def _residual(x, width, strides, name):
    shortcut = x
    if strides > 1 or x.shape[-1] != width:
        shortcut = apply_layers(
            conv_unit(width, 1, strides=strides, name=f"{name}_shortcut")[:-1], x
        )
    x = apply_layers(conv_unit(width, 3, strides=strides, name=f"{name}_a"), x)
    x = apply_layers(conv_unit(width, 3, name=f"{name}_b")[:-1], x)
    return keras.layers.ReLU(name=f"{name}_out")(
        keras.layers.Add(name=f"{name}_add")([shortcut, x])
    )


def member(name, copy, splits=None):
    """Returns a trained member; trains it where that has not been done."""
    seed = 100 * copy + list(MEMBERS).index(name)
    keras.utils.set_random_seed(seed)

    def train(model):
        model.compile(
            RECIPE.optimizer(RECIPE.epochs * -(-TRAIN_IMAGES // RECIPE.batch_size)),
            keras.losses.SparseCategoricalCrossentropy(from_logits=True),
            metrics=["accuracy"],
        )
        batches = (splits or data()).batches("train", RECIPE.batch_size, training=True, seed=seed)
        model.fit(batches, epochs=RECIPE.epochs, verbose=2)

    return common.trained(build(name), FOLDER / f"{name}_{copy}.weights.h5", train)


def data():
    return common.cifar(train_limit=TRAIN_IMAGES)


def logits(split, splits):
    """Returns the pool's logits: a list, one array (copies, samples, classes) a network."""
    x, _ = splits.arrays(split)
    return [
        np.stack(
            [member(name, c, splits).predict(x, batch_size=250, verbose=0) for c in range(COPIES)]
        )
        for name in MEMBERS
    ]
