"""What the benchmarks share beside their rows: the trained network, its data, and timing."""

import os
import random
import time
from pathlib import Path

import h5py
import keras
import numpy as np

import keras_adaptive as ka
from benchmarks._rows import RESULTS as RESULTS

ROOT = Path(__file__).parent
MODELS = ROOT / "models"
RUNS = ROOT.parent / "runs"
TRIAL = RUNS / "trial"  # results of programs that are only tried, on few images
DATA = Path(
    os.environ.get("CIFAR10_DIR") or ROOT.parent.parent / "shared" / "data" / "cifar10_jpeg.tar.xz"
)


def cifar(cache_dir=RUNS / "cache", data_dir=DATA, **kwargs):
    """Returns CIFAR-10 (JPEG) in three splits."""
    return ka.data.load("cifar10", data_dir=data_dir, cache_dir=cache_dir, **kwargs)


def cifar_net():
    """Returns the trained `cifar_budgeted_5` that the benchmarks share."""
    weights = MODELS / "cifar10_budgeted_5.weights.h5"
    return ka.build_msdnet(preset="cifar_budgeted_5", weights=weights)


def answers(model, splits, names=("calibrate", "test")):
    """Returns the logits `(exits, samples, classes)` and the labels of every split, by name."""
    found = {}
    for name in names:
        x, y = splits.arrays(name)
        found[name] = np.stack(model.predict(x, batch_size=250, verbose=0)), y
    return found


def stage_logits(device, images):
    """Returns the logits of every exit of an `AnytimeModel`, `(exits, images, classes)`."""
    rows = []
    for image in images:
        device._backend.start(device._prepare(image))
        rows.append([device._backend.run(i) for i in range(len(device.exits))])
    return np.swapaxes(rows, 0, 1)


def in_turns(contenders, rounds, warm_up=1, shuffle=False):
    """Returns the seconds of every contender in every round, by name; all in turn.

    Args:
        contenders: Dictionary of functions without arguments.
        rounds: Integer, the rounds that count.
        warm_up: Integer, the rounds before them, which measure, trace and compile.
        shuffle: Whether each round has an order of its own.
    """
    seconds = {name: [] for name in contenders}
    order, rng = list(contenders), random.Random(0)
    for number in range(-warm_up, rounds):
        if shuffle and number >= 0:
            rng.shuffle(order)
        for name in order:
            start = time.perf_counter()
            contenders[name]()
            if number >= 0:
                seconds[name].append(time.perf_counter() - start)
    return {name: np.array(values) for name, values in seconds.items()}


def quartiles(values):
    """Returns the three quartiles as numbers."""
    return np.quantile(values, (0.25, 0.5, 0.75)).tolist()


def fit(model, data, folder, *, seed=0, callbacks=(), **kwargs):
    """Trains with `ka.training.fit`; resumes from the folder; returns the minutes it took.

    The folder then holds `epochs.csv` too, with what Keras logs of every epoch.
    """
    folder.mkdir(parents=True, exist_ok=True)
    start = time.time()
    ka.training.fit(
        model,
        data.batches("train", training=True, seed=seed),
        callbacks=[*callbacks, keras.callbacks.CSVLogger(folder / "epochs.csv", append=True)],
        backup_dir=folder,
        seed=seed,
        verbose=2,
        **kwargs,
    )
    return round((time.time() - start) / 60, 1)


def trained(model, path, train):
    """Returns the model with the weights of a file; where there is none, trains and writes it."""
    if path.exists():
        model.load_weights(path)
        return model
    train(model)
    path.parent.mkdir(parents=True, exist_ok=True)
    fresh = path.with_name(f"fresh_{path.name}")
    model.save_weights(fresh)
    fresh.replace(path)
    return model


def save_half(model, path):
    """Writes the weights in float16; `load_weights` reads them into float32."""
    model.save_weights(path)
    compact(path, path)


def compact(source, target):
    """Copies a file of weights: in float16, without the optimizer's state and HDF5's gaps."""
    fresh = target.with_suffix(".tmp")
    with h5py.File(source) as old, h5py.File(fresh, "w", libver="latest") as new:
        _copy(old, new)
    fresh.replace(target)


def _copy(old, new):
    for key, value in old.attrs.items():
        new.attrs[key] = value
    for name, item in old.items():
        if name == "optimizer":
            continue
        if isinstance(item, h5py.Group):
            _copy(item, new.create_group(name))
            continue
        values = item[()]
        if values.dtype == "float32":
            values = values.astype("float16")
        # compressing small arrays would add more than it saves
        packed = {"compression": "gzip", "shuffle": True} if values.size > 4096 else {}
        new.create_dataset(name, data=values, **packed)
