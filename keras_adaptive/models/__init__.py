"""Builders: each returns a compiled `AdaptiveModel`."""

from keras_adaptive.models.msdnet import build_msdnet as build_msdnet

__all__ = ["build_msdnet"]
