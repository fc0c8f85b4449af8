"""Trains networks that benchmarks begin with, or that are too large to be kept.

    python -m benchmarks.networks cifar10_budgeted_7

An interrupted training resumes from its last complete epoch.
"""

import argparse
from functools import partial

import keras

import keras_adaptive as ka
from benchmarks import common

RESNETS = {depth: f"cifar10_preact_resnet_{depth}" for depth in (8, 20, 32)}
RESNET_IMAGES, RESNET_EPOCHS = 20_000, 8
# name: what `train` does; heads are narrower than the paper's 128 so that the file stays small.
# `start`: a kept network whose layers of the same name and shape are where the training begins.
NETWORKS = {
    "cifar10": {
        "build": partial(ka.build_msdnet, preset="cifar_budgeted_5", head_channels=64),
        "start": common.cifar_net,
        "train_limit": None,
        "epochs": 4,
        "folder": common.RUNS / "shipped",  # `benchmarks.shipped` puts it into the package
    },
    "cifar10_budgeted_7": {
        "build": partial(ka.build_msdnet, preset="cifar_budgeted_7", head_channels=64),
        "train_limit": 20_000,
        "epochs": 2,
        "folder": common.RUNS / "networks",  # `benchmarks.inference` alone uses it: not kept
    },
    **{
        name: {
            "build": partial(ka.build_resnet, depth=depth, style="pre"),
            "seed": depth,
            "train_limit": RESNET_IMAGES,
            "epochs": RESNET_EPOCHS,
            "folder": common.MODELS,  # the members of `benchmarks.stopping`
        }
        for depth, name in RESNETS.items()
    },
}


def weights(name):
    """Returns where the weights of a network of the table are, or will be."""
    return NETWORKS[name]["folder"] / f"{name}.weights.h5"


def trained(name):
    """Returns a network of the table with its weights; trains it where that has not been done."""
    if not weights(name).exists():
        print(name, flush=True)
        train(name)
    model = NETWORKS[name]["build"]()
    model.load_weights(weights(name))
    return model


def train(name):
    plan = NETWORKS[name]
    seed = plan.get("seed", 0)
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    splits = common.cifar(train_limit=plan["train_limit"])
    recipe = ka.training.Recipe(schedule="one_cycle", epochs=plan["epochs"])
    model = plan["build"]()
    if "start" in plan:
        copy_weights(plan["start"](), model)
    model = ka.training.fit(
        model,
        splits.batches("train", recipe.batch_size, training=True, seed=seed),
        splits.batches("calibrate", 500),
        recipe=recipe,
        callbacks=[
            ka.training.ExitHistory(),
            keras.callbacks.CSVLogger(common.RUNS / f"{name}.csv", append=True),
        ],
        backup_dir=common.RUNS / name,
        seed=seed,
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
