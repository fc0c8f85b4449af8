"""The command line: train, calibrate, evaluate, export and run a network."""

from keras_adaptive.cli.main import main as main
