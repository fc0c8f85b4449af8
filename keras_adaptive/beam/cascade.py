"""`Cascade`: a chain of exported files on Beam, each where its machines are."""

from typing import Any, NamedTuple

import numpy as np

from anytime_tflite import read_info
from keras_adaptive._checks import check_choice, needs_extra
from keras_adaptive.beam.handler import AdaptiveModelHandler, inferences, reachable, size
from keras_adaptive.policy.exit_policy import ExitPolicy

with needs_extra("beam"):
    import apache_beam
    from apache_beam.ml.inference.base import PredictionResult, RunInference

COMBINATIONS = ("mean_logits", "mean_probs", "last")  # as in `build_cascade`
TINIEST = np.float32(1.4e-45)  # the smallest probability above 0


class Cascade(apache_beam.PTransform):
    """Asks one exported network after another, as far as each sample needs, on Beam.

    Each member is a `RunInference` of its own, with its own batches and its own resource hints.
    Samples of which a member is not confident enough are regrouped, so that the next, larger one
    has full batches and runs only where it is needed. The answers are those of
    `ka.build_cascade` with the same members, policy and `combine` on one machine.

    Elements are as of `AdaptiveModelHandler`, results are Beam's `PredictionResult`, whose
    `inference` is a `ka.beam.Inference`: `exit` counts the exits of all members in their order,
    and `cost` is the sum of what the members asked have cost. The order of the samples is not
    kept, so give them keys.

    Args:
        paths: Sequence of the members' files, from small to large. Of a member with several
            exits the policy in its file chooses one, whose answer counts.
        policy: `ka.ExitPolicy` with a threshold for each member, as `ka.calibrate` returns it for
            the cascade; or a sequence of these thresholds.
        combine: As in `build_cascade`: `"mean_logits"`, `"mean_probs"` or `"last"`. Means are
            taken of what the members answer at the temperatures in their files.
        keyed: Boolean: elements are `(key, sample)`, and results `(key, PredictionResult)`.
        hints: Sequence of one dictionary per member, of Beam's resource hints:
            `[{"min_ram": "2GB"}, {"min_ram": "16GB", "accelerator": ...}]`.
        **kwargs: Of `AdaptiveModelHandler`, for every member.

    Raises:
        TypeError, ValueError: If the arguments do not fit each other, or a file is none of
            `export_tflite`.

    Example:

    ```python
    answers = images | ka.beam.Cascade(["small.tflite", "large.tflite"], [0.8, -np.inf])
    ```
    """

    def __init__(self, paths, policy, *, combine="mean_logits", keyed=False, hints=None, **kwargs):
        super().__init__()
        check_choice(COMBINATIONS, combine=combine)
        if isinstance(paths, (str, bytes)) or not len(paths):
            raise ValueError(f"`paths` must be a list of at least one file. Received: {paths=}")
        self.paths = [str(path) for path in paths]
        policy = policy if hasattr(policy, "decide") else ExitPolicy(policy)
        if type(policy) is not ExitPolicy or policy.worst_case is not None:
            raise ValueError(
                "`policy` must be an `ExitPolicy` without a worst case, which decides member by "
                f"member, or its thresholds. Received: policy={policy!r}"
            )
        if len(policy.thresholds) != len(self.paths):
            raise ValueError(
                "`policy` must have a threshold for each member. Received: "
                f"{len(policy.thresholds)} thresholds, {len(self.paths)} files"
            )
        self.hints = [{}] * len(self.paths) if hints is None else list(hints)
        if len(self.hints) != len(self.paths):
            raise ValueError(
                "`hints` must have a dictionary for each member. Received: "
                f"{len(self.hints)} of them, {len(self.paths)} files"
            )
        self.keyed = keyed
        self.members, first, labels = [], 0, set()
        for number, path in enumerate(self.paths):
            self.members.append(Member(path, policy, number, combine, first, **kwargs))
            info = read_info(reachable(path))
            first += len(info["thresholds"])
            if info.get("class_names") is not None:
                labels.add(tuple(info["class_names"]))
        if len(labels) > 1:
            raise ValueError(
                "The members must have the same classes. Received: files with other "
                f"`class_names`: {self.paths}"
            )

    def expand(self, samples):
        waiting, done = samples | "asked" >> apache_beam.Map(asked, self.keyed), []
        for number, (member, hints) in enumerate(zip(self.members, self.hints, strict=True)):
            name = f"member_{number}"
            infer = RunInference(member)
            answered = waiting | name >> (infer.with_resource_hints(**hints) if hints else infer)
            parted = answered | f"{name}_parted" >> apache_beam.ParDo(
                parted_by, self.keyed
            ).with_outputs("waiting", main="done")
            done.append(parted.done)
            waiting = parted.waiting | f"{name}_regrouped" >> apache_beam.Reshuffle()
        return done | apache_beam.Flatten()


class Asked(NamedTuple):
    """A sample between two members.

    Attributes:
        key: Any, of the user; `None` without keys.
        sample: The sample.
        total: Array `(classes,)`, the sum of what the members have said; `None`: nothing yet.
        cost: Float, what they have cost.
    """

    key: Any
    sample: Any
    total: Any = None
    cost: float = 0.0


def asked(element, keyed):
    return Asked(*element) if keyed else Asked(None, element)


def parted_by(answered, keyed):
    """Yields what leaves as users see it, and the other samples as the next member takes them."""
    leaves, value = answered.inference
    if not leaves:
        yield apache_beam.pvalue.TaggedOutput("waiting", value)
        return
    key, sample = answered.example.key, answered.example.sample
    result = PredictionResult(sample, value, answered.model_id)
    yield (key, result) if keyed else result


class Member(AdaptiveModelHandler):
    """One member of a cascade: decides, of a batch of `Asked`, which of them leave."""

    def __init__(self, path, policy, number, combine, first_exit, **kwargs):
        super().__init__(path, **kwargs)
        self._policy, self._number = policy, number
        self._combine, self._first_exit = combine, first_exit

    def run_inference(self, batch, model, inference_args=None):
        found = self._answers([asked.sample for asked in batch], model, inference_args)
        says = np.log(np.maximum(found.probabilities, TINIEST))
        says = found.probabilities if self._combine == "mean_probs" else says
        totals = says
        if self._number and self._combine != "last":
            totals = np.stack([asked.total for asked in batch]) + says
        logits = totals / np.float32(1 if self._combine == "last" else self._number + 1)
        logits = np.log(np.maximum(logits, TINIEST)) if self._combine == "mean_probs" else logits
        costs = found.costs + [asked.cost for asked in batch]
        leaves = self._policy.leaves(self._number, logits)
        tempered = logits / np.float32(self._policy.temperatures[self._number])
        exponentials = np.exp(tempered - tempered.max(axis=1, keepdims=True))
        probabilities = exponentials / exponentials.sum(axis=1, keepdims=True)
        exits = found.exits + self._first_exit
        answers = inferences(probabilities, logits.argmax(axis=1), exits, costs)
        for i, (asked, answer) in enumerate(zip(batch, answers, strict=True)):
            goes_on = asked._replace(total=totals[i], cost=float(costs[i]))
            inference = (True, answer) if leaves[i] else (False, goes_on)
            yield PredictionResult(asked, inference, self._path)

    def get_num_bytes(self, batch):
        return sum(size(asked.sample) for asked in batch)
