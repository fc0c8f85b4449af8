"""The model that every builder returns, its losses and its training."""

from keras_adaptive.training._exit_weights import exit_weights as exit_weights
from keras_adaptive.training.adaptive_model import AdaptiveModel as AdaptiveModel
from keras_adaptive.training.adaptive_model import default_optimizer as default_optimizer
from keras_adaptive.training.add_collaboration import add_collaboration as add_collaboration
from keras_adaptive.training.add_gradient_equilibrium import (
    add_gradient_equilibrium as add_gradient_equilibrium,
)
from keras_adaptive.training.add_gradient_equilibrium import (
    gradient_equilibrium as gradient_equilibrium,
)
from keras_adaptive.training.add_stopping import add_stopping as add_stopping
from keras_adaptive.training.add_stopping import with_stopping as with_stopping
from keras_adaptive.training.combine_exits import combine_exits as combine_exits
from keras_adaptive.training.distillation import Distillation as Distillation
from keras_adaptive.training.fit_policy import fit_policy as fit_policy
from keras_adaptive.training.gate_loss import GateLoss as GateLoss
from keras_adaptive.training.history import ExitHistory as ExitHistory
from keras_adaptive.training.recipes import RECIPES as RECIPES
from keras_adaptive.training.recipes import Recipe as Recipe
from keras_adaptive.training.regimes import fit as fit
from keras_adaptive.training.reinforce import Reinforce as Reinforce
from keras_adaptive.training.stopping_loss import StoppingLoss as StoppingLoss
from keras_adaptive.training.stopping_model import StoppingModel as StoppingModel
from keras_adaptive.training.stopping_model import stopping_optimizer as stopping_optimizer
from keras_adaptive.training.sweep_cost_weights import sweep as sweep
from keras_adaptive.training.sweep_cost_weights import sweep_cost_weights as sweep_cost_weights

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
    "add_collaboration",
    "add_gradient_equilibrium",
    "add_stopping",
    "combine_exits",
    "default_optimizer",
    "exit_weights",
    "fit",
    "fit_policy",
    "gradient_equilibrium",
    "stopping_optimizer",
    "sweep",
    "sweep_cost_weights",
    "with_stopping",
]
