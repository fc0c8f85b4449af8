"""Runs an exported file on the device. Needs only numpy and a TFLite interpreter."""

from anytime_tflite.anytime import Answer as Answer
from anytime_tflite.anytime import AnytimeModel as AnytimeModel
from anytime_tflite.batch import BatchPredictor as BatchPredictor
from anytime_tflite.batch import BatchResult as BatchResult
from anytime_tflite.file import read_info as read_info
from anytime_tflite.frames import FrameStream as FrameStream
from anytime_tflite.monitor import Monitor as Monitor
from anytime_tflite.monitor import Status as Status

__version__ = "0.2.0"
__all__ = [
    "Answer",
    "AnytimeModel",
    "BatchPredictor",
    "BatchResult",
    "FrameStream",
    "Monitor",
    "Status",
    "read_info",
]
