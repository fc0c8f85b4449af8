"""Networks of several inputs and of other dtypes than float32."""

import keras
import numpy as np
import pytest

import keras_adaptive as ka
from anytime_tflite import AnytimeModel, pixels, read_info
from keras_adaptive.export._inputs import checked_data, inputs_of, random_data

POLICY = ka.ExitPolicy([0.4, -np.inf])
DATA = {
    "uint8": lambda rng: rng.integers(256, size=(20, 6)).astype("uint8"),
    "int32": lambda rng: rng.integers(9, size=(20, 6)).astype("int32"),
    "int64": lambda rng: rng.integers(9, size=(20, 6)),
    "bool": lambda rng: rng.random((20, 6)) < 0.5,
}


def one_input(dtype, name="numbers"):
    """An exit before and one behind a hidden layer; whole numbers are indices of a table."""
    x = keras.Input((6,), dtype=dtype, name=name)
    if dtype in ("int32", "int64"):
        features = keras.layers.GlobalAveragePooling1D()(keras.layers.Embedding(9, 4)(x))
    else:
        features = keras.layers.Rescaling(1 / 128)(x)
    hidden = keras.layers.Dense(5, activation="relu")(features)
    heads = [keras.layers.Dense(3, name=f"exit_{k}") for k in range(2)]
    return ka.AdaptiveModel(x, [heads[0](features), heads[1](hidden)])


def masked(steps=2):
    """Means of the words that are there: of none, they are NaN."""
    words = keras.Input((steps,), dtype="int32", name="words")
    features = keras.layers.Embedding(9, 4, mask_zero=True)(words)
    mean = keras.layers.GlobalAveragePooling1D()(features)
    return ka.AdaptiveModel(words, [keras.layers.Dense(3, name="exit_0")(mean)])


def several_inputs():
    left = keras.Input((4,), name="left")
    right = keras.Input((3,), dtype="int32")
    hidden = keras.layers.Dense(5, activation="relu")(left)
    words = keras.layers.Flatten()(keras.layers.Embedding(7, 2)(right))
    both = keras.layers.Concatenate()([hidden, words])
    heads = [keras.layers.Dense(3, name=f"exit_{k}") for k in range(2)]
    return ka.AdaptiveModel([left, right], [heads[0](hidden), heads[1](both)])


def compare(model, path, data, tolerance):
    """Compares every exit, and the single call, with Keras."""
    rows = [{name: array[i] for name, array in data.items()} for i in range(20)]
    expected = ka.policy.softmax(np.stack(model.predict(list(data.values()), verbose=0)))
    with AnytimeModel(path, num_threads=1) as device:
        for i, row in enumerate(rows):
            found = [answer.probabilities for answer in device.stream(row)]
            np.testing.assert_allclose(found, expected[:, i], atol=tolerance)
            assert device.predict(row).exit == device.classify(row).exit


@pytest.mark.parametrize(
    ("dtype", "quantize"),
    [
        ("uint8", None),
        pytest.param("uint8", "int8", marks=pytest.mark.slow),
        pytest.param("int32", "int8", marks=pytest.mark.slow),
        pytest.param("bool", None, marks=pytest.mark.slow),
        pytest.param("int32", None, marks=pytest.mark.slow),
        pytest.param("int64", None, marks=pytest.mark.slow),
        pytest.param("int64", "int8", marks=pytest.mark.slow),
        pytest.param("bool", "int8", marks=pytest.mark.slow),
    ],
)
def test_a_file_takes_what_the_network_takes(dtype, quantize, rng, tmp_path):
    keras.utils.set_random_seed(0)
    model, x, path = one_input(dtype), DATA[dtype](rng), tmp_path / "model.tflite"
    how = {"quantize": quantize, "calibration_data": x, "single_call": True}
    ka.export_tflite(model, path, POLICY, **how)
    assert read_info(path)["inputs"] == [{"name": "numbers", "shape": [6], "dtype": dtype}]
    compare(model, path, {"numbers": x}, 1e-5 if quantize is None else 0.02)


@pytest.mark.parametrize("quantize", ["int8", pytest.param(None, marks=pytest.mark.slow)])
def test_several_inputs_are_given_by_name(quantize, rng, tmp_path):
    keras.utils.set_random_seed(0)
    model, path = several_inputs(), tmp_path / "model.tflite"
    left, right = rng.normal(size=(20, 4)).astype("float32"), rng.integers(7, size=(20, 3))
    ka.export_tflite(
        model,
        path,
        POLICY,
        quantize=quantize,
        calibration_data=([left, right], rng.integers(3, size=20)),
        single_call=True,
    )
    assert read_info(path)["inputs"] == [
        {"name": "left", "shape": [4], "dtype": "float32"},
        {"name": "input_1", "shape": [3], "dtype": "int32"},  # Keras's own name is no name
    ]
    data = {"left": left, "input_1": right.astype("int32")}
    compare(model, path, data, 1e-5 if quantize is None else 0.02)
    with AnytimeModel(path) as device:
        assert device.input_shape == (4,)
        with pytest.raises(TypeError, match=r"dictionary of the inputs \['input_1', 'left'\]"):
            device.classify(left[0])
        with pytest.raises(ValueError, match="must be a dictionary of .* one of"):
            device.classify({"left": left[0]})
        with pytest.raises(ValueError, match=r"`image\['input_1'\]` must be of integers"):
            device.classify({"left": left[0], "input_1": right[0] * 1.0})
        with pytest.raises(ValueError, match="that int32 holds. Received: 4294967296 to"):
            device.classify({"left": left[0], "input_1": np.full(3, 2**32)})


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
def test_inputs_are_called_as_the_network_calls_them(rng, tmp_path):
    image, facts = keras.Input((None, None, 3)), keras.Input((4,), name="vector")
    features = keras.layers.GlobalAveragePooling2D()(image)
    both = keras.layers.Concatenate()([features, facts])
    heads = [keras.layers.Dense(2)(each) for each in (features, both)]
    model = ka.AdaptiveModel({"image": image, "known facts": facts}, heads)
    shapes = {"image": (5, 5, 3), "known facts": (4,)}
    assert model.exit_costs(input_shape=shapes).tolist() == [6, 20]
    assert model.exit_costs(input_shape={image.name: (5, 5, 3), "vector": (4,)})[1] == 20
    data = {key: rng.random((20, *shape)).astype("float32") for key, shape in shapes.items()}
    path = tmp_path / "model.tflite"
    ka.export_tflite(model, path, POLICY, calibration_data=data, input_shape=shapes)
    assert [one["name"] for one in read_info(path)["inputs"]] == ["image", "known_facts"]
    expected = ka.policy.softmax(np.stack(model.predict(data, verbose=0)))
    with AnytimeModel(path) as device:
        row = {"image": data["image"][0], "known_facts": data["known facts"][0]}
        found = [answer.probabilities for answer in device.stream(row)]
        np.testing.assert_allclose(found, expected[:, 0], atol=1e-5)


def test_a_network_that_takes_any_size_is_exported_at_one(rng, tmp_path):
    image = keras.Input((None, None, 3), name="image")
    x = keras.layers.Conv2D(4, 3, activation="relu")(image)
    first = ka.layers.EarlyExit(5, name="exit_0")(x)
    last = ka.layers.EarlyExit(5, name="exit_1")(keras.layers.Conv2D(4, 3)(x))
    model, path = ka.AdaptiveModel(image, [first, last]), tmp_path / "model.tflite"
    rule = pixels.rule(9, 7, 3)
    ka.export_tflite(model, path, POLICY, input_shape=(9, 7, 3), pixels=rule)
    info = read_info(path)
    assert info["inputs"] == [{"name": "image", "shape": [9, 7, 3], "dtype": "float32"}]
    assert info["macs"] == model.exit_costs(input_shape=(9, 7, 3)).tolist()
    assert info["pixels"] == rule
    images = rng.normal(size=(3, 9, 7, 3)).astype("float32")
    expected = ka.policy.softmax(np.stack(model.predict(images, verbose=0)))
    with AnytimeModel(path) as device:
        for i, one in enumerate(images):
            found = [answer.probabilities for answer in device.stream(one)]
            np.testing.assert_allclose(found, expected[:, i], atol=1e-5)


@pytest.mark.parametrize("dtype", ["float16", "float64", "bfloat16", "int8", "uint32"])
def test_other_dtypes_are_refused_at_once(dtype, tmp_path):
    with pytest.raises(ValueError, match=f"inputs of the dtypes float32.* inputs of {dtype}"):
        ka.export_tflite(one_input(dtype), tmp_path / "model.tflite", POLICY)
    assert list(tmp_path.iterdir()) == []


def test_text_is_refused():
    with pytest.raises(ValueError, match="take numbers.* outside of the model.* inputs of string"):
        inputs_of([keras.Input((), dtype="string")])


def test_computing_in_float64_is_refused(tmp_path):
    x = keras.Input((4,))
    wide = keras.layers.Dense(3, dtype="float64", name="wide")(x)
    cast = keras.ops.cast(keras.ops.cast(x, "float64") * 2, "float32")
    for features, received in ((wide, "layer 'wide'"), (cast, "operation 'cast")):
        model = ka.AdaptiveModel(x, [keras.layers.Dense(3)(each) for each in (x, features)])
        with pytest.raises(ValueError, match=f"must compute in float32.* Received: {received}"):
            ka.export_tflite(model, tmp_path / "model.tflite", POLICY)


def test_names_are_those_that_were_given_and_never_twice():
    shapes = [((2,), name) for name in ("logits", "a-b", "a_b", None, "features_3", "input_0")]
    tensors = [keras.Input(shape, name=name) for shape, name in shapes]
    names = [one["name"] for one in inputs_of(tensors)]
    assert names == ["input_0", "a_b", "input_2", "input_3", "input_4", "input_5"]


@pytest.mark.parametrize(
    ("x", "message"),
    [
        (np.zeros((2, 4)), r"for each of the 2 inputs \['left', 'input_1'\].* Received: 1 of them"),
        ({"left": np.zeros((2, 4))}, r"Received: \['left'\]"),
        ([np.zeros((2, 4)), np.zeros((3, 3), int)], "as many samples for each input"),
        ([np.zeros((2, 4)), np.zeros((2, 3))], "numbers for int32. Received: dtype float64"),
        ([np.zeros((2, 5)), np.zeros((2, 3), int)], r"must be of shape \(samples, 4\)"),
        ([np.full((2, 4), np.nan), np.zeros((2, 3), int)], "must be finite"),
    ],
)
def test_rejects_data_that_does_not_fit_the_inputs(x, message):
    inputs = inputs_of(several_inputs().inputs)
    with pytest.raises(ValueError, match=message):
        checked_data(inputs, x)


def test_pixels_are_standardized_as_on_a_device(rng):
    inputs = inputs_of([keras.Input((4, 4, 3), name="image")])
    rule = {"mean": [0.5, 0.4, 0.3], "std": [0.25, 0.25, 0.2]}
    image = rng.integers(256, size=(5, 4, 4, 3)).astype("uint8")
    floats = (image / 255 - rule["mean"]) / rule["std"]
    for x in (image, [image], floats, floats.astype("float16")):
        found = checked_data(inputs, x, rule)["image"]
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, floats, atol=1e-2 if x is not image else 1e-5)
    assert checked_data(inputs, image)["image"].max() > 200  # the network takes pixels
    wrong = [
        (image.astype("float32"), "pixels of uint8, or floats .* which no pixel becomes"),
        (image.astype("int64"), "of uint8 or floats. Received: dtype int64"),
    ]
    for x, message in wrong:
        with pytest.raises(ValueError, match=f"`calibration_data` must be .*{message}"):
            checked_data(inputs, x, rule)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"preprocessing": {"mean": [0], "std": [1]}}, "does not take one float32 image"),
        ({"pixels": {"height": 8}}, "`pixels` must be a rule"),
        ({"pixels": pixels.rule(8, 8, 3)}, "must be a rule for the network's image"),
    ],
)
def test_rejects_what_is_for_images_alone(arguments, message, tmp_path):
    with pytest.raises(ValueError, match=message):
        ka.export_tflite(one_input("uint8"), tmp_path / "model.tflite", POLICY, **arguments)


def test_files_of_networks_for_few_words_are_checked_on_some(tmp_path):
    model, path = masked(), tmp_path / "model.tflite"
    for samples in (3, 50):
        data = random_data(inputs_of(model.inputs), samples)
        assert np.isfinite(model.predict(data, verbose=0)).all()
    ka.export_tflite(model, path, ka.ExitPolicy([0.0]))
    assert read_info(path)["exits"] == [0]
