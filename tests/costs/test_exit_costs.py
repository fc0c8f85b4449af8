import keras
import numpy as np
import pytest
import tensorflow as tf
from graph_macs import graph_macs
from keras import ops

from keras_adaptive import _graph, costs
from keras_adaptive.costs.exit_costs import _REGISTERED


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


class Scale(keras.layers.Layer):
    def build(self, shape):
        self.factor = self.add_weight(shape=(shape[-1],))

    def call(self, x):
        return self.factor * x


class Mix(keras.layers.Layer):
    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 5))

    def call(self, x):
        return ops.relu(x @ self.kernel)


class Positions(keras.layers.Layer):
    def build(self, shape):
        self.table = self.add_weight(shape=(1, *shape[1:]))

    def call(self, x):
        return x + ops.tile(self.table, (ops.shape(x)[0], 1, 1))


class Block(keras.layers.Layer):
    """A transformer block of one's own, with a mapping that loses sizes."""

    def __init__(self):
        super().__init__()
        self.attention = L.MultiHeadAttention(2, 4)
        self.wide = L.EinsumDense("abc,cd->abd", output_shape=(None, 9))
        self.narrow = L.Dense(6)

    def build(self, shape):
        self.attention.build(shape, shape)
        self.wide.build(shape)
        self.narrow.build((*shape[:-1], 9))

    def call(self, x):
        x = x + self.attention(x, x)
        return x + self.narrow(ops.gelu(self.wide(x)))


class Cell(keras.layers.Layer):
    state_size = 4

    def build(self, shape):
        self.dense = L.Dense(4)
        self.dense.build((None, shape[-1] + 4))

    def call(self, x, states):
        state = ops.tanh(self.dense(ops.concatenate([x, states[0]], axis=-1)))
        return state, [state]


class Opaque(keras.layers.Layer):
    """A layer whose `call` cannot be followed."""

    def build(self, shape):
        self.kernel = self.add_weight(shape=(shape[-1], 3))

    def call(self, x):
        return tf.linalg.matmul(x, self.kernel)

    def compute_output_shape(self, shape):
        return (*shape[:-1], 3)


def ones(*shape):
    return np.ones(shape, "float32")


def itself(layer):
    return lambda x: layer(x, x)


# name: what is applied, the shapes of its inputs, its MACs by hand
PRODUCTS = {
    "attention": (lambda x: L.Attention()([x, x]), [(10, 6)], 2 * 10 * 10 * 6),
    "attention_by_sums": (lambda x: L.AdditiveAttention()([x, x]), [(10, 6)], 10 * 10 * 6),
    "heads": (
        itself(L.MultiHeadAttention(3, 4)),
        [(7, 6)],
        4 * 7 * 6 * 12 + 2 * 3 * 7 * 7 * 4,
    ),
    "cross_attention": (
        lambda x, y: L.MultiHeadAttention(2, 5, value_dim=3, output_shape=9)(x, y),
        [(7, 6), (4, 8)],
        7 * 6 * 10 + 4 * 8 * 10 + 4 * 8 * 6 + 2 * 7 * 4 * 8 + 7 * 6 * 9,
    ),
    "grouped_heads": (
        itself(L.GroupQueryAttention(4, 6, 2)),
        [(7, 6)],
        2 * 7 * 6 * 24 + 2 * 7 * 6 * 8 + 2 * 6 * 7 * 7 * 4,
    ),
    "ops_attention": (
        lambda q, k: ops.dot_product_attention(q, k, k),
        [(7, 4, 5), (9, 2, 5)],
        2 * 4 * 7 * 9 * 5,
    ),
    "einsum_dense": (
        L.EinsumDense("abc,cd->abd", output_shape=(None, 8)),
        [(5, 6)],
        5 * 6 * 8,
    ),
    "einsum": (
        lambda x, y, z: ops.einsum("bij,bjk,bkl->bil", x, y, z),
        [(3, 4), (4, 5), (5, 6)],
        4 * 5 * 6 + 3 * 4 * 6,  # the greedy order
    ),
    "einsum_sums_first": (
        lambda x, y: ops.einsum("bij,bk->bk", x, y),
        [(3, 4), (5,)],
        5,
    ),
    "matmul": (lambda x: ops.matmul(x, ones(5, 2)), [(3, 4, 5)], 3 * 4 * 5 * 2),
    "dot": (lambda x: ops.dot(x, ones(5, 2)), [(3, 5)], 3 * 5 * 2),
    "tensordot": (
        lambda x: ops.tensordot(x, ones(5, 4, 2), [[2, 3], [1, 0]]),
        [(3, 4, 5)],
        3 * 4 * 5 * 2,
    ),
    "dot_layer": (lambda x, y: L.Dot((3, 1))([x, y]), [(3, 2, 4), (4, 5)], 3 * 2 * 4 * 5),
    "rnn": (L.SimpleRNN(5), [(7, 3)], 7 * (3 * 5 + 5 * 5)),
    "gru": (L.GRU(5), [(7, 3)], 7 * 3 * (3 * 5 + 5 * 5)),
    "lstm": (L.LSTM(5), [(7, 3)], 7 * 4 * (3 * 5 + 5 * 5)),
    "both_ways": (L.Bidirectional(L.LSTM(5)), [(7, 3)], 2 * 7 * 4 * (3 * 5 + 5 * 5)),
    "stacked": (
        L.RNN(L.StackedRNNCells([L.LSTMCell(4), L.GRUCell(5)])),
        [(7, 3)],
        7 * (4 * 4 * (3 + 4) + 3 * 5 * (4 + 5)),
    ),
    "own_cell": (L.RNN(Cell()), [(7, 3)], 7 * (3 + 4) * 4),
    "conv_lstm": (
        L.ConvLSTM2D(3, 3, strides=2),
        [(4, 8, 9, 2)],
        4 * 4 * (3 * 4 * 9) * 3 * (2 + 3),
    ),
    "each_step": (L.TimeDistributed(L.Conv2D(4, 3)), [(5, 8, 8, 2)], 5 * 36 * 9 * 2 * 4),
    "spectral": (L.SpectralNormalization(L.Conv2D(4, 3)), [(8, 8, 2)], 36 * 9 * 2 * 4),
    "embedding": (L.Embedding(10, 4), [(5,)], 0),
    "embedding_back": (
        lambda x: L.ReversibleEmbedding(10, 4)(x, reverse=True),
        [(5, 4)],
        5 * 4 * 10,
    ),
    "ops_conv": (lambda x: ops.conv(x, ones(3, 3, 2, 4)), [(9, 9, 2)], 49 * 9 * 2 * 4),
    "ops_depthwise": (
        lambda x: ops.depthwise_conv(x, ones(3, 3, 2, 2)),
        [(9, 9, 2)],
        49 * 9 * 4,
    ),
    "ops_separable": (
        lambda x: ops.separable_conv(x, ones(3, 3, 2, 2), ones(1, 1, 4, 5)),
        [(9, 9, 2)],
        49 * (9 * 4 + 4 * 5),
    ),
    "patches": (
        lambda x: ops.image.extract_patches(x, 3),
        [(9, 9, 2)],
        9 * 18 * 18,  # a convolution whose kernel copies
    ),
    "own_scale": (Scale(), [(4,)], 0),
    "own_product": (Mix(), [(3, 4)], 3 * 4 * 5),
    "own_positions": (Positions(), [(3, 4)], 0),
    "own_block": (
        Block(),
        [(7, 6)],
        4 * 7 * 6 * 8 + 2 * 2 * 7 * 7 * 4 + 2 * 7 * 6 * 9,
    ),
    "lambda": (
        L.Lambda(lambda x: ops.matmul(x, ops.transpose(x, (0, 2, 1)))),
        [(3, 4)],
        3 * 4 * 3,
    ),
}


@pytest.mark.filterwarnings("ignore:NotImplemented should not be used")  # Keras's Tensordot
@pytest.mark.parametrize("name", PRODUCTS)
def test_products_are_counted_as_by_hand_and_in_the_graph(name):
    apply, shapes, macs = PRODUCTS[name]
    inputs = [keras.Input(s, dtype="int32" if name == "embedding" else None) for s in shapes]
    outputs = [apply(*inputs)]
    assert costs.exit_costs(inputs, outputs).tolist() == [macs]
    assert graph_macs(inputs, outputs) == macs


def test_opening_a_layer_changes_nothing_of_it():
    class Counting(keras.layers.Layer):
        def build(self, shape):
            self.calls = self.add_weight(shape=(), initializer="zeros", trainable=False)

        def call(self, x):
            self.calls.assign(self.calls + 1)
            self.add_loss(ops.mean(x))
            return x

    layer = Counting()
    x = keras.Input((4,))
    y = layer(x)
    losses = len(layer.losses)
    assert costs.exit_costs([x], [y]).tolist() == [0]
    assert len(layer.losses) == losses
    assert float(layer.calls.numpy()) == 0
    with pytest.raises(ValueError, match="KerasTensor"):  # as Keras has it
        layer.calls * x


def test_names_the_layer_it_cannot_count_and_the_line_to_write():
    with pytest.raises(ValueError, match=r"ka.costs.register\(Opaque, .*layer 'mystery' of type"):
        cost(Opaque(name="mystery"), (4,))
    x = keras.Input((4, 4))
    with pytest.raises(ValueError, match="Received: operation '.*' of type Inv"):
        costs.exit_costs([x], [ops.inv(x)])


@pytest.fixture
def registry():
    """Forgets what a test registers."""
    before = dict(_REGISTERED)
    yield
    _REGISTERED.clear()
    _REGISTERED.update(before)


def test_what_is_registered_is_asked_first_and_the_last_one_counts(registry):
    seen = []

    def macs(layer, input_shape, output_shape):
        seen.append((input_shape, output_shape))
        return 100

    costs.register(L.Layer, lambda *shapes: 1)
    costs.register(Opaque, macs)
    assert cost(Opaque(), (5, 4)) == 100
    assert seen == [((None, 5, 4), (None, 5, 3))]
    costs.register(Opaque, lambda layer, before, after: np.float32(7))
    assert cost(Opaque(), (5, 4)) == 7
    assert cost(L.Dense(2), (4,)) == 1  # inherited, and before the formula
    x, y = keras.Input((4,)), keras.Input((4,))
    costs.register(L.Add, lambda layer, before, after: sum(shape[-1] for shape in before))
    assert costs.exit_costs([x, y], [L.Add()([x, y])]).tolist() == [8]


def test_what_is_registered_counts_in_both_directions(registry):
    costs.register(L.LSTM, lambda layer, before, after: after[-1])
    assert cost(L.Bidirectional(L.LSTM(5)), (7, 3)) == 2 * 5


@pytest.mark.parametrize("given", [-1, np.nan, np.inf, "a", None, [3], True])
def test_what_is_registered_must_return_a_number(given, registry):
    costs.register(Opaque, lambda *shapes: given)
    with pytest.raises(ValueError, match=r"registered for a layer must .*Received: .* 'mystery'"):
        cost(Opaque(name="mystery"), (4, 4))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [((3, len), "`layer_class` must be a subclass"), ((Opaque, 3), "`macs` must be a function")],
)
def test_register_rejects_what_is_no_layer_or_no_function(arguments, message):
    with pytest.raises(TypeError, match=message):
        costs.register(*arguments)


def test_open_sizes_are_given():
    x = keras.Input((None, None, 3), name="image")
    y = L.Dense(2)(L.GlobalAveragePooling2D()(L.Conv2D(4, 3)(x)))
    with pytest.raises(ValueError, match="`input_shape` must be given"):
        costs.exit_costs([x], [y])
    macs = 30 * 9 * 3 * 4 + 8
    assert costs.exit_costs([x], [y], input_shape=(7, 8, 3)).tolist() == [macs]
    assert costs.exit_costs([x], [y], input_shape={"image": (7, 8, 3)}).tolist() == [macs]
    assert costs.exit_costs([x], [y], input_shape=np.array([7, 8, 3])).tolist() == [macs]
    for wrong in [(7, 8), (7, 8, 4), (0, 8, 3), [(7, 8, 3), (7, 8, 3)], {"other": (7, 8, 3)}]:
        with pytest.raises(ValueError, match="`input_shape` must hold a size"):
            costs.exit_costs([x], [y], input_shape=wrong)


def test_open_steps_of_several_inputs_are_given():
    tokens, others = keras.Input((None,), dtype="int32"), keras.Input((3,))
    features = L.LSTM(5)(L.Embedding(10, 4)(tokens))
    y = L.Dense(2)(L.Concatenate()([features, others]))
    found = costs.exit_costs([tokens, others], [y], input_shape=[(7,), (3,)])
    assert found.tolist() == [7 * 4 * (4 * 5 + 5 * 5) + (5 + 3) * 2]


@pytest.mark.parametrize("unit", ["watts", "MACs", None, 3, ["macs"], np.ones(2)])
def test_rejects_unknown_unit(unit):
    with pytest.raises(ValueError, match="`unit` must be one of .*Received: unit="):
        cost(keras.layers.Dense(2), (4,), unit)
    x = keras.Input((4,))
    node = _graph.node_of(keras.layers.Dense(2)(x))
    with pytest.raises(ValueError, match="`unit` must be one of .*Received: unit="):
        costs.node_cost(node, unit)


def test_one_operation_has_a_cost_of_work_only():
    node = _graph.node_of(keras.layers.Dense(2)(keras.Input((4,))))
    assert costs.node_cost(node, "macs") == 8
    with pytest.raises(ValueError, match="Received: unit=params"):
        costs.node_cost(node, "params")


def test_a_nested_model_costs_what_it_does_at_the_size_it_is_given():
    x = keras.Input((None, None, 1))
    nested = keras.Model(x, L.GlobalAveragePooling2D()(L.Conv2D(2, 3)(x)))
    assert cost(nested, (5, 5, 1)) == 9 * 9 * 2
    assert cost(nested, (7, 5, 1)) == 15 * 9 * 2


def test_costs_are_those_of_one_sample_whatever_the_batch():
    x = keras.Input(batch_shape=(6, 5, 5, 1))
    features = L.Conv2D(2, 3)(x)
    inner = keras.Model(x, L.GlobalAveragePooling2D()(features))
    macs = [9 * 9 * 2, 9 * 9 * 2 + 2 * 4]
    y = L.Dense(4)(inner.output)
    for unit in ("macs", "energy", "reference_flops"):
        found = costs.exit_costs([x], [inner.output, y], unit)
        again = keras.Input((5, 5, 1))
        answer = inner(again)
        alike = costs.exit_costs([again], [answer, L.Dense(4)(answer)], unit)
        assert found.tolist() == alike.tolist()
        assert unit != "macs" or found.tolist() == macs
