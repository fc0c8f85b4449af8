"""Builders of networks with early exits, compiled `AdaptiveModel`s, and of members for cascades."""

from keras_adaptive.models.add_exits import add_exits as add_exits
from keras_adaptive.models.cascade import build_cascade as build_cascade
from keras_adaptive.models.clip_cascade import build_clip_cascade as build_clip_cascade
from keras_adaptive.models.clip_cascade import cut_clips as cut_clips
from keras_adaptive.models.deeplabv3 import build_deeplabv3 as build_deeplabv3
from keras_adaptive.models.densenet import build_densenet as build_densenet
from keras_adaptive.models.depth_ensemble import build_depth_ensemble as build_depth_ensemble
from keras_adaptive.models.efficientnet import build_efficientnet as build_efficientnet
from keras_adaptive.models.msdnet import build_msdnet as build_msdnet
from keras_adaptive.models.pretrained import Pretrained as Pretrained
from keras_adaptive.models.pretrained import pretrained as pretrained
from keras_adaptive.models.pretrained import pretrained_names as pretrained_names
from keras_adaptive.models.resnet import build_resnet as build_resnet
from keras_adaptive.models.scale_cascade import scale_cascade as scale_cascade
from keras_adaptive.models.segmentation_cascade import SegmentationCascade as SegmentationCascade
from keras_adaptive.models.self_cascade import build_self_cascade as build_self_cascade
from keras_adaptive.models.stopping_cascade import (
    build_stopping_cascade as build_stopping_cascade,
)
from keras_adaptive.models.x3d import build_x3d as build_x3d

__all__ = [
    "Pretrained",
    "SegmentationCascade",
    "add_exits",
    "build_cascade",
    "build_clip_cascade",
    "build_deeplabv3",
    "build_densenet",
    "build_depth_ensemble",
    "build_efficientnet",
    "build_msdnet",
    "build_resnet",
    "build_self_cascade",
    "build_stopping_cascade",
    "build_x3d",
    "cut_clips",
    "pretrained",
    "pretrained_names",
    "scale_cascade",
]
