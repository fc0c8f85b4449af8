"""A short run of everything, which tests copy."""

import functools
import warnings

import pytest
import tensorflow as tf

from keras_adaptive.cli import evaluate as evaluation
from keras_adaptive.cli import main
from keras_adaptive.cli import train as program
from keras_adaptive.training import fit

ARGUMENTS = ["--epochs", "2", "--train-limit", "64"]


def eager(function):
    """Returns the function without graphs: a few small steps take less time than to trace one."""

    @functools.wraps(function)
    def run(*args, **kwargs):
        tf.config.run_functions_eagerly(True)
        try:
            with warnings.catch_warnings():
                text = ".*does not apply to tf.data functions"
                warnings.filterwarnings("ignore", text, UserWarning)
                return function(*args, **kwargs)
        finally:
            tf.config.run_functions_eagerly(False)

    return run


eagerly = eager(fit)


def small_network(patch):
    """Lets the command line make a smaller network, and predict without graphs."""
    patch.setitem(program.DIGITS_NETWORK, "blocks", 2)
    patch.setattr(evaluation, "_predict", eager(evaluation._predict))


def make(folder):
    with pytest.MonkeyPatch.context() as patch:
        small_network(patch)
        patch.setattr(program.training, "fit", eagerly)
        main(["demo", "--out", str(folder), *ARGUMENTS])
