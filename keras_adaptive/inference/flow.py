"""Carries samples from stage to stage and keeps every batch full."""

import numpy as np

from keras_adaptive.inference.memory import aligned, copy_rows
from keras_adaptive.inference.timings import bucket

AT_ONCE = 64  # samples that run one by one before their answers are sorted


class Pool:
    """Samples that wait for a stage, in memory that is used again and again."""

    def __init__(self, names, specs, batch_size):
        self.tensors = {
            name: aligned((batch_size, *specs[name][0]), specs[name][1]) for name in names
        }
        self.owners = np.empty((batch_size, 2), int)
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
        """Returns a batch of this size, filled up with copies, and whose samples are real."""
        count, self.count = self.count, 0
        for kept in self.tensors.values():
            kept[count:size] = kept[:1]
        tensors = {name: kept[:size] for name, kept in self.tensors.items()}
        return tensors, np.arange(count), self.owners[:count].copy()


class Flow:
    """One pass over some samples.

    A sample is known by its owner: the number of its input batch and its row there.

    Args:
        stages: `Stages`.
        exits: List of the exit's index of each stage.
        policy: An `ExitPolicy`.
        plan: `Plan`.
        conditional: Function of one sample, or `None`.
        answer: Function `(owners, answers, stage)`, called when samples leave.
    """

    def __init__(self, stages, exits, policy, plan, conditional, answer):
        self.stages, self.exits, self.policy = stages, exits, policy
        self.plan, self.conditional, self.answer = plan, conditional, answer
        self.batch_size = plan.batch_size
        self._pools = [None] * len(stages)
        self._ending = False

    def feed(self, images, number):
        """Takes an input batch; answers may come now or later."""
        owners = np.empty((len(images), 2), int)
        owners[:, 0], owners[:, 1] = number, range(len(images))
        start = 0
        while start < len(images):
            way = self.plan.choose()
            part = slice(start, start + (AT_ONCE if way == "one by one" else self.batch_size))
            if way == "one by one":
                self._one_by_one(images[part], owners[part])
            elif way == "together":
                self._together(images[part], owners[part])
            else:
                tensors = {self.stages.takes[0][0]: images}
                self._arrive(0, tensors, np.arange(len(images))[part], owners[part])
            start = part.stop

    def finish(self):
        """Answers whoever still waits."""
        self._ending = True
        for k, pool in enumerate(self._pools):
            if pool is not None and pool.count:
                self._run(k, *pool.empty(self._bucket(pool.count)))
        self._ending = False

    def _bucket(self, samples):
        return bucket(samples, self.batch_size)

    def _one_by_one(self, images, owners):
        found = [self.conditional(images[i : i + 1]) for i in range(len(images))]
        answers, stages = (np.array(part) for part in zip(*found, strict=True))
        for k in np.unique(stages):
            mine = stages == k
            self._leave(k, answers[mine, 0], owners[mine])

    def _together(self, images, owners):
        count, size = len(images), self._bucket(len(images))
        if size > count:
            images = np.concatenate([images, np.repeat(images[:1], size - count, axis=0)])
        here = np.arange(count)
        for k, answers in enumerate(self.stages.together(images)):
            answers = np.asarray(answers)
            leaves = self._leaves(k, answers[here])
            self._leave(k, answers[here[leaves]], owners[here[leaves]], answers[here])
            here = here[~leaves]
            if not len(here):
                break

    def _leaves(self, k, answers):
        """Returns which samples leave: those that are sure, and those that must."""
        classes = self.stages.classes
        leaves = self.policy.leaves(self.exits[k], answers[..., :classes])
        if answers.shape[-1] > classes:
            leaves |= answers.reshape(len(answers), -1)[:, -1] > 0
        return leaves

    def _arrive(self, k, tensors, rows, owners):
        """Adds samples to those that wait for stage `k`, and runs it when they fill a batch."""
        if self._pools[k] is None:
            new = {name for gives in self.stages.gives[k:] for name in gives}
            names = {name for takes in self.stages.takes[k:] for name in takes} - new
            self._pools[k] = Pool(sorted(names), self.stages.specs, self.batch_size)
        pool = self._pools[k]
        while len(rows):
            part = slice(0, pool.room)
            pool.add(tensors, rows[part], owners[part])
            rows, owners = rows[part.stop :], owners[part.stop :]
            if not pool.room:
                self._run(k, *pool.empty(self.batch_size))

    def _run(self, k, tensors, rows, owners):
        """Runs stage `k` on a batch and sends on who stays.

        `rows` are the samples of the batch that count, `owners` whose they are.
        """
        answers, *features = self.stages.stage(k, [tensors[n] for n in self.stages.takes[k]])
        answers = np.asarray(answers)[rows]
        leaves = self._leaves(k, answers)
        self._leave(k, answers[leaves], owners[leaves], answers)
        if leaves.all():
            return
        rows, owners = rows[~leaves], owners[~leaves]
        tensors = {**tensors, **dict(zip(self.stages.gives[k], features, strict=True))}
        size = len(next(iter(tensors.values())))
        pool = self._pools[k + 1]
        waiting = 0 if pool is None else pool.count
        if self.plan.regroup(k + 1, size, len(rows), waiting, self._ending, self._bucket):
            self._arrive(k + 1, tensors, rows, owners)
        else:
            self._run(k + 1, tensors, rows, owners)

    def _leave(self, k, answers, owners, seen=None):
        if not np.isfinite(answers if seen is None else seen).all():
            raise ValueError(
                "The logits must be finite. Received: NaN or infinity at exit "
                f"{self.exits[k]}; look at `x` and at the weights"
            )
        self.plan.learn(k, len(owners))
        self.answer(owners, answers, k)
