"""Images and labels in three splits: train, calibrate, test."""

from keras_adaptive.data.load import load as load
from keras_adaptive.data.splits import SPLITS as SPLITS
from keras_adaptive.data.splits import Splits as Splits
