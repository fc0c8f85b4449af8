"""The mean of per-sample losses, as Keras computes it."""

import keras


def mean(losses, sample_weight=None):
    """Returns the mean of each sample's loss, divided among replicas as Keras's losses are."""
    return Mean()(losses, losses, sample_weight)


class Mean(keras.losses.Loss):
    def call(self, y_true, y_pred):
        return y_pred
