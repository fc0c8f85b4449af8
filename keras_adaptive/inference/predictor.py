"""Prediction on the host: each stage is computed only for the samples that have not left."""

import collections
import json
from typing import NamedTuple

import keras
import numpy as np
from tqdm import tqdm

from keras_adaptive import _graph
from keras_adaptive._checks import finite, integer
from keras_adaptive.inference._compiled import compiled
from keras_adaptive.inference._flow import AT_ONCE, Flow
from keras_adaptive.inference._plan import Plan
from keras_adaptive.inference._spending import spending
from keras_adaptive.inference._timings import Timings
from keras_adaptive.policy.confidence import softmax
from keras_adaptive.training.adaptive_model import AdaptiveModel

WAITING = 64  # input batches that may wait for an answer before all are answered
ONE_BY_ONE = 8  # up to this batch size, samples may run one by one
LONG = 5  # seconds after which a progress bar appears


class Result(NamedTuple):
    """The answers to a batch of inputs, in input order.

    Attributes:
        probabilities: `(samples, classes)`, of the exit at which each sample left.
        labels: `(samples,)`, the most probable class of each sample.
        exits: `(samples,)`, the exit at which each sample left.
        costs: `(samples,)`, MACs spent per sample. Closed exits cost nothing, nor do gated
            blocks that were skipped.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    exits: np.ndarray
    costs: np.ndarray


class AdaptivePredictor:
    """Predicts stage by stage, each stage only for the samples that have not left.

    The exits are those that `policy.decide` chooses on the full logits, up to rounding,
    whatever the batch size; heads that the policy closes are never computed.

    There are three ways to compute a batch, and the fastest is taken, by times measured
    when a batch size is first used: stage by stage, where survivors of several batches
    are put together so that late stages run full; the first exits, or all, in one function,
    where regrouping would cost more than it saves; and, sample by sample, one function with
    conditionals, compiled by XLA where that is faster, which single samples always use.
    `costs` are what each sample needs; the second way may compute more than that.

    Heads are not saved: every sample that reaches an exit pays for its head. Under a policy
    with which few samples leave early, prediction may take longer than the last exit alone,
    at any batch size. And a decision waits for its head, which for a single sample on several
    cores cannot run beside the stage that follows, as it can where every exit is computed
    anyway. Where time matters, calibrate with the costs of `measure_latency`, which include
    all this.

    In a network with gates, blocks that no sample in the batch needs are not computed, and
    the others only for the samples that need them. A policy may then hold a `worst_case`,
    a limit on the cost of every answer: a sample that cannot afford the next exit gets the
    answer of this one.

    The weights are those of the model when the predictor is made, stored as constants.

    Args:
        model: An `AdaptiveModel` with one input.
        policy: A policy of any class, or a list of them, from which `budget=` chooses. `None`:
            `model.policy`, which `model.calibrate` chose.

    Raises:
        TypeError, ValueError: If `model` or `policy` is of another type, or a policy belongs
            to another network.

    Example:

    >>> from keras_adaptive import ExitPolicy, build_msdnet
    >>> model = build_msdnet((8, 8, 1), 10, blocks=2, channels=4, growth_rate=2)
    >>> predictor = AdaptivePredictor(model, ExitPolicy([0.0, 0.0]))
    >>> predictor.predict(np.zeros((3, 8, 8, 1))).exits.tolist()
    [0, 0, 0]
    """

    def __init__(self, model, policy=None):
        if not isinstance(model, AdaptiveModel):
            raise TypeError(f"`model` must be an AdaptiveModel. Received: model={model!r}")
        if len(model.inputs) != 1:
            raise ValueError(f"`model` must have one input. Received: {len(model.inputs)} inputs")
        if policy is None:
            policy = model.policy
            if policy is None:
                raise ValueError(
                    "`policy` must be given for a model that has none; `model.calibrate` chooses "
                    "one. Received: policy=None"
                )
        several = isinstance(policy, (list, tuple))
        if several and not policy:
            raise ValueError("`policy` must hold at least one policy. Received: policy=[]")
        policies = list(policy) if several else [policy]
        for one in policies:
            model.exits_of(one)
            one.validate_stagewise(costs_known=True)  # before anything is compiled
        self.model = model
        self.policy = policy
        self._policies = policies
        networks = {}  # policies that use the same exits share the compiled stages
        self._runners = []
        for one in policies:
            worst_case = one.worst_case
            if worst_case is not None and worst_case >= model.exit_costs()[-1]:
                worst_case = None  # no sample can cost more
            needs = tuple(model.exits_of(one)), worst_case
            if needs not in networks:
                networks[needs] = _Network(model, *needs)
            if worst_case is not None:
                one.validate_stagewise(costs_known=networks[needs].gated)
            self._runners.append(_Runner(networks[needs], one))

    def predict(self, x, batch_size=256, budget=None, verbose="auto"):
        """Returns the answers to all samples.

        Args:
            x: Array `(samples, ...)` of the model's inputs, or a `tf.data.Dataset`,
                generator or other iterable of such arrays or of tuples that begin with one.
            batch_size: Integer, how many samples are computed together. Stages may use
                batches of 64 instead, where that is faster; single samples stay single. It
                also bounds the memory: one batch of features per stage, however long `x` is.
            budget: Number. Of the policies whose mean cost on the calibration data is within
                it, the most expensive is used. Needed if there are several policies.
            verbose: 0: silent. `"auto"`: a progress bar on a terminal, if it takes long.

        Returns:
            A `Result`.

        Raises:
            ValueError: If `x` does not fit the model or is empty, or no policy fits the
                budget.
        """
        runner = self._pick(budget)
        batch_size = integer("batch_size", batch_size, 1)
        total = None
        if hasattr(x, "__array__") or isinstance(x, (list, tuple)):
            x = self._check(x)
            total = len(x)
            step = batch_size * max(1, AT_ONCE // batch_size)  # less to do between samples
            batches = (x[i : i + step] for i in range(0, total, step))
        else:
            batches = (self._check(batch) for batch in map(_images, x))
        hidden = True if verbose in (0, False) else None
        bar = tqdm(total=total, unit="sample", delay=LONG, disable=hidden, leave=False)
        parts = []
        with bar:
            for logits, positions in runner.run(batches, batch_size, WAITING):
                parts.append((logits, positions))
                bar.update(len(positions))
        if not parts:
            raise ValueError("`x` must hold at least one sample. Received: none")
        return runner.result(*(np.concatenate(part) for part in zip(*parts, strict=True)))

    def stream(self, dataset, batch_size=256, budget=None, waiting=WAITING):
        """Yields the answers to each batch of a dataset, in order.

        Survivors of several batches are computed together, so an answer may come some
        batches late; with `waiting=0` each batch is answered before the next is read.

        Args:
            dataset: `tf.data.Dataset`, generator or other iterable of arrays
                `(samples, ...)` or of tuples that begin with one. Batches may be of
                different sizes.
            batch_size: As in `predict`.
            budget: As in `predict`.
            waiting: Integer, how many batches may wait for their answer.

        Yields:
            A `Result` per batch.
        """
        runner = self._pick(budget)
        batch_size = integer("batch_size", batch_size, 1)
        waiting = integer("waiting", waiting, 0)
        batches = (self._check(batch) for batch in map(_images, dataset))
        return (runner.result(*part) for part in runner.run(batches, batch_size, waiting))

    def _pick(self, budget):
        if budget is None:
            if len(self._policies) > 1:
                raise ValueError(
                    "`budget` must be given where there are several policies. Received: budget=None"
                )
            return self._runners[0]
        costs = [policy.details.get("mean_cost") for policy in self._policies]
        if None in costs:
            raise ValueError(
                "Every policy must say its `mean_cost` in its `details`, as those made by "
                "`calibrate` do, for a budget to pick one. Received: a policy that does not"
            )
        budget = finite(budget, "budget")
        affordable = [i for i, cost in enumerate(costs) if cost <= budget * (1 + 1e-9)]
        if not affordable:
            raise ValueError(
                "`budget` must be at least the mean cost of the cheapest policy, "
                f"{min(costs):.10g}. Received: budget={budget}"
            )
        return self._runners[max(affordable, key=costs.__getitem__)]

    def _check(self, x):
        x = np.asarray(x)
        expected = self.model.inputs[0].shape
        sizes = zip(x.shape[1:], expected[1:], strict=False)
        if x.ndim != len(expected) or any(e is not None and n != e for n, e in sizes):
            raise ValueError(
                f"`x` must be of shape (samples, {', '.join(map(str, expected[1:]))}). "
                f"Received: shape {x.shape}"
            )
        if not len(x):
            raise ValueError("`x` must hold at least one sample. Received: none")
        x = x.astype(keras.backend.standardize_dtype(self.model.inputs[0].dtype), copy=False)
        if not np.isfinite(x).all():  # fused kernels may turn NaN into a number
            raise ValueError(
                "The logits must be finite. Received: NaN or infinity in `x`, from which they come"
            )
        return x


class _Network:
    """The stages between the exits in use, compiled, with their costs."""

    def __init__(self, model, exits, worst_case):
        self.exits = list(exits)
        if worst_case is not None:  # one may have to leave anywhere
            self.exits = list(range(self.exits[-1] + 1))
        answers = [model.outputs[k] for k in self.exits]
        classes = answers[0].shape[-1]
        spent = spending(model.inputs, answers, worst_case)
        if spent is None:
            self.costs = model.exit_costs(exits=self.exits)
        else:
            answers, self.costs = spent
        self.gated = spent is not None
        single = skipping = None
        if self.gated and keras.backend.backend() == "tensorflow":
            # blocks run on the samples that need them, where shapes may depend on values
            skipping = "gather"
            single = _graph.minimal_stages(model.inputs, answers, "cond")
        minimal = _graph.minimal_stages(model.inputs, answers, skipping)
        self.stages = compiled(minimal, classes, single)
        self.timings = Timings(self.stages)
        self.dense = len(model.outputs[0].shape) > 2
        self._conditionals = {}

    def conditional(self, policy):
        """Returns `Stages.conditional`, shared by policies that differ in thresholds only."""
        if self.stages.conditional is None or self.dense:
            return None
        apart = dict.fromkeys(("thresholds", "log_odds", "unit", "network", "details"))
        alike = json.dumps(policy.content() | apart)
        if alike not in self._conditionals:
            self._conditionals[alike] = self.stages.conditional(policy, self.exits)
        return self._conditionals[alike]


class _Runner:
    """A compiled network together with one policy."""

    def __init__(self, network, policy):
        self.network, self.policy = network, policy
        self._plans = {}

    def plan(self, batch_size, waiting=WAITING):
        """Returns the plan for a batch size, which keeps what it has measured and learned."""
        network = self.network
        if (batch_size, waiting) not in self._plans:
            self._plans[batch_size, waiting] = Plan(
                network.timings,
                len(network.exits),
                batch_size,
                network.conditional(self.policy) if batch_size <= ONE_BY_ONE else None,
                waiting * batch_size,
            )
        return self._plans[batch_size, waiting]

    def run(self, batches, batch_size, waiting):
        """Yields `(logits, positions)` of each batch, in order."""
        pending = collections.OrderedDict()

        def answer(owners, logits, position):
            for number in set(owners[:, 0].tolist()):
                mine = owners[:, 0] == number
                entry = pending[number]
                rows = owners[mine, 1]
                if entry.logits is None:
                    entry.logits = np.empty((len(entry.positions), *logits.shape[1:]), "float32")
                entry.logits[rows] = logits[mine]
                entry.positions[rows] = position
                entry.missing -= len(rows)

        network, plan = self.network, self.plan(batch_size, waiting)
        flow = Flow(network.stages, network.exits, self.policy, plan, answer)

        def ready():
            while pending and next(iter(pending.values())).missing == 0:
                entry = pending.popitem(last=False)[1]
                yield entry.logits, entry.positions

        for number, images in enumerate(batches):
            pending[number] = _Entry(len(images))
            flow.feed(images, number)
            yield from ready()
            if len(pending) > waiting:
                flow.finish()
                yield from ready()
        flow.finish()
        yield from ready()

    def result(self, answers, positions):
        network, classes = self.network, self.network.stages.classes
        logits, spent = answers[..., :classes], 0
        if answers.shape[-1] > classes:
            spent, positions, _ = answers.reshape(len(answers), -1)[:, -3:].T
            positions = positions.astype(int)
        if (positions < 0).any():
            raise ValueError(
                "`worst_case` must be at least the cost of leaving at the first exit, for every "
                "sample. "
                f"Received: worst_case={self.policy.worst_case} for one that costs "
                f"{network.costs[0] + spent[positions < 0].min():.10g} there"
            )
        exits = np.array(network.exits)[positions]
        if self.policy.temperatures is not None:
            divisors = self.policy.temperatures[exits].reshape(-1, *[1] * (logits.ndim - 1))
        else:
            divisors = 1
        return Result(
            softmax(logits / divisors).astype("float32"),
            logits.argmax(axis=-1),
            exits,
            network.costs[positions] + spent,
        )


class _Entry:
    """The answers to an input batch so far."""

    def __init__(self, samples):
        self.logits = None
        self.positions = np.empty(samples, int)
        self.missing = samples


def _images(batch):
    return batch[0] if isinstance(batch, (tuple, list)) else batch
