"""Imports tensorflow_model_optimization without its side effects on the process."""

import os

import keras

from keras_adaptive._checks import needs_extra

SWITCH = "TF_USE_LEGACY_KERAS"


def tfmot():
    """Returns the module tensorflow_model_optimization.

    Importing it sets an environment variable that would turn `tf.keras` into Keras 2 here
    and in every process started from here. So `tf.keras` is resolved before, and the
    variable is put back after.

    Raises:
        ImportError: If it is not installed.
        ValueError: If the Keras backend is not tensorflow.
    """
    if keras.backend.backend() != "tensorflow":
        raise ValueError(
            "The Keras backend must be tensorflow to compress a network. "
            f"Received: backend {keras.backend.backend()}"
        )
    import tensorflow as tf

    _ = tf.keras.Model
    before = os.environ.get(SWITCH)
    try:
        with needs_extra("compress"):
            import tensorflow_model_optimization as module
    finally:
        os.environ.pop(SWITCH, None)
        if before is not None:
            os.environ[SWITCH] = before
    return module
