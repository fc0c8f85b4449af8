"""`train`: trains an MSDNet and saves it in a folder."""

import csv
import dataclasses
import io
import os
import shutil
import time
from pathlib import Path

import keras
import numpy as np
from tqdm import tqdm

from keras_adaptive import report as reports
from keras_adaptive import training
from keras_adaptive._files import reading, write_whole
from keras_adaptive.cli import checks
from keras_adaptive.cli import folder as runs
from keras_adaptive.data.image_folder import DifferentSizesError
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
# for pictures that are few: it compiles in seconds, and has not many weights to learn
SMALL_NETWORK = {
    "blocks": 3,
    "base": 2,
    "step_mode": "even",
    "channels": 8,
    "growth_rate": 8,
    "growth_factors": (1, 2, 2),
    "bottleneck_factors": (1, 2, 2),
    "head_channels": 32,
}
QUICK = training.Recipe(epochs=30, schedule="cosine")
USUAL_SIZE = 64  # pixels, where images differ
SMALL = 16  # pixels; smaller images get the network for digits
FEW = 5_000  # training images
FEW_STEPS = 200  # of a training
COPIES = 8  # of the weights: model, optimizer, backups and the one before


def train(options):
    settings = checks.settings(options)
    with runs.training(options.out, settings, options.overwrite) as this:
        if this.finished:
            this.say_finished()
            return
        runs.say(f"train: reading {options.data}")
        splits = _data(options)
        keras.utils.set_random_seed(options.seed)
        arguments = _network(options.preset, splits)
        arguments.update(input_shape=splits.input_shape, classes=len(splits.class_names))
        model = build_msdnet(**arguments)
        runs.check_room(options.out, runs.ROOM + COPIES * 4 * model.count_params())
        recipe = _recipe(options)
        report = _describe(options, splits, model, arguments, recipe)
        reports.check_report({**report, "machine": reports.machine()})  # not after days of work
        this.begin()
        try:
            model = _fit(options, this, splits, model, recipe)
        except KeyboardInterrupt:
            runs.say(f"\ntrain: {options.out} keeps what was trained; the same command goes on")
            raise
        except ValueError as error:
            if "`backup_dir`" not in str(error):
                raise
            raise ValueError(
                f"{error}. The network or the data is no longer what it was when the training "
                f"began: to begin anew, remove {this.folder}"
            ) from error
        if not all(np.isfinite(weights).all() for weights in model.get_weights()):
            this.discard()
            raise RuntimeError(
                "The training diverged: weights are no longer finite. Try a lower "
                f"--learning-rate. Used: {recipe.learning_rate:g}"
            )
        with this.run.change(settings=this.settings, splits=report["run"]["splits"]) as new:
            new.forget(report)  # results of an earlier network
            model.save(new.path("model.keras"))
            shutil.copyfile(this.folder / "history.csv", new.path("history.csv"))
            new.write_report(report, options.command)


def _data(options):
    """Returns the splits; pictures of different sizes get the usual one."""
    try:
        return runs.load_data(vars(options))
    except DifferentSizesError:
        options.image_size = (USUAL_SIZE, USUAL_SIZE)
        runs.say(
            f"train: images of different sizes: scaled to cover {USUAL_SIZE}x{USUAL_SIZE} pixels, "
            "and cut in the middle; --image-size chooses another size"
        )
        return runs.load_data(vars(options))


def _network(preset, splits):
    """Returns the arguments of the network: that of a preset, or one that fits the data."""
    if preset:
        return {"preset": preset}
    if max(splits.input_shape[:2]) < SMALL:
        return dict(DIGITS_NETWORK)
    return dict(SMALL_NETWORK) if splits.size("train") < FEW else {}


def _fit(options, this, splits, model, recipe):
    """Returns the trained network; an interrupted training goes on."""
    runs.say(
        f"train: {model.name}, {model.num_exits} exits, {model.count_params():,} parameters, "
        f"{splits.size('train'):,} images; "
        + ("goes on where it was interrupted; " if this.goes_on else "")
        + "the first epoch also compiles the network"
    )
    steps = recipe.epochs * -(-splits.size("train") // recipe.batch_size)
    if steps < FEW_STEPS:
        runs.say(
            f"train: only {steps} steps in all, which may be too few: with a smaller --batch-size "
            "or more --epochs there are more"
        )
    return training.fit(
        model,
        splits,
        splits.batches("calibrate", 500),
        regime=options.regime,
        recipe=recipe,
        callbacks=[
            training.ExitHistory(),
            _History(this.folder / "history.csv"),
            _Progress(),
            keras.callbacks.TerminateOnNaN(),
        ],
        backup_dir=this.folder / "backup",
        seed=options.seed,
        verbose=0,
    )


class _Progress(keras.callbacks.Callback):
    """A line per epoch: how good the first and the last exit are; and a bar on a terminal."""

    def on_epoch_begin(self, epoch, logs=None):
        self.name = f"epoch {epoch + 1}/{self.params['epochs']}"
        self.began = time.monotonic()
        self.bar = tqdm(
            total=self.params["steps"], desc=self.name, leave=False, disable=not runs.on_terminal()
        )

    def on_train_batch_end(self, batch, logs=None):
        self.bar.update()

    def on_epoch_end(self, epoch, logs=None):
        self.bar.close()
        seconds = time.monotonic() - self.began
        runs.say(
            f"{self.name}: loss {logs['loss']:.3f}, accuracy {_of_exits(logs, '')}, "
            f"held-out {_of_exits(logs, 'val_')} ({seconds:.1f} s)"
        )


def _of_exits(logs, prefix):
    """Returns the accuracies of the first and the last exit, as text."""
    found = [logs[f"{prefix}{place}_accuracy"] for place in ("first", "last")]
    return f"{found[0]:.1%} to {found[1]:.1%}"


class _History(keras.callbacks.Callback):
    """Keeps one row per epoch, each once, also of a training that goes on where it was killed.

    Args:
        path: Path of a CSV file.
    """

    def __init__(self, path):
        super().__init__()
        self.path = path

    def on_epoch_end(self, epoch, logs=None):
        logs = logs or {}
        names, rows = self._read()
        names = names or ["epoch", *logs]
        row = [str(epoch), *(str(logs.get(name, "")) for name in names[1:])]
        if row in rows:  # the epoch was there before the training was killed
            del rows[rows.index(row) :]
        while epoch and rows and int(rows[-1][0]) >= epoch:
            rows.pop()
        rows.append(row)
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerows([names, *rows])
        write_whole(self.path, text.getvalue())

    def _read(self):
        if not self.path.exists():
            return None, []
        with reading(self.path, "history.csv must hold a row per epoch"):
            names, *rows = csv.reader(self.path.read_text(encoding="utf-8").splitlines())
            return names, [row for row in rows if row[0].isdecimal()]


def _recipe(options):
    recipe = QUICK if options.recipe is None else training.RECIPES[options.recipe]
    given = {
        name: getattr(options, name)
        for name in ("epochs", "batch_size", "learning_rate", "schedule")
        if getattr(options, name) is not None
    }
    return dataclasses.replace(recipe, **given)


def _describe(options, splits, model, arguments, recipe):
    """Returns the report of a run after training, of which nothing depends on what was learned."""
    files = options.data_dir is not None
    path = Path(options.data)
    name = os.path.basename(os.path.abspath(path)) if path.exists() and not files else options.data
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
        "costs": model.exit_costs().tolist(),
        "class_names": splits.class_names,
        "preprocessing": {"mean": splits.mean, "std": splits.std},
        "splits": {name: splits.size(name) for name in ("train", "calibrate", "test")},
    }
