"""Runs batches through the stages and regroups the samples that have not left into full ones."""

import functools

import keras
import numpy as np

from keras_adaptive.inference._memory import aligned, copy_rows

AT_ONCE = 64  # samples that run one by one before their answers are sorted


class Pool:
    """Samples that wait for a stage, in reused memory."""

    def __init__(self, names, specs, size):
        self.tensors = {name: aligned((size, *specs[name][0]), specs[name][1]) for name in names}
        self.owners = np.empty((size, 2), int)
        self.count = 0

    @property
    def room(self):
        return len(self.owners) - self.count

    def add(self, tensors, rows, owners):
        place = slice(self.count, self.count + len(rows))
        for name, kept in self.tensors.items():
            copy_rows(tensors[name], rows, kept[place])
        self.owners[place] = owners
        self.count += len(rows)

    def empty(self, size):
        """Returns a batch of this size, padded with copies; the real rows; and their owners."""
        count, self.count = self.count, 0
        for kept in self.tensors.values():
            kept[count:size] = kept[:1]
        tensors = {name: kept[:size] for name, kept in self.tensors.items()}
        return tensors, np.arange(count), self.owners[:count].copy()


class Flow:
    """One pass of samples through the stages.

    A sample is identified by its owner: the number of its input batch and its row there.

    Args:
        stages: `Stages`.
        exits: List of the exit's index of each stage.
        policy: A `Policy`.
        plan: `Plan`.
        answer: Function `(owners, answers, stage)`, called when samples leave.
    """

    def __init__(self, stages, exits, policy, plan, answer):
        self.stages, self.exits, self.policy = stages, exits, policy
        self.plan, self.answer = plan, answer
        self.batch_size = plan.batch_size
        # what the policy knows of each sample travels with the features
        known = policy.start(1, stages.classes)
        self._state = [f"state_{i} of the policy" for i in range(len(known))]
        sizes = ((part.shape[1:], part.dtype) for part in known)
        self._specs = stages.specs | dict(zip(self._state, sizes, strict=True))
        self._pools = [None] * len(stages)
        self._first = 1
        self._ending = False

    @functools.cached_property
    def _thresholds(self):
        own = self.policy.log_odds
        own = np.full(len(self.exits), np.inf) if own is None else own[self.exits]
        return keras.ops.convert_to_tensor(np.float32(own))

    def feed(self, images, number):
        """Takes an input batch; answers may come now or later."""
        owners = np.empty((len(images), 2), int)
        owners[:, 0], owners[:, 1] = number, range(len(images))
        rows, start = np.arange(len(images)), 0
        known = self.policy.start(len(images), self.stages.classes)
        tensors = {self.stages.inputs[0][0]: images, **dict(zip(self._state, known, strict=True))}
        while start < len(images):
            first = self.plan.choose()
            part = slice(start, start + (self.batch_size if first else AT_ONCE))
            if first:
                self._first = first
                # samples that must be answered at once do not wait for others
                self._ending = not self.plan.waiting and part.stop >= len(images)
                self._arrive(0, tensors, rows[part], owners[part])
            else:
                self._one_by_one(images[part], owners[part])
            start = part.stop

    def finish(self):
        """Answers all samples that still wait."""
        self._ending = True
        for k, pool in enumerate(self._pools):
            if pool is not None and pool.count:
                self._run(k, *pool.empty(self.plan.bucket(k, pool.count)))
        self._ending = False

    def _one_by_one(self, images, owners):
        function = functools.partial(self.plan.conditional, thresholds=self._thresholds)
        found = [function(images[i : i + 1]) for i in range(len(images))]
        answers, stages = (np.array(part) for part in zip(*found, strict=True))
        for k in np.unique(stages):
            mine = stages == k
            self._leave(k, answers[mine, 0], owners[mine])

    def _leaves(self, k, answers, tensors, rows):
        """Returns which samples leave: those that are confident, and those that must.

        What the policy knows of these rows is renewed.
        """
        classes = self.stages.classes
        logits = answers[..., :classes]
        state = tuple(tensors[name][rows] for name in self._state)
        leaves, state = self.policy.step(self.exits[k], logits, state)
        for name, part in zip(self._state, state, strict=True):
            tensors[name][rows] = part
        if k == len(self.stages) - 1:
            leaves = np.ones(len(answers), bool)
        if answers.shape[-1] > classes:
            leaves |= answers.reshape(len(answers), -1)[:, -1] > 0
        return leaves

    def _arrive(self, k, tensors, rows, owners):
        """Adds samples to those that wait for stage `k`, and runs it when they fill a batch."""
        if self._pools[k] is None:
            names = [*self.stages.carried(k), *self._state]
            self._pools[k] = Pool(names, self._specs, self.plan.full[k])
        pool = self._pools[k]
        while len(rows):
            part = slice(0, pool.room)
            pool.add(tensors, rows[part], owners[part])
            rows, owners = rows[part.stop :], owners[part.stop :]
            if not pool.room:
                self._run(k, *pool.empty(len(pool.owners)))

    def _run(self, k, tensors, rows, owners):
        """Runs stage `k`, or the first ones together, on a batch; passes on who has not left.

        `rows` are the real samples of the batch, `owners` their owners.
        """
        following = k + (1 if k else self._first)
        known = {name: tensors[name] for name in self._state}
        if following == k + 1:
            answers, *features = self.stages.stage(k, [tensors[n] for n in self.stages.inputs[k]])
            tensors = {**tensors, **dict(zip(self.stages.outputs[k], features, strict=True))}
            answers = [answers]
        else:
            answers, features = self.stages.first(following, tensors[self.stages.inputs[0][0]])
            tensors = dict(zip(self.stages.carried(following), features, strict=True)) | known
        for stage, found in enumerate(answers, start=k):
            found = np.asarray(found)[rows]
            leaves = self._leaves(stage, found, tensors, rows)
            self._leave(stage, found[leaves], owners[leaves], found)
            rows, owners = rows[~leaves], owners[~leaves]
            if not len(rows):
                return
        size = len(next(iter(tensors.values())))
        pool = self._pools[following]
        pooled = 0 if pool is None else pool.count
        if self.plan.regroup(following, size, len(rows), pooled, self._ending):
            self._arrive(following, tensors, rows, owners)
        else:
            self._run(following, tensors, rows, owners)

    def _leave(self, k, answers, owners, seen=None):
        if not np.isfinite(answers if seen is None else seen).all():
            raise ValueError(
                "The logits must be finite. Received: NaN or infinity at exit "
                f"{self.exits[k]}; look at `x` and at the weights"
            )
        self.plan.learn(k, len(owners))
        self.answer(owners, answers, k)
