import keras
import numpy as np
import pytest

import keras_adaptive as ka
from keras_adaptive.models.efficientnet import compound_scaling


@pytest.mark.slow
def test_is_the_network_of_keras_applications(rng):
    shape = (36, 33, 3)
    ours = ka.build_efficientnet(0, 10, input_shape=shape)
    theirs = keras.applications.EfficientNetB0(
        weights=None, input_shape=shape, classes=10, classifier_activation=None
    )
    normal = [x for x in theirs.layers if isinstance(x, keras.layers.Normalization)]
    known = {id(v) for layer in normal for v in layer.weights}
    values = [v.numpy() for v in theirs.weights if id(v) not in known]
    values = [rng.uniform(0.5, 1.5, v.shape) if v.ndim < 2 else v for v in values]
    for variable, value in zip(
        [v for v in theirs.weights if id(v) not in known], values, strict=True
    ):
        variable.assign(value)
    ours.set_weights(values)
    images = rng.uniform(0, 255, (2, *shape)).astype("float32")
    (found,), expected = ours(images, training=False), theirs(images, training=False)
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-4)


@pytest.mark.slow
def test_published_cost_of_a_network_rounded_by_hand():
    model = keras.applications.EfficientNetB1(weights=None)
    macs = ka.costs.exit_costs(model.inputs, model.outputs)[0]
    assert macs / 1e9 == pytest.approx(0.69, rel=0.03)  # as the cascade paper counts it


def test_scale_0_costs_what_b0_does():
    assert ka.build_efficientnet().exit_costs()[0] / 1e9 == pytest.approx(0.39, rel=0.03)


@pytest.mark.slow
def test_a_larger_scale_costs_more():
    small, large = (ka.build_efficientnet(phi, 10).exit_costs()[0] for phi in (-6, -4))
    assert large > 1.5 * small


def test_scaling_is_a_power():
    np.testing.assert_allclose(compound_scaling(3), np.power([1.2, 1.1, 1.15], 3))
    assert compound_scaling(0) == (1, 1, 1)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"phi": "b0"}, "Received: phi='b0'"),
        ({"phi": 99}, "Received: phi=99"),
        ({"classes": 1}, "Received: classes=1"),
        ({"dropout": 1}, "Received: dropout=1"),
        ({"input_shape": (4, 8, 3)}, "Received: height=4"),
    ],
)
def test_rejects_impossible_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        ka.build_efficientnet(**arguments)
