"""Runs an exported file on the device. Needs numpy and a TFLite interpreter, no more."""

from anytime_tflite.anytime import Answer as Answer
from anytime_tflite.anytime import AnytimeModel as AnytimeModel

__all__ = ["Answer", "AnytimeModel"]
