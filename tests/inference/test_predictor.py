import functools
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from graph_macs import graph_macs
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import classifier, three_exits

import keras_adaptive as ka
from keras_adaptive.export import _kept
from keras_adaptive.inference import _stages, latency, measure_latency
from keras_adaptive.inference._stages import Stages

keras_engine = functools.partial(ka.AdaptivePredictor, engine="keras")


@pytest.fixture(scope="module")
def trained():
    """A network of few operations: its stages are compiled many times. Learned or not is equal."""
    keras.utils.set_random_seed(0)
    model = three_exits()
    for head in ("exit_0", "exit_1", "exit_2"):  # as confident as a network that has learned
        kernel, bias = model.get_layer(head).get_weights()
        model.get_layer(head).set_weights([8 * kernel, bias])
    return model


@pytest.fixture(scope="module")
def calibration(trained, digits):
    x, y = digits.arrays("calibrate")
    return np.stack(trained.predict(x, verbose=0)), y, trained.exit_costs()


@pytest.fixture(scope="module")
def policy(calibration):
    logits, labels, costs = calibration
    return ka.calibrate(logits, labels, costs, budget=0.6 * costs[-1], method="geometric")


@pytest.fixture(scope="module")
def logits(trained, test_images):
    return np.stack(trained.predict(test_images[0], verbose=0))


@pytest.fixture(scope="module")
def by_engine(trained, policy):
    """Predictors of one network and policy, by engine; LiteRT's file is written once."""
    return {e: ka.AdaptivePredictor(trained, policy, engine=e) for e in ("keras", "litert")}


@pytest.fixture(scope="module")
def predictor_(by_engine):
    return by_engine["keras"]


@pytest.mark.parametrize("engine", ["keras", "litert"])
@settings(max_examples=6, deadline=None)
@given(batch_size=st.integers(1, 400), seed=st.integers(0, 9))
def test_decides_as_the_policy_does_on_all_logits(
    by_engine, policy, logits, test_images, far_from_thresholds, engine, batch_size, seed
):
    order = np.random.default_rng(seed).permutation(len(test_images[0]))[:60]
    result = by_engine[engine].predict(test_images[0][order], batch_size=batch_size, verbose=0)
    far = far_from_thresholds(policy, logits[:, order])
    expected = policy.decide(logits[:, order])
    np.testing.assert_array_equal(result.exits[far], expected[far])
    chosen = logits[result.exits, order]
    np.testing.assert_array_equal(result.labels, chosen.argmax(-1))
    np.testing.assert_allclose(result.probabilities, ka.policy.softmax(chosen), atol=1e-5)


KINDS = ["max_prob", "prob_margin", "logit_margin", "entropy"]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 7, 20])
def test_every_confidence_and_temperature(
    trained, logits, test_images, far_from_thresholds, kind, batch_size
):
    temperatures = [4.0, 2.0, 3.0]
    confidences = ka.policy.confidence(logits, kind, temperatures)
    policy = ka.ExitPolicy(np.median(confidences, axis=1), kind, temperatures)
    result = keras_engine(trained, policy).predict(test_images[0][:40], batch_size=batch_size)
    far = far_from_thresholds(policy, logits[:, :40])
    assert far.sum() > 20
    np.testing.assert_array_equal(result.exits[far], policy.decide(logits[:, :40])[far])
    chosen = logits[result.exits, np.arange(40)]
    expected = ka.policy.softmax(chosen / np.array(temperatures)[result.exits][:, None])
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-5)


def as_given(exits, classes):
    """A network whose answers are what it is given."""
    given = keras.Input((exits, classes))
    return ka.AdaptiveModel(given, [keras.layers.Identity()(given[:, k]) for k in range(exits)])


@pytest.mark.parametrize("policy", [ka.PatiencePolicy(2), ka.AgreementPolicy(2, 0.6)], ids=repr)
@pytest.mark.parametrize("batch_size", [1, 16, 200])
def test_answers_that_agree_are_followed(rng, policy, batch_size):
    logits = rng.normal(size=(4, 90, 3)).astype("float32")
    result = keras_engine(as_given(4, 3), policy).predict(logits.swapaxes(0, 1), batch_size)
    expected = policy.decide(logits)
    assert len(set(expected.tolist())) > 2
    np.testing.assert_array_equal(result.exits, expected)
    chosen = logits[expected, np.arange(90)]
    np.testing.assert_array_equal(result.labels, chosen.argmax(-1))
    np.testing.assert_allclose(result.probabilities, ka.policy.softmax(chosen), atol=1e-5)


def two_dense(features, later):
    return [keras.layers.Dense(3)(features), keras.layers.Dense(3)(later)]


def recurrent(kind):
    layer = {
        "lstm": lambda x: keras.layers.LSTM(5, return_sequences=True)(x),
        "gru": lambda x: keras.layers.GRU(5, return_sequences=True)(x),
        "bidirectional": lambda x: keras.layers.Bidirectional(
            keras.layers.LSTM(5, return_sequences=True)
        )(x),
    }[kind]
    x = keras.Input((6, 4))
    steps = layer(x)
    return ka.AdaptiveModel(x, two_dense(steps[:, 0], keras.layers.GRU(5)(steps)))


def masked():
    words = keras.Input((7,), dtype="int32")
    x = keras.layers.Embedding(11, 6, mask_zero=True)(words)
    steps = keras.layers.LSTM(5, return_sequences=True)(x)
    early = keras.layers.GlobalAveragePooling1D()(steps)
    return ka.AdaptiveModel(words, two_dense(early, keras.layers.GRU(5)(steps)))


def of_frames():
    x = keras.Input((3, 6, 6, 1))
    steps = keras.layers.ConvLSTM2D(2, 3, return_sequences=True)(x)
    last = keras.layers.ConvLSTM2D(2, 3)(steps)
    early, late = keras.layers.Flatten()(steps[:, 0]), keras.layers.Flatten()(last)
    return ka.AdaptiveModel(x, two_dense(early, late))


def several():
    a, b = keras.Input((4,), name="a"), keras.Input((3,), name="b", dtype="int32")
    both = keras.layers.Concatenate()([a, keras.ops.cast(b, "float32")])
    return ka.AdaptiveModel([a, b], two_dense(a, keras.layers.Dense(8, "relu")(both)))


def open_size():
    x = keras.Input((None, None, 2))
    early = keras.layers.Conv2D(4, 3, activation="relu")(x)
    late = keras.layers.Conv2D(4, 3)(early)
    pool = keras.layers.GlobalAveragePooling2D()
    return ka.AdaptiveModel(x, two_dense(pool(early), pool(late)))


def dense():
    x = keras.Input((5, 5, 2))
    early = keras.layers.Conv2D(4, 3, padding="same")(x)
    late = keras.layers.Conv2D(4, 3, padding="same")(early)
    return ka.AdaptiveModel(x, [keras.layers.Conv2D(3, 1)(each) for each in (early, late)])


def half_precision():
    with_policy = keras.layers.Dense(8, dtype="mixed_bfloat16")
    x = keras.Input((4,))
    early = with_policy(x)
    return ka.AdaptiveModel(x, two_dense(early, keras.layers.Dense(8, "relu")(early)))


def self_cascade():
    return ka.build_self_cascade(classifier(4), [6, 8, (12, 10)])


NETWORKS = {
    "lstm": lambda: recurrent("lstm"),
    "gru": lambda: recurrent("gru"),
    "bidirectional": lambda: recurrent("bidirectional"),
    "masked": masked,
    "frames": of_frames,
    "several inputs": several,
    "open size": open_size,
    "dense": dense,
    "half precision": half_precision,
    "self-cascade": self_cascade,
}
FILES = ("lstm", "masked", "several inputs", "self-cascade")
SLOW = [pytest.param(name, "litert", marks=pytest.mark.slow) for name in FILES]


def samples_of(network, samples=23):
    rng = np.random.default_rng(1)
    found = []
    for tensor in network.inputs:
        shape = (samples, *(6 if size is None else size for size in tensor.shape[1:]))
        integers = tensor.dtype == "int32"
        found.append(rng.integers(0, 9, shape) if integers else rng.normal(size=shape))
    return found if len(found) > 1 else found[0]


@pytest.mark.parametrize(("name", "engine"), [*((name, "keras") for name in NETWORKS), *SLOW])
def test_networks_of_every_kind(name, engine):
    keras.utils.set_random_seed(2)
    network = NETWORKS[name]()
    x = samples_of(network)
    answers = network(x if isinstance(x, list) else np.asarray(x))
    logits = np.stack([np.asarray(z, "float32") for z in answers])
    confidences = np.sort(ka.policy.confidence(logits, "logit_margin"), axis=1)
    thresholds = (confidences[:, 11] + confidences[:, 12]) / 2
    policy = ka.ExitPolicy(thresholds, "logit_margin")
    result = ka.AdaptivePredictor(network, policy, engine=engine).predict(x, 5, verbose=0)
    expected = policy.decide(logits)
    assert 0 < (expected == 0).sum() < 23
    far = (np.abs(confidences[:1].T - thresholds[0]) > 1e-2).all() or name != "half precision"
    if far:
        np.testing.assert_array_equal(result.exits, expected)
    sizes = [np.shape(each)[1:] for each in (x if isinstance(x, list) else [x])]
    is_open = any(None in tensor.shape[1:] for tensor in network.inputs)
    costs = network.exit_costs(input_shape=sizes if is_open else None)
    np.testing.assert_array_equal(result.costs, costs[result.exits])


def test_several_inputs_in_every_form():
    network, policy = several(), ka.ExitPolicy([0.4, 0])
    a, b = samples_of(network)
    predictor = keras_engine(network, policy)
    expected = predictor.predict([a, b]).probabilities
    parts = [(a[i : i + 9], b[i : i + 9]) for i in range(0, 23, 9)]
    forms = [
        {"b": b, "a": a},
        (a, b),
        iter([(list(pair), 0) for pair in parts]),
        iter([(pair, 0) for pair in parts]),
        iter([({"a": one, "b": two}, 0) for one, two in parts]),
        iter([{"a": one, "b": two} for one, two in parts]),
    ]
    for x in forms:
        np.testing.assert_allclose(predictor.predict(x).probabilities, expected, atol=1e-6)
    for wrong in ({"a": a}, [a], {"a": a, "c": b}):
        with pytest.raises(ValueError, match="`x` must hold an array for each of the 2 inputs"):
            predictor.predict(wrong)
    with pytest.raises(ValueError, match="`x` must hold as many samples for each input"):
        predictor.predict([a, b[:5]])
    with pytest.raises(ValueError, match="`x` must be numbers for int32. Received: dtype float64"):
        predictor.predict([a, b + 0.5])


def test_samples_of_several_sizes_in_one_stream(rng):
    network, policy = open_size(), ka.ExitPolicy([0.37, 0])
    predictor = keras_engine(network, policy)
    parts = [rng.normal(size=(3, 6 + i % 3, 6, 2)).astype("float32") for i in range(7)]
    for x, result in zip(parts, predictor.stream(parts, batch_size=4), strict=True):
        logits = np.stack([np.asarray(z) for z in network(x)])
        np.testing.assert_array_equal(result.exits, policy.decide(logits))
        costs = network.exit_costs(input_shape=x.shape[1:])
        np.testing.assert_array_equal(result.costs, costs[result.exits])


def test_the_models_own_policy_is_the_default(trained, logits, test_images):
    model = ka.AdaptiveModel(trained.inputs, trained.outputs)
    with pytest.raises(ValueError, match="`model.calibrate` chooses one. Received: policy=None"):
        keras_engine(model)
    model.policy = ka.ExitPolicy([np.inf, 0.5, 0])
    found = keras_engine(model).predict(test_images[0][:50])
    np.testing.assert_array_equal(found.exits, model.policy.decide(logits[:, :50]))


def test_a_limit_that_no_sample_can_exceed_is_none(trained, policy, test_images):
    most = trained.exit_costs()[-1]
    free = ka.ExitPolicy([np.inf, 0.5, 0], worst_case=most)
    predictor = keras_engine(trained, free)
    assert predictor._needs == [((1, 2), None)]  # the closed head is not computed
    with pytest.raises(ValueError, match="`policy` must have no `worst_case`"):
        keras_engine(trained, ka.ExitPolicy([np.inf, 0.5, 0], worst_case=0.99 * most))


def test_a_policy_of_another_network_is_refused_with_both_names(trained, policy):
    other = ka.ExitPolicy(policy.thresholds)
    other.network = {"name": "the other", "digest": "0123"}
    with pytest.raises(ValueError, match="a policy of 'the other', and the network 'three_exits'"):
        keras_engine(trained, other)
    other.network = trained.network
    keras_engine(trained, other)


def batches(x, sizes):
    start = 0
    for size in sizes:
        yield x[start : start + size]
        start += size


@settings(max_examples=6, deadline=None)
@given(
    sizes=st.lists(st.integers(1, 30), min_size=1, max_size=8),
    batch_size=st.sampled_from([1, 4, 16]),
    waiting=st.integers(0, 3),
)
def test_streams_one_result_a_batch_in_order(predictor_, test_images, sizes, batch_size, waiting):
    expected = predictor_.predict(test_images[0][: sum(sizes)])
    found = list(predictor_.stream(batches(test_images[0], sizes), batch_size, waiting=waiting))
    assert [len(result.exits) for result in found] == sizes
    for name in ("exits", "labels", "costs"):
        together = np.concatenate([getattr(result, name) for result in found])
        np.testing.assert_array_equal(together, getattr(expected, name))


def filled_anew(x, size):
    array = np.empty_like(x[:size])
    for start in range(0, len(x), size):
        array[...] = x[start : start + size]
        yield array


def test_a_generator_may_fill_one_array_again_and_again(predictor_, trained, logits, test_images):
    x = test_images[0][:60]
    expected = predictor_.predict(x)
    streamed = list(predictor_.stream(filled_anew(x, 10), batch_size=32, waiting=3))
    for found in (predictor_.predict(filled_anew(x, 10)), streamed):
        labels = found.labels if hasattr(found, "labels") else [a for r in found for a in r.labels]
        np.testing.assert_array_equal(labels, expected.labels)
    found, _ = trained.predict_with_costs(filled_anew(x, 10))
    np.testing.assert_allclose(found, logits[:, :60], atol=1e-4)


def test_a_stream_reads_no_further_than_it_may(predictor_, test_images):
    read = []

    def source():
        for i in range(20):
            read.append(i)
            yield test_images[0][5 * i : 5 * i + 5]

    stream = predictor_.stream(source(), batch_size=64, waiting=2)
    assert read == []
    next(stream)
    assert len(read) <= 3
    with pytest.raises(ValueError, match="Received: waiting=-1"):
        predictor_.stream(source(), waiting=-1)


def test_takes_datasets_and_generators(predictor_, test_images, digits):
    expected = predictor_.predict(test_images[0])
    for source in (digits.batches("test", 50), batches(test_images[0], [100, 1, 259])):
        found = predictor_.predict(source, batch_size=40)
        np.testing.assert_array_equal(found.exits, expected.exits)
        np.testing.assert_array_equal(found.labels, expected.labels)
    with pytest.raises(ValueError, match="at least one sample"):
        predictor_.predict(iter([]))


def test_a_budget_picks_the_policy(trained, calibration, test_images):
    logits, labels, costs = calibration
    budgets = [0.3 * costs[-1], 0.6 * costs[-1], costs[-1]]
    policies = [ka.calibrate(logits, labels, costs, budget=b, method="geometric") for b in budgets]
    predictor = keras_engine(trained, policies)
    for policy, budget in zip(policies, budgets, strict=True):
        alone = keras_engine(trained, policy).predict(test_images[0])
        found = predictor.predict(test_images[0], budget=budget)
        np.testing.assert_array_equal(found.exits, alone.exits)
    with pytest.raises(ValueError, match="`budget` must be given where there are several"):
        predictor.predict(test_images[0])
    with pytest.raises(ValueError, match="at least the mean cost of the cheapest policy"):
        predictor.predict(test_images[0], budget=1.0)
    with pytest.raises(ValueError, match="must say its `mean_cost`"):
        keras_engine(trained, ka.ExitPolicy([0, 0, 0])).predict(test_images[0], budget=costs[-1])
    with pytest.raises(ValueError, match="at least one policy"):
        keras_engine(trained, [])


SMALL = {"input_shape": (8, 8, 1), "blocks": 3, "channels": 2, "growth_rate": 2}


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments", [SMALL, {"preset": "cifar_budgeted_5"}, {"preset": "cifar_anytime"}], ids=str
)
def test_the_work_in_the_stages_is_what_lazy_costs_say(arguments):
    model = ka.build_msdnet(**arguments)
    stages = [(s.inputs, s.outputs) for s in model.stages()]
    executed = np.cumsum([graph_macs(inputs, outputs) for inputs, outputs in stages])
    np.testing.assert_array_equal(executed, model.exit_costs())
    assert executed[0] < model.exit_costs(lazy=False)[0]  # laziness saves something


def test_the_weights_of_the_keras_engine_are_those_of_now(test_images):
    model = three_exits()
    predictor = keras_engine(model, ka.ExitPolicy([np.inf, np.inf, 0]))
    before = predictor.predict(test_images[0][:9]).probabilities
    model.set_weights([0 * w for w in model.get_weights()])
    assert before.std() > 0
    np.testing.assert_allclose(predictor.predict(test_images[0][:9]).probabilities, 0.1)


@pytest.mark.parametrize("batch_size", [1, pytest.param(16, marks=pytest.mark.slow)])
def test_latency_is_a_cost_to_calibrate_with(trained, calibration, batch_size):
    logits, labels, _ = calibration
    milliseconds = measure_latency(trained, batch_size=batch_size, engine="keras")
    assert milliseconds.shape == (3,)
    assert (np.diff(milliseconds, prepend=0) > 0).all()
    how = {"budget": milliseconds.mean(), "unit": "ms"}
    policy = ka.calibrate(logits, labels, milliseconds, **how)
    assert policy.details["mean_cost"] <= milliseconds.mean()
    assert policy.unit == "ms"
    limited = ka.ExitPolicy(policy.thresholds, worst_case=3.0)
    limited.unit = "ms"
    with pytest.raises(ValueError, match="`worst_case` must be in MACs.*worst_case=3.0 in 'ms'"):
        keras_engine(trained, limited)
    in_macs = ka.ExitPolicy(policy.thresholds)
    in_macs.unit = "macs"
    with pytest.raises(ValueError, match="must have costs of one unit"):
        keras_engine(trained, [policy, in_macs])


def test_latency_is_that_of_samples_which_leave_at_each_exit(trained, monkeypatch):
    seen, now = [], [0.0]

    def predict(self, x, batch_size, budget, verbose):
        leaves = self._policies[budget].decide(np.ones((3, 4, 10)) * np.arange(10))
        seen.append((len(x), batch_size, set(leaves.tolist())))
        now[0] += [0.5, 0.25, 1.0][budget]

    monkeypatch.setattr(latency.time, "perf_counter", lambda: now[0])
    monkeypatch.setattr(ka.AdaptivePredictor, "predict", predict)
    monkeypatch.setattr(ka.AdaptivePredictor, "warm_up", lambda self, size: None)
    found = measure_latency(trained, batch_size=4, engine="keras")
    np.testing.assert_allclose(found, [125, 125, 250], rtol=1e-6)  # never falling
    assert seen == [(4, 4, {k}) for k in range(3)]


@pytest.mark.parametrize("dtype", ["int32", "float32"])
def test_blank_samples_are_none_that_masks_leave_out(dtype):
    x = keras.Input((3,) if dtype == "int32" else (3, 2), dtype=dtype)
    whole = keras.layers.Embedding(9, 2, mask_zero=True)
    features = (whole if dtype == "int32" else keras.layers.Masking())(x)
    mean = keras.layers.GlobalAveragePooling1D()(features)
    model = ka.AdaptiveModel(x, [keras.layers.Dense(4)(mean)])
    keras_engine(model, ka.ExitPolicy([0.0])).warm_up(2)  # which refuses logits that are NaN


@pytest.mark.slow
@pytest.mark.subprocess
def test_latency_with_another_number_of_threads(trained):
    milliseconds = measure_latency(trained, batch_size=4, threads=1, engine="keras")
    assert (np.diff(milliseconds, prepend=0) > 0).all()


def test_latency_of_other_threads_is_measured_in_another_process(trained, monkeypatch):
    ran = {}

    def run(command, env, **kwargs):
        ran.update(command=command, env=env)
        assert keras.models.load_model(command[3], compile=False).exits == 3
        return SimpleNamespace(
            returncode=ran.get("fails", 0), stdout="hello\n[1.0, 2.0]\n", stderr=""
        )

    monkeypatch.setattr(latency.subprocess, "run", run)
    monkeypatch.setattr(latency, "cores", lambda: 7)
    four, seven = np.int64(4), np.int8(7)  # numpy's integers are integers
    assert measure_latency(trained, batch_size=four, threads=seven).tolist() == [1.0, 2.0]
    assert ran["command"][4:] == ["4", "7", "auto"]
    assert ran["env"]["KERAS_BACKEND"] == "tensorflow"
    assert ran["env"]["TF_NUM_INTRAOP_THREADS"] == "7"
    compile(ran["command"][2], "program", "exec")
    ran["fails"] = 1
    with pytest.raises(ValueError, match=r"can be saved and loaded.*\(no message\)"):
        measure_latency(trained, threads=1)


def test_latency_rejects_impossible_arguments(trained):
    with pytest.raises(ValueError, match="^`engine` must be .* Received: engine=cpu"):
        measure_latency(trained, threads=1, engine="cpu")
    with pytest.raises(ValueError, match="from 1 to the number of cores.*Received: threads=999"):
        measure_latency(trained, threads=999)
    with pytest.raises(ValueError, match="Received: threads=True"):
        measure_latency(trained, threads=True)
    with pytest.raises(ValueError, match="Received: threads=0"):
        measure_latency(trained, threads=0)
    with pytest.raises(ValueError, match="Received: batch_size=0"):
        measure_latency(trained, batch_size=0)
    with pytest.raises(TypeError, match="`model` must be an AdaptiveModel"):
        measure_latency("model")


def test_costs_are_those_of_the_exits(predictor_, trained, test_images):
    result = predictor_.predict(test_images[0])
    assert len(set(result.exits)) > 1
    np.testing.assert_array_equal(result.costs, trained.exit_costs()[result.exits])


@pytest.fixture
def sizes(monkeypatch):
    """The batch sizes that each stage of networks made from now on is asked for."""
    seen, make = {}, _stages._compiled

    def watched(model, may_jit):
        function, mine = make(model, may_jit), seen.setdefault(model.name, [])
        return lambda tensors: (mine.append(len(tensors[0])), function(tensors))[1]

    monkeypatch.setattr(_stages, "_compiled", watched)
    return seen


@pytest.mark.parametrize("batch_size", [16, 32, 64])
def test_late_stages_run_full_and_see_only_who_is_left(
    trained, policy, test_images, sizes, batch_size
):
    exits = keras_engine(trained, policy).predict(test_images[0], batch_size).exits
    assert len(set(exits.tolist())) == 3
    for k, found in enumerate(sizes.values()):
        full, rest = divmod(int((exits >= k).sum()), batch_size)
        assert found == [batch_size] * full + [rest] * (rest > 0)


def test_where_sizes_are_compiled_batches_are_filled_up(trained, policy, test_images, sizes):
    stages = Stages(trained, policy.used_exits)
    stages.pads = True
    plain = keras_engine(trained, policy).predict(test_images[0][:90], 32)
    sizes.clear()
    x = test_images[0][:90].astype("float32")
    (found,) = stages.run(policy, [[x]], 32, 0)
    np.testing.assert_array_equal(found.exits, plain.exits)


def test_closed_exits_are_not_computed(trained, logits, test_images, sizes):
    policy = ka.ExitPolicy([np.inf, 0.9, 0])
    result = keras_engine(trained, policy).predict(test_images[0])
    np.testing.assert_array_equal(result.exits, policy.decide(logits))
    assert 0 not in result.exits
    assert len(sizes) == 2
    np.testing.assert_array_equal(result.costs, trained.exit_costs(exits=[1, 2])[result.exits - 1])
    assert result.costs.max() < trained.exit_costs()[-1]


@pytest.mark.parametrize("x", [np.zeros((2, 8, 8)), np.zeros((2, 9, 8, 1)), np.zeros(3)])
@pytest.mark.parametrize("engine", ["keras", "litert"])
def test_rejects_images_of_another_shape(by_engine, engine, x):
    with pytest.raises(ValueError, match=r"`x` must be of shape \(samples, 8, 8, 1\)"):
        by_engine[engine].predict(x, verbose=0)


@pytest.mark.parametrize(
    ("x", "error", "message"),
    [
        (None, TypeError, "`x` must be an array.*Received: x=None"),
        (3, TypeError, "`x` must be an array.*Received: x=3"),
        ("photo.png", TypeError, "`x` must be an array.*Received: x='photo.png'"),
        (
            (np.zeros((2, 8, 8, 1)), np.zeros(2)),
            ValueError,
            r"of one shape.*\(2, 8, 8, 1\), \(2,\)",
        ),
        ([[1.0, 2.0], [3.0]], ValueError, "`x` must be an array, or a list of parts of one shape"),
        (np.ma.masked_less(np.zeros((2, 8, 8, 1)), 1), ValueError, "`x` must be without a mask"),
    ],
)
@pytest.mark.parametrize("engine", ["keras", "litert"])
def test_rejects_what_is_no_array(by_engine, engine, x, error, message):
    with pytest.raises(error, match=message):
        by_engine[engine].predict(x, verbose=0)


@pytest.mark.parametrize("value", [np.nan, np.inf])
@pytest.mark.parametrize("engine", ["keras", "litert"])
def test_rejects_images_that_give_no_answer(by_engine, engine, value):
    with pytest.raises(ValueError, match="The logits must be finite. Received: NaN or infinity"):
        by_engine[engine].predict(np.full((1, 8, 8, 1), value), verbose=0)


def test_rejects_weights_that_give_no_answer(test_images):
    model = three_exits()
    model.set_weights([np.nan * w for w in model.get_weights()])
    with pytest.raises(ValueError, match="The logits must be finite. .* at exit 0; look at `x`"):
        keras_engine(model, ka.ExitPolicy([0.5, 0.5, 0])).predict(test_images[0][:3])


def test_rejects_no_images_and_impossible_batches(predictor_):
    with pytest.raises(ValueError, match="at least one sample"):
        predictor_.predict(np.zeros((0, 8, 8, 1)))
    for batch_size in (0, True, 2.0, "8"):
        with pytest.raises(ValueError, match=f"Received: batch_size={batch_size}"):
            predictor_.predict(np.zeros((1, 8, 8, 1)), batch_size=batch_size)
        with pytest.raises(ValueError, match=f"Received: batch_size={batch_size}"):
            predictor_.stream([np.zeros((1, 8, 8, 1))], batch_size)
    for budget in (np.nan, True, "cheap"):
        with pytest.raises(ValueError, match=f"`budget` must be .* Received: budget='?{budget}"):
            predictor_.predict(np.zeros((1, 8, 8, 1)), budget=budget)


def test_numpy_numbers_are_numbers(predictor_, policy, test_images):
    images, budget = test_images[0][:20], 2 * policy.details["mean_cost"]
    expected = predictor_.predict(images, batch_size=8, budget=budget)
    found = predictor_.predict(images, batch_size=np.int64(8), budget=np.float32(budget))
    np.testing.assert_array_equal(found.exits, expected.exits)
    (streamed,) = predictor_.stream([images], np.uint8(8), np.array(budget), np.int32(1))
    np.testing.assert_array_equal(streamed.exits, expected.exits)


def test_rejects_a_policy_for_another_network(trained):
    with pytest.raises(ValueError, match="2 thresholds, 3 exits"):
        keras_engine(trained, ka.ExitPolicy([0.5, 0]))
    with pytest.raises(TypeError, match="`policy` must be an ExitPolicy"):
        keras_engine(trained, [0.5, 0.5, 0])
    with pytest.raises(TypeError, match="`model` must be an AdaptiveModel"):
        keras_engine("model", ka.ExitPolicy([0.5, 0]))
    with pytest.raises(ValueError, match="`engine` must be one of .* Received: engine=xla"):
        ka.AdaptivePredictor(trained, ka.ExitPolicy([0.5, 0.5, 0]), engine="xla")


# ---- which engine


def test_the_engine_that_was_asked_for_says_so(by_engine):
    for engine, predictor in by_engine.items():
        assert predictor.engine == engine
        assert predictor.engine_reason == f"The engine is {engine}: it was asked for."


def test_auto_is_litert_where_the_network_converts(trained, policy, test_images, capfd):
    predictor = ka.AdaptivePredictor(trained, policy)
    predictor.predict(test_images[0][:5])
    expected = "The engine is litert: this is a CPU, and the network converts."
    assert predictor.engine_reason == expected
    said = capfd.readouterr().err
    predictor.predict(test_images[0][:5])
    assert said.count(expected) == 1
    assert expected not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("network", "reason"),
    [
        ("open size", "the sizes of the network's inputs are open"),
        ("dense", "the network's outputs are dense"),
    ],
)
def test_auto_is_keras_where_there_can_be_no_file(network, reason, capfd):
    made = NETWORKS[network]()
    predictor = ka.AdaptivePredictor(made, ka.ExitPolicy([0.5, 0]))
    predictor.predict(samples_of(made))
    assert predictor.engine == "keras"
    assert predictor.engine_reason.startswith(f"The engine is keras: {reason}")
    assert predictor.engine_reason in capfd.readouterr().err
    with pytest.raises(ValueError, match="`engine` must be"):
        ka.AdaptivePredictor(made, ka.ExitPolicy([0.5, 0]), engine="litert").predict(
            samples_of(made)
        )


def test_auto_is_keras_where_there_is_another_device(trained, policy, monkeypatch):
    import tensorflow as tf

    devices = [SimpleNamespace(device_type=kind) for kind in ("CPU", "GPU")]
    monkeypatch.setattr(tf.config, "list_physical_devices", lambda: devices)
    reason = "The engine is keras: there is a GPU."
    assert ka.AdaptivePredictor(trained, policy).engine_reason == reason


@pytest.mark.parametrize(
    "error", [ImportError("no LiteRT"), RuntimeError("an operation\nof another kind")]
)
def test_auto_goes_on_with_keras_where_the_file_fails(
    trained, policy, test_images, monkeypatch, error
):
    def fails(*arguments):
        raise error

    monkeypatch.setattr(_kept, "opened", fails)
    made = ka.AdaptivePredictor(trained, policy)
    assert made.predict(test_images[0][:3], verbose=0).exits.shape == (3,)
    first = str(error).splitlines()[0]
    assert made.engine_reason == f"The engine is keras: the network does not convert ({first})."
    with pytest.raises(type(error)):
        ka.AdaptivePredictor(trained, policy, engine="litert").predict(test_images[0][:3])


@pytest.mark.parametrize("engine", ["keras", "litert"])
def test_warm_up_prepares_every_stage(by_engine, trained, engine):
    assert by_engine[engine].warm_up(4) is None
    with pytest.raises(ValueError, match="Received: batch_size=0"):
        by_engine[engine].warm_up(0)
    with pytest.raises(ValueError, match="inputs of fixed size"):
        keras_engine(open_size(), ka.ExitPolicy([0.5, 0])).warm_up()
