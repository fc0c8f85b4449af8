"""Collaboration between the exits of any network."""

import keras

from keras_adaptive import _graph
from keras_adaptive.layers.early_exit import EarlyExit, checked_weight
from keras_adaptive.training.adaptive_model import AdaptiveModel, keeping


def add_collaboration(model, collaboration="dense", stop_gradient=True, collaboration_weight=1.0):
    """Returns a network whose classifiers also read the logits of the exit before.

    The network is shared with `model`. The heads are new: their convolutions begin with the
    weights that they have in `model`, their last dense layers with random ones.

    Args:
        model: An `AdaptiveModel` whose heads are `EarlyExit`s.
        collaboration, stop_gradient, collaboration_weight: As in `EarlyExit`; BoostNet is
            `"identity"` with 0.5.

    Returns:
        An `AdaptiveModel`, not compiled.

    Raises:
        TypeError: If the model is no `AdaptiveModel`.
        ValueError: If a head is not an `EarlyExit`, or serves several exits, or an argument is
            impossible.

    Example:

    >>> from keras_adaptive import build_msdnet
    >>> model = build_msdnet((8, 8, 1), 10, blocks=2, channels=4, growth_rate=2)
    >>> model = add_collaboration(model)
    >>> [model.get_layer(f"exit_{k}").collaboration for k in range(2)]
    [None, 'dense']

    Reference:
        [Improved Techniques for Training Adaptive Deep Networks
        (Li et al., 2019)](https://arxiv.org/abs/1908.06294), section 3.2.
    """
    if not isinstance(model, keras.Model):
        raise TypeError(f"`model` must be an AdaptiveModel. Received: model={model!r}")
    collaboration_weight = checked_weight(collaboration, collaboration_weight)
    outputs = []
    for logits, head in zip(model.outputs, early_exit_heads(model), strict=True):
        node = _graph.node_of(logits)
        config = head.get_config()
        config["collaboration"] = collaboration if outputs else None
        config["stop_gradient"] = stop_gradient
        config["collaboration_weight"] = collaboration_weight if outputs else 1.0
        new = EarlyExit.from_config(config)
        outputs.append(new(node.input_tensors[0], *outputs[-1:], mask=_graph.given_mask(node)))
        for old, copy in zip(head.units, new.units, strict=True):
            copy.set_weights(old.get_weights())
    return keeping(AdaptiveModel(model.input, outputs, name=model.name), [model])


def early_exit_heads(model):
    """Returns the heads of a network.

    Raises:
        ValueError: If one is not an `EarlyExit`, or serves several exits.
    """
    heads = [logits._keras_history.operation for logits in model.outputs]
    for head in heads:
        if not isinstance(head, EarlyExit):
            raise ValueError(
                "Every head of `model` must be an EarlyExit. Received: a head of type "
                f"{type(head).__name__}"
            )
    if len(set(map(id, heads))) < len(heads):
        raise ValueError(
            "Every exit of `model` must have a head of its own. "
            f"Received: exits with the heads {[head.name for head in heads]}"
        )
    return heads
