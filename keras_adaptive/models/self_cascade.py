"""Self-cascades: one model, run on the same image at growing resolutions."""

import keras
import numpy as np

from keras_adaptive import _graph
from keras_adaptive._checks import integer_sequence
from keras_adaptive.models.cascade import LOOKS, chain, check_model, resized, with_logits
from keras_adaptive.training.adaptive_model import keeping


def build_self_cascade(model, resolutions, *, input_shape=None, from_logits=None):
    """Chains a model with itself at growing resolutions, with an exit after each.

    Exit `k` gives the mean of the model's logits at the first `k + 1` resolutions. There
    is one set of weights; a larger image costs more and, up to a point, is classified
    better than at the size the model was trained on.

    The image comes at the largest resolution and is shrunk for the others by bilinear
    interpolation. With `input_shape` it comes at that size, and is enlarged for
    larger resolutions.

    Args:
        model: A built `keras.Model` with one image as input, made of layers that take
            any size: convolutions, then a global mean. (`Flatten` before a dense layer
            takes one size only.) Of an `AdaptiveModel`, the last exit counts.
        resolutions: Sequence of at least two: integers, or `(height, width)`.
        input_shape: `(height, width, channels)` of the image, or `None`.
        from_logits: As in `add_exits`.

    Returns:
        A compiled `AdaptiveModel` with one exit per resolution.

    Raises:
        ValueError: If a resolution is impossible for the model.

    Example:

    >>> x = keras.Input((8, 8, 1))
    >>> features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(x))
    >>> model = keras.Model(x, keras.layers.Dense(10)(features))
    >>> cascade = build_self_cascade(model, [8, 12])
    >>> [tuple(z.shape) for z in cascade.outputs], tuple(cascade.inputs[0].shape)
    ([(None, 10), (None, 10)], (None, 12, 12, 1))
    >>> cascade.exit_costs("params").tolist()
    [90.0, 90.0]

    Reference:
        [Wisdom of Committees (Wang et al., 2022)](https://arxiv.org/abs/2012.01988),
        section 6.
    """
    check_model(model, "model")
    image = model.inputs[0]
    if len(image.shape) != 4:
        raise ValueError(f"`model` must take images. Received: input shape {tuple(image.shape)}")
    channels = image.shape[-1]
    sizes = [(*size, channels) for size in _sizes(resolutions)]
    any_size = _at_any_size(model, channels, from_logits)
    for size in sizes:
        _check_size(any_size, size)
    if input_shape is None:
        input_shape = (max(s[0] for s in sizes), max(s[1] for s in sizes), channels)
    must = "(height, width, channels), positive integers"
    image = keras.Input(integer_sequence("input_shape", input_shape, 1, must, 3), name="image")
    looks = [resized(image, size) for size in sizes]
    cascade = chain(image, [any_size(look) for look in looks], "mean_logits", "self_cascade")
    return keeping(cascade, [model], LOOKS)


def _sizes(resolutions):
    """Returns the resolutions as pairs, checked."""
    must = "at least two sizes in pixels, growing: integers or (height, width)"
    listed = resolutions if isinstance(resolutions, (list, tuple, np.ndarray)) else ()
    pairs = [size if np.ndim(size) else (size, size) for size in listed]
    found = [integer_sequence("resolutions", pair, 1, must, length=2) for pair in pairs]
    areas = [height * width for height, width in found]
    if len(found) < 2 or sorted(set(areas)) != areas:
        raise ValueError(f"`resolutions` must be {must}. Received: resolutions={resolutions}")
    return found


def _at_any_size(model, channels, from_logits):
    """Returns the same layers behind an input of any height and width."""
    model = with_logits(model, "network", from_logits)
    nodes = _graph.nodes_between(model.inputs, model.outputs)
    image = keras.Input((None, None, channels), dtype=model.inputs[0].dtype, name="look")
    try:
        (logits,) = _graph.call_again(nodes, {id(model.inputs[0]): image}, model.outputs)
    except Exception as error:  # whatever a layer raises for a shape it cannot take
        raise ValueError(
            f"`model` must take images of any size. Received: {model.name!r}, which does "
            f"not: {error}"
        ) from error
    return keras.Model(image, logits, name="network")


def _check_size(model, size):
    nodes = _graph.nodes_between(model.inputs, model.outputs)
    image = keras.Input(size)
    try:
        _graph.call_again(nodes, {id(model.inputs[0]): image}, model.outputs)
    except Exception as error:  # as above
        raise ValueError(
            "`resolutions` must be sizes that the model can take. "
            f"Received: {size[0]} x {size[1]} ({error})"
        ) from error
