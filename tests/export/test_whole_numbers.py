"""Categories as indices and as one-hot vectors, in files."""

import keras
import numpy as np
import pytest
from keras import layers

import keras_adaptive as ka
from anytime_tflite import AnytimeModel

POLICY = ka.ExitPolicy([0.9, -np.inf])


def two_exits(inputs, features):
    return ka.AdaptiveModel(inputs, [layers.Dense(3)(each) for each in features])


@pytest.mark.parametrize("quantize", [None, "int8"])
def test_categories_are_told_apart(quantize, rng, tmp_path):
    keras.utils.set_random_seed(0)
    x = keras.Input((1,), dtype="int32", name="category")
    encoded = layers.CategoryEncoding(5, output_mode="one_hot")(x)
    model = two_exits(x, [encoded, keras.ops.one_hot(keras.ops.squeeze(x, -1), 5)])
    path, data = tmp_path / "model.tflite", rng.integers(5, size=(40, 1)).astype("int32")
    ka.export_tflite(model, path, POLICY, quantize=quantize, calibration_data=data)
    categories = np.arange(5, dtype="int32")[:, None]
    expected = ka.policy.softmax(np.stack(model.predict(categories, verbose=0)))
    with AnytimeModel(path) as device:
        for category, answers in zip(categories, expected.swapaxes(0, 1), strict=True):
            found = [answer.probabilities for answer in device.stream(category)]
            np.testing.assert_allclose(found, answers, atol=0.02 if quantize else 1e-5)


def test_numbers_are_put_into_bins(tmp_path):
    x = keras.Input((4,), name="numbers")
    bins = layers.Discretization([-0.5, 0.0, 1.0], output_mode="int")(x)
    model = two_exits(x, [x, layers.Flatten()(layers.Embedding(4, 2)(bins))])
    path, numbers = tmp_path / "model.tflite", np.float32([[-9, -0.5, 0.3, 7]])
    ka.export_tflite(model, path, POLICY)
    expected = ka.policy.softmax(np.stack(model.predict(numbers, verbose=0)))[:, 0]
    with AnytimeModel(path) as device:
        found = [answer.probabilities for answer in device.stream(numbers[0])]
        np.testing.assert_allclose(found, expected, atol=1e-5)


def counted(x):
    return layers.CategoryEncoding(5, output_mode="count")(x)


def hashed(x):
    return keras.ops.cast(layers.Hashing(3, name="hashes")(x), "float32")


def looked_up(x):
    return keras.ops.cast(layers.IntegerLookup(vocabulary=[3, 4], name="words")(x), "float32")


@pytest.mark.parametrize(
    ("make", "error", "message"),
    [
        (hashed, ValueError, "without Hashing: .* outside of the model.* layer 'hashes'"),
        (looked_up, ValueError, "without IntegerLookup: .* layer 'words'"),
        (counted, RuntimeError, "Received: DenseBincount at 'category_encoding.*'"),
    ],
)
def test_what_a_file_cannot_compute_is_named(make, error, message, tmp_path):
    x = keras.Input((2,), dtype="int64", name="numbers")
    features = make(x)
    with pytest.raises(error, match=message):
        ka.export_tflite(two_exits(x, [features, features]), tmp_path / "model.tflite", POLICY)
    assert list(tmp_path.iterdir()) == []


def test_text_is_refused(tmp_path):
    x = keras.Input((), dtype="string", name="text")
    read = layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=3)
    features = keras.ops.cast(read(x), "float32")
    model = two_exits(x, [features, features])
    with pytest.raises(ValueError, match="without TextVectorization: .* outside of the model"):
        ka.export_tflite(model, tmp_path / "model.tflite", POLICY)
