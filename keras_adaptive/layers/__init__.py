"""The layers an adaptive network is made of."""

from keras_adaptive.layers.early_exit import EarlyExit as EarlyExit
from keras_adaptive.layers.gradient_scale import GradientScale as GradientScale

__all__ = ["EarlyExit", "GradientScale"]
