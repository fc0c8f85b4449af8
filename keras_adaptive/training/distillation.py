"""One-for-all distillation: early exits also learn from the last exit's output."""

import keras

from keras_adaptive._checks import finite


@keras.saving.register_keras_serializable(package="keras_adaptive")
class Distillation:
    """Trains every exit but the last on a teacher's output as well as on the labels.

    With `T` the temperature, `w` the weight and `p_T = softmax(logits / T)`:

        loss = CE_last + sum_{i < last} (1 - w) * CE_i
               + w * T**2 * sum_{i < last} KL(teacher_T || p_T of exit i)

    KL is summed over the classes and averaged over the batch; exit weights multiply an
    exit's whole part. The last exit learns from the labels alone. No gradient reaches the
    teacher. (The public code of IMTA divides KL by the number of classes as well, which
    on ImageNet leaves almost no distillation.)

    Args:
        teacher: `"last"`: the network's own last exit, as it learns. Or a Keras model,
            whose last output counts, of the same input and classes; it is not saved with
            the model's compile configuration.
        temperature: Positive number `T`.
        weight: Number from 0 to 1, `w`; the paper's alpha is `1 - w`.

    Example:

    >>> Distillation(temperature=3.0, weight=0.5).get_config()
    {'teacher': 'last', 'temperature': 3.0, 'weight': 0.5}

    Reference:
        [Improved Techniques for Training Adaptive Deep Networks
        (Li et al., 2019)](https://arxiv.org/abs/1908.06294), section 3.3.
    """

    def __init__(self, teacher="last", temperature=1.0, weight=0.1):
        if teacher != "last" and not isinstance(teacher, keras.Model):
            raise ValueError(
                f'`teacher` must be "last" or a Keras model. Received: teacher={teacher!r}'
            )
        self.teacher = teacher
        self.temperature = finite(temperature, "temperature")
        self.weight = finite(weight, "weight")
        if not self.temperature > 0:
            raise ValueError(f"`temperature` must be positive. Received: temperature={temperature}")
        if not 0 <= self.weight <= 1:
            raise ValueError(f"`weight` must be from 0 to 1. Received: weight={weight}")

    def teacher_logits(self, x, logits):
        """Returns the teacher's logits, shielded from the gradient.

        Args:
            x: The batch of inputs.
            logits: List of the exits' logits.
        """
        if self.teacher == "last":
            answer = logits[-1]
        else:
            answer = keras.tree.flatten(self.teacher(x, training=False))[-1]
        return keras.ops.stop_gradient(answer)

    def loss(self, teacher, logits, weights):
        """Returns the second sum of the loss.

        Args:
            teacher: `(batch, classes)`, the teacher's logits.
            logits: List of the exits' logits.
            weights: List of one number per exit.
        """
        # a Keras loss divides by the number of replicas as the others do
        cross_entropy = keras.losses.CategoricalCrossentropy(from_logits=True)
        teacher = keras.ops.cast(teacher, "float32") / self.temperature
        target = keras.ops.softmax(teacher)
        entropy = cross_entropy(target, teacher)
        total = 0.0
        for weight, z in zip(weights[:-1], logits[:-1], strict=True):
            z = keras.ops.cast(z, "float32") / self.temperature
            total = total + weight * (cross_entropy(target, z) - entropy)
        return self.weight * self.temperature**2 * total

    def get_config(self):
        return {
            "teacher": self.teacher,
            "temperature": self.temperature,
            "weight": self.weight,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)
