"""The signature that runs all stages in one call."""

import keras
import numpy as np
import pytest

import keras_adaptive as ka
from anytime_tflite import AnytimeModel


@pytest.mark.parametrize(
    "layer",
    [keras.layers.SimpleRNN, pytest.param(keras.layers.LSTM, marks=pytest.mark.slow)],
)
def test_a_network_with_loops_leaves_at_every_exit(layer, rng, tmp_path):
    keras.utils.set_random_seed(0)
    inputs = features = keras.Input((5, 3), name="sequence")
    logits = []
    for _ in range(3):
        features = layer(4, return_sequences=True)(features)
        logits.append(keras.layers.Dense(3)(features[:, -1]))
    model = ka.AdaptiveModel(inputs, logits)
    path, x = tmp_path / "model.tflite", rng.normal(size=(1, 5, 3)).astype("float32")
    ka.export_tflite(model, path, ka.ExitPolicy([0.5, 0.5, 0.0]), single_call=True)
    expected = ka.policy.softmax(np.stack(model.predict(x, verbose=0)))[:, 0]
    with AnytimeModel(path) as device:
        for k in range(3):
            found = device.predict(x[0], thresholds=[1.0] * k + [0.0] * (3 - k))
            assert found.exit == k
            np.testing.assert_allclose(found.probabilities, expected[k], atol=1e-5)
