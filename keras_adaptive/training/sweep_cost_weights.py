"""Stopping policies for a range of cost weights: accuracy against cost."""

import contextlib
import hashlib
import json
import random
import warnings
from typing import NamedTuple

import keras
import numpy as np

from keras_adaptive._checks import check_labels, finite, integer
from keras_adaptive._files import read_json, write_whole
from keras_adaptive.evaluation import Report, evaluate
from keras_adaptive.policy.learned_policy import LearnedPolicy
from keras_adaptive.training import resuming
from keras_adaptive.training._identity import described, digest, network
from keras_adaptive.training.adaptive_model import check_model
from keras_adaptive.training.fit_policy import check_training, fit_policy
from keras_adaptive.training.stopping_model import check_attached

SWEEP = "sweep.json"
COST_WEIGHTS = (1e-4, 3e-4, 1e-3, 3e-3, 1e-2)


class Sweep(NamedTuple):
    """The learned policies and their results, one row per cost weight.

    Attributes:
        cost_weights: `(rows,)`, as given.
        reports: List of `evaluation.EvaluationResult`, of the greedy policy.
        policies: List of `LearnedPolicy`.
        exit_costs: `(exits,)`, of leaving there, stopping policies included.
    """

    cost_weights: np.ndarray
    reports: list
    policies: list
    exit_costs: np.ndarray

    @property
    def costs(self):
        """Mean cost of every row."""
        return np.array([report.mean_cost for report in self.reports])

    @property
    def accuracies(self):
        """Accuracy of every row."""
        return np.array([report.accuracy for report in self.reports])


def sweep_cost_weights(
    model,
    train,
    test,
    *,
    cost_weights=COST_WEIGHTS,
    fit=None,
    folder=None,
    batch_size=256,
    seed=None,
    verbose=0,
    **kwargs,
):
    """Trains the stopping policies of a network from scratch for every cost weight.

    Every row starts from the weights that `model` has when it is given, and `model` has them
    again afterwards. Without `fit` the policies alone learn, on logits that are
    computed once (the paper's simplified version, `training.fit_policy`): seconds per row.

    Train on held-out data: members are overconfident on the images they were trained on.
    Test on a third split.

    Args:
        model: An `AdaptiveModel` with stopping policies.
        train: Tuple `(x, y)` for the policies to learn from; with `fit` whatever it takes.
        test: Tuple `(x, y)` to report on.
        cost_weights: Sequence of numbers.
        fit: Function `(model, train, cost_weight)` that trains the model in its own way, for
            example together with its members. `None`: the policies alone.
        folder: Folder, new or empty, where every row is kept when it is done. A sweep that is
            called again in the same way does the missing rows only: of the same members, data
            and arguments, for any cost weights; another one is refused. `None`: nothing is
            kept.
        batch_size: Integer, of `predict`.
        seed: Integer: what is drawn for a row follows from it and the cost weight. `None`:
            drawn by Python's `random`, and kept in the folder.
        verbose: Of `training.fit_policy`, as in `keras.Model.fit`.
        **kwargs: Passed to `training.fit_policy`.

    Returns:
        A `Sweep`.

    Raises:
        TypeError, ValueError: If an argument is impossible, or the folder holds rows of another
            sweep; before anything is trained.

    Reference:
        [Energy-efficient Amortized Inference with Cascaded Deep Classifiers
        (Guan et al., 2018)](https://arxiv.org/abs/1710.03368), figure 2.
    """
    check_model(model)
    weights = _checked_weights(cost_weights)
    if fit is not None and kwargs:
        raise ValueError(f"Arguments of `fit_policy` must go without `fit`. Received: {kwargs}")
    if "cost_weight" in kwargs:
        raise ValueError(
            "`cost_weights` must hold the cost weights of all rows. "
            f"Received: cost_weight={kwargs['cost_weight']}"
        )
    check_attached(model)
    integer("batch_size", batch_size, 1)
    if fit is None:
        check_training(model, cost_weight=weights[0], **kwargs)
        _check_data("train", train, model)
    _check_data("test", test, model)
    costs = model.stopping_costs()
    drawn = random.getrandbits(31) if seed is None else integer("seed", seed, 0)
    rows = _Rows(folder, drawn)
    if folder is not None:
        how = {"train": train, "test": test, "fit": fit, "seed": seed, **kwargs}
        policies = {id(weight) for layer in model.stopping for weight in layer.weights}
        members = [digest(w) for w in model.weights if id(w) not in policies]
        rows.claim({"network": network(model), "members": members, **described(how)})
    how_to_fit = {"verbose": verbose, **kwargs}
    start = model.get_weights()
    known = {}  # what frozen members answer

    def answers(name, x):
        if name not in known:
            known[name] = np.stack(model.predict(x, batch_size=batch_size, verbose=0))
        return known[name]

    reports, policies = [], []
    with contextlib.ExitStack() as stack:
        if folder is not None:
            stack.enter_context(resuming.alone(folder, "folder"))
        for weight in weights:
            row = rows.load(weight)
            if row is None:
                keras.utils.set_random_seed(rows.seed_of(weight))
                model.set_weights(start)
                if fit is None:
                    logits = answers("train", train[0])
                    fit_policy(model, logits, train[1], cost_weight=weight, **how_to_fit)
                else:
                    fit(model, train, weight)
                    known.clear()
                policy = model.learned_policy()
                report = evaluate(policy, answers("test", test[0]), test[1], costs)
                policy.details = {"cost_weight": weight, "mean_cost": report.mean_cost}
                row = policy, report
                rows.save(weight, *row)
            policies.append(row[0])
            reports.append(row[1])
    model.set_weights(start)
    return Sweep(np.array(weights), reports, policies, costs)


def _checked_weights(cost_weights):
    """Returns different numbers of at least 0 as a list."""
    try:
        weights = [finite(weight, "cost_weights") for weight in cost_weights]
    except (TypeError, ValueError):
        weights = []
    if not weights or min(weights) < 0 or len(set(weights)) < len(weights):
        raise ValueError(
            "`cost_weights` must be different numbers of at least 0, in a sequence. "
            f"Received: cost_weights={cost_weights}"
        )
    return weights


def _check_data(name, data, model):
    """Raises an error unless data is inputs and labels, in arrays."""
    if not isinstance(data, (tuple, list)) or len(data) != 2:
        length = f" of length {len(data)}" if isinstance(data, (tuple, list)) else ""
        raise TypeError(
            f"`{name}` must be a tuple (x, y) of arrays. Received: a {type(data).__name__}{length}"
        )
    samples = len(keras.tree.flatten(data[0])[0])
    shape = model.num_exits, samples, model.outputs[-1].shape[-1]
    check_labels(data[1], np.broadcast_to(0.0, shape))


class _Rows:
    """The rows that are done, in a folder.

    Attributes:
        seed: Integer, of the sweep.
    """

    def __init__(self, folder, seed):
        self.folder = None if folder is None else resuming.as_folder(folder, "folder")
        self.seed, self.sweep = seed, None

    def claim(self, settings):
        """Says in the folder whose rows are there.

        Raises:
            ValueError: If it holds rows of another sweep, or something else.
        """
        facts = {"seed": self.seed}
        stored = resuming.claim(self.folder, SWEEP, settings, facts, "folder")
        if stored is None:  # every row says whose it is as well
            path = self.folder / SWEEP
            warnings.warn(f"{path} was damaged and is written anew.", stacklevel=4)
            stored = resuming.write_claim(path, settings, facts)
        self.seed, self.sweep = stored["seed"], resuming.digest_of(stored["settings"])

    def seed_of(self, weight):
        """Returns the seed of a row, whichever rows are done before it."""
        found = hashlib.sha256(f"{self.seed} {weight!r}".encode()).digest()
        return int.from_bytes(found[:4], "big") // 2

    def _paths(self, weight):
        stem = f"cost_weight_{weight!r}"
        return self.folder / f"{stem}.json", self.folder / f"{stem}.policy.json"

    def load(self, weight):
        """Returns the policy and the report of a row, or `None` if it is not there."""
        if self.folder is None or not self._paths(weight)[0].exists():
            return None
        row, policy = self._paths(weight)
        try:
            content = read_json(row, "A row of a sweep")
            stored = content.pop("digest")
            if stored != _digest(content, policy.read_text(encoding="utf-8")):
                raise ValueError(f"{row} and {policy} must belong together")
            whose = content["sweep"]
            report = {
                k: np.array(v) if isinstance(v, list) else v for k, v in content["report"].items()
            }
            found = LearnedPolicy.load(policy), Report(**report)
        except (ValueError, KeyError, TypeError, AttributeError, OSError) as error:
            warnings.warn(f"{row} is damaged, and the row is made anew: {error}", stacklevel=3)
            return None
        if whose != self.sweep:
            raise ValueError(f"`folder` must hold rows of this sweep only. Received: {row}")
        return found

    def save(self, weight, policy, report):
        if self.folder is None:
            return
        row, path = self._paths(weight)
        policy.save(path)
        plain = {
            k: v.tolist() if isinstance(v, np.ndarray) else v for k, v in report._asdict().items()
        }
        content = {"sweep": self.sweep, "cost_weight": weight, "report": plain}
        content["digest"] = _digest(content, path.read_text(encoding="utf-8"))
        write_whole(row, json.dumps(content, indent=1) + "\n")


def _digest(content, policy):
    """Returns what tells the content of a row, before it has a digest, and its policy."""
    text = json.dumps(json.loads(json.dumps(content)), sort_keys=True)
    return hashlib.sha256(f"{text}\n{policy}".encode()).hexdigest()


sweep = sweep_cost_weights  # its name before 0.2; until 0.3
