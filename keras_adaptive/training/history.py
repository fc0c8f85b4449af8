"""A callback that logs the metrics of every exit."""

import keras


class ExitHistory(keras.callbacks.Callback):
    """Adds the metrics of every exit to the logs, where `fit` shows first, mean and last.

    They appear as `exit_0_accuracy`, `val_exit_0_accuracy` and so on in the history that
    `fit` returns, and in what the callbacks behind this one write, for example
    `keras.callbacks.CSVLogger` and `keras.callbacks.TensorBoard`:

        model.fit(..., callbacks=[ExitHistory(), keras.callbacks.CSVLogger("exits.csv")])

    Example:

    >>> import numpy as np
    >>> from keras_adaptive import build_msdnet
    >>> model = build_msdnet((8, 8, 1), 10, blocks=1, channels=4, growth_rate=2)
    >>> data = np.zeros((2, 8, 8, 1)), np.zeros(2, int)
    >>> logs = model.fit(*data, callbacks=[ExitHistory()], verbose=0).history
    >>> "exit_0_accuracy" in logs
    True
    """

    def __init__(self):
        super().__init__()
        self._training = None

    def on_epoch_begin(self, epoch, logs=None):
        self._training = None

    def on_test_begin(self, logs=None):
        # within `fit`, the metrics still hold the training's values here
        self._training = self._values("")

    def on_epoch_end(self, epoch, logs=None):
        if self._training is None:
            logs.update(self._values(""))
        else:
            logs.update(self._training, **self._values("val_"))

    def _values(self, prefix):
        return {
            f"{prefix}exit_{k}_{name}": float(value)
            for name, values in self.model.exit_metrics().items()
            for k, value in enumerate(values)
        }
