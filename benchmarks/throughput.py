"""How many images per second a network trains on, beside a plain Keras `fit` of the same network.

    make bench-throughput

The plain `fit` is what a Keras tutorial would write: a `keras.Model` with a loss and a metric
an exit, Keras's own batch normalization, and Keras's own augmentation layers mapped over a
tf.data pipeline. Every contender trains a network of its own on the same images; rounds are
interleaved.
"""

import functools
from unittest import mock

import keras
import tensorflow as tf

import keras_adaptive as ka
from benchmarks import _rows, common
from benchmarks._long_training import in_bfloat16

PRESET, IMAGES, BATCH, THREADS, ROUNDS = "cifar_budgeted_5", 64 * 24, 64, 2, 7
STEPS = 3  # of a round of the profile
PARTS = ("batch", "forward", "backward", "update")


def with_keras_normalization():
    """Returns the same network, normalized by Keras's own layers."""
    ours = "keras_adaptive.layers._conv_unit.BatchNormalization"
    with mock.patch(ours, keras.layers.BatchNormalization):
        net = ka.build_msdnet(preset=PRESET)
    kind = keras.layers.BatchNormalization
    found = {type(layer) for layer in net._flatten_layers() if isinstance(layer, kind)}
    assert found == {kind}, found
    return net


def plain(data):
    """A `fit` that knows nothing of this library but the shape of the network."""
    net = with_keras_normalization()
    model = keras.Model(net.inputs, list(net.outputs))
    model.compile(
        keras.optimizers.SGD(0.1, momentum=0.9, nesterov=True, weight_decay=1e-3),
        loss=[keras.losses.SparseCategoricalCrossentropy(from_logits=True)] * net.exits,
        metrics=[["accuracy"]] * net.exits,
    )
    normal = keras.layers.Normalization(mean=data.mean, variance=[s**2 for s in data.std])
    change = keras.Sequential(
        [
            keras.layers.Rescaling(1 / 255),
            keras.layers.ZeroPadding2D(4),
            keras.layers.RandomCrop(32, 32),
            keras.layers.RandomFlip("horizontal"),
            normal,
        ]
    )
    batches = data.train.cache().shuffle(IMAGES).batch(BATCH)
    batches = batches.map(
        lambda x, y: (change(x, training=True), (y,) * net.exits),
        num_parallel_calls=tf.data.AUTOTUNE,
    )
    return model, batches.prefetch(tf.data.AUTOTUNE)


def ours(data, **compile):
    model = ka.build_msdnet(preset=PRESET)
    model.compile(**compile)
    return model, data.batches("train", BATCH, training=True)


def ours_by_keras(data):
    model = with_keras_normalization()
    model.compile()
    return model, data.batches("train", BATCH, training=True)


def half(data):
    model, batches = ours(data)
    in_bfloat16(model)
    return model, batches


CONTENDERS = {
    "plain Keras fit": plain,
    "fit, Keras's normalization": ours_by_keras,
    "fit": ours,
    "fit, 8 steps an execution": lambda data: ours(data, steps_per_execution=8),
    "fit, bfloat16": half,
}


def profile(data, rounds=ROUNDS):
    """Returns the milliseconds of the parts of a step, medians of interleaved rounds."""
    model, batches = ours(data)
    endless = iter(batches.repeat())
    x, y = next(endless)

    def loss():
        return model.compute_loss(x, y, model(x, training=True), training=True)

    @tf.function
    def forward():
        return loss()

    @tf.function
    def backward():
        with tf.GradientTape() as tape:
            value = loss()
        return tape.gradient(value, [v.value for v in model.trainable_variables])

    gradients = backward()

    @tf.function
    def update():
        model.optimizer.apply_gradients(zip(gradients, model.trainable_variables, strict=True))

    def several(part):
        return lambda: [part() for _ in range(STEPS)]

    programs = (lambda: next(endless), forward, backward, update)
    contenders = {name: several(part) for name, part in zip(PARTS, programs, strict=True)}
    taken = common.in_turns(contenders, rounds)
    parts = {name: 1000 * common.quartiles(times)[1] / STEPS for name, times in taken.items()}
    return {**parts, "backward": max(parts["backward"] - parts["forward"], 0)}


def measure():
    _rows.set_threads(THREADS)
    data = common.cifar(train_limit=IMAGES)
    runs = {}
    for name, make in CONTENDERS.items():
        model, batches = make(data)
        runs[name] = functools.partial(model.fit, batches, verbose=0, shuffle=False)
    rows = {}
    seconds = common.in_turns(runs, ROUNDS)
    for name, times in seconds.items():
        # round by round, so that what else the machine does at the time cancels out
        ratios = common.quartiles(seconds["plain Keras fit"] / times)
        speeds = common.quartiles(IMAGES / times)
        rows[name] = {
            "images_per_second": speeds[1],
            "quartiles": speeds[::2],
            "ratio_to_plain": ratios[1],
            "ratio_quartiles": ratios[::2],
        }
    facts = {"preset": PRESET, "batch": BATCH, "threads": THREADS, "rows": rows}
    return {**facts, "profile": profile(data)}


def page(results):
    heads = "contender | images/s | quartiles | times plain fit | quartiles"
    cells = "{name} | {images_per_second:.0f} | {quartiles[0]:.0f} to {quartiles[1]:.0f} | "
    cells += "{ratio_to_plain:.2f} | {ratio_quartiles[0]:.2f} to {ratio_quartiles[1]:.2f}"
    rows = [{"name": name, **row} for name, row in results["rows"].items()]
    return _rows.page(
        "# Training throughput",
        f"`{PRESET}`, batches of {BATCH}, {THREADS} threads, {IMAGES:,} CIFAR-10 images per\n"
        f"round, augmented; medians and quartiles of {ROUNDS} interleaved rounds.",
        _rows.table(heads, rows, cells),
        *profile_page(results.get("profile")),
    )


def profile_page(parts):
    """Returns the parts of the page about a step, none where it was not measured."""
    if parts is None:
        return []
    whole = sum(parts.values())
    rows = [
        {"part": name, "milliseconds": value, "share": value / whole}
        for name, value in parts.items()
    ]
    return [
        "Where a step of `fit` goes. The batch is made by other threads while the step before is\n"
        "computed.",
        _rows.table("part | ms | share", rows, "{part} | {milliseconds:.1f} | {share:.0%}"),
    ]


if __name__ == "__main__":
    _rows.run("throughput", __doc__, measure, page, images=IMAGES, rounds=ROUNDS)
