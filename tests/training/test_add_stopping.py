"""Policies that learn: a problem solved by hand, real networks, both backends, collapse."""

import json
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from eager import eagerly
from shared import GATED, TINY
from tiny import classifier

import keras_adaptive as ka
from keras_adaptive.layers import StoppingPolicy
from keras_adaptive.training import Recipe, StoppingLoss, StoppingModel, add_stopping, fit_policy

eagerly = pytest.fixture(eagerly)
# trainings of a moment often end with one exit for all
pytestmark = pytest.mark.filterwarnings("ignore:The stopping policy sends")


def problem():
    """Logits `(2, 400, 2)` and labels: half the samples are easy for the first exit.

    Of the easy ones the first exit says (0.9, 0.1) and is right about 9 of 10; of the
    others it says (0.5, 0.5) and is right about 5 of 10. The second exit is always right.
    """
    first = np.log(np.repeat([[0.9, 0.1], [0.5001, 0.4999]], 200, axis=0))
    labels = np.concatenate([np.arange(200) % 10 == 0, np.arange(200) % 2 == 0]).astype(int)
    return np.stack([first, 20.0 * np.eye(2)[labels]]), labels


def reader():
    """A network that hands on such logits, with a policy."""
    keras.utils.set_random_seed(0)
    read = keras.Input((2, 2))
    exits = [keras.layers.Identity(name=f"exit_{k}")(read[:, k]) for k in range(2)]
    return StoppingModel(read, exits, stopping=StoppingPolicy(8))


# Leaving costs 1 at the first exit and 3 at the second, so going on costs 2 cost_weight and
# gains 0.1 of an easy sample and 0.5 of the others.
OPTIMA = {
    # cost_weight: exits of easy and other samples, what is earned
    0.02: ([1, 1], 1 - 0.06),
    0.15: ([0, 1], (0.9 - 0.15 + 1 - 0.45) / 2),
    0.30: ([0, 0], 0.7 - 0.30),
}


@pytest.mark.slow
@pytest.mark.parametrize(
    ("cost_weight", "estimator"),
    [
        (0.15, "sampled"),
        pytest.param(0.02, "sampled", marks=pytest.mark.slow),
        pytest.param(0.30, "sampled", marks=pytest.mark.slow),
        pytest.param(0.15, "expected", marks=pytest.mark.slow),
    ],
)
def test_learns_the_optimum_that_can_be_computed_by_hand(cost_weight, estimator):
    logits, labels = problem()
    model = reader()
    how = {"reward": "best_label", "charge": "including", "costs": [1, 3]}
    history = fit_policy(
        model,
        logits,
        labels,
        cost_weight=cost_weight,
        estimator=estimator,
        epochs=40,
        batch_size=40,
        learning_rate=0.3,
        verbose=0,
        **how,
    ).history
    exits, earned = OPTIMA[cost_weight]
    policy = model.learned_policy()
    assert policy.decide(logits).tolist() == np.repeat(exits, 200).tolist()
    report = ka.evaluate(policy.leaving(logits), logits, labels, [1.0, 3.0])
    assert report.accuracy - cost_weight * report.mean_cost == pytest.approx(earned, abs=0.02)
    assert history["policy_accuracy"][-1] == pytest.approx(report.accuracy, abs=0.02)


@pytest.mark.slow
def test_another_optimizer_may_teach_the_policies():
    logits, labels = problem()
    model = reader()
    before = model.get_weights()
    for rate, moves in ((0.0, False), (0.01, True)):
        adam = keras.optimizers.Adam(rate)
        fit_policy(model, logits, labels, costs=[1, 3], epochs=1, optimizer=adam, verbose=0)
        moved = [(a != b).any() for a, b in zip(before, model.get_weights(), strict=True)]
        assert any(moved) == moves
    assert not adam.built  # a copy was used, so that the next row of a sweep starts afresh


@pytest.mark.slow
def test_collapse_is_warned_about_and_says_what_to_change():
    logits, labels = problem()
    for cost_weight, message in (
        (1.0, "to exit 0, the first: later exits are never used. Lower `cost_weight`"),
        (0.0, "to exit 1, the last: nothing is saved. Raise `cost_weight`"),
    ):
        model = reader()
        with pytest.warns(UserWarning, match=message):
            fit_policy(
                model,
                logits,
                labels,
                cost_weight=cost_weight,
                estimator="expected",
                costs=[1, 3],
                charge="including",
                epochs=20,
                batch_size=40,
                learning_rate=0.3,
                verbose=0,
            )


@pytest.fixture(scope="module")
def cascade():
    """A cascade with policies, trained for a moment, and its data. Not to be changed."""
    keras.utils.set_random_seed(0)
    members = [classifier(2), classifier(4), classifier(6)]
    model = ka.build_cascade(
        members, combine="last", stopping=StoppingPolicy(8, name="stop"), cost_weight=0.01
    )
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(60, 8, 8, 1)).astype("float32"), rng.integers(0, 10, 60)
    x += y[:, None, None, None] / 3
    model.run_eagerly = True  # six steps; not worth a graph
    model.fit(x, y, batch_size=20, epochs=2, verbose=0)
    return model, x, y


MADE_OF = {
    "add_stopping": lambda model: add_stopping(model, StoppingPolicy(4)),
    "add_gradient_equilibrium": ka.training.add_gradient_equilibrium,
    "add_collaboration": ka.training.add_collaboration,
    "combine_exits": ka.combine_exits,
    "add_exits": lambda model: ka.add_exits(model, at=["features"]),
    "build_cascade": lambda model: ka.build_cascade([model, model]),
    "build_self_cascade": lambda model: ka.build_self_cascade(model, [4, 8]),
}


def looking(exits):
    image = keras.Input((8, 8, 1))
    features = keras.layers.Conv2D(2, 3, name="features")(image)
    heads = [ka.layers.EarlyExit(3, name=f"head_{k}") for k in range(exits)]
    return ka.AdaptiveModel(image, [head(features) for head in heads])


@pytest.mark.parametrize("name", MADE_OF)
def test_networks_made_of_another_keep_its_classes_and_how_it_sees(name):
    given = looking(exits=2 if name in list(MADE_OF)[:4] else 1)
    given.class_names, given.preprocessing = list("abc"), {"mean": [0.4], "std": [0.2]}
    given.policy = ka.ExitPolicy([0.5] * given.num_exits)
    made = MADE_OF[name](given)
    assert (made.class_names, made.preprocessing) == (given.class_names, given.preprocessing)
    assert made.policy is None  # its exits answer otherwise, or cost something else


@pytest.mark.filterwarnings("ignore:When providing `inputs` as a dict")
@pytest.mark.parametrize("name", list(MADE_OF)[:4])
def test_networks_made_of_another_take_its_dictionary_of_inputs(name, rng):
    inputs = {"left": keras.Input((2,)), "right": keras.Input((2,))}
    both = keras.layers.Concatenate()([inputs["right"], inputs["left"]])
    heads = [ka.layers.EarlyExit(3, name=f"exit_{k}") for k in range(2)]
    given = ka.AdaptiveModel(inputs, [head(both) for head in heads])
    x = {"right": rng.normal(size=(4, 2)), "left": rng.normal(size=(4, 2))}
    made = MADE_OF[name](given)
    np.testing.assert_array_equal(made(x), made([x["left"], x["right"]]))


def test_members_that_disagree_give_a_cascade_no_names():
    one, other = looking(1), looking(1)
    one.class_names, other.class_names = list("abc"), list("xyz")
    assert ka.build_cascade([one, other]).class_names is None


def test_what_does_not_fit_stopping_is_refused():
    with pytest.raises(TypeError, match="`model` must be an AdaptiveModel. Received: model='m'"):
        add_stopping("m", StoppingPolicy(4))
    with pytest.raises(TypeError, match="Received: cost_wieght=1. Did you mean 'cost_weight'"):
        add_stopping(looking(2), StoppingPolicy(4), cost_wieght=1)
    policy = StoppingPolicy(4)
    policy.build((None, 7))
    with pytest.raises(ValueError, match="must be policies for 3 classes, or not built"):
        add_stopping(looking(2), [policy])
    with pytest.raises(ValueError, match="`model` must have stopping policies"):
        fit_policy("m", np.zeros((2, 4, 3)), np.zeros(4, int))
    model = add_stopping(looking(2), StoppingPolicy(4))
    for target in ("reward", "deferral"):
        with pytest.raises(ValueError, match="of the network's 3 classes"):
            fit_policy(model, np.zeros((2, 4, 5)), np.zeros(4, int), target=target)


def test_one_layer_is_the_pattern_of_all_but_the_last_exit(cascade):
    model, _, _ = cascade
    assert [layer.name for layer in model.stopping] == ["stop_0", "stop_1"]
    assert len({id(w) for layer in model.stopping for w in layer.weights}) == 12
    assert len(model.outputs) == 3
    own = 10 * 8 + 8 * 8 + 8 * 2
    assert (model.stopping_costs() - model.exit_costs()).tolist() == [own, 2 * own, 2 * own]


@pytest.mark.usefixtures("eagerly")
def test_members_and_policies_learn_at_rates_of_their_own(cascade):
    model, x, y = cascade
    twin = add_stopping(model, StoppingPolicy(8), cost_weight=0.01)
    members = [v for v in twin.trainable_variables if "stop" not in v.path]
    policies = [w for layer in twin.stopping for w in layer.weights]
    for rate, moving, resting in ((0.0, policies, members), (0.1, members + policies, [])):
        optimizer = ka.training.stopping_optimizer(twin, keras.optimizers.SGD(rate), 1)
        twin.compile(optimizer, stopping_loss=StoppingLoss(0.01))
        before = {id(v): v.numpy() for v in members + policies}
        weights = model.get_weights()
        twin.fit(x, y, batch_size=60, epochs=2, verbose=0)
        assert all((v.numpy() != before[id(v)]).any() for v in moving)
        assert all((v.numpy() == before[id(v)]).all() for v in resting)
        model.set_weights(weights)
    own = optimizer.optimizers[0].get_config()["learning_rate"]["config"]
    rates = keras.optimizers.schedules.ExponentialDecay.from_config(own)
    assert [round(float(rates(n)), 4) for n in range(5)] == [0.05, 0.05, 0.045, 0.045, 0.0405]


@pytest.mark.usefixtures("eagerly")
def test_a_file_keeps_policies_and_loss(cascade, tmp_path):
    model, x, _ = cascade
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.stopping_loss.get_config() == model.stopping_loss.get_config()
    assert [w.path for w in again.trainable_variables] == [
        w.path for w in model.trainable_variables
    ]
    logits = np.stack(model.predict(x, verbose=0))
    np.testing.assert_array_equal(np.stack(again.predict(x, verbose=0)), logits)
    np.testing.assert_array_equal(
        again.learned_policy().confidences(logits), model.learned_policy().confidences(logits)
    )
    again.fit(x, np.zeros(60, int), verbose=0)
    assert type(again) is type(model) is StoppingModel
    assert not hasattr(ka.build_cascade([classifier(2), classifier(4)]), "learned_policy")


@pytest.mark.usefixtures("eagerly")
def test_regime_trains_members_then_policies_then_both(cascade):
    model, x, y = cascade
    twin = ka.build_cascade(
        [classifier(2), classifier(4)], combine="last", stopping=StoppingPolicy(4), cost_weight=0.5
    )
    of_policy = {id(w) for w in twin.stopping[0].weights}
    seen = []

    class Watch(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            learning = {id(v) for v in twin.trainable_variables}
            self.before = [(v, v.numpy(), id(v) in learning) for v in twin.trainable_variables]
            seen.append(
                (bool(learning & of_policy), bool(learning - of_policy), twin.stopping_loss)
            )

    trained = ka.training.fit(
        twin,
        (x, y),
        regime="stopping",
        epochs=4,
        recipe=Recipe(learning_rate=0.01, batch_size=30, schedule="cosine"),
        callbacks=[Watch()],
        seed=0,
        verbose=0,
    )
    assert trained is twin
    assert [learning[:2] for learning in seen] == [(False, True), (True, False), (True, True)]
    assert seen[0][2] is None
    assert seen[1][2].cost_weight == seen[2][2].cost_weight == twin.stopping_loss.cost_weight == 0.5
    with pytest.raises(ValueError, match="`stopping_loss` is of the regime"):
        ka.training.fit(twin, (x, y), stopping_loss=StoppingLoss(), epochs=1)
    with pytest.raises(ValueError, match="must have stopping policies"):
        ka.training.fit(ka.build_cascade([classifier(2)]), (x, y), regime="stopping", epochs=3)


@pytest.mark.slow
@pytest.mark.usefixtures("eagerly")
@pytest.mark.parametrize(
    "network", ["msdnet", pytest.param("gated resnet", marks=pytest.mark.slow)]
)
def test_exits_of_any_network_take_policies(network):
    keras.utils.set_random_seed(0)
    if network == "msdnet":
        model = ka.build_msdnet(**TINY, blocks=2, head_channels=4)
    else:
        model = ka.build_resnet(**GATED, depth=8, width=0.25, gates="layer")
    model = add_stopping(model, StoppingPolicy(4), 0.001, estimator="expected")
    x = np.random.default_rng(0).normal(size=(8, 8, 8, 1)).astype("float32")
    history = model.fit(x, np.arange(8), epochs=1, verbose=0)
    assert np.isfinite(history.history["loss"]).all()
    logits, costs = model.predict_with_costs(x, verbose=0)
    report = ka.evaluate(model.learned_policy(), logits, np.arange(8), costs)
    assert report.exit_fractions.sum() == pytest.approx(1)


@pytest.mark.usefixtures("eagerly")
def test_without_a_stopping_loss_policies_rest(cascade):
    model, x, y = cascade
    twin = add_stopping(model, StoppingPolicy(4))
    weights = model.get_weights()
    twin.compile(keras.optimizers.SGD(0.01, momentum=0.9, weight_decay=0.1))
    assert all(layer.trainable for layer in twin.stopping)
    assert len(twin.trainable_variables) == len(model.trainable_variables) - 12
    assert len(twin.trainable_variables + twin.non_trainable_variables) == len(twin.variables)
    before = [w.numpy() for layer in twin.stopping for w in layer.weights]
    twin.fit(x, y, verbose=0)
    model.set_weights(weights)
    after = [w.numpy() for layer in twin.stopping for w in layer.weights]
    assert all((a == b).all() for a, b in zip(before, after, strict=True))


def test_what_the_user_froze_stays_frozen():
    model = reader()
    model.stopping[0].trainable = False
    model.compile(stopping_loss=StoppingLoss(costs=[1, 3]))
    assert model.trainable_variables == []
    other = StoppingModel(model.inputs, model.outputs, stopping=model.stopping)
    other.compile()
    assert model.trainable_variables == []
    model.stopping[0].trainable = True
    assert len(model.trainable_variables) == 6
    assert other.trainable_variables == []


@pytest.mark.parametrize(
    ("stopping", "error", "message"),
    [
        (5, TypeError, "`stopping` must be a StoppingPolicy or a list of them"),
        ([StoppingPolicy()] * 3, ValueError, "Received: 3 policies, 2 exits"),
    ],
)
def test_rejects_impossible_policies(stopping, error, message):
    with pytest.raises(error, match=message):
        ka.build_cascade([classifier(2), classifier(4)], stopping=stopping)


def test_a_clone_is_made_by_its_config():
    model = add_stopping(ka.build_cascade([classifier(2), classifier(4)]), StoppingPolicy(4))
    with pytest.raises(ValueError, match=r"StoppingModel.from_config\(model.get_config\(\)\)"):
        keras.models.clone_model(model)
    clone = StoppingModel.from_config(model.get_config())
    assert [w.shape for w in clone.weights] == [w.shape for w in model.weights]
    assert not {id(w) for w in clone.weights} & {id(w) for w in model.weights}
    clone.set_weights(model.get_weights())
    x = np.ones((1, 8, 8, 1), "float32")
    np.testing.assert_array_equal(clone(x)[0], model(x)[0])


def test_rejects_networks_that_cannot_stop():
    image = keras.Input((4, 4, 1))
    with pytest.raises(ValueError, match="of at least two exits. Received: 0 policies, 1 exits"):
        StoppingModel(image, [keras.layers.Flatten()(image)], stopping=StoppingPolicy(2))
    dense = [keras.layers.Conv2D(3, 1)(image) for _ in range(2)]
    with pytest.raises(ValueError, match=r"logits of shape \(batch, classes\)"):
        StoppingModel(image, dense, stopping=StoppingPolicy(2))


def test_rejects_impossible_losses():
    model = ka.build_cascade([classifier(2), classifier(4)])
    with pytest.raises(TypeError, match="stopping_loss"):
        model.compile(stopping_loss=StoppingLoss())
    with pytest.raises(ValueError, match="must have stopping policies"):
        fit_policy(model, np.zeros((2, 4, 10)), np.zeros(4, int))
    model = add_stopping(model, StoppingPolicy(4))
    with pytest.raises(TypeError, match="`stopping_loss` must be a StoppingLoss"):
        model.compile(stopping_loss=0.1)
    with pytest.raises(ValueError, match="`costs` of the stopping loss must be 2 numbers"):
        model.compile(stopping_loss=StoppingLoss(costs=[1, 2, 3]))
    for shape in ((3, 4, 10), (2, 4)):
        with pytest.raises(ValueError, match="`logits` must be of shape"):
            fit_policy(model, np.zeros(shape), np.zeros(4, int))


PROGRAM = """
import json
import keras
import numpy as np
import keras_adaptive as ka

rng = np.random.default_rng(0)
x, y = rng.normal(size=(32, 6)).astype("float32"), rng.integers(0, 3, 32)
image = keras.Input((6,))
exits = [keras.layers.Dense(3, name=f"exit_{k}")(image) for k in range(3)]
policies = ka.layers.StoppingPolicy(4)
model = ka.training.StoppingModel(image, exits, stopping=policies)
for variable in model.trainable_variables:
    variable.assign(0.5 * rng.normal(size=variable.shape))
start, losses = model.get_weights(), {}
for estimator in ("expected", "sampled"):
    model.set_weights(start)
    model.compile(stopping_loss=ka.training.StoppingLoss(0.05, estimator, charge="including"))
    losses[estimator] = model.fit(
        x, y, batch_size=32, epochs=4, shuffle=False, verbose=0
    ).history["loss"]
result = {"backend": keras.backend.backend(), **losses}
"""


@pytest.mark.slow
@pytest.mark.jax
@pytest.mark.subprocess
def test_the_same_training_on_jax():
    pytest.importorskip("jax", reason="the test extra is not installed")
    here = {}
    exec(PROGRAM, here)
    assert here["result"]["backend"] == "tensorflow"
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM + "print(json.dumps(result))"],
        env={**os.environ, "KERAS_BACKEND": "jax"},
        capture_output=True,
        text=True,
        check=True,
    )
    there = json.loads(done.stdout.splitlines()[-1])
    assert there["backend"] == "jax"
    np.testing.assert_allclose(there["expected"], here["result"]["expected"], atol=1e-4)
    assert there["expected"][3] < there["expected"][0]
    assert np.isfinite(there["sampled"]).all()
    assert len(set(there["sampled"])) == 4


def test_what_fit_shows_is_what_the_greedy_policy_does(cascade):
    model, x, y = cascade
    shown = model.evaluate(x, y, verbose=0, return_dict=True)
    logits, costs = np.stack([np.array(z) for z in model(x)]), model.stopping_costs()
    report = ka.evaluate(model.learned_policy(), logits, y, costs)
    assert shown["policy_accuracy"] == pytest.approx(report.accuracy)
    assert shown["policy_cost"] == pytest.approx(report.mean_cost / costs[-1])
    shares = [float(share.result()) for share in model.stopping_shares]
    assert shares == pytest.approx(report.exit_fractions.tolist())


def test_labels_may_be_one_hot_or_a_column():
    from keras_adaptive.training.stopping_model import class_labels

    labels = np.array([2, 0, 1])
    for given in (labels, labels[:, None], np.eye(3)[labels]):
        assert np.array(class_labels(given, 3)).tolist() == [2, 0, 1]


def test_the_loss_is_the_weighted_mean_of_what_samples_lose(cascade):
    model, x, y = cascade
    weights = np.linspace(0, 2, len(y))
    found = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)["loss"]
    logits = [np.array(z) for z in model(x)]
    decisions = [
        np.array(policy.log_probabilities(ka.policy.softmax(z)))
        for policy, z in zip(model.stopping, logits, strict=False)
    ]
    spent = model.stopping_costs() / model.stopping_costs()[0]
    losses = StoppingLoss(0.01).losses(logits, y, decisions, [0, *spent[:-1]])
    assert found == pytest.approx((weights * np.array(losses)).mean(), rel=1e-4)
