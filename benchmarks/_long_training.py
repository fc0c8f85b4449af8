"""A training of many hours in one small file, which goes on where it was broken off.

Batches follow from the seed and the number of the step alone, and the rate from the step, so
that weights, momentum and the step are all that has to be kept. Weights are kept in float16, and
so is the momentum, divided by its largest value; the training itself goes on from what was kept,
so that one that was broken off is the same as one that was not.
"""

import csv
import hashlib
import io
import json
import signal
import time

import keras
import numpy as np

from keras_adaptive._files import write_whole

EVERY = 240  # seconds from one checkpoint to the next
PAD, HOLE = 4, 12  # pixels: of the random crop, and of the square that is blotted out


class LongTraining:
    """A training of one network on images in memory.

    Args:
        model: A compiled `AdaptiveModel` whose optimizer is SGD with momentum and a schedule.
        images, labels: Arrays, uint8 and integers.
        standardize: Function of uint8 images to what the network reads.
        path: Path of the checkpoint; a CSV file beside it holds a line per epoch.
        epochs, batch_size, seed: Integers.
        facts: Dictionary, what has to be the same for a checkpoint to be of this training.
    """

    def __init__(
        self, model, images, labels, standardize, path, *, epochs, batch_size, seed=0, facts=()
    ):
        self.model = model
        # in an order of their own, whatever order the files were read in
        digests = [hashlib.sha256(image.tobytes()).digest() for image in images]
        order = sorted(range(len(images)), key=lambda i: (digests[i], labels[i]))
        self.images, self.labels = images[order], np.asarray(labels)[order]
        self.standardize, self.path, self.seed = standardize, path, seed
        self.batch_size, self.steps = batch_size, len(images) // batch_size
        self.total = epochs * self.steps
        data = self.images.tobytes() + np.int64(self.labels).tobytes()
        data = hashlib.sha256(data).hexdigest()
        self.facts = {"data": data, "batch_size": batch_size, "seed": seed, **dict(facts)}
        self.facts = json.loads(json.dumps(self.facts))
        self.step, self.seconds, self.loss, self.curve = 0, 0.0, 0.0, []
        model.optimizer.build(model.trainable_variables)

    def batch(self, step):
        """Returns the images and labels of a step: shuffled, cropped, mirrored, a hole in each."""
        epoch, number = divmod(step, self.steps)
        order = np.random.default_rng((self.seed, epoch)).permutation(len(self.images))
        chosen = order[number * self.batch_size :][: self.batch_size]
        rng = np.random.default_rng((self.seed, epoch, number))
        images = self.images[chosen]
        count, height, width = images.shape[:3]
        padded = np.pad(images, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
        rows, columns = rng.integers(2 * PAD + 1, size=(2, count, 1))
        rows, columns = rows + np.arange(height), columns + np.arange(width)
        mirrored = rng.random((count, 1)) < 0.5
        columns = np.where(mirrored, columns[:, ::-1], columns)
        images = padded[np.arange(count)[:, None, None], rows[:, :, None], columns[:, None]]
        x = np.array(self.standardize(images))
        top, left = (rng.integers(1 - HOLE, n, size=(count, 1)) for n in (height, width))
        row, column = np.arange(height) - top, np.arange(width) - left
        row, column = (row >= 0) & (row < HOLE), (column >= 0) & (column < HOLE)
        x[row[:, :, None] & column[:, None]] = 0  # the mean of all images
        return x, self.labels[chosen]

    def run(self, validate, at_end=None):
        """Trains to the end, or to SIGTERM or Ctrl-C; returns whether the end was reached.

        Args:
            validate: Function without arguments to a list of numbers, the accuracy per exit.
            at_end: Function without arguments, called at the end of the training.
        """
        self.restore()
        ended = []
        before = {n: signal.signal(n, lambda n, _: ended.append(n)) for n in (15, 2)}
        last = mark = time.monotonic()
        try:
            while self.step < self.total and not ended:
                logs = self.model.train_on_batch(*self.batch(self.step), return_dict=True)
                self.loss = float(logs["loss"])
                self.step += 1
                now = time.monotonic()
                self.seconds += now - mark
                mark = now
                if self.step % self.steps == 0:
                    self.end_epoch(validate())
                if self.step % self.steps == 0 or now - last > EVERY or ended:
                    self.keep()
                    last = mark = time.monotonic()
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)
        if self.step < self.total:
            return False
        if at_end is not None:
            at_end()
        return True

    def end_epoch(self, accuracies):
        trained = self.seconds - (self.curve[-1]["seconds"] if self.curve else 0)
        row = {
            "epoch": self.step // self.steps,
            "seconds": round(self.seconds, 1),
            "images_per_second": round(self.steps * self.batch_size / max(trained, 1e-9), 1),
            "learning_rate": round(float(np.array(self.model.optimizer.learning_rate)), 6),
            "loss": round(self.loss, 4),
        }
        row |= {f"exit_{k}_accuracy": round(float(a), 4) for k, a in enumerate(accuracies)}
        self.curve.append(row)
        self.model.reset_metrics()
        print(json.dumps(row), flush=True)

    def keep(self):
        """Writes the checkpoint and the curve whole; goes on from what is in the checkpoint."""
        optimizer = self.model.optimizer
        moments = [np.array(v) for v in optimizer.momentums]
        scales = np.array([max(np.abs(m).max(), 1e-30) for m in moments], "float32")
        state = {
            "facts": np.array(json.dumps(self.facts)),
            "curve": np.array(json.dumps(self.curve)),
            "step": np.int64(self.step),
            "seconds": np.float64(self.seconds),
            "learned": _flat(self.model.trainable_variables, "float16"),
            "others": _flat(self.model.non_trainable_variables, "float32"),
            "scales": scales,
            "momentum": _flat([m / s for m, s in zip(moments, scales, strict=True)], "float16"),
        }
        file = io.BytesIO()
        np.savez_compressed(file, **state)
        self.path.parent.mkdir(parents=True, exist_ok=True)
        write_whole(self.path, file.getvalue())
        if self.curve:
            text = io.StringIO()
            rows = csv.DictWriter(text, self.curve[0], lineterminator="\n")
            rows.writeheader()
            rows.writerows(self.curve)
            write_whole(self.path.with_suffix(".csv"), text.getvalue())
        self._set(state)

    def restore(self):
        """Goes on from the checkpoint, where there is one."""
        if not self.path.exists():
            return
        with np.load(self.path, allow_pickle=False) as file:
            state = {name: file[name] for name in file.files}
        found = json.loads(str(state["facts"]))
        if found != self.facts:
            other = [k for k in {*found, *self.facts} if found.get(k) != self.facts.get(k)]
            raise ValueError(
                f"A checkpoint must be of the same training. Received: {self.path}, in which "
                f"{', '.join(sorted(other))} differ"
            )
        self.step, self.seconds = int(state["step"]), float(state["seconds"])
        self.curve = json.loads(str(state["curve"]))
        self._set(state)
        print(f"goes on from step {self.step:,} of {self.total:,}", flush=True)

    def _set(self, state):
        optimizer = self.model.optimizer
        optimizer.iterations.assign(int(state["step"]))
        _assign(self.model.trainable_variables, state["learned"])
        _assign(self.model.non_trainable_variables, state["others"])
        _assign(optimizer.momentums, state["momentum"], state["scales"])


def _flat(variables, dtype):
    return np.concatenate([np.array(v).ravel() for v in variables]).astype(dtype)


def _assign(variables, values, scales=None):
    position = 0
    for number, variable in enumerate(variables):
        size = int(np.prod(variable.shape))
        part = values[position : position + size].astype("float32").reshape(variable.shape)
        variable.assign(part if scales is None else part * scales[number])
        position += size
    if position != len(values):
        raise ValueError(
            f"A checkpoint must hold {position:,} numbers. Received: {len(values):,} numbers"
        )


def in_bfloat16(model):
    """Lets all layers but those that give logits compute in bfloat16; weights stay float32."""
    for layer in model._flatten_layers():
        if layer.name != "logits" and not list(layer._flatten_layers(include_self=False)):
            layer.dtype_policy = keras.DTypePolicy("mixed_bfloat16")
