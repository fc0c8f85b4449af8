"""Searches networks, trainings and thresholds with KerasTuner."""

from keras_adaptive.tuning.front import Point as Point
from keras_adaptive.tuning.front import pareto_front as pareto_front
from keras_adaptive.tuning.front import trial_points as trial_points
from keras_adaptive.tuning.hyper_model import AdaptiveHyperModel as AdaptiveHyperModel
from keras_adaptive.tuning.threshold_tuner import ThresholdTuner as ThresholdTuner

__all__ = ["AdaptiveHyperModel", "Point", "ThresholdTuner", "pareto_front", "trial_points"]
