import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from eager import eagerly
from shared import GATED

import keras_adaptive as ka
from keras_adaptive import _graph as graph
from keras_adaptive.costs.gated_costs import gated_costs

eagerly = pytest.fixture(autouse=True)(eagerly)


def loss_of(model, images, *gate_loss):
    """The loss of a batch in training, compiled with the gate loss where one is given."""
    if gate_loss:
        model.compile(gate_loss=gate_loss[0])
    return float(model.compute_loss(images, np.zeros(9, int), model(images, training=True)))


def test_gate_loss_is_the_executed_cost(images):
    keras.utils.set_random_seed(0)
    model = ka.build_resnet(**{**GATED, "exits": None}, depth=14, width=0.25, gates="both")
    costs = gated_costs(model.inputs, model.outputs)
    values = graph.model_of(model.inputs, costs.tensors)(images, training=True)
    executed = costs.per_sample([np.array(v) for v in values])[-1].mean() - costs.fixed[-1]
    found = [loss_of(model, images, ka.training.GateLoss(weight)) for weight in (0.0, 10.0)]
    assert found[1] - found[0] == pytest.approx(10e-6 * executed, rel=1e-3)
    block = costs.blocks[0]
    gate, shares = np.array([[1.0], [0.0]]), np.array([[0.5, 0.6], [0.3, 0.2]])
    loss = ka.training.GateLoss(2.0).of_block(block, gate, shares)
    by_hand = 2.0e-6 * (block.gate + block.branch + 0.5 * block.last) / 2
    assert float(loss) == pytest.approx(by_hand)
    target = ka.training.GateLoss(2.0, target=0.5).of_block(block, gate, shares)
    assert float(target) == pytest.approx(2 * (0.25 - 0.5) ** 2)
    alone = ka.training.GateLoss(2.0).of_block(block, gate, None)
    whole = block.gate + block.branch + block.last
    assert float(alone) == pytest.approx(1e-6 * whole)
    always = ka.training.GateLoss(3.0, target=0.5).of_block(block, 1.0, shares)
    assert float(always) == pytest.approx(3 * (0.4 - 0.5) ** 2)


def test_a_file_keeps_its_model_of_energy(tmp_path):
    model = ka.build_resnet(**{**GATED, "exits": None}, depth=8, width=0.25, gates="layer")
    unit = ka.costs.EnergyModel(main=100, counts=(("stem_conv", 1, 2, 3, 4),))
    model.compile(gate_loss=ka.training.GateLoss(1e-3, unit))
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert (again.gate_loss.weight, again.gate_loss.unit) == (1e-3, unit)


def test_networks_that_share_layers_do_not_share_their_loss(images):
    model = ka.build_resnet(**{**GATED, "exits": None}, depth=8, width=0.25, gates="layer")
    model.compile(gate_loss=None)
    plain = loss_of(model, images)
    other = ka.AdaptiveModel(model.inputs, model.outputs)
    other.compile(gate_loss=ka.training.GateLoss(1e4))
    outer = ka.AdaptiveModel(model.inputs, [other(model.inputs[0])[0]])
    outer.compile()
    for network in (model, outer):  # sharing layers, and holding the whole network
        assert loss_of(network, images) == pytest.approx(plain)
        assert network.losses == []
    dear = loss_of(other, images)
    assert dear > 2 * plain
    model.compile()
    assert loss_of(other, images) == pytest.approx(dear)


def test_a_gate_loss_wants_the_forward_pass_it_is_of(images):
    model = ka.build_resnet(**{**GATED, "exits": None}, depth=8, width=0.25, gates="layer")
    model.compile(gate_loss=ka.training.GateLoss())
    logits = model(images, training=False)
    with pytest.raises(ValueError, match="must follow a call with `training=True`"):
        model.compute_loss(images, np.zeros(9, int), logits)
    assert float(model.compute_loss(images, np.zeros(9, int), logits, training=False)) > 0


def test_a_file_keeps_the_gate_loss(tmp_path):
    model = ka.build_resnet(**{**GATED, "exits": None}, depth=8, width=0.25, gates="layer")
    model.compile(gate_loss=ka.training.GateLoss(0.5, unit="reference_flops", target=0.25))
    model.optimizer.build(model.trainable_variables)
    model.save(tmp_path / "gated.keras")
    again = keras.models.load_model(tmp_path / "gated.keras")
    expected = {"weight": 0.5, "unit": "reference_flops", "target": 0.25}
    assert again.gate_loss.get_config() == expected


@pytest.mark.slow
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


@pytest.mark.parametrize("unit", ["params", "flops", "Macs", None])
def test_the_unit_is_one_of_work(unit):
    with pytest.raises(ValueError, match=f"`unit` must be one of .*Received: unit={unit}"):
        ka.training.GateLoss(unit=unit)


PROGRAM = """
import json
import keras
import numpy as np
import keras_adaptive as ka

rng = np.random.default_rng(0)
x, y = rng.normal(size=(24, 8, 8, 1)).astype("float32"), rng.integers(0, 10, 24)
model = ka.build_resnet(
    (8, 8, 1), 10, depth=8, width=0.25, exits=2, head_channels=4, gates="both"
)
for variable in model.variables:
    if len(variable.shape) > 1:
        variable.assign(0.2 * rng.normal(size=variable.shape))
start, losses = model.get_weights(), []
for weight in (0.0, 30.0):
    model.set_weights(start)
    model.compile(keras.optimizers.SGD(0.01), gate_loss=ka.training.GateLoss(weight))
    how = {"batch_size": 24, "epochs": 3, "shuffle": False, "verbose": 0}
    losses.append(model.fit(x, y, **how).history["loss"])
print(json.dumps({"backend": keras.backend.backend(), "losses": losses}))
"""


@pytest.mark.slow
@pytest.mark.jax
@pytest.mark.subprocess
def test_gates_learn_the_same_on_jax():
    pytest.importorskip("jax", reason="the test extra is not installed")
    found = {}
    for backend in ("tensorflow", "jax"):
        done = subprocess.run(
            [sys.executable, "-c", PROGRAM],
            env={**os.environ, "KERAS_BACKEND": backend},
            capture_output=True,
            text=True,
            check=True,
        )
        result = json.loads(done.stdout.splitlines()[-1])
        assert result["backend"] == backend
        found[backend] = np.array(result["losses"])
    np.testing.assert_allclose(found["jax"], found["tensorflow"], atol=1e-3)
    assert (found["jax"][1] > found["jax"][0] + 0.1).all()  # the gate loss counts
