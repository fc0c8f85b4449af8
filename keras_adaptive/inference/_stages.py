"""The engine `"keras"`: stage by stage; who has not left waits until a batch is full."""

import functools

import keras
import numpy as np

from anytime_tflite import BatchResult
from keras_adaptive import _graph
from keras_adaptive.costs._beside import NAME, giving_costs, with_spending
from keras_adaptive.policy.confidence import softmax

ROUNDING = 1 + 1e-6  # of float32


class Stages:
    """The stages between the exits in use, compiled; the weights are read at every call.

    Args:
        model: An `AdaptiveModel`.
        exits: Indices of the exits in use.
        limit: Number, the most that a sample may cost, in a network with gates; or `None`.
    """

    def __init__(self, model, exits, limit=None):
        self.model, self.limit = model, np.inf if limit is None else limit * ROUNDING
        # who must not spend more may have to leave anywhere
        self.exits = list(exits if limit is None else range(exits[-1] + 1))
        answers = [model.outputs[k] for k in self.exits]
        answers, self.fixed = with_spending(model.inputs, answers)
        # blocks then run on the samples that need them, where shapes may depend on values
        skips = self.fixed is not None and keras.backend.backend() == "tensorflow"
        stages = _graph.minimal_stages(model.inputs, answers, "gather" if skips else None)
        models, self.reads, self.adds = zip(*giving_costs(stages), strict=True)
        # XLA compiles every batch size anew
        self.pads = (models[0].jit_compile or keras.backend.backend() == "jax") and not skips
        self.functions = [_compiled(each, not skips) for each in models]
        self.carried = [
            _graph.external_inputs(self.reads[k:], self.adds[k:]) for k in range(len(models))
        ]
        self.classes = answers[0].shape[-1]
        self.prices = functools.cache(self._prices)  # by the sizes of the inputs

    def _prices(self, shapes):
        """Returns what leaving at each exit in use costs a sample, besides gates."""
        if self.fixed is not None:
            return self.fixed
        is_open = any(None in tensor.shape[1:] for tensor in self.model.inputs)
        return self.model.exit_costs(exits=self.exits, input_shape=shapes if is_open else None)

    def run(self, policy, batches, size, waiting):
        """Yields the `BatchResult` of each batch, a list of one array per input, in order.

        So many samples as `size` are computed together; as many batches as `waiting` may wait.
        """
        flow, pending = _Flow(self, policy, size), []
        for arrays in batches:
            pending.append(_Answers(len(arrays[0])))
            flow.feed(pending[-1], arrays)
            while pending and (len(pending) > waiting or not pending[0].missing):
                if pending[0].missing:
                    flow.advance()
                yield pending.pop(0).result(policy)
        flow.advance()
        yield from (answers.result(policy) for answers in pending)


def _compiled(model, may_jit):
    """Returns a function of a list of tensors, which returns a list of them."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        return tf.function(
            lambda tensors: model(tensors, training=False),
            input_signature=[[tf.TensorSpec(t.shape, t.dtype) for t in model.inputs]],
            autograph=False,
            jit_compile=may_jit and model.jit_compile,
        )
    if backend == "jax":
        import jax

        function = jax.jit(lambda *given: model.stateless_call(*given, training=False)[0])
        kinds = (model.trainable_variables, model.non_trainable_variables)
        return lambda tensors: function(*([v.value for v in kind] for kind in kinds), tensors)
    import torch

    return torch.no_grad()(lambda tensors: model(tensors, training=False))


class _Answers:
    """The answers to one batch so far: of each sample that of the last exit it could afford."""

    def __init__(self, samples):
        self.missing, self.logits = samples, None
        self.exits, self.costs = np.empty(samples, int), np.empty(samples)

    def add(self, rows, logits, exit, costs):
        if self.logits is None:
            self.logits = np.empty((len(self.exits), *logits.shape[1:]), "float32")
        self.logits[rows], self.exits[rows], self.costs[rows] = logits, exit, costs

    def result(self, policy):
        divisors = 1 if policy.temperatures is None else policy.temperatures[self.exits]
        divisors = np.reshape(divisors, (-1, *[1] * (self.logits.ndim - 1)))
        probabilities = softmax(self.logits / divisors).astype("float32")
        return BatchResult(probabilities, self.logits.argmax(axis=-1), self.exits, self.costs)


class _Flow:
    """One pass of samples through the stages.

    What belongs to samples is a structure of tensors and numpy arrays, which are taken apart and
    put together alike: features, what the policy knows, whose they are and which row.
    """

    def __init__(self, stages, policy, size):
        self.stages, self.policy, self.size = stages, policy, size
        self.groups = [[] for _ in stages.exits]  # of samples that wait for a stage
        self.shapes = self.prices = None

    def feed(self, owner, arrays):
        """Takes a batch; answers may come now or later."""
        shapes = tuple(array.shape[1:] for array in arrays)
        if shapes != self.shapes:  # they cannot be computed together
            self.advance()
            self.shapes, self.prices = shapes, self.stages.prices(shapes)
        count = len(arrays[0])
        group = {
            "features": {f"input_{i}": array for i, array in enumerate(arrays)},
            "state": self.policy.start(count, self.stages.classes),
            "owner": np.full(count, owner),
            "row": np.arange(count),
        }
        for start in range(0, count, self.size):
            self.groups[0].append(_some(group, slice(start, start + self.size)))
            self.advance(self.size)

    def advance(self, least=1):
        """Runs each stage for which at least so many samples wait."""
        for k in range(len(self.groups)):
            while sum(len(group["row"]) for group in self.groups[k]) >= least:
                self._run(k, self._taken(k))

    def _taken(self, k):
        """Returns who waits for a stage, together; those beyond a batch wait on."""
        group = keras.tree.map_structure(_joined, *self.groups[k])
        first, rest = np.split(np.arange(len(group["row"])), [self.size])
        self.groups[k] = [_some(group, rest)] if len(rest) else []
        return _some(group, first) if len(rest) else group

    def _run(self, k, group):
        """Runs a stage on a batch; answers who leaves, and passes the others on."""
        stages, count, exit = self.stages, len(group["row"]), self.stages.exits[k]
        padded = 1 << (count - 1).bit_length() if stages.pads else count
        reads = [group["features"][name] for name in stages.reads[k]]
        if padded > count:
            reads = [_rows(tensor, np.arange(padded) % count) for tensor in reads]
        found = stages.functions[k](list(map(keras.ops.convert_to_tensor, reads)))
        found = dict(zip(["logits", *stages.adds[k]], found, strict=True))
        host = {name: found.pop(name) for name in ("logits", NAME) if name in found}
        host = {name: keras.ops.convert_to_numpy(z)[:count] for name, z in host.items()}
        logits = host["logits"].astype("float32", copy=False)
        if not np.isfinite(logits).all():
            raise ValueError(
                "The logits must be finite. Received: NaN or infinity at exit "
                f"{exit}; look at `x` and at the weights"
            )
        leaves, state = self.policy.step(exit, logits, group["state"])
        # of this exit, and at least of the next
        costs = host.get(NAME, np.zeros((count, 1))) + self.prices[k : k + 2]
        affords = costs <= stages.limit
        if k == 0 and not affords[:, 0].all():
            raise ValueError(
                "`worst_case` must be at least the cost of leaving at the first exit, for every "
                f"sample. Received: worst_case={self.policy.worst_case} for one that costs "
                f"{costs[:, 0].max():.10g} there"
            )
        leaves = np.asarray(leaves) | ~affords.all(axis=1) | (k == len(stages.exits) - 1)
        for owner in set(group["owner"]):
            mine = group["owner"] == owner
            some = mine & affords[:, 0]
            owner.add(group["row"][some], logits[some], exit, costs[some, 0])
            owner.missing -= np.count_nonzero(mine & leaves)
        staying = np.flatnonzero(~leaves)
        if len(staying):
            features = group["features"] | found
            features = {name: features[name] for name in stages.carried[k + 1]}
            group = {**group, "features": features, "state": state}
            group = group if len(staying) == padded else _some(group, staying)
            self.groups[k + 1].append(group)


def _some(group, rows):
    return keras.tree.map_structure(lambda tensor: _rows(tensor, rows), group)


def _rows(tensor, rows):
    """Returns some rows, where the tensor is: on the host or on a device."""
    on_host = isinstance(tensor, np.ndarray)
    return tensor[rows] if on_host else keras.ops.take(tensor, rows, axis=0)


def _joined(*tensors):
    if len(tensors) == 1:
        return tensors[0]
    on_host = isinstance(tensors[0], np.ndarray)
    return np.concatenate(tensors) if on_host else keras.ops.concatenate(tensors)
