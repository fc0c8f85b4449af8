"""Prediction on the host that computes no further than each sample needs."""

import sys
import threading
from typing import NamedTuple

import keras
import numpy as np
from tqdm import tqdm

from keras_adaptive import _graph
from keras_adaptive._checks import check_choice, finite, integer
from keras_adaptive.inference._inputs import Inputs
from keras_adaptive.inference._stages import Stages
from keras_adaptive.layers.gated_block import GatedBlock
from keras_adaptive.policy.confidence import softmax
from keras_adaptive.training.adaptive_model import AdaptiveModel

WAITING = 64  # input batches that may wait for an answer before all are answered
PART = 1024  # samples of an array that are taken at a time
LONG = 2  # seconds after which a progress bar appears


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
    """Predicts for each sample no further than to the exit where it leaves.

    The exits are those that `policy.decide` chooses on the full logits, up to rounding,
    whatever the engine and the batch size; heads that the policy closes are never computed.

    - `"litert"`: a .tflite file whose single call leaves inside the graph; each core computes
      one sample at a time, so batch sizes do not matter. It is exported once, in some seconds,
      and kept in the folder `predictors` of `KERAS_ADAPTIVE_HOME` (else of
      `~/.cache/keras_adaptive`), 2 GB of those used last, by configuration, weights and form of
      the policy; thresholds are an input. The weights are those at the first prediction.
    - `"keras"`: stage by stage, on any backend and device; samples that stay wait until a batch
      is full. The weights are read at every call.

    `"auto"` is LiteRT on a CPU with the TensorFlow backend, unless the network does not convert
    or the policy has a `worst_case`, a limit for each sample of a network with gates, which a
    file cannot say (who cannot afford the next exit gets the answer of this one). A line on
    stderr says what is taken. For a handful of samples, or weights that change between calls,
    say `engine="keras"`. Where time matters, calibrate with the costs of `measure_latency`.

    Args:
        model: An `AdaptiveModel`.
        policy: A policy of any class, or a list of them, from which `budget=` chooses. `None`:
            `model.policy`, which `model.calibrate` chose.
        engine: `"auto"`, `"keras"` or `"litert"`.

    Raises:
        TypeError, ValueError: If `model` or `policy` is of another type, a policy belongs to
            another network, or the engine cannot do what it needs.

    Example:

    >>> from keras_adaptive import ExitPolicy, build_msdnet
    >>> model = build_msdnet((8, 8, 1), 10, blocks=2, channels=4, growth_rate=2)
    >>> predictor = AdaptivePredictor(model, ExitPolicy([0.0, 0.0]), engine="keras")
    >>> predictor.predict(np.zeros((3, 8, 8, 1))).exits.tolist()
    [0, 0, 0]
    """

    def __init__(self, model, policy=None, *, engine="auto"):
        if not isinstance(model, AdaptiveModel):
            raise TypeError(f"`model` must be an AdaptiveModel. Received: model={model!r}")
        check_choice(("auto", "keras", "litert"), engine=engine)
        policy = model.policy if policy is None else policy
        if policy is None:
            raise ValueError(
                "`policy` must be given for a model that has none; `model.calibrate` chooses "
                "one. Received: policy=None"
            )
        self.model, self.policy = model, policy
        self._policies = list(policy) if isinstance(policy, (list, tuple)) else [policy]
        if not self._policies:
            raise ValueError("`policy` must hold at least one policy. Received: policy=[]")
        self._needs = [self._needed(one) for one in self._policies]
        units = {one.unit for one in self._policies} - {None}
        if len(units) > 1:
            raise ValueError(
                "The policies must have costs of one unit, for a budget to pick one. Received: "
                f"units {sorted(units)}"
            )
        self._inputs, self._runners, self._lock = Inputs(model), {}, threading.RLock()
        self._found = {}  # number of a policy: its runner
        impossible = self._impossible()
        if engine == "litert" and impossible:
            raise ValueError(
                f'`engine` must be "keras" or "auto" here: {impossible}. Received: engine="litert"'
            )
        self._asked, self._reason = engine, "it was asked for"
        self._engine = "keras" if engine == "keras" else None  # None: it must be tried
        if engine == "auto":
            self._reason = impossible or accelerator()
            self._engine = "keras" if self._reason else None
        self._silent = engine != "auto"  # or the reason was printed

    def _needed(self, policy):
        """Checks a policy; returns the exits that it uses, and its limit where it binds."""
        exits, limit = self.model.exits_of(policy), policy.worst_case
        if limit is not None and policy.unit not in (None, "macs"):
            raise ValueError(
                "`worst_case` must be in MACs, which samples are counted in here. Received: a "
                f"policy with worst_case={limit} in {policy.unit!r}"
            )
        if limit is not None and limit >= self.model.exit_costs()[-1]:
            limit = None  # no sample can cost more
        nodes = _graph.nodes_between(self.model.inputs, self.model.outputs)
        gated = any(isinstance(node.operation, GatedBlock) for node in nodes)
        policy.validate_stagewise(costs_known=gated or limit is None)
        return tuple(exits), limit

    def _impossible(self):
        """Returns why there can be no file, or `None`: it may be tried."""
        backend = keras.backend.backend()
        reasons = {
            f"the backend is {backend}, and files come from TensorFlow": backend != "tensorflow",
            "a file cannot hold a `worst_case`, the limit on what each sample spends": any(
                limit is not None for _, limit in self._needs
            ),
            "the sizes of the network's inputs are open": not self._inputs.are_fixed,
            "the network's outputs are dense": len(self.model.outputs[0].shape) > 2,
        }
        return next((reason for reason, holds in reasons.items() if holds), None)

    @property
    def engine(self):
        """The engine in use: `"litert"` or `"keras"`. Where it must be tried, it is now."""
        if self._engine is None:
            self._runner(0, "auto")
        return self._engine

    @property
    def engine_reason(self):
        """A sentence that says why this engine."""
        return f"The engine is {self.engine}: {self._reason}."

    def predict(self, x, batch_size=256, budget=None, verbose="auto"):
        """Returns the answers to all samples, a `Result`.

        Args:
            x: Array `(samples, ...)` of the model's input; of several inputs a list of them,
                or a dictionary by name. Or a `tf.data.Dataset`, generator or other iterable of
                batches of such, or of tuples that begin with one.
            batch_size: Integer, how many samples the engine `"keras"` computes together: what
                it needs memory for, however long `x` is.
            budget: Number, in the unit of the policies' costs. Of those whose mean cost on the
                calibration data is within it, the most expensive is used. Needed if there are
                several policies.
            verbose: 0: silent. `"auto"`: says which engine is taken, and shows a progress bar
                if it takes long.

        Raises:
            ValueError: If `x` does not fit the model or is empty, or no policy fits the budget.
        """
        number, batch_size = self._pick(budget), integer("batch_size", batch_size, 1)
        batches, total = self._inputs.parts(x, max(batch_size, PART))
        run = self._runner(number, verbose)
        found = run(self._policies[number], batches, batch_size, WAITING)
        if total != 1 and verbose not in (0, False):
            found = _shown(found, total)
        parts = list(found)
        if not parts:
            raise ValueError("`x` must hold at least one sample. Received: none")
        if len(parts) == 1:
            return parts[0]
        return Result(*(np.concatenate(columns) for columns in zip(*parts, strict=True)))

    def stream(self, dataset, batch_size=256, budget=None, waiting=WAITING):
        """Yields the answers to each batch of a dataset, in order, a `Result` each.

        Args:
            dataset: Iterable of batches, as in `predict`, also of different sizes.
            batch_size, budget: As in `predict`.
            waiting: Integer, how many batches may wait for their answer while the engine
                `"keras"` puts survivors of several together. With 0, and with LiteRT, each is
                answered before the next is read.
        """
        number, batch_size = self._pick(budget), integer("batch_size", batch_size, 1)
        waiting = integer("waiting", waiting, 0)
        batches = map(self._inputs.of_batch, dataset)
        return self._runner(number, "auto")(self._policies[number], batches, batch_size, waiting)

    def warm_up(self, batch_size=1):
        """Prepares everything, so that the first prediction takes no longer than the others.

        Args:
            batch_size: Integer, as it will be in `predict`, for blank samples. Needs a network
                whose inputs are of fixed size.
        """
        size, tensors = integer("batch_size", batch_size, 1), self.model.inputs
        if not self._inputs.are_fixed:
            raise ValueError(
                "`model` must have inputs of fixed size for `warm_up`. Received: "
                f"{[tensor.shape for tensor in tensors]}"
            )
        blank = [np.zeros((size, *t.shape[1:]), bool) for t in tensors]
        blank = self._inputs.checked(blank)
        for number, policy in enumerate(self._policies):
            run = self._runner(number, "auto")
            list(run(policy, [blank], size, 0))
            if policy.log_odds is not None:  # everybody stays: every stage runs
                never = policy.with_thresholds(np.full(self.model.num_exits, np.inf))
                list(run(never, [blank], size, 0))

    def _runner(self, number, verbose):
        """Returns the function `(policy, batches, size, waiting)` that yields a `Result` a batch.

        Policies that differ in thresholds alone share it.
        """
        policy, key = self._policies[number], self._needs[number]
        if number in self._found and (self._silent or verbose in (0, False)):
            return self._found[number]
        with self._lock:
            if self._engine != "keras":
                key = self._opened(policy, *key[:1], verbose) or key
            if self._engine == "keras" and key not in self._runners:
                self._runners[key] = _by_stages(Stages(self.model, *key))
            if not self._silent and verbose not in (0, False):
                print(self.engine_reason, file=sys.stderr)
                self._silent = True
            self._found[number] = self._runners[key]
            return self._found[number]

    def _opened(self, policy, exits, verbose):
        """Opens a file and returns its key; where that cannot be, the engine becomes `"keras"`."""
        try:
            from keras_adaptive.export import _kept

            key = _kept.form(policy, exits)
            if key not in self._runners:
                self._runners[key] = _by_files(*_kept.opened(self.model, policy, key, verbose))
        except (ImportError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
            if self._asked == "litert":
                raise
            self._engine = "keras"
            self._reason = f"the network does not convert ({str(error).splitlines()[0][:200]})"
            return None
        self._engine = "litert"
        self._reason = self._reason or "this is a CPU, and the network converts"
        return key

    def _pick(self, budget):
        """Returns the number of the policy that a budget chooses."""
        if budget is None:
            if len(self._policies) > 1:
                raise ValueError(
                    "`budget` must be given where there are several policies. Received: budget=None"
                )
            return 0
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
        return max(affordable, key=costs.__getitem__)


def _shown(parts, total):
    """Yields results; a progress bar appears if they take long."""
    with tqdm(total=total, unit="sample", delay=LONG, leave=False) as bar:
        for part in parts:
            yield part
            bar.update(len(part.labels))


def accelerator():
    """Returns why this machine is better served by Keras, or `None`."""
    import tensorflow as tf

    kinds = {device.device_type for device in tf.config.list_physical_devices()}
    others = sorted(kinds - {"CPU", "XLA_CPU"})
    return f"there is a {others[0]}" if others else None


def _by_stages(stages):
    def run(policy, batches, size, waiting):
        for logits, exits, costs in stages.run(policy, batches, size, waiting):
            divisors = 1 if policy.temperatures is None else policy.temperatures[exits]
            divisors = np.reshape(divisors, (-1, *[1] * (logits.ndim - 1)))
            probabilities = softmax(logits / divisors).astype("float32")
            yield Result(probabilities, logits.argmax(axis=-1), exits, costs)

    return run


def _by_files(predictor, places):
    def run(policy, batches, size, waiting):
        for arrays in batches:
            given = {name: arrays[place] for name, place in places.items()}
            found = predictor.predict(given, verbose=0, log_odds=policy.log_odds)
            if not np.isfinite(found.probabilities).all():
                raise ValueError(
                    "The logits must be finite. Received: NaN or infinity; look at the weights"
                )
            yield Result(*found)

    return run
