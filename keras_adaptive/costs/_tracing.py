"""Records what the `call` of a layer does, on symbolic tensors."""

import contextlib

import keras

from keras_adaptive import _graph
from keras_adaptive.costs._formulas import einsum_shape

ARITHMETIC = "add sub mul truediv floordiv mod pow matmul and or xor eq ne lt le gt ge"


@contextlib.contextmanager
def tracing():
    """Opens layers: what a `call` does is recorded, and changes nothing of the layer.

    Keras falls short in four places, which are mended meanwhile: a variable on the left of a
    symbolic tensor (`self.scale * x`), `add_loss` and a layer that gives `None` beside tensors
    raise errors, and the output of `EinsumDense` loses sizes that are known.
    """
    kind, dense = keras.Variable, keras.layers.EinsumDense
    names = [f"__{name}__" for name in ARITHMETIC.split()]
    before = {name: kind.__dict__.get(name) for name in names}
    shape_of, add_loss = dense.compute_output_shape, keras.layers.Layer.add_loss

    def deferring(method):
        def operate(variable, other):
            return (
                NotImplemented if isinstance(other, keras.KerasTensor) else method(variable, other)
            )

        return operate

    def known_shape(layer, input_shape):
        if None in input_shape:
            return shape_of(layer, input_shape)
        return einsum_shape(layer.equation, tuple(input_shape), tuple(layer.kernel.shape))

    try:
        for name in names:
            setattr(kind, name, deferring(getattr(kind, name)))
        dense.compute_output_shape = known_shape
        keras.layers.Layer.add_loss = lambda layer, loss: None
        with keras.StatelessScope(), _graph.tensors_alone():
            yield
    finally:
        dense.compute_output_shape = shape_of
        keras.layers.Layer.add_loss = add_loss
        for name, method in before.items():
            if method is None:
                delattr(kind, name)
            else:
                setattr(kind, name, method)
