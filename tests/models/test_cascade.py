import keras
import numpy as np
import pytest
import tensorflow as tf
from tiny import classifier, flat

import keras_adaptive as ka
from keras_adaptive.policy.confidence import softmax


@pytest.fixture
def images(rng):
    return rng.normal(size=(12, 8, 8, 1)).astype("float32")


@pytest.fixture(scope="module")
def members():
    keras.utils.set_random_seed(1)
    return [flat(), classifier(4), classifier(6)]


@pytest.fixture
def answers(members, images):
    return np.stack([member.predict(images, verbose=0) for member in members])


def expected(answers, combine):
    number = np.arange(1, len(answers) + 1)[:, None, None]
    if combine == "last":
        return softmax(answers)
    if combine == "mean_logits":
        return softmax(answers.cumsum(0) / number)
    return softmax(answers).cumsum(0) / number


@pytest.mark.parametrize(
    "combine",
    ["mean_probs", *(pytest.param(c, marks=pytest.mark.slow) for c in ("mean_logits", "last"))],
)
def test_every_exit_combines_the_members_so_far(members, images, answers, combine):
    cascade = ka.build_cascade(members, combine=combine)
    found = softmax(np.stack(cascade.predict(images, verbose=0)))
    np.testing.assert_allclose(found, expected(answers, combine), atol=1e-6)


def test_costs_are_the_sums_of_the_members(members):
    cascade = ka.build_cascade(members)
    own = [ka.costs.exit_costs(m.inputs, m.outputs)[0] for m in members]
    assert cascade.exit_costs().tolist() == np.cumsum(own).tolist()


def test_a_closed_member_is_free_only_where_its_answer_is_not_used(members):
    costs = ka.build_cascade(members).exit_costs()
    assert ka.build_cascade(members).exit_costs(exits=[2])[0] == costs[2]
    assert ka.build_cascade(members, combine="last").exit_costs(exits=[2])[0] == costs[2] - costs[1]


def test_an_ensemble_is_a_cascade_whose_thresholds_nobody_reaches(members, images, answers):
    policy = ka.ExitPolicy([np.inf, np.inf, -np.inf])
    result = ka.AdaptivePredictor(ka.build_cascade(members), policy, engine="keras").predict(images)
    assert set(result.exits) == {2}
    np.testing.assert_allclose(result.probabilities, softmax(answers.mean(0)), atol=1e-6)


def test_agreement_of_the_first_members_stops(members, images, answers):
    cascade = ka.build_cascade(members, combine="last")
    exits = ka.AgreementPolicy(2).decide(np.stack(cascade.predict(images, verbose=0)))
    named = answers.argmax(-1)
    np.testing.assert_array_equal(exits == 1, named[0] == named[1])
    assert set(exits) <= {1, 2}


def test_every_member_sees_the_image_at_its_own_size(rng):
    small, large = classifier(4, (6, 6, 1)), classifier(4, (10, 8, 1))
    cascade = ka.build_cascade([small, large, classifier(3, (None, None, 1))])
    assert cascade.inputs[0].shape == (None, 10, 8, 1)
    images = rng.normal(size=(3, 10, 8, 1)).astype("float32")
    shrunk = keras.ops.image.resize(images, (6, 6))
    np.testing.assert_allclose(cascade(images)[0], small(shrunk), atol=1e-6)


def test_calling_the_cascade_leaves_batch_statistics_alone(rng):
    member = classifier(4, (6, 6, 1))
    cascade = ka.build_cascade([member, classifier(4)])
    before = [w.numpy().copy() for w in member.weights]
    cascade(rng.normal(size=(3, 8, 8, 1)))
    for old, new in zip(before, member.weights, strict=True):
        np.testing.assert_array_equal(old, new)


def test_members_that_give_probabilities_are_read_by_their_logarithm(members, images):
    plain = members[1]
    logits = plain.outputs[0]
    soft = {
        "layer": keras.Model(plain.inputs, keras.layers.Softmax()(logits)),
        "activation": keras.Model(plain.inputs, keras.layers.Activation("softmax")(logits)),
        "nested": keras.Sequential(
            [keras.Input((8, 8, 1)), keras.Model(plain.inputs, keras.layers.Softmax()(logits))]
        ),
    }
    of_logits = softmax(np.stack(ka.build_cascade([plain, members[2]]).predict(images, verbose=0)))
    for kind, member in soft.items():
        cascade = ka.build_cascade([member, members[2]])
        found = softmax(np.stack(cascade.predict(images, verbose=0)))
        np.testing.assert_allclose(found, of_logits, atol=1e-5, err_msg=kind)


def test_members_share_their_weights(members, images):
    cascade = ka.build_cascade(members)
    kernel = members[0].layers[-1].kernel
    before = kernel.numpy().copy()
    kernel.assign(before * 2)
    try:
        after = cascade(images)[0]
        np.testing.assert_allclose(after, members[0](images), atol=1e-6)
    finally:
        kernel.assign(before)


@pytest.mark.slow
def test_takes_networks_of_keras_applications(rng):
    small = keras.applications.MobileNetV2((32, 32, 3), 0.35, weights=None, classes=4)
    large = keras.applications.MobileNetV2(
        (48, 48, 3), 0.35, weights=None, classes=4, classifier_activation=None
    )
    cascade = ka.build_cascade([small, large])
    images = rng.normal(size=(2, 48, 48, 3)).astype("float32")
    assert [z.shape for z in cascade(images)] == [(2, 4)] * 2
    own = [ka.costs.exit_costs(m.inputs, m.outputs)[0] for m in (small, large)]
    assert cascade.exit_costs().tolist() == np.cumsum(own).tolist()


def test_one_file_holds_two_models_and_the_device_cascades(members, images, tmp_path):
    from anytime_tflite import AnytimeModel

    cascade = ka.build_cascade(members[1:])
    logits = np.stack(cascade.predict(images, verbose=0))
    confidence = ka.policy.confidence(logits)[0]
    between = np.sort(confidence)[5:7].mean()
    policy = ka.ExitPolicy([between, -np.inf])
    ka.export_tflite(cascade, tmp_path / "cascade.tflite", policy)
    device = AnytimeModel(tmp_path / "cascade.tflite")
    answers = [device.classify(image) for image in images]
    exits = policy.decide(logits)
    assert set(exits) == {0, 1}
    assert [answer.exit for answer in answers] == exits.tolist()
    chosen = softmax(logits)[exits, np.arange(12)]
    np.testing.assert_allclose([a.probabilities for a in answers], chosen, atol=1e-5)


def test_refuses_members_that_do_not_fit_together(members):
    class Own(keras.Model):
        def call(self, x):
            return x

    two = keras.Model(members[1].inputs, members[1].outputs * 2)
    for wrong, message in [
        ([], r"Received: members=\[\]"),
        ([members[0], classifier(4, classes=3)], r"number of classes. Received: \[10, 3\]"),
        ([members[0], classifier(4, (8, 8, 3))], "input rank and channels"),
        ([Own(name="mine")], "Received: 'mine' of type Own"),
        ([two], "1 inputs and 2 outputs"),
    ]:
        with pytest.raises(ValueError, match=message):
            ka.build_cascade(wrong)
    with pytest.raises(TypeError, match="Received: members=3"):
        ka.build_cascade([3])
    x, y = keras.Input((4, 2)), keras.Input((5, 2))
    vectors = [keras.Model(v, keras.layers.Dense(3)(keras.layers.Flatten()(v))) for v in (x, y)]
    with pytest.raises(ValueError, match=r"Received: sizes \(5, 2\) and \(4, 2\)"):
        ka.build_cascade(vectors)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"combine": "max"}, "Received: combine=max"),
        ({"cost_weight": 0.5}, "must be 0 without `stopping`, which alone uses it"),
    ],
)
def test_rejects_impossible_arguments(members, arguments, message):
    with pytest.raises(ValueError, match=message):
        ka.build_cascade(members, **arguments)


def test_the_answer_of_exit_k_is_the_layer_exit_k():
    for combine in ("mean_logits", "last"):
        cascade = ka.build_cascade([classifier(2), classifier(4), classifier(2)], combine=combine)
        assert cascade.output_names == ["exit_0", "exit_1", "exit_2"]
        assert {"exit_0", "exit_1", "exit_2"} <= {layer.name for layer in cascade.layers}


def test_the_same_member_twice_is_saved_and_loaded_again(rng, tmp_path):
    member = classifier(4)
    cascade = ka.build_cascade([member, member], combine="last")
    assert cascade.exit_costs().tolist() == [(k + 1) * (36 * 36 + 40) for k in range(2)]
    x = rng.normal(size=(3, 8, 8, 1)).astype("float32")
    cascade.save(tmp_path / "cascade.keras")
    again = keras.models.load_model(tmp_path / "cascade.keras")
    for found in again(x):
        np.testing.assert_allclose(found, member(x), atol=1e-6)


def test_members_that_share_layers_are_refused():
    member = classifier(4)
    other = keras.Model(member.inputs, keras.layers.Dense(10)(member.layers[-2].output))
    with pytest.raises(ValueError, match="must not share layers.*'member_0' and 'member_1'.*conv"):
        ka.build_cascade([member, other])


def numbered(width):
    """Reads articles' numbers, which float32 does not tell apart."""
    numbers = keras.Input((5,), dtype="int64")
    found = keras.layers.IntegerLookup(vocabulary=[100000001, 100000002, 100000003])(numbers)
    vectors = keras.layers.Embedding(4, width)(found)
    return keras.Model(numbers, keras.layers.Dense(3)(keras.layers.Flatten()(vectors)))


def test_large_numbers_come_to_the_members_as_they_are(rng):
    members = [numbered(4), numbered(6)]
    x = rng.integers(100000001, 100000004, (6, 5))
    cascade = ka.build_cascade(members, combine="last")
    for found, member in zip(cascade.predict(x, verbose=0), members, strict=True):
        np.testing.assert_allclose(found, member(x), atol=1e-6)


def test_text_comes_to_the_members():
    def reader():
        text = keras.Input((), dtype="string")
        words = keras.layers.TextVectorization(vocabulary=["a", "b"], output_sequence_length=3)
        vectors = keras.layers.Flatten()(keras.layers.Embedding(4, 2)(words(text)))
        return keras.Model(text, keras.layers.Dense(3)(vectors))

    x, members = np.array(["a b", "b"], "object"), [reader(), reader()]
    cascade = ka.build_cascade(members, combine="last")
    for found, member in zip(cascade(tf.constant(x)), members, strict=True):
        np.testing.assert_allclose(found, member(tf.constant(x)), atol=1e-6)
    numbers = keras.Input((), dtype="float32")
    other = keras.Model(numbers, keras.layers.Dense(3)(keras.layers.Reshape((1,))(numbers)))
    with pytest.raises(ValueError, match="must all take text, or none of them. Received: inputs"):
        ka.build_cascade([members[0], other])
