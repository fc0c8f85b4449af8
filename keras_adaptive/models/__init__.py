"""Builders: each returns a compiled `AdaptiveModel`."""

from keras_adaptive.models.densenet import build_densenet as build_densenet
from keras_adaptive.models.msdnet import build_msdnet as build_msdnet
from keras_adaptive.models.resnet import build_resnet as build_resnet

__all__ = ["build_densenet", "build_msdnet", "build_resnet"]
