"""Sparsity of a network, and the compressed size of its file."""

import gzip

import keras
import numpy as np

from keras_adaptive._files import as_path, reading


def weighted_layers(model):
    """Returns the convolutions and dense layers of a model, those inside others included.

    Args:
        model: A Keras model.

    Returns:
        List of layers, each once.
    """
    kinds = (keras.layers.Dense, keras.layers.Conv1D, keras.layers.Conv2D, keras.layers.Conv3D)
    kinds += (keras.layers.Conv1DTranspose, keras.layers.Conv2DTranspose)
    found = {id(x): x for x in model._flatten_layers() if isinstance(x, kinds) and x.built}
    return list(found.values())


def sparsity(model):
    """Returns the fraction of kernel entries that are zero.

    Args:
        model: A Keras model.

    Returns:
        Number from 0 to 1, over the kernels of all convolutions and dense layers.

    Example:

    >>> model = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    >>> model.layers[0].set_weights([np.array([[1.0, 0.0], [2.0, 3.0]]), np.zeros(2)])
    >>> sparsity(model)
    0.25
    """
    kernels = [keras.ops.convert_to_numpy(x.kernel) for x in weighted_layers(model)]
    zeros = sum(np.sum(kernel == 0) for kernel in kernels)
    return float(zeros / max(sum(kernel.size for kernel in kernels), 1))


def gzipped_size(path):
    """Returns the size of a file after gzip, in bytes.

    Zeros and shared values take as much space in a .tflite file as others; the saving
    appears where the file is compressed, as app stores and web servers do.

    Args:
        path: Path of the file.

    Returns:
        Integer.

    Raises:
        TypeError, ValueError: If it is the path of no file that can be read.
    """
    path = as_path(path)
    with reading(path, "`path` must be a file that can be read"):
        content = path.read_bytes()
    return len(gzip.compress(content, mtime=0))
