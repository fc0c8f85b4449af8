"""Smaller networks: magnitude pruning, weight clustering, quantization-aware training."""

from keras_adaptive.compression._keras2_copy import to_tf_keras as to_tf_keras
from keras_adaptive.compression.clustering import cluster as cluster
from keras_adaptive.compression.pruning import MagnitudePruning as MagnitudePruning
from keras_adaptive.compression.quantization import quantization_aware as quantization_aware
from keras_adaptive.compression.sizes import gzipped_size as gzipped_size
from keras_adaptive.compression.sizes import sparsity as sparsity

__all__ = [
    "MagnitudePruning",
    "cluster",
    "gzipped_size",
    "quantization_aware",
    "sparsity",
    "to_tf_keras",
]
