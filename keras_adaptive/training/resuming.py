"""Resuming: a phase that is done is loaded, an interrupted one goes on after its last epoch."""

import json

import keras

from keras_adaptive._files import write_whole

DONE, WEIGHTS = "done.json", "done.weights.h5"


def restore_if_done(model, folder):
    """Loads the weights with which a phase ended, without the state of its optimizer.

    Args:
        model: The model of the phase.
        folder: Path of the phase's backups.

    Returns:
        Boolean, whether the phase was done.
    """
    if not (folder / DONE).exists():
        return False
    optimizer = getattr(model, "optimizer", None)
    model.optimizer = None
    model.load_weights(folder / WEIGHTS)
    model.optimizer = optimizer
    return True


def backup(folder):
    """Returns the callback that keeps every complete epoch, and goes on after the last one."""
    folder.mkdir(parents=True, exist_ok=True)
    return keras.callbacks.BackupAndRestore(folder / "running")


def mark_done(model, folder, **facts):
    """Keeps the weights of a phase that has ended, and says so in a file written last.

    Args:
        model: The model of the phase.
        folder: Path of the phase's backups.
        **facts: What that file holds.
    """
    model.save_weights(folder / WEIGHTS)
    write_whole(folder / DONE, json.dumps(facts) + "\n")
