"""Training recipes by name: the published ones, and one for short trainings."""

from dataclasses import dataclass

import keras
import numpy as np

from keras_adaptive._checks import check_choice, finite, integer
from keras_adaptive.training._label_smoothing import smoothed

SCHEDULES = ("steps", "cosine", "one_cycle")
AUGMENTATIONS = (None, "pad_crop_flip", "resized_crop_flip")  # of `data.Splits.batches`
WARM_UP = 0.3  # of the steps of a one-cycle schedule


@dataclass(frozen=True)
class Recipe:
    """How a network is trained: how long, with which learning rate, on which images.

    Args:
        learning_rate: Number, the highest.
        epochs: Integer.
        iterations: Integer, the steps of the training in place of `epochs`: as many whole epochs
            as hold them. Or a sequence of one per phase of a regime; one of fewer phases takes
            the first of them. `None`: `epochs` count.
        batch_size: Integer.
        schedule: `"steps"`: a tenth after each of `drops`; `"cosine"`: to zero along a
            cosine; `"one_cycle"`: up along a line for three tenths of the steps, then to
            zero along a cosine. The last two suit short runs.
        drops: Sequence of shares of the training. `None` or none: the rate stays as it is.
        momentum: Number.
        nesterov: Boolean, whether the momentum has Nesterov's correction.
        weight_decay: Number, the L2 coefficient of the paper, added to the gradient before
            the momentum. Keras takes its own off after it, so it is passed on divided by
            `1 - momentum`, which comes to the same.
        augmentation: What is done to the training images where the data is a `data.Splits`;
            see `data.Splits.batches`.
        mixed_precision: Whether layers compute in bfloat16 while they learn. Weights and logits
            stay float32, and the trained network computes in float32 as before. `"auto"`: where
            the processor multiplies in bfloat16 (`avx512_bf16` among the flags that Linux
            names), which trains up to 1.2 times as fast; without it TensorFlow is several times
            slower in bfloat16 than in float32. It is the processor that is asked: on a GPU say
            True or False.
        imta_epochs: Two integers, the epochs of the two phases of the regime `"imta"`, in place
            of `epochs`. `None`: halves of `epochs`.
        gate_weight: Number, the weight of the `GateLoss` of the regime `"gated"` where none is
            given.
        label_smoothing: Number from 0 to below 1, the share of each label that is spread over
            all classes. It helps the accuracy of short trainings a little, and blurs which
            answers are right, which thresholds live on. Of cross-entropies only.

    Example:

    >>> rate = RECIPES["cifar"].learning_rates(steps=100)
    >>> [round(float(rate(n)), 4) for n in (0, 60, 90)]
    [0.1, 0.01, 0.001]
    """

    learning_rate: float = 0.1
    epochs: int = 300
    batch_size: int = 64
    schedule: str = "steps"
    drops: tuple | None = (0.5, 0.75)
    momentum: float = 0.9
    weight_decay: float = 1e-4
    augmentation: str | None = "pad_crop_flip"
    mixed_precision: bool | str = False
    label_smoothing: float = 0.0
    imta_epochs: tuple | None = None
    nesterov: bool = True
    iterations: int | tuple | None = None
    gate_weight: float = 2e-4

    def __post_init__(self):
        check_choice(SCHEDULES, schedule=self.schedule)
        check_choice(AUGMENTATIONS, augmentation=self.augmentation)
        if not isinstance(self.mixed_precision, (bool, np.bool_)):
            check_choice((False, True, "auto"), mixed_precision=self.mixed_precision)
        kept = {name: integer(name, getattr(self, name), 1) for name in ("epochs", "batch_size")}
        for name in ("learning_rate", "momentum", "weight_decay", "label_smoothing", "gate_weight"):
            kept[name] = finite(getattr(self, name), name)
        if np.ndim(self.iterations):
            kept["iterations"] = tuple(
                integer(f"iterations[{i}]", n, 1) for i, n in enumerate(self.iterations)
            )
        elif self.iterations is not None:
            kept["iterations"] = integer("iterations", self.iterations, 1)
        if self.imta_epochs is not None:
            if np.shape(self.imta_epochs) != (2,):
                raise ValueError(
                    "`imta_epochs` must be two integers, one per phase. "
                    f"Received: imta_epochs={self.imta_epochs}"
                )
            kept["imta_epochs"] = tuple(
                integer(f"imta_epochs[{i}]", n, 1) for i, n in enumerate(self.imta_epochs)
            )
        drops = () if self.drops is None else self.drops
        if np.ndim(drops) != 1:
            raise ValueError(
                "`drops` must be a sequence of shares of the training, or None. "
                f"Received: drops={self.drops}"
            )
        kept["drops"] = tuple(finite(drop, "drops") for drop in drops)
        if not kept["learning_rate"] > 0:
            raise ValueError(
                f"`learning_rate` must be positive. Received: learning_rate={self.learning_rate}"
            )
        if not 0 <= kept["momentum"] < 1:
            raise ValueError(
                f"`momentum` must be at least 0 and below 1. Received: momentum={self.momentum}"
            )
        for name in ("weight_decay", "gate_weight"):
            if kept[name] < 0:
                raise ValueError(f"`{name}` must be at least 0. Received: {name}={kept[name]}")
        if not 0 <= kept["label_smoothing"] < 1:
            raise ValueError(
                "`label_smoothing` must be at least 0 and below 1. "
                f"Received: label_smoothing={self.label_smoothing}"
            )
        if not all(0 < drop < 1 for drop in kept["drops"]) or sorted(kept["drops"]) != [
            *kept["drops"]
        ]:
            raise ValueError(
                "`drops` must be rising shares of the training between 0 and 1. "
                f"Received: drops={self.drops}"
            )
        for name, value in kept.items():
            object.__setattr__(self, name, value)

    @property
    def in_bfloat16(self):
        """Whether layers compute in bfloat16 on this machine."""
        if self.mixed_precision == "auto":
            return has_bfloat16()
        return bool(self.mixed_precision)

    def loss(self, loss="sparse_categorical_crossentropy"):
        """Returns the loss of a network, with the recipe's label smoothing.

        Raises:
            ValueError: If labels are smoothed and the loss is no cross-entropy.
        """
        return smoothed(loss, self.label_smoothing)

    def optimizer(self, steps):
        """Returns the optimizer for a training of so many steps."""
        return keras.optimizers.SGD(
            self.learning_rates(steps),
            momentum=self.momentum,
            nesterov=bool(self.nesterov),
            weight_decay=self.weight_decay / (1 - self.momentum),
        )

    def learning_rates(self, steps):
        """Returns the schedule for a training of so many steps: step to learning rate."""
        schedules = keras.optimizers.schedules
        if self.schedule == "steps":
            drops = self.drops or (1,)  # Keras wants one; after the last step it changes nothing
            rates = [self.learning_rate * 0.1**i for i in range(len(drops) + 1)]
            return schedules.PiecewiseConstantDecay([int(d * steps) for d in drops], rates)
        if self.schedule == "cosine":
            return schedules.CosineDecay(self.learning_rate, steps)
        warm_up = int(WARM_UP * steps)
        return schedules.CosineDecay(
            self.learning_rate / 25,
            max(steps - warm_up, 1),
            warmup_target=self.learning_rate,
            warmup_steps=warm_up,
        )


def has_bfloat16(flags="/proc/cpuinfo"):
    """Returns whether the processor multiplies in bfloat16, as far as the system says.

    Args:
        flags: Path of the file in which Linux names the processor's flags.
    """
    try:
        with open(flags, encoding="utf-8", errors="replace") as file:
            return any("avx512_bf16" in line.split() for line in file)
    except OSError:  # another system: float32 is never wrong
        return False


RECIPES = {
    # MSDNet, section 5, and IMTA, section 4
    "cifar": Recipe(imta_epochs=(300, 180)),
    "imagenet": Recipe(
        epochs=90,
        batch_size=256,
        drops=(1 / 3, 2 / 3),
        augmentation="resized_crop_flip",
        imta_epochs=(90, 90),
    ),
    # He et al., 2015, section 4.2, which Guan et al. and SkipNet follow
    "resnet_cifar": Recipe(batch_size=128, nesterov=False, iterations=64_000),
    # DDI, section IV-A; phases: the network as "resnet_cifar" has it, gates alone (no length is
    # given), both, exits. No drop is given for CIFAR; those for ImageNet are ResNet's.
    "ddi_cifar": Recipe(
        learning_rate=0.05,
        batch_size=128,
        drops=(),
        nesterov=False,
        iterations=(64_000, 6_400, 50_000, 50_000),
    ),
    "ddi_imagenet": Recipe(  # 90 epochs are 225,205 steps
        learning_rate=0.05,
        batch_size=512,
        drops=(1 / 3, 2 / 3),
        augmentation="resized_crop_flip",
        nesterov=False,
        iterations=(225_205, 22_520, 225_205, 225_205),
        gate_weight=4e-6,
    ),
    "one_cycle": Recipe(
        epochs=30,
        schedule="one_cycle",
        weight_decay=5e-4,
        mixed_precision="auto",
        label_smoothing=0.1,
    ),
}
