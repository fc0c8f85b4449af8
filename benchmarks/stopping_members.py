"""The members of the stopping benchmark: pre-activation ResNets, trained alike.

    python -m benchmarks.stopping_members

Every one is fitted on the same 20,000 images of CIFAR-10 (JPEG) in the same way, and is kept
in float16 in benchmarks/models; one that was killed goes on from its last whole epoch.
"""

import keras

import keras_adaptive as ka
from benchmarks import common

DEPTHS = (8, 20, 32)
TRAIN_IMAGES = 20_000
RECIPE = ka.training.Recipe(learning_rate=0.1, epochs=8, batch_size=64, schedule="one_cycle")
RUNS = common.RUNS / "stopping"


def path(depth):
    return common.MODELS / f"cifar10_preact_resnet_{depth}.weights.h5"


def build(depth):
    """Returns the untrained network of one depth."""
    return ka.build_resnet(depth=depth, style="pre")


def member(depth):
    """Returns a trained member."""
    model = build(depth)
    model.load_weights(path(depth))
    return model


def data():
    return common.cifar(train_limit=TRAIN_IMAGES)


def train(depth, splits):
    keras.backend.clear_session()
    keras.utils.set_random_seed(depth)
    model = ka.training.fit(
        build(depth),
        splits.batches("train", RECIPE.batch_size, training=True, seed=depth),
        splits.batches("calibrate", 500),
        recipe=RECIPE,
        backup_dir=RUNS / f"resnet_{depth}",
        seed=depth,
        verbose=2,
    )
    without_optimizer = build(depth)
    without_optimizer.set_weights(model.get_weights())
    common.MODELS.mkdir(exist_ok=True)
    common.save_half(without_optimizer, path(depth))


def main():
    splits = data()
    for depth in DEPTHS:
        if not path(depth).exists():
            print(f"ResNet-{depth}", flush=True)
            train(depth, splits)


if __name__ == "__main__":
    main()
