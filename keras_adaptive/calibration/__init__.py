"""Calibration: thresholds, temperatures and guarantees from cached logits."""

from keras_adaptive.calibration.calibrate import METHODS as METHODS
from keras_adaptive.calibration.calibrate import (
    UnreachableTargetError as UnreachableTargetError,
)
from keras_adaptive.calibration.calibrate import calibrate as calibrate
from keras_adaptive.calibration.calibrate import calibrate_budgets as calibrate_budgets
from keras_adaptive.calibration.geometric import geometric_q as geometric_q
from keras_adaptive.calibration.geometric import geometric_thresholds as geometric_thresholds
from keras_adaptive.calibration.pcee import pcee_thresholds as pcee_thresholds
from keras_adaptive.calibration.risk_control import NoSavingWarning as NoSavingWarning
from keras_adaptive.calibration.risk_control import RiskControl as RiskControl
from keras_adaptive.calibration.scenes import fit_tau as fit_tau
from keras_adaptive.calibration.scenes import scene_starts as scene_starts
from keras_adaptive.calibration.select_cascade import CascadeChoice as CascadeChoice
from keras_adaptive.calibration.select_cascade import cascade_front as cascade_front
from keras_adaptive.calibration.select_cascade import select_cascade as select_cascade
from keras_adaptive.calibration.temperature import fit_temperatures as fit_temperatures
from keras_adaptive.calibration.temperature import reliability as reliability
