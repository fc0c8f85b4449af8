"""Quantized files, and files with a single call."""

import json
from types import SimpleNamespace

import digits_network
import keras
import mutants
import numpy as np
import pytest
import tensorflow as tf
from ai_edge_litert import schema_py_generated as schema
from ai_edge_litert.interpreter import Interpreter
from tiny import three_exits, two_exits

import keras_adaptive as ka
from anytime_tflite import AnytimeModel, read_info
from anytime_tflite import flatbuffer as checks
from keras_adaptive import _graph
from keras_adaptive.export import _conversion as conversion
from keras_adaptive.export import _features as features
from keras_adaptive.export import _writer as flatbuffer
from keras_adaptive.export import tflite
from keras_adaptive.export._inputs import inputs_of, renamed
from keras_adaptive.export._recalibration import _threshold, compare, recalibrate, relative_error
from keras_adaptive.export._single_call import _rule

KINDS = ("float16", "dynamic", "int8")
KINDS_OF_CONFIDENCE = ("max_prob", "prob_margin", "logit_margin", "entropy")


@pytest.fixture(scope="module", params=["small", pytest.param("msdnet", marks=pytest.mark.slow)])
def trained(request, digits):
    """A network that has learned the digits. Not to be changed."""
    if request.param == "msdnet":
        return digits_network.load()
    keras.utils.set_random_seed(0)
    model = three_exits()
    model.compile(keras.optimizers.SGD(0.05, momentum=0.9))
    model.fit(*digits.arrays("train"), epochs=4, batch_size=64, verbose=0)
    return model


@pytest.fixture(scope="module")
def policy(trained, digits):
    x, y = digits.arrays("calibrate")
    logits, costs = np.stack(trained.predict(x, verbose=0)), trained.exit_costs()
    return ka.calibrate(logits, y, costs, budget=0.6 * costs[-1], method="geometric")


@pytest.fixture(scope="module")
def calibration_data(digits):
    x, y = digits.arrays("calibrate")
    return x[:200], y[:200]


@pytest.fixture(
    scope="module",
    params=[pytest.param(k, marks=[] if k == "int8" else pytest.mark.slow) for k in KINDS],
)
def quantized(request, trained, policy, calibration_data, once):
    """Returns the kind, the path and the info of a quantized file. Not to be changed."""
    path = once(
        f"{trained.name}_{request.param}.tflite",
        lambda path: ka.export_tflite(
            trained,
            path,
            policy,
            quantize=request.param,
            calibration_data=calibration_data,
            single_call=True,
            runtime="tflite-2.14",
        ),
    )
    return request.param, path, read_info(path)


def stage_logits(device, images):
    """Returns the logits of the stages of a file, `(exits, samples, classes)`."""
    rows = []
    for image in images:
        device._backend.start(device._prepare(image))
        rows.append([device._backend.run(i) for i in range(len(device.exits))])
    return np.swapaxes(rows, 0, 1)


def weight_bytes(path):
    """Returns the bytes of the kernels, each counted once however often it is used."""
    model = flatbuffer.read(path.read_bytes())
    kernels = {t.buffer for g in model.subgraphs for t in g.tensors if len(t.shape) == 4}
    return sum(len(model.buffers[k].data) for k in kernels if model.buffers[k].data is not None)


def test_is_smaller_and_as_accurate(quantized, trained, single, test_images):
    kind, path, _ = quantized
    share = weight_bytes(path) / weight_bytes(single[0])
    # dynamic: the converter leaves kernels of less than 1024 numbers as they are
    assert share < {"float16": 0.51, "dynamic": 0.8, "int8": 0.26}[kind]
    x, y = test_images
    expected = (np.stack(trained.predict(x, verbose=0)).argmax(-1) == y).mean(axis=1)
    found = (stage_logits(AnytimeModel(path), x).argmax(-1) == y).mean(axis=1)
    assert (found >= expected - 0.02).all()


def test_reports_what_each_exit_lost(quantized, trained, calibration_data):
    _, path, info = quantized
    x, y = calibration_data
    report = info["quantization"]
    found = stage_logits(AnytimeModel(path), x)
    assert report["samples"] == 200
    assert report["accuracy"] == pytest.approx((found.argmax(-1) == y).mean(axis=1))
    before = (np.stack(trained.predict(x, verbose=0)).argmax(-1) == y).mean(axis=1)
    drop = np.array(report["accuracy_drop"])
    assert drop == pytest.approx(before - report["accuracy"])


def test_as_many_leave_at_each_exit_as_before(quantized, trained, policy, calibration_data):
    _, path, info = quantized
    x, _ = calibration_data
    logits = np.stack(trained.predict(x, verbose=0))
    before = np.bincount(policy.decide(logits), minlength=3)
    device = AnytimeModel(path)
    now = np.bincount([device.classify(image).exit for image in x], minlength=3)
    assert np.abs(before - now).max() <= 2  # quantized confidences can be equal
    assert info["policy"]["thresholds_before"][:2] == policy.thresholds[:2].tolist()
    assert info["policy"]["before"] == policy.details


@pytest.mark.slow
def test_features_of_an_int8_file_pass_as_integers(
    trained, policy, calibration_data, test_images, tmp_path, monkeypatch
):
    logits = {}
    for way in ("integers", "floats"):
        path = tmp_path / f"{way}.tflite"
        if way == "floats":
            monkeypatch.setattr(tflite, "pass_int8", lambda model, stages: None)
        ka.export_tflite(
            trained,
            path,
            policy,
            quantize="int8",
            calibration_data=calibration_data,
            single_call=True,
        )
        logits[way] = stage_logits(AnytimeModel(path), test_images[0][:50])
        runner = Interpreter(str(path)).get_signature_runner("stage_1")
        kinds = {details["dtype"] for details in runner.get_input_details().values()}
        assert kinds == ({np.int8} if way == "integers" else {np.float32})
    # going from one scale to another may round the other way
    assert (relative_error(logits["floats"], logits["integers"]) < 0.05).all()


def test_the_single_call_leaves_where_the_stages_do(quantized, test_images):
    _, path, info = quantized
    device = AnytimeModel(path)
    for image in test_images[0][:60]:
        staged, single = device.classify(image), device.predict(image)
        assert (single.exit, single.label) == (staged.exit, staged.label)
        np.testing.assert_allclose(single.probabilities, staged.probabilities, atol=1e-6)
        never = [np.inf] * 3
        assert device.predict(image, never).exit == device.classify(image, None, never).exit == 2


def test_the_single_call_has_no_conditional_in_a_conditional(quantized):
    """The runtime prepares a branch at each call, and all branches inside of it."""
    model = flatbuffer.read(quantized[1].read_bytes())
    counts = {flatbuffer.text(graph.name): len(graph.operators) for graph in model.subgraphs}
    choosing = {flatbuffer.text(graph.name): len(_branches(graph)) for graph in model.subgraphs}
    assert {name: count for name, count in choosing.items() if count} == {"predict": 2}
    assert counts["past_predict_1"] == counts["past_predict_2"] == 0 < counts["predict_2"]


def test_a_branch_that_passes_by_is_only_for_those_who_left(quantized):
    """It leaves what its stage would have computed as it is, which nobody may read."""
    content = quantized[1].read_bytes()
    checks.check(content)

    def refused(change):
        model = flatbuffer.read(content)
        change(model)
        with pytest.raises(checks.Damaged, match="nothing computes an output"):
            checks.check(flatbuffer.write(model))

    def swap(model):
        graph = model.subgraphs[flatbuffer.signature(model, "predict").subgraphIndex]
        options = _branches(graph)[0]
        then, otherwise = options.thenSubgraphIndex, options.elseSubgraphIndex
        options.thenSubgraphIndex, options.elseSubgraphIndex = otherwise, then

    def name(model):
        names = [flatbuffer.text(graph.name) for graph in model.subgraphs]
        flatbuffer.signature(model, "info").subgraphIndex = names.index("past_predict_1")

    refused(swap)
    refused(name)


def _branches(graph):
    found = [operator.builtinOptions for operator in graph.operators]
    return [options for options in found if isinstance(options, schema.IfOptionsT)]


def test_the_single_call_has_thresholds_as_an_input(quantized, test_images):
    _, path, _ = quantized
    runner = Interpreter(str(path)).get_signature_runner("predict")
    (name,) = set(runner.get_input_details()) - {"thresholds"}
    image = {name: test_images[0][:1]}
    for exit in range(3):
        thresholds = np.full(3, np.inf, "float32")
        thresholds[exit] = -np.inf
        answer = runner(**image, thresholds=thresholds)
        assert answer["exit_index"].tolist() == [exit]
        assert answer["logits"].shape == (1, 10)


def slow(*values):
    return [pytest.param(value, marks=pytest.mark.slow) for value in values]


@pytest.mark.parametrize("kind", [*KINDS_OF_CONFIDENCE, "learned"])
def test_the_rule_in_the_file_is_that_of_the_policy(rng, kind):
    logits = 3 * rng.normal(size=(20, 7)).astype("float32")
    if kind == "learned":
        shapes = ((7, 4), (4, 4), (4, 2))
        network = [(rng.normal(size=shape), rng.normal(size=shape[1])) for shape in shapes]
        policy = ka.LearnedPolicy([network])
    else:
        policy = ka.ExitPolicy([0, 0], kind, [1.7, 1])
    file = _rule(policy, 0, 0, 2, 7)
    builtin = schema.BuiltinOperator
    assert builtin.CUSTOM not in {code.builtinCode for code in file.operatorCodes}
    rule = Interpreter(model_content=flatbuffer.write(file)).get_signature_runner("rule")
    values = policy.compared(0, logits)
    for answer, value in zip(logits, values, strict=True):
        for threshold in (value - 1e-4, value + 1e-4):
            thresholds = np.array([threshold, -np.inf], "float32")
            (leaves,) = rule(logits=answer[None], thresholds=thresholds)["leaves"]
            assert leaves == (threshold < value)


@pytest.mark.slow
@pytest.mark.parametrize("confidence", KINDS_OF_CONFIDENCE)
def test_the_single_call_has_every_confidence(trained, logits, test_images, tmp_path, confidence):
    confidences = ka.policy.confidence(logits, confidence, [2.0, 1.5, 1.0])
    thresholds = np.median(confidences, axis=1)
    thresholds[0] = np.inf  # this exit is left out
    policy = ka.ExitPolicy(thresholds, confidence, [2.0, 1.5, 1.0])
    path = tmp_path / "model.tflite"
    ka.export_tflite(trained, path, policy, single_call=True)
    device = AnytimeModel(path)
    expected = policy.decide(logits[:, :50])
    far = np.abs(confidences[1, :50] - thresholds[1]) > 1e-4
    found = np.array([device.predict(image).exit for image in test_images[0][:50]])
    assert set(found) == {1, 2}
    np.testing.assert_array_equal(found[far], expected[far])


@pytest.fixture(scope="module")
def logits(trained, test_images):
    return np.stack(trained.predict(test_images[0], verbose=0))


def test_the_single_call_leaves_by_the_file_and_its_temperatures(logits, test_images, single):
    path, policy = single
    device = AnytimeModel(path)
    confidences = policy.confidences(logits[:, :50])[:2]
    far = (np.abs(confidences - policy.thresholds[:2, None]) > 1e-4).all(axis=0)
    found = np.array([device.predict(image).exit for image in test_images[0][:50]])
    assert set(found) == {0, 1, 2}
    np.testing.assert_array_equal(found[far], policy.decide(logits[:, :50])[far])


@pytest.fixture(scope="module")
def single(trained, logits, once):
    """Returns a float32 file with a single call, and its policy. Not to be changed."""
    temperatures = [2.0, 1.5, 1.0]
    confidences = ka.policy.confidence(logits, "entropy", temperatures)
    policy = ka.ExitPolicy(np.quantile(confidences, 0.6, axis=1), "entropy", temperatures)
    path = once(
        f"{trained.name}_single.tflite",
        lambda path: ka.export_tflite(trained, path, policy, single_call=True),
    )
    return path, policy


def test_the_single_call_shares_the_weights_and_may_be_damaged_alone(trained, single, tmp_path):
    path, _ = single
    info = read_info(path)
    kernels = sum(4 * int(np.prod(v.shape)) for v in trained.variables if len(v.shape) == 4)
    assert weight_bytes(path) == kernels
    content = path.read_bytes()
    kernel = np.asarray(trained.get_layer("exit_1").logits.kernel).T.tobytes()
    assert content.count(kernel) == 1  # no second copy
    assert info["minimum_runtime"] == "2.14.0"

    # a forged file, of which the stages are whole and the single call is not
    model = flatbuffer.read(path.read_bytes())
    graph = next(g for g in model.subgraphs if flatbuffer.text(g.name) == "predict_1")
    convolutions = (
        o for o in graph.operators if isinstance(o.builtinOptions, schema.Conv2DOptionsT)
    )
    weights = graph.tensors[next(convolutions).inputs[1]]
    weights.shape = [int(np.prod(weights.shape))]
    forged = tmp_path / "forged.tflite"
    forged.write_bytes(mutants.reseal(flatbuffer.write(model)))
    with pytest.raises(ValueError, match="CONV_2D, reads shapes of other dimensions"):
        AnytimeModel(forged)


def test_a_single_call_that_does_not_run_is_said(single, monkeypatch):
    device, image = AnytimeModel(single[0]), np.zeros((8, 8, 1), "float32")

    def fails(tensors):
        raise RuntimeError("out of memory")

    monkeypatch.setattr(device._backend, "predict", fails)
    with pytest.raises(ValueError, match=r"single call does not run \(out of memory\)"):
        device.predict(image)


# ---- traps: each is set, and must be caught


POLICY = ka.ExitPolicy([0.5, 0.0])


def test_a_signature_without_calibration_data_is_refused(calibration_data, tmp_path, monkeypatch):
    """The converter leaves it in float32 without a word."""
    every = conversion._representative
    monkeypatch.setattr(
        conversion,
        "_representative",
        lambda *args: (pair for pair in every(*args) if pair[0] != "stage_1"),
    )
    with pytest.raises(RuntimeError, match="must be stored as int8. The converter left"):
        ka.export_tflite(
            two_exits(),
            tmp_path / "m.tflite",
            POLICY,
            quantize="int8",
            calibration_data=calibration_data,
        )
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", ["float16", *slow("dynamic")])
def test_a_file_that_was_not_quantized_is_refused(tmp_path, monkeypatch, kind):
    plain = conversion.convert
    monkeypatch.setattr(tflite, "convert", lambda stages, *_: plain(stages))
    with pytest.raises(RuntimeError, match=f"must be stored as {kind}"):
        ka.export_tflite(two_exits(), tmp_path / "m.tflite", POLICY, quantize=kind)


class Table(keras.layers.Layer):
    def build(self, shape):
        self.table = self.add_weight(shape=(1, *shape[1:]), initializer="uniform", name="table")

    def call(self, x):
        return x + self.table


@pytest.mark.slow
def test_large_biases_and_tables_may_stay_float32_where_ranges_are_measured_later(rng, tmp_path):
    steps = keras.Input((40, 30))
    x = Table()(steps)
    outputs = [ka.layers.EarlyExit(3)(x)]
    x = keras.layers.Dense(1100, activation="relu")(x)
    model = ka.AdaptiveModel(steps, [*outputs, ka.layers.EarlyExit(3)(x)])
    path = tmp_path / "model.tflite"
    ka.export_tflite(model, path, POLICY, quantize="dynamic")
    assert path.stat().st_size < 4 * 30 * 1100  # the kernel is not float32


@pytest.mark.slow
def test_a_quantized_file_that_answers_otherwise_is_refused(
    trained, policy, quantized, tmp_path, monkeypatch
):
    kind, _, _ = quantized
    other = keras.models.clone_model(trained)  # fresh weights
    inputs = inputs_of(other.inputs)
    stages = renamed(_graph.minimal_stages(other.inputs, other.outputs), inputs)
    images = np.random.default_rng(0).normal(size=(5, 8, 8, 1)).astype("float32")
    content = conversion.convert(stages, kind, True, {inputs[0]["name"]: images})
    monkeypatch.setattr(tflite, "convert", lambda *_: content)
    with pytest.raises(RuntimeError, match="Exit 0 of the file must equal Keras"):
        ka.export_tflite(
            trained, tmp_path / "m.tflite", policy, quantize=kind, calibration_data=images
        )


def test_dynamic_range_for_the_old_runtime_needs_no_new_operation(
    trained, policy, quantized, tmp_path
):
    kind, path, info = quantized
    limit = (2, 14)
    needed = tuple(int(n) for n in info["minimum_runtime"].split(".")[:2])
    assert needed <= limit
    versions = {code.version for code in flatbuffer.read(path.read_bytes()).operatorCodes}
    assert max(versions) <= 11


def test_the_stages_of_an_int8_file_take_integers(quantized):
    kind, path, _ = quantized
    runner = Interpreter(str(path)).get_signature_runner("stage_1")
    kinds = {details["dtype"] for details in runner.get_input_details().values()}
    assert kinds == ({np.int8} if kind == "int8" else {np.float32})


# ---- recalibration on arrays


def test_a_threshold_is_midway_between_those_who_leave_and_the_next():
    confidences = np.array([0.5, 0.9, 0.7, 0.7, 0.1])
    found = [_threshold(confidences, wanted) for wanted in (1, 3, 4, 5, 9)]
    np.testing.assert_allclose(found, [0.8, 0.6, 0.3, 0.1, 0.1])
    assert _threshold(confidences, 2) in (pytest.approx(0.8), pytest.approx(0.6))  # two are equal
    assert _threshold(confidences[:0], 2) == np.inf


def test_thresholds_nobody_reached_stay(rng):
    logits = rng.normal(size=(2, 50, 4))
    policy = ka.ExitPolicy([0.9999, 0.0])
    assert recalibrate(policy, [0, 1], logits, 2 * logits).thresholds[0] == 0.9999


def test_an_error_is_relative_to_the_spread_of_the_logits(rng):
    logits = 5 + rng.normal(size=(2, 300, 4)) * np.array([1.0, 10.0])[:, None, None]
    found = relative_error(logits, logits + np.array([0.5, -0.5])[:, None, None])
    np.testing.assert_allclose(found, [0.5, 0.05], rtol=0.1)
    assert relative_error(logits, logits).tolist() == [0, 0]


def test_scales_are_the_same_but_for_rounding():
    def scale(value, zero):
        return SimpleNamespace(scale=np.float32([value]), zeroPoint=np.array([zero]))

    assert features._same(scale(0.1, 3), scale(0.1 * (1 + 3e-6), 3))
    assert not features._same(scale(0.1, 3), scale(0.1 * (1 + 3e-5), 3))
    assert not features._same(scale(0.1, 3), scale(0.1, 4))


def test_images_that_ranges_are_measured_on_are_spread_and_few():
    class Stage:
        def predict_on_batch(self, inputs):
            return [np.zeros((len(inputs[0]), 2)), 10 * inputs[0]]

    class Last:
        def predict_on_batch(self, inputs):
            return [np.zeros((len(inputs[0]), 2))]

    stages = [(Stage(), ["input_0"], ["features_0"]), (Last(), ["features_0"], [])]
    images = np.arange(399, dtype="float32")[:, None]
    found = list(conversion._representative(stages, [0, 0], {"input_0": images}))
    first = [tensors["input_0"] for name, tensors in found if name == "stage_0"]
    second = [tensors["features_0"] for name, tensors in found if name == "stage_1"]
    assert [x.shape for x in first] == [(1, 1)] * 200
    np.testing.assert_array_equal(np.ravel(first), np.arange(0, 399, 2))
    np.testing.assert_array_equal(np.ravel(second), 10 * np.ravel(first))
    few = list(conversion._representative(stages, [0, 0], {"input_0": images[:3]}))
    assert [name for name, _ in few] == ["stage_0"] * 3 + ["stage_1"] * 3


def test_the_oldest_runtime_only_rises():
    model = schema.ModelT()
    model.buffers, model.metadata = [], []
    assert flatbuffer.minimum_runtime(model) == "1.5.0"
    entry = schema.MetadataT()
    entry.name = "min_runtime_version"
    entry.buffer = flatbuffer.add_buffer(model, b"1.11.0".ljust(16, b"\0"))
    model.metadata.append(entry)
    for version, expected in (("1.9.0", "1.11.0"), ("2.2.0", "2.2.0"), ("2.14.0", "2.14.0")):
        flatbuffer.raise_minimum_runtime(model, version)
        assert flatbuffer.minimum_runtime(model) == expected
    model.operatorCodes = []
    asked = (("IF", 1), ("QUANTIZE", 2), ("IF", 1), ("QUANTIZE", 1), ("QUANTIZE", 2))
    assert [flatbuffer.operation(model, *code) for code in asked] == [0, 1, 0, 2, 1]


def test_thresholds_follow_logits_that_moved(rng):
    logits = rng.normal(size=(4, 500, 10)) * 3
    policy = ka.ExitPolicy([0.8, np.inf, 0.7, 0.0], temperatures=[1.0, 1.0, 2.0, 1.0])
    exits = policy.used_exits
    moved = 0.5 * logits  # less confident everywhere
    found = recalibrate(policy, exits, logits[exits], moved[exits])
    before, now = (
        np.bincount(k, minlength=4) for k in (policy.decide(logits), found.decide(moved))
    )
    np.testing.assert_array_equal(now, before)
    assert found.thresholds[1] == np.inf
    assert found.thresholds[-1] == -np.inf
    assert (policy.decide(moved) == 0).sum() < before[0] / 2  # it was needed


def test_equal_confidences_leave_together(rng):
    logits = rng.normal(size=(2, 400, 10)) * 3
    coarse = np.round(logits)
    policy = ka.ExitPolicy([0.9, 0.0])
    found = recalibrate(policy, [0, 1], logits, coarse)
    before, now = ((p == 0).sum() for p in (policy.decide(logits), found.decide(coarse)))
    assert abs(int(before) - int(now)) < 20


def test_nothing_moves_if_the_logits_do_not(rng):
    logits = rng.normal(size=(3, 300, 5)) * 2
    policy = ka.ExitPolicy([0.9, 0.8, 0.0])
    found = recalibrate(policy, [0, 1, 2], logits, logits)
    np.testing.assert_array_equal(found.decide(logits), policy.decide(logits))


def test_compare_counts_labels_and_accuracy():
    logits = np.array([[[0.0, 1.0], [2.0, 0.0]]])
    changed = np.array([[[0.0, 1.0], [0.0, 2.0]]])
    report = compare(logits, changed, np.array([1, 0]))
    assert report["same_label_share"] == [0.5]
    assert report["accuracy"] == [0.5]
    assert report["accuracy_drop"] == [0.5]
    assert json.loads(json.dumps(report)) == report


def test_without_data_thresholds_stay(tmp_path):
    path = tmp_path / "m.tflite"
    policy = ka.export_tflite(two_exits(), path, POLICY, quantize="float16", stage_ms=[1.0, 2.0])
    info = read_info(path)
    assert policy is POLICY
    assert [float(t) for t in info["thresholds"]] == POLICY.thresholds.tolist()
    assert info["quantization"] is None
    assert info["stage_ms"] == [1.0, 2.0]


# ---- networks of other kinds


class Repeated(keras.layers.Layer):
    """Repeats a feature once, a number that no converter knows in advance."""

    def call(self, x):
        times = tf.reduce_sum(tf.cast(x[:1, 0, 0, :1] > -1e30, tf.int32))
        repeated = tf.tile(x, tf.stack([1, times, 1, 1]))
        repeated.set_shape(x.shape)
        return repeated


ka.costs.register(Repeated, lambda layer, input_shape, output_shape: 0)


REFUSED = {  # without the single call: a device refuses to open what it cannot bound
    True: (ValueError, "whose shapes are known before it runs"),
    False: (RuntimeError, "must open on a device.*TILE, does not read a constant"),
}


@pytest.mark.parametrize("single_call", [*slow(False), True])
def test_shapes_that_depend_on_the_image_are_refused(rng, tmp_path, single_call):
    x = feature = keras.Input((8, 8, 1))
    logits = []
    for layers in ((), (Repeated(),), ()):
        for layer in (*layers, keras.layers.Conv2D(4, 3)):
            feature = layer(feature)
        logits.append(keras.layers.Dense(10)(keras.layers.GlobalAveragePooling2D()(feature)))
    model = ka.AdaptiveModel(x, logits)
    images = rng.normal(size=(8, 8, 8, 1)).astype("float32")
    path = tmp_path / "model.tflite"

    policy = ka.ExitPolicy([0.5, 0.5, -np.inf])
    error, message = REFUSED[single_call]
    with pytest.raises(error, match=message):
        ka.export_tflite(model, path, policy, calibration_data=images, single_call=single_call)
    assert not path.exists()


@pytest.fixture(scope="module")
def gated():
    keras.utils.set_random_seed(0)
    small = {"depth": 8, "width": 0.25, "exits": 2, "head_channels": 4}
    return ka.build_resnet((8, 8, 1), 10, gates="layer", **small)


@pytest.mark.parametrize("quantize", slow(None, "int8"))
def test_gated_networks_skip_inside_the_file(gated, tmp_path, rng, quantize):
    images = rng.normal(size=(40, 8, 8, 1)).astype("float32")
    path = tmp_path / "m.tflite"
    policy = ka.ExitPolicy([0.2] * gated.exits)
    ka.export_tflite(
        gated, path, policy, quantize=quantize, calibration_data=images, single_call=True
    )
    info = read_info(path)
    codes = {code.builtinCode for code in flatbuffer.read(path.read_bytes()).operatorCodes}
    assert schema.BuiltinOperator.IF in codes
    device = AnytimeModel(path)
    expected = np.stack(gated.predict(images, verbose=0))[info["exits"]]
    found = stage_logits(device, images)
    if quantize is None:
        np.testing.assert_allclose(found, expected, atol=1e-4)
    for image in images[:10]:
        assert device.predict(image).exit == device.classify(image).exit
    answer = device.classify(images[0], deadline_ms=0.0, thresholds=[np.inf, 0.0])
    assert (answer.exit, answer.stopped_by) == (0, "deadline")
    assert answer.label == found[0, 0].argmax()


def odd_images_take_other_branches():
    """A network whose first block is for images with 1 in both of their last channels, and
    whose second block is for all others."""
    keras.utils.set_random_seed(0)
    image = keras.Input((8, 8, 3))
    x, logits = image[..., :1], []
    for k, sign in enumerate((1, -1)):
        gate = ka.layers.SkipGate(kind="feedforward", return_probability=True)
        is_open, _ = gate(image[..., 1:])
        center = np.zeros((3, 3, 2, 2))
        center[1, 1] = np.eye(2)
        gate.convolutions[1].set_weights([center])
        gate.decision.set_weights([sign * np.ones((2, 1)), -1.5 * sign * np.ones(1)])
        x = keras.layers.Conv2D(4, 1)(x)
        branch = [keras.layers.Conv2D(4, 3, padding="same", name=f"branch_{k}")]
        x = ka.layers.GatedBlock(branch, "add")(x, x, is_open)
        logits.append(ka.layers.EarlyExit(10, name=f"exit_{k}")(x))
    return ka.AdaptiveModel(image, logits)


@pytest.mark.slow
@pytest.mark.parametrize("single_call", [*slow(False), True])
def test_branches_that_no_calibration_image_takes_are_quantized_too(rng, tmp_path, single_call):
    model = odd_images_take_other_branches()
    images = rng.normal(size=(60, 8, 8, 3)).astype("float32")
    odd = np.arange(60) >= 40
    images[odd] = images[:20]
    images[..., 1] = (odd | (np.arange(60) % 2 == 0))[:, None, None]
    images[..., 2] = (odd | (np.arange(60) % 2 == 1))[:, None, None]
    np.testing.assert_array_equal(model.predict_gates(images, verbose=0), [odd, ~odd])
    path = tmp_path / "m.tflite"
    policy = ka.ExitPolicy([np.inf if single_call else 0.5, 0.0])
    ka.export_tflite(
        model,
        path,
        policy,
        quantize="int8",
        calibration_data=images[:40],
        single_call=single_call,
    )
    device = AnytimeModel(path)
    expected = np.stack(model.predict(images, verbose=0))[policy.used_exits]
    found = stage_logits(device, images)
    for part in (slice(0, 40), slice(40, 60)):  # one in sixteen of the logits' spread
        spread = expected[:, part].std(axis=(1, 2))
        error = np.sqrt(((found - expected)[:, part] ** 2).mean(axis=(1, 2)))
        assert (error < spread / 16).all()
    file = flatbuffer.read(path.read_bytes())
    names = {flatbuffer.text(i.name) for signature in file.signatureDefs for i in signature.inputs}
    assert "open_blocks" not in names
    for image in images[38:42] if single_call else ():
        assert device.predict(image).label == device.classify(image).label


def test_a_cascade_of_whole_models_exports(tmp_path, rng):
    image = keras.Input((8, 8, 1))
    logits = []
    for width in (2, 4):
        x = keras.layers.Conv2D(width, 3, activation="relu")(image)
        logits.append(keras.layers.Dense(3)(keras.layers.GlobalAveragePooling2D()(x)))
    mean = keras.layers.Average()(logits)
    model = ka.AdaptiveModel(image, [logits[0], mean])
    path = tmp_path / "m.tflite"
    ka.export_tflite(model, path, ka.ExitPolicy([0.4, 0.0]), single_call=True)
    device = AnytimeModel(path)
    images = rng.normal(size=(10, 8, 8, 1)).astype("float32")
    expected = np.stack(model.predict(images, verbose=0))
    np.testing.assert_allclose(stage_logits(device, images), expected, atol=1e-5)
    for one in images:
        assert device.predict(one).exit == device.classify(one).exit
