"""Prediction on the host that computes no further than each sample needs."""

import sys
import threading

import keras
import numpy as np

from anytime_tflite import BatchResult as Result
from keras_adaptive._checks import check_choice, integer
from keras_adaptive._progress import progress
from keras_adaptive.inference._stages import Stages
from keras_adaptive.layers.gated_block import GatedBlock
from keras_adaptive.policy._budgets import as_policies, within_budget
from keras_adaptive.training._inputs import Inputs
from keras_adaptive.training.adaptive_model import check_model

ENGINES = ("auto", "keras", "litert")
WAITING = 64  # input batches that may wait for an answer before all are answered
PART = 1024  # samples of an array that are taken at a time


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
        check_model(model)
        check_choice(ENGINES, engine=engine)
        policy = model.policy if policy is None else policy
        self.model, self.policy, self._policies = model, policy, as_policies(policy)
        self._needs = [self._needed(one) for one in self._policies]
        self._inputs, self._lock = Inputs(model), threading.RLock()
        self._runners, self._found = {}, {}  # by what they serve; by the number of a policy
        impossible = self._impossible()
        if engine == "litert" and impossible:
            raise ValueError(
                f'`engine` must be "keras" or "auto" here: {impossible}. Received: engine="litert"'
            )
        self._asked, self._silent = engine, engine != "auto"  # silent: or the reason was printed
        self._reason = "it was asked for" if self._silent else impossible or accelerator()
        must_try = engine == "litert" or not self._reason
        self._engine = None if must_try else "keras"

    def _needed(self, policy):
        """Checks a policy; returns the exits that it uses, and its limit where it binds."""
        exits, limit = tuple(self.model.exits_of(policy)), policy.worst_case
        most = None if limit is None else self.model.exit_costs()[-1]
        gated = any(isinstance(layer, GatedBlock) for layer in self.model.layers)
        policy.validate_stagewise(costs_known=gated, most=most)
        return exits, (limit if limit is not None and limit < most else None)

    def _impossible(self):
        """Returns why there can be no file, or `None`: it may be tried."""
        backend = keras.backend.backend()
        limited = any(limit is not None for _, limit in self._needs)
        reasons = {
            f"the backend is {backend}, and files come from TensorFlow": backend != "tensorflow",
            "a file cannot hold a `worst_case`, the limit on what each sample spends": limited,
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
        batch_size = integer("batch_size", batch_size, 1)
        batches, total = self._inputs.parts(x, max(batch_size, PART))
        number = within_budget(self._policies, budget)
        run, parts, silent = self._runner(number, verbose), [], total == 1 or verbose in (0, False)
        with progress(total=total, unit="sample", silent=silent) as bar:
            for part in run(self._policies[number], batches, batch_size, WAITING):
                parts.append(part)
                bar.update(len(part.labels))
        if not parts:
            raise ValueError("`x` must hold at least one sample. Received: none")
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
        batch_size = integer("batch_size", batch_size, 1)
        waiting = integer("waiting", waiting, 0)
        batches = map(self._inputs.of_batch, dataset)
        number = within_budget(self._policies, budget)
        return self._runner(number, "auto")(self._policies[number], batches, batch_size, waiting)

    def warm_up(self, batch_size=1):
        """Prepares everything, so that the first prediction takes no longer than the others.

        Args:
            batch_size: Integer, as it will be in `predict`, for blank samples. Needs a network
                whose inputs are of fixed size.
        """
        size = integer("batch_size", batch_size, 1)
        if not self._inputs.are_fixed:
            raise ValueError(
                "`model` must have inputs of fixed size for `warm_up`. Received: "
                f"{[tensor.shape for tensor in self.model.inputs]}"
            )
        blank, never = self._inputs.blank(size), np.full(self.model.num_exits, np.inf)
        for number, policy in enumerate(self._policies):
            if policy.log_odds is not None:  # everybody stays: every stage runs
                policy = policy.with_thresholds(never)
            list(self._runner(number, "auto")(policy, [blank], size, 0))

    def _runner(self, number, verbose):
        """Returns the function `(policy, batches, size, waiting)` that yields results.

        Policies that differ in thresholds alone share it.
        """
        with self._lock:
            if number not in self._found:
                self._found[number] = self._made(
                    self._policies[number], self._needs[number], verbose
                )
            if not self._silent and verbose not in (0, False):
                self._silent = True
                print(self.engine_reason, file=sys.stderr)
            return self._found[number]

    def _made(self, policy, needs, verbose):
        """Returns a runner; where the file fails that `"auto"` tries, the engine is `"keras"`."""
        if self._engine != "keras":
            try:
                from keras_adaptive.export import _kept

                form = _kept.form(policy, needs[0])
                if form not in self._runners:
                    answers = _kept.opened(self.model, policy, form, verbose)
                    self._runners[form] = lambda policy, batches, *_: (
                        answers(arrays, policy) for arrays in batches
                    )
                self._engine = "litert"
                self._reason = self._reason or "this is a CPU, and the network converts"
                return self._runners[form]
            except (ImportError, NotImplementedError, RuntimeError, TypeError, ValueError) as error:
                if self._asked == "litert":
                    raise
                self._engine = "keras"
                self._reason = f"the network does not convert ({str(error).splitlines()[0][:200]})"
        if needs not in self._runners:
            self._runners[needs] = Stages(self.model, *needs).run
        return self._runners[needs]


def accelerator():
    """Returns why this machine is better served by Keras, or `None`."""
    import tensorflow as tf

    kinds = {device.device_type for device in tf.config.list_physical_devices()}
    kinds -= {"CPU", "XLA_CPU"}
    return f"there is a {min(kinds)}" if kinds else None
