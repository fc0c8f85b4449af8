"""The model every builder returns, and how it is trained."""

from keras_adaptive.training.adaptive_model import AdaptiveModel as AdaptiveModel
from keras_adaptive.training.adaptive_model import default_optimizer as default_optimizer
from keras_adaptive.training.distillation import Distillation as Distillation
from keras_adaptive.training.exit_weights import exit_weights as exit_weights
from keras_adaptive.training.gate_loss import GateLoss as GateLoss
from keras_adaptive.training.gradient_equilibrium import (
    gradient_equilibrium as gradient_equilibrium,
)
from keras_adaptive.training.history import ExitHistory as ExitHistory
from keras_adaptive.training.recipes import RECIPES as RECIPES
from keras_adaptive.training.recipes import Recipe as Recipe
from keras_adaptive.training.regimes import fit as fit
from keras_adaptive.training.reinforce import Reinforce as Reinforce
from keras_adaptive.training.stopping import StoppingModel as StoppingModel
from keras_adaptive.training.stopping import fit_policy as fit_policy
from keras_adaptive.training.stopping import stopping_optimizer as stopping_optimizer
from keras_adaptive.training.stopping import with_stopping as with_stopping
from keras_adaptive.training.stopping_loss import StoppingLoss as StoppingLoss

__all__ = [
    "RECIPES",
    "AdaptiveModel",
    "Distillation",
    "ExitHistory",
    "GateLoss",
    "Recipe",
    "Reinforce",
    "StoppingLoss",
    "StoppingModel",
    "default_optimizer",
    "exit_weights",
    "fit",
    "fit_policy",
    "gradient_equilibrium",
    "stopping_optimizer",
    "with_stopping",
]
