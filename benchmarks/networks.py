"""Trains the networks that several benchmarks share and that are kept in benchmarks/models.

    python -m benchmarks.networks cifar10_budgeted_7

A training that was killed goes on from its last whole epoch when started again.
"""

import argparse

import keras

import keras_adaptive as ka
from benchmarks import common

RUNS = common.ROOT.parent / "runs"
# name: what `train` does; heads are narrower than the paper's 128 so that the file stays small
NETWORKS = {
    "cifar10_budgeted_7": {
        "arguments": {"preset": "cifar_budgeted_7", "head_channels": 64},
        "train_limit": 24_000,
        "epochs": 3,
    },
}


def build(name, **how):
    """Returns a network of the table; `weights=` as in the builder."""
    return ka.build_msdnet(**NETWORKS[name]["arguments"], **how)


def train(name):
    plan = NETWORKS[name]
    keras.utils.set_random_seed(0)
    splits = common.cifar(train_limit=plan["train_limit"])
    recipe = ka.training.Recipe(schedule="cosine")
    model = ka.training.fit(
        build(name),
        splits.batches("train", recipe.batch_size, training=True),
        splits.batches("calibrate", 500),
        epochs=plan["epochs"],
        recipe=recipe,
        callbacks=[keras.callbacks.CSVLogger(RUNS / f"{name}.csv", append=True)],
        backup_dir=RUNS / name,
        seed=0,
        verbose=2,
    )
    common.MODELS.mkdir(exist_ok=True)
    common.save_half(model, common.MODELS / f"{name}.weights.h5")


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("name", choices=tuple(NETWORKS))
    train(parser.parse_args().name)


if __name__ == "__main__":
    main()
