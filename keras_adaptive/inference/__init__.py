"""Prediction on the host that computes no further than each sample needs."""

from keras_adaptive.inference.latency import measure_latency as measure_latency
from keras_adaptive.inference.predictor import AdaptivePredictor as AdaptivePredictor
from keras_adaptive.inference.predictor import Result as Result
