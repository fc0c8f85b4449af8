import keras
import numpy as np
import pytest
from conftest import GATED

import keras_adaptive as ka
from keras_adaptive.gated_costs import gated_costs


def test_gate_loss_is_the_executed_cost(images):
    keras.utils.set_random_seed(0)
    model = ka.build_resnet(**{**GATED, "exits": None}, depth=14, width=0.25, gates="both")
    for weight in (0.0, 10.0):
        model.compile(gate_loss=ka.training.GateLoss(weight))
        model(images, training=True)
        found = sum(float(loss) for loss in model.losses)
        assert (found == 0) == (weight == 0)
    parts = gated_costs(model.inputs, model.outputs).blocks
    block = parts[0]
    gate, shares = np.array([[1.0], [0.0]]), np.array([[0.5, 0.6], [0.3, 0.2]])
    loss = ka.training.GateLoss(2.0).of_block(block, gate, shares)
    by_hand = 2.0e-6 * (block.gate + block.branch + 0.5 * block.last) / 2
    assert float(loss) == pytest.approx(by_hand)
    target = ka.training.GateLoss(2.0, target=0.5).of_block(block, gate, shares)
    assert float(target) == pytest.approx(2 * (0.25 - 0.5) ** 2)


def test_a_dear_gate_loss_closes_gates_and_a_file_keeps_it(images, tmp_path):
    keras.utils.set_random_seed(0)
    model = ka.build_resnet(**{**GATED, "exits": None}, depth=14, width=0.25, gates="layer")
    model.compile(keras.optimizers.Adam(0.02), gate_loss=ka.training.GateLoss(1000.0))
    _, before = model.predict_with_costs(images, verbose=0)
    model.fit(images, np.arange(9), epochs=12, verbose=0)
    _, after = model.predict_with_costs(images, verbose=0)
    assert after.mean() < 0.8 * before.mean()
    model.save(tmp_path / "gated.keras")
    again = keras.models.load_model(tmp_path / "gated.keras")
    assert again.gate_loss.get_config() == model.gate_loss.get_config()
    np.testing.assert_array_equal(
        again.predict(images, verbose=0), model.predict(images, verbose=0)
    )


def test_a_network_without_gates_has_no_gate_loss():
    model = ka.build_resnet(**GATED, depth=8, width=0.25)
    with pytest.raises(ValueError, match="`gate_loss` must be None"):
        model.compile(gate_loss=ka.training.GateLoss())
    with pytest.raises(TypeError, match="`gate_loss` must be a GateLoss. Received: "):
        model.compile(gate_loss=1.0)
