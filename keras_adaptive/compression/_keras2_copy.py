"""A copy of a network in Keras 2, the only Keras that tensorflow_model_optimization supports."""

from typing import NamedTuple

import keras
import numpy as np

from keras_adaptive import _graph, layers
from keras_adaptive._checks import needs_extra
from keras_adaptive.compression._libraries import tfmot
from keras_adaptive.layers.early_exit import EarlyExit
from keras_adaptive.layers.gradient_scale import GradientScale

TOLERANCE = 1e-5  # of an output, times the largest output where that is above 1
# layer: the arguments that matter here; it has the same name in both
LAYERS = {
    "Activation": ("activation",),
    "Add": (),
    "AveragePooling2D": ("pool_size", "strides", "padding"),
    "BatchNormalization": ("axis", "momentum", "epsilon", "center", "scale"),
    "Concatenate": ("axis",),
    "Conv2D": (
        "filters",
        "kernel_size",
        "strides",
        "padding",
        "dilation_rate",
        "groups",
        "activation",
        "use_bias",
    ),
    "Dense": ("units", "activation", "use_bias"),
    "DepthwiseConv2D": (
        "kernel_size",
        "strides",
        "padding",
        "depth_multiplier",
        "dilation_rate",
        "activation",
        "use_bias",
    ),
    "Dropout": ("rate",),
    "Flatten": (),
    "GlobalAveragePooling2D": ("keepdims",),
    "MaxPooling2D": ("pool_size", "strides", "padding"),
    "ReLU": ("max_value", "negative_slope", "threshold"),
    "ZeroPadding2D": ("padding",),
}
PENALTIES = ("kernel_regularizer", "kernel_constraint", "activity_regularizer")


class Keras2Copy(NamedTuple):
    """A copy of a network in Keras 2, and the Keras 3 layers its weights came from.

    Attributes:
        model: A `tf_keras.Model` with the same inputs, outputs and weights.
        layers: Dictionary: name of a layer in it to the Keras 3 layer it was copied from.
    """

    model: object
    layers: dict

    def copy_weights(self, weights):
        """Sets the weights of the Keras 3 layers.

        Args:
            weights: Dictionary: name of a layer to its list of arrays. Every layer with
                weights must be there.

        Raises:
            RuntimeError: If a layer is missing or its weights do not fit; then nothing is
                changed.
        """
        owners = {name: layer for name, layer in self.layers.items() if layer.weights}
        for name, layer in owners.items():
            shapes = [tuple(w.shape) for w in layer.weights]
            found = [np.shape(w) for w in weights.get(name, [])]
            if shapes != found or not all(np.isfinite(w).all() for w in weights[name]):
                raise RuntimeError(
                    f"Layer {name!r} must come back with finite weights of shapes {shapes}. "
                    f"Received: shapes {found}"
                )
        for name, layer in owners.items():
            layer.set_weights(weights[name])

    give_back = copy_weights  # its name before 0.2; until 0.3


def to_tf_keras(model):
    """Copies a network to Keras 2 (`tf_keras`).

    Each `EarlyExit` becomes the layers it is made of; gradient scales, which do not change
    the outputs, are left out. Both networks are run on random input, and the copy is only
    returned if all outputs agree to 1e-5.

    Args:
        model: A functional model of the layers that `LAYERS` names, `EarlyExit`s without
            collaboration and `GradientScale`s.

    Returns:
        A `Keras2Copy`.

    Raises:
        ValueError: If a layer is not supported; the message names it.
        RuntimeError: If the outputs differ.
    """
    tfmot()
    with needs_extra("compress"):
        import tf_keras

    walk = _Walk(tf_keras.layers)
    inputs = [
        tf_keras.Input(tuple(x.shape[1:]), name=f"input_{i}", dtype=x.dtype)
        for i, x in enumerate(model.inputs)
    ]
    tensors = {id(old): new for old, new in zip(model.inputs, inputs, strict=True)}
    for node in _graph.nodes_between(model.inputs, model.outputs):
        taken = [tensors[id(tensor)] for tensor in node.input_tensors]
        made = walk.apply(node.operation, taken)
        (output,) = node.outputs
        tensors[id(output)] = made
    copy = tf_keras.Model(inputs, [tensors[id(tensor)] for tensor in model.outputs])
    for name, layer in walk.origins.items():
        copy.get_layer(name).set_weights(layer.get_weights())
    _check_equal(model, copy)
    return Keras2Copy(copy, walk.origins)


class _Walk:
    """Applies the Keras 2 counterparts of Keras 3 layers to Keras 2 tensors."""

    def __init__(self, kinds):
        self.kinds = kinds
        self.origins = {}  # name to Keras 3 layer
        self.made = {}  # id of a Keras 3 layer to its counterpart

    def apply(self, layer, taken, prefix=""):
        if isinstance(layer, GradientScale):
            return taken[0]
        if isinstance(layer, EarlyExit):
            return self._early_exit(layer, taken)
        if id(layer) not in self.made:
            self.made[id(layer)] = self._make(layer, prefix)
        return self.made[id(layer)](taken if len(taken) > 1 else taken[0])

    def _early_exit(self, head, taken):
        if head.collaboration is not None or len(taken[0].shape) not in (2, 4):
            raise _unsupported(head, f"collaboration={head.collaboration!r}")
        x = taken[0]
        for layer in head.units:
            x = self.apply(layer, [x], f"{head.name}_")
        if len(x.shape) == 4:
            x = self.kinds.GlobalAveragePooling2D(name=f"{head.name}_mean")(x)
        return self.apply(head.logits, [x], f"{head.name}_")

    def _make(self, layer, prefix):
        kind = type(layer).__name__
        known = (getattr(keras.layers, kind, None), getattr(layers, kind, None))
        if kind not in LAYERS or type(layer) not in known:
            raise _unsupported(layer, f"type {kind}")
        config = layer.get_config()
        arguments = {key: config[key] for key in LAYERS[kind]}
        if config.get("data_format") == "channels_first":
            raise _unsupported(layer, "data_format='channels_first'")
        if not isinstance(arguments.get("activation", ""), str):
            raise _unsupported(layer, f"activation={arguments['activation']}")
        for name in PENALTIES:
            if getattr(layer, name, None) is not None:
                raise _unsupported(layer, name)
        name = f"{prefix}{layer.name}"
        if name in self.origins:
            raise ValueError(f"Layers must have different names. Received: two called {name!r}")
        self.origins[name] = layer
        return getattr(self.kinds, kind)(**arguments, name=name)


def _unsupported(layer, what):
    name = getattr(layer, "name", type(layer).__name__)
    return ValueError(
        f"Every layer must be one that the copy in Keras 2 is made of: {', '.join(LAYERS)}, "
        "EarlyExit without collaboration, GradientScale. `export_tflite` quantizes networks of "
        f"any layers after training. Received: layer {name!r} with {what}"
    )


def _check_equal(model, copy):
    rng = np.random.default_rng(0)
    inputs = [rng.normal(size=(4, *x.shape[1:])).astype("float32") for x in model.inputs]
    expected = keras.tree.flatten(model(inputs, training=False))
    found = keras.tree.flatten(copy(inputs, training=False))
    for k, (a, b) in enumerate(zip(expected, found, strict=True)):
        a, b = np.asarray(a), np.asarray(b)
        off = np.abs(a - b).max() / max(1.0, np.abs(a).max())
        if not off <= TOLERANCE:
            raise RuntimeError(
                f"Output {k} of the network in Keras 2 must equal that in Keras 3. "
                f"Received: a difference of {off:.2g}"
            )
