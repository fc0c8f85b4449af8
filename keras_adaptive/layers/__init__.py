"""The layers an adaptive network is made of."""

from keras_adaptive.layers.batch_normalization import BatchNormalization as BatchNormalization
from keras_adaptive.layers.channel_gate import ChannelGate as ChannelGate
from keras_adaptive.layers.combined_exit import CombinedExit as CombinedExit
from keras_adaptive.layers.early_exit import EarlyExit as EarlyExit
from keras_adaptive.layers.gated_block import GatedBlock as GatedBlock
from keras_adaptive.layers.gradient_scale import GradientScale as GradientScale
from keras_adaptive.layers.running_mean import RunningMean as RunningMean
from keras_adaptive.layers.skip_gate import SkipGate as SkipGate
from keras_adaptive.layers.stopping_policy import StoppingPolicy as StoppingPolicy

__all__ = [
    "BatchNormalization",
    "ChannelGate",
    "CombinedExit",
    "EarlyExit",
    "GatedBlock",
    "GradientScale",
    "RunningMean",
    "SkipGate",
    "StoppingPolicy",
]
