import keras
import numpy as np
import pytest
import tensorflow as tf
from eager import eagerly

import keras_adaptive as ka

eagerly = pytest.fixture(autouse=True)(eagerly)


def two_exits():
    x = keras.Input((4,))
    first = keras.layers.Dense(3, name="exit_0")(x)
    last = keras.layers.Dense(3, name="exit_1")(keras.layers.Dense(5, activation="tanh")(x))
    return ka.AdaptiveModel(x, [first, last])


@pytest.fixture
def data(rng):
    return rng.normal(size=(12, 4)).astype("float32"), rng.integers(0, 3, 12)


def cross_entropy(logits, labels):
    probabilities = ka.policy.softmax(logits)
    return -np.log(probabilities[np.arange(len(labels)), labels])


@pytest.mark.parametrize("weights", [None, [1.0, 0.0], (0.25, 2.0)])
def test_loss_is_the_weighted_sum_over_the_exits(data, weights):
    x, y = data
    model = two_exits()
    model.compile("sgd", exit_weights=weights)
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    logits = model.predict(x, verbose=0)
    expected = [cross_entropy(z, y).mean() for z in logits]
    assert found["loss"] == pytest.approx(np.dot(weights or [1, 1], expected), rel=1e-5)
    accuracy = [(z.argmax(1) == y).mean() for z in logits]
    assert found["first_accuracy"] == pytest.approx(accuracy[0])
    assert found["mean_accuracy"] == pytest.approx(np.mean(accuracy))
    assert found["last_accuracy"] == pytest.approx(accuracy[1])


@pytest.mark.parametrize(
    "loss",
    [
        "sparse_categorical_crossentropy",
        "SparseCategoricalCrossentropy",
        keras.losses.SparseCategoricalCrossentropy(from_logits=True),
    ],
)
def test_every_way_to_name_the_loss_takes_logits(data, loss):
    x, y = data
    model = two_exits()
    model.compile("sgd", loss=loss)
    expected = sum(cross_entropy(z, y).mean() for z in model.predict(x, verbose=0))
    assert model.evaluate(x, y, verbose=0)[0] == pytest.approx(expected, rel=1e-5)


def test_other_losses_are_taken_as_they_are(data):
    x, y = data
    model = two_exits()
    model.compile("sgd", loss="mse")
    one_hot = np.eye(3)[y]
    expected = sum(((z - one_hot) ** 2).mean() for z in model.predict(x, verbose=0))
    assert model.evaluate(x, one_hot, verbose=0)[0] == pytest.approx(expected, rel=1e-5)


def test_sample_weights_count_at_every_exit(data):
    x, y = data
    model = two_exits()
    model.compile("sgd")
    weights = np.linspace(0, 1, len(y))
    found = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)["loss"]
    expected = sum((weights * cross_entropy(z, y)).mean() for z in model.predict(x, verbose=0))
    assert found == pytest.approx(expected, rel=1e-5)


def test_metrics_given_as_objects_do_not_share_their_counts(data):
    model = two_exits()
    metric = keras.metrics.SparseTopKCategoricalAccuracy(k=1, name="top")
    model.compile("sgd", metrics=[metric])
    found = model.evaluate(*data, verbose=0, return_dict=True)
    x, y = data
    accuracy = [(z.argmax(1) == y).mean() for z in model.predict(x, verbose=0)]
    assert [found["first_top"], found["last_top"]] == pytest.approx(accuracy)


@pytest.mark.parametrize(
    "metric",
    [
        "sparse_categorical_crossentropy",
        "SparseCategoricalCrossentropy",
        keras.metrics.SparseCategoricalCrossentropy(name="ce"),
        keras.metrics.SparseCategoricalCrossentropy(from_logits=True),
        keras.metrics.SparseCategoricalCrossentropy,
        keras.losses.sparse_categorical_crossentropy,
    ],
)
def test_cross_entropies_as_metrics_take_logits(data, metric, tmp_path):
    x, y = data
    model = two_exits()
    model.compile("sgd", metrics=["acc"], weighted_metrics=[metric])
    name = getattr(metric, "name", metric if isinstance(metric, str) else None)
    name = name or "sparse_categorical_crossentropy"
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    expected = [cross_entropy(z, y).mean() for z in model.predict(x, verbose=0)]
    assert [found[f"first_{name}"], found[name]] == pytest.approx(expected, rel=1e-5)
    assert "last_acc" in found
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.evaluate(x, y, verbose=0, return_dict=True) == pytest.approx(found, rel=1e-5)


def test_metrics_that_know_how_to_read_logits_are_taken(data):
    class Auc(keras.metrics.AUC):
        def update_state(self, y_true, y_pred, sample_weight=None):
            super().update_state(y_true, keras.ops.softmax(y_pred), sample_weight)

    metrics = [
        Auc(name="a"),
        keras.metrics.Recall(thresholds=0.0),
        keras.metrics.Precision(top_k=1),
        keras.metrics.BinaryAccuracy(threshold=0.0),
    ]
    model = two_exits()
    model.compile(
        "sgd", "categorical_crossentropy", [*metrics, keras.metrics.AUC(from_logits=True)]
    )
    assert model.evaluate(data[0], np.eye(3)[data[1]], verbose=0, return_dict=True)["a"] > 0


def test_a_file_of_a_loss_that_is_refused_now_still_loads(tmp_path, monkeypatch):
    from keras_adaptive.training import _on_logits

    model = two_exits()
    with monkeypatch.context() as before:
        before.setattr(_on_logits, "OF_PROBABILITIES", ())
        model.compile("adam", loss="kl_divergence")
        model.save(tmp_path / "model.keras")
    with pytest.warns(UserWarning, match="usual loss and metrics: `loss` must take logits"):
        again = keras.saving.load_model(tmp_path / "model.keras")
    assert again.compiled_with()["loss"] == "sparse_categorical_crossentropy"
    assert again.optimizer.name == "adam"
    np.testing.assert_array_equal(again.get_weights()[0], model.get_weights()[0])


def test_one_exit_is_first_mean_and_last(data):
    x = keras.Input((4,))
    model = ka.AdaptiveModel(x, [keras.layers.Dense(3, name="exit_0")(x)])
    model.compile("sgd")
    found = model.evaluate(*data, verbose=0, return_dict=True)
    accuracy = (np.array(model(data[0])[0]).argmax(1) == data[1]).mean()
    for name in ("first_accuracy", "mean_accuracy", "last_accuracy"):
        assert found[name] == pytest.approx(accuracy)
    assert {name: [float(v) for v in values] for name, values in model.exit_metrics().items()} == {
        "accuracy": [pytest.approx(accuracy)]
    }


def test_labels_may_be_given_for_each_exit(data):
    x, y = data
    model = two_exits()
    model.compile("sgd")
    expected = model.evaluate(x, y, verbose=0)
    other = (y + 1) % 3
    first, last = (cross_entropy(z, y).mean() for z in model.predict(x, verbose=0))
    of_other = cross_entropy(model.predict(x, verbose=0)[1], other).mean()
    assert model.evaluate(x, [y, y], verbose=0) == pytest.approx(expected)
    assert model.evaluate(x, {"exit_1": y, "exit_0": y}, verbose=0) == pytest.approx(expected)
    found = model.evaluate(x, [y, other], verbose=0)
    assert found[0] == pytest.approx(first + of_other, rel=1e-5)
    weights = np.linspace(0, 1, len(y))
    ways = [weights, [weights, weights], {"exit_0": weights, "exit_1": weights}]
    losses = [model.evaluate(x, y, sample_weight=way, verbose=0)[0] for way in ways]
    assert losses == pytest.approx([losses[0]] * 3)
    assert losses[0] < first + last
    for wrong in ([y], [y, y, y], {"exit_0": y}, {"exit_0": y, "exit_2": y}):
        with pytest.raises(ValueError, match="`y` must be one for all exits, a list of 2"):
            model.fit(x, wrong, verbose=0)


def test_weighted_metrics_serve_every_exit(data):
    x, y = data
    model = two_exits()
    top = keras.metrics.SparseTopKCategoricalAccuracy(k=2, name="top")
    model.compile("sgd", metrics=None, weighted_metrics=["accuracy", top])
    weights = np.linspace(0, 1, len(y))
    found = model.evaluate(x, y, sample_weight=weights, verbose=0, return_dict=True)
    for k, place in ((0, "first"), (1, "last")):
        right = model.predict(x, verbose=0)[k].argmax(1) == y
        assert found[f"{place}_accuracy"] == pytest.approx((weights * right).sum() / weights.sum())
    assert found["top"] == found["last_top"]


def one_head():
    x, head = keras.Input((4,)), keras.layers.Dense(3, name="head")
    return ka.AdaptiveModel(x, [head(x), head(keras.layers.Dense(4)(x)), head(x + 1)])


def one_network():
    inside, x = two_exits(), keras.Input((4,))
    return ka.AdaptiveModel(x, inside(x))


@pytest.mark.parametrize("build", [one_head, one_network])
def test_exits_of_one_layer_are_told_apart(build, data):
    x, _ = data
    model = build()
    model.compile("sgd")
    logits = model.predict(x, verbose=0)
    y = logits[-1].argmax(axis=1)
    accuracy = [(z.argmax(axis=1) == y).mean() for z in logits]
    assert accuracy[0] < 1
    found = model.evaluate(x, dict.fromkeys(model.output_names, y), verbose=0)
    expected = [accuracy[0], np.mean(accuracy), 1, 1]
    assert found[1:] == pytest.approx(expected)
    assert list(map(float, model.exit_metrics()["accuracy"])) == pytest.approx(accuracy)


def test_one_batch_gives_what_evaluate_gives(data):
    model = two_exits()
    model.compile("sgd")
    expected = model.evaluate(*data, verbose=0, return_dict=True)
    model.reset_metrics()
    assert model.test_on_batch(*data) == pytest.approx(list(expected.values()))
    model.reset_metrics()
    assert model.train_on_batch(*data) == pytest.approx(list(expected.values()))
    model.reset_metrics()
    assert list(model.train_on_batch(*data, return_dict=True)) == list(expected)


def test_accuracy_is_the_last_exits_and_fit_and_evaluate_have_one_order(data):
    model = two_exits()
    model.compile("sgd")
    history = model.fit(*data, validation_data=data, verbose=0).history
    names = ["loss", "first_accuracy", "mean_accuracy", "last_accuracy", "accuracy"]
    assert list(history) == [*names, *(f"val_{name}" for name in names)]
    for k in range(2):  # exit k names class k, whatever it sees
        *kernels, bias = model.get_layer(f"exit_{k}").get_weights()
        model.get_layer(f"exit_{k}").set_weights([*kernels, 100 * np.eye(len(bias))[k]])
    x, y = data[0], np.ones_like(data[1])
    found = model.evaluate(x, y, verbose=0, return_dict=True)
    assert list(found) == names
    assert model.evaluate(x, y, verbose=0) == pytest.approx(list(found.values()))
    assert found["accuracy"] == found["last_accuracy"] != found["first_accuracy"]
    assert (found["first_accuracy"], found["mean_accuracy"], found["last_accuracy"]) == (0, 0.5, 1)


@pytest.mark.parametrize(
    "monitor",
    [
        "val_accuracy",
        "first_accuracy",
        *(
            pytest.param(name, marks=pytest.mark.slow)
            for name in ("val_last_accuracy", "val_mean_accuracy")
        ),
    ],
)
def test_callbacks_know_which_way_a_metric_is_better(data, monitor, tmp_path):
    model = two_exits()
    model.compile(keras.optimizers.SGD(0.5))
    kinds = keras.callbacks
    stop = kinds.EarlyStopping(monitor, patience=9)
    best = kinds.ModelCheckpoint(tmp_path / "best.keras", monitor, save_best_only=True)
    slower = kinds.ReduceLROnPlateau(monitor)
    how = {"validation_data": data, "epochs": 3, "callbacks": [stop, best, slower], "verbose": 0}
    history = model.fit(*data, **how).history
    assert float(stop.best) == float(best.best) == max(history[monitor])
    assert (tmp_path / "best.keras").exists()


@pytest.mark.filterwarnings("error::UserWarning")
@pytest.mark.parametrize("optimizer", [None, "adam"])
def test_compiled_and_never_fitted_it_saves_and_loads(optimizer, tmp_path):
    model = two_exits()
    model.compile(optimizer, weighted_metrics=["accuracy"], metrics=None)
    model.save(tmp_path / "model.keras")
    again = keras.models.load_model(tmp_path / "model.keras")
    assert again.optimizer.get_config() == model.optimizer.get_config()
    assert again.optimizer_is_given == (optimizer is not None)
    for ending in ("h5", "hdf5"):
        with pytest.raises(ValueError, match=r"`filepath` must end in `.keras`"):
            model.save(tmp_path / f"model.{ending}")
    model.save_weights(tmp_path / "model.weights.h5")


@pytest.mark.parametrize("how", ["save", "save_weights"])
def test_saving_that_fails_leaves_the_old_file_and_nothing_else(how, tmp_path, monkeypatch):
    model, name = two_exits(), "model.keras" if how == "save" else "model.weights.h5"
    getattr(model, how)(str(tmp_path / name))
    old = (tmp_path / name).read_bytes()
    link = tmp_path / f"link_{name}"
    link.symlink_to(tmp_path / name)

    def fail(store):
        raise OSError("no space left")

    monkeypatch.setattr(model.layers[-1], "save_own_variables", fail)
    checkpoint = keras.callbacks.ModelCheckpoint(
        tmp_path / name, save_weights_only=how == "save_weights", verbose=0
    )
    checkpoint.set_model(model)
    for save in (
        lambda: getattr(model, how)(tmp_path / name),
        lambda: getattr(model, how)(link),
        lambda: checkpoint.on_epoch_end(0, {}),
    ):
        with pytest.raises(OSError, match="no space left"):
            save()
        assert (tmp_path / name).read_bytes() == old
        assert sorted(path.name for path in tmp_path.iterdir()) == sorted([name, link.name])


def test_a_file_that_is_there_is_replaced_where_that_is_wanted(tmp_path, monkeypatch):
    model, answers = two_exits(), iter(["n", "?", "y"])
    monkeypatch.setattr("builtins.input", lambda question: next(answers))
    for how, name in (("save", "a.keras"), ("save_weights", "a.weights.h5")):
        path, answers = tmp_path / name, iter(["n", "?", "y"])
        getattr(model, how)(path, overwrite=False)
        old = path.stat().st_ino
        getattr(model, how)(path, overwrite=False)
        assert path.stat().st_ino == old
        getattr(model, how)(path, False)
        assert path.stat().st_ino != old
        assert not list(answers)
        with pytest.raises(FileNotFoundError, match="missing"):
            getattr(model, how)(tmp_path / "missing" / name)
    keras.saving.load_model(tmp_path / "a.keras")
    model.load_weights(tmp_path / "a.weights.h5")
    with pytest.raises(ValueError, match=r"`\.keras` extension"):
        model.save(tmp_path / "a")
    model.save(tmp_path / "folder", zipped=False)
    model.save_weights(tmp_path / "parts.weights.json", max_shard_size=1)
    assert (tmp_path / "folder" / "config.json").exists()
    assert (tmp_path / "parts.weights.json").exists()


def test_the_optimizer_is_the_papers_unless_another_is_given():
    model = two_exits()
    model.compile()
    found = model.optimizer.get_config()
    assert found["learning_rate"] == pytest.approx(0.1)
    assert found["momentum"] == 0.9
    assert found["nesterov"]
    assert found["weight_decay"] == 1e-3
    model.compile(keras.optimizers.Adam(0.5))
    assert float(model.optimizer.learning_rate) == 0.5


def test_progress_line_stays_short_with_eleven_exits(capsys):
    x = keras.Input((4,))
    model = ka.AdaptiveModel(x, [keras.layers.Dense(3, name=f"exit_{k}")(x) for k in range(11)])
    model.compile()
    model.fit(np.zeros((2, 4)), np.zeros(2, int), verbose=2)
    line = capsys.readouterr().out.strip().splitlines()[-1]
    assert "first_accuracy" in line
    assert "mean_accuracy" in line
    assert "last_accuracy" in line
    assert len(line) < 150


def attentive():
    x = keras.Input((3, 4))
    features = keras.layers.MultiHeadAttention(1, 2, name="attention")(x, x)
    heads = [ka.layers.EarlyExit(3, name=f"exit_{k}") for k in range(2)]
    return ka.AdaptiveModel(x, [heads[0](x), heads[1](features)])


def learning(model):
    return [(v.path, v.shape) for v in model.trainable_variables]


@pytest.mark.parametrize("frozen", ["attention", "exit_0"])
def test_frozen_layers_made_of_others_stay_frozen(frozen, tmp_path):
    model = attentive()
    model.get_layer(frozen).trainable = False
    model.save(tmp_path / "model.keras")
    for again in (
        keras.models.clone_model(model),
        keras.models.load_model(tmp_path / "model.keras"),
    ):
        assert learning(again) == learning(model)


def test_what_was_thawed_inside_of_a_frozen_layer_learns():
    model = attentive()
    layer = model.get_layer("attention")
    layer.trainable = False
    layer._flatten_layers(include_self=False)[0].trainable = True
    assert 2 < len(learning(model)) < len(learning(attentive()))
    assert learning(ka.AdaptiveModel(model.input, model.outputs)) == learning(model)


def test_training_goes_on_where_it_was_saved(data, tmp_path):
    keras.utils.set_random_seed(0)
    whole, half = two_exits(), two_exits()
    half.set_weights(whole.get_weights())
    for model in (whole, half):
        model.compile(exit_weights=[0.5, 1])
        model.fit(*data, epochs=2, shuffle=False, verbose=0)
    half.save(tmp_path / "half.keras")
    half = keras.models.load_model(tmp_path / "half.keras")
    for model in (whole, half):
        model.fit(*data, epochs=2, shuffle=False, verbose=0)
    for a, b in zip(whole.get_weights(), half.get_weights(), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-6)


def test_costs_come_with_every_prediction(data):
    model = two_exits()
    logits, costs = model.predict_with_costs(data[0], verbose=0)
    assert logits.shape == (2, 12, 3)
    np.testing.assert_array_equal(costs, np.repeat([[12], [47]], 12, axis=1))


def test_calibrate_returns_a_policy_within_the_budget(data):
    model = two_exits()
    policy = model.calibrate(*data, budget=30, method="geometric", verbose=0)
    report = ka.evaluate(policy, np.stack(model.predict(data[0], verbose=0)), data[1], [12.0, 47.0])
    assert report.mean_cost <= 30


BROKEN = np.where(np.arange(48) < 47, 1, np.nan).reshape(12, 4)


class Batches(keras.utils.PyDataset):
    def __init__(self, x, y):
        super().__init__()
        self.x, self.y = x, y

    def __len__(self):
        return 3

    def __getitem__(self, i):
        return self.x[4 * i : 4 * i + 4], self.y[4 * i : 4 * i + 4]


def test_calibrate_takes_labels_as_fit_does(data):
    import tensorflow as tf

    (x, y), model = data, two_exits()
    how = {"budget_share": 0.7, "temperature": False, "verbose": 0}
    expected = model.calibrate(x, y, **how)
    dataset = tf.data.Dataset.from_tensor_slices((x, y))
    for given in (
        (x, y[:, None]),
        (x, y.astype("float32")),
        (x, np.eye(3)[y]),
        (dataset.batch(5),),
        (dataset.shuffle(12).batch(5),),  # another order each time it is read
        (dataset.batch(5).map(lambda x, y: (x, tf.one_hot(y, 3))),),
        (Batches(x, y),),
        (x, {"exit_0": y, "exit_1": y}),
        (dataset.batch(5).map(lambda x, y: (x, {"exit_1": y, "exit_0": y})),),
        (dataset.batch(5).map(lambda x, y: (x, (y, y))),),
        (dataset.batch(5).map(lambda x, y: x), y),
        (x.tolist(), y.tolist()),
        (list(x), y),
        ([x], y),
        (((x[i : i + 6], y[i : i + 6]) for i in (0, 6)),),
    ):
        policy = model.calibrate(*given, **how)
        np.testing.assert_allclose(policy.log_odds, expected.log_odds, rtol=1e-5)
        assert policy.details["accuracy"] == expected.details["accuracy"]
        assert model.policy is policy


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"budget": 0.5}, "exit costs, 12. Received: budget=0.5; .* give budget_share=0.5"),
        ({"budget": 11}, "exit costs, 12. Received: budget=11$"),
        ({"budget_share": 0.2}, "first exit costs, 0.255319. Received: budget_share=0.2"),
        ({"budget_share": 30}, "`budget_share` must be above 0 and at most 1"),
        ({"accuracy": 95}, "`accuracy` must be from 0 to 1"),
        ({}, "Exactly one of `budget`, `budget_share`, `accuracy` and `risk` must be given"),
        ({"accuracy": 0.5, "worst_case": 5}, "`worst_case` must be at least"),
        ({"accuracy": 0.5, "method": "best"}, "Received: method=best"),
        ({"accuracy": 0.5, "confidence": "loud"}, "Received: confidence=loud"),
        ({"accuracy": 0.5, "y": None}, "`labels` must be given"),
        ({"accuracy": 0.5, "y": np.zeros(5, int)}, r"integers of shape \(12,\)"),
        ({"accuracy": 0.5, "y": np.full(12, 3)}, "below the number of classes, 3"),
        ({"accuracy": 0.5, "y": [np.zeros(12, int), np.ones(12, int)]}, "differ from exit to exit"),
        ({"accuracy": 0.5, "x": np.zeros((0, 4)), "y": []}, "at least one sample. Received: none"),
        ({"accuracy": 0.5, "x": None}, "`x` must be an array, .* Received: x=None"),
        ({"accuracy": 0.5, "x": np.zeros((12, 5))}, r"of shape \(samples, 4\). Received: .* 5\)"),
        ({"accuracy": 0.5, "x": np.zeros((12, 4), "U1")}, "`x` must be numbers for float32"),
        ({"accuracy": 0.5, "x": {"z": np.zeros((12, 4))}}, "for each of the 1 inputs"),
        ({"accuracy": 0.5, "x": BROKEN}, "must be finite. Received: NaN or infinity in `x`"),
        ({"accuracy": 0.5, "batch_size": 0}, "`batch_size` must be an integer of at least 1"),
        ({"q": 0.5}, '`q` must be given with method="geometric" only'),
        ({"q": 1.5, "method": "geometric"}, "`q` must be between 0 and 1"),
    ],
)
def test_calibrate_checks_before_the_network_runs(data, monkeypatch, arguments, message):
    model = two_exits()
    monkeypatch.setattr(keras.Model, "predict", lambda *a, **k: pytest.fail("it ran"))
    with pytest.raises((TypeError, ValueError), match=message):
        model.calibrate(**{"x": data[0], "y": data[1], **arguments})
    with pytest.raises(TypeError, match="unexpected keyword argument 'budgets'"):
        model.calibrate(*data, budgets=[30])


@pytest.mark.parametrize("call", ["calibrate", "predict_with_costs", "predict_gates"])
@pytest.mark.parametrize(
    ("of_batch", "message"),
    [
        (lambda x, y: (x[0], y[0]), r"must hold batches of samples.*of shape \(4,\)"),
        (lambda x, y: (x[:, :3], y), r"`x` must be of shape \(samples, 4\)"),
        (lambda x, y: (np.where(y == 9, np.nan, x), y), "must be finite. Received"),
        (lambda x, y: (x[:0], y[:0]), "at least one sample"),
        (None, "at least one sample. Received: none"),
    ],
)
def test_batches_are_checked_as_they_come(data, call, of_batch, message):
    x, y = data[0], np.arange(12)[:, None]
    batches = (of_batch(x[i : i + 2], y[i : i + 2]) for i in range(0, 12, 2) if of_batch)
    how = {"budget_share": 0.7} if call == "calibrate" else {}
    model = two_exits() if call != "predict_gates" else gated()
    with pytest.raises(ValueError, match=message) as refused:
        getattr(model, call)(batches, verbose=0, **how)
    assert "Traceback" not in str(refused.value)


def gated():
    x = keras.Input((4,))
    gate = ka.layers.SkipGate(units=4)(x)
    y = ka.layers.GatedBlock([keras.layers.Dense(4)], "add")(x, x, gate)
    return ka.AdaptiveModel(x, [keras.layers.Dense(3)(y)])


def of_any_size(classes=3):
    image = keras.Input((None, None, 1))
    x = keras.layers.Conv2D(2, 3, padding="same", name="c0")(image)
    first = keras.layers.Dense(classes)(keras.layers.GlobalAveragePooling2D()(x))
    x = keras.layers.Conv2D(4, 3, padding="same")(x)
    last = keras.layers.Dense(classes)(keras.layers.GlobalAveragePooling2D()(x))
    return ka.AdaptiveModel(image, [first, last])


def test_a_network_of_open_sizes_takes_batches_of_any_kind(rng):
    model, x, y = of_any_size(), rng.normal(size=(12, 6, 5, 1)), rng.integers(0, 3, 12)
    expected = model.exit_costs(input_shape=(6, 5, 1))
    how = {"worst_case": expected[-1], "accuracy": 0.0, "verbose": 0}
    policy = model.calibrate(x, y, **how)
    assert policy.worst_case is None
    dataset = tf.data.Dataset.from_tensor_slices((x, y)).batch(5)
    flat = ((x[i : i + 4, ..., 0], y[i : i + 4]) for i in (0, 4, 8))  # Keras adds the axis
    for given in (dataset, Batches(x, y), ((x[i : i + 6], y[i : i + 6]) for i in (0, 6)), flat):
        assert model.calibrate(given, **how).log_odds == pytest.approx(policy.log_odds, rel=1e-5)
    for given in (x, x[..., 0], dataset, dataset.map(lambda x, y: x)):
        logits, costs = model.predict_with_costs(given, verbose=0)
        assert logits.shape == (2, 12, 3)
        np.testing.assert_array_equal(costs, np.repeat(expected[:, None], 12, axis=1))
    sizes = (4, 8)
    batches = (np.ones((2, n, n, 1)) for n in sizes)  # each image costs what its size does
    costs = model.predict_with_costs(batches, verbose=0)[1]
    each = [model.exit_costs(input_shape=(n, n, 1)) for n in sizes for _ in range(2)]
    np.testing.assert_array_equal(costs, np.transpose(each))


def test_several_inputs_come_as_arrays_and_in_batches(rng):
    inputs = [keras.Input((4,), name="a"), keras.Input((2,), name="b", dtype="int32")]
    x = keras.layers.Concatenate()([inputs[0], keras.ops.cast(inputs[1], "float32")])
    model = ka.AdaptiveModel(inputs, [keras.layers.Dense(3)(x), keras.layers.Dense(3)(x)])
    a, b = rng.normal(size=(6, 4)), rng.integers(0, 3, (6, 2))
    expected, _ = model.predict_with_costs([a, b], verbose=0)
    by_name = {"b": b, "a": a}
    dataset = tf.data.Dataset.from_tensor_slices((by_name, b[:, 0])).batch(4)
    in_order = tf.data.Dataset.from_tensor_slices(((a, b), b[:, 0])).batch(4)
    for given in (by_name, (a.tolist(), b.tolist()), dataset, in_order):
        found, _ = model.predict_with_costs(given, verbose=0)
        np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_calibrate_says_unit_and_network_and_drops_a_limit_that_does_not_bind(data):
    model = two_exits()
    for worst_case in (12, 40, 47, 1e9):
        policy = model.calibrate(*data, accuracy=0.0, worst_case=worst_case, verbose=0)
        assert policy.worst_case is None
        assert policy.used_exits[-1] <= (worst_case >= 47)
    assert (policy.unit, policy.network) == ("macs", model.network)
    energy = ka.costs.EnergyModel()
    assert model.calibrate(*data, budget_share=1, unit=energy, verbose=0).unit == "energy"


@pytest.mark.parametrize(
    "policy",
    [
        ka.ExitPolicy([1.0, 0], "entropy", [2, 3.0], log_odds=[40.5, 0], worst_case=9),
        ka.PatiencePolicy(3),
        ka.AgreementPolicy(2, 0.75),
        ka.LearnedPolicy([[(np.eye(3)[:, :2], [0, 1]), (np.eye(2), [0, 0]), (np.eye(2), [1, 0])]]),
    ],
    ids=lambda policy: type(policy).__name__,
)
def test_a_saved_network_keeps_its_policy_names_and_pixels(policy, tmp_path):
    model = two_exits()
    policy.unit = "ms"
    model.policy, model.class_names = policy, ("a", "b", "c")
    model.pixels = {"height": 8, "resize": "cover"}
    model.preprocessing = {"mean": np.float32([0.5]), "std": (0.25,)}
    model.save(tmp_path / "model.keras")
    again = keras.saving.load_model(tmp_path / "model.keras")
    assert type(again.policy) is type(policy)
    assert again.policy.content() == policy.content()
    assert (again.class_names, again.pixels) == (["a", "b", "c"], model.pixels)
    assert again.preprocessing == {"mean": [0.5], "std": [0.25]}
    again.policy = None
    again.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").policy is None


def test_a_network_is_told_by_its_operations(tmp_path):
    model = two_exits()
    model.save(tmp_path / "model.keras")
    assert keras.saving.load_model(tmp_path / "model.keras").network == model.network
    assert two_exits().network["digest"] == model.network["digest"]
    image = keras.Input((4,))
    wider = keras.layers.Dense(6)(image)
    other = ka.AdaptiveModel(image, [keras.layers.Dense(3)(image), keras.layers.Dense(3)(wider)])
    policy = ka.ExitPolicy([0.5, 0])
    policy.network = model.network
    with pytest.raises(ValueError, match=f"a policy of {model.name!r}, and .* {other.name!r}"):
        other.policy = policy
    with pytest.raises(ValueError, match="one threshold per exit of the model. Received: 3"):
        model.policy = ka.ExitPolicy([0.5, 0.5, 0])
    with pytest.raises(TypeError, match="`policy` must be an ExitPolicy, a LearnedPolicy"):
        model.policy = "the best"
    with pytest.raises(ValueError, match="`class_names` must be 3 names"):
        model.class_names = ["a"]
    with pytest.raises(ValueError, match="Received: class_names={0: 'a', .*give .names"):
        model.class_names = {0: "a", 1: "b", 2: "c"}
    with pytest.raises(ValueError, match="`pixels` must be a dictionary"):
        model.pixels = 3
    with pytest.raises(ValueError, match="`preprocessing` must be a dictionary"):
        model.preprocessing = {"mean": [0.5]}
    with pytest.raises(ValueError, match="pixels divided by 255"):
        model.preprocessing = {"mean": [127.5], "std": [127.5]}


def test_evaluate_takes_a_model_for_its_policy(data):
    model = two_exits()
    logits, costs = model.predict_with_costs(data[0], verbose=0)
    with pytest.raises(ValueError, match="`model.calibrate` chooses it"):
        ka.evaluate(model, logits, data[1], costs)
    policy = model.calibrate(*data, budget=30, verbose=0)
    found = ka.evaluate(model, logits, data[1], costs)
    assert found.mean_cost == ka.evaluate(policy, logits, data[1], costs).mean_cost


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"exit_weights": [1]}, "`exit_weights` must be 2 numbers"),
        ({"exit_weights": [1, -1]}, "`exit_weights` must be 2 numbers"),
        ({"loss": ["sparse_categorical_crossentropy"] * 2}, "`loss` must be one loss"),
        ({"loss": keras.losses.sparse_categorical_crossentropy}, "`loss` must take logits"),
        ({"metrics": "accuracy"}, "`metrics` must be a list"),
        ({"metrics": [["accuracy"], ["accuracy"]]}, "none of them for one exit alone"),
        ({"metrics": {"exit_0": "accuracy"}}, "none of them for one exit alone"),
        ({"weighted_metrics": [["accuracy"], []]}, "`weighted_metrics` must be a list"),
        ({"exit_weights": [1, float("nan")]}, "`exit_weights` must be"),
        ({"exit_weights": [1, float("inf")]}, "`exit_weights` must be 2 numbers"),
        ({"loss_weights": [1, 1]}, "must be given as `exit_weights`"),
        ({"loss": keras.losses.SparseCategoricalCrossentropy()}, "`loss` must take logits"),
        ({"loss": keras.losses.CategoricalCrossentropy()}, "`loss` must take logits"),
        ({"loss": {"exit_0": "mse"}}, "`loss` must be one loss"),
        ({"loss": keras.losses.SparseCategoricalCrossentropy}, "`loss` must take logits"),
        ({"loss": "kl_divergence"}, "`loss` must take logits.*Received: loss=kl_divergence"),
        ({"loss": "KLDivergence"}, "`loss` must take logits"),
        ({"loss": keras.losses.KLDivergence()}, "`loss` must take logits"),
        ({"loss": keras.losses.KLDivergence}, "`loss` must take logits"),
        ({"loss": keras.losses.poisson}, "`loss` must take logits"),
        ({"loss": "poisson"}, "`loss` must take logits"),
        ({"loss": "dice"}, "`loss` must take logits"),
        ({"metrics": ["kl_divergence"]}, "`metrics` must take logits.* Received: 'kl_divergence'"),
        ({"metrics": [keras.losses.poisson]}, "`metrics` must take logits"),
        ({"weighted_metrics": [keras.metrics.KLDivergence()]}, "`weighted_metrics` must take"),
        ({"metrics": [keras.metrics.AUC()]}, "`metrics` must take logits"),
        ({"metrics": ["precision"]}, "`metrics` must take logits"),
        ({"metrics": [keras.metrics.PrecisionAtRecall(0.5)]}, "`metrics` must take logits"),
        ({"metrics": [keras.metrics.BinaryAccuracy()]}, "`metrics` must take logits"),
        ({"metrics": ["binary_accuracy"]}, "`metrics` must take logits"),
        ({"weighted_metrics": [keras.metrics.BinaryIoU()]}, "`weighted_metrics` must take"),
        ({"exit_weights": [1, 1, 1]}, "`exit_weights` must be 2 numbers"),
    ],
)
def test_rejects_impossible_compile_arguments(arguments, message):
    with pytest.raises(ValueError, match=message):
        two_exits().compile(**arguments)


@pytest.mark.parametrize("exits", [[], [1, 0], [2], [-1], [0, 0], 0, "ab", [0.5], [True]])
def test_rejects_impossible_exits(exits):
    with pytest.raises(ValueError, match="`exits` must be ascending indices below 2"):
        two_exits().stages(exits=exits)


def test_exits_must_know_the_same_classes():
    x = keras.Input((4,))
    exits = [keras.layers.Dense(classes)(x) for classes in (3, 5)]
    with pytest.raises(ValueError, match=r"same classes at .* shape \(None, 3\), \(None, 5\)"):
        ka.AdaptiveModel(x, exits)


def test_outputs_must_be_a_list():
    x = keras.Input((4,))
    with pytest.raises(ValueError, match="`outputs` must be a list"):
        ka.AdaptiveModel(x, [])
    with pytest.raises(ValueError, match="`outputs` must be a list"):
        ka.AdaptiveModel(x, keras.layers.Dense(3)(x))


def test_exits_may_be_left_out_and_the_last_of_all_may_be_asked_for():
    model = two_exits()
    assert model.exit_costs().tolist() == [12, 12 + 20 + 15]
    assert model.exit_costs(exits=[1]).tolist() == [35]
    assert model.exit_costs("params").tolist() == [15, 15 + 25 + 18]
    assert [len(model.stages(exits=e)) for e in (None, [0], [1], [0, 1])] == [2, 1, 1, 2]


def as_data_set(x, y):
    return (tf.data.Dataset.from_tensor_slices((x, y)).batch(4),)


@pytest.mark.skipif(keras.backend.backend() != "tensorflow", reason="of TensorFlow's graphs")
@pytest.mark.parametrize("one_hot", [False, True])
@pytest.mark.parametrize("given", [lambda *data: data, as_data_set])
def test_a_step_is_traced_once(data, given, one_hot, monkeypatch):
    monkeypatch.undo()  # with graphs
    traces = []

    for name in ("train_step", "test_step"):
        step = getattr(ka.AdaptiveModel, name)

        def counted(model, batch, name=name, step=step):
            traces.append(name)
            return step(model, batch)

        monkeypatch.setattr(ka.AdaptiveModel, name, counted)
    x, y = data
    model = two_exits()
    if one_hot:
        y = np.eye(3)[y]
        model.compile("adam", "categorical_crossentropy", ["accuracy", "mse"])
    else:
        model.compile()
    model.evaluate(*given(x, y), verbose=0)
    model.fit(*given(x, y), shuffle=False, verbose=0)
    assert traces == ["test_step", "train_step"]


@pytest.mark.parametrize("first", ["predict", "evaluate"])
def test_losses_of_layers_do_not_outlive_the_graph_that_made_them(data, first, monkeypatch):
    monkeypatch.undo()  # with graphs
    x, y = data
    given = keras.Input((4,))
    hidden = keras.layers.Dense(5, activity_regularizer="l2")(given)
    hidden = keras.layers.ActivityRegularization(0.1)(hidden)
    model = ka.AdaptiveModel(given, [keras.layers.Dense(3)(hidden)])
    model.compile("sgd", metrics=None)
    if first == "predict":
        model.predict(x, verbose=0)
    else:
        model.evaluate(x, y, verbose=0)
    model.fit(x, y, verbose=0)
    before = model.get_weights()
    model.compile("sgd", metrics=None)  # the graph of `fit` is gone, its tensors are not
    found = model.evaluate(x, y, verbose=0)
    logits = model.predict(x, verbose=0)[0]
    assert found > cross_entropy(logits, y).mean()  # what the layers add counts
    model.fit(x, y, verbose=0)
    assert not np.array_equal(before[0], model.get_weights()[0])


@pytest.mark.slow
def test_a_graph_learns_what_is_learned_without(data, monkeypatch):
    ends = []
    start = two_exits().get_weights()
    for _ in range(2):
        model = two_exits()
        model.set_weights(start)
        model.compile(exit_weights=[0.5, 1])
        model.fit(*data, epochs=3, shuffle=False, verbose=0)
        ends.append(model.get_weights())
        monkeypatch.undo()  # with graphs from here on
    for eager, graph in zip(*ends, strict=True):
        np.testing.assert_allclose(eager, graph, atol=1e-5)


def test_names_before_0_2_still_work():
    from keras_adaptive.training import regimes

    training = ka.training
    assert training.with_stopping is training.add_stopping
    assert training.gradient_equilibrium is training.add_gradient_equilibrium
    assert regimes.with_collaboration is training.add_collaboration
    image = keras.Input((4,))
    model = ka.AdaptiveModel(image, [keras.layers.Dense(3)(image) for _ in range(2)])
    assert model.exits == model.num_exits == 2
