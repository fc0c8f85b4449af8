"""Published training recipes by name."""

from dataclasses import dataclass

import keras

from keras_adaptive._checks import check_choice, finite, integer

SCHEDULES = ("steps", "cosine", "one_cycle")
WARM_UP = 0.3  # of the steps of a one-cycle schedule


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: how long, with which learning rate, on which images.

    Args:
        learning_rate: Number, the highest.
        epochs: Integer.
        batch_size: Integer.
        schedule: `"steps"`: a tenth after each of `drops`; `"cosine"`: to zero along a
            cosine; `"one_cycle"`: up along a line for three tenths of the steps, then to
            zero along a cosine. The last two suit short runs.
        drops: Sequence of shares of the training.
        momentum: Number, with Nesterov's correction.
        weight_decay: Number, the L2 coefficient of the paper, added to the gradient before
            the momentum. Keras takes its own off after it, so it is passed on divided by
            `1 - momentum`, which comes to the same.
        augmentation: What is done to the training images where the data is a `data.Splits`;
            see `data.Splits.batches`.
        mixed_precision: Boolean, whether layers compute in bfloat16 while they learn. Weights
            and logits stay float32, and the trained network computes in float32 as before.
            For processors that have it (AVX-512, AMX): without, TensorFlow is several times
            slower with it than in float32.

    Example:

    >>> rate = RECIPES["cifar"].learning_rates(steps=100)
    >>> [round(float(rate(n)), 4) for n in (0, 60, 90)]
    [0.1, 0.01, 0.001]
    """

    learning_rate: float = 0.1
    epochs: int = 300
    batch_size: int = 64
    schedule: str = "steps"
    drops: tuple = (0.5, 0.75)
    momentum: float = 0.9
    weight_decay: float = 1e-4
    augmentation: str | None = "pad_crop_flip"
    mixed_precision: bool = False

    def __post_init__(self):
        check_choice(SCHEDULES, schedule=self.schedule)
        kept = {name: integer(name, getattr(self, name), 1) for name in ("epochs", "batch_size")}
        for name in ("learning_rate", "momentum", "weight_decay"):
            kept[name] = finite(getattr(self, name), name)
        kept["drops"] = tuple(finite(drop, "drops") for drop in self.drops)
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    def optimizer(self, steps):
        """Returns the optimizer for a training of so many steps."""
        return keras.optimizers.SGD(
            self.learning_rates(steps),
            momentum=self.momentum,
            nesterov=True,
            weight_decay=self.weight_decay / (1 - self.momentum),
        )

    def learning_rates(self, steps):
        """Returns the schedule for a training of so many steps: step to learning rate."""
        schedules = keras.optimizers.schedules
        if self.schedule == "steps":
            rates = [self.learning_rate * 0.1**i for i in range(len(self.drops) + 1)]
            return schedules.PiecewiseConstantDecay([int(d * steps) for d in self.drops], rates)
        if self.schedule == "cosine":
            return schedules.CosineDecay(self.learning_rate, steps)
        warm_up = int(WARM_UP * steps)
        return schedules.CosineDecay(
            self.learning_rate / 25,
            max(steps - warm_up, 1),
            warmup_target=self.learning_rate,
            warmup_steps=warm_up,
        )


RECIPES = {
    "cifar": Recipe(),
    "imagenet": Recipe(
        epochs=90, batch_size=256, drops=(1 / 3, 2 / 3), augmentation="resized_crop_flip"
    ),
}
