"""One of several processes that train together, on JAX.

    KERAS_BACKEND=jax python tests/training/several_processes.py RANK COUNT PORT FOLDER [KILL]

Trains by `fit`, then by `ka.training.fit` with a backup in FOLDER, and prints JSON: `loss`,
`accuracy`, and the `weights` that it ends with. With KILL the process of the highest rank kills
itself after so many epochs of the second training.
"""

import json
import os
import signal
import sys

import keras
import numpy as np
from several_devices import batches, dense, scaled

import keras_adaptive as ka
from keras_adaptive.training import resuming

EPOCHS = 4
PROCESSES = 2  # whatever runs: data for so many


def compiled():
    model = dense()
    scaled(model)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    return model


def main(rank, count, port, folder, kill=None):
    rank, count = int(rank), int(count)
    keras.utils.set_random_seed(0)
    if count > 1:
        keras.distribution.initialize(f"127.0.0.1:{port}", count, rank)
        keras.distribution.set_distribution(keras.distribution.DataParallel())
    resuming.SECONDS = 0  # a state after every epoch
    data = batches(PROCESSES, repeated=False)
    found = compiled().fit(data, epochs=2, shuffle=False, verbose=0).history

    def end(epoch, logs):
        if kill is not None and rank == count - 1 and epoch + 1 == int(kill):
            os.kill(os.getpid(), signal.SIGKILL)

    model = ka.training.fit(
        compiled(),
        data,
        epochs=EPOCHS,
        regime="joint",
        callbacks=[keras.callbacks.LambdaCallback(on_epoch_end=end)],
        backup_dir=folder,
        verbose=0,
    )
    weights = [np.asarray(weight).tolist() for weight in model.get_weights()]
    print(json.dumps({"loss": found["loss"], "accuracy": found["accuracy"], "weights": weights}))


if __name__ == "__main__":
    main(*sys.argv[1:])
