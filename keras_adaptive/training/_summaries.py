"""Metrics of all exits in one: their order in logs, and which way they are better."""

import keras


def in_order(logs, model):
    """Returns logs in the order in which the model has its metrics, those of validation last."""
    order = list(model.get_metrics_result())

    def place(name):
        bare = name.removeprefix("val_")
        return name != bare, order.index(bare) if bare in order else len(order)

    return {name: logs[name] for name in sorted(logs, key=place)}


class Directions(keras.callbacks.Callback):
    """Tells callbacks that monitor a summary of a metric which way the metric is better.

    Args:
        others: List of callbacks.
    """

    def __init__(self, others):
        super().__init__()
        self.others = others

    def on_epoch_end(self, epoch, logs=None):
        modes, better = {"up": "max", "down": "min"}, {}
        for metric in self.model.metrics:
            for each in getattr(metric, "metrics", [metric]):
                better[each.name] = modes.get(getattr(each, "_direction", None))
        for callback in self.others:
            name = str(getattr(callback, "monitor", "")).removeprefix("val_")
            for prefix in ("first_", "mean_", "last_", *(f"{n}_" for n in self.model.output_names)):
                mode = better.get(name.removeprefix(prefix)) if name.startswith(prefix) else None
                if mode is not None and getattr(callback, "mode", None) == "auto":
                    callback.mode = mode
