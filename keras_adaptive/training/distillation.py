"""One-for-all distillation: early exits also learn from the last exit's output."""

import keras

from keras_adaptive import _graph
from keras_adaptive._checks import check_choice, finite
from keras_adaptive.training._logits import log_of, logits_of


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
            the model's compile configuration. Probabilities (`keras.applications` give
            them) are read by their logarithm.
        temperature: Positive number `T`.
        weight: Number from 0 to 1, `w`; the paper's alpha is `1 - w`.
        from_logits: Boolean, whether the teacher's output is logits, or probabilities.
            `None`: as its layers and its answers to random input show, or refused. A model
            that is a class of its own needs it.

    Raises:
        ValueError: If an argument is impossible, or it is unclear what the teacher gives.

    Example:

    >>> Distillation(temperature=3.0, weight=0.5).get_config()
    {'teacher': 'last', 'temperature': 3.0, 'weight': 0.5, 'from_logits': None}

    Reference:
        [Improved Techniques for Training Adaptive Deep Networks
        (Li et al., 2019)](https://arxiv.org/abs/1908.06294), section 3.3.
    """

    def __init__(self, teacher="last", temperature=1.0, weight=0.1, from_logits=None):
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
        check_choice((None, True, False), from_logits=from_logits)
        self.from_logits = from_logits
        self._network = None if teacher == "last" else _with_logits(teacher, from_logits)

    def check(self, inputs, outputs):
        """Checks that the teacher fits a network, where its graph is known.

        Args:
            inputs, outputs: Lists of the network's symbolic tensors.

        Raises:
            ValueError: If it takes inputs of another shape, or knows other classes.
        """
        if self.teacher == "last" or not _graph.is_model(self.teacher):
            return
        answer, alone = self._network.outputs[-1], len(inputs) == len(self._network.inputs) == 1
        pairs = [(answer, logits) for logits in outputs]
        pairs += [(self._network.inputs[0], inputs[0])] if alone else []
        for found, wanted in pairs:
            if not _may_be(found.shape[1:], wanted.shape[1:]):
                raise ValueError(
                    "`teacher` must be of the same input and classes as the network. Received: a "
                    f"teacher with {tuple(found.shape)} in the place of {tuple(wanted.shape)}"
                )

    def teacher_logits(self, x, logits):
        """Returns the teacher's logits, shielded from the gradient.

        Args:
            x: The batch of inputs.
            logits: List of the exits' logits.
        """
        if self.teacher == "last":
            answer = logits[-1]
        else:
            answer = keras.tree.flatten(self._network(x, training=False))[-1]
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
            "from_logits": self.from_logits,
        }

    @classmethod
    def from_config(cls, config):
        return cls(**config)


def _may_be(shape, other):
    """Whether two shapes may be the same; an axis of one at the end may be missing, as in Keras."""
    if abs(len(shape) - len(other)) == 1 and max(shape, other, key=len)[-1] == 1:
        shape, other = shape[: len(other)], other[: len(shape)]
    pairs = zip(shape, other, strict=False)
    return len(shape) == len(other) and all(None in pair or len({*pair}) == 1 for pair in pairs)


def _with_logits(teacher, from_logits):
    """Returns a function of the teacher's input to logits."""
    if _graph.is_model(teacher):
        logits = logits_of(teacher.inputs, teacher.outputs[-1], from_logits, argument="teacher")
        same = logits is teacher.outputs[-1]
        return teacher if same else keras.Model(teacher.input, logits)
    if from_logits is None:
        raise ValueError(
            "`from_logits` must be True or False where `teacher` is not a functional or built "
            f"Sequential model. Received: from_logits=None, teacher={teacher!r}"
        )
    if from_logits:
        return teacher
    return lambda x, training: log_of(keras.tree.flatten(teacher(x, training=training))[-1])
