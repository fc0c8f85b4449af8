"""One small search, as a program of its own: python tests/tuning/tuning_search.py FOLDER [WAY].

WAY: `die` ends the process without warning in the middle of the second trial; `meet` waits
at the first trial until another process has begun one too. Prints the trials it ran.
"""

import os
import sys
import time
from pathlib import Path

import keras
import keras_tuner
import numpy as np

import keras_adaptive as ka

RECIPE = ka.training.Recipe(learning_rate=0.05, batch_size=16, schedule="cosine")
TRIALS = 4


def build(width=8, exits=2):
    """A network of dense layers, quick to compile."""
    x = image = keras.Input((4,))
    outputs = []
    for k in range(exits):
        x = keras.layers.Dense(width, activation="relu", name=f"dense_{k}")(x)
        outputs.append(ka.layers.EarlyExit(3, name=f"exit_{k}")(x))
    model = ka.AdaptiveModel(image, outputs)
    model.run_eagerly = True  # predictions of a few batches are not worth a graph
    return model


def data(samples=96):
    rng = np.random.default_rng(0)
    labels = rng.integers(0, 3, samples)
    return rng.normal(size=(samples, 4)).astype("float32") + labels[:, None], labels


def tuner(folder, kind=keras_tuner.RandomSearch, trainer=ka.training.fit, **kwargs):
    space = {"width": (4, 64), "exits": [2, 3]}
    hypermodel = ka.tuning.AdaptiveHyperModel(
        build, space, budget=100.0, recipe=RECIPE, trainer=trainer
    )
    kwargs = kwargs or {"max_trials": TRIALS}
    return kind(
        hypermodel, hypermodel.objective, seed=0, directory=folder, project_name="search", **kwargs
    )


class Watch(keras.callbacks.Callback):
    """Counts trials; does what WAY says. KerasTuner copies it for each trial."""

    begun = 0

    def __init__(self, folder, way):
        super().__init__()
        self.folder, self.way = Path(folder), way

    def on_train_begin(self, logs=None):
        Watch.begun += 1
        if self.way == "meet" and Watch.begun == 1:
            (self.folder / f"begun_{os.getpid()}").touch()
            end = time.time() + 120
            while len(list(self.folder.glob("begun_*"))) < 2 and time.time() < end:
                time.sleep(0.1)

    def on_train_batch_end(self, batch, logs=None):
        if self.way == "die" and Watch.begun == 2 and batch == 3:
            os._exit(9)


def main(folder, way=""):
    search = tuner(folder)
    train = data()
    search.search(train, train, epochs=2, callbacks=[Watch(folder, way)], verbose=0)
    if os.environ.get("KERASTUNER_TUNER_ID") != "chief":
        print("trials", Watch.begun)
        print("best", search.oracle.get_best_trials(1)[0].trial_id)


if __name__ == "__main__":
    main(*sys.argv[1:])
