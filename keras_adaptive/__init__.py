"""Keras networks that spend only as much computation as each input needs."""

import importlib

from keras_adaptive import calibration as calibration
from keras_adaptive import costs as costs
from keras_adaptive import evaluation as evaluation
from keras_adaptive import layers as layers
from keras_adaptive import models as models
from keras_adaptive import policy as policy
from keras_adaptive import segmentation as segmentation
from keras_adaptive import selection as selection
from keras_adaptive import stopping as stopping
from keras_adaptive import temperature as temperature
from keras_adaptive import training as training
from keras_adaptive import video as video
from keras_adaptive.calibration import calibrate as calibrate
from keras_adaptive.evaluation import accuracy_cost_curve as accuracy_cost_curve
from keras_adaptive.evaluation import evaluate as evaluate
from keras_adaptive.inference import AdaptivePredictor as AdaptivePredictor
from keras_adaptive.inference import measure_latency as measure_latency
from keras_adaptive.models import add_exits as add_exits
from keras_adaptive.models import build_cascade as build_cascade
from keras_adaptive.models import build_clip_cascade as build_clip_cascade
from keras_adaptive.models import build_deeplabv3 as build_deeplabv3
from keras_adaptive.models import build_densenet as build_densenet
from keras_adaptive.models import build_depth_ensemble as build_depth_ensemble
from keras_adaptive.models import build_efficientnet as build_efficientnet
from keras_adaptive.models import build_msdnet as build_msdnet
from keras_adaptive.models import build_resnet as build_resnet
from keras_adaptive.models import build_self_cascade as build_self_cascade
from keras_adaptive.models import build_x3d as build_x3d
from keras_adaptive.models import scale_cascade as scale_cascade
from keras_adaptive.policy import AgreementPolicy as AgreementPolicy
from keras_adaptive.policy import ExitPolicy as ExitPolicy
from keras_adaptive.policy import PatiencePolicy as PatiencePolicy
from keras_adaptive.risk import RiskControl as RiskControl
from keras_adaptive.segmentation import SegmentationCascade as SegmentationCascade
from keras_adaptive.selection import select_cascade as select_cascade
from keras_adaptive.stopping import LearnedPolicy as LearnedPolicy
from keras_adaptive.sweep import sweep as sweep
from keras_adaptive.training import AdaptiveModel as AdaptiveModel
from keras_adaptive.version import __version__ as __version__

# What needs TensorFlow's converter or an optional library is imported when it is used.
_LAZY = {
    "data": "keras_adaptive.data",
    "plotting": "keras_adaptive.plotting",
    "export": "keras_adaptive.export",
    "tuning": "keras_adaptive.tuning",
    "compression": "keras_adaptive.compression",
}
_LAZY_NAMES = {"export_tflite": "keras_adaptive.export"}


def __getattr__(name):
    if name in _LAZY:
        return importlib.import_module(_LAZY[name])
    if name in _LAZY_NAMES:
        return getattr(importlib.import_module(_LAZY_NAMES[name]), name)
    raise AttributeError(f"module 'keras_adaptive' has no attribute {name!r}")
