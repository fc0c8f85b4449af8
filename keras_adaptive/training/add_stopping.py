"""Stopping policies for any network with exits."""

import inspect

import keras

from keras_adaptive.training import stopping_loss as estimators
from keras_adaptive.training.adaptive_model import keeping
from keras_adaptive.training.stopping_model import StoppingModel


def add_stopping(model, stopping, cost_weight=0.0, **kwargs):
    """Adds policies that learn when to stop to the exits of any network.

    The layers are shared with `model`. The new one is compiled with the stopping loss, the
    MSDNet paper's optimizer for the network and the published one for the policies.

    Args:
        model: An `AdaptiveModel` of at least two exits: an MSDNet, a ResNet with gates, a
            cascade.
        stopping: As in `StoppingModel`.
        cost_weight, **kwargs: Passed to `StoppingLoss`.

    Returns:
        A `StoppingModel`.

    Example:

    >>> from keras_adaptive import build_msdnet
    >>> from keras_adaptive.layers import StoppingPolicy
    >>> model = build_msdnet((8, 8, 1), 10, blocks=2, channels=4, growth_rate=2)
    >>> model = add_stopping(model, StoppingPolicy(8), cost_weight=0.01)
    >>> (model.stopping_costs() - model.exit_costs()).tolist()
    [160.0, 160.0]
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be an AdaptiveModel. Received: model={model!r}")
    estimators.check_names(
        kwargs, "add_stopping", tuple(inspect.signature(add_stopping).parameters)
    )
    loss = estimators.StoppingLoss(cost_weight, **kwargs)
    new = StoppingModel(model.input, model.outputs, name=model.name, stopping=stopping)
    new.compile(stopping_loss=loss)
    return keeping(new, [model])


with_stopping = add_stopping  # its name before 0.2; until 0.3
