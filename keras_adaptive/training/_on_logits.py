"""Losses and metrics of Keras on logits, which exits give."""

import inspect

import keras

# functions of keras.losses
OF_PROBABILITIES = (
    "kl_divergence",
    "poisson",
    "mean_squared_logarithmic_error",
    "dice",
    "tversky",
    "categorical_generalized_cross_entropy",
)
CROSS_ENTROPIES = (
    keras.losses.sparse_categorical_crossentropy,
    keras.losses.categorical_crossentropy,
    keras.losses.categorical_focal_crossentropy,
    keras.losses.binary_crossentropy,
    keras.losses.binary_focal_crossentropy,
)


def loss_on_logits(loss):
    """Returns the loss with `from_logits=True` where a name was given."""
    if isinstance(loss, (list, tuple, dict)):
        raise ValueError(f"`loss` must be one loss, which serves every exit. Received: loss={loss}")
    found = keras.losses.get(loss) if isinstance(loss, str) or inspect.isclass(loss) else loss
    if _is_of_probabilities(found):
        raise ValueError(
            "`loss` must take logits, which exits give; `categorical_crossentropy` takes labels "
            f"that are probabilities too. Received: loss={loss}, which takes probabilities"
        )
    takes_logits = not isinstance(found, keras.losses.Loss) and (
        "from_logits" in getattr(getattr(found, "__code__", None), "co_varnames", ())
    )
    if takes_logits and isinstance(loss, str):  # a function: its class can be told
        found = getattr(keras.losses, found.__name__.title().replace("_", ""))()
    config = found.get_config() if isinstance(found, keras.losses.Loss) else {}
    if config.get("from_logits") is False and isinstance(loss, str):
        return type(found).from_config({**config, "from_logits": True})
    if config.get("from_logits") is False or (takes_logits and not isinstance(loss, str)):
        raise ValueError(
            "`loss` must take logits: exits do not apply a softmax. Give its name, or the "
            f"class with `from_logits=True`. Received: loss={loss}"
        )
    return found


def _is_of_probabilities(found):
    """Whether a loss or metric of Keras takes probabilities, and cannot be told of logits."""
    if isinstance(found, (keras.losses.Loss, keras.metrics.Metric)) and not _is_of_keras(found):
        return False  # may apply a softmax
    function = getattr(found, "fn", getattr(found, "_fn", found))
    return any(function is getattr(keras.losses, name, None) for name in OF_PROBABILITIES)


def _is_of_keras(found):
    return type(found).__module__.partition(".")[0] == "keras"


def metric_on_logits(name, metric):
    """Returns a metric with `from_logits=True` where it is a cross-entropy.

    Args:
        name: String, the name of the argument.
        metric: Metric, its class or its name, or a function.
    """
    if isinstance(metric, str) and metric.lower() in ("accuracy", "acc"):
        return metric
    found = keras.metrics.get(metric)
    config = {}
    if isinstance(found, keras.metrics.Metric) and _is_of_keras(found):
        config = found.get_config()
    elif found in CROSS_ENTROPIES:
        return keras.metrics.MeanMetricWrapper(found, found.__name__, from_logits=True)
    if config.get("from_logits") is False and isinstance(found, keras.metrics.MeanMetricWrapper):
        named = {"name": metric} if isinstance(metric, str) else {}
        return type(found).from_config({**config, **named, "from_logits": True})
    if _is_by_probability(found, config) or _is_of_probabilities(found):
        raise ValueError(
            f"`{name}` must take logits, which exits give. Received: {metric!r} in `{name}`, which "
            "takes probabilities"
        )
    return metric


def _is_by_probability(found, config):
    """Whether a metric of Keras compares answers with thresholds that are probabilities.

    Args:
        found: Metric, or a function.
        config: Dictionary of a metric of Keras; empty for others.
    """
    many = "num_thresholds" in config and not config.get("from_logits")  # as AUC
    at_a_half = config.get("threshold") == 0.5 or found is keras.metrics.binary_accuracy
    by_default = config.get("thresholds", 0) is None and config.get("top_k") is None  # as Recall
    return many or at_a_half or by_default


def check_metrics(name, metrics):
    nested = isinstance(metrics, (list, tuple)) and any(
        isinstance(metric, (list, tuple, dict)) for metric in metrics
    )
    if metrics is not None and (nested or not isinstance(metrics, (list, tuple))):
        raise ValueError(
            f"`{name}` must be a list of metrics, which serve every exit; none of them for one "
            f"exit alone. Received: {name}={metrics!r}"
        )


def fresh(metric):
    """Returns a metric of the same kind with a state of its own."""
    if isinstance(metric, keras.metrics.Metric):
        return type(metric).from_config(metric.get_config())
    return metric
