"""Pictures. Each function draws on matplotlib axes and returns them."""

from keras_adaptive.plotting.accuracy_matrix import accuracy_matrix as accuracy_matrix
from keras_adaptive.plotting.blocks_used import blocks_used as blocks_used
from keras_adaptive.plotting.curve import accuracy_and_cost as accuracy_and_cost
from keras_adaptive.plotting.curve import accuracy_cost_curve as accuracy_cost_curve
from keras_adaptive.plotting.curve import pareto_front as pareto_front
from keras_adaptive.plotting.curve import sweep as sweep
from keras_adaptive.plotting.exit_fractions import exit_fractions as exit_fractions
from keras_adaptive.plotting.exit_fractions import exit_shares as exit_shares
from keras_adaptive.plotting.history import exit_history as exit_history
from keras_adaptive.plotting.images import easy_and_hard as easy_and_hard
from keras_adaptive.plotting.images import examples as examples
from keras_adaptive.plotting.images import images_by_exit as images_by_exit
from keras_adaptive.plotting.images import probability_strips as probability_strips
from keras_adaptive.plotting.latency import latency as latency
from keras_adaptive.plotting.reliability import reliability as reliability
from keras_adaptive.plotting.skipping_ratios import skipping_ratios as skipping_ratios
