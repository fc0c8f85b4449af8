import keras
import numpy as np
import pytest
from tiny import classifier

import keras_adaptive as ka
from keras_adaptive.training import add_collaboration

TINY = {
    "input_shape": (8, 8, 1),
    "classes": 4,
    "blocks": 2,
    "step_mode": "even",
    "channels": 4,
    "growth_rate": 2,
    "growth_factors": (1, 2),
    "bottleneck_factors": (1, 2),
    "head_channels": 4,
}


@pytest.fixture(scope="module")
def network():
    return ka.build_msdnet(**TINY)


@pytest.mark.parametrize("weight", [1, 0.5])
def test_later_exits_add_the_logits_before(network, rng, weight):
    model = add_collaboration(network, "identity", collaboration_weight=weight)
    for k in range(2):
        head = model.get_layer(f"exit_{k}").logits
        head.set_weights(network.get_layer(f"exit_{k}").logits.get_weights())
    x = rng.normal(size=(3, 8, 8, 1)).astype("float32")
    (first, second), (same, added) = network(x), model(x)
    np.testing.assert_allclose(same, first, atol=1e-6)
    np.testing.assert_allclose(added, np.asarray(second) + weight * np.asarray(first), atol=1e-5)


def test_a_boosted_network_can_be_joined_otherwise(network):
    boosted = add_collaboration(network, "identity", collaboration_weight=0.5)
    heads = [add_collaboration(boosted).get_layer(f"exit_{k}") for k in range(2)]
    assert [head.collaboration for head in heads] == [None, "dense"]
    assert [head.collaboration_weight for head in heads] == [1, 1]


@pytest.mark.parametrize(
    ("collaboration", "weight", "message"),
    [("dense", 0.5, "must be 1 without"), ("identity", 0, "must be positive")],
)
def test_rejects_impossible_weights(network, collaboration, weight, message):
    with pytest.raises(ValueError, match=f"`collaboration_weight` {message}"):
        add_collaboration(network, collaboration, collaboration_weight=weight)


def test_heads_keep_the_mask_that_they_were_given():
    tokens = keras.Input((6,), dtype="int32")
    features, kept = keras.layers.Embedding(9, 4)(tokens), keras.ops.not_equal(tokens, 0)
    exits = [ka.layers.EarlyExit(3, name=f"exit_{k}")(features, mask=kept) for k in range(2)]
    network = ka.AdaptiveModel(tokens, exits)
    model = add_collaboration(network, "identity")
    model.set_weights(network.get_weights())
    x = np.array([[1, 2, 3, 0, 0, 0], [4, 5, 6, 7, 8, 1]])
    (first, second), (same, added) = network(x), model(x)
    np.testing.assert_allclose(same, first, atol=1e-6)
    np.testing.assert_allclose(added, np.asarray(second) + np.asarray(first), atol=1e-6)


@pytest.mark.parametrize("model", [None, 3])
def test_rejects_what_is_no_network(model):
    for make in (add_collaboration, ka.training.add_gradient_equilibrium):
        with pytest.raises(TypeError, match="`model` must be an AdaptiveModel. Received: model="):
            make(model)


def test_rejects_other_heads():
    model = classifier(4)
    model = ka.AdaptiveModel(model.inputs, model.outputs)
    with pytest.raises(ValueError, match="must be an EarlyExit"):
        add_collaboration(model)


def test_rejects_a_head_that_serves_several_exits():
    x, head = keras.Input((3,)), ka.layers.EarlyExit(4, name="head")
    model = ka.AdaptiveModel(x, [head(x), head(keras.layers.Dense(3)(x))])
    with pytest.raises(ValueError, match="a head of its own. Received: .*'head', 'head'"):
        add_collaboration(model)
