"""Masks of attention in int8: closed places stay closed, and open ones keep their digits."""

import keras
import numpy as np
import pytest
import tensorflow as tf

import keras_adaptive as ka
from anytime_tflite import AnytimeModel
from keras_adaptive.export import _conversion, _masks

L, ops = keras.layers, keras.ops
STEPS, WORDS = 12, 40


class Own(L.Layer):
    """Attention of one's own, with a mask as people write it."""

    def __init__(self, way):
        super().__init__()
        self.way, self.supports_masking = way, True
        self.query, self.key, self.softmax = L.Dense(8), L.Dense(8), L.Softmax()

    def build(self, shape):
        self.query.build(shape)
        self.key.build(shape)

    def call(self, x, mask=None):
        scores = ops.matmul(1.5 * self.query(x), ops.transpose(self.key(x), (0, 2, 1)))
        if self.way == "softmax":
            return ops.matmul(self.softmax(scores, mask=mask[:, None, :]), x)
        if self.way == "added":
            scores += (1 - ops.cast(mask, "float32"))[:, None, :] * -1e9
        else:
            scores += np.triu(np.full((STEPS, STEPS), -1e9, "float32"), 1)
        return ops.matmul(ops.softmax(scores), x)


WAYS = {
    "padding": lambda x: L.MultiHeadAttention(2, 8)(x, x),
    "causal": lambda x: L.MultiHeadAttention(2, 8)(x, x, use_causal_mask=True),
    **{way: lambda x, way=way: Own(way)(x) for way in ("softmax", "added", "table")},
}


def network(way):
    keras.utils.set_random_seed(0)
    tokens = keras.Input((STEPS,), dtype="int32")
    wide = keras.initializers.RandomNormal(stddev=1.0)  # attention then tells words apart
    x = L.Embedding(WORDS, 16, wide, mask_zero=True)(tokens)
    outputs = []
    for k in range(2):
        x = L.LayerNormalization()(L.Add()([x, WAYS[way](x)]))
        outputs.append(ka.layers.EarlyExit(5, name=f"exit_{k}")(x))
    return ka.AdaptiveModel(tokens, outputs)


@pytest.mark.slow
@pytest.mark.parametrize("way", WAYS)
def test_int8_attends_to_what_keras_attends_to(way, tmp_path, monkeypatch):
    model, rng = network(way), np.random.default_rng(0)
    open_to = np.arange(STEPS) < rng.integers(4, STEPS + 1, (64, 1))
    x = np.where(open_to, rng.integers(1, WORDS, (64, STEPS)), 0).astype("int32")
    logits = np.stack(model.predict(x, verbose=0))
    expected = ka.policy.softmax(logits)

    def mean_error():
        how = {"quantize": "int8", "calibration_data": x}
        ka.export_tflite(model, tmp_path / "a.tflite", ka.ExitPolicy([0.5, 0.0]), **how)
        with AnytimeModel(tmp_path / "a.tflite") as device:
            found = [[answer.probabilities for answer in device.stream(row)] for row in x[:24]]
        return np.abs(np.swapaxes(found, 0, 1) - expected[:, :24]).mean()

    assert mean_error() < 0.01
    monkeypatch.setattr(_conversion, "fit_masks", lambda folder: 0)
    try:
        before = mean_error()
    except RuntimeError:  # the check of every file stops it
        return
    assert before > 0.015


@pytest.mark.slow
def test_int8_takes_a_sample_that_is_all_padding(tmp_path):
    tokens = keras.Input((STEPS,), dtype="int32")
    x = L.Embedding(WORDS, 8, mask_zero=True)(tokens)
    first = ka.layers.EarlyExit(3, name="exit_0")(x)
    x = L.GlobalAveragePooling1D()(L.Dense(8, activation="relu")(x))
    model = ka.AdaptiveModel(tokens, [first, L.Dense(3, name="exit_1")(x)])
    data = np.random.default_rng(0).integers(0, WORDS, (32, STEPS))
    how = {"quantize": "int8", "calibration_data": data}
    ka.export_tflite(model, tmp_path / "a.tflite", ka.ExitPolicy([np.inf, 0.0]), **how)
    with AnytimeModel(tmp_path / "a.tflite") as device:
        for sample in (np.zeros(STEPS, int), data[0]):
            assert np.isfinite(device.classify(sample).probabilities).all()


def test_masks_alone_are_changed(tmp_path):
    table = np.array([[0, -1e9], [0, 0]], "float32")
    bias = np.array([[-1e9, 5.0]], "float32")

    @tf.function(input_signature=[tf.TensorSpec((2, 2)), tf.TensorSpec((2, 2), tf.bool)])
    def scores(x, mask):
        return {
            "chosen": tf.where(mask, x, -1e9),
            "added": x + (1 - tf.cast(mask, "float32")) * -1e9,
            "table": x + table,
            "least": tf.maximum(x, -1e9),
            "bias": x + bias,
            "small": x * -9e3,
            "mean": tf.reduce_sum(x, 1) / tf.reduce_sum(tf.cast(mask, "float32"), 1),
            "ratio": x / tf.reduce_sum(x),
        }

    tf.saved_model.save(tf.Module(), tmp_path, signatures={"scores": scores})
    x = np.array([[-50.0, 2.0], [3.0, 4.0]], "float32")
    mask = np.array([[True, False], [False, False]])

    def run():
        loaded = tf.saved_model.load(tmp_path).signatures["scores"]
        found = loaded(x=tf.constant(x), mask=tf.constant(mask))
        return {name: value.numpy() for name, value in found.items()}

    before = run()
    assert _masks.fit_masks(tmp_path) == 4
    after = run()
    np.testing.assert_array_equal(after["chosen"], np.where(mask, x, -20))
    np.testing.assert_array_equal(after["added"], np.where(mask, x, x - 20))
    np.testing.assert_array_equal(after["table"], x + [[0, -20], [0, 0]])
    np.testing.assert_array_equal(before["mean"], [-48, np.inf])
    np.testing.assert_array_equal(after["mean"], [-48, 7])
    for name in ("least", "bias", "small", "ratio"):
        np.testing.assert_array_equal(after[name], before[name])
