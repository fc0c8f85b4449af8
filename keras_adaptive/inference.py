"""Runs a network so that it really stops: a stage is computed only for who is left."""

from typing import NamedTuple

import keras
import numpy as np

from keras_adaptive import graph
from keras_adaptive.policy import ExitPolicy, softmax
from keras_adaptive.training import AdaptiveModel


class Result(NamedTuple):
    """The answers to a batch of inputs, in input order.

    Attributes:
        probabilities: `(samples, classes)`, of the exit a sample left at.
        labels: `(samples,)`, the most probable class.
        exits: `(samples,)`, the exit a sample left at.
        costs: `(samples,)`, MACs spent on a sample. Closed exits cost nothing.
    """

    probabilities: np.ndarray
    labels: np.ndarray
    exits: np.ndarray
    costs: np.ndarray


class AdaptivePredictor:
    """Predicts stage by stage and carries on only the samples that have not left.

    The exits are those `policy.decide` chooses on the full logits; the other exits of
    a sample are never computed, nor are heads that the policy closes.

    Args:
        model: An `AdaptiveModel`. Its weights are shared, not copied.
        policy: An `ExitPolicy` with one threshold an exit.

    Raises:
        ValueError: If the policy is for another number of exits.

    Example:

    >>> from keras_adaptive import build_msdnet
    >>> model = build_msdnet((8, 8, 1), 10, blocks=2, channels=4, growth_rate=2)
    >>> predictor = AdaptivePredictor(model, ExitPolicy([0.0, 0.0]))
    >>> predictor.predict(np.zeros((3, 8, 8, 1))).exits.tolist()
    [0, 0, 0]
    """

    def __init__(self, model, policy):
        if not isinstance(model, AdaptiveModel):
            raise TypeError(f"`model` must be an AdaptiveModel. Received: model={model!r}")
        if not isinstance(policy, ExitPolicy):
            raise TypeError(f"`policy` must be an ExitPolicy. Received: policy={policy!r}")
        if len(policy.thresholds) != model.exits:
            raise ValueError(
                "`policy` must have one threshold an exit of the model. Received: "
                f"{len(policy.thresholds)} thresholds, {model.exits} exits"
            )
        policy.check_thresholds_suffice()
        self.model = model
        self.policy = policy
        self._exits = policy.used_exits
        self._costs = model.exit_costs(exits=self._exits)
        self._stages = graph.lean_models(model.inputs, [model.outputs[k] for k in self._exits])

    def predict(self, x, batch_size=256):
        """Returns the answers to all samples.

        Args:
            x: Array `(samples, ...)`, as the model takes it.
            batch_size: Integer, how many samples start together.

        Returns:
            A `Result`.
        """
        x = self._check(x, batch_size)
        parts = [self._batch(x[i : i + batch_size]) for i in range(0, len(x), batch_size)]
        logits, positions = (np.concatenate(part) for part in zip(*parts, strict=True))
        exits = np.array(self._exits)[positions]
        probabilities = softmax(logits / self.policy.temperatures[exits][:, None])
        return Result(
            probabilities.astype("float32"),
            logits.argmax(axis=-1),
            exits,
            self._costs[positions],
        )

    def _batch(self, x):
        """Returns the logits a batch leaves with and the index of the stage it leaves at."""
        tensors = {"input_0": x}
        rows = np.arange(len(x))  # of the batch, of those still here
        position = np.zeros(len(x), int)
        answers = None
        for i, (stage, takes, gives) in enumerate(self._stages):
            logits, *features = stage.predict_on_batch([tensors[name] for name in takes])
            if not np.isfinite(logits).all():
                raise ValueError(
                    "The logits must be finite. Received: NaN or infinity at exit "
                    f"{self._exits[i]}; look at `x` and at the weights"
                )
            if answers is None:
                answers = np.empty((len(x), logits.shape[-1]), "float32")
            leaves = self.policy.leaves(self._exits[i], logits)
            answers[rows[leaves]] = logits[leaves]
            position[rows[leaves]] = i
            if leaves.all():
                break
            rows = rows[~leaves]
            tensors.update(zip(gives, features, strict=True))
            tensors = {name: tensor[~leaves] for name, tensor in tensors.items()}
        return answers, position

    def _check(self, x, batch_size):
        if isinstance(batch_size, bool) or not isinstance(batch_size, int) or batch_size < 1:
            raise ValueError(
                f"`batch_size` must be an integer of at least 1. Received: batch_size={batch_size}"
            )
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
        return x.astype(keras.backend.standardize_dtype(self.model.inputs[0].dtype), copy=False)
