import itertools

import keras
import numpy as np
import pytest
import tensorflow as tf
from eager import eagerly
from hypothesis import given, settings
from hypothesis import strategies as st
from shared import half_open

import keras_adaptive as ka
from keras_adaptive.layers import SkipGate
from keras_adaptive.training import Recipe, Reinforce
from keras_adaptive.training.reinforce import _DrawnGate, with_drawn_gates

eagerly = pytest.fixture(autouse=True)(eagerly)

RECIPE = Recipe(learning_rate=0.1, batch_size=9, schedule="cosine")


@given(st.integers(1, 4), st.integers(1, 5), st.integers(0, 99))
@settings(max_examples=20)
def test_each_decision_is_paid_by_what_is_skipped_from_it_on(batch, count, seed):
    rng = np.random.default_rng(seed)
    actions = rng.integers(0, 2, (batch, count)).astype("float32")
    losses = rng.random(batch).astype("float32")
    found = Reinforce(reward=0.3).returns(actions, losses)
    for image, t in itertools.product(range(batch), range(count)):
        skipped = sum(1 - a for a in actions[image, t:])
        expected = 0.3 * skipped / count - losses[image]
        assert float(found[image, t]) == pytest.approx(expected, abs=1e-6)


def test_on_average_the_gradient_is_that_of_the_expected_return(rng):
    """All decisions of two gates, weighted by how probable they are."""
    reinforce = Reinforce(reward=0.8, weight=0.5)
    losses = rng.random((2, 2)).astype("float32")  # of each pair of decisions
    p = tf.Variable([[0.3, 0.6]])

    def chance(pair):
        return tf.reduce_prod(tf.where(tf.constant([pair]) > 0, p, 1 - p))

    pairs = [np.array(pair, "float32") for pair in itertools.product((0, 1), repeat=2)]
    with tf.GradientTape() as tape:
        expected = 0.0
        for pair in pairs:
            skipped = 0.8 * np.mean(1 - pair)
            expected += chance(pair) * (skipped - losses[int(pair[0]), int(pair[1])])
    wanted = -0.5 * tape.gradient(expected, p)
    found = 0.0
    for pair in pairs:
        with tf.GradientTape() as tape:
            loss = reinforce.loss(tf.constant([pair]), p, losses[int(pair[0]), int(pair[1])][None])
        found += chance(pair) * tape.gradient(loss, p)
    np.testing.assert_allclose(found, wanted, rtol=1e-5)


def test_with_a_baseline_equal_returns_teach_nothing():
    p = tf.Variable([[0.3, 0.6]] * 4)
    actions, losses = tf.ones((4, 2)), tf.fill((4,), 0.7)
    with tf.GradientTape(persistent=True) as tape:
        plain = Reinforce(weight=1.0).loss(actions, p, losses)
        less = Reinforce(weight=1.0, baseline=True).loss(actions, p, losses)
    np.testing.assert_allclose(tape.gradient(plain, p), 0.7 / p / 4, rtol=1e-5)
    np.testing.assert_allclose(tape.gradient(less, p), 0, atol=1e-6)


def test_gates_are_drawn_while_training_and_certain_afterwards(rng):
    keras.utils.set_random_seed(0)
    gate = SkipGate(4, return_probability=True)
    features = rng.normal(size=(1, 4)).astype("float32")
    gate(features)
    gate.decision.bias.assign([np.log(0.3 / 0.7)])
    gate.decision.kernel.assign(np.zeros((4, 1)))
    many = np.repeat(features, 2000, axis=0)
    drawn, probability = _DrawnGate(gate)(many, training=True)
    np.testing.assert_allclose(probability, 0.3, atol=1e-6)
    assert set(np.unique(drawn)) == {0, 1}
    assert abs(float(np.mean(drawn)) - 0.3) < 5 * np.sqrt(0.3 * 0.7 / 2000)
    certain, _ = _DrawnGate(gate)(many)
    assert not np.any(certain)


def small(seed=0):
    keras.utils.set_random_seed(seed)
    return ka.build_resnet((8, 8, 1), 10, depth=8, width=0.25, gates="layer")


@pytest.mark.slow
def test_the_last_phase_teaches_gates_and_leaves_normalizations_alone(images, tmp_path):
    model, phases, labels = small(), [], np.arange(9)

    class Watch(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            phases.append({v.path: np.array(v) for v in model.variables})

    how = {"regime": "gated", "epochs": 4, "recipe": RECIPE, "backup_dir": tmp_path, "seed": 0}
    how |= {"reinforce": Reinforce(weight=10.0, rate=1.0), "verbose": 0}
    found = ka.training.fit(model, (images, labels), callbacks=[Watch()], **how)
    assert found is model
    assert len(phases) == 4
    after = {v.path: np.array(v) for v in model.variables}
    changed = {path for path in after if not np.array_equal(after[path], phases[-1][path])}
    assert not any("_norm/" in path for path in changed)  # statistics included
    assert any("skip_gate/decision" in path for path in changed)
    assert any("_conv/" in path for path in changed)
    logits = model.predict(images, verbose=0)
    np.testing.assert_array_equal(logits, model.predict(images, verbose=0))  # nothing is drawn
    assert all(layer.trainable for layer in model._flatten_layers())
    again = ka.training.fit(small(1), (images, labels), callbacks=[Watch()], **how)
    assert len(phases) == 4  # all of them were done
    np.testing.assert_array_equal(again.predict(images, verbose=0), logits)


def test_the_loss_is_the_networks_and_the_gates_for_what_was_drawn(images):
    seen = []

    class Watched(Reinforce):
        def loss(self, *arguments):
            seen.append(arguments)
            return super().loss(*arguments)

    model, labels = half_open("resnet", "layer"), np.arange(9)
    drawing = with_drawn_gates(model, Watched(reward=2.0, weight=3.0))
    drawing.compile(exit_weights=[0.5, 1])
    decision = next(x for x in model._flatten_layers() if x.name == "decision")
    with tf.GradientTape() as tape:
        logits = drawing(images, training=True)
        found = drawing.compute_loss(images, labels, logits, training=True)
    assert np.abs(tape.gradient(found, decision.bias.value)).max() > 1e-4
    ((actions, probabilities, losses),) = seen
    assert set(np.unique(actions)) == {0, 1}
    assert actions.shape == probabilities.shape
    assert np.ptp(probabilities) > 0.1
    cross = [
        keras.losses.sparse_categorical_crossentropy(labels, z, from_logits=True) for z in logits
    ]
    np.testing.assert_allclose(losses, cross[1], rtol=1e-6)
    expected = np.mean(0.5 * np.array(cross[0]) + np.array(cross[1]))
    gates = float(Reinforce(reward=2.0, weight=3.0).loss(*seen[0]))
    assert float(found) == pytest.approx(expected + gates, rel=1e-5)
    found = drawing.compute_loss(images, labels, logits, training=False)
    assert float(found) == pytest.approx(expected, rel=1e-5)


@pytest.mark.slow
def test_what_is_rewarded_is_done_more_often(images):
    shares = []
    for reward in (0.0, 100.0):
        model = half_open("densenet", "layer")
        drawing = with_drawn_gates(model, Reinforce(reward=reward, weight=1.0, baseline=True))
        drawing.compile(keras.optimizers.SGD(0.003))
        keras.utils.set_random_seed(0)
        drawing.fit(images, np.arange(9), epochs=20, verbose=0)
        shares.append(model.predict_gates(images, verbose=0).mean())
    assert shares[1] < shares[0] - 0.1


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Reinforce(reward=-1), "`reward`"),
        (lambda: Reinforce(weight=float("nan")), "`weight`"),
        (lambda: Reinforce(baseline=2), "`baseline`"),
        (lambda: Reinforce(rate=0), "`rate`"),
        (lambda: Reinforce(reward=float("nan")), "`reward`"),
        (lambda: Reinforce(weight=-1), "`weight`"),
        (
            lambda: ka.training.fit(
                ka.build_resnet(depth=8), (None, None), regime="gated", epochs=9, reinforce=1.0
            ),
            "`reinforce`",
        ),
        (lambda: with_drawn_gates(ka.build_resnet(depth=8), Reinforce()), "`reinforce`"),
        (
            lambda: ka.training.fit(
                ka.build_resnet(depth=8), (None, None), epochs=9, reinforce=Reinforce()
            ),
            "`reinforce`",
        ),
    ],
)
def test_refuses_what_makes_no_sense(make, message):
    with pytest.raises(ValueError, match=f"{message} must be .*Received: "):
        make()
