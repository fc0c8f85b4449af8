import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from eager import eagerly
from shared import TINY

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
    return {v.path: np.array(v) for v in model.weights if any(name in v.path for name in names)}


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
    assert watch.changed(0) == {v.path for v in model.weights}


def test_disjoint_freezes_the_backbone_while_the_exits_learn(data):
    _, watch = fit(dense_net(), data, "disjoint")
    first, second = watch.changed(0), watch.changed(1)
    early = {p for p in watch.phases[0][0] if p.startswith(("exit_0", "exit_1"))}
    assert first == set(watch.phases[0][0]) - early
    assert second == early  # weights and batch statistics of all else to the bit


def test_mixed_trains_everything_after_the_backbone(data):
    model, watch = fit(dense_net(), data, "mixed")
    assert not any(p.startswith(("exit_0", "exit_1")) for p in watch.changed(0))
    assert watch.changed(1) == {v.path for v in model.weights}


@pytest.mark.slow
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


def ordered(data):
    return tf.data.Dataset.from_tensor_slices(data).batch(16)


def test_copied_heads_begin_with_the_answers_of_the_first_phase(data):
    model = dense_net()
    how = {**regimes.NEW_HEADS, "heads": "copied"}
    phase = regimes._new_heads(model, ka.training.Distillation(), **how)
    before, after = model.predict(data[0], verbose=0), phase.model.predict(data[0], verbose=0)
    for a, b in zip(before, after, strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)
    drawn = regimes._new_heads(model, ka.training.Distillation(), **regimes.NEW_HEADS).model
    assert not np.allclose(drawn.predict(data[0], verbose=0)[1], before[1])


@pytest.mark.parametrize(
    ("regime", "changes", "message"),
    [
        ("joint", {"heads": "copied"}, '`heads` is of the regime "imta"'),
        ("imta", {"heads": "old"}, "`heads` must be one of"),
        ("imta", {"teacher": "mine"}, "`teacher` must be one of"),
        ("imta", {"collaboration": None}, "`collaboration` must be one of"),
        ("imta", {"collaboration": "identity", "heads": "copied"}, 'must be "dense" with heads='),
    ],
)
def test_what_imtas_second_phase_may_be(data, regime, changes, message):
    with pytest.raises(ValueError, match=message):
        ka.training.fit(dense_net(), data, regime=regime, **changes)


@pytest.mark.slow
def test_new_heads_have_the_reference_number_of_parameters(goldens):
    golden = goldens["imta_phase2"]["cifar10_b6"]
    model = ka.build_msdnet(preset="cifar_budgeted_6")
    phase = regimes._new_heads(model, ka.training.Distillation(), **regimes.NEW_HEADS)
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
        ({"regime": "jiont"}, ValueError, "Did you mean 'joint'"),
        ({"recipe": "cifer"}, ValueError, "Did you mean 'cifar'"),
        ({"recipe": 0.1}, ValueError, "or a Recipe. Received: recipe=0.1"),
        ({"first_share": "half"}, ValueError, "`first_share` must be a finite number"),
        ({"exit_weights": [1]}, ValueError, "`exit_weights` must be 3 numbers"),
        ({"exit_weights": [1], "regime": "mixed", "epochs": 2}, ValueError, "`exit_weights` must"),
        ({"distillation": 0.5}, TypeError, "`distillation` must be a Distillation"),
        ({"seed": -1}, ValueError, "`seed` must be an integer"),
        ({"train": "cifar10"}, TypeError, "`train` must be a tuple"),
        ({"train": iter([])}, TypeError, "`train` must be a tuple"),
        ({"validation": 0.1}, TypeError, "`validation` must be None"),
        ({"validation": iter([])}, ValueError, "`validation` must have at least one batch"),
    ],
)
def test_rejects_impossible_arguments(data, arguments, error, message):
    arguments = {"model": dense_net(), "train": data, **arguments}
    with pytest.raises(error, match=message):
        ka.training.fit(**arguments)


IMAGES = np.zeros((4, 8, 8, 1), "float32")


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (IMAGES, np.array([0, 1, 2]), "one row per sample. Received: shapes"),
        (IMAGES[:0], np.zeros(0, int), "one row per sample. Received: shapes"),
        (IMAGES[:, :7], [0, 1, 2, 3], r"must fit the network's, \(None, 8, 8, 1\)"),
        (IMAGES, [0, 1, 2, 10], "integers from 0 to 9.* Received: labels from 0 to 10"),
        (IMAGES, [0, -1, 2, 3], "Received: labels from -1 to 3"),
        (IMAGES, [0.5, 1, 2, 3], "Received: labels from 0.5 to 3"),
        (IMAGES, [np.nan, 1, 2, 3], "must be integers from 0 to 9"),
        (IMAGES, ["a", "b", "c", "d"], "The labels of `train` must be numbers"),
        (IMAGES, np.eye(10)[:4], 'use `compile\\(loss="categorical_crossentropy"\\)`'),
        (IMAGES, np.zeros((4, 3)), "must be integers, one per sample"),
        (IMAGES, [[0, 1, 2, 3]] * 2, "labels of `train` must be one for all exits"),
    ],
)
def test_data_is_checked_before_anything_learns(x, y, message):
    if isinstance(y, list) and isinstance(y[0], list):
        y = [np.array(each) for each in y]
    model = dense_net()
    before = model.get_weights()
    with pytest.raises(ValueError, match=message):
        ka.training.fit(model, (x, y), epochs=1)
    for a, b in zip(before, model.get_weights(), strict=True):
        np.testing.assert_array_equal(a, b)
    if "all exits" not in message:
        good = IMAGES, np.array([0, 1, 2, 3])
        with pytest.raises(ValueError, match=message.replace("train", "validation")):
            ka.training.fit(model, good, (x, y), epochs=1)


@pytest.mark.parametrize("rate", [float("nan"), float("inf"), -0.1])
def test_learning_rates_are_checked_before_anything_learns(data, rate):
    with pytest.raises(ValueError, match="`learning_rate` must be"):
        Recipe(learning_rate=rate)
    model = dense_net()
    model.compile(keras.optimizers.SGD(rate))
    with pytest.raises(ValueError, match="learning rate of the model's optimizer"):
        ka.training.fit(model, data, epochs=1)


def test_batches_are_checked_by_what_they_say(data):
    class Endless(keras.utils.PyDataset):
        def __getitem__(self, index):
            return data

    with pytest.raises(ValueError, match="`train` must have a known number of batches"):
        ka.training.fit(dense_net(), Endless(), epochs=1)
    single = tf.data.Dataset.from_tensor_slices(data)
    with pytest.raises(ValueError, match=r"Received: single samples; use `.batch"):
        ka.training.fit(dense_net(), single, epochs=1)
    one_hot = single.map(lambda x, y: (x, tf.one_hot(y, 10))).batch(4)
    with pytest.raises(ValueError, match="one-hot"):
        ka.training.fit(dense_net(), one_hot, epochs=1)


class Batches(keras.utils.PyDataset):
    def __init__(self, data):
        super().__init__()
        self.data = data

    def __len__(self):
        return 2

    def __getitem__(self, index):
        return tuple(each[16 * index : 16 * index + 16] for each in self.data)


def kind_of_validation(kind, data, digits):
    if kind == "generator":
        return ((data[0][k : k + 16], data[1][k : k + 16]) for k in (0, 16))
    if kind == "unknown size":
        return tf.data.Dataset.from_generator(
            lambda: zip(*(np.split(each, 2) for each in data), strict=True),
            output_signature=(tf.TensorSpec((None, 8, 8, 1)), tf.TensorSpec((None,), tf.int64)),
        )
    kinds = {"arrays": data, "dataset": ordered(data), "PyDataset": Batches(data), "Splits": digits}
    return kinds[kind]


@pytest.mark.slow
@pytest.mark.parametrize(
    "kind",
    [
        "Splits",
        *(
            pytest.param(kind, marks=pytest.mark.slow)
            for kind in ("generator", "arrays", "dataset", "PyDataset", "unknown size")
        ),
    ],
)
def test_validation_may_be_whatever_keras_takes_and_splits(data, digits, kind):
    class See(keras.callbacks.Callback):
        def on_epoch_end(self, epoch, logs=None):
            seen.append(logs["val_loss"])
            weights.append(self.model.get_weights())

    seen, weights, model = [], [], dense_net(1)
    how = {"regime": "mixed", "epochs": 2, "recipe": RECIPE, "callbacks": [See()], "verbose": 0}
    ka.training.fit(model, Batches(data), kind_of_validation(kind, data, digits), **how)
    held_out = digits.arrays("calibrate") if kind == "Splits" else data
    for value, at in zip(seen, weights, strict=True):
        model.set_weights(at)
        assert model.evaluate(*held_out, verbose=0)[0] == pytest.approx(value, rel=1e-4)


@pytest.mark.parametrize(
    ("regime", "recipe"),
    [
        ("joint", None),
        pytest.param("mixed", None, marks=pytest.mark.slow),
        ("mixed", RECIPE),
        pytest.param("imta", None, marks=pytest.mark.slow),
        pytest.param("disjoint", None, marks=pytest.mark.slow),
        pytest.param("gated", None, marks=pytest.mark.slow),
        pytest.param("stopping", None, marks=pytest.mark.slow),
    ],
)
@pytest.mark.filterwarnings("ignore:The stopping policy sends")
def test_what_the_user_compiled_counts_and_is_given_back(data, regime, recipe):
    seen = []

    class See(keras.callbacks.Callback):
        def on_train_begin(self, logs=None):
            seen.append((type(self.model.optimizer), self.model.exit_weights, self.model.loss[0]))

    model = NETWORKS.get(regime, dense_net)()
    optimizer = keras.optimizers.Adam(0.01)
    loss = keras.losses.CategoricalCrossentropy(from_logits=True, label_smoothing=0.1)
    metric = keras.metrics.TopKCategoricalAccuracy(k=2, name="top")
    weights = [0.5, *(model.num_exits - 1) * [2.0]]
    model.compile(optimizer, loss, [metric], exit_weights=weights, steps_per_execution=2)
    before = model.compiled_with()
    one_hot = data[0], np.eye(10)[data[1]]
    how = {"regime": regime, "recipe": recipe, "epochs": 4, "callbacks": [See()], "verbose": 0}
    fitted = ka.training.fit(model, one_hot, **how)
    assert weights in [row[1] for row in seen]
    assert all(row[2] is loss for row in seen)
    if recipe is None:
        after = model.compiled_with()
        assert {k for k in before if after[k] is not before[k]} <= {"exit_weights"}
        assert after["exit_weights"] == weights
        kinds = {keras.optimizers.Adam, keras.optimizers.MultiOptimizer}
        assert {row[0] for row in seen} <= kinds
        # its memory is that of the one phase there is
        assert (int(optimizer.iterations) > 0) == (regime == "joint")
    else:
        assert {row[0] for row in seen} == {keras.optimizers.SGD}
    assert "last_top" in fitted.evaluate(*one_hot, verbose=0, return_dict=True)


def test_weights_of_exits_given_here_win_and_compiles_count_otherwise(data, monkeypatch):
    model = dense_net(2)
    model.compile(exit_weights=[1, 2])
    for how, used in (
        ({}, [1.0, 2.0]),
        ({"recipe": RECIPE}, [1.0, 2.0]),
        ({"exit_weights": [3, 4]}, [3.0, 4.0]),
    ):
        plan = Plan(monkeypatch)
        model.compile(exit_weights=[1, 2])
        ka.training.fit(model, data, epochs=1, verbose=0, **how)
        assert [phase[2] for phase in plan.phases] == [used]


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


@pytest.mark.slow
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


class Residual(keras.layers.Layer):
    """A layer made of layers, which joins what they give with its input."""

    def __init__(self, **kwargs):
        super().__init__(**kwargs)
        self.inner = keras.layers.Dense(8)

    def build(self, shape):
        self.inner.build(shape)

    def call(self, x):
        return x + self.inner(x)


L = keras.layers
COMPOSITE = {
    "own": lambda x: Residual(name="joins")(L.Dense(8)(L.Flatten()(x))),
    "attention": lambda x: L.MultiHeadAttention(2, 4, name="joins")(*[L.Reshape((8, 8))(x)] * 2),
    "recurrent": lambda x: L.LSTM(8, name="joins")(L.Reshape((8, 8))(x)),
    "both ways": lambda x: L.Bidirectional(L.GRU(4), name="joins")(L.Reshape((8, 8))(x)),
    "network": lambda x: keras.Sequential([L.Flatten(), L.Dense(8), Residual(name="joins")])(x),
}


@pytest.mark.parametrize("kind", COMPOSITE)
def test_layers_made_of_layers_learn_in_mixed_precision(data, kind):
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 1))
    x = L.Flatten()(COMPOSITE[kind](image))
    model = ka.AdaptiveModel(image, [L.Dense(10)(x), L.Dense(10)(L.Dense(8)(x))])
    recipe = Recipe(learning_rate=0.02, batch_size=16, mixed_precision=True)
    part = tuple(array[:16] for array in data)
    seen = []

    class See(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            layers = {layer.name: layer.compute_dtype for layer in self.model._flatten_layers()}
            seen.append((layers["joins"], np.isfinite(logs["loss"])))

    ka.training.fit(model, part, epochs=1, recipe=recipe, callbacks=[See()], verbose=0)
    assert seen == [("bfloat16", True)]
    assert {layer.compute_dtype for layer in model._flatten_layers()} == {"float32"}


def test_gates_learn_in_mixed_precision(data):
    recipe = Recipe(learning_rate=0.02, batch_size=16, mixed_precision=True)
    part = tuple(array[:16] for array in data)
    model = gated_net()
    before = model.get_weights()
    ka.training.fit(model, part, regime="gated", epochs=4, recipe=recipe, verbose=0)
    assert not all((a == b).all() for a, b in zip(before, model.get_weights(), strict=True))
    assert {layer.compute_dtype for layer in model._flatten_layers()} == {"float32"}


def gated_net(exits=2):
    keras.utils.set_random_seed(0)
    return ka.build_resnet(
        (8, 8, 1), 10, depth=8, width=0.25, exits=exits, gates="both", head_channels=4
    )


@pytest.mark.slow
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
    model.weights[-1].trainable = False
    for gate in [x for x in model._flatten_layers() if hasattr(x, "forced")][:1]:
        gate.forced = False
    model.compile(keras.optimizers.Adam(), exit_weights=[1.0] * model.num_exits)
    before, seen = settings(model), []
    compiled = model.compiled_with()

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
        assert model.compiled_with() == compiled
        assert model.optimizer is compiled["optimizer"]
        assert "mixed_bfloat16" in {policy for _, _, policy, _ in seen[-1][0]}
        assert settings(model) == before


@pytest.mark.slow
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
    assert watch.changed(0) == {v.path for v in model.weights}


class Plan:
    """Takes the place of `fit`: notes how each phase is compiled and called."""

    def __init__(self, monkeypatch):
        self.phases, self.seeds, self.taught, self.gated = [], [], [], []
        plan = self

        def fit(self, *args, **how):
            first = getattr(self.optimizer, "optimizers", [self.optimizer])[0]
            rate = round(float(first.learning_rate), 8)
            plan.phases.append((how["epochs"], rate, self.exit_weights))
            plan.taught.append(self.distillation)
            plan.gated.append(getattr(self.gate_loss, "weight", None))
            plan.how = how

        monkeypatch.setattr(keras.Model, "fit", fit)
        monkeypatch.setattr(regimes, "_seed_generators", self.seeds.append)


def test_phases_have_the_lengths_rates_weights_and_seeds_of_the_regime(data, monkeypatch):
    gated, dense, policies = gated_net(), dense_net(2), net_with_policies()
    how = {"epochs": 20, "recipe": RECIPE, "exit_weights": [1, 3], "seed": 7, "verbose": 0}
    last, both, rate = [0.0, 1.0], [1.0, 3.0], RECIPE.learning_rate

    plan = Plan(monkeypatch)
    ka.training.fit(dense, data, **how)
    assert plan.phases == [(20, rate, both)]
    assert plan.seeds == [7]
    x, y = plan.how["x"][0]
    assert len(x) == len(y) == 16
    rows = [int(np.flatnonzero((data[0] == image).all((1, 2, 3)))[0]) for image in x]
    np.testing.assert_array_equal(y, data[1][rows])

    for regime in ("disjoint", "mixed"):
        plan = Plan(monkeypatch)
        ka.training.fit(dense, ordered(data), data, regime=regime, first_share=0.7, **how)
        assert plan.phases == [(14, rate, last), (6, rate, both)]
        assert plan.seeds == [7, 8]
        assert plan.how["validation_data"][0] is data[0]
        assert plan.how["validation_batch_size"] == 16

    plan = Plan(monkeypatch)
    distillation = ka.training.Distillation(temperature=3.0, weight=0.4)
    ka.training.fit(dense, data, regime="imta", distillation=distillation, **how)
    assert [phase[:2] for phase in plan.phases] == [(10, rate), (10, rate)]
    assert plan.taught[0] is None  # the first phase learns from the labels alone
    taught = plan.taught[1]
    assert (taught.temperature, taught.weight) == (3.0, 0.4)
    assert taught.teacher is dense

    plan = Plan(monkeypatch)
    ka.training.fit(dense, data, regime="imta", teacher="last", **{**how, "recipe": "cifar"})
    assert [phase[0] for phase in plan.phases] == [12, 8]  # 300 and 180 of 480
    assert plan.taught[1].teacher == "last"
    for recipe, lengths in (("cifar", [300, 180]), ("imagenet", [90, 90])):
        plan = Plan(monkeypatch)
        long = {**how, "recipe": recipe, "epochs": None}
        ka.training.fit(dense, data, regime="imta", **long)
        assert [phase[0] for phase in plan.phases] == lengths

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

    steps = {**how, "epochs": None}  # 32 images are two steps of 16
    for net, iterations, lengths in (
        (gated, (5, 1, 4, 4), [3, 1, 2, 2]),
        (gated, 40, [10, 2, 4, 4]),
        (gated, 3, [1, 1, 1, 1]),
    ):
        plan = Plan(monkeypatch)
        counting = dataclasses.replace(RECIPE, iterations=iterations, gate_weight=0.25)
        ka.training.fit(net, data, regime="gated", **{**steps, "recipe": counting})
        assert [phase[0] for phase in plan.phases] == lengths
        assert plan.gated == [None, 1.0, 0.25, 0.25]
    plan = Plan(monkeypatch)
    ka.training.fit(dense, data, **{**steps, "recipe": counting})
    assert [phase[0] for phase in plan.phases] == [2]

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


def test_iterations_are_of_every_phase_and_need_a_number_of_batches(data):
    with pytest.raises(ValueError, match="`iterations` of the recipe must be .*of 4 phases"):
        ka.training.fit(gated_net(), data, regime="gated", recipe=Recipe(iterations=(8, 1)))
    endless = tf.data.Dataset.from_tensors(data).repeat()
    with pytest.raises(ValueError, match="`train` must be of known size"):
        ka.training.fit(dense_net(), endless, recipe="resnet_cifar")
