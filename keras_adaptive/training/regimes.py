"""Training regimes: which parts of a network learn in which phase."""

import contextlib
import dataclasses
from pathlib import Path
from typing import NamedTuple

import keras

from keras_adaptive import _graph
from keras_adaptive._checks import check_choice, integer
from keras_adaptive.layers.channel_gate import ChannelGate
from keras_adaptive.layers.gated_block import GatedBlock
from keras_adaptive.layers.gradient_scale import GradientScale
from keras_adaptive.layers.skip_gate import SkipGate
from keras_adaptive.training import resuming
from keras_adaptive.training.adaptive_model import AdaptiveModel
from keras_adaptive.training.add_collaboration import add_collaboration
from keras_adaptive.training.add_gradient_equilibrium import add_gradient_equilibrium
from keras_adaptive.training.distillation import Distillation
from keras_adaptive.training.gate_loss import GateLoss
from keras_adaptive.training.recipes import RECIPES
from keras_adaptive.training.reinforce import Reinforce, with_drawn_gates
from keras_adaptive.training.stopping_loss import StoppingLoss
from keras_adaptive.training.stopping_model import check_attached, stopping_optimizer

REGIMES = ("joint", "disjoint", "mixed", "imta", "gated", "stopping")
PHASES = {"joint": 1, "stopping": 3}  # others have two, "gated" one more for early exits
WARM_UP = 0.1  # of the epochs: the second phase where there are more than two


class Phase(NamedTuple):
    """A part of a training with everything set for it.

    Attributes:
        name: String.
        model: The `AdaptiveModel` that is fitted; it may share layers with the one given.
        layers: The layers that learn; all others are frozen, batch statistics included.
        compile: Arguments of `AdaptiveModel.compile`, beside the optimizer.
        open_gates: Boolean, whether all gates are held open.
        rate: Number, times the recipe's learning rate.
    """

    name: str
    model: AdaptiveModel
    layers: list
    compile: dict
    open_gates: bool = False
    rate: float = 1.0


def fit(
    model,
    train,
    validation=None,
    *,
    regime="joint",
    epochs=None,
    recipe="cifar",
    first_share=0.5,
    exit_weights=None,
    distillation=None,
    gate_loss=None,
    reinforce=None,
    stopping_loss=None,
    callbacks=(),
    backup_dir=None,
    seed=None,
    verbose="auto",
):
    """Trains a network by a regime, phase by phase.

    - `"joint"`: everything at once.
    - `"disjoint"`: the network by its last exit; then, that being frozen, the earlier exits.
    - `"mixed"`: the network by its last exit; then everything at once.
    - `"imta"`: everything with balanced gradients (by `add_gradient_equilibrium`, unless the
      network was built so); then, that being frozen, new heads that each read the one
      before (`collaboration="dense"`), with the first network's last exit as teacher.

    - `"gated"`, for a network with gates: the network by its last exit, all gates held open;
      the gates alone, to let everything through; network and gates together by the last
      exit, with `gate_loss`; and, if there are earlier exits, everything with all of them.
      With `reinforce` a phase follows in which the gates' decisions are drawn and rewarded.

    - `"stopping"`, for a network with stopping policies: the network by all exits; the
      policies alone, by `stopping_loss`; and both together by it. A policy has the
      learning rate and the schedule of `stopping_optimizer`.

    Every phase has an optimizer of its own and goes through the recipe's whole schedule.
    What is frozen keeps its weights and its batch statistics to the bit; after training
    everything is trainable again, as it was.

    Args:
        model: An `AdaptiveModel`. For `"imta"` its heads must be `EarlyExit`s.
        train: Tuple `(x, y)`; or a `tf.data.Dataset` of batches; or a `data.Splits`, whose
            train split is batched, shuffled and augmented as the recipe says.
        validation: The same, or `None`.
        regime: One of the names above.
        epochs: Integer, of all phases together. `None`: the recipe's.
        recipe: A `Recipe` or its name, `"cifar"` or `"imagenet"`.
        first_share: Number between 0 and 1, the share of the epochs for the first phase. Of
            the rest `"gated"` and `"stopping"` take a tenth of all epochs for the second
            phase and equal shares for the others.
        exit_weights: As in `AdaptiveModel.compile`, where all exits learn together.
        distillation: As in `AdaptiveModel.compile`, likewise. `"imta"` uses its temperature
            and weight in the second phase, with its own teacher.
        gate_loss: A `GateLoss`, or `None`: the default one. For `"gated"` only.
        reinforce: A `Reinforce`, or `None`: gates learn by their gradient alone. For
            `"gated"` only.
        stopping_loss: A `StoppingLoss`, or `None`: the one the model was compiled with. For
            `"stopping"` only.
        callbacks: List of Keras callbacks, used in every phase.
        backup_dir: Folder. An interrupted training resumes from its last complete epoch
            when it is called again in the same way. `None`: no backup.
        seed: Integer, set anew at the beginning of every phase, so that a resumed training
            starts its later phases as an unbroken one does. `None`: not set.
        verbose: As in `keras.Model.fit`.

    Returns:
        The trained `AdaptiveModel`: `model` itself, except for `"imta"`, which returns a
        new one.

    Raises:
        ValueError: If an argument is impossible.

    References:
        Mixed: [How to Train Your Multi-Exit Model? (Kubaty et al., 2025)](
        https://arxiv.org/abs/2407.14320);
        imta: [Improved Techniques for Training Adaptive Deep Networks
        (Li et al., 2019)](https://arxiv.org/abs/1908.06294).
    """
    if not isinstance(model, AdaptiveModel):
        raise TypeError(f"`model` must be an AdaptiveModel. Received: model={model!r}")
    check_choice(REGIMES, regime=regime)
    seed = None if seed is None else integer("seed", seed, 0)
    if isinstance(recipe, str):
        if recipe not in RECIPES:
            raise ValueError(
                f"`recipe` must be one of {tuple(RECIPES)} or a Recipe. Received: recipe={recipe}"
            )
        recipe = RECIPES[recipe]
    if hasattr(train, "batches"):
        train = train.batches(
            "train",
            recipe.batch_size,
            training=True,
            augmentation=recipe.augmentation,
            seed=seed or 0,
        )
    epochs = recipe.epochs if epochs is None else integer("epochs", epochs, 1)
    if regime == "gated":
        phases = 3 + (model.num_exits > 1) + (reinforce is not None)
    else:
        phases = PHASES.get(regime, 2)
    if (gate_loss is not None) and regime != "gated":
        raise ValueError(
            f'`gate_loss` is of the regime "gated". Received: regime={regime}; give it to '
            "`compile` and use `model.fit` to train gates otherwise"
        )
    if regime == "stopping":
        check_attached(model)
        stopping_loss = stopping_loss or model.stopping_loss or StoppingLoss()
    elif stopping_loss is not None:
        raise ValueError(f'`stopping_loss` is of the regime "stopping". Received: regime={regime}')
    if reinforce is not None and (regime != "gated" or not isinstance(reinforce, Reinforce)):
        raise ValueError(
            '`reinforce` must be a Reinforce, and is of the regime "gated". '
            f"Received: reinforce={reinforce}, regime={regime}"
        )
    if epochs < phases:
        raise ValueError(
            f"`epochs` must be at least {phases}, one per phase. Received: epochs={epochs}"
        )
    if not 0 < first_share < 1:
        raise ValueError(
            f"`first_share` must be between 0 and 1. Received: first_share={first_share}"
        )
    together = {"exit_weights": exit_weights, "distillation": distillation}
    lengths = _lengths(epochs, phases, first_share)
    own = {"gate_loss": gate_loss, "reinforce": reinforce, "stopping_loss": stopping_loss}
    for number, phase in enumerate(_phases(model, regime, together, own, seed)):
        backup = None if backup_dir is None else Path(backup_dir) / f"phase_{number}"
        _run(phase, lengths[number], recipe, train, validation, callbacks, backup, verbose)
    result = phase.model if regime == "imta" else model
    if phases > 1:  # what may learn has changed, which Keras wants to be told
        how = {"stopping_loss": stopping_loss} if regime == "stopping" else together
        result.compile(_optimizer(result, recipe, train, epochs, how), **how)
    return result


def _lengths(epochs, phases, first_share):
    """Returns the epochs of every phase, at least one each."""
    if phases == 1:
        return [epochs]
    first = min(max(round(first_share * epochs), 1), epochs - phases + 1)
    lengths = [first]
    if phases > 2:
        lengths.append(min(max(round(WARM_UP * epochs), 1), epochs - first - phases + 2))
    rest, others = epochs - sum(lengths), phases - len(lengths)
    return lengths + [rest // others + (i < rest % others) for i in range(others)]


def _optimizer(model, recipe, train, epochs, how):
    """Returns a phase's optimizer; stopping policies that learn have a rate of their own."""
    steps = _steps(train, recipe.batch_size)
    optimizer = recipe.optimizer(steps * epochs)
    if how.get("stopping_loss") is None:
        return optimizer
    return stopping_optimizer(model, optimizer, steps)


def _phases(model, regime, together, own, seed):
    """Yields the phases; a later one is made when the one before it has ended."""

    def set_seed(phase):
        if seed is not None:
            keras.utils.set_random_seed(seed + phase)

    everything = model.layers
    set_seed(0)
    if regime == "joint":
        yield Phase("joint", model, everything, together)
        return
    if regime == "imta":
        balanced = any(isinstance(layer, GradientScale) for layer in everything)
        first = model if balanced else add_gradient_equilibrium(model)
        yield Phase("balanced", first, everything, together)
        set_seed(1)
        yield _new_heads(model, together["distillation"] or Distillation())
        return
    by_last_exit = {"exit_weights": [0.0] * (model.num_exits - 1) + [1.0]}
    heads = _early_heads(model)
    if regime == "stopping":
        by_policy = {"stopping_loss": own["stopping_loss"]}
        yield Phase("members", model, everything, together)
        set_seed(1)
        yield Phase("policy", model, model.stopping, by_policy)
        set_seed(2)
        yield Phase("together", model, [*everything, *model.stopping], by_policy)
        return
    if regime == "gated":
        gates = gate_layers(model)
        others = {id(leaf) for x in gates + heads for leaf in _leaves(x)}
        network = [leaf for leaf in _leaves(model) if id(leaf) not in others]
        warm_up = {**by_last_exit, "gate_loss": GateLoss(weight=1.0, target=1.0)}
        with_cost = {"gate_loss": own["gate_loss"] or GateLoss()}
        yield Phase("base", model, network, by_last_exit, open_gates=True)
        set_seed(1)
        yield Phase("warm-up", model, gates, warm_up)
        set_seed(2)
        yield Phase("gates", model, network + gates, {**by_last_exit, **with_cost})
        if model.num_exits > 1:
            set_seed(3)
            yield Phase("exits", model, everything, {**together, **with_cost})
        reinforce = own["reinforce"]
        if reinforce is not None:
            set_seed(4)
            drawing = with_drawn_gates(model, reinforce)
            norm = keras.layers.BatchNormalization
            learning = [leaf for leaf in _leaves(drawing) if not isinstance(leaf, norm)]
            how = {"exit_weights": together["exit_weights"]}
            yield Phase("reinforce", drawing, learning, how, rate=reinforce.rate)
        return
    backbone = [layer for layer in everything if layer not in heads]
    yield Phase("backbone", model, backbone, by_last_exit)
    set_seed(1)
    if regime == "mixed":
        yield Phase("joint", model, everything, together)
    else:
        yield Phase("exits", model, heads, together)


def gate_layers(model):
    """Returns the layers that only gates need, and the channel gates inside the blocks."""
    nodes = _graph.nodes_between(model.inputs, model.outputs)
    gated = [node for node in nodes if isinstance(node.operation, GatedBlock)]
    if not gated:
        raise ValueError('`model` must have gates for the regime "gated". Received: no gates')
    without, todo = set(), list(model.outputs)
    while todo:  # back from the exits, but not through the gates
        node = _graph.node_of(todo.pop())
        if id(node) not in without:
            without.add(id(node))
            is_gated = isinstance(node.operation, GatedBlock)
            todo += node.input_tensors[:2] if is_gated else node.input_tensors
    of_gates = [node.operation for node in nodes if id(node) not in without]
    inside = [node.operation.channel_gate for node in gated]
    return [leaf for x in of_gates + inside if x is not None for leaf in _leaves(x)]


def _early_heads(model):
    """Returns the layers that only earlier exits need."""
    last = _graph.nodes_between(model.inputs, model.outputs[-1:])
    needed = {id(node.operation) for node in last}
    inputs = keras.layers.InputLayer
    return [x for x in model.layers if id(x) not in needed and not isinstance(x, inputs)]


def _new_heads(model, distillation):
    """IMTA's second phase: new heads that read the one before, on a frozen network."""
    new = add_collaboration(model)
    taught = Distillation(model, distillation.temperature, distillation.weight)
    heads = [logits._keras_history.operation for logits in new.outputs]
    layers = [layer for head in heads for layer in (head.logits, *getattr(head, "embedding", []))]
    return Phase("new heads", new, layers, {"distillation": taught})


with_collaboration = add_collaboration  # its name before 0.2; until 0.3


def _run(phase, epochs, recipe, train, validation, callbacks, backup, verbose):
    """Fits one phase, or loads it if it is done; leaves everything as trainable as it was."""
    model = phase.model
    if backup is not None:
        if resuming.restore_if_done(model, backup):
            return
        callbacks = [resuming.backup(backup), *callbacks]
    # what BackupAndRestore set here in an earlier phase would skip epochs of this one
    model._initial_epoch = None
    scaled = dataclasses.replace(recipe, learning_rate=phase.rate * recipe.learning_rate)
    data = {"x": train}
    if isinstance(train, tuple):
        data = {"x": train[0], "y": train[1], "batch_size": recipe.batch_size}
    with _set_for(phase, recipe):
        optimizer = _optimizer(model, scaled, train, epochs, phase.compile)
        model.compile(optimizer, **phase.compile)
        model.fit(
            **data,
            shuffle=isinstance(train, tuple),
            validation_data=validation,
            epochs=epochs,
            callbacks=callbacks,
            verbose=verbose,
        )
    if backup is not None:
        resuming.mark_done(model, backup, phase=phase.name, epochs=epochs)


@contextlib.contextmanager
def _set_for(phase, recipe):
    """Freezes what does not learn, sets gates and precision; undoes it, also if interrupted."""
    model, learning = phase.model, {id(x) for layer in phase.layers for x in _leaves(layer)}
    changes = [(x, "trainable", False) for x in _leaves(model) if id(x) not in learning]
    if phase.open_gates:
        gates = [x for x in model._flatten_layers() if isinstance(x, (SkipGate, ChannelGate))]
        changes += [(gate, "forced", True) for gate in gates]
    if recipe.in_bfloat16:
        changes += [(x, "dtype_policy", "mixed_bfloat16") for x in _all_but_logits(model)]
    before = [(layer, name, getattr(layer, name)) for layer, name, _ in changes]
    try:
        for layer, name, value in changes:
            setattr(layer, name, value)
        yield
    finally:
        for layer, name, value in before:
            setattr(layer, name, value)


def _all_but_logits(model):
    """Returns the leaves of a network but those that give logits."""
    heads = [logits._keras_history.operation for logits in model.outputs]
    exact = {id(getattr(head, "logits", head)) for head in heads}
    return [x for x in _leaves(model) if id(x) not in exact]


def _leaves(layer):
    """Returns the layers inside that hold no others, or the layer itself."""
    return [x for x in layer._flatten_layers() if len(list(x._flatten_layers())) == 1]


def _steps(train, batch_size):
    """Returns the number of batches per epoch."""
    if isinstance(train, tuple):
        return -(-len(train[0]) // batch_size)
    steps = int(train.cardinality())
    if steps < 0:
        raise ValueError(
            "`train` must be of known size, for the schedule. Use "
            "`tf.data.experimental.assert_cardinality`. Received: a dataset of unknown size"
        )
    return steps
