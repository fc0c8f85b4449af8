import keras
import pytest

from keras_adaptive import costs


def cost(layer, shape, unit="macs"):
    x = keras.Input(shape)
    return costs.exit_costs([x], [layer(x)], unit)[0]


L = keras.layers


@pytest.mark.parametrize(
    ("layer", "shape", "macs", "reference_flops"),
    [
        (L.Conv2D(5, 3, padding="same"), (6, 4, 2), 6 * 4 * 9 * 2 * 5, 6 * 4 * 9 * 2 * 5),
        (L.Conv2D(5, 3, strides=2), (7, 5, 2), 3 * 2 * 9 * 2 * 5, 3 * 2 * 9 * 2 * 5),
        (L.Conv2D(6, 3, groups=2), (5, 5, 4), 9 * 9 * 2 * 6, 9 * 9 * 2 * 6),
        (L.Conv1D(5, 3), (6, 2), 4 * 3 * 2 * 5, 4 * 3 * 2 * 5),
        (L.Conv3D(5, 2), (3, 3, 3, 2), 8 * 8 * 2 * 5, 8 * 8 * 2 * 5),
        (L.Conv2DTranspose(5, 3), (4, 4, 2), 16 * 9 * 2 * 5, 16 * 9 * 2 * 5),
        (L.DepthwiseConv2D(3, depth_multiplier=2), (5, 5, 4), 9 * 9 * 8, 9 * 9 * 8),
        (L.SeparableConv2D(6, 3), (5, 5, 4), 9 * (9 * 4 + 4 * 6), 9 * (9 * 4 + 4 * 6)),
        (L.Dense(5), (7,), 35, 40),
        (L.Dense(5, use_bias=False), (7,), 35, 35),
        (L.Dense(5), (3, 7), 105, 120),
        (L.BatchNormalization(), (4, 4, 3), 0, 0),
        (L.ReLU(), (4, 4, 3), 0, 48),
        (L.MaxPooling2D(2), (4, 4, 3), 0, 48),
        (L.GlobalAveragePooling2D(), (4, 4, 3), 0, 48),
    ],
)
def test_counts_as_by_hand(layer, shape, macs, reference_flops):
    assert cost(layer, shape) == macs
    assert cost(layer, shape, "reference_flops") == reference_flops


def test_opens_composite_layers_and_nested_models():
    class Twice(keras.layers.Layer):
        def __init__(self):
            super().__init__()
            self.dense = keras.layers.Dense(4)

        def build(self, shape):
            self.dense.build(shape)

        def call(self, x):
            return self.dense(self.dense(x))

        def compute_output_shape(self, shape):
            return shape

    assert cost(Twice(), (4,)) == 32
    assert cost(Twice(), (4,), "params") == 20
    nested = keras.Sequential([keras.Input((4,)), keras.layers.Dense(3), keras.layers.Dense(2)])
    assert cost(nested, (4,)) == 12 + 6


def test_a_layer_used_twice_costs_twice_and_weighs_once():
    x = keras.Input((4,))
    dense = keras.layers.Dense(4, use_bias=False)
    first = dense(x)
    assert costs.exit_costs([x], [first, dense(first)]).tolist() == [16, 32]
    assert costs.exit_costs([x], [first, dense(first)], "params").tolist() == [16, 16]


def test_names_the_layer_it_cannot_count():
    class Scale(keras.layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=())

        def call(self, x):
            return x * self.factor

    with pytest.raises(ValueError, match="Received: layer 'mystery' of type Scale"):
        cost(Scale(name="mystery"), (4,))
    x = keras.Input((4, 4))
    with pytest.raises(ValueError, match="of type Matmul"):
        costs.exit_costs([x], [keras.ops.matmul(x, x)])


def test_rejects_unknown_unit():
    with pytest.raises(ValueError, match="Received: unit=watts"):
        cost(keras.layers.Dense(2), (4,), "watts")


def test_a_nested_model_costs_what_it_does_at_the_size_it_is_given():
    x = keras.Input((None, None, 1))
    nested = keras.Model(x, L.GlobalAveragePooling2D()(L.Conv2D(2, 3)(x)))
    assert cost(nested, (5, 5, 1)) == 9 * 9 * 2
    assert cost(nested, (7, 5, 1)) == 15 * 9 * 2
