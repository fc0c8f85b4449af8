import functools
from types import SimpleNamespace

import keras
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from tiny import three_exits

import keras_adaptive as ka
from keras_adaptive import _graph as graph
from keras_adaptive.inference import _memory as memory
from keras_adaptive.inference import _timings as timings
from keras_adaptive.inference import latency, measure_latency
from keras_adaptive.inference._compiled import TensorFlowStages, _fastest, _tensor, compiled
from keras_adaptive.inference._conditional import leaving_at, nested
from keras_adaptive.inference._plan import Plan
from keras_adaptive.inference._timings import FULL, Timings, medians_in_turn


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
def predictor(trained, policy):
    return ka.AdaptivePredictor(trained, policy)


@settings(max_examples=6, deadline=None)
@given(batch_size=st.integers(1, 400), seed=st.integers(0, 9))
def test_decides_as_the_policy_does_on_all_logits(
    predictor, policy, logits, test_images, far_from_thresholds, batch_size, seed
):
    order = np.random.default_rng(seed).permutation(len(test_images[0]))[:60]
    result = predictor.predict(test_images[0][order], batch_size=batch_size)
    far = far_from_thresholds(policy, logits[:, order])
    expected = policy.decide(logits[:, order])
    np.testing.assert_array_equal(result.exits[far], expected[far])
    chosen = logits[result.exits, order]
    np.testing.assert_array_equal(result.labels, chosen.argmax(-1))
    np.testing.assert_allclose(result.probabilities, ka.policy.softmax(chosen), atol=1e-5)


WAYS = (1, 2, 3, 0)  # stages that run together at first
COMPILERS = {"XLA": "_interpreted", "TensorFlow": "_by_xla"}  # and the other one's name


@pytest.fixture(scope="module")
def predictors(trained, logits):
    """Function: kind of confidence and compiler of single samples to a predictor."""
    temperatures = [4.0, 2.0, 3.0]

    @functools.cache
    def make(kind, compiler):
        confidences = ka.policy.confidence(logits, kind, temperatures)
        policy = ka.ExitPolicy(np.median(confidences, axis=1), kind, temperatures)
        predictor = ka.AdaptivePredictor(trained, policy)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(TensorFlowStages, COMPILERS[compiler], lambda *arguments: None)
            predictor._runners[0].plan(1)
        return predictor

    return make


KINDS = ["max_prob", "prob_margin", "logit_margin", "entropy"]
PAIRS = [("XLA", "entropy"), ("TensorFlow", "max_prob")]  # the other six are slow
OTHERS = [(way, kind) for way in COMPILERS for kind in KINDS if (way, kind) not in PAIRS]


@pytest.mark.parametrize(
    ("compiler", "kind"), [*PAIRS, *(pytest.param(*p, marks=pytest.mark.slow) for p in OTHERS)]
)
@settings(max_examples=8, deadline=None)
@given(
    batch_size=st.integers(1, 8),
    way=st.sampled_from(WAYS),
    regroup=st.sampled_from([True, False]),
    seed=st.integers(0, 9),
)
def test_answers_do_not_depend_on_the_plan(
    predictors,
    logits,
    test_images,
    far_from_thresholds,
    compiler,
    kind,
    batch_size,
    way,
    regroup,
    seed,
):
    order = np.random.default_rng(seed).permutation(len(test_images[0]))[:20]
    predictor = predictors(kind, compiler)
    policy = predictor.policy
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Plan, "choose", lambda self: way)
        patch.setattr(Plan, "regroup", lambda self, *arguments: regroup)
        result = predictor.predict(test_images[0][order], batch_size=batch_size)
    far = far_from_thresholds(policy, logits[:, order])
    assert far.sum() > 10
    np.testing.assert_array_equal(result.exits[far], policy.decide(logits[:, order])[far])
    chosen = logits[result.exits, order]
    np.testing.assert_array_equal(result.labels, chosen.argmax(-1))
    expected = ka.policy.softmax(chosen / policy.temperatures[result.exits][:, None])
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("forced", [False, True])
def test_one_sample_leaves_where_the_policy_says(rng, kind, forced):
    """The rule in the graph, with stages that know their answers; eagerly."""
    logits = rng.normal(size=(3, 15, 5)) * 3
    temperatures = [0.5, 2.0, 1.5]
    confidences = ka.policy.confidence(logits, kind, temperatures)
    policy = ka.ExitPolicy(np.quantile(confidences, 0.45, axis=1), kind, temperatures)
    must = np.full((3, 15), forced) & (rng.random((3, 15)) < 0.3)  # whatever the policy says

    class Three:
        inputs, outputs = [["x"], ["f_0"], ["f_1", "x"]], [["f_0"], ["f_1"], []]
        classes = 5

        def __len__(self):
            return 3

        def carried(self, k):
            return graph.external_inputs(self.inputs[k:], self.outputs[k:])

    for i in range(15):

        def apply(k, tensors, i=i):
            assert [int(t[0]) for t in tensors] == [[i], [10], [20, i]][k]
            extra = [float(must[k, i])] if forced else []
            answer = keras.ops.convert_to_tensor([[*logits[k, i], *extra]], "float32")
            return [answer, *([np.array([10 * (k + 1)])] if k < 2 else [])]

        answer, stage = nested(apply, Three(), policy, [0, 1, 2])(
            np.array([i]), keras.ops.convert_to_tensor(policy.log_odds, "float32")
        )
        leaves = (confidences[:, i] >= policy.thresholds) | must[:, i]
        assert int(stage) == leaves.argmax()
        np.testing.assert_allclose(answer[0, :5], logits[int(stage), i], rtol=1e-6)


def as_given(exits, classes):
    """A network whose answers are what it is given."""
    given = keras.Input((exits, classes))
    return ka.AdaptiveModel(given, [keras.layers.Identity()(given[:, k]) for k in range(exits)])


@pytest.mark.parametrize("policy", [ka.PatiencePolicy(2), ka.AgreementPolicy(2, 0.6)], ids=repr)
def test_one_sample_leaves_where_its_answers_agree(rng, policy):
    logits = rng.normal(size=(4, 20, 3))
    network = as_given(4, 3)
    stages = compiled(graph.minimal_stages(network.inputs, network.outputs))

    def apply(k, tensors):
        return stages.models[k](tensors)

    function = nested(apply, stages, policy, [0, 1, 2, 3])
    never = keras.ops.full((4,), np.inf)
    found = [int(function(logits[:, i][None].astype("float32"), never)[1]) for i in range(20)]
    expected = policy.decide(logits).tolist()
    assert found == expected
    assert len(set(expected)) > 1


@pytest.mark.parametrize("policy", [ka.PatiencePolicy(2), ka.AgreementPolicy(2, 0.6)], ids=repr)
@pytest.mark.parametrize("way", [1, 2, 3, pytest.param(0, marks=pytest.mark.slow)])
def test_answers_that_agree_are_followed_whatever_the_plan(rng, policy, way, monkeypatch):
    monkeypatch.setattr(Plan, "choose", lambda self: way)
    monkeypatch.setattr(Plan, "regroup", lambda self, k, *more: k == 2)
    logits = rng.normal(size=(4, 90, 3)).astype("float32")
    predictor = ka.AdaptivePredictor(as_given(4, 3), policy)
    result = predictor.predict(logits.swapaxes(0, 1), batch_size=16 if way else 1)
    expected = policy.decide(logits)
    assert len(set(expected.tolist())) > 2
    np.testing.assert_array_equal(result.exits, expected)
    chosen = logits[expected, np.arange(90)]
    np.testing.assert_array_equal(result.labels, chosen.argmax(-1))
    np.testing.assert_allclose(result.probabilities, ka.policy.softmax(chosen), atol=1e-5)


def test_the_models_own_policy_is_the_default(trained, logits, test_images):
    model = ka.AdaptiveModel(trained.inputs, trained.outputs)
    with pytest.raises(ValueError, match="`model.calibrate` chooses one. Received: policy=None"):
        ka.AdaptivePredictor(model)
    model.policy = ka.ExitPolicy([np.inf, 0.5, 0])
    found = ka.AdaptivePredictor(model).predict(test_images[0][:50])
    np.testing.assert_array_equal(found.exits, model.policy.decide(logits[:, :50]))


def test_a_limit_that_no_sample_can_exceed_is_none(trained, policy, test_images):
    most = trained.exit_costs()[-1]
    free = ka.ExitPolicy([np.inf, 0.5, 0], worst_case=most)
    predictor = ka.AdaptivePredictor(trained, free)
    assert predictor._runners[0].network.exits == [1, 2]  # the closed head is not computed
    with pytest.raises(ValueError, match="`policy` must have no `worst_case`"):
        ka.AdaptivePredictor(trained, ka.ExitPolicy([np.inf, 0.5, 0], worst_case=0.99 * most))


def test_a_policy_of_another_network_is_refused_with_both_names(trained, policy):
    other = ka.ExitPolicy(policy.thresholds)
    other.network = {"name": "the other", "digest": "0123"}
    with pytest.raises(ValueError, match="a policy of 'the other', and the network 'three_exits'"):
        ka.AdaptivePredictor(trained, other)
    other.network = trained.network
    ka.AdaptivePredictor(trained, other)


def test_thresholds_with_which_any_sample_leaves_there():
    assert leaving_at(1, 3).tolist() == [np.inf, -np.inf, np.inf]
    assert leaving_at(0, 1).dtype == "float32"


def test_what_xla_cannot_compile_is_left_to_tensorflow(trained, test_images):
    import tensorflow as tf

    stages = compiled(graph.minimal_stages(trained.inputs, trained.outputs))

    def make(apply):
        return lambda images: [tf.numpy_function(lambda x: 2 * x, [images], "float32")]

    image = test_images[0][:1]
    np.testing.assert_array_equal(stages.for_one(make)(image)[0], 2 * image)


def test_a_plan_takes_the_way_that_is_fastest_if_samples_go_on_as_they_did():
    class Table:
        def stage(self, k, size):
            return 1.0

        def regrouping(self, k, size):
            return 0.01

        def first(self, count, size):
            return 0.9 * count

        def conditional(self, function, k):
            return 0.5 * (k + 1)

        def full(self, k, batch_size, waiting):
            return batch_size

    plan = Plan(Table(), 3, 4, None, 256)
    assert plan.choose() == 1  # a third leaves at each exit: 1 + 2/3 + 1/3
    plan.learn(2, 1000)
    assert plan.choose() == 3  # everybody stays
    plan.learn(1, 2000)
    assert plan.choose() == 2  # everybody sees the second exit, few the third
    plan = Plan(Table(), 3, 4, lambda image: image, 256)
    plan.learn(0, 1000)
    assert plan.choose() == 1
    assert plan.seconds()[0] == pytest.approx(0.5, rel=0.01)
    assert 0 not in Plan(Table(), 3, 256, None, 512).seconds()
    plan = Plan(None, 3, 1, lambda image: image, 2)  # needs no table
    plan.learn(2, 1000)
    assert plan.choose() == 0


def test_regroups_where_copying_costs_less_than_it_saves():
    class Table:
        def stage(self, k, size):
            return size * 1.0

        def regrouping(self, k, size):
            return 0.25

        def full(self, k, batch_size, waiting):
            return batch_size

    plan = Plan(Table(), 2, 8, None, 512)
    assert plan.regroup(1, 8, 6, 0, False)  # 6 * 1.25 < 8
    assert not plan.regroup(1, 8, 7, 0, False)  # 7 * 1.25 > 8
    assert not plan.regroup(1, 8, 8, 0, False)
    assert plan.regroup(1, 8, 4, 0, True)  # 4 * 1.25 < 8
    assert not plan.regroup(1, 8, 5, 0, True)  # would run as a batch of 8
    assert plan.regroup(1, 8, 5, 2, True)  # two would run anyway: 5 * 0.25 + 8 - 2 < 8
    assert not plan.regroup(1, 8, 7, 1, True)  # 7 * 0.25 + 8 - 1 > 8


def test_who_must_be_answered_at_once_is_planned_for_alone():
    class Table:
        def stage(self, k, size):
            return size**0.5

        def regrouping(self, k, size):
            return 0.0

        def first(self, count, size):
            return 80.0

        def full(self, k, batch_size, waiting):
            return batch_size

    alone, in_a_crowd = (Plan(Table(), 2, 16, None, waiting) for waiting in (0, 256))
    for plan in (alone, in_a_crowd):
        plan.learn(0, 1000)
        plan.learn(1, 1000)
    assert in_a_crowd.seconds()[1] == pytest.approx((4 + 4 / 2) / 16)
    assert alone.seconds()[1] == pytest.approx((4 + 8**0.5) / 16)


@pytest.mark.parametrize(
    ("batch_size", "waiting"), [(1, 256), (16, 0), (16, 1024), (96, 0), (96, 96)]
)
def test_stages_run_with_the_number_that_takes_a_sample_least(batch_size, waiting):
    class Table(Timings):
        def __init__(self, best):
            self.stage = lambda k, size: size * (1.0 if size == best else 2.0)
            self.regrouping = lambda k, size: 0.1

    read = Table(batch_size)
    assert [read.full(k, batch_size, waiting) for k in range(3)] == [batch_size] * 3
    first, late = (Table(FULL).full(k, batch_size, waiting) for k in (0, 1))
    may = batch_size > 1 and max(batch_size, waiting) >= FULL
    assert late == (FULL if may else batch_size)
    assert first == (FULL if may and batch_size < FULL else batch_size)


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
def test_streams_one_result_a_batch_in_order(predictor, test_images, sizes, batch_size, waiting):
    expected = predictor.predict(test_images[0][: sum(sizes)])
    found = list(predictor.stream(batches(test_images[0], sizes), batch_size, waiting=waiting))
    assert [len(result.exits) for result in found] == sizes
    for name in ("exits", "labels", "costs"):
        together = np.concatenate([getattr(result, name) for result in found])
        np.testing.assert_array_equal(together, getattr(expected, name))


def test_a_stream_reads_no_further_than_it_may(predictor, test_images):
    read = []

    def source():
        for i in range(20):
            read.append(i)
            yield test_images[0][5 * i : 5 * i + 5]

    stream = predictor.stream(source(), batch_size=64, waiting=2)
    assert read == []
    next(stream)
    assert len(read) <= 3
    with pytest.raises(ValueError, match="Received: waiting=-1"):
        predictor.stream(source(), waiting=-1)


def test_takes_datasets_and_generators(predictor, test_images, digits):
    expected = predictor.predict(test_images[0])
    for source in (digits.batches("test", 50), batches(test_images[0], [100, 1, 259])):
        found = predictor.predict(source, batch_size=40)
        np.testing.assert_array_equal(found.exits, expected.exits)
        np.testing.assert_array_equal(found.labels, expected.labels)
    with pytest.raises(ValueError, match="at least one sample"):
        predictor.predict(iter([]))


def test_a_budget_picks_the_policy(trained, calibration, test_images):
    logits, labels, costs = calibration
    budgets = [0.3 * costs[-1], 0.6 * costs[-1], costs[-1]]
    policies = [ka.calibrate(logits, labels, costs, budget=b, method="geometric") for b in budgets]
    predictor = ka.AdaptivePredictor(trained, policies)
    for policy, budget in zip(policies, budgets, strict=True):
        alone = ka.AdaptivePredictor(trained, policy).predict(test_images[0])
        found = predictor.predict(test_images[0], budget=budget)
        np.testing.assert_array_equal(found.exits, alone.exits)
    with pytest.raises(ValueError, match="`budget` must be given where there are several"):
        predictor.predict(test_images[0])
    with pytest.raises(ValueError, match="at least the mean cost of the cheapest policy"):
        predictor.predict(test_images[0], budget=1.0)
    with pytest.raises(ValueError, match="must say its `mean_cost`"):
        ka.AdaptivePredictor(trained, ka.ExitPolicy([0, 0, 0])).predict(
            test_images[0], budget=costs[-1]
        )
    with pytest.raises(ValueError, match="at least one policy"):
        ka.AdaptivePredictor(trained, [])


def executed_macs(graph_):
    """Multiply-accumulates of a TensorFlow graph, for one sample, from its operations."""
    total = 0
    for operation in graph_.get_operations():
        if operation.type == "Conv2D":
            assert operation.get_attr("data_format") == b"NHWC"
            kernel = operation.inputs[1].shape
            total += np.prod(operation.outputs[0].shape[1:3]) * np.prod(kernel)
        elif operation.type == "MatMul":
            total += np.prod(operation.inputs[1].shape)
        else:
            assert "Conv" not in operation.type, operation.type
    return total


def test_policies_that_differ_in_thresholds_share_the_function_for_one_sample(
    trained, logits, test_images, far_from_thresholds
):
    confidences = ka.policy.confidence(logits, "max_prob", [1.0, 1.0, 1.0])
    policies = [
        ka.ExitPolicy(
            np.quantile(confidences, q, axis=1), temperatures=[t] * 3, details={"mean_cost": i}
        )
        for i, (q, t) in enumerate([(0.3, 1.0), (0.7, 1.0), (0.5, 1.2)])
    ]
    predictor = ka.AdaptivePredictor(trained, policies)
    images = test_images[0][:30]
    streams = [
        predictor.stream([images[i : i + 1] for i in range(30)], 1, budget=i) for i in range(3)
    ]
    results = list(zip(*streams, strict=True))  # by turns, as three users would
    for i, policy in enumerate(policies):
        far = far_from_thresholds(policy, logits[:, :30])
        found = np.array([result[i].exits[0] for result in results])
        np.testing.assert_array_equal(found[far], policy.decide(logits[:, :30])[far])
        assert len(set(found)) > 1
    (network,) = {runner.network for runner in predictor._runners}
    assert len(network._conditionals) == 2  # temperatures are part of the function
    assert predictor._runners[0].plan(8).conditional is not None
    assert predictor._runners[0].plan(256).conditional is None  # samples never run one by one


@settings(max_examples=30, deadline=None)
@given(
    shape=st.lists(st.integers(1, 9), min_size=1, max_size=4),
    shift=st.integers(0, 15),
    readonly=st.booleans(),
)
def test_arrays_become_tensors_wherever_they_lie_in_memory(shape, shift, readonly):
    memory = np.random.default_rng(0).normal(size=np.prod(shape) + 15).astype("float32")
    array = memory[shift : shift + np.prod(shape)].reshape(shape)
    for view in (array, array.T, array[::-1]):
        view.flags.writeable = not readonly
        np.testing.assert_array_equal(_tensor(view).numpy(), view)
    for dtype in ("float16", "float64", "uint8"):
        assert _tensor(array.astype(dtype)).dtype == dtype


SMALL = {"input_shape": (8, 8, 1), "blocks": 3, "channels": 2, "growth_rate": 2}


@pytest.mark.parametrize(
    "arguments",
    [
        SMALL,
        pytest.param({"preset": "cifar_budgeted_5"}, marks=pytest.mark.slow),
        pytest.param({"preset": "cifar_anytime"}, marks=pytest.mark.slow),
    ],
    ids=str,
)
def test_the_work_in_the_stages_is_what_lazy_costs_say(arguments):
    model = ka.build_msdnet(**arguments)
    stages = compiled(graph.minimal_stages(model.inputs, model.outputs))
    executed = np.cumsum([executed_macs(function.graph) for function in stages.functions])
    np.testing.assert_array_equal(executed, model.exit_costs())
    assert executed[0] < model.exit_costs(lazy=False)[0]  # laziness saves something


def test_nothing_is_traced_again(trained, policy, test_images):
    predictor = ka.AdaptivePredictor(trained, policy)
    stages = predictor._runners[0].network.stages
    before = list(stages.functions)
    for batch_size in (5, 6, 64):
        predictor.predict(test_images[0][:70], batch_size=batch_size)
    assert stages.functions == before
    # else every call fails at first, which writes a message with all its arguments
    assert all(function.structured_input_signature[1] == {} for function in before)
    assert all(function.inputs[0].shape[0] is None for function in before)


def clock(monkeypatch, durations):
    """Lets calls take these seconds, one after the other."""
    left = iter(durations)
    monkeypatch.setattr(timings, "_seconds", lambda function: (function(), next(left))[1])


def test_the_median_is_of_calls_in_turn_without_the_first(monkeypatch):
    order = []
    monkeypatch.setattr(timings, "REPEATS", 6)
    seconds = np.array([90, 80, 70, 60, 1, 10, 2, 20, 3, 30, 5, 50]) / 1024
    clock(monkeypatch, seconds)
    found = medians_in_turn([lambda: order.append("a"), lambda: order.append("b")])
    assert (1024 * np.array(found)).tolist() == [
        2.5,
        25,
    ]  # of 1, 2, 3, 5: a third of six is not counted
    assert order == ["a", "b"] * 7  # and the very first is not timed


def test_what_is_slow_is_measured_less_often_but_four_times(monkeypatch):
    monkeypatch.setattr(timings, "REPEATS", 30)
    clock(monkeypatch, [1.0] * 30)
    calls = []
    assert medians_in_turn([lambda: calls.append(0)]) == [1.0]
    assert len(calls) == 1 + 4
    calls.clear()
    clock(monkeypatch, [0.3] * 30)
    medians_in_turn([lambda: calls.append(0)])
    assert len(calls) == 1 + 7  # two seconds are enough
    calls.clear()
    clock(monkeypatch, [9.0, 8.0, 1.0] * 30)
    assert medians_in_turn([lambda: calls.append(0)], warm=2) == [1.0]  # the last of three


def test_copying_is_timed_for_a_sample_and_all_that_is_read(monkeypatch):
    asked = []
    stages = SimpleNamespace(specs={"a": ((3,), "float32"), "b": ((2, 2), "float32")})
    stages.carried = lambda k: asked.append(k) or ["a", "b"]
    monkeypatch.setattr(timings, "median_seconds", lambda copy: (copy(), 3.0)[1])
    assert Timings(stages).regrouping(2, 8) == 6.0 / 4  # every other row
    assert asked == [2]


def test_the_fastest_function_is_taken(monkeypatch):
    monkeypatch.setattr(timings, "CHOOSING", 0.02)
    calls = []

    def takes(milliseconds):
        import time

        return lambda *given: (calls.append(given), time.sleep(milliseconds / 1000))

    slow, fast = takes(4), takes(0)
    assert _fastest([slow, fast], [[1], [2]]) is fast
    assert _fastest([fast, slow], [[1], [2]]) is fast
    assert _fastest([slow, None], [[1]]) is slow
    assert set(calls) == {(1,), (2,)}


@pytest.mark.parametrize("rows", [[], [3], [5, 0, 5, 2]])
@pytest.mark.parametrize("shared", [False, True])
def test_rows_are_copied_whether_by_one_thread_or_several(rng, monkeypatch, rows, shared):
    if shared:
        monkeypatch.setattr(memory, "LARGE", 0)
        monkeypatch.setattr(memory, "THREADS", 3)
    source, rows = rng.normal(size=(6, 2, 3)), np.array(rows, int)
    target = np.empty((len(rows), 2, 3))
    memory.copy_rows(source, rows, target)
    np.testing.assert_array_equal(target, source[rows])


@pytest.mark.parametrize("dtype", ["float32", "uint8", "float64"])
def test_memory_is_aligned_for_tensorflow(dtype):
    for shape in ((1,), (3, 5), (2, 7, 1)):
        array = memory.aligned(shape, dtype)
        assert (array.shape, array.dtype) == (shape, dtype)
        assert array.ctypes.data % 64 == 0
        assert memory.is_aligned(array)
    assert not memory.is_aligned(array.reshape(-1)[1:])
    assert not memory.is_aligned(memory.aligned((16, 16), dtype).T)


def test_times_are_measured_once(trained, test_images):
    stages = compiled(graph.minimal_stages(trained.inputs, trained.outputs))
    timings = Timings(stages)
    first = [timings.first(3, 4)] + [timings.stage(k, 4) for k in range(3)]
    assert min(first) > 0
    assert first == [timings.first(3, 4)] + [timings.stage(k, 4) for k in range(3)]
    assert timings.regrouping(0, 4) > 0


@pytest.mark.parametrize("batch_size", [1, 16])
def test_latency_is_a_cost_to_calibrate_with(trained, calibration, batch_size):
    logits, labels, _ = calibration
    milliseconds = measure_latency(trained, batch_size=batch_size)
    assert milliseconds.shape == (3,)
    assert (np.diff(milliseconds, prepend=0) > 0).all()
    policy = ka.calibrate(logits, labels, milliseconds, budget=milliseconds.mean())
    assert policy.details["mean_cost"] <= milliseconds.mean()


@pytest.mark.slow
@pytest.mark.subprocess
def test_latency_with_another_number_of_threads(trained):
    milliseconds = measure_latency(trained, batch_size=4, threads=1)
    assert (np.diff(milliseconds, prepend=0) > 0).all()


def test_latency_adds_up_stages_and_copies(trained, monkeypatch):
    class Table:
        def __init__(self, stages):
            self.full = lambda k, batch_size, waiting: [batch_size, FULL, 8][k]
            self.stage = lambda k, size: (k + 1) * size
            self.regrouping = lambda k, size: 0.001 * size

        def conditional(self, function, k):
            return [2.0, 1.0, 3.0][k]

    monkeypatch.setattr(latency, "Timings", Table)
    found = measure_latency(trained, batch_size=4)
    np.testing.assert_allclose(found, 1000 * np.cumsum([1, 2 + 0.064, 3 + 0.008]))
    found = measure_latency(trained, batch_size=1)  # never falling
    np.testing.assert_allclose(found, [2000, 2000, 3000], rtol=1e-6)
    assert (np.diff(found) > 0).all()


def test_latency_of_other_threads_is_measured_in_another_process(trained, monkeypatch):
    ran = {}

    def run(command, env, **kwargs):
        ran.update(command=command, env=env)
        assert keras.models.load_model(command[3], compile=False).exits == 3
        return SimpleNamespace(
            returncode=ran.get("fails", 0), stdout="hello\n[1.0, 2.0]\n", stderr=""
        )

    monkeypatch.setattr(latency.subprocess, "run", run)
    monkeypatch.setattr(latency, "_threads", lambda: 5)
    monkeypatch.setattr(latency, "_cores", lambda: 7)
    four, seven = np.int64(4), np.int8(7)  # numpy's integers are integers
    assert measure_latency(trained, batch_size=four, threads=seven).tolist() == [1.0, 2.0]
    assert ran["command"][4:] == ["4", "7"]
    assert ran["env"]["KERAS_BACKEND"] == "tensorflow"
    compile(ran["command"][2], "program", "exec")
    ran["fails"] = 1
    with pytest.raises(ValueError, match=r"can be saved and loaded.*\(no message\)"):
        measure_latency(trained, threads=1)


def test_latency_rejects_impossible_arguments(trained):
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


def test_costs_are_those_of_the_exits(predictor, trained, test_images):
    result = predictor.predict(test_images[0])
    assert len(set(result.exits)) > 1
    np.testing.assert_array_equal(result.costs, trained.exit_costs()[result.exits])


@pytest.fixture
def sizes(monkeypatch):
    """The batch sizes that each stage is asked for, in a predictor that goes by stages."""

    def watch(predictor, late=None):
        if late is not None:
            monkeypatch.setattr(Timings, "full", lambda self, k, size, waiting: late if k else size)
        seen = [[] for _ in range(len(predictor._runners[0].network.stages))]
        stages = predictor._runners[0].network.stages
        run = stages.stage
        monkeypatch.setattr(Plan, "choose", lambda self: 1)
        monkeypatch.setattr(Plan, "regroup", lambda self, *arguments: True)
        monkeypatch.setattr(stages, "stage", lambda k, x: (seen[k].append(len(x[0])), run(k, x))[1])
        return seen

    return watch


def test_later_stages_see_only_who_is_left(trained, policy, test_images, sizes):
    predictor = ka.AdaptivePredictor(trained, policy)
    everybody = len(test_images[0])
    seen = sizes(predictor, late=everybody)
    exits = predictor.predict(test_images[0], batch_size=everybody).exits
    for k, found in enumerate(seen):
        arriving = int((exits >= k).sum())
        assert arriving <= sum(found) < 2 * arriving  # filled up to a power of two


@pytest.mark.parametrize("late", [16, 32, 64])
def test_late_stages_run_full(trained, policy, test_images, sizes, late):
    predictor = ka.AdaptivePredictor(trained, policy)
    seen = sizes(predictor, late)
    exits = predictor.predict(test_images[0], batch_size=32).exits
    for k, found in enumerate(seen):
        size = late if k else 32
        full, rest = divmod(int((exits >= k).sum()), size)
        assert found[:full] == [size] * full
        assert len(found) == full + (rest > 0)


def test_closed_exits_are_not_computed(trained, logits, test_images):
    policy = ka.ExitPolicy([np.inf, 0.9, 0])
    predictor = ka.AdaptivePredictor(trained, policy)
    result = predictor.predict(test_images[0])
    np.testing.assert_array_equal(result.exits, policy.decide(logits))
    assert 0 not in result.exits
    models = predictor._runners[0].network.stages.models
    names = {layer.name for model in models for layer in model.layers}
    assert "exit_0" not in names
    assert "exit_1" in names
    assert result.costs.max() < trained.exit_costs()[-1]


def test_temperatures_soften_the_probabilities(trained, test_images, logits):
    policy = ka.ExitPolicy([np.inf, np.inf, 0], temperatures=[1, 1, 3.0])
    result = ka.AdaptivePredictor(trained, policy).predict(test_images[0])
    expected = ka.policy.softmax(logits[-1] / 3)
    np.testing.assert_allclose(result.probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("x", [np.zeros((2, 8, 8)), np.zeros((2, 9, 8, 1)), np.zeros(3)])
def test_rejects_images_of_another_shape(predictor, x):
    with pytest.raises(ValueError, match=r"`x` must be of shape \(samples, 8, 8, 1\)"):
        predictor.predict(x)


@pytest.mark.parametrize("value", [np.nan, np.inf])
def test_rejects_images_that_give_no_answer(predictor, value):
    with pytest.raises(ValueError, match="The logits must be finite. Received: NaN or infinity"):
        predictor.predict(np.full((1, 8, 8, 1), value))


def test_rejects_no_images_and_impossible_batches(predictor):
    with pytest.raises(ValueError, match="at least one sample"):
        predictor.predict(np.zeros((0, 8, 8, 1)))
    for batch_size in (0, True, 2.0, "8"):
        with pytest.raises(ValueError, match=f"Received: batch_size={batch_size}"):
            predictor.predict(np.zeros((1, 8, 8, 1)), batch_size=batch_size)
        with pytest.raises(ValueError, match=f"Received: batch_size={batch_size}"):
            predictor.stream([np.zeros((1, 8, 8, 1))], batch_size)
    for budget in (np.nan, True, "cheap"):
        with pytest.raises(ValueError, match=f"`budget` must be .* Received: budget='?{budget}"):
            predictor.predict(np.zeros((1, 8, 8, 1)), budget=budget)


def test_numpy_numbers_are_numbers(predictor, policy, test_images):
    images, budget = test_images[0][:20], 2 * policy.details["mean_cost"]
    expected = predictor.predict(images, batch_size=8, budget=budget)
    found = predictor.predict(images, batch_size=np.int64(8), budget=np.float32(budget))
    np.testing.assert_array_equal(found.exits, expected.exits)
    (streamed,) = predictor.stream([images], np.uint8(8), np.array(budget), np.int32(1))
    np.testing.assert_array_equal(streamed.exits, expected.exits)


def test_rejects_a_policy_for_another_network(trained):
    with pytest.raises(ValueError, match="2 thresholds, 3 exits"):
        ka.AdaptivePredictor(trained, ka.ExitPolicy([0.5, 0]))
    with pytest.raises(TypeError, match="`policy` must be an ExitPolicy"):
        ka.AdaptivePredictor(trained, [0.5, 0.5, 0])
    with pytest.raises(TypeError, match="`model` must be an AdaptiveModel"):
        ka.AdaptivePredictor("model", ka.ExitPolicy([0.5, 0]))
    a, b = keras.Input((2,)), keras.Input((2,))
    two = ka.AdaptiveModel([a, b], [keras.layers.Dense(3)(keras.layers.Add()([a, b]))])
    with pytest.raises(ValueError, match="one input. Received: 2 inputs"):
        ka.AdaptivePredictor(two, ka.ExitPolicy([0]))
