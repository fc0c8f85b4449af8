"""Weight clustering: kernels whose entries share a few values."""

import numpy as np

from keras_adaptive._checks import integer
from keras_adaptive.compression._fine_tuning import checked, fine_tune
from keras_adaptive.compression._keras2_copy import to_tf_keras
from keras_adaptive.compression._libraries import tfmot
from keras_adaptive.compression.sizes import weighted_layers
from keras_adaptive.training.adaptive_model import check_model


def cluster(
    model,
    clusters=16,
    *,
    train=None,
    epochs=1,
    learning_rate=0.01,
    batch_size=64,
    verbose="auto",
):
    """Clusters the weights of a network: each kernel keeps only a few different values.

    The entries of each kernel are gathered around `clusters` centroids by
    tensorflow_model_optimization, the centroids are trained together with all other
    weights, and every entry takes its centroid's value. This happens in a copy of the
    network in Keras 2 (`to_tf_keras`); the weights are then set in `model`, which is
    calibrated and exported as before. The .tflite file keeps its size and shrinks once it
    is compressed (`gzipped_size`).

    Every exit is trained on the labels, weighted by `model.exit_weights`; distillation and
    gradient scales are not used.

    Args:
        model: An `AdaptiveModel`; `to_tf_keras` says of which layers.
        clusters: Integer of at least 2, the number of different values of a kernel.
        train: Tuple `(x, y)`; or a `tf.data.Dataset` of batches; or a `data.Splits`, whose
            train split is batched, shuffled and augmented. `None`: nothing is trained.
        epochs: Integer.
        learning_rate: Number, the initial learning rate; it decays to zero along a cosine.
        batch_size: Integer.
        verbose: As in `keras.Model.fit`.

    Returns:
        `model`, with its new weights.

    Raises:
        TypeError, ValueError: If an argument is impossible, or a layer is not supported;
            the message names it.
        RuntimeError: If the Keras 2 copy does not equal `model`, or does not come back
            clustered. Then the weights of `model` are unchanged.

    Reference:
        [Deep Compression (Han et al., 2016)](https://arxiv.org/abs/1510.00149), section 3.
    """
    check_model(model)
    clusters = integer("clusters", clusters, 2)
    how = {"epochs": epochs, "learning_rate": learning_rate, "batch_size": batch_size}
    how = None if train is None else checked(model, train, **how)
    clustering = tfmot().clustering.keras
    copy = to_tf_keras(model)
    _check_kernels(model, clusters)
    wrapped = clustering.cluster_weights(
        copy.model,
        number_of_clusters=clusters,
        cluster_centroids_init=clustering.CentroidInitialization.KMEANS_PLUS_PLUS,
        # the sum over a large kernel would be a step of a thousand times the rate
        cluster_gradient_aggregation="GradientAggregation.AVG",
    )
    if how is not None:
        fine_tune(model, wrapped, verbose=verbose, **how)
    stripped = clustering.strip_clustering(wrapped)
    weights = {name: stripped.get_layer(name).get_weights() for name in copy.layers}
    kernels = {id(layer) for layer in weighted_layers(model)}
    for name, layer in copy.layers.items():
        values = len(np.unique(weights[name][0])) if id(layer) in kernels else 0
        if values > clusters:
            raise RuntimeError(
                f"The kernel of {name!r} must have at most {clusters} different values. "
                f"Received: {values}"
            )
    copy.copy_weights(weights)
    return model


def _check_kernels(model, clusters):
    """Raises a ValueError if a kernel has fewer entries than there are clusters."""
    sizes = {layer.name: int(np.prod(layer.kernel.shape)) for layer in weighted_layers(model)}
    name = min(sizes, key=sizes.get, default=None)
    if name is not None and sizes[name] < clusters:
        raise ValueError(
            f"`clusters` must be at most the entries of the smallest kernel, {sizes[name]} in "
            f"layer {name!r}. Received: clusters={clusters}"
        )
