"""The cost of every exit: MACs, parameters, energy."""

from keras_adaptive.costs.energy_model import EnergyModel as EnergyModel
from keras_adaptive.costs.exit_costs import exit_costs as exit_costs
from keras_adaptive.costs.exit_costs import node_cost as node_cost
from keras_adaptive.costs.exit_costs import register as register
from keras_adaptive.costs.gated_costs import gated_costs as gated_costs
