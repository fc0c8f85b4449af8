"""`train`: trains an MSDNet and saves it in a folder."""

import dataclasses
import shutil
import sys
from pathlib import Path

import keras
import numpy as np

from keras_adaptive import training
from keras_adaptive.cli.folder import forget, load_data, say, write_report
from keras_adaptive.models.msdnet import build_msdnet

# narrow up to the first exit and wide after it, so that every exit is better than the one before
DIGITS_NETWORK = {
    "blocks": 3,
    "step_mode": "even",
    "channels": 2,
    "growth_rate": 12,
    "growth_factors": (1, 2),
    "bottleneck_factors": (1, 2),
    "head_channels": 4,
}
QUICK = training.Recipe(epochs=30, schedule="cosine")
SMALL = 16  # pixels; smaller images get the network for digits


def train(options):
    say(f"train: reading {options.data}")
    splits = load_data(vars(options))
    keras.utils.set_random_seed(options.seed)
    arguments = {"preset": options.preset} if options.preset else {}
    if not options.preset and max(splits.input_shape[:2]) < SMALL:
        arguments = dict(DIGITS_NETWORK)
    arguments.update(input_shape=splits.input_shape, classes=len(splits.class_names))
    model = build_msdnet(**arguments)
    recipe = _recipe(options)
    options.out.mkdir(parents=True, exist_ok=True)
    forget(options.out, {})  # of an earlier network
    say(
        f"train: {model.name}, {model.exits} exits, {model.count_params():,} parameters, "
        f"{splits.size('train'):,} images; the first epoch also compiles the network"
    )
    history, backup = options.out / "history.csv", options.out / ".backup"
    if not backup.exists():
        history.unlink(missing_ok=True)
    model = training.fit(
        model,
        splits,
        splits.batches("calibrate", 500),
        regime=options.regime,
        recipe=recipe,
        callbacks=[
            training.ExitHistory(),
            keras.callbacks.CSVLogger(history, append=True),
            keras.callbacks.TerminateOnNaN(),
        ],
        backup_dir=backup,
        seed=options.seed,
        verbose="auto" if sys.stdout.isatty() else 2,
    )
    shutil.rmtree(backup)
    if not all(np.isfinite(weights).all() for weights in model.get_weights()):
        raise RuntimeError(
            "The training diverged: weights are no longer finite. Try a lower --learning-rate. "
            f"Used: {recipe.learning_rate:g}"
        )
    model.save(options.out / "model.keras")
    write_report(options.out, _describe(options, splits, model, arguments, recipe))


def _recipe(options):
    recipe = QUICK if options.recipe is None else training.RECIPES[options.recipe]
    given = {
        name: getattr(options, name)
        for name in ("epochs", "batch_size", "learning_rate", "schedule")
        if getattr(options, name) is not None
    }
    return dataclasses.replace(recipe, **given)


def _describe(options, splits, model, arguments, recipe):
    """Returns the report of a run after training."""
    files = options.data_dir is not None
    path = Path(options.data)
    name = path.name if path.exists() and not files else options.data
    return {
        "run": {
            "data": name + (" (local files)" if files else ""),
            "model": options.preset or model.name,
            **network_facts(model, splits, "build_msdnet", arguments),
            "training": f"{recipe.epochs} epochs, batch {recipe.batch_size}, learning rate "
            f"{recipe.learning_rate:g} ({recipe.schedule}), regime {options.regime}, "
            f"seed {options.seed}",
            "source": {
                "data": options.data,
                "data_dir": str(options.data_dir) if files else None,
                "cache_dir": str(options.cache_dir) if options.cache_dir else None,
                "image_size": options.image_size,
                "train_limit": options.train_limit,
            },
        },
        "commands": [options.command],
    }


def network_facts(model, splits, builder, arguments):
    """Returns the facts about a network and its data, with the call that builds it."""
    return {
        "network": {"builder": builder, "arguments": arguments},
        "parameters": model.count_params(),
        "class_names": splits.class_names,
        "preprocessing": {"mean": splits.mean, "std": splits.std},
        "splits": {name: splits.size(name) for name in ("train", "calibrate", "test")},
    }
