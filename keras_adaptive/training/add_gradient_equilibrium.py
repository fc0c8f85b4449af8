"""Gradient Equilibrium for any network with exits."""

import keras

from keras_adaptive import _graph
from keras_adaptive.layers.gradient_scale import GradientScale
from keras_adaptive.training.adaptive_model import AdaptiveModel, check_model, keeping


def add_gradient_equilibrium(model):
    """Returns a network with balanced gradients that shares the layers of `model`.

    Where exit `i` of `k` leaves the network, the gradient of its head is multiplied by
    `1 / (k - i)` and that of all that comes later by `(k - i - 1) / (k - i)`, so that the
    gradient of an early layer is an average over the exits behind it rather than a sum.
    Answers do not change.

    A layer is early or late by the first exit that needs it. `build_msdnet(
    gradient_equilibrium=...)` goes by blocks, as the paper does; the two differ only for
    fine features that a block computes and its own exit does not need.

    Args:
        model: An `AdaptiveModel`.

    Returns:
        An `AdaptiveModel`, not compiled.

    Reference:
        [Improved Techniques for Training Adaptive Deep Networks
        (Li et al., 2019)](https://arxiv.org/abs/1908.06294), section 3.1.
    """
    check_model(model)
    exits = model.num_exits
    stages = _graph.split(model.inputs, model.outputs)
    inputs = {id(t) for t in model.inputs}
    value = {id(t): t for t in model.inputs}  # of every tensor, as this stage reads it
    outputs = []
    for i, stage in enumerate(stages):
        own = _head(model, stage, i)
        branch = {}

        def read(node, tensor, i=i, own=own, branch=branch):
            key = id(tensor)
            if id(node) not in own or key in inputs or id(_graph.node_of(tensor)) in own:
                return value[key]
            if key not in branch:
                scale = GradientScale(1 / (exits - i), name=f"balance_{i}_exit_{len(branch)}")
                branch[key] = scale(value[key])
            return branch[key]

        for node in stage.nodes:
            args, kwargs = node.arguments.fill_in(
                {id(t): read(node, t) for t in node.input_tensors}
            )
            result = keras.tree.flatten(node.operation(*args, **kwargs))
            value.update((id(old), new) for old, new in zip(node.outputs, result, strict=True))
        outputs.append(value[id(stage.logits)])
        onward = (exits - i - 1) / (exits - i)
        later = {id(t) for s in stages[i + 1 :] for t in s.inputs} - inputs
        for number, key in enumerate(key for key in value if key in later):
            value[key] = GradientScale(onward, name=f"balance_{i}_{number}")(value[key])
    return keeping(AdaptiveModel(model.input, outputs, name=model.name), [model])


gradient_equilibrium = add_gradient_equilibrium  # its name before 0.2; until 0.3


def _head(model, stage, exit):
    """Returns the nodes that only this exit needs."""
    later = {id(n) for n in _graph.nodes_between(model.inputs, model.outputs[exit + 1 :])}
    head = {id(node) for node in stage.nodes} - later
    if id(_graph.node_of(stage.logits)) not in head:
        raise ValueError(
            "No exit of `model` may be read by a later one. Received: a model whose exit "
            f"{exit} is; build it with `gradient_equilibrium` instead"
        )
    return head
