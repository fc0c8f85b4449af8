"""Trains networks that benchmarks begin with, or that are too large to be kept.

    python -m benchmarks.networks cifar10

An interrupted training resumes from its last complete epoch; those of the networks that come with
the library, from their last checkpoint: a file (8 MB for `cifar10`, 1 MB for `cifar10_tiny`) with a
curve of the accuracies beside it. On two cores `cifar10` takes some ten hours, `cifar10_tiny` one.
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
CIFAR10_DISTILLATION = {"teacher": "last", "temperature": 3.0, "weight": 0.3}
LONG = {
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
        facts={"network": arguments, "distillation": CIFAR10_DISTILLATION},
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
