"""The command line: from images to an anytime answer on the device."""

from keras_adaptive.cli.main import main as main
