"""Trains networks that benchmarks begin with, or that are too large to be kept.

    python -m benchmarks.networks cifar10

An interrupted training resumes from its last complete epoch; those of the networks that come with
the library, from their last checkpoint: a file (10 MB for `cifar10_resnet9`, 8 for `cifar10`, 1 for
`cifar10_tiny`) with a curve of the accuracies beside it. On two cores `cifar10` takes some ten
hours, each of the others about one.
"""

import argparse
import dataclasses
from functools import partial
from pathlib import Path

import keras
import numpy as np

import keras_adaptive as ka
from benchmarks import _rows, common
from benchmarks._long_training import LongTraining, in_bfloat16

RESNETS = {depth: f"cifar10_preact_resnet_{depth}" for depth in (8, 20, 32)}
RESNET_IMAGES, RESNET_EPOCHS = 20_000, 8
# The networks that come with the library (`benchmarks.shipped`). On CPUs, few wide layers train
# faster than many narrow ones: twice the MACs of `cifar_budgeted_5` in the same time. Heads are
# narrower than the paper's 128 so that the file stays small.
CIFAR10 = {
    "blocks": 5,
    "base": 1,
    "step": 2,
    "step_mode": "even",
    "channels": 32,
    "growth_rate": 16,
    "bottleneck_factors": (1, 2, 2),
    "head_channels": 64,
}
# for phones and pages: 0.2 MB in int8
CIFAR10_TINY = {"depth": 14, "exits": (2, 4), "head_channels": 16}
# no label smoothing, since it blurs which answers are right, which thresholds live on
CIFAR10_RECIPE = ka.training.Recipe(
    learning_rate=0.1,
    epochs=120,
    batch_size=64,
    schedule="one_cycle",
    weight_decay=5e-4,
    mixed_precision="auto",
)
# ResNet-9 of few wide layers, the fastest way to a good network on CIFAR-10 (Page, 2018;
# Jordan, 2024), with early exits added as to anybody's network
RESNET9_EXITS = {
    "at": ["block_0", "block_1_begin", "block_1", "block_2_begin"],
    "head_channels": 32,
}
EXIT_WEIGHTS = {"cifar10_resnet9": [0.4, 0.7, 1.0, 1.0, 1.0]}
CIFAR10_DISTILLATION = {"teacher": "last", "temperature": 3.0, "weight": 0.3}


def resnet9(input_shape=(32, 32, 3), classes=10, *, at, head_channels, widths=(64, 256, 256)):
    """Builds a residual network of nine layers in plain Keras, and adds exits to it."""
    layers = keras.layers

    def unit(x, channels, name, pool=False):
        x = layers.Conv2D(channels, 3, padding="same", use_bias=False, name=f"{name}_conv")(x)
        if pool:
            x = layers.MaxPooling2D(2, name=f"{name}_pool")(x)
        return layers.BatchNormalization(momentum=0.9, name=f"{name}_norm")(x)

    inputs = keras.Input(input_shape, name="image")
    x = layers.ReLU(name="stem_relu")(layers.Conv2D(24, 2, name="stem")(inputs))
    for block, (channels, convolutions) in enumerate(zip(widths, (1, 1, 2), strict=True)):
        name = f"block_{block}"
        x = begin = layers.ReLU(name=f"{name}_begin")(unit(x, channels, f"{name}_0", pool=True))
        for number in range(1, convolutions + 1):
            x = unit(x, channels, f"{name}_{number}")
            end = name if block == 0 else None  # the largest maps do without a shortcut
            x = layers.ReLU(name=end or f"{name}_{number}_relu")(x)
        if block > 0:
            x = layers.Add(name=name)([begin, x])
    x = layers.GlobalMaxPooling2D(name="pool")(x)
    network = keras.Model(inputs, layers.Dense(classes, name="logits")(x), name="resnet9")
    return ka.add_exits(network, at, head_channels=head_channels)


def with_weights(model, path):
    """Returns a network with the weights of a file, which knows nothing of optimizers."""
    model = ka.AdaptiveModel(model.inputs, model.outputs, name=model.name)
    model.load_weights(path)
    model.compile()
    return model


LONG = {
    "cifar10_resnet9": (
        resnet9,
        RESNET9_EXITS,
        dataclasses.replace(CIFAR10_RECIPE, epochs=36, batch_size=128),
    ),
    "cifar10": (ka.build_msdnet, CIFAR10, CIFAR10_RECIPE),
    "cifar10_tiny": (
        ka.build_resnet,
        CIFAR10_TINY,
        dataclasses.replace(CIFAR10_RECIPE, epochs=40, batch_size=128),
    ),
}
# name: what `train` does
NETWORKS = {
    "cifar10_budgeted_7": {
        "build": partial(ka.build_msdnet, preset="cifar_budgeted_7", head_channels=64),
        "train_limit": 20_000,
        "epochs": 2,
        "folder": common.RUNS / "networks",  # `benchmarks.inference` alone uses it: not kept
    },
    **{
        name: {
            "build": partial(ka.build_resnet, depth=depth, style="pre"),
            "seed": depth,
            "train_limit": RESNET_IMAGES,
            "epochs": RESNET_EPOCHS,
            "folder": common.MODELS,  # the members of `benchmarks.stopping`
        }
        for depth, name in RESNETS.items()
    },
}


def weights(name):
    """Returns where the weights of a network of the table are, or will be."""
    return NETWORKS[name]["folder"] / f"{name}.weights.h5"


def trained(name):
    """Returns a network of the table with its weights; trains it where that has not been done."""
    if not weights(name).exists():
        print(name, flush=True)
        train(name)
    model = NETWORKS[name]["build"]()
    model.load_weights(weights(name))
    return model


def train(name):
    plan = NETWORKS[name]
    seed = plan.get("seed", 0)
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    splits = common.cifar(train_limit=plan["train_limit"])
    recipe = ka.training.Recipe(schedule="one_cycle", epochs=plan["epochs"])
    model = plan["build"]()
    model = ka.training.fit(
        model,
        splits.batches("train", recipe.batch_size, training=True, seed=seed),
        splits.batches("calibrate", 500),
        recipe=recipe,
        callbacks=[
            ka.training.ExitHistory(),
            keras.callbacks.CSVLogger(common.RUNS / f"{name}.csv", append=True),
        ],
        backup_dir=common.RUNS / name,
        seed=seed,
        verbose=2,
    )
    weights(name).parent.mkdir(parents=True, exist_ok=True)
    common.save_half(model, weights(name))


def shipped(name):
    """Returns where the weights of a network that comes with the library will be."""
    return common.RUNS / "shipped" / f"{name}.weights.h5"


def facts(network, exit_weights):
    """Returns what has to be the same for a checkpoint to be of this training."""
    return {
        "network": network,
        "distillation": CIFAR10_DISTILLATION,
        "exit_weights": exit_weights,
    }


def train_long(name, checkpoint=None, epochs=None, train_limit=None):
    """Trains a network that comes with the library; returns whether it is done."""
    _rows.set_threads(2)
    keras.utils.set_random_seed(0)
    build, arguments, recipe = LONG[name]
    epochs = epochs or recipe.epochs
    splits = common.cifar(train_limit=train_limit)
    images, labels = splits.images("train", splits.size("train"))
    held_out = splits.arrays("calibrate")
    model = build((32, 32, 3), 10, **arguments)
    if recipe.in_bfloat16:
        in_bfloat16(model)
    model.compile(
        recipe.optimizer(epochs * (len(images) // recipe.batch_size)),
        metrics=None,
        exit_weights=EXIT_WEIGHTS.get(name),
        distillation=ka.training.Distillation(**CIFAR10_DISTILLATION),
    )

    def validate():
        logits = model.predict(held_out[0], batch_size=250, verbose=0)
        return (np.stack(logits).argmax(-1) == held_out[1]).mean(-1)

    def save():
        exact = build((32, 32, 3), 10, **arguments)
        exact.set_weights(model.get_weights())
        shipped(name).parent.mkdir(parents=True, exist_ok=True)
        common.save_half(exact, shipped(name))

    training = LongTraining(
        model,
        images,
        labels,
        lambda pixels: (
            (pixels / np.float32(255) - np.float32(splits.mean)) / np.float32(splits.std)
        ),
        Path(checkpoint or common.RESULTS / "networks" / f"{name}.npz"),
        epochs=epochs,
        batch_size=recipe.batch_size,
        facts=facts(arguments, EXIT_WEIGHTS.get(name)),
    )
    return training.run(validate, save)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=(*LONG, *NETWORKS))
    parser.add_argument(
        "--checkpoint",
        type=Path,
        help="of the networks that come with the library (benchmarks/results/networks)",
    )
    parser.add_argument(
        "--epochs",
        type=int,
        help="of the same; another number than before lets the learning rate fall sooner or later",
    )
    options = parser.parse_args()
    if options.name in NETWORKS:
        train(options.name)
    elif not train_long(options.name, options.checkpoint, options.epochs):
        raise SystemExit(143)


if __name__ == "__main__":
    main()
