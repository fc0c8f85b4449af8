"""What the package wrote before its folders were rearranged still opens, and answers the same."""

from pathlib import Path

import keras
import numpy as np
import pytest

import keras_adaptive as ka
from anytime_tflite import AnytimeModel, read_info

FILES = Path(__file__).parent / "data" / "before_layout"


@pytest.fixture(scope="module")
def kept():
    return dict(np.load(FILES / "answers.npz"))


def logits_of(model, images):
    return np.stack([keras.ops.convert_to_numpy(z) for z in model(images, training=False)])


def opened(name, kept):
    model = keras.saving.load_model(FILES / f"{name}.keras")
    assert isinstance(model, ka.AdaptiveModel)
    np.testing.assert_allclose(logits_of(model, kept["images"]), kept[name], rtol=1e-4, atol=1e-5)
    return model


@pytest.mark.slow
def test_a_compiled_network_opens_with_its_optimizer(kept):
    model = opened("msdnet", kept)
    assert model.exit_weights == [1, 2, 3]
    assert float(model.optimizer.learning_rate) == pytest.approx(1e-3)
    momentum = np.concatenate([np.ravel(v) for v in model.optimizer.variables[2:]])
    assert np.abs(momentum).max() > 0
    np.testing.assert_array_equal(momentum, kept["msdnet_momentum"])
    assert model.get_compile_config()["metrics"] == ["accuracy"]


def test_weights_fit_the_network_that_is_built_now(kept):
    few = {"growth_factors": (1, 2), "bottleneck_factors": (1, 2), "head_channels": 2}
    model = ka.build_msdnet((8, 8, 1), 10, blocks=3, channels=2, growth_rate=1, **few)
    model.optimizer.build(model.trainable_variables)  # the file has its state too
    model.load_weights(FILES / "msdnet.weights.h5")
    found = logits_of(model, kept["images"])
    np.testing.assert_allclose(found, kept["msdnet"], rtol=1e-4, atol=1e-5)


def test_a_network_with_gates_opens_with_their_loss(kept):
    model = opened("gated_resnet", kept)
    assert model.gate_loss.weight == 0.01
    _, costs = model.predict_with_costs(kept["images"], verbose=0)
    assert len(np.unique(costs[-1])) > 1
    np.testing.assert_allclose(costs, kept["gated_resnet_costs"], rtol=1e-6)


def test_a_network_with_exits_added_opens(kept):
    assert opened("added", kept).exits == 2


def test_a_cascade_opens_with_its_stopping_policies(kept):
    model = opened("cascade_stopping", kept)
    assert model.stopping_loss.cost_weight == 0.01
    assert len(model.stopping) == 2
    policy = model.learned_policy()
    np.testing.assert_allclose(
        policy.confidences(kept["cascade_stopping"]), kept["learned_confidences"], atol=1e-5
    )
    assert policy.decide(kept["cascade_stopping"]).tolist() == kept["learned_exits"].tolist()


@pytest.mark.parametrize(
    ("name", "kind", "network"),
    [("exit", "ExitPolicy", "msdnet"), ("learned", "LearnedPolicy", "cascade_stopping")],
)
def test_a_policy_opens(kept, name, kind, network):
    policy = ka.ExitPolicy.load(FILES / f"{name}.json")
    assert type(policy).__name__ == kind
    assert len(set(kept[f"{name}_exits"])) > 1
    assert policy.decide(kept[network]).tolist() == kept[f"{name}_exits"].tolist()


def test_a_policys_numbers_are_kept(kept):
    policy = ka.ExitPolicy.load(FILES / "exit.json")
    assert policy.confidence == "prob_margin"
    assert policy.temperatures.tolist() == [1.5, 2.0, 0.75]
    assert policy.thresholds.tolist() == kept["exit_thresholds"].tolist()
    assert policy.details == {"method": "by hand"}


@pytest.mark.parametrize("name", ["float32", "int8", "single_call", "learned"])
def test_a_tflite_file_opens(kept, name):
    with AnytimeModel(FILES / f"{name}.tflite") as device:
        found = [device.classify(image) for image in kept["images"]]
        assert [answer.exit for answer in found] == kept[f"{name}_exits"].tolist()
        np.testing.assert_allclose(
            [answer.probabilities for answer in found], kept[f"{name}_tflite"], atol=1e-4
        )
        if name == "single_call":
            exits = [device.predict(image).exit for image in kept["images"]]
            assert exits == kept["single_call_predict"].tolist()


def test_the_old_key_of_what_quantization_changed_is_read():
    assert b'"quantisation": {' in (FILES / "int8.tflite").read_bytes()
    info = read_info(FILES / "int8.tflite")
    assert "quantisation" not in info
    assert info["quantization"]["samples"] == 12
    assert read_info(FILES / "float32.tflite")["quantization"] is None
