"""Trains a network that comes with the library on one GPU, at the published length.

    KERAS_BACKEND=jax python -m benchmarks.gpu.train cifar10_resnet9 --data cifar10_jpeg.tar.xz

What must be installed: JAX for the GPU, keras, numpy, scipy, h5py, Pillow and this library.
TensorFlow need not be, and nothing is downloaded: the images are decoded from the tar file and
stay on the GPU, where they are cropped, mirrored and blotted out. An epoch is one call, in
bfloat16 on a GPU. Images, split, network, loss and recipe are those of
`python -m benchmarks.networks NAME`; only batches are larger, with the rate in proportion.

Where the time does not suffice for all epochs, as many are trained as it does. `--out` gets a
checkpoint of 1 to 11 MB, from which the same command goes on, the curve of accuracies beside it,
the weights (`NAME.weights.h5`, for `benchmarks.shipped`), and a table in `table.md`.
"""

import argparse
import dataclasses
import io
import json
import os
import random
import tarfile
import time
from pathlib import Path

os.environ.setdefault("KERAS_BACKEND", "jax")

import jax
import jax.numpy as jnp
import keras
import numpy as np
from PIL import Image

import keras_adaptive as ka
from benchmarks import _rows, common
from benchmarks._long_training import HOLE, PAD, LongTraining, in_bfloat16
from benchmarks.networks import CIFAR10_DISTILLATION, EXIT_WEIGHTS, LONG, facts
from keras_adaptive._files import write_whole

EPOCHS, BATCH = 300, 512  # the MSDNet paper's epochs
SPARE = 40  # seconds of the time that are left for the table
HELD_OUT = 0.1  # of each class of the training images
SHARES = (0.3, 0.5, 0.8)  # of the full cost


def read(path):
    """Returns the images and labels of train, calibrate and test, as `ka.data.load` splits them.

    Args:
        path: Tar file of `<any>/train/<class>/*` and `<any>/test/<class>/*`.
    """
    entries = {"train": [], "test": []}
    with tarfile.open(path) as archive:
        for member in archive:
            *_, split, label, name = ("", "", *member.name.split("/"))
            if member.isfile() and split in entries and not name.startswith("."):
                picture = Image.open(io.BytesIO(archive.extractfile(member).read()))
                pixels = np.asarray(picture.convert("RGB"))
                entries[split].append((member.name.split("/"), label, pixels))
    names = sorted({label for part in entries.values() for _, label, _ in part})
    arrays = {}
    for split, part in entries.items():
        part.sort(key=lambda entry: entry[0])
        random.Random(0).shuffle(part)
        images = np.stack([pixels for *_, pixels in part])
        arrays[split] = images, np.array([names.index(label) for _, label, _ in part])
    images, labels = arrays["train"]
    cut = np.zeros(len(labels), bool)
    for label in range(len(names)):
        own = np.flatnonzero(labels == label)
        cut[own[len(own) - round(HELD_OUT * len(own)) :]] = True
    arrays["train"], arrays["calibrate"] = (
        (images[~cut], labels[~cut]),
        (images[cut], labels[cut]),
    )
    return arrays


def augmented(images, key):
    """Returns images as `LongTraining.batch` changes them, and where their holes are."""
    count, height, width = images.shape[:3]
    keys = jax.random.split(key, 5)
    padded = jnp.pad(images, ((0, 0), (PAD, PAD), (PAD, PAD), (0, 0)))
    rows, columns = (jax.random.randint(k, (count, 1), 0, 2 * PAD + 1) for k in keys[:2])
    rows, columns = rows + jnp.arange(height), columns + jnp.arange(width)
    mirrored = jax.random.bernoulli(keys[2], 0.5, (count, 1))
    columns = jnp.where(mirrored, columns[:, ::-1], columns)
    images = padded[jnp.arange(count)[:, None, None], rows[:, :, None], columns[:, None]]
    top, left = (
        jax.random.randint(k, (count, 1), 1 - HOLE, n)
        for k, n in zip(keys[3:], (height, width), strict=True)
    )
    row, column = jnp.arange(height) - top, jnp.arange(width) - left
    row, column = (row >= 0) & (row < HOLE), (column >= 0) & (column < HOLE)
    return images, row[:, :, None] & column[:, None]


def state_of(model):
    """Returns all that changes in a step."""
    return tuple(
        [jnp.array(v.value) for v in variables]
        for variables in (
            model.trainable_variables,
            model.non_trainable_variables,
            model.optimizer.variables,
        )
    )


def give(model, state):
    """Gives a model the values of a state."""
    learned, others, optimizer = state
    for variables, values in (
        (model.trainable_variables, learned),
        (model.non_trainable_variables, others),
        (model.optimizer.variables, optimizer),
    ):
        for variable, value in zip(variables, values, strict=True):
            variable.assign(value)


def programs(model, standardize, weights):
    """Returns two functions: one epoch, compiled, and the logits of images.

    Args:
        model: A compiled `AdaptiveModel`.
        standardize: Function of uint8 images to what the network reads.
        weights: Of the exits in the loss, `None` for 1 each.
    """
    weights = weights or [1.0] * model.exits
    (rate_at,) = (i for i, v in enumerate(model.optimizer.variables) if v.name == "learning_rate")
    cross_entropy = keras.losses.SparseCategoricalCrossentropy(from_logits=True)
    distillation = ka.training.Distillation(**CIFAR10_DISTILLATION)

    def loss_of(learned, others, x, y):
        """The loss of `compile(distillation=)`, without the metrics that Keras keeps of it."""
        logits, others = model.stateless_call(learned, others, x, training=True)
        *early, last = (w * cross_entropy(y, z) for w, z in zip(weights, logits, strict=True))
        loss = (1 - distillation.weight) * sum(early) + last
        teacher = distillation.teacher_logits(x, logits)
        return loss + distillation.loss(teacher, logits, weights), others

    def step(images, labels, state, what):
        chosen, rate, key = what
        pictures, holes = augmented(images[chosen], key)
        x = jnp.where(holes[..., None], 0.0, standardize(pictures))
        learned, others, optimizer = state
        (loss, others), gradients = jax.value_and_grad(loss_of, has_aux=True)(
            learned, others, x, labels[chosen]
        )
        optimizer = [*optimizer[:rate_at], rate, *optimizer[rate_at + 1 :]]
        learned, optimizer = model.optimizer.stateless_apply(optimizer, gradients, learned)
        return (list(learned), list(others), list(optimizer)), loss

    @jax.jit
    def epoch(state, images, labels, order, rates, key):
        steps = order, rates, jax.random.split(key, len(rates))
        state, losses = jax.lax.scan(
            lambda state, what: step(images, labels, state, what), state, steps
        )
        return state, losses.mean()

    @jax.jit
    def answers(state, images):
        def batch(pictures):
            logits, _ = model.stateless_call(*state[:2], standardize(pictures), training=False)
            return jnp.stack(logits)

        return jax.lax.map(batch, images)

    def logits(state, images):
        size = next(n for n in (500, 100, 10, 1) if len(images) % n == 0)
        found = answers(state, jnp.array(images).reshape(-1, size, *images.shape[1:]))
        found = np.asarray(found, "float32").swapaxes(0, 1)
        return found.reshape(len(found), len(images), -1)

    return epoch, logits


def train(data, out, *, name, network=None, epochs=EPOCHS, batch_size=BATCH, minutes=6.0):
    """Trains, and writes everything into a folder; returns the row of the table."""
    begin = time.monotonic()
    build, arguments, recipe = LONG[name]
    weights = EXIT_WEIGHTS.get(name) if network is None else None
    network = network or arguments
    out.mkdir(parents=True, exist_ok=True)
    parts = read(data)
    images, labels = parts["train"]
    print(f"{time.monotonic() - begin:.0f} s: {len(images):,} images read", flush=True)
    mean, std = (np.float32(f(images, axis=(0, 1, 2)) / 255) for f in (np.mean, np.std))
    keras.utils.set_random_seed(0)
    classes = len(np.unique(labels))
    model = build(images.shape[1:], classes, **network)
    if jax.default_backend() != "cpu":
        in_bfloat16(model)
    scaled = dataclasses.replace(
        recipe, learning_rate=recipe.learning_rate * batch_size / recipe.batch_size
    )
    model.compile(
        keras.optimizers.SGD(
            scaled.learning_rate,
            momentum=scaled.momentum,
            nesterov=True,
            weight_decay=scaled.weight_decay / (1 - scaled.momentum),
        ),
        metrics=None,
    )
    training = LongTraining(
        model,
        images,
        labels,
        None,
        out / f"{name}.npz",
        epochs=epochs,
        batch_size=batch_size,
        facts=facts(network, weights),
    )
    training.restore()
    epoch, logits = programs(model, lambda x: (x / jnp.float32(255) - mean) / std, weights)
    steps, resident = training.steps, (jnp.array(training.images), jnp.array(training.labels))

    def order(number):
        drawn = np.random.default_rng((0, number)).permutation(len(images))
        return jnp.array(drawn[: steps * batch_size].reshape(steps, batch_size))

    def rates(total):
        schedule = scaled.learning_rates(total * steps)
        return jax.jit(jax.vmap(schedule))(jnp.arange(total * steps)).reshape(total, steps)

    def timed(state, *arguments):
        start = time.monotonic()
        state, loss = jax.block_until_ready(epoch(state, *resident, *arguments))
        return state, float(loss), time.monotonic() - start

    state = state_of(model)
    idle = order(0), jnp.zeros(steps, "float32"), jax.random.key(0)
    seconds = [timed(state, *idle)[2] for _ in range(2)]  # the first one compiles
    logits(state, parts["calibrate"][0])
    done = training.step // steps
    left = 60 * minutes - (time.monotonic() - begin) - SPARE
    total = max(min(epochs, done + int(left / seconds[1])), done + 1 if done < epochs else epochs)
    print(
        f"{time.monotonic() - begin:.0f} s: compiled; {seconds[1]:.2f} s an epoch, "
        f"{steps * batch_size / seconds[1]:,.0f} images/s; {total} of {epochs} epochs",
        flush=True,
    )
    plan, kept = rates(total), time.monotonic()
    for number in range(done, total):
        state, training.loss, passed = timed(
            state, order(number), plan[number], jax.random.fold_in(jax.random.key(1), number)
        )
        training.seconds += passed
        training.step += steps
        last = number == total - 1
        if last or number % 10 == 9:
            x, y = parts["calibrate"]
            give(model, state)
            training.end_epoch((logits(state, x).argmax(-1) == y).mean(-1))
        if last or time.monotonic() - kept > 60:
            give(model, state)
            training.keep()
            state, kept = state_of(model), time.monotonic()
    exact = build(images.shape[1:], classes, **network)
    exact.set_weights(model.get_weights())
    common.save_half(exact, out / f"{name}.weights.h5")
    answers = {n: (logits(state, parts[n][0]), parts[n][1]) for n in ("calibrate", "test")}
    return write_table(
        out,
        answers,
        exact.exit_costs(),
        {
            "network": name,
            "device": jax.devices()[0].device_kind,
            "epochs": total,
            "batch_size": batch_size,
            "learning_rate": scaled.learning_rate,
            "images_per_second": round(steps * batch_size / seconds[1]),
            "minutes": round((time.monotonic() - begin) / 60, 2),
        },
    )


def write_table(out, answers, costs, facts):
    """Writes `table.json` and `table.md`; returns what is in them."""
    held_out, (logits, labels) = answers["calibrate"], answers["test"]
    exits = [
        {
            "exit": k,
            "MMACs": costs[k] / 1e6,
            "accuracy": 100 * float((z.argmax(-1) == labels).mean()),
        }
        for k, z in enumerate(logits)
    ]
    budgets = []
    for share in SHARES:
        if share * costs[-1] > costs[0]:
            policy = ka.calibrate(*held_out, costs, budget_share=share)
            report = ka.evaluate(policy, logits, labels, costs)
            budgets.append(
                {
                    "share": share,
                    "spent": float(report.mean_cost / costs[-1]),
                    "accuracy": 100 * float(report.accuracy),
                }
            )
    row = {**facts, "exits": exits, "budgets": budgets}
    write_whole(out / "table.json", json.dumps(row, indent=1) + "\n")
    text = _rows.table("exit | MMACs | accuracy", exits, "{exit} | {MMACs:.1f} | {accuracy:.2f} %")
    more = _rows.table(
        "share of the full cost | spent | accuracy",
        budgets,
        "{share:.0%} | {spent:.1%} | {accuracy:.2f} %",
    )
    lines = "\n".join(f"- {name}: {value}" for name, value in facts.items())
    page = f"# One GPU\n\n{lines}\n\n{text}\n\n{more}\n"
    write_whole(out / "table.md", page)
    print(page, flush=True)
    return row


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=LONG, nargs="?", default="cifar10_resnet9")
    parser.add_argument("--data", type=Path, default=common.DATA, help="%(default)s")
    parser.add_argument("--out", type=Path, default=common.RUNS / "gpu", help="%(default)s")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="%(default)s")
    parser.add_argument("--batch-size", type=int, default=BATCH, help="%(default)s")
    parser.add_argument("--minutes", type=float, default=6, help="in all (%(default)s)")
    parser.add_argument("--network", type=json.loads, help="other arguments of its builder")
    options = parser.parse_args()
    train(
        options.data,
        options.out,
        name=options.name,
        network=options.network,
        epochs=options.epochs,
        batch_size=options.batch_size,
        minutes=options.minutes,
    )


if __name__ == "__main__":
    main()
