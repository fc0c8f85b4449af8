"""Hyperparameter search over networks and their training, with KerasTuner."""

from keras_adaptive.tuning.front import Point as Point
from keras_adaptive.tuning.front import pareto_front as pareto_front
from keras_adaptive.tuning.front import trial_points as trial_points
from keras_adaptive.tuning.hyper_model import AdaptiveHyperModel as AdaptiveHyperModel

__all__ = ["AdaptiveHyperModel", "Point", "pareto_front", "trial_points"]
