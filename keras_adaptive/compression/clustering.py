"""Weights that share a few values."""

import numpy as np

from keras_adaptive.compression._fine_tuning import check_model, fine_tune
from keras_adaptive.compression._keras2_copy import to_tf_keras
from keras_adaptive.compression._libraries import tfmot
from keras_adaptive.compression.sizes import weighted_layers


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
    """Lets every kernel of a network have a few different values only.

    The entries of each kernel are gathered around `clusters` centroids by
    tensorflow_model_optimization, the centroids are trained together with all other
    weights, and every entry takes its centroid's value. This happens in the network's
    twin in Keras 2 (`to_tf_keras`); the weights are then set in `model`, which calibrates
    and exports as before. The .tflite file is as large as ever and smaller once it is
    compressed (`gzipped_size`).

    The labels teach every exit by `model.exit_weights`; distillation and gradient scales
    have no part in it.

    Args:
        model: An `AdaptiveModel`; `to_tf_keras` says of which layers.
        clusters: Integer of at least 2, the number of different values of a kernel.
        train: Tuple `(x, y)`; or a `tf.data.Dataset` of batches; or a `data.Splits`, whose
            train split is batched, shuffled and augmented. `None`: nothing is trained.
        epochs: Integer.
        learning_rate: Number, the first; it falls to zero along a cosine.
        batch_size: Integer.
        verbose: As in `keras.Model.fit`.

    Returns:
        `model`, with its new weights.

    Raises:
        TypeError, ValueError: If an argument is impossible, or a layer is not supported;
            the message names it.
        RuntimeError: If the twin is not equal, or does not come back clustered. Then the
            weights of `model` are what they were.

    Reference:
        [Deep Compression (Han et al., 2016)](https://arxiv.org/abs/1510.00149), section 3.
    """
    check_model(model)
    if isinstance(clusters, bool) or not isinstance(clusters, int) or clusters < 2:
        raise ValueError(
            f"`clusters` must be an integer of at least 2. Received: clusters={clusters}"
        )
    clustering = tfmot().clustering.keras
    twin = to_tf_keras(model)
    wrapped = clustering.cluster_weights(
        twin.model,
        number_of_clusters=clusters,
        cluster_centroids_init=clustering.CentroidInitialization.KMEANS_PLUS_PLUS,
        # the sum over a large kernel would be a step of a thousand times the rate
        cluster_gradient_aggregation="GradientAggregation.AVG",
    )
    if train is not None:
        fine_tune(
            model,
            wrapped,
            train,
            epochs=epochs,
            learning_rate=learning_rate,
            batch_size=batch_size,
            verbose=verbose,
        )
    stripped = clustering.strip_clustering(wrapped)
    weights = {name: stripped.get_layer(name).get_weights() for name in twin.layers}
    kernels = {id(layer) for layer in weighted_layers(model)}
    for name, layer in twin.layers.items():
        values = len(np.unique(weights[name][0])) if id(layer) in kernels else 0
        if values > clusters:
            raise RuntimeError(
                f"The kernel of {name!r} must have at most {clusters} different values. "
                f"Received: {values}"
            )
    twin.give_back(weights)
    return model
