"""Exits that answer together with those before them."""

import keras
import numpy as np
import scipy

from keras_adaptive import _graph
from keras_adaptive._checks import check_choice, check_labels
from keras_adaptive.layers.combined_exit import COMBINATIONS, CombinedExit
from keras_adaptive.training.adaptive_model import AdaptiveModel, check_logits_of, keeping


def combine_exits(model, combine="product", *, logits=None, labels=None):
    """Returns a network with the same weights whose exits answer together with earlier ones.

    Exit `m` answers with the logits of exits 0 to `m`, combined by a `layers.CombinedExit`. All
    heads on the way must be computed then, also those at which no sample leaves; what the
    combining itself costs is in `exit_costs`. The network and its heads are shared with
    `model`. The new one is calibrated, evaluated, run and exported as every other.

    - `"product"`: answers that get better step by step, for deadlines: the probability of the
      true class fell in 7 to 12 % of all steps from exit to exit, that of the exits' own
      answers in 26 to 37 %. Not to put thresholds on: against exact thresholds on the exits'
      own answers it was worse in 6 of 12 comparisons and better in none, and where early exits
      are weak they spoil the last one's answer. In int8 the steps of
      the logits decide what lies above their mean, and the exporter refuses the file; take
      `quantize="float16"` or `"dynamic"`.
    - `"weighted"`: Zero Time Waste's ensemble. Its few weights are those that make the labels
      most likely, exit by exit; the network keeps its own, and the last exit its answer.
      Exact thresholds on these answers were better in 3 of 12 comparisons, by 0.4 to 0.8
      points, and worse in none.

    All on four networks at 30, 50 and 80 % of the MACs (benchmarks/results/stopping_ways.md).

    Args:
        model: An `AdaptiveModel` whose exits answer alone: they are combined once.
        combine: `"product"` or `"weighted"`.
        logits: Array `(exits, samples, classes)`, from `predict` on held-out data. Needed for
            `"weighted"`.
        labels: Labels `(samples,)`, as `fit` takes them. Needed for `"weighted"`.

    Returns:
        An `AdaptiveModel`, not compiled.

    Raises:
        TypeError: If the model is no `AdaptiveModel`.
        ValueError: If an argument is impossible, exits of the model are combined, or logits are
            missing or not needed.

    Example:

    >>> from keras_adaptive import build_msdnet
    >>> model = build_msdnet((8, 8, 1), 10, blocks=3, channels=4, growth_rate=2)
    >>> (combine_exits(model).exit_costs() - model.exit_costs()).tolist()
    [10.0, 30.0, 60.0]

    References:
        [Towards Anytime Classification in Early-Exit Architectures by Enforcing Conditional
        Monotonicity (Jazbec et al., 2023)](https://arxiv.org/abs/2306.02652);
        [Zero Time Waste (Wolczyk et al., 2021)](https://arxiv.org/abs/2106.05409).
    """
    check_choice(COMBINATIONS, combine=combine)
    _check_alone(model)
    needed = combine == "weighted"
    for name, value in (("logits", logits), ("labels", labels)):
        if (value is not None) != needed:
            raise ValueError(
                f'`{name}` must be given with combine="weighted" and only then. '
                f"Received: {name}={value if value is None else '...'}, combine={combine}"
            )
    exits = model.num_exits
    outputs, layers = [], []
    taken = {operation.name for operation in model.operations}
    for k in range(exits):
        if needed and k + 1 == exits:  # has nothing to gain
            outputs.append(model.outputs[k])
            continue
        name = _graph.free_name(f"combined_{k}", taken)
        layer = CombinedExit(combine, exits, dtype="float32", name=name)
        layers.append(layer)
        outputs.append(layer(keras.ops.stack(model.outputs[: k + 1], axis=1)))
    new = keeping(AdaptiveModel(model.input, outputs, name=model.name), [model])
    if needed:
        for layer, weights in zip(layers, _fitted(model, logits, labels), strict=True):
            layer.set_weights(weights)
    return new


def _check_alone(model):
    """Checks that a network's exits answer alone."""
    if not isinstance(model, AdaptiveModel):
        raise TypeError(f"`model` must be an AdaptiveModel. Received: model={model!r}")
    makers = [_graph.node_of(tensor).operation for tensor in model.outputs]
    combined = [layer.name for layer in makers if isinstance(layer, CombinedExit)]
    if combined:
        raise ValueError(
            "`model` must have exits that answer alone, which are combined once. "
            f"Received: a network with the exits {combined}, which are combined"
        )


def _fitted(model, logits, labels):
    """Returns scales and bias of every exit but the last."""
    logits = check_logits_of(model, logits)
    labels = check_labels(labels, logits)
    logarithms = scipy.special.log_softmax(logits.astype("float64"), axis=-1)
    return [likeliest_weights(logarithms[: k + 1], labels) for k in range(len(logits) - 1)]


def likeliest_weights(logarithms, labels):
    """Returns the weights of `CombinedExit("weighted")` that make labels most likely.

    Args:
        logarithms: Array `(exits, samples, classes)`, of probabilities.
        labels: Integer array `(samples,)`.

    Returns:
        Tuple of scales `(exits,)` and bias `(classes,)`.
    """
    exits, samples, classes = logarithms.shape
    wanted = np.eye(classes)[labels]

    def loss(weights):
        shares = np.exp(weights[:exits]) / exits
        scores = np.tensordot(shares, logarithms, 1) + weights[exits:]
        found = scipy.special.log_softmax(scores, axis=1)
        change = (np.exp(found) - wanted) / samples
        by_scale = shares * np.einsum("knc,nc->k", logarithms, change)
        return -(found * wanted).sum() / samples, np.append(by_scale, change.sum(axis=0))

    start = np.zeros(exits + classes)
    found = scipy.optimize.minimize(loss, start, jac=True, method="L-BFGS-B").x
    return found[:exits], found[exits:]
