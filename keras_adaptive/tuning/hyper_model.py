"""The KerasTuner hypermodel of adaptive networks and their training."""

import dataclasses
import inspect
import json
import warnings
from pathlib import Path

import numpy as np

from keras_adaptive._checks import did_you_mean, needs_extra
from keras_adaptive._files import read_json, write_whole
from keras_adaptive.calibration.calibrate import (
    calibrate,
    calibrate_budgets,
    check_how,
    check_names,
)
from keras_adaptive.costs.exit_costs import check_unit
from keras_adaptive.evaluation import evaluate
from keras_adaptive.policy.policy import UnreachableTargetError
from keras_adaptive.training._identity import check_same, described
from keras_adaptive.training.adaptive_model import AdaptiveModel
from keras_adaptive.training.distillation import Distillation
from keras_adaptive.training.gate_loss import GateLoss
from keras_adaptive.training.recipes import RECIPES, Recipe
from keras_adaptive.training.regimes import fit
from keras_adaptive.tuning._target import target_of
from keras_adaptive.tuning.front import SHARES

with needs_extra("tune"):
    import keras_tuner

SEARCH = "search.json"  # in the folder of a tuner
KEEPER = "SaveBestEpoch"  # KerasTuner's callback, which knows the folder of the trial
# hyperparameters of training; all others are arguments of the builder, or of the trainer
TRAINING = ("learning_rate", "weight_decay", "distillation", "exit_power", "gate_weight")
# the objective of a network that misses the accuracy: its whole cost times these
MISSED = 10.0
SHORT = 20.0  # as e ** (SHORT * missing accuracy)


class AdaptiveHyperModel(keras_tuner.HyperModel):
    """Searches the networks of a builder, and their training, with KerasTuner.

    A trial builds a network, trains it, chooses thresholds for it and measures its accuracy
    within the budget, or its cost at the requested accuracy. Thresholds are chosen on one half
    of the calibration data and measured on the other half, and vice versa; the two results are
    averaged. The test split is not used.

    It works with every tuner of KerasTuner, which resumes and distributes the search. `search`
    gets the data: `tuner.search(train, (x, y), epochs=2)` with `train` as in `training.fit`
    and held-out images and labels, or `tuner.search(splits, epochs=2)` with a `data.Splits`.
    Another search, of other data or arguments, is refused in the folder of an earlier one.

    Every trial stores, beside the objective, `parameters`, and accuracy and mean cost within
    a quarter, a half, three quarters and all of the network's own cost (`accuracy_25`,
    `cost_25`, ...); `pareto_front` reads them.

    Args:
        builder: Function that returns an `AdaptiveModel`, such as
            `functools.partial(ka.build_msdnet, (32, 32, 3), 10)`.
        space: Dictionary: name of a hyperparameter to a list of choices; or a tuple
            `(lowest, highest)`, integers or floats; or `(lowest, highest, "log")`; or a
            function of KerasTuner's `hp`. A hyperparameter is

            - an argument of the builder (`blocks`, `channels`, `growth_rate`, `exits`, the
              `cost_weight` of a cascade that learns to stop);
            - `learning_rate`, `weight_decay`: of the recipe;
            - `exit_power`: the loss of exit `k` is weighted by `(k + 1) ** exit_power`, scaled
              to mean 1;
            - `distillation`: the weight of a `Distillation`; 0: none;
            - `gate_weight`: the weight (alpha) of a `GateLoss`; use it with the regime
              `"gated"`;
            - any other argument of `trainer`, such as `regime` or `first_share`.
        budget: Number, the mean cost per sample that may be spent; the objective is
            `accuracy_at_budget`. It is 0 for a network whose first exit costs more.
        accuracy: Number from 0 to 1; the objective is `cost_at_accuracy`. For a network that
            misses the accuracy it is ten times the whole cost, and more the more it misses.
        recipe: A `Recipe` or its name; hyperparameters of the recipe replace its values.
        trainer: Function like `training.fit`: `(model, train, *, epochs, recipe,
            exit_weights, distillation, gate_loss, callbacks, verbose, ...)`.
        unit: Unit of cost, as in `AdaptiveModel.exit_costs`.
        **calibration: Passed to `calibrate`: `method=`, `confidence=`. The default `method` is
            `"geometric"`, which is quick and as good on new data.

    Raises:
        TypeError: If `builder` or `trainer` is no function, or `space` no dictionary.
        ValueError: If a hyperparameter is unknown, or not exactly one of `budget` and
            `accuracy` is given.
        ImportError: If KerasTuner is not installed.

    Example:

    >>> import functools
    >>> from keras_adaptive import build_msdnet
    >>> build = functools.partial(build_msdnet, (8, 8, 1), 10, channels=4, growth_rate=2)
    >>> space = {"blocks": (2, 3), "learning_rate": (0.01, 0.1, "log")}
    >>> hypermodel = AdaptiveHyperModel(build, space, budget=20_000)
    >>> hypermodel.objective.name
    'accuracy_at_budget'
    >>> hp = keras_tuner.HyperParameters()
    >>> hypermodel.build(hp).exits, sorted(hp.values)
    (2, ['blocks', 'learning_rate'])
    """

    def __init__(
        self,
        builder,
        space,
        *,
        budget=None,
        accuracy=None,
        recipe="cifar",
        trainer=fit,
        unit="macs",
        **calibration,
    ):
        super().__init__()
        self.target = target_of(budget, accuracy)
        for name, function in (("builder", builder), ("trainer", trainer)):
            if not callable(function):
                raise TypeError(f"`{name}` must be a function. Received: {name}={function!r}")
        if not isinstance(space, dict):
            raise TypeError(
                "`space` must be a dictionary of names to choices. "
                f"Received: {type(space).__name__}"
            )
        of_builder, of_trainer = _arguments(builder), _arguments(trainer)
        self.kinds = {}
        for name in space:
            places = ("training", TRAINING), ("builder", of_builder), ("trainer", of_trainer)
            self.kinds[name] = next((kind for kind, names in places if name in names), None)
            if self.kinds[name] is None:
                raise ValueError(
                    f"`space` must name arguments of the builder ({', '.join(of_builder)}), of "
                    f"the trainer ({', '.join(of_trainer)}), or {', '.join(TRAINING)}. "
                    f"Received: {name!r}"
                )
        is_name = isinstance(recipe, str) and recipe in RECIPES
        if not is_name and not isinstance(recipe, Recipe):
            raise ValueError(
                f"`recipe` must be one of {tuple(RECIPES)} or a Recipe. Received: recipe={recipe}"
            )
        self.calibration = {"method": "geometric", **calibration}
        _check_measuring(self.target, unit, self.calibration)
        self.builder = builder
        self.space = dict(space)
        self.recipe = RECIPES[recipe] if isinstance(recipe, str) else recipe
        self.trainer = trainer
        self.unit = unit

    @property
    def objective(self):
        """The objective to pass to a tuner."""
        kind, _ = self.target
        if kind == "budget":
            return keras_tuner.Objective("accuracy_at_budget", "max")
        return keras_tuner.Objective("cost_at_accuracy", "min")

    def values(self, hp):
        """Returns the value of every hyperparameter, as a dictionary."""
        return {name: _suggest(hp, name, choices) for name, choices in self.space.items()}

    def _of(self, hp, kind):
        return {name: v for name, v in self.values(hp).items() if self.kinds[name] == kind}

    def build(self, hp):
        model = self.builder(**self._of(hp, "builder"))
        if not isinstance(model, AdaptiveModel):
            raise TypeError(f"`builder` must return an AdaptiveModel. Received: {model!r}")
        # the trainer makes its own optimizer; the builder's could not load that one's state
        model.optimizer = None
        return model

    def fit(
        self, hp, model, train, calibration_data=None, *, epochs=1, initial_epoch=0, **arguments
    ):
        """Trains one network and returns the metrics of the trial.

        Args:
            hp: KerasTuner's values.
            model: What `build` returned.
            train: As in `training.fit`.
            calibration_data: Tuple `(x, y)`, or `None`: the calibrate split of `train`.
            epochs: Integer, of all phases together.
            initial_epoch: Integer, how many of them are done (by Hyperband, which continues
                an earlier network; the recipe's schedule then begins anew).
            **arguments: Passed to the trainer: `callbacks`, `verbose`, `seed`.

        Returns:
            Dictionary, see `measure_logits`.
        """
        self._check_folder(arguments, train=train, calibration_data=calibration_data)
        self._check_arguments(arguments)
        if calibration_data is None and hasattr(train, "arrays"):
            calibration_data = train.arrays("calibrate")
        _check_calibration(calibration_data)
        arguments = {"verbose": 0, **arguments, **self._of(hp, "trainer")}
        trained = self.trainer(
            model,
            train,
            epochs=epochs - initial_epoch,
            **self.training(self._of(hp, "training"), model.exits),
            **arguments,
        )
        if trained is not model:
            raise ValueError(
                "The trainer must return the model that it was given, whose weights are saved. "
                "Received: another one"
            )
        return self.measure(model, *calibration_data)

    def _check_arguments(self, arguments):
        """Refuses what the trainer does not take, with which every trial would fail."""
        parameters = inspect.signature(self.trainer).parameters
        named = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
        unknown = [] if named else [name for name in arguments if name not in parameters]
        if unknown:
            raise keras_tuner.errors.FatalTypeError(
                "`search` must get `train`, `calibration_data` and arguments of the trainer: "
                "`search(train, (x, y), epochs=2)`. Received: "
                f"{unknown[0]}{did_you_mean(unknown[0], [*parameters])}"
            )

    def _check_folder(self, arguments, **data):
        """Says in the folder of the tuner whose search it holds, and refuses another one.

        KerasTuner goes on with whatever trials it finds there.
        """
        keepers = [x for x in arguments.get("callbacks") or () if type(x).__name__ == KEEPER]
        if not keepers:
            return
        path = Path(keepers[0].filepath).parents[1] / SEARCH
        own = {k: v for k, v in arguments.items() if k not in ("callbacks", "verbose")}
        names = ("builder", "space", "target", "recipe", "trainer", "unit", "calibration")
        own |= {name: getattr(self, name) for name in names}
        settings = described({**own, **data})
        stored = None
        if path.exists():
            try:
                stored = read_json(path, "What a search says of itself")
            except ValueError as error:
                warnings.warn(f"{error}; it is written anew.", stacklevel=3)
        if stored is None:
            write_whole(path, json.dumps(settings, indent=1) + "\n")
            return
        must = "The tuner's folder must be new, or that of the same search. Received:"
        try:
            check_same(stored, settings, f"{must} {path.parent}, of others:")
        except ValueError as error:  # KerasTuner goes on after others
            raise keras_tuner.errors.FatalValueError(str(error)) from error

    def training(self, values, exits):
        """Returns the trainer's arguments for the hyperparameters of training.

        Args:
            values: Dictionary: name of a hyperparameter of training to its value.
            exits: Integer, the number of exits of the network.
        """
        of_recipe = {n: v for n, v in values.items() if n in ("learning_rate", "weight_decay")}
        result = {"recipe": dataclasses.replace(self.recipe, **of_recipe)}
        if "exit_power" in values:
            weights = np.arange(1, exits + 1) ** float(values["exit_power"])
            result["exit_weights"] = (weights / weights.mean()).tolist()
        if values.get("distillation", 0) > 0:
            result["distillation"] = Distillation(weight=values["distillation"])
        if "gate_weight" in values:
            result["gate_loss"] = GateLoss(values["gate_weight"])
        return result

    def measure(self, model, x, y):
        """Returns the metrics of a trained network, including the objective.

        A subclass for networks that do not decide by thresholds overrides this.

        Args:
            model: The network.
            x, y: Held-out data.
        """
        logits, costs = model.predict_with_costs(x, self.unit, verbose=0)
        return self.measure_logits(logits, np.asarray(y), costs, model.count_params())

    def measure_logits(self, logits, labels, costs, parameters):
        """Returns the metrics of a network's logits.

        Args:
            logits, labels, costs: As in `calibrate`.
            parameters: Integer, the number of parameters of the network.
        """
        whole = float(costs.reshape(len(costs), -1).mean(axis=1)[-1])
        budgets = [max(share * whole / 100, _first_cost(costs)) for share in SHARES]
        points = self._cross_fitted(logits, labels, costs, "budget", budgets)
        result = {"parameters": float(parameters)}
        for share, (accuracy, cost) in zip(SHARES, points, strict=True):
            result[f"accuracy_{share}"], result[f"cost_{share}"] = accuracy, cost
        kind, value = self.target
        if kind == "budget":
            found = (0.0, _first_cost(costs))
            if value >= _first_cost(costs):
                (found,) = self._cross_fitted(logits, labels, costs, kind, [value])
            return {**result, "accuracy_at_budget": found[0], "cost_at_budget": found[1]}
        try:
            ((_, cost),) = self._cross_fitted(logits, labels, costs, kind, [value])
        except UnreachableTargetError:
            best = max(accuracy for accuracy, _ in points)
            cost = MISSED * whole * float(np.exp(SHORT * max(value - best, 0.0)))
        return {**result, "cost_at_accuracy": cost}

    def _cross_fitted(self, logits, labels, costs, kind, values):
        """Returns `(accuracy, mean cost)` per value, cross-fitted on two halves of the data."""
        halves = np.arange(len(labels)) % 2 == 0
        found = []
        for chosen in (halves, ~halves):
            fitted = _part(logits, labels, costs, chosen)
            if kind == "budget":
                policies = calibrate_budgets(*fitted, values, **self.calibration)
            else:
                policies = [calibrate(*fitted, accuracy=v, **self.calibration) for v in values]
            reports = [evaluate(p, *_part(logits, labels, costs, ~chosen)) for p in policies]
            found.append([(report.accuracy, report.mean_cost) for report in reports])
        return [tuple(point) for point in np.mean(found, axis=0).tolist()]


def _check_measuring(target, unit, calibration):
    """Checks how trials will be measured, before any is trained."""
    check_unit(unit)
    check_names(calibration)
    kind, value = target
    if calibration["method"] == "pcee":
        raise ValueError(
            "`method` must be one that keeps to budgets, within which every trial is measured. "
            "Received: method=pcee"
        )
    check_how(**{kind: value}, **calibration)


def _check_calibration(data):
    """Refuses what no trial can be measured on; the search ends, since every trial would fail."""
    pair = isinstance(data, (tuple, list)) and len(data) == 2
    samples, labels = map(_count, data) if pair else (None, None)
    if labels is None or labels < 2 or samples not in (None, labels):
        received = f"{samples} samples, {labels} labels" if pair else f"a {type(data).__name__}"
        raise keras_tuner.errors.FatalValueError(
            "`calibration_data` must be a tuple (x, y) of arrays of at least two samples, or None "
            f"where `train` is a data.Splits. Received: {received}"
        )


def _count(part):
    """Returns how many samples there are; `None` of a list or dictionary of several inputs."""
    shape = getattr(part, "shape", None)
    if shape is not None:
        return shape[0] if len(shape) else 0
    several = not isinstance(part, (list, tuple)) or any(hasattr(x, "shape") for x in part)
    return None if several else len(part)


def _part(logits, labels, costs, chosen):
    return logits[:, chosen], labels[chosen], costs[:, chosen] if costs.ndim == 2 else costs


def _first_cost(costs):
    return float(np.mean(costs[0]))


def _arguments(function):
    """Returns the names of a function's arguments that can be passed by keyword."""
    parameters = inspect.signature(function).parameters.values()
    return [p.name for p in parameters if p.kind in (p.POSITIONAL_OR_KEYWORD, p.KEYWORD_ONLY)]


def _suggest(hp, name, choices):
    """Returns KerasTuner's value of one hyperparameter."""
    if callable(choices):
        return choices(hp)
    if isinstance(choices, (list, tuple)):  # KerasTuner stores Python's numbers, as JSON
        choices = type(choices)(x.item() if isinstance(x, np.generic) else x for x in choices)
    if isinstance(choices, list) and choices:
        if len({type(x) for x in choices}) == 1 and isinstance(choices[0], (int, float, str)):
            return hp.Choice(name, choices)
        texts = [repr(x) for x in choices]
        return choices[texts.index(hp.Choice(name, texts))]
    if isinstance(choices, tuple) and len(choices) in (2, 3):
        low, high, *scale = choices
        sampling = {"sampling": "log" if scale == ["log"] else "linear"}
        if isinstance(low, int) and isinstance(high, int):
            return hp.Int(name, low, high, **sampling)
        return hp.Float(name, low, high, **sampling)
    raise ValueError(
        "The choices of a hyperparameter must be a list, a tuple of the lowest and highest value, "
        f"or a function. Received: {name}={choices}"
    )
