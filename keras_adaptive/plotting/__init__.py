"""Pictures. Each function draws on matplotlib axes and returns them."""

from keras_adaptive.plotting.curve import accuracy_cost_curve as accuracy_cost_curve
from keras_adaptive.plotting.exit_shares import exit_shares as exit_shares
from keras_adaptive.plotting.history import exit_history as exit_history
from keras_adaptive.plotting.images import images_by_exit as images_by_exit
from keras_adaptive.plotting.latency import latency as latency
from keras_adaptive.plotting.reliability import reliability as reliability
