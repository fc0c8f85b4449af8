"""Cross-entropy of integer labels with label smoothing, which Keras has for one-hot ones."""

import keras

from keras_adaptive._checks import finite


@keras.saving.register_keras_serializable(package="keras_adaptive")
class SmoothedCrossentropy(keras.losses.SparseCategoricalCrossentropy):
    """Cross-entropy on logits, of labels of which a share is spread over all classes.

    With the share `a`, `classes` logits `z` and `p = softmax(z)`:

        loss = (1 - a) * -log p[label] + a * mean over all classes of -log p

    That is `keras.losses.CategoricalCrossentropy(label_smoothing=a)` for integer labels.

    Args:
        label_smoothing: Number from 0 to below 1, `a`.
        from_logits, **kwargs: As in `keras.losses.SparseCategoricalCrossentropy`.

    Example:

    >>> loss = SmoothedCrossentropy(0.1)
    >>> round(float(loss(keras.ops.array([0]), keras.ops.array([[0.0, 0.0]]))), 4)
    0.6931
    """

    def __init__(self, label_smoothing=0.1, from_logits=True, **kwargs):
        super().__init__(from_logits=from_logits, **kwargs)
        self.label_smoothing = finite(label_smoothing, "label_smoothing")
        if not 0 <= self.label_smoothing < 1:
            raise ValueError(
                "`label_smoothing` must be at least 0 and below 1. "
                f"Received: label_smoothing={label_smoothing}"
            )

    def call(self, y_true, y_pred):
        hard = super().call(y_true, y_pred)
        even = -keras.ops.mean(keras.ops.log_softmax(y_pred), axis=-1)
        return (1 - self.label_smoothing) * hard + self.label_smoothing * even

    def get_config(self):
        return {**super().get_config(), "label_smoothing": self.label_smoothing}


def smoothed(loss, label_smoothing):
    """Returns a cross-entropy with label smoothing.

    Args:
        loss: Name or loss, a cross-entropy on logits.
        label_smoothing: Number from 0 to below 1. 0: the loss as it is.

    Raises:
        ValueError: If the loss is another one.
    """
    if not label_smoothing:
        return loss
    if _is(loss, "SparseCategoricalCrossentropy"):
        return SmoothedCrossentropy(label_smoothing)
    if _is(loss, "CategoricalCrossentropy"):
        return keras.losses.CategoricalCrossentropy(
            from_logits=True, label_smoothing=label_smoothing
        )
    raise ValueError(
        '`label_smoothing` must be 0 unless the loss is "sparse_categorical_crossentropy" or '
        f'"categorical_crossentropy". Received: label_smoothing={label_smoothing}, loss={loss}'
    )


def _is(loss, name):
    """Whether a loss is this one of Keras by name, or on logits and without more settings."""
    if isinstance(loss, str):
        return loss.lower().replace("_", "") == name.lower()
    if type(loss) is not getattr(keras.losses, name):
        return False
    plain = type(loss)(from_logits=True).get_config()
    return {**loss.get_config(), "name": None} == {**plain, "name": None}
