import keras
import numpy as np
import pytest
import tensorflow as tf
from conftest import TINY
from eager import eagerly

import keras_adaptive as ka
from keras_adaptive.layers import StoppingPolicy
from keras_adaptive.training import regimes
from keras_adaptive.training.recipes import Recipe

eagerly = pytest.fixture(autouse=True)(eagerly)

RECIPE = Recipe(learning_rate=0.02, batch_size=16, schedule="cosine")


@pytest.fixture
def data(rng):
    labels = rng.integers(0, 10, 32)
    return rng.normal(size=(32, 8, 8, 1)).astype("float32") + labels[:, None, None, None], labels


def dense_net(exits=3):
    """A small network with batch statistics, quick to compile."""
    x = image = keras.Input((8, 8, 1))
    x = keras.layers.Flatten()(x)
    outputs = []
    for k in range(exits):
        x = keras.layers.Dense(12, name=f"dense_{k}")(x)
        x = keras.layers.BatchNormalization(name=f"norm_{k}")(x)
        x = keras.layers.ReLU()(x)
        outputs.append(ka.layers.EarlyExit(10, name=f"exit_{k}")(x))
    return ka.AdaptiveModel(image, outputs)


def snapshot(model, names):
    return {v.path: np.array(v) for v in model.variables if any(name in v.path for name in names)}


class Watch(keras.callbacks.Callback):
    """Keeps all weights at the beginning and the end of every phase."""

    def __init__(self):
        super().__init__()
        self.phases = []

    def on_train_begin(self, logs=None):
        self.phases.append([snapshot(self.model, [""])])

    def on_train_end(self, logs=None):
        self.phases[-1].append(snapshot(self.model, [""]))

    def changed(self, phase):
        before, after = self.phases[phase]
        return {path for path in before if not np.array_equal(before[path], after[path])}


def fit(model, data, regime, **how):
    watch = Watch()
    result = ka.training.fit(
        model, data, regime=regime, epochs=4, recipe=RECIPE, callbacks=[watch], verbose=0, **how
    )
    return result, watch


def test_joint_trains_everything_in_one_phase(data):
    model, watch = fit(dense_net(), data, "joint")
    assert len(watch.phases) == 1
    assert watch.changed(0) == {v.path for v in model.variables}


def test_disjoint_freezes_the_backbone_while_the_exits_learn(data):
    _, watch = fit(dense_net(), data, "disjoint")
    first, second = watch.changed(0), watch.changed(1)
    early = {p for p in watch.phases[0][0] if p.startswith(("exit_0", "exit_1"))}
    assert first == set(watch.phases[0][0]) - early
    assert second == early  # weights and batch statistics of all else to the bit


def test_mixed_trains_everything_after_the_backbone(data):
    model, watch = fit(dense_net(), data, "mixed")
    assert not any(p.startswith(("exit_0", "exit_1")) for p in watch.changed(0))
    assert watch.changed(1) == {v.path for v in model.variables}


def test_imta_freezes_the_network_and_teaches_new_heads(data):
    old = dense_net()
    new, watch = fit(old, data, "imta")
    assert new is not old
    assert [h.collaboration for h in map(new.get_layer, new.output_names)] == [
        None,
        "dense",
        "dense",
    ]
    changed = watch.changed(1)
    assert changed
    assert all("/logits/" in p or "/previous_" in p for p in changed)
    before, after = watch.phases[0][1], {v.path: np.array(v) for v in old.variables}
    for path, value in before.items():
        np.testing.assert_array_equal(value, after[path], err_msg=path)
    a, b = (one.predict(data[0], verbose=0)[1] for one in (new, old))
    assert not np.array_equal(a, b)


@pytest.mark.slow
def test_msdnet_goes_through_imta(data):
    model = ka.build_msdnet(**TINY, blocks=2, head_channels=4)
    new, watch = fit(model, (data[0][:16], data[1][:16]), "imta")
    assert all("/logits/" in p or "/previous_" in p for p in watch.changed(1))
    assert new.exits == 2


@pytest.mark.parametrize(
    "regime",
    [
        "disjoint",
        pytest.param("joint", marks=pytest.mark.slow),
        pytest.param("mixed", marks=pytest.mark.slow),
        pytest.param("imta", marks=pytest.mark.slow),
    ],
)
def test_everything_is_trainable_afterwards_and_what_was_frozen_stays_so(data, regime):
    model = dense_net()
    model.get_layer("dense_0").trainable = False
    kept = np.array(model.get_layer("dense_0").kernel)
    result, _ = fit(model, data, regime)
    assert not result.get_layer("dense_0").trainable
    assert result.get_layer("dense_1").trainable
    assert result.get_layer("exit_0").trainable
    np.testing.assert_array_equal(result.get_layer("dense_0").kernel, kept)
    result.fit(*data, epochs=1, verbose=0)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:The stopping policy sends")  # after so few epochs
@pytest.mark.parametrize("regime", ["joint", "disjoint", "mixed", "imta", "gated", "stopping"])
def test_a_graph_learns_what_is_learned_without(data, regime, monkeypatch):
    ends = []
    for _ in range(2):
        keras.utils.set_random_seed(0)
        model = NETWORKS.get(regime, dense_net)()
        result = ka.training.fit(
            model, ordered(data), regime=regime, epochs=4, recipe=RECIPE, seed=1, verbose=0
        )
        ends.append(result.get_weights())
        monkeypatch.undo()  # with graphs from here on
    for eager, graph in zip(*ends, strict=True):
        np.testing.assert_allclose(eager, graph, atol=1e-3)


class Killed(Exception):
    pass


class Kill(keras.callbacks.Callback):
    """Interrupts the training after so many epochs."""

    def __init__(self, after):
        super().__init__()
        self.left = after

    def on_epoch_begin(self, epoch, logs=None):
        if self.left == 0:
            raise Killed
        self.left -= 1


@pytest.mark.parametrize(
    ("regime", "after"),
    [
        ("mixed", 3),
        pytest.param("imta", 1, marks=pytest.mark.slow),
        pytest.param("joint", 1, marks=pytest.mark.slow),
        pytest.param("joint", 3, marks=pytest.mark.slow),
        pytest.param("mixed", 1, marks=pytest.mark.slow),
        pytest.param("imta", 3, marks=pytest.mark.slow),
    ],
)
def test_a_killed_training_ends_where_an_unbroken_one_does(data, regime, after, tmp_path):
    x = data[0]

    def run(folder, callbacks=()):
        keras.utils.set_random_seed(1)
        how = {
            "regime": regime,
            "epochs": np.int64(4),
            "recipe": RECIPE,
            "verbose": 0,
            "seed": np.int64(1),
        }
        model, batch = dense_net(2), ordered(data)
        return ka.training.fit(model, batch, callbacks=callbacks, backup_dir=folder, **how)

    whole = run(tmp_path / "whole")
    with pytest.raises(Killed):
        run(tmp_path / "killed", [Kill(after)])
    again = run(tmp_path / "killed")
    for a, b in zip(whole.predict(x, verbose=0), again.predict(x, verbose=0), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-5)


def ordered(data):
    return tf.data.Dataset.from_tensor_slices(data).batch(16)


@pytest.mark.slow
def test_new_heads_have_the_reference_number_of_parameters(goldens):
    golden = goldens["imta_phase2"]["cifar10_b6"]
    model = ka.build_msdnet(preset="cifar_budgeted_6")
    phase = regimes._new_heads(model, ka.training.Distillation())
    learning = sum(
        int(np.prod(v.shape)) for layer in phase.layers for v in layer.trainable_variables
    )
    assert learning == golden["phase2_trainable"]
    assert phase.model.exits == 6


@pytest.mark.parametrize(
    ("arguments", "error", "message"),
    [
        ({"regime": "slow"}, ValueError, "Received: regime=slow"),
        ({"recipe": "mnist"}, ValueError, "Received: recipe=mnist"),
        ({"epochs": 0}, ValueError, "`epochs` must be an integer of at least 1"),
        ({"epochs": 1, "regime": "mixed"}, ValueError, "at least 2, one per phase"),
        ({"epochs": True}, ValueError, "Received: epochs=True"),
        ({"first_share": 1}, ValueError, "Received: first_share=1"),
        ({"first_share": 0}, ValueError, "Received: first_share=0"),
        ({"model": "net"}, TypeError, "`model` must be an AdaptiveModel"),
    ],
)
def test_rejects_impossible_arguments(data, arguments, error, message):
    arguments = {"model": dense_net(), "train": data, **arguments}
    with pytest.raises(error, match=message):
        ka.training.fit(**arguments)


def test_rejects_what_the_regime_cannot_use(data):
    x = keras.Input((4,))
    model = ka.AdaptiveModel(x, [keras.layers.Dense(3)(x), keras.layers.Dense(3)(x)])
    with pytest.raises(ValueError, match="Every head of `model` must be an EarlyExit"):
        ka.training.add_collaboration(model)
    endless = ordered(data).repeat()
    with pytest.raises(ValueError, match="`train` must be of known size"):
        ka.training.fit(dense_net(), endless, epochs=1)


def test_data_in_splits_is_batched_and_augmented_as_the_recipe_says(digits, monkeypatch):
    asked = {}
    batches = type(digits).batches

    def spy(self, *args, **how):
        asked.update(how, args=args)
        return batches(self, *args, **how)

    monkeypatch.setattr(type(digits), "batches", spy)
    recipe = Recipe(batch_size=256, schedule="cosine", augmentation=None)
    model = ka.training.fit(dense_net(), digits, recipe=recipe, epochs=1, seed=3, verbose=0)
    assert asked == {"args": ("train", 256), "training": True, "augmentation": None, "seed": 3}
    assert int(model.optimizer.iterations) == -(-digits.size("train") // 256)


@pytest.mark.parametrize("regime", ["joint", pytest.param("mixed", marks=pytest.mark.slow)])
def test_mixed_precision_is_there_while_learning_and_gone_afterwards(data, regime):
    seen = []

    class See(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            layers = [self.model.get_layer(name) for name in ("dense_1", "norm_0")]
            head = self.model.get_layer("exit_0").logits
            seen.append([layer.compute_dtype for layer in (*layers, head)])

    model = dense_net()
    model.compile()
    recipe = Recipe(learning_rate=0.02, batch_size=16, schedule="cosine", mixed_precision=True)
    before = model.evaluate(*data, verbose=0, return_dict=True)["loss"]
    fitted = ka.training.fit(
        model, data, regime=regime, epochs=6, recipe=recipe, callbacks=[See()], verbose=0
    )
    assert seen[0] == ["bfloat16", "bfloat16", "float32"]
    assert all(row == seen[0] for row in seen)
    assert {layer.compute_dtype for layer in model._flatten_layers()} == {"float32"}
    assert {v.dtype for v in model.variables} == {"float32"}
    assert fitted.evaluate(*data, verbose=0, return_dict=True)["loss"] < before


def gated_net(exits=2):
    keras.utils.set_random_seed(0)
    return ka.build_resnet(
        (8, 8, 1), 10, depth=8, width=0.25, exits=exits, gates="both", head_channels=4
    )


def test_gated_goes_from_the_network_to_the_gates_to_both_to_the_exits(data):
    states = []

    class See(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            gates = [x for x in self.model._flatten_layers() if hasattr(x, "forced")]
            states.append({gate.forced for gate in gates})

    model, watch = gated_net(), Watch()
    loss = ka.training.GateLoss(weight=0.1)
    ka.training.fit(
        model,
        data,
        regime="gated",
        epochs=4,
        recipe=RECIPE,
        gate_loss=loss,
        callbacks=[watch, See()],
        verbose=0,
    )
    base, warm_up, gates, exits = (watch.changed(i) for i in range(4))
    of_gates = {path for path in watch.phases[0][0] if "gate/" in path or "projection" in path}
    early_head = {path for path in watch.phases[0][0] if "exit_0" in path}
    assert of_gates
    assert early_head
    assert base.isdisjoint(of_gates | early_head)
    assert warm_up <= of_gates
    assert warm_up
    assert gates.isdisjoint(early_head)
    assert gates & of_gates
    assert exits & early_head
    assert states == [{True}, {None}, {None}, {None}]
    assert all(gate.forced is None for gate in model._flatten_layers() if hasattr(gate, "forced"))
    assert all(layer.trainable for layer in model._flatten_layers())


def net_with_policies():
    return ka.training.add_stopping(dense_net(), StoppingPolicy(4))


NETWORKS = {"gated": gated_net, "stopping": net_with_policies}


def settings(model):
    """What a phase sets: who learns, in which precision, and what gates are held at."""
    layers = [
        (layer.path, layer.trainable, layer.dtype_policy.name, getattr(layer, "forced", None))
        for layer in model._flatten_layers()
    ]
    return layers, [(v.path, v.trainable) for v in model.variables]


@pytest.mark.parametrize(
    ("regime", "phases"),
    [
        ("disjoint", 2),
        pytest.param("joint", 1, marks=pytest.mark.slow),
        pytest.param("mixed", 2, marks=pytest.mark.slow),
        pytest.param("imta", 2, marks=pytest.mark.slow),
        pytest.param("gated", 5, marks=pytest.mark.slow),
        pytest.param("stopping", 3, marks=pytest.mark.slow),
    ],
)
def test_an_interruption_leaves_everything_as_it_was(data, regime, phases, monkeypatch):
    model = NETWORKS.get(regime, dense_net)()
    model.layers[2].trainable = False
    for gate in [x for x in model._flatten_layers() if hasattr(x, "forced")][:1]:
        gate.forced = False
    before, seen = settings(model), []

    def fit(self, *args, **how):
        seen.append(settings(self))
        if len(seen) == interrupted:
            raise KeyboardInterrupt

    monkeypatch.setattr(keras.Model, "fit", fit)
    recipe = Recipe(batch_size=16, mixed_precision=True)
    reinforce = ka.training.Reinforce() if regime == "gated" else None
    for interrupted in range(1, phases + 1):
        seen.clear()
        with pytest.raises(KeyboardInterrupt):
            ka.training.fit(
                model, data, regime=regime, epochs=6, recipe=recipe, reinforce=reinforce, verbose=0
            )
        assert len(seen) == interrupted
        assert "mixed_bfloat16" in {policy for _, _, policy, _ in seen[-1][0]}
        assert settings(model) == before


@pytest.mark.parametrize(
    "moment",
    [
        "on_train_batch_end",
        pytest.param("on_train_begin", marks=pytest.mark.slow),
        pytest.param("on_epoch_end", marks=pytest.mark.slow),
    ],
)
def test_after_an_interruption_training_may_begin_anew(data, moment):
    model, interrupted = dense_net(), []

    def interrupt(*args, **how):
        if not model.get_layer("dense_0").trainable and not interrupted:  # the second phase
            interrupted.append(moment)
            raise KeyboardInterrupt

    stop = keras.callbacks.Callback()
    setattr(stop, moment, interrupt)
    recipe = Recipe(learning_rate=0.02, batch_size=16, schedule="cosine", mixed_precision=True)
    how = {"regime": "disjoint", "epochs": 2, "recipe": recipe, "callbacks": [stop], "verbose": 0}
    before = settings(model)
    with pytest.raises(KeyboardInterrupt):
        ka.training.fit(model, data, **how)
    assert interrupted == [moment]
    assert settings(model) == before
    _, watch = fit(model, data, "joint")
    assert watch.changed(0) == {v.path for v in model.variables}


class Plan:
    """Takes the place of `fit`: notes how each phase is compiled and called."""

    def __init__(self, monkeypatch):
        self.phases, self.seeds, self.taught = [], [], []
        plan = self

        def fit(self, *args, **how):
            first = getattr(self.optimizer, "optimizers", [self.optimizer])[0]
            rate = round(float(first.learning_rate), 8)
            plan.phases.append((how["epochs"], rate, self.exit_weights))
            plan.taught.append(self.distillation)
            plan.how = how

        monkeypatch.setattr(keras.Model, "fit", fit)
        monkeypatch.setattr(keras.utils, "set_random_seed", self.seeds.append)


def test_phases_have_the_lengths_rates_weights_and_seeds_of_the_regime(data, monkeypatch):
    gated, dense, policies = gated_net(), dense_net(2), net_with_policies()
    how = {"epochs": 20, "recipe": RECIPE, "exit_weights": [1, 3], "seed": 7, "verbose": 0}
    last, both, rate = [0.0, 1.0], [1.0, 3.0], RECIPE.learning_rate

    plan = Plan(monkeypatch)
    ka.training.fit(dense, data, **how)
    assert plan.phases == [(20, rate, both)]
    assert plan.seeds == [7]
    assert plan.how["batch_size"] == 16
    assert plan.how["shuffle"]
    assert plan.how["x"] is data[0]
    assert plan.how["y"] is data[1]

    for regime in ("disjoint", "mixed"):
        plan = Plan(monkeypatch)
        ka.training.fit(dense, ordered(data), data, regime=regime, first_share=0.7, **how)
        assert plan.phases == [(14, rate, last), (6, rate, both)]
        assert plan.seeds == [7, 8]
        assert "batch_size" not in plan.how
        assert not plan.how["shuffle"]
        assert plan.how["validation_data"] is data

    plan = Plan(monkeypatch)
    distillation = ka.training.Distillation(temperature=3.0, weight=0.4)
    ka.training.fit(dense, data, regime="imta", distillation=distillation, **how)
    assert [phase[:2] for phase in plan.phases] == [(10, rate), (10, rate)]
    assert plan.taught[0] is distillation
    taught = plan.taught[1]
    assert (taught.temperature, taught.weight) == (3.0, 0.4)
    assert taught.teacher is dense

    plan = Plan(monkeypatch)
    reinforce, own = ka.training.Reinforce(rate=0.25), ka.training.GateLoss(0.1)
    ka.training.fit(gated, data, regime="gated", gate_loss=own, reinforce=reinforce, **how)
    assert plan.phases == [
        (10, rate, last),
        (2, rate, last),
        (3, rate, last),
        (3, rate, both),
        (2, rate / 4, both),
    ]
    assert plan.seeds == [7, 8, 9, 10, 11]

    plan = Plan(monkeypatch)
    loss = ka.training.StoppingLoss(0.3)
    how["exit_weights"] = [1, 2, 3]
    ka.training.fit(policies, data, regime="stopping", stopping_loss=loss, **how)
    assert [phase[0] for phase in plan.phases] == [10, 2, 8]
    assert plan.seeds == [7, 8, 9]


@pytest.mark.parametrize(
    ("arguments", "lengths"),
    [
        ((7, 1, 0.5), [7]),
        ((10, 2, 0.7), [7, 3]),
        ((20, 4, 0.5), [10, 2, 4, 4]),
        ((13, 5, 0.5), [6, 1, 2, 2, 2]),
        ((12, 5, 0.5), [6, 1, 2, 2, 1]),
        ((4, 4, 0.99), [1, 1, 1, 1]),
        ((2, 2, 0.01), [1, 1]),
    ],
)
def test_lengths_by_hand(arguments, lengths):
    assert regimes._lengths(*arguments) == lengths


@pytest.mark.parametrize(("epochs", "phases"), [(4, 4), (3, 3), (10, 4), (2, 2), (9, 1)])
def test_epochs_are_shared_out_whole(epochs, phases):
    for share in (0.01, 0.5, 0.99):
        lengths = regimes._lengths(epochs, phases, share)
        assert len(lengths) == phases
        assert sum(lengths) == epochs
        assert min(lengths) >= 1


def test_gated_needs_gates_and_gate_loss_needs_gated(data):
    with pytest.raises(ValueError, match="`model` must have gates.*Received: no gates"):
        ka.training.fit(dense_net(), data, regime="gated", epochs=4)
    with pytest.raises(ValueError, match="`gate_loss` is of the regime.*Received: regime=joint"):
        ka.training.fit(dense_net(), data, epochs=4, gate_loss=ka.training.GateLoss())
