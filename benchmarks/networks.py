"""Trains networks from which others begin, or that are too large to be kept.

    python -m benchmarks.networks cifar10_budgeted_7

A training that was killed goes on from its last whole epoch when started again.
"""

import argparse

import keras

import keras_adaptive as ka
from benchmarks import common

RUNS = common.RUNS
# name: what `train` does; heads are narrower than the paper's 128 so that the file stays small.
# `start`: a kept network whose layers of the same name and shape are where the training begins.
NETWORKS = {
    "cifar10": {
        "arguments": {"preset": "cifar_budgeted_5", "head_channels": 64},
        "start": common.cifar_net,
        "train_limit": None,
        "epochs": 4,
        "recipe": {"schedule": "one_cycle"},
        "folder": RUNS / "shipped",  # `benchmarks.shipped` puts it into the package
    },
    "cifar10_budgeted_7": {
        "arguments": {"preset": "cifar_budgeted_7", "head_channels": 64},
        "train_limit": 20_000,
        "epochs": 2,
        "recipe": {"schedule": "one_cycle"},
        "folder": RUNS / "networks",  # `benchmarks.inference` alone uses it: not kept
    },
}


def weights(name):
    """Returns where the weights of a network of the table are, or will be."""
    return NETWORKS[name]["folder"] / f"{name}.weights.h5"


def build(name, **how):
    """Returns a network of the table; `weights=` as in the builder."""
    return ka.build_msdnet(**NETWORKS[name]["arguments"], **how)


def train(name):
    plan = NETWORKS[name]
    keras.utils.set_random_seed(0)
    splits = common.cifar(train_limit=plan["train_limit"])
    recipe = ka.training.Recipe(**plan["recipe"])
    model = build(name)
    if "start" in plan:
        copy_weights(plan["start"](), model)
    model = ka.training.fit(
        model,
        splits.batches("train", recipe.batch_size, training=True),
        splits.batches("calibrate", 500),
        epochs=plan["epochs"],
        recipe=recipe,
        callbacks=[
            ka.training.ExitHistory(),
            keras.callbacks.CSVLogger(RUNS / f"{name}.csv", append=True),
        ],
        backup_dir=RUNS / name,
        seed=0,
        verbose=2,
    )
    weights(name).parent.mkdir(parents=True, exist_ok=True)
    common.save_half(model, weights(name))


def copy_weights(source, target):
    """Copies the weights of the layers that both networks have alike."""
    layers = {layer.name: layer for layer in source.layers}
    for layer in target.layers:
        values = layers[layer.name].get_weights() if layer.name in layers else []
        if [v.shape for v in values] == [v.shape for v in layer.get_weights()]:
            layer.set_weights(values)


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=tuple(NETWORKS))
    train(parser.parse_args().name)


if __name__ == "__main__":
    main()
