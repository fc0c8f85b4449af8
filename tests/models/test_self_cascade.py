import keras
import numpy as np
import pytest
from tiny import classifier, flat

import keras_adaptive as ka


@pytest.fixture(scope="module")
def model():
    keras.utils.set_random_seed(2)
    return classifier(4)


def at(model, size):
    """The same weights behind an input of another size."""
    again = classifier(4, (*size, 1))
    again.set_weights(model.get_weights())
    return again


def test_is_the_mean_of_the_model_at_every_resolution(model, rng):
    images = rng.normal(size=(5, 12, 10, 1)).astype("float32")
    cascade = ka.build_self_cascade(model, [8, (12, 10)])
    small = at(model, (8, 8))(keras.ops.image.resize(images, (8, 8)))
    large = at(model, (12, 10))(images)
    first, second = cascade(images)
    np.testing.assert_allclose(first, small, atol=1e-6)
    np.testing.assert_allclose(second, (np.asarray(small) + np.asarray(large)) / 2, atol=1e-6)


def test_sees_the_first_resolution_unchanged_where_the_image_has_it(model, rng):
    images = rng.normal(size=(5, 8, 8, 1)).astype("float32")
    cascade = ka.build_self_cascade(model, [8, 12], input_shape=(8, 8, 1))
    np.testing.assert_allclose(cascade(images)[0], model(images), atol=1e-6)


def test_costs_are_those_of_each_resolution_and_weights_are_shared(model):
    cascade = ka.build_self_cascade(model, [8, 12])
    own = [at(model, (n, n)) for n in (8, 12)]
    macs = [ka.costs.exit_costs(m.inputs, m.outputs)[0] for m in own]
    assert cascade.exit_costs().tolist() == np.cumsum(macs).tolist()
    assert {id(v) for v in cascade.weights} == {id(v) for v in model.weights}


def test_the_exported_file_holds_the_weights_once(rng, tmp_path):
    x = keras.Input((8, 8, 1))
    features = keras.layers.Conv2D(64, 5)(x)
    features = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(64, 3)(features))
    model = keras.Model(x, keras.layers.Dense(10)(features))
    cascade = ka.build_self_cascade(model, [8, 12])
    path = tmp_path / "self_cascade.tflite"
    ka.export_tflite(cascade, path, ka.ExitPolicy([0.9, 0.0]))
    weights = 4 * sum(int(np.prod(v.shape)) for v in model.weights)
    assert weights < path.stat().st_size < 1.3 * weights


@pytest.mark.parametrize(
    "resolutions", [[8], [12, 8], [8, 8], [8, 0], [8, 12.5], [8, True], 8, [8, (12,)]]
)
def test_rejects_impossible_resolutions(model, resolutions):
    with pytest.raises(ValueError, match="`resolutions` must be"):
        ka.build_self_cascade(model, resolutions)


def test_rejects_a_model_of_one_size_only(model):
    with pytest.raises(ValueError, match=r"sizes that the model can take. Received: 12 x 12"):
        ka.build_self_cascade(flat(), [8, 12])
    with pytest.raises(ValueError, match="Received: 2 x 2"):  # smaller than the kernel
        ka.build_self_cascade(model, [2, 12])
    x = keras.Input((4,))
    with pytest.raises(ValueError, match="must take images"):
        ka.build_self_cascade(keras.Model(x, keras.layers.Dense(2)(x)), [8, 12])
