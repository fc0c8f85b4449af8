"""The engine `"keras"`: stage by stage; who has not left waits until a batch is full."""

import keras
import numpy as np

from keras_adaptive import _graph
from keras_adaptive.costs._beside import NAME, giving_costs, with_spending

ROUNDING = 1 + 1e-6  # of float32


class Stages:
    """The stages between the exits in use, compiled; the weights are read at every call.

    Args:
        model: An `AdaptiveModel`.
        exits: Indices of the exits in use.
        limit: Number, the most that a sample may cost, in a network with gates; or `None`.
    """

    def __init__(self, model, exits, limit=None):
        self.model, self.limit = model, limit
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

    def _prices(self, arrays):
        """Returns what leaving at each exit in use costs one of these samples, besides gates."""
        if self.fixed is not None:
            return self.fixed
        is_open = any(None in tensor.shape[1:] for tensor in self.model.inputs)
        shapes = [array.shape[1:] for array in arrays] if is_open else None
        return self.model.exit_costs(exits=self.exits, input_shape=shapes)

    def run(self, policy, batches, size, waiting):
        """Yields logits, exits and costs of each batch, in order.

        Args:
            policy: A `Policy`.
            batches: Iterable of lists of arrays, one per input.
            size: Integer, how many samples are computed together.
            waiting: Integer, how many batches may wait for their answer.
        """
        pending, known = {}, {}
        flow = _Flow(self, policy, size)

        def ready():
            while pending and not next(iter(pending.values())).missing:
                found = pending.pop(next(iter(pending)))
                yield found.logits, np.array(self.exits)[found.stages], found.costs

        for number, arrays in enumerate(batches):
            shapes = tuple(array.shape[1:] for array in arrays)
            if shapes not in known:
                known[shapes] = self._prices(arrays)
            pending[number] = _Answers(len(arrays[0]), known[shapes])
            flow.feed(pending[number], arrays)
            yield from ready()
            if len(pending) > waiting:
                flow.finish()
                yield from ready()
        flow.finish()
        yield from ready()


def _compiled(model, may_jit):
    """Returns a function of a list of tensors, which returns a list of them."""
    backend = keras.backend.backend()
    if backend == "tensorflow":
        import tensorflow as tf

        function = tf.function(
            lambda *tensors: model(list(tensors), training=False),
            input_signature=[tf.TensorSpec(t.shape, t.dtype) for t in model.inputs],
            autograph=False,
            jit_compile=may_jit and model.jit_compile,
        )
        return lambda tensors: function(*tensors)
    if backend == "jax":
        import jax

        function = jax.jit(lambda *given: model.stateless_call(*given, training=False)[0])
        kinds = (model.trainable_variables, model.non_trainable_variables)
        return lambda tensors: function(*([v.value for v in kind] for kind in kinds), tensors)
    import torch

    return torch.no_grad()(lambda tensors: model(tensors, training=False))


class _Answers:
    """The answers to one batch so far."""

    def __init__(self, samples, prices):
        self.missing, self.prices, self.logits = samples, prices, None
        self.stages, self.costs = np.empty(samples, int), np.empty(samples)

    def add(self, rows, logits, stages, spent):
        if self.logits is None:
            self.logits = np.empty((len(self.stages), *logits.shape[1:]), "float32")
        self.logits[rows], self.stages[rows] = logits, stages
        self.costs[rows] = self.prices[stages] + spent
        self.missing -= len(rows)


class _Flow:
    """One pass of samples through the stages.

    What belongs to samples is in one dictionary of tensors and numpy arrays, which are taken
    apart and put together alike: features, what the policy knows, whose they are and which row.
    """

    def __init__(self, stages, policy, size):
        self.stages, self.policy, self.size = stages, policy, size
        self.groups = [[] for _ in stages.exits]  # of samples that wait for a stage
        self.states = [f"state {i}" for i in range(len(policy.start(1, stages.classes)))]
        before = [] if stages.limit is None else ["logits before", "spent before"]
        self.kept = ["owner", "row", *self.states, *before]

    def feed(self, owner, arrays):
        """Takes a batch; answers may come now or later."""
        for start in range(0, len(arrays[0]), self.size):
            group = {f"input_{i}": a[start : start + self.size] for i, a in enumerate(arrays)}
            count = len(group["input_0"])
            state = self.policy.start(count, self.stages.classes)
            group |= dict(zip(self.states, state, strict=True))
            group |= {"owner": np.full(count, owner), "row": np.arange(start, start + count)}
            self._run(0, group)

    def finish(self):
        """Answers all samples that still wait."""
        for k, groups in enumerate(self.groups):
            if groups:
                self._run(k, self._gathered(k))

    def _gathered(self, k):
        groups, self.groups[k] = self.groups[k], []
        if len(groups) == 1:
            return groups[0]
        return {name: _joined([group[name] for group in groups]) for name in groups[0]}

    def _run(self, k, group):
        """Runs a stage on a batch; answers who leaves, and passes the others on."""
        stages, count = self.stages, len(group["row"])
        padded = 1 << (count - 1).bit_length() if stages.pads else count
        reads = [group[name] for name in stages.reads[k]]
        if padded > count:
            reads = [_rows(tensor, np.arange(padded) % count) for tensor in reads]
        found = stages.functions[k](list(map(keras.ops.convert_to_tensor, reads)))
        found = dict(zip(["logits", *stages.adds[k]], found, strict=True))
        logits = _host(found.pop("logits"))[:count].astype("float32", copy=False)
        if not np.isfinite(logits).all():
            raise ValueError(
                "The logits must be finite. Received: NaN or infinity at exit "
                f"{stages.exits[k]}; look at `x` and at the weights"
            )
        state = tuple(group[name] for name in self.states)
        leaves, state = self.policy.step(stages.exits[k], logits, state)
        leaves = np.asarray(leaves) | (k == len(stages.exits) - 1)
        spent = _host(found[NAME])[:count, 0] if NAME in found else np.zeros(count)
        answer = logits, np.full(count, k), spent
        if stages.limit is not None:
            answer = self._within_limit(group, leaves, *answer)
        for owner in set(group["owner"][leaves]):
            mine = leaves & (group["owner"] == owner)
            owner.add(group["row"][mine], *(part[mine] for part in answer))
        staying = np.flatnonzero(~leaves)
        if len(staying):
            group = group | found | dict(zip(self.states, state, strict=True))
            group |= {"logits before": logits, "spent before": spent}
            group = {name: group[name] for name in (*stages.carried[k + 1], *self.kept)}
            self._wait(k + 1, group if len(staying) == padded else _some(group, staying))

    def _within_limit(self, group, leaves, logits, at, spent):
        """Has who cannot afford this exit, or the next, leave; returns who answers what."""
        limit, fixed, k = self.stages.limit * ROUNDING, self.stages.fixed, at[0]
        over = spent + fixed[k] > limit
        if k == 0 and over.any():
            raise ValueError(
                "`worst_case` must be at least the cost of leaving at the first exit, for every "
                f"sample. Received: worst_case={self.stages.limit} for one that costs "
                f"{fixed[0] + spent[over].min():.10g} there"
            )
        leaves |= over
        if k + 1 < len(fixed):
            leaves |= spent + fixed[k + 1] > limit
        if over.any():
            wide = over.reshape(-1, *[1] * (logits.ndim - 1))
            logits = np.where(wide, group["logits before"], logits)
            at, spent = at - over, np.where(over, group["spent before"], spent)
        return logits, at, spent

    def _wait(self, k, group):
        """Adds samples to those that wait for a stage, and runs it when they fill a batch."""
        first = self.groups[k][0] if self.groups[k] else group
        if any(first[n].shape[1:] != t.shape[1:] for n, t in group.items()):
            self._run(k, self._gathered(k))  # of another size: they cannot be computed together
        self.groups[k].append(group)
        count = sum(len(each["row"]) for each in self.groups[k])
        if count >= self.size:
            group = self._gathered(k)
            if count > self.size:
                self.groups[k] = [_some(group, np.arange(self.size, count))]
                group = _some(group, np.arange(self.size))
            self._run(k, group)


def _host(tensor):
    return keras.ops.convert_to_numpy(tensor)


def _some(group, rows):
    return {name: _rows(tensor, rows) for name, tensor in group.items()}


def _rows(tensor, rows):
    """Returns some rows, where the tensor is: on the host or on a device."""
    host = isinstance(tensor, np.ndarray)
    return tensor[rows] if host else keras.ops.take(tensor, rows, axis=0)


def _joined(tensors):
    if all(isinstance(tensor, np.ndarray) for tensor in tensors):
        return np.concatenate(tensors)
    return keras.ops.concatenate([keras.ops.convert_to_tensor(t) for t in tensors])
