import keras
import numpy as np
import pytest

import keras_adaptive as ka
from keras_adaptive import _graph as graph


def chain():
    """A chain whose second stage does not read all that the third does."""
    x = keras.Input((3,), name="x")
    a = keras.layers.Dense(4, name="a")(x)
    b = keras.layers.Dense(4, name="b")(a)
    first = keras.layers.Dense(2, name="first")(a)
    second = keras.layers.Dense(2, name="second")(b)
    everything = keras.layers.Concatenate(name="everything")([x, a, b, second])
    third = keras.layers.Dense(2, name="third")(everything)
    return keras.Model(x, [first, second, third])


def names(nodes):
    return [node.operation.name for node in nodes]


def test_a_stage_holds_only_what_its_exit_needs():
    model = chain()
    stages = graph.split(model.inputs, model.outputs)
    assert names(stages[0].nodes) == ["a", "first"]
    assert names(stages[1].nodes) == ["b", "second"]
    assert names(stages[2].nodes) == ["everything", "third"]


def test_chained_stages_pass_on_what_is_read_later(rng):
    model = chain()
    x = rng.normal(size=(5, 3)).astype("float32")
    features, found = [x], []
    for stage in graph.stage_models(model.inputs, model.outputs):
        logits, *features = stage(features)
        found.append(logits)
    for a, b in zip(found, model(x), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_minimal_stages_read_and_return_only_what_they_must():
    model = chain()
    parts = graph.minimal_stages(model.inputs, model.outputs)
    assert [sorted(reads) for _, reads, _ in parts] == [
        ["input_0"],
        ["features_0"],
        ["features_0", "features_1", "features_2", "input_0"],
    ]
    assert [len(adds) for _, _, adds in parts] == [1, 2, 0]


def test_the_model_itself_is_not_changed_by_cutting_it():
    model = chain()
    before = model.get_config()
    graph.stage_models(model.inputs, model.outputs)
    assert model.get_config() == before


L = keras.layers


def text(blocks):
    """A network on tokens, in which 0 is padding, with an exit after every block and one more."""
    x = tokens = keras.Input((None,), dtype="int32")
    x = L.Embedding(20, 8, mask_zero=True)(x)
    outputs = []
    for k, block in enumerate(blocks):
        x = block(x)
        outputs.append(ka.layers.EarlyExit(3, name=f"exit_{k}")(x))
    outputs.append(L.Dense(3, name="last")(L.GlobalAveragePooling1D()(x)))
    return ka.AdaptiveModel(tokens, outputs)


def attention(x):
    """Reads its masks from tensors; Keras writes none of them down."""
    x = L.LayerNormalization()(L.Add()([x, L.MultiHeadAttention(2, 4)(x, x)]))
    return L.LayerNormalization()(L.Add()([x, L.Dense(8, "relu")(x)]))


def attention_of_normalized(x):
    """Reads what nobody else does, so that masks stay where they are."""
    h = L.LayerNormalization()(x)
    x = L.Add()([x, L.MultiHeadAttention(2, 4)(h, h)])
    return L.Add()([x, L.Dense(8, "relu")(L.LayerNormalization()(x))])


def recurrent_model(x):
    inner = keras.Input((None, 8))
    return keras.Model(inner, L.LSTM(8, return_sequences=True)(inner))(x)


TEXTS = {
    "lstm": [lambda x: L.LSTM(8, return_sequences=True)(x)] * 2,
    "both ways": [lambda x: L.Bidirectional(L.GRU(4, return_sequences=True))(x)],
    "dense": [L.Dense(8, "relu"), lambda x: L.LayerNormalization()(x)],
    "side by side": [lambda x: L.Concatenate()([x, L.GRU(4, return_sequences=True)(x)])] * 2,
    "one list": [L.Dense(8), lambda x: L.Attention()([x, x])],
    "transformer": [L.Dense(8), attention],
    "transformer of two": [attention_of_normalized] * 2,
    "model inside": [L.Dense(8), recurrent_model],
}


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=pytest.mark.slow)
        if kind in ("both ways", "side by side")
        else kind
        for kind in TEXTS
    ],
)
@pytest.mark.filterwarnings("ignore:.*does not support masking")
def test_padding_changes_no_exit_also_where_the_network_is_cut(kind):
    model = text(TEXTS[kind])
    x = np.array([[3, 4, 5], [6, 7, 8]], "int32")
    padded = np.pad(x, ((0, 0), (0, 7)))
    expected = model(x)
    for found, wanted in zip(model(padded), expected, strict=True):
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    features = [padded]
    for stage, wanted in zip(model.stages(), expected, strict=True):
        found, *features = stage(features)
        np.testing.assert_allclose(found, wanted, atol=1e-6)
    tensors = {"input_0": padded}
    for (stage, reads, adds), wanted in zip(
        graph.minimal_stages(model.inputs, model.outputs), expected, strict=True
    ):
        found, *features = stage([tensors[name] for name in reads])
        tensors.update(zip(adds, features, strict=True))
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_masks_are_lost_in_stages_where_keras_loses_them():
    # attention takes the mask off what it reads, so that a second one reads padding too
    model = text([attention, attention])
    padded = np.array([[3, 4, 5, 0, 0, 0]], "int32")
    features = [padded]
    for stage, wanted in zip(model.stages(), model(padded), strict=True):
        found, *features = stage(features)
        np.testing.assert_allclose(found, wanted, atol=1e-6)


def test_a_model_inside_is_opened_with_its_arguments():
    x, y = keras.Input((50,)), keras.Input((50,))
    inner = keras.Model(x, L.Dropout(0.5)(x))
    image = np.ones((1, 50), "float32")
    for training in (True, False, None):
        kwargs = {} if training is None else {"training": training}
        model = keras.Model(y, inner(y, **kwargs))
        (tokens,), answer = graph.opened(model.inputs, model.outputs[0])
        opened = keras.Model(tokens, answer)
        assert not any(isinstance(layer, keras.Model) for layer in opened.layers)
        for how in ({}, {"training": False}, {"training": True}):
            drops = [float(np.min(network(image, **how))) == 0 for network in (model, opened)]
            assert drops[0] == drops[1], (training, how)


def test_a_class_with_a_call_of_its_own_is_not_opened():
    class Doubled(keras.Model):
        def call(self, x):
            return 2 * super().call(x)

    x, y = keras.Input((3,)), keras.Input((3,))
    model = keras.Model(y, Doubled(x, L.Dense(2)(x))(y))
    image = np.ones((1, 3), "float32")
    (again,), answer = graph.opened(model.inputs, model.outputs[0])
    opened = keras.Model(again, answer)
    np.testing.assert_allclose(opened(image), model(image))


def test_trainable_reaches_layers_that_were_frozen_one_by_one(tmp_path):
    x = keras.Input((3,))
    model = ka.AdaptiveModel(x, [L.Dense(2)(x)])
    model.layers[1].trainable = False
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert not again.trainable_variables  # as it was saved
    for network in (model, again):
        network.trainable = True
        assert len(network.trainable_variables) == 2


def test_arguments_of_calls_are_kept_where_a_network_is_cut_or_opened():
    class Scaled(L.Layer):
        def call(self, x, by=1.0, and_by=None):
            return x * by * (1.0 if and_by is None else and_by)

    x, y = keras.Input((6, 4)), keras.Input((6, 4))
    h, *state = L.LSTM(4, return_state=True, return_sequences=True)(x)
    h = L.GRU(4, return_sequences=True)(h, initial_state=state[0])
    inner = keras.Model(x, Scaled()(h, by=3.0, and_by=state[1][:, None]))
    z = inner(y)
    first = ka.layers.EarlyExit(3, name="exit_0")(z)
    z = L.MultiHeadAttention(2, 4)(z, y, attention_mask=y[:, :, :1] > 0, use_causal_mask=True)
    z = L.Dropout(0.5)(z, training=False)
    model = ka.AdaptiveModel(y, [first, ka.layers.EarlyExit(3, name="exit_1")(z)])
    image = np.random.default_rng(0).normal(size=(2, 6, 4)).astype("float32")
    features = [image]
    for stage, expected in zip(model.stages(), model(image), strict=True):
        found, *features = stage(features)
        np.testing.assert_allclose(found, expected, atol=1e-6)
    (again,), answer = graph.opened(model.inputs, model.outputs[1])
    np.testing.assert_allclose(keras.Model(again, answer)(image), model(image)[1], atol=1e-6)
