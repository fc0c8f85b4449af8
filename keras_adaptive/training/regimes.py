"""Training regimes: which parts of a network learn in which phase."""

import contextlib
import dataclasses
import random
import warnings
from typing import NamedTuple

import keras
import numpy as np

from keras_adaptive import _graph
from keras_adaptive._checks import check_choice, did_you_mean, finite, integer
from keras_adaptive.layers.channel_gate import ChannelGate
from keras_adaptive.layers.gated_block import GatedBlock
from keras_adaptive.layers.gradient_scale import GradientScale
from keras_adaptive.layers.skip_gate import SkipGate
from keras_adaptive.training import resuming
from keras_adaptive.training._identity import described, network, without_names
from keras_adaptive.training._training_data import (
    Arrays,
    checked_class_weight,
    for_fit,
    for_training,
    for_validation,
    go_on,
    has_epochs,
    is_open,
    steps,
)
from keras_adaptive.training.adaptive_model import AdaptiveModel, check_model
from keras_adaptive.training.add_collaboration import add_collaboration, early_exit_heads
from keras_adaptive.training.add_gradient_equilibrium import add_gradient_equilibrium
from keras_adaptive.training.distillation import Distillation
from keras_adaptive.training.gate_loss import GateLoss
from keras_adaptive.training.recipes import RECIPES, Recipe
from keras_adaptive.training.reinforce import Reinforce, gate_nodes, with_drawn_gates
from keras_adaptive.training.stopping_loss import StoppingLoss
from keras_adaptive.training.stopping_model import check_attached, check_rate, stopping_optimizer

REGIMES = ("joint", "disjoint", "mixed", "imta", "gated", "stopping")
PHASES = {"joint": 1, "stopping": 3}  # others have two, "gated" one more for early exits
WARM_UP = 0.1  # of the epochs: the second phase where there are more than two
# what `compile` was given that stays in every phase
COMMON = ("loss", "metrics", "weighted_metrics", "run_eagerly", "jit_compile")
COMMON += ("steps_per_execution", "auto_scale_loss")
LOSS = "sparse_categorical_crossentropy"
NEW_HEADS = {  # the second phase of "imta", unless something else is said
    "collaboration": "dense",
    "collaboration_stop_gradient": True,
    "teacher": "first",
    "heads": "new",
}


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
    recipe=None,
    first_share=None,
    exit_weights=None,
    distillation=None,
    gate_loss=None,
    reinforce=None,
    stopping_loss=None,
    collaboration="dense",
    collaboration_stop_gradient=True,
    teacher="first",
    heads="new",
    class_weight=None,
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
      network was built so), without distillation; then, that being frozen, new heads that each
      read the one before, with the first network's last exit as teacher.

    - `"gated"`, for a network with gates: the network by its last exit, all gates held open;
      the gates alone, to let everything through; network and gates together by the last
      exit, with `gate_loss`; and, if there are earlier exits, everything with all of them.
      With `reinforce` a phase follows in which the gates' decisions are drawn and rewarded.

    - `"stopping"`, for a network with stopping policies: the network by all exits; the
      policies alone, by `stopping_loss`; and both together by it. A policy has the
      learning rate and the schedule of `stopping_optimizer`.

    Loss, metrics and all else that the model was compiled with count in every phase, and so
    does its optimizer, if `compile` was given one and no `recipe` is given here: a phase learns
    with a copy of it, or with itself where there is one phase only. With a recipe, or where
    nobody chose an optimizer, every phase has one of its own and goes through the recipe's
    whole schedule. What is frozen keeps its weights and its batch statistics to the bit. After
    training, or an interruption, the model is compiled, trainable and gated as it was.

    Order, augmentation, dropout, drawn gates and labels follow from `seed` and the number of
    the epoch, so that a training that was killed and resumed ends with the weights of an
    unbroken one. That holds for arrays and `data.Splits`; a `tf.data.Dataset` or a `PyDataset`
    of your own is taken as it is: of what it draws itself, `shuffle(seed=...)` and Python's
    and NumPy's generators go on where they were, TensorFlow's `tf.random` and `tf.image` do
    not. Callbacks such as `EarlyStopping` begin to count anew.

    Args:
        model: An `AdaptiveModel`. For `"imta"` its heads must be `EarlyExit`s.
        train: Tuple `(x, y)` or `(x, y, sample_weight)` of arrays, shuffled anew in every
            epoch; or a `tf.data.Dataset` or `keras.utils.PyDataset` of batches; or a
            `data.Splits`, whose train split is batched, shuffled and augmented as the recipe
            says.
        validation: The same, of a `data.Splits` the calibrate split; or a generator of
            batches, which is read once; or `None`.
        regime: One of the names above.
        epochs: Integer, of all phases together. `None`: the recipe's, or as many as its
            `iterations` need.
        recipe: A `Recipe` or its name, one of `RECIPES`. `None`: the optimizer that the model
            was compiled with, and `"cifar"` for all else.
        first_share: Number between 0 and 1, the share of the epochs for the first phase.
            `None`: a half; for `"imta"` what the recipe's `imta_epochs` say. Of the rest
            `"gated"` and `"stopping"` take a tenth of all epochs for the second phase and equal
            shares for the others.
        exit_weights: As in `AdaptiveModel.compile`, where all exits learn together. `None`:
            those that the model was compiled with.
        distillation: As in `AdaptiveModel.compile`, likewise. `"imta"` uses its temperature
            and weight in the second phase, with its own teacher.
        gate_loss: A `GateLoss`, or `None`: the one that the model was compiled with, or one of
            the recipe's weight. For `"gated"` only.
        reinforce: A `Reinforce`, or `None`: gates learn by their gradient alone. For
            `"gated"` only.
        stopping_loss: A `StoppingLoss`, or `None`: the one the model was compiled with. For
            `"stopping"` only.
        collaboration, collaboration_stop_gradient: What the new heads of `"imta"` read of the
            one before, as in `build_msdnet`.
        teacher: Of `"imta"`: `"first"`, the last exit of the first phase's network; or
            `"last"`, the last of the new heads as it learns (the paper's equation 8).
        heads: Of `"imta"`: `"new"`, drawn anew; or `"copied"`: those of the first phase, with
            zeros for what they now read of the one before, so that the second phase begins
            with the answers of the first. With `collaboration="dense"` only.
        class_weight: Dictionary from classes, integers, to numbers, by which the weights of their
            samples are multiplied, in every phase and not in validation; other classes have the
            weight 1. Of a `tf.data.Dataset` without sample weights only.
        callbacks: List of Keras callbacks, used in every phase.
        backup_dir: Folder, new or empty, that from then on belongs to this run: to this
            network, data, regime and seed and all other arguments, but not to callbacks,
            `verbose` and automatic names of layers. An interrupted training resumes from its
            last kept epoch when it is called again in the same way: the first one, those
            that end 30 seconds after the one before, and at Ctrl-C and SIGTERM the last
            complete one. Another run is refused. Of data sets that are not arrays, types and
            sizes are compared. Of several processes of JAX the first writes, and all go on from
            it. `None`: no backup.
        seed: Integer. `None`: drawn by Python's `random`, and kept in the backup.
        verbose: As in `keras.Model.fit`.

    Returns:
        The trained `AdaptiveModel`: `model` itself, except for `"imta"`, which returns a
        new one.

    Raises:
        TypeError, ValueError: If an argument is impossible, or the backup is of another run;
            before anything is trained.

    References:
        Mixed: [How to Train Your Multi-Exit Model? (Kubaty et al., 2025)](
        https://arxiv.org/abs/2407.14320);
        imta: [Improved Techniques for Training Adaptive Deep Networks
        (Li et al., 2019)](https://arxiv.org/abs/1908.06294).
    """
    run = _Run.checked(
        model,
        regime,
        epochs=epochs,
        recipe=recipe,
        first_share=first_share,
        exit_weights=exit_weights,
        distillation=distillation,
        gate_loss=gate_loss,
        reinforce=reinforce,
        stopping_loss=stopping_loss,
        collaboration=collaboration,
        collaboration_stop_gradient=collaboration_stop_gradient,
        teacher=teacher,
        heads=heads,
        class_weight=class_weight,
        callbacks=callbacks,
        seed=seed,
        verbose=verbose,
    )
    run.read(train, validation)
    with contextlib.ExitStack() as stack:
        if backup_dir is not None:
            data = {"train": described(train), "validation": described(validation)}
            facts = {"seed": run.seed, "bfloat16": run.in_bfloat16}
            run.backup = resuming.Backup(backup_dir, {**run.settings(), **data}, facts)
            stack.enter_context(resuming.alone(backup_dir, "backup_dir"))
            run.seed, run.in_bfloat16 = (run.backup.facts[name] for name in facts)
        run.begin()
        generators = random.getstate(), np.random.get_state()  # noqa: NPY002
        try:
            for number, phase in enumerate(_phases(model, regime, run.together, run.own, run.seed)):
                run.phase(number, phase)
            return run.result(phase)
        except BaseException:
            run.give_back()
            raise
        finally:
            random.setstate(generators[0])
            np.random.set_state(generators[1])  # noqa: NPY002


@dataclasses.dataclass
class _Run:
    """A training with everything checked.

    Attributes:
        lengths: List, the epochs of every phase. `None` until the number of steps is known, where
            the recipe counts steps.
        optimizer: The optimizer of the user's `compile`, or `None`: that of the recipe counts.
        before: Dictionary, how the model was compiled; empty if it was not.
        was_given: Boolean, whether its optimizer was the user's then.
        in_bfloat16: Boolean, whether layers compute so; as it was, where a training resumes.
        class_weight: Dictionary from all that have one to weights, or `None`.
        common: Dictionary, what every phase is compiled with, but the recipe's label smoothing.
        together: Dictionary, with what all exits learn together.
        own: Dictionary, the losses of single regimes.
        arguments: Dictionary, what makes two runs the same, but the network and the data.
        passes: Integer, over the data, in this process.
        due: Integer, the passes that an unbroken run would have made.
    """

    model: AdaptiveModel
    regime: str
    lengths: list | None
    number_of_phases: int
    first_share: float
    recipe: Recipe
    optimizer: keras.optimizers.Optimizer | None
    before: dict
    class_weight: dict | None
    common: dict
    together: dict
    own: dict
    callbacks: list
    seed: int
    verbose: object
    arguments: dict
    was_given: bool
    in_bfloat16: bool
    backup: resuming.Backup | None = None
    train: object = None
    validation: object = None
    passes: int = 0
    due: int = 0

    @classmethod
    def checked(
        cls,
        model,
        regime,
        *,
        epochs,
        recipe,
        first_share,
        class_weight,
        callbacks,
        seed,
        verbose,
        **how,
    ):
        """Returns the run of these arguments of `fit`.

        Raises:
            TypeError, ValueError: If an argument is impossible.
        """
        check_model(model)
        check_choice(REGIMES, regime=regime)
        optimizer = model.optimizer if recipe is None and model.optimizer_is_given else None
        recipe = _recipe(recipe)
        published = recipe.imta_epochs if regime == "imta" else None
        whole = sum(published or [recipe.epochs])
        if epochs is not None:
            epochs = integer("epochs", epochs, 1)
        elif recipe.iterations is None or published:
            epochs = whole
        new_heads = {name: how.pop(name) for name in NEW_HEADS}
        _check_new_heads(regime, **new_heads)
        _check_losses(model, regime, **how)
        if first_share is None:
            first_share = published[0] / whole if published else 0.5
        phases = _number_of_phases(model, regime, how["reinforce"])
        if epochs is not None and epochs < phases:
            raise ValueError(
                f"`epochs` must be at least {phases}, one per phase. Received: epochs={epochs}"
            )
        if epochs is None and np.ndim(recipe.iterations) and len(recipe.iterations) < phases:
            raise ValueError(
                f"`iterations` of the recipe must be one number, or one for each of {phases} "
                f"phases. Received: iterations={recipe.iterations}"
            )
        if not 0 < finite(first_share, "first_share") < 1:
            raise ValueError(
                f"`first_share` must be between 0 and 1. Received: first_share={first_share}"
            )
        if optimizer is not None:
            check_rate(optimizer, "the model's optimizer")
        class_weight = checked_class_weight(class_weight, model)
        callbacks = [callbacks] if isinstance(callbacks, keras.callbacks.Callback) else callbacks
        before = model.compiled_with()
        common = {name: before[name] for name in COMMON if name in before}
        recipe.loss(common.get("loss", LOSS))  # which says where labels cannot be smoothed
        together = {name: how[name] for name in ("exit_weights", "distillation")}
        for name, value in together.items():
            together[name] = before.get(name) if value is None else value
        if regime != "gated" and before.get("gate_loss") is not None:
            together["gate_loss"] = before["gate_loss"]
        own = {name: how[name] for name in ("gate_loss", "reinforce", "stopping_loss")}
        own["gate_loss"] = own["gate_loss"] or before.get("gate_loss")
        own["new_heads"] = new_heads
        if regime == "stopping":
            own["stopping_loss"] = own["stopping_loss"] or model.stopping_loss or StoppingLoss()
        arguments = {"optimizer": optimizer, "recipe": recipe, "first_share": first_share}
        arguments |= {"loss": LOSS, "metrics": ["accuracy"], "weighted_metrics": None}
        arguments |= {k: v for k, v in common.items() if k in arguments}  # not how it is executed
        losses = {name: value for name, value in own.items() if name != "new_heads"}
        changed = {name: v for name, v in new_heads.items() if v != NEW_HEADS[name]}
        arguments |= {**together, **losses, **changed}
        arguments |= {"regime": regime, "epochs": epochs, "seed": seed}
        if class_weight is not None:
            arguments["class_weight"] = [[*pair] for pair in sorted(class_weight.items())]
        own["gate_loss"] = own["gate_loss"] or GateLoss(recipe.gate_weight)
        return cls(
            model=model,
            regime=regime,
            lengths=None if epochs is None else _lengths(epochs, phases, first_share),
            number_of_phases=phases,
            first_share=first_share,
            recipe=recipe,
            optimizer=optimizer,
            before=before,
            class_weight=class_weight,
            common=common,
            together=together,
            own=own,
            callbacks=list(callbacks or ()),
            seed=random.getrandbits(31) if seed is None else integer("seed", seed, 0),
            verbose=verbose,
            arguments=arguments,
            was_given=model.optimizer_is_given,
            in_bfloat16=recipe.in_bfloat16,
        )

    def settings(self):
        """Returns what makes two runs the same, but the data, as JSON holds it."""
        arguments = without_names(described(self.arguments), self.model)
        return {"network": network(self.model), **arguments}

    def read(self, train, validation):
        """Checks the data, and the steps that a schedule needs."""
        loss = self.common.get("loss", LOSS)
        how = self.model, loss, self.recipe
        self.train = for_training(train, *how, self.seed, self.class_weight)
        self.validation = for_validation(validation, *how)
        self.steps = steps(self.train)
        if self.lengths is None and self.steps is not None:
            iterations = self.recipe.iterations
            if np.ndim(iterations):
                iterations = iterations[: self.number_of_phases]
                self.lengths = [-(-n // self.steps) for n in iterations]
            else:
                epochs = max(-(-iterations // self.steps), self.number_of_phases)
                self.lengths = _lengths(epochs, self.number_of_phases, self.first_share)
        if self.steps is None and (self.optimizer is None or self.lengths is None):
            raise ValueError(
                "`train` must be of known size, for the schedule. Use "
                "`tf.data.experimental.assert_cardinality`, or compile the model with your own "
                "optimizer. Received: a dataset of unknown size"
            )

    def begin(self):
        """Lets arrays be drawn with the seed of the run, which a backup may have set."""
        if isinstance(self.train, Arrays):
            self.train.seed = self.seed

    def phase(self, number, phase):
        """Fits one phase, or loads it if it is done; leaves everything as trainable as it was."""
        model, epochs, done = phase.model, self.lengths[number], 0
        how = {**self.common, **phase.compile}
        if self.recipe.label_smoothing:
            how["loss"] = self.recipe.loss(self.common.get("loss", LOSS))
        with _set_for(phase, self.in_bfloat16):
            optimizer = self._optimizer_of(phase, epochs)
            self._compile(model, optimizer, how)
            keep = None
            if self.backup is not None:
                model.optimizer.build(model.trainable_variables)
                done, ended = self.backup.restore(number, model)
                if ended:
                    self.due += done
                    return
                keep = resuming.Keep(self.backup, number, done)
            go_on(self.train, self.due + done - self.passes)
            draws = _Draws(self.train, self.seed, sum(self.lengths[:number]))
            self._fit(model, epochs, done, draws, keep)
            self.due = self.passes = self.due + done + draws.epochs
            if keep is not None:
                last = number == len(self.lengths) - 1
                state = resuming.state_of(model, optimizer=last)
                self.backup.write(number, keep.epoch, state, done=True)

    def _fit(self, model, epochs, done, draws, keep):
        arguments = {}
        if isinstance(self.validation, tuple):
            arguments["validation_batch_size"] = self.recipe.batch_size
        model._initial_epoch = None  # a callback that restores backups may have set it
        try:
            with contextlib.ExitStack() as stack:
                if keep is not None:
                    stack.enter_context(resuming.ended_by_sigterm())
                if is_open(self.train) or is_open(self.validation):
                    stack.enter_context(warnings.catch_warnings())
                    warnings.filterwarnings("ignore", "Your input ran out of data")
                model.fit(
                    x=self.train,
                    validation_data=self.validation,
                    epochs=epochs,
                    initial_epoch=done,
                    callbacks=[draws, *self.callbacks, *filter(None, [keep])],
                    class_weight=for_fit(self.class_weight, self.train, model),
                    shuffle=False,
                    verbose=self.verbose,
                    **arguments,
                )
        except BaseException:
            if keep is not None:
                keep.write()
            raise

    def _compile(self, model, optimizer, how):
        model.compile(optimizer, **how)
        model.optimizer_is_given = self.optimizer is not None

    def _optimizer_of(self, phase, epochs):
        """Returns a phase's optimizer; stopping policies that learn have a rate of their own."""
        if self.optimizer is None:
            rate = phase.rate * self.recipe.learning_rate
            scaled = dataclasses.replace(self.recipe, learning_rate=rate)
            optimizer = scaled.optimizer(self.steps * epochs)
        elif len(self.lengths) == 1:
            optimizer = self.optimizer
        else:
            optimizer = _copy_of(self.optimizer, phase.rate)
        has_policies = isinstance(optimizer, keras.optimizers.MultiOptimizer)
        if phase.compile.get("stopping_loss") is None or has_policies:
            return optimizer
        return stopping_optimizer(phase.model, optimizer, self.steps)

    def result(self, phase):
        """Returns the trained model, compiled as it was, or for all epochs of the recipe."""
        model = phase.model if self.regime == "imta" else self.model
        if self.optimizer is not None:
            self.give_back()
            if model is not self.model:
                how = {k: v for k, v in self.before.items() if k not in ("optimizer", "gate_loss")}
                self._compile(model, _copy_of(self.optimizer), how)
        elif len(self.lengths) == 1:
            if self.recipe.label_smoothing:
                self._compile(model, model.optimizer, {**self.common, **self.together})
        else:  # what may learn has changed, which Keras wants to be told
            how = self.together
            if self.regime == "stopping":
                how = {"stopping_loss": self.own["stopping_loss"]}
            whole = Phase("whole", model, [], how)
            optimizer = self._optimizer_of(whole, sum(self.lengths))
            self._compile(model, optimizer, {**self.common, **how})
            if model is not self.model:
                self.give_back()
        return model

    def give_back(self):
        """Compiles the model as it was when it was given, or by default if it was not."""
        now = self.model.compiled_with()
        if len(self.before) < len(now) or any(now[k] is not v for k, v in self.before.items()):
            self.model.compile(**self.before)
            self.model.optimizer_is_given = self.was_given


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


def _number_of_phases(model, regime, reinforce):
    if regime == "gated":
        return 3 + (model.num_exits > 1) + (reinforce is not None)
    return PHASES.get(regime, 2)


def _recipe(recipe):
    """Returns a recipe by its name."""
    recipe = "cifar" if recipe is None else recipe
    if isinstance(recipe, Recipe):
        return recipe
    if not isinstance(recipe, str) or recipe not in RECIPES:
        raise ValueError(
            f"`recipe` must be one of {tuple(RECIPES)} or a Recipe. Received: recipe={recipe}"
            + did_you_mean(recipe, RECIPES)
        )
    return RECIPES[recipe]


def _check_new_heads(regime, **how):
    """Raises a ValueError if what IMTA's second phase is given is impossible."""
    changed = {name: value for name, value in how.items() if value != NEW_HEADS[name]}
    if changed and regime != "imta":
        name, value = next(iter(changed.items()))
        raise ValueError(
            f'`{name}` is of the regime "imta". Received: {name}={value}, regime={regime}'
        )
    check_choice(("dense", "identity"), collaboration=how["collaboration"])
    check_choice((True, False), collaboration_stop_gradient=how["collaboration_stop_gradient"])
    check_choice(("first", "last"), teacher=how["teacher"])
    check_choice(("new", "copied"), heads=how["heads"])
    if how["heads"] == "copied" and how["collaboration"] != "dense":
        raise ValueError(
            '`collaboration` must be "dense" with heads="copied": what "identity" adds changes '
            f"the answers. Received: collaboration={how['collaboration']}"
        )


def _check_losses(
    model, regime, *, exit_weights, distillation, gate_loss, reinforce, stopping_loss
):
    """Raises what a later phase would raise of its losses and of the network."""
    if gate_loss is not None and regime != "gated":
        raise ValueError(
            f'`gate_loss` is of the regime "gated". Received: regime={regime}; give it to '
            "`compile` to train gates otherwise"
        )
    model.check_losses(exit_weights, distillation, gate_loss)
    if regime == "stopping":
        check_attached(model)
        model.check_stopping_loss(stopping_loss)
    elif stopping_loss is not None:
        raise ValueError(f'`stopping_loss` is of the regime "stopping". Received: regime={regime}')
    if reinforce is not None and (regime != "gated" or not isinstance(reinforce, Reinforce)):
        raise ValueError(
            '`reinforce` must be a Reinforce, and is of the regime "gated". '
            f"Received: reinforce={reinforce}, regime={regime}"
        )
    if regime == "gated":
        gate_layers(model)
    if reinforce is not None:
        gate_nodes(model, reinforce)
    if regime == "imta":
        early_exit_heads(model)


def _copy_of(optimizer, rate=1.0):
    """Returns an optimizer of the same settings without a memory, its rate times a number."""
    config = optimizer.get_config()
    if rate != 1:
        given = config.get("learning_rate")
        if not isinstance(given, (int, float)):
            raise ValueError(
                "`reinforce` scales the learning rate, which must be a number in the model's "
                "optimizer. Give a `recipe`, whose schedule is scaled. Received: "
                f"learning_rate={given}"
            )
        config["learning_rate"] = rate * given
    return type(optimizer).from_config(config)


def _phases(model, regime, together, own, seed):
    """Yields the phases; a later one is made when the one before it has ended."""

    def set_seed(phase):
        _seed_generators(seed + phase)

    everything = model.layers
    set_seed(0)
    if regime == "joint":
        yield Phase("joint", model, everything, together)
        return
    if regime == "imta":
        balanced = any(isinstance(layer, GradientScale) for layer in everything)
        first = model if balanced else add_gradient_equilibrium(model)
        labels_only = {k: v for k, v in together.items() if k != "distillation"}
        yield Phase("balanced", first, everything, labels_only)
        set_seed(1)
        yield _new_heads(model, together["distillation"] or Distillation(), **own["new_heads"])
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
        with_cost = {"gate_loss": own["gate_loss"]}
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


def _new_heads(model, distillation, *, collaboration, collaboration_stop_gradient, teacher, heads):
    """IMTA's second phase: heads that read the one before, on a frozen network."""
    new = add_collaboration(model, collaboration, collaboration_stop_gradient)
    teacher = model if teacher == "first" else "last"
    taught = Distillation(teacher, distillation.temperature, distillation.weight)
    now = early_exit_heads(new)
    if heads == "copied":
        for old, head in zip(early_exit_heads(model), now, strict=True):
            kernel, bias = old.logits.get_weights()
            more = head.logits.kernel.shape[0] - len(kernel)  # of what it reads of the one before
            head.logits.set_weights([np.pad(kernel, ((0, more), (0, 0))), bias])
    layers = [layer for head in now for layer in (head.logits, *getattr(head, "embedding", []))]
    return Phase("new heads", new, layers, {"distillation": taught})


with_collaboration = add_collaboration  # its name before 0.2; until 0.3


def _seed_generators(seed):
    """Seeds what Keras's initializers, and data and callbacks of the user's, may draw from.

    TensorFlow's own seed stays as it is: data sets that are made later follow from it.
    """
    random.seed(seed)
    np.random.seed(seed % 2**32)  # noqa: NPY002


class _Draws(keras.callbacks.Callback):
    """Lets all that is drawn in an epoch follow from the seed and the number of the epoch.

    Args:
        train: The data.
        seed: Integer.
        first: Integer, the number of the phase's first epoch.
    """

    def __init__(self, train, seed, first):
        super().__init__()
        self.train, self.seed, self.first, self.epochs = train, seed, first, 0

    def on_epoch_begin(self, epoch, logs=None):
        number = self.first + epoch
        if has_epochs(self.train):
            self.train.epoch = number
        rng = np.random.default_rng([self.seed, number])
        states = [v for v in self.model.variables if v.name == "seed_generator_state"]
        for state, value in zip(states, rng.integers(2**31, size=len(states)), strict=True):
            state.assign([value, 0])
        _seed_generators(int(rng.integers(2**31)))

    def on_epoch_end(self, epoch, logs=None):
        self.epochs += 1


@contextlib.contextmanager
def _set_for(phase, in_bfloat16):
    """Freezes what does not learn, sets gates and precision; undoes it, also if interrupted."""
    model, learning = phase.model, {id(x) for layer in phase.layers for x in _leaves(layer)}
    changes = [(x, "trainable", False) for x in _leaves(model) if id(x) not in learning]
    if phase.open_gates:
        gates = [x for x in model._flatten_layers() if isinstance(x, (SkipGate, ChannelGate))]
        changes += [(gate, "forced", True) for gate in gates]
    if in_bfloat16:
        changes += [(x, "dtype_policy", "mixed_bfloat16") for x in _all_but_logits(model)]
    before = [(layer, name, getattr(layer, name)) for layer, name, _ in changes]
    # a layer that is set trainable again sets all its weights so
    before += [(weight, "trainable", weight.trainable) for weight in model.weights]
    try:
        for layer, name, value in changes:
            setattr(layer, name, value)
        yield
    finally:
        for thing, name, value in before:
            setattr(thing, name, value)


def _all_but_logits(model):
    """Returns the layers of a network but its heads and what in them gives logits.

    Layers made of layers are among them, since they join what the layers inside give; networks
    inside are not, since they only pass on.
    """
    heads = [logits._keras_history.operation for logits in model.outputs]
    exact = {id(x) for head in heads for x in (head, getattr(head, "logits", head))}
    layers = [x for x in model._flatten_layers(include_self=False) if id(x) not in exact]
    return [x for x in layers if not _graph.is_model(x)]


def _leaves(layer):
    """Returns the layers inside that hold no others, or the layer itself."""
    return [x for x in layer._flatten_layers() if len(list(x._flatten_layers())) == 1]
