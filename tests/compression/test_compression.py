"""Networks made smaller: what is zero, shared or rounded, and that nothing else changes."""

import gzip
import os
import subprocess
import sys

import keras
import numpy as np
import pytest
from shared import TINY

import keras_adaptive as ka
from anytime_tflite import AnytimeModel
from keras_adaptive import compression
from keras_adaptive.compression import _fine_tuning as fine_tuning
from keras_adaptive.compression import _keras2_copy as keras2
from keras_adaptive.compression._libraries import SWITCH, tfmot
from keras_adaptive.compression.sizes import weighted_layers
from keras_adaptive.layers._conv_unit import apply_layers, conv_unit

LEGACY = "tf_keras"


@pytest.fixture(scope="module")
def data(digits):
    x, y = digits.arrays("train")
    return x[:512], y[:512]


def small(exits=2):
    """A network of a few convolutions, quick to compile."""
    keras.utils.set_random_seed(0)
    x = image = keras.Input((8, 8, 1))
    outputs = []
    for k in range(exits):
        x = apply_layers(conv_unit(8, 3, name=f"unit_{k}"), x)
        head = ka.layers.EarlyExit(10, convolutions=(8,), name=f"exit_{k}")
        outputs.append(head(x))
    model = ka.AdaptiveModel(image, outputs)
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    return model


@pytest.fixture(scope="module")
def learned(data):
    model = small()
    model.fit(*data, epochs=20, batch_size=32, verbose=0)
    return model


@pytest.fixture
def copied(learned):
    copy = small()
    copy.set_weights(learned.get_weights())
    return copy


@pytest.fixture
def model():
    """A network that has learned nothing, and learns eagerly."""
    model = small()
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9), run_eagerly=True)
    return model


def accuracies(logits, y):
    return (np.stack(logits).argmax(-1) == y).mean(axis=1)


def weights_are(model, before):
    return all(np.array_equal(a, b) for a, b in zip(model.get_weights(), before, strict=True))


def constant(sparsity, begin=1):
    return tfmot().sparsity.keras.ConstantSparsity(sparsity, begin, frequency=1)


def prune_once(model, **kwargs):
    """Prunes without learning; returns each kernel before and after, as matrices."""
    model.compile(keras.optimizers.SGD(0.0), run_eagerly=True)
    pruning = compression.MagnitudePruning(constant(kwargs.pop("sparsity")), **kwargs)
    pairs = [
        (x, np.array(x.kernel).reshape(-1, x.kernel.shape[-1])) for x in weighted_layers(model)
    ]
    model.fit(np.ones((8, 8, 8, 1)), np.zeros(8, int), batch_size=8, callbacks=[pruning], verbose=0)
    return [(before, np.array(x.kernel).reshape(before.shape)) for x, before in pairs]


# ---- pruning


@pytest.mark.parametrize(
    "sparsity", [*(pytest.param(s, marks=pytest.mark.slow) for s in (0.0, 0.9)), 0.3]
)
def test_pruning_keeps_the_largest_entries(model, sparsity):
    for before, after in prune_once(model, sparsity=sparsity):
        kept = max(int(np.round(np.float32(before.size) * np.float32(1 - sparsity))), 1)
        order = np.argsort(-np.abs(before), axis=None)
        expected = np.zeros(before.size, "float32")
        expected[order[:kept]] = before.ravel()[order[:kept]]
        np.testing.assert_array_equal(after, expected.reshape(before.shape))


@pytest.mark.parametrize(("pooling", "pool"), [("AVG", np.mean), ("MAX", np.max)])
def test_pruning_in_blocks_keeps_the_largest_blocks(model, pooling, pool):
    found = prune_once(model, sparsity=0.5, block_size=(2, 4), block_pooling=pooling)
    whole = [(b, a) for b, a in found if b.shape[0] % 2 == 0 and b.shape[1] % 4 == 0]
    assert len(whole) == 3
    for before, after in whole:
        rows, columns = before.shape[0] // 2, before.shape[1] // 4
        pooled = pool(np.abs(before).reshape(rows, 2, columns, 4), axis=(1, 3))
        kept = pooled >= np.sort(pooled, axis=None)[::-1][round(pooled.size / 2) - 1]
        np.testing.assert_array_equal(after, before * np.kron(kept, np.ones((2, 4))))


@pytest.mark.parametrize(
    ("steps", "epochs", "end", "every"),
    [(10, 4, 20, 1), (1000, 2, 991, 10), (2, 1, 1, 1), (1, 1, 1, 1)],
)
def test_a_number_rises_in_the_first_half_of_the_training(steps, epochs, end, every):
    pruning = compression.MagnitudePruning(0.5)
    pruning.set_params({"steps": steps, "epochs": epochs})
    schedule = pruning._schedule()
    assert schedule.begin_step == 1
    due, shares = np.array([[float(z) for z in schedule(k)] for k in range(1, end + 1)]).T
    np.testing.assert_array_equal(due, np.arange(end) % every == 0)
    assert shares[-1] == pytest.approx(0.5)
    if end > 1:
        assert shares[0] == 0
        assert shares[end // 2] > 0.25  # fast at first
        assert (np.diff(shares) >= 0).all()


def test_every_layer_with_a_kernel_is_found_once():
    arguments = {"depth": 8, "width": 0.25, "exits": 2, "head_channels": 4}
    gated = ka.build_resnet((8, 8, 1), 10, gates="channel", **arguments)
    found = weighted_layers(gated)
    assert len(found) == len({id(layer) for layer in found})
    kernels = {id(v) for v in gated.weights if v.name == "kernel"}
    assert {id(layer.kernel) for layer in found} == kernels


def test_a_network_without_kernels_has_no_zeros():
    image = keras.Input((2,))
    assert compression.sparsity(keras.Model(image, keras.layers.ReLU()(image))) == 0


@pytest.mark.slow
def test_a_number_rises_to_itself_and_the_network_recovers(copied, data, learned):
    model = copied
    pruning = compression.MagnitudePruning(0.5)
    shares = []

    class Watch(keras.callbacks.Callback):
        def on_train_batch_end(self, batch, logs=None):
            shares.append(compression.sparsity(self.model))

    model.compile(keras.optimizers.SGD(0.02, momentum=0.9))
    model.fit(*data, epochs=10, batch_size=32, callbacks=[pruning, Watch()], verbose=0)
    assert shares[0] < 0.1
    assert (np.diff(shares) > -0.01).all()
    for kernel in pruning.kernels():
        assert abs((kernel == 0).mean() - 0.5) <= 1 / kernel.size
    half = len(shares) // 2
    assert shares[half] == shares[-1]
    before = accuracies(learned.predict(data[0], verbose=0), data[1])
    assert (accuracies(model.predict(data[0], verbose=0), data[1]) > before - 0.05).all()


@pytest.mark.slow
def test_zeros_stay_where_a_training_goes_on_behind_the_schedule(model, data):
    schedule = tfmot().sparsity.keras.PolynomialDecay(0.0, 0.6, 1, 5, frequency=1)
    data = [part[:96] for part in data]
    for _ in range(2):  # the second `fit` begins at step 7
        pruning = compression.MagnitudePruning(schedule)
        model.fit(*data, batch_size=16, callbacks=[pruning], verbose=0)
        assert compression.sparsity(model) == pytest.approx(0.6, abs=0.01)


def dense(**how):
    keras.utils.set_random_seed(0)
    model = keras.Sequential([keras.Input((8,)), keras.layers.Dense(20), keras.layers.Dense(10)])
    accumulation, scaled = how.pop("accumulation", None), how.pop("scaled", False)
    optimizer = keras.optimizers.SGD(0.01, gradient_accumulation_steps=accumulation)
    if scaled:
        optimizer = keras.optimizers.LossScaleOptimizer(optimizer, initial_scale=2.0)
    model.compile(optimizer, "mse", **how)
    return model


@pytest.mark.parametrize("together", [1, 2, 3, 4])
def test_prunes_when_it_is_due_also_between_calls(together):
    """With `steps_per_execution` Keras calls back after several steps."""
    schedule = tfmot().sparsity.keras.PolynomialDecay(0.0, 0.5, 1, 9, frequency=2)
    pruning = compression.MagnitudePruning(schedule)
    x, y = np.ones((96, 8)), np.ones((96, 10))
    model = dense(steps_per_execution=together)
    model.fit(x, y, batch_size=8, callbacks=[pruning], verbose=0)
    assert [(kernel == 0).mean() for kernel in pruning.kernels()] == [0.5, 0.5]


@pytest.mark.parametrize(
    ("accumulation", "scaled"), [(None, True), (2, False), (4, False), (4, True)]
)
def test_a_number_is_reached_where_a_step_takes_several_batches(accumulation, scaled):
    pruning = compression.MagnitudePruning(0.5)
    x, y = np.ones((64, 8)), np.ones((64, 10))
    model = dense(accumulation=accumulation, scaled=scaled)
    model.fit(x, y, batch_size=8, epochs=2, callbacks=[pruning], verbose=0)
    assert compression.sparsity(model) == 0.5


@pytest.mark.parametrize("layers", ["dense", ["dense"], [None], keras.layers.Dense(2)])
def test_pruned_layers_must_be_layers(layers):
    with pytest.raises(TypeError, match="`layers` must be a list of Keras layers"):
        compression.MagnitudePruning(0.5, layers=layers)


@pytest.mark.parametrize("layer", [keras.layers.ReLU(name="a"), keras.layers.Dense(2, name="a")])
def test_pruned_layers_must_have_kernels(layer):
    pruning = compression.MagnitudePruning(0.5, layers=[layer])
    with pytest.raises(ValueError, match=r"must be built layers that have a kernel. .*\['a'\]"):
        dense().fit(np.ones((8, 8)), np.ones((8, 10)), callbacks=[pruning], verbose=0)


def test_prunes_the_layers_it_is_given(model, data):
    chosen = model.get_layer("unit_1_conv")
    pruning = compression.MagnitudePruning(0.5, layers=[chosen])
    model.fit(*(part[:64] for part in data), callbacks=[pruning], verbose=0)
    for layer in weighted_layers(model):
        assert np.mean(np.array(layer.kernel) == 0) == (0.5 if layer is chosen else 0)


@pytest.mark.slow
def test_prunes_what_is_inside_gated_blocks():
    arguments = {"depth": 14, "width": 0.25, "exits": 2, "head_channels": 4}
    gated = ka.build_resnet((8, 8, 1), 10, gates="both", **arguments)
    found = prune_once(gated, sparsity=0.5)
    assert len(found) > 12
    for before, after in found:
        assert np.mean(after == 0) == pytest.approx(0.5, abs=0.5 / before.size + 1e-9)


@pytest.mark.slow
def test_prunes_through_a_regime(data):
    pruning = compression.MagnitudePruning(0.5)
    recipe = ka.training.Recipe(learning_rate=0.02, batch_size=64, schedule="cosine")
    ka.training.fit(
        small(), data, regime="mixed", epochs=2, recipe=recipe, callbacks=[pruning], verbose=0
    )
    assert all((kernel == 0).mean() == 0.5 for kernel in pruning.kernels())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"sparsity": 1.0}, "sparsity=1.0"),
        ({"sparsity": -0.1}, "sparsity=-0.1"),
        ({"sparsity": True}, "sparsity=True"),
        ({"sparsity": np.bool_(True)}, "sparsity=np.True_"),
        ({"sparsity": "0.5"}, "sparsity='0.5'"),
        ({"sparsity": 0.5, "block_size": (1, 0)}, r"block_size=\(1, 0\)"),
        ({"sparsity": 0.5, "block_size": (4,)}, r"block_size=\(4,\)"),
        ({"sparsity": 0.5, "block_size": 4}, "block_size=4"),
        ({"sparsity": 0.5, "block_size": (True, 1)}, r"block_size=\(True, 1\)"),
        ({"sparsity": 0.5, "block_pooling": "SUM"}, "block_pooling=SUM"),
    ],
)
def test_pruning_rejects_what_is_impossible(arguments, message):
    with pytest.raises(ValueError, match=f"Received: {message}"):
        compression.MagnitudePruning(**arguments)


def test_numpy_numbers_are_numbers():
    pruning = compression.MagnitudePruning(np.float32(0.5), np.array([2, 4]))
    assert (type(pruning.sparsity), pruning.block_size) == (float, (2, 4))


def test_a_number_needs_the_number_of_steps(model, data):
    import tensorflow as tf

    endless = tf.data.Dataset.from_tensor_slices(data).batch(64).filter(lambda x, y: True)
    with pytest.raises(ValueError, match="must be a PruningSchedule where"):
        model.fit(endless, shuffle=False, callbacks=[compression.MagnitudePruning(0.5)], verbose=0)


def test_there_must_be_something_to_prune():
    image = keras.Input((2,))
    plain = keras.Model(image, keras.layers.ReLU()(image))
    plain.compile(loss="mse")
    with pytest.raises(ValueError, match="which has none"):
        plain.fit(np.ones((2, 2)), np.ones((2, 2)), callbacks=[compression.MagnitudePruning(0.5)])


# ---- the copy in Keras 2

NETWORKS = {
    "msdnet": lambda: ka.build_msdnet(**TINY, blocks=2, gradient_equilibrium=True),
    "resnet": lambda: ka.build_resnet((8, 8, 1), depth=8, exits=2, width=0.5),
    "resnet-pre": lambda: ka.build_resnet((8, 8, 1), depth=8, exits=2, width=0.5, style="pre"),
    "resnet-imagenet": lambda: ka.build_resnet((64, 64, 3), depth=10, width=0.1, stem="imagenet"),
    "densenet": lambda: ka.build_densenet((8, 8, 1), depth=10, growth_rate=2, exits=2),
}


def every_kind():
    """Every layer that can be copied to Keras 2, with arguments other than the defaults."""
    layers = keras.layers
    image = keras.Input((12, 12, 2))
    x = layers.ZeroPadding2D(((1, 0), (2, 1)))(image)
    x = layers.Conv2D(8, (3, 2), strides=(2, 1), padding="same", activation="tanh")(x)
    x = layers.BatchNormalization(epsilon=0.1, scale=False)(x)
    y = layers.Conv2D(8, 3, dilation_rate=2, groups=2, padding="same", use_bias=False)(x)
    y = layers.ReLU(max_value=2.0, negative_slope=0.1, threshold=0.2)(y)
    x = layers.Concatenate(axis=2)([layers.Add()([x, y]), y])
    x = layers.DepthwiseConv2D(3, strides=2, depth_multiplier=2, activation="relu")(x)
    first = ka.layers.EarlyExit(5, (4,), name="exit_0")(ka.layers.GradientScale(0.5)(x))
    x = layers.AveragePooling2D((2, 1), strides=1, padding="same")(x)
    x = layers.MaxPooling2D(2, strides=1)(layers.Dropout(0.5)(x))
    x = layers.Activation("sigmoid")(layers.GlobalAveragePooling2D(keepdims=True)(x))
    x = layers.Dense(6, activation="relu", use_bias=False)(layers.Flatten()(x))
    return ka.AdaptiveModel(image, [first, ka.layers.EarlyExit(5, name="exit_1")(x)])


def test_every_kind_of_layer_is_copied():
    kinds = {type(layer).__name__ for layer in every_kind()._flatten_layers()}
    assert set(keras2.LAYERS) <= kinds


@pytest.mark.parametrize(
    "make",
    [every_kind, *(pytest.param(n, id=k, marks=pytest.mark.slow) for k, n in NETWORKS.items())],
)
def test_the_copy_is_the_same_network(make, rng):
    model = make()
    for layer in model._flatten_layers():
        if isinstance(layer, keras.layers.BatchNormalization):  # nothing at its default
            layer.set_weights([rng.uniform(0.5, 1.5, w.shape) for w in layer.weights])
    copy = compression.to_tf_keras(model)
    x = rng.normal(size=(5, *model.inputs[0].shape[1:])).astype("float32")
    assert type(copy.model).__module__.startswith(LEGACY)
    expected = [np.asarray(z) for z in model(x, training=False)]
    found = [np.asarray(z) for z in keras.tree.flatten(copy.model(x, training=False))]
    for a, b in zip(expected, found, strict=True):
        np.testing.assert_allclose(b, a, atol=1e-5 * max(1, np.abs(a).max()))


def test_every_weight_comes_back_to_its_place(model, rng):
    copy = compression.to_tf_keras(model)
    weights = {n: [rng.normal(size=w.shape) for w in x.weights] for n, x in copy.layers.items()}
    copy.copy_weights(weights)
    for name, layer in copy.layers.items():
        for a, b in zip(layer.get_weights(), weights[name], strict=True):
            np.testing.assert_array_equal(a, b.astype("float32"))
    assert sum(w.size for x in weights.values() for w in x) == model.count_params()


@pytest.mark.parametrize("damage", ["missing", "shape", "nan"])
def test_weights_that_do_not_fit_change_nothing(model, damage):
    copy = compression.to_tf_keras(model)
    before = model.get_weights()
    weights = {n: [np.zeros(w.shape) for w in x.weights] for n, x in copy.layers.items()}
    if damage == "missing":
        del weights["exit_1_logits"]
    elif damage == "shape":
        weights["exit_1_logits"][0] = np.zeros((2, 2))
    else:
        weights["exit_1_logits"][0][:] = np.nan
    with pytest.raises(RuntimeError, match="Layer 'exit_1_logits' must come back"):
        copy.copy_weights(weights)
    assert weights_are(model, before)


def test_a_copy_that_differs_is_refused(model, monkeypatch):
    arguments = keras2.LAYERS["BatchNormalization"]
    kept = tuple(name for name in arguments if name != "epsilon")
    monkeypatch.setitem(keras2.LAYERS, "BatchNormalization", kept)
    with pytest.raises(RuntimeError, match="Output 0 .* must equal that in Keras 3"):
        compression.to_tf_keras(model)


class Twice(keras.layers.Layer):
    def call(self, x):
        return 2 * x


def unsupported(kind):
    image = keras.Input((8, 8, 1))
    x = keras.layers.Conv2D(4, 3, name="convolution")(image)
    if kind == "own layer":
        x = Twice(name="culprit")(x)
    if kind == "operation":
        x = keras.ops.tanh(x)
    if kind == "activation":
        x = keras.layers.Activation(keras.activations.sparse_sigmoid, name="culprit")(x)
    if kind == "regularizer":
        x = keras.layers.Conv2D(4, 3, kernel_regularizer="l2", name="culprit")(x)
    return ka.AdaptiveModel(image, [ka.layers.EarlyExit(10, name="exit_0")(x)])


@pytest.mark.parametrize(
    ("make", "name"),
    [
        (lambda: unsupported("own layer"), "'culprit' with type Twice"),
        (lambda: unsupported("operation"), "'tanh.*' with type Tanh"),
        (lambda: unsupported("regularizer"), "'culprit' with kernel_regularizer"),
        (lambda: ka.build_msdnet(**TINY, blocks=2, collaboration="dense"), "'exit_1' with collab"),
        (lambda: ka.build_resnet((8, 8, 1), depth=8, gates="layer"), "type (GatedBlock|SkipGate)"),
    ],
)
@pytest.mark.parametrize(
    "compress",
    [
        compression.cluster,
        pytest.param(compression.quantization_aware, marks=pytest.mark.slow),
    ],
)
def test_a_layer_that_keras_2_lacks_is_named(make, name, compress, data):
    with pytest.raises(ValueError, match=f"Received: layer .*{name}"):
        compress(make(), train=data)


def test_only_adaptive_models_are_compressed(data):
    other = keras.Sequential([keras.Input((2,)), keras.layers.Dense(2)])
    with pytest.raises(TypeError, match="must be an AdaptiveModel"):
        compression.cluster(other)
    with pytest.raises(TypeError, match="must be an AdaptiveModel"):
        compression.quantization_aware(other, data)


# ---- clusters, and training for int8


@pytest.fixture(scope="module")
def clustered(learned, data):
    model = small()
    model.set_weights(learned.get_weights())
    assert compression.cluster(model, 16, train=data, epochs=6, verbose=0) is model
    return model


@pytest.fixture(scope="module")
def aware(learned, data):
    model = small()
    model.set_weights(learned.get_weights())
    assert compression.quantization_aware(model, data, epochs=4, verbose=0) is model
    return model


@pytest.mark.slow
def test_every_kernel_has_so_many_values(clustered, learned):
    for layer, before in zip(weighted_layers(clustered), weighted_layers(learned), strict=True):
        assert len(np.unique(layer.kernel)) <= 16 < len(np.unique(before.kernel))


def test_clustering_alone_keeps_each_entry_near(model):
    same = small()
    same.set_weights(model.get_weights())
    assert compression.cluster(model, np.int64(32)) is model
    for layer, before in zip(weighted_layers(model), weighted_layers(same), strict=True):
        assert len(np.unique(layer.kernel)) <= 32 < len(np.unique(before.kernel))
        spread = np.std(before.kernel)
        assert np.abs(np.array(layer.kernel) - np.array(before.kernel)).mean() < 0.1 * spread


@pytest.mark.slow
def test_fine_tuning_teaches_every_exit_by_its_weight(model, monkeypatch):
    """Training for int8, with what Keras 2 does looked at and nothing learned."""
    import tf_keras

    seen = {}

    def fit(self, batches, epochs, verbose):
        seen.update(weights=self.loss, batches=list(batches.as_numpy_iterator()), epochs=epochs)
        seen["rate"] = self.optimizer.get_config()["learning_rate"]

    def compiled(self, optimizer, loss, loss_weights):
        self.optimizer, seen["weighted"] = optimizer, loss_weights
        self.loss = loss

    monkeypatch.setattr(tf_keras.Model, "fit", fit)
    monkeypatch.setattr(tf_keras.Model, "compile", compiled)
    model.compile(exit_weights=[0.5, 2.0])
    before = model.get_weights()
    x, y = np.ones((20, 8, 8, 1), "float32"), np.arange(20) % 10
    kwargs = {"epochs": 2, "batch_size": 8, "learning_rate": 0.4, "verbose": 0}
    assert compression.quantization_aware(model, (x, y), **kwargs) is model
    assert seen["weighted"] == [0.5, 2.0]
    assert [len(batch) for _, (batch, _) in seen["batches"]] == [8, 8, 4]
    assert all(np.array_equal(a, b) for _, (a, b) in seen["batches"])  # one label per exit
    assert seen["epochs"] == 2
    assert seen["rate"]["class_name"] == "CosineDecay"
    assert seen["rate"]["config"]["initial_learning_rate"] == 0.4
    assert seen["rate"]["config"]["decay_steps"] == 6  # three batches, two epochs
    assert weights_are(model, before)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["clustered", "aware"])
def test_is_as_accurate_as_before(way, request, learned, test_images):
    x, y = test_images
    model = request.getfixturevalue(way)
    before = accuracies(learned.predict(x, verbose=0), y)
    assert (accuracies(model.predict(x, verbose=0), y) > before - 0.05).all()
    assert not weights_are(model, learned.get_weights())


@pytest.mark.parametrize("clusters", [1, 2.0, True])
def test_rejects_impossible_clusters(model, clusters):
    with pytest.raises(ValueError, match=f"Received: clusters={clusters}"):
        compression.cluster(model, clusters)


@pytest.mark.parametrize("epochs", [0, 1.5, True])
def test_rejects_impossible_epochs(model, data, epochs):
    before = model.get_weights()
    with pytest.raises(ValueError, match=f"Received: epochs={epochs}"):
        compression.cluster(model, train=data, epochs=epochs)
    assert weights_are(model, before)


@pytest.mark.parametrize("kind", ["arrays", "dataset", "splits"])
def test_takes_the_data_that_training_takes(kind, model, digits):
    train = digits.arrays("train")
    given = {"arrays": train, "dataset": digits.batches("train", 50), "splits": digits}[kind]
    batches = list(fine_tuning._batches(model, given, 50).as_numpy_iterator())
    assert len(batches[0][1]) == 50
    labels = np.concatenate([y for _, y in batches])
    np.testing.assert_array_equal(np.sort(labels), np.sort(train[1]))


@pytest.mark.parametrize("form", ["integers", "column", "floats", "one-hot"])
def test_takes_the_labels_that_training_takes(form, model, data):
    x, y = data
    forms = {"integers": y, "column": y[:, None], "floats": y.astype("float32")}
    given = forms.get(form, np.eye(10)[y])
    found = [y for _, y in fine_tuning._batches(model, [x, given], 50).as_numpy_iterator()]
    np.testing.assert_array_equal(np.sort(np.concatenate(found)), np.sort(y))


@pytest.mark.parametrize("compress", [compression.cluster, compression.quantization_aware])
@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda x, y: {"train": x}, "`train` must be a tuple"),
        (lambda x, y: {"train": (x, y, y)}, "`train` must be a tuple"),
        (lambda x, y: {"train": (x, y[:5])}, r"`labels` must be integers of shape \(512,\)"),
        (lambda x, y: {"train": (x, y + 5)}, "below the number of classes, 10"),
        (lambda x, y: {"train": (x * np.nan, y)}, "NaN or infinity in `train`"),
        (lambda x, y: {"train": (x[:, :4], y)}, "`train` must be of shape"),
        (lambda x, y: {"train": (x[:0], y[:0])}, "`train` must hold at least one sample"),
        (lambda x, y: {"learning_rate": -1}, "`learning_rate` must be positive"),
        (lambda x, y: {"learning_rate": "fast"}, "`learning_rate` must be a finite number"),
        (lambda x, y: {"batch_size": 0}, "`batch_size` must be an integer of at least 1"),
    ],
)
def test_what_cannot_be_trained_on_is_refused_before_work(
    compress, change, message, model, data, monkeypatch
):
    for module in ("clustering", "quantization"):
        name = f"keras_adaptive.compression.{module}.to_tf_keras"
        monkeypatch.setattr(name, lambda model: pytest.fail("work was begun"))
    with pytest.raises((TypeError, ValueError), match=message):
        compress(model, **{"train": data, **change(*data)})


def test_there_are_no_more_clusters_than_entries(model):
    with pytest.raises(ValueError, match="must be at most the entries of the smallest kernel, 72"):
        compression.cluster(model, clusters=73)


def test_the_size_of_the_data_must_be_known(model, data):
    import tensorflow as tf

    endless = tf.data.Dataset.from_tensor_slices(data).batch(64).filter(lambda x, y: True)
    with pytest.raises(ValueError, match="Received: a dataset of unknown size"):
        compression.cluster(model, train=endless)


def test_training_for_int8_needs_data(model):
    with pytest.raises(ValueError, match="Received: train=None"):
        compression.quantization_aware(model, None)


def file_logits(path, images):
    device, rows = AnytimeModel(path), []
    for image in images:
        device._backend.start(device._prepare(image))
        rows.append([device._backend.run(i) for i in range(len(device.exits))])
    return np.swapaxes(rows, 0, 1)


@pytest.mark.slow
@pytest.mark.parametrize("way", ["pruned", "clustered", "aware"])
def test_calibrates_and_exports_like_any_other(way, request, learned, digits, tmp_path):
    x, y = digits.arrays("calibrate")
    if way == "pruned":
        model = small()
        model.set_weights(learned.get_weights())
        prune_once(model, sparsity=0.7)
    else:
        model = request.getfixturevalue(way)
    costs = model.exit_costs()
    policy = model.calibrate(x, y, budget=costs.mean(), verbose=0)
    paths = {}
    for kind in (None, "int8"):
        paths[kind] = tmp_path / f"{kind}.tflite"
        ka.export_tflite(model, paths[kind], policy, quantize=kind, calibration_data=(x, y))
    exits = policy.used_exits
    expected = accuracies(model.predict(x, verbose=0), y)[exits]
    assert (accuracies(file_logits(paths["int8"], x), y) > expected - 0.03).all()
    dense = tmp_path / "dense.tflite"
    ka.export_tflite(learned, dense, policy)
    ratio = compression.gzipped_size(paths[None]) / compression.gzipped_size(dense)
    bound = {"pruned": 0.8, "clustered": 0.8, "aware": 1.05}[way]
    assert ratio < bound


def test_gzipped_size_is_that_of_a_gzip_file(tmp_path):
    path = tmp_path / "zeros"
    path.write_bytes(bytes(100_000))
    size = compression.gzipped_size(path)
    assert size < 300
    assert size == len(gzip.compress(bytes(100_000), mtime=0))
    with pytest.raises(ValueError, match="`path` must be a file .*none, which does not exist"):
        compression.gzipped_size(tmp_path / "none")
    with pytest.raises(ValueError, match="`path` must be a file that can be read. Received: path="):
        compression.gzipped_size(tmp_path)
    with pytest.raises(TypeError, match="`path` must be a string or a path. Received: path=5"):
        compression.gzipped_size(5)


# ---- what importing does


def run(program, **variables):
    environment = {k: v for k, v in os.environ.items() if k != SWITCH}
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env={**environment, **variables},
    )
    return done.stdout.split() if done.returncode == 0 else [done.stderr]


TELL = f"""
import os, sys, tensorflow as tf
print(tf.keras.Model.__module__.split(".")[0], os.environ.get({SWITCH!r}))
"""


def test_importing_leaves_the_process_as_it_was(monkeypatch):
    import tensorflow as tf

    for before in (None, "0"):
        monkeypatch.delenv(SWITCH, raising=False)
        if before is not None:
            monkeypatch.setenv(SWITCH, before)
        assert tfmot().__name__ == "tensorflow_model_optimization"
        assert os.environ.get(SWITCH) == before
        assert tf.keras.Model.__module__.startswith("keras.")
    monkeypatch.setattr(keras.backend, "backend", lambda: "jax")
    with pytest.raises(ValueError, match="backend must be tensorflow.*Received: backend jax"):
        tfmot()


@pytest.mark.slow
@pytest.mark.subprocess
def test_the_process_stays_with_keras_3_and_loads_only_what_is_used():
    program = f"""
import sys, tensorflow
from keras_adaptive.compression._libraries import tfmot
optional = {{"tensorflow_model_optimization", "tf_keras"}}
print(len(optional & {{name.split(".")[0] for name in sys.modules}}))
tfmot()
print(len(optional & {{name.split(".")[0] for name in sys.modules}}))
{TELL}"""
    assert run(program) == ["0", "2", "keras", "None"]


@pytest.mark.slow
@pytest.mark.subprocess
def test_that_the_process_would_change_otherwise():
    program = f"import tensorflow_model_optimization\n{TELL}"
    assert run(program) == ["tf_keras", "1"]


@pytest.mark.slow
@pytest.mark.subprocess
def test_other_backends_are_told():
    program = (
        "from keras_adaptive.compression._libraries import tfmot\n"
        "try: tfmot()\n"
        "except ValueError as error: print('jax' in str(error))"
    )
    assert run(program, KERAS_BACKEND="jax") == ["True"]
