import keras
import numpy as np
import pytest
from tiny import classifier

import keras_adaptive as ka
from keras_adaptive.policy.confidence import softmax
from keras_adaptive.training.combine_exits import likeliest_weights


@pytest.fixture(scope="module")
def network():
    """Three answers to six numbers. Not to be changed."""
    keras.utils.set_random_seed(0)
    x = image = keras.Input((6,))
    outputs = []
    for k in range(3):
        x = keras.layers.Dense(8, activation="tanh")(x)
        outputs.append(keras.layers.Dense(4, name=f"exit_{k}")(x))
    return ka.AdaptiveModel(image, outputs)


@pytest.fixture(scope="module")
def images():
    return np.random.default_rng(0).normal(size=(50, 6)).astype("float32")


def answers_that_improve(rng, exits=3, samples=400, classes=4):
    labels = rng.integers(0, classes, samples)
    logits = rng.normal(size=(exits, samples, classes))
    logits[:, range(samples), labels] += np.linspace(1, 2, exits)[:, None]
    return logits, labels


def test_exits_answer_with_those_before_them(network, images):
    model = ka.combine_exits(network)
    z = np.stack(network.predict(images, verbose=0)).astype("float64")
    factors = np.maximum(z - z.mean(axis=-1, keepdims=True), 1e-30)
    products = np.cumsum(np.arange(1, 4)[:, None, None] / 3 * np.log(factors), axis=0)
    found = np.stack(model.predict(images, verbose=0))
    kept = np.cumprod(z > z.mean(axis=-1, keepdims=True), axis=0).any(axis=-1)
    assert kept.mean() > 0.5
    np.testing.assert_allclose(softmax(found)[kept], softmax(products)[kept], atol=1e-4)
    assert {id(w) for w in model.weights} == {id(w) for w in network.weights}


def test_stages_give_what_the_whole_gives(network, images):
    model = ka.combine_exits(network)
    features = [images]
    for stage, expected in zip(model.stages(), model(images), strict=True):
        found = stage(features if len(features) > 1 else features[0])
        logits, *features = found if isinstance(found, (list, tuple)) else [found]
        np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_weights_are_the_likeliest(rng):
    logits, labels = answers_that_improve(rng)
    logarithms = np.log(softmax(logits))

    def loss(scales, bias):
        z = np.tensordot(np.exp(scales) / len(scales), logarithms, 1) + bias
        return -np.log(softmax(z))[np.arange(len(labels)), labels].mean()

    scales, bias = likeliest_weights(logarithms, labels)
    least = loss(scales, bias)
    assert least < loss(np.zeros(3), np.zeros(4)) - 0.01
    for step in rng.normal(0, 0.05, (50, 7)):
        assert loss(scales + step[:3], bias + step[3:]) > least - 1e-6


def test_weighted_exits_hold_these_weights_and_the_last_is_as_it_was(network, images, rng):
    logits, labels = answers_that_improve(rng)
    model = ka.combine_exits(network, "weighted", logits=logits, labels=labels)
    logarithms = np.log(softmax(logits))
    for k in range(2):
        expected = likeliest_weights(logarithms[: k + 1], labels)
        found = model.get_layer(f"combined_{k}").get_weights()
        np.testing.assert_allclose(np.concatenate(found), np.concatenate(expected), rtol=1e-5)
    before, after = network(images), model(images)
    np.testing.assert_array_equal(before[2], after[2])
    assert np.abs(before[0] - after[0]).max() > 0.01


def test_costs_are_counted(network):
    extra = ka.combine_exits(network).exit_costs() - network.exit_costs()
    assert extra.tolist() == [4, 4 + 8, 4 + 8 + 12]  # a product per exit so far and class


def test_what_is_known_of_inputs_and_classes_is_kept_and_policies_are_not(network, tmp_path):
    given = ka.AdaptiveModel(network.inputs, network.outputs)
    given.class_names, given.policy = list("abcd"), ka.ExitPolicy([0.5, 0.5, 0])
    model = ka.combine_exits(given)
    assert (model.class_names, model.policy) == (list("abcd"), None)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    x = np.ones((1, 6), "float32")
    np.testing.assert_array_equal(again(x)[2], model(x)[2])


def test_a_combined_network_may_be_the_member_of_a_cascade():
    cascade = ka.build_cascade([classifier(2), classifier(4)], combine="last")
    both = ka.build_cascade([ka.combine_exits(cascade), classifier(6)])
    assert both.num_exits == 2


def test_rejects_what_does_not_fit(network, rng):
    logits, labels = answers_that_improve(rng)
    with pytest.raises(ValueError, match="`combine` must be one of"):
        ka.combine_exits(network, "mean")
    with pytest.raises(ValueError, match='`logits` must be given with combine="weighted"'):
        ka.combine_exits(network, "weighted")
    with pytest.raises(ValueError, match='`labels` must be given with combine="weighted"'):
        ka.combine_exits(network, labels=labels)
    with pytest.raises(ValueError, match=r"`logits` must be of shape \(3, samples, classes\)"):
        ka.combine_exits(network, "weighted", logits=logits[:2], labels=labels)
    with pytest.raises(ValueError, match=r"of the network's \d+ classes"):
        ka.combine_exits(network, "weighted", logits=logits[..., :2], labels=labels % 2)


@pytest.mark.parametrize("combine", ["product", "weighted"])
def test_exits_are_combined_once(network, rng, combine):
    logits, labels = answers_that_improve(rng)
    given = {"logits": logits, "labels": labels} if combine == "weighted" else {}
    model = ka.combine_exits(network, combine, **given)
    with pytest.raises(ValueError, match=r"`model` must .*Received: .*'combined_0'"):
        ka.combine_exits(model)


def test_names_that_are_taken_are_left_alone(images):
    image = keras.Input((6,))
    x = keras.layers.Dense(8, name="combined_0")(image)
    outputs = [keras.layers.Dense(4, name=f"exit_{k}")(x) for k in range(2)]
    model = ka.combine_exits(ka.AdaptiveModel(image, outputs))
    names = [layer.name for layer in model.layers]
    assert {"combined_0", "combined_0_1", "combined_1"} <= set(names)


def test_combines_exits_of_adaptive_models():
    with pytest.raises(TypeError, match="`model` must be an AdaptiveModel. Received: "):
        ka.combine_exits(classifier(2))
