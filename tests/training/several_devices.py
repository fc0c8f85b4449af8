"""Trains the same networks on one device and on several, and prints how far they are apart.

    KERAS_BACKEND=jax XLA_FLAGS=--xla_force_host_platform_device_count=2 \\
        python tests/training/several_devices.py 2 [CASE ...]

Every batch is one part of itself again and again, one for each device, so that statistics and
penalties of a batch are those of each part, too; of `fit`, `joint` and `arrays`, whose networks
have none, the parts differ. Prints JSON: case to `{"losses": [one, several], "metrics": [one,
several], "weights": largest difference}`.
"""

import json
import sys

import keras
import numpy as np
import tensorflow as tf

import keras_adaptive as ka
from keras_adaptive.training import (
    Distillation,
    GateLoss,
    Reinforce,
    StoppingLoss,
    add_stopping,
)

PART, STEPS = 8, 3  # samples of each device, batches
TINY = {
    "blocks": 2,
    "step_mode": "even",
    "channels": 2,
    "growth_rate": 1,
    "growth_factors": (1, 2),
    "bottleneck_factors": (1, 2),
    "head_channels": 2,
}
GATED = {"depth": 8, "width": 0.25, "exits": 2, "head_channels": 2}


def arrays(devices, repeated=True):
    rng = np.random.default_rng(0)
    x = rng.normal(size=(STEPS, devices * PART, 8, 8, 1)).astype("float32")
    y = rng.integers(0, 10, (STEPS, devices * PART))
    if repeated:
        x, y = (np.concatenate([each[:, :PART]] * devices, axis=1) for each in (x, y))
    return x.reshape(-1, 8, 8, 1), y.reshape(-1)


def batches(devices, repeated=True):
    whole = tf.data.Dataset.from_tensor_slices(arrays(devices, repeated))
    return whole.batch(devices * PART, drop_remainder=True)


def dense(exits=3):
    image = keras.Input((8, 8, 1))
    features = keras.layers.Flatten()(image)
    names = []
    for k in range(exits):
        features = keras.layers.Dense(12, activation="relu", name=f"dense_{k}")(features)
        names.append(f"dense_{k}")
    whole = keras.Model(image, keras.layers.Dense(10, name="logits")(features))
    return ka.add_exits(whole, at=names[:-1], classes=10, from_logits=True)


def msdnet(**how):
    return ka.build_msdnet((8, 8, 1), 10, **TINY, **how)


def gated(**how):
    return ka.build_resnet((8, 8, 1), 10, **GATED, gates="layer", **how)


def stopping():
    return add_stopping(dense(), ka.layers.StoppingPolicy(4))


def teacher():
    image = keras.Input((8, 8, 1))
    flat = keras.layers.Flatten()(image)
    return keras.Model(image, keras.layers.Dense(10, name="teacher")(flat))


# case: how the network is made, what it is compiled with, and how it is trained
CASES = {
    "fit": (dense, {}, None),
    "joint": (dense, {"exit_weights": [1.0, 0.5, 2.0]}, {"regime": "joint"}),
    "arrays": (dense, {}, {"regime": "joint"}),
    "disjoint": (dense, {}, {"regime": "disjoint"}),
    "mixed": (dense, {}, {"regime": "mixed"}),
    "last": (dense, {"distillation": lambda: Distillation("last", 2.0, 0.3)}, None),
    "teacher": (dense, {"distillation": lambda: Distillation(teacher(), 2.0, 0.3)}, None),
    "equilibrium": (lambda: msdnet(gradient_equilibrium=True, collaboration="dense"), {}, None),
    "imta": (msdnet, {}, {"regime": "imta"}),
    "gates": (gated, {"gate_loss": lambda: GateLoss(30.0)}, {"regime": "gated"}),
    "target": (gated, {"gate_loss": lambda: GateLoss(1.0, target=0.3)}, None),
    "stopping": (
        stopping,
        {"stopping_loss": lambda: StoppingLoss(cost_weight=0.1, estimator="expected")},
        {"regime": "stopping"},
    ),
}
DRAWN = {"reinforce": (gated, {}, {"regime": "gated", "reinforce": Reinforce(0.1, 0.1)})}


def scaled(model):
    """Sets weights that do not depend on the order in which variables are made."""
    rng = np.random.default_rng(1)
    for variable in model.variables:
        if len(variable.shape) > 1:
            variable.assign(0.3 * rng.normal(size=variable.shape))


def trained(case, data):
    build, compiled, how = {**CASES, **DRAWN}[case]
    keras.utils.set_random_seed(0)
    model = build()
    scaled(model)
    made = {name: value() if callable(value) else value for name, value in compiled.items()}
    if made.get("distillation") is not None and made["distillation"].teacher != "last":
        scaled(made["distillation"].teacher)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), **made)
    if how is None:
        history = model.fit(data, epochs=2, verbose=0).history
    else:
        logged = keras.callbacks.LambdaCallback
        seen = []
        note = logged(on_epoch_end=lambda epoch, logs: seen.append(dict(logs)))
        phases = {"disjoint": 2, "mixed": 2, "imta": 2, "gated": 5, "stopping": 3}
        epochs = phases.get(how["regime"], 2)
        model = ka.training.fit(
            model, data, epochs=epochs, seed=0, callbacks=[note], verbose=0, **how
        )
        history = {key: [logs.get(key) for logs in seen] for key in ("loss", "accuracy")}
    metrics = [one for one in history.get("accuracy", []) if one is not None]
    return history["loss"], metrics, [np.asarray(w) for w in model.get_weights()]


def on_several(count, function, *arguments):
    if keras.backend.backend() == "jax":
        devices = keras.distribution.list_devices("cpu")
        assert len(devices) == count
        distribution = keras.distribution.DataParallel(devices=devices)
        keras.distribution.set_distribution(distribution)
        try:
            found = function(*arguments)
            assert keras.distribution.distribution() is distribution  # `clear_session` forgets it
            return found
        finally:
            keras.distribution.set_distribution(None)
    cpus = [f"CPU:{i}" for i in range(count)]
    strategy = tf.distribute.MirroredStrategy(
        cpus, cross_device_ops=tf.distribute.HierarchicalCopyAllReduce()
    )
    assert strategy.num_replicas_in_sync == count
    with strategy.scope():
        return function(*arguments)


def compared(case, count):
    """Returns what came out of a case on one device and on so many."""
    keras.backend.clear_session()
    differ = case in ("fit", "joint", "arrays")
    data = (arrays if case == "arrays" else batches)(count, repeated=not differ)
    one = trained(case, data)
    several = on_several(count, trained, case, data)
    apart = max(float(np.abs(a - b).max()) for a, b in zip(one[2], several[2], strict=True))
    return {
        "losses": [one[0], several[0]],
        "metrics": [one[1], several[1]],
        "weights": apart,
    }


def main(count, *cases):
    count, found = int(count), {}
    if keras.backend.backend() == "tensorflow":
        cpu = tf.config.list_physical_devices("CPU")[0]
        parts = [tf.config.LogicalDeviceConfiguration() for _ in range(count)]
        tf.config.set_logical_device_configuration(cpu, parts)
    for case in cases or (*CASES, *DRAWN):
        try:
            found[case] = compared(case, count)
        except Exception as error:
            found[case] = {"error": f"{type(error).__name__}: {error}"[:2000]}
    print(json.dumps(found))


if __name__ == "__main__":
    main(*sys.argv[1:])
