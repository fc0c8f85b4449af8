import contextlib
import io
import multiprocessing
import os
import subprocess
import sys
import threading
import time
import zipfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import file_vectors
import keras
import numpy as np
import pytest
from tiny import three_exits

import keras_adaptive as ka
from anytime_tflite import AnytimeModel, BatchPredictor, read_info
from anytime_tflite.backends import InterpreterBackend


@pytest.fixture(scope="module")
def device(exported):
    return AnytimeModel(exported, num_threads=1)


@pytest.fixture(scope="module")
def logits(trained, test_images):
    return np.stack(trained.predict(test_images[0], verbose=0))


def test_leaves_where_the_policy_decides(device, policy, logits, test_images, far_from_thresholds):
    answers = [device.classify(image) for image in test_images[0]]
    far = far_from_thresholds(policy, logits)
    exits = np.array([a.exit for a in answers])
    assert len(set(exits)) > 1
    np.testing.assert_array_equal(exits[far], policy.decide(logits)[far])
    assert [a.stopped_by for a in answers] == ["confidence" if k < 2 else "end" for k in exits]
    for i, answer in enumerate(answers):
        assert answer.label == answer.probabilities.argmax() == logits[answer.exit, i].argmax()
        assert answer.class_name == str(answer.label)


def test_every_exit_equals_keras(device, logits, test_images):
    for i in range(20):
        answers = list(device.stream(test_images[0][i]))
        assert [a.exit for a in answers] == [0, 1, 2]
        assert [a.stopped_by for a in answers] == [None, None, "end"]
        for k, answer in enumerate(answers):
            expected = ka.policy.softmax(logits[k, i])
            np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)


@pytest.mark.parametrize("kind", ["max_prob", "prob_margin", "logit_margin", "entropy"])
def test_confidence_is_the_same_rule_as_on_the_host(rng, kind):
    from anytime_tflite.rule import CONFIDENCES, softmax

    for logits in rng.normal(size=(50, 7)) * 10:
        expected = ka.policy.confidence([[logits]], kind)[0, 0]
        assert CONFIDENCES[kind](logits, softmax(logits)) == pytest.approx(expected, abs=1e-12)


# ---- where a file comes from


@pytest.fixture(
    params=[
        "path",
        "text",
        "bytes",
        "bytearray",
        "memoryview",
        "BytesIO",
        "file",
        "zipfile.Path",
        "zip member",
    ]
)
def source(request, exported, tmp_path):
    content = exported.read_bytes()
    made = {
        "path": lambda: exported,
        "text": lambda: str(exported),
        "bytes": lambda: content,
        "bytearray": lambda: bytearray(content),
        "memoryview": lambda: memoryview(content),
        "BytesIO": lambda: io.BytesIO(content),
    }
    with contextlib.ExitStack() as stack:
        if request.param == "file":
            yield stack.enter_context(exported.open("rb"))
        elif request.param.startswith("zip"):
            with zipfile.ZipFile(tmp_path / "app.zip", "w") as archive:
                archive.writestr("assets/model.tflite", content)
            archive = stack.enter_context(zipfile.ZipFile(tmp_path / "app.zip"))
            member = "assets/model.tflite"
            path = request.param == "zipfile.Path"
            yield zipfile.Path(archive, member) if path else archive.open(member)
        else:
            yield made[request.param]()


def test_a_file_may_be_a_path_bytes_or_a_file_object(source, device, test_images):
    with AnytimeModel(source, num_threads=1) as other:
        assert other.info == device.info
        for image in test_images[0][:5]:
            mine, theirs = device.classify(image), other.classify(image)
            assert (mine.exit, mine.cost) == (theirs.exit, theirs.cost)
            np.testing.assert_array_equal(mine.probabilities, theirs.probabilities)


@pytest.mark.parametrize("backend", ["interpreter", "compiled_model"])
def test_bytes_run_in_every_backend(exported, test_images, device, backend):
    other = AnytimeModel(exported.read_bytes(), num_threads=1, backend=backend)
    assert other.classify(test_images[0][0]).exit == device.classify(test_images[0][0]).exit


@pytest.mark.parametrize("source", [None, 3, 2.5, ["model.tflite"], object(), io.StringIO("TFL3")])
def test_what_is_no_file_is_a_type_error(source):
    for use in (AnytimeModel, read_info):
        with pytest.raises(TypeError, match="`path` must be a path, bytes, or an object whose"):
            use(source)


@pytest.mark.parametrize("source", [b"", b"not a model", io.BytesIO(b"TFL3TFL3TFL3"), "missing"])
def test_content_that_is_no_model_is_a_value_error(source):
    for use in (AnytimeModel, read_info):
        with pytest.raises(ValueError, match="`path` must be a"):
            use(source)


def test_thresholds_can_be_given_with_the_image(device, test_images):
    image = test_images[0][0]
    assert device.classify(image, thresholds=[0, 0, 0]).exit == 0
    assert device.classify(image, thresholds=[np.inf, 0, 0]).exit == 1
    assert device.classify(image, thresholds=[np.inf, np.inf, np.inf]).exit == 2


def test_a_deadline_that_has_passed_gets_the_first_answer(device, test_images):
    answer = device.classify(test_images[0][0], deadline_ms=0, thresholds=[np.inf] * 3)
    assert (answer.exit, answer.stopped_by) == (0, "deadline")


def test_a_generous_deadline_changes_nothing(device, test_images):
    for image in test_images[0][:20]:
        with_deadline = device.classify(image, deadline_ms=60_000)
        assert with_deadline.exit == device.classify(image).exit
        assert with_deadline.stopped_by != "deadline"


def test_deadlines_that_have_passed_teach_nothing(exported, test_images):
    device = AnytimeModel(exported)
    device._expected_ms[1] = 100.0
    for _ in range(50):
        device.classify(test_images[0][0], deadline_ms=0, thresholds=[np.inf] * 3)
    assert device._expected_ms[1] == 100.0


# ---- backends, threads, cancelling, closing


@pytest.fixture(scope="module", params=["interpreter", "public", "compiled_model"])
def each_backend(request, exported):
    with pytest.MonkeyPatch.context() as patch:
        if request.param == "public":  # as where the interpreter's insides are others
            patch.setattr(InterpreterBackend, "_direct", lambda self: None)
        name = "compiled_model" if request.param == "compiled_model" else "interpreter"
        yield AnytimeModel(exported, num_threads=1, backend=name)


def test_every_backend_gives_the_same_answers(each_backend, logits, test_images):
    for i in range(20):
        for answer in each_backend.stream(test_images[0][i]):
            expected = ka.policy.softmax(logits[answer.exit, i])
            np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)


def test_the_interpreter_runs_on_its_own_memory(device):
    assert device._backend.direct


def test_rejects_unknown_backends(exported):
    with pytest.raises(ValueError, match="`backend` must be one of"):
        AnytimeModel(exported, backend="gpu")


def test_instances_run_in_threads_of_their_own(exported, logits, test_images):
    def classify(rows):
        device = AnytimeModel(exported, num_threads=1)
        return [(i, [a.probabilities for a in device.stream(test_images[0][i])]) for i in rows]

    with ThreadPoolExecutor(4) as pool:
        parts = list(pool.map(classify, [range(k, 80, 4) for k in range(4)]))
    for i, probabilities in (pair for part in parts for pair in part):
        expected = ka.policy.softmax(logits[:, i])
        np.testing.assert_allclose(probabilities, expected, atol=1e-5)


def test_an_image_cannot_go_on_after_the_next_was_begun(device, test_images):
    first = device.stream(test_images[0][0])
    next(first)
    device.classify(test_images[0][1])
    with pytest.raises(RuntimeError, match="must be finished before the next is begun"):
        next(first)


@pytest.mark.parametrize("stage", [0, 1])
def test_cancelling_gives_the_best_answer_so_far(exported, test_images, stage):
    device = AnytimeModel(exported)
    run = device._backend.run

    def run_and_cancel(i):
        if i == stage:
            thread = threading.Thread(target=device.cancel)
            thread.start()
            thread.join()
        return run(i)

    device._backend.run = run_and_cancel
    answer = device.classify(test_images[0][0], thresholds=[np.inf] * 3)
    assert (answer.exit, answer.stopped_by) == (stage, "cancelled")
    device._backend.run = run
    assert device.classify(test_images[0][0], thresholds=[np.inf] * 3).exit == 2


@pytest.fixture
def busy(exported):
    """A model whose first stage waits until it is let go, and the events of that."""
    device = AnytimeModel(exported, num_threads=1)
    begun, go, run = threading.Event(), threading.Event(), device._backend.run

    def wait_and_run(i):
        begun.set()
        assert go.wait(10)
        return run(i)

    device._backend.run = wait_and_run
    return device, begun, go


def both(device, begun, image, between, **arguments):
    """Gives two images at once; returns their answers, the waiting one's second."""
    with ThreadPoolExecutor(2) as pool:
        first = pool.submit(device.classify, image, None, [np.inf] * 3)
        assert begun.wait(10)
        second = pool.submit(device.classify, image, thresholds=[np.inf] * 3, **arguments)
        while not second.running():
            time.sleep(0.001)
        between()
        return first.result(10), second.result(10)


def test_a_deadline_counts_while_another_image_is_under_way(busy, test_images):
    device, begun, go = busy

    def later():
        time.sleep(0.05)
        go.set()

    first, second = both(device, begun, test_images[0][0], later, deadline_ms=40)
    assert (first.exit, first.stopped_by) == (2, "end")
    assert (second.exit, second.stopped_by) == (0, "deadline")
    assert second.elapsed_ms >= 40


def test_cancelling_reaches_an_image_that_waits(busy, test_images):
    device, begun, go = busy

    def cancel():
        time.sleep(0.02)
        device.cancel()
        go.set()

    for answer in both(device, begun, test_images[0][0], cancel):
        assert (answer.exit, answer.stopped_by) == (0, "cancelled")
    assert device.classify(test_images[0][0], None, [np.inf] * 3).stopped_by == "end"


def test_cancelling_before_the_first_stage_is_not_lost(exported, test_images, monkeypatch):
    device = AnytimeModel(exported, num_threads=1)
    image, never, prepare = test_images[0][0], [np.inf] * 3, device._prepare

    def prepare_and_cancel(image):
        device.cancel()
        return prepare(image)

    with monkeypatch.context() as patch:
        patch.setattr(device, "_prepare", prepare_and_cancel)
        answer = device.classify(image, None, never)
    assert (answer.exit, answer.stopped_by) == (0, "cancelled")
    answers = device.stream(image)
    device.cancel()
    assert [answer.stopped_by for answer in answers] == ["cancelled"]
    device.cancel()  # of an image that is over
    assert device.classify(image, None, never).stopped_by == "end"


def test_the_deadline_of_a_stream_counts_from_its_call(device, test_images):
    answers = device.stream(test_images[0][0], deadline_ms=20)
    time.sleep(0.03)
    (answer,) = answers
    assert (answer.exit, answer.stopped_by) == (0, "deadline")
    assert answer.elapsed_ms >= 30


def test_several_threads_may_share_an_instance(exported, logits, test_images):
    device = AnytimeModel(exported, num_threads=1)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(device.classify, test_images[0][:80], timeout=60))
    for i, answer in enumerate(answers):
        expected = ka.policy.softmax(logits[answer.exit, i])
        np.testing.assert_allclose(answer.probabilities, expected, atol=1e-5)


def test_patience_stops_when_answers_agree(device, logits, test_images):
    expected = ka.PatiencePolicy(2).decide(logits[:, :100])
    for image, exit in zip(test_images[0][:100], expected, strict=True):
        answer = device.classify(image, thresholds=[np.inf] * 3, patience=2)
        assert answer.exit == exit
        assert answer.stopped_by == ("patience" if exit < 2 else "end")


@pytest.mark.slow
def test_a_patience_policy_is_followed(trained, logits, test_images, tmp_path):
    policy = ka.PatiencePolicy(2)
    ka.export_tflite(trained, tmp_path / "model.tflite", policy)
    device = AnytimeModel(tmp_path / "model.tflite")
    exits = [device.classify(image).exit for image in test_images[0][:100]]
    assert exits == policy.decide(logits[:, :100]).tolist()


def test_a_closed_model_says_so(exported):
    with AnytimeModel(exported) as device:
        device.close()
    with pytest.raises(ValueError, match="a model that was closed"):
        device.classify(np.zeros((8, 8, 1), "float32"))


def test_a_file_without_a_single_call_says_so(device):
    with pytest.raises(ValueError, match="`single_call=True`"):
        device.predict(np.zeros((8, 8, 1), "float32"))


@pytest.mark.parametrize("num_threads", [0, -1, "2", True, 1.5])
def test_rejects_impossible_threads(exported, num_threads):
    with pytest.raises(ValueError, match="`num_threads` must be a positive integer"):
        AnytimeModel(exported, num_threads=num_threads)


def test_does_not_begin_a_stage_it_cannot_finish(exported, test_images):
    device = AnytimeModel(exported)
    device._expected_ms[1] = 1e6
    never = [np.inf] * 3
    answer = device.classify(test_images[0][0], deadline_ms=1000, thresholds=never)
    assert (answer.exit, answer.stopped_by) == (0, "deadline")
    assert device.classify(test_images[0][0], thresholds=never).exit == 2  # and learns from it
    assert device._expected_ms[1] < 1e6


def test_one_hiccup_does_not_stop_what_follows(exported):
    device = AnytimeModel(exported)
    device._expected_ms[1] = 1.0
    device._times.learn(1, 500.0)
    assert device._expected_ms[1] <= 1.25
    for _ in range(30):
        device._times.learn(1, 5.0)  # slow for good
    assert device._expected_ms[1] == pytest.approx(5, rel=0.1)


def test_a_slow_spell_does_not_last_for_ever(exported, test_images):
    device = AnytimeModel(exported)
    device._expected_ms[1] = 100_000
    for _ in range(1000):
        answer = device.classify(test_images[0][0], deadline_ms=1000, thresholds=[np.inf] * 3)
        if answer.exit > 0:
            return
    pytest.fail("the stage was never tried again")


def test_stream_computes_no_more_than_is_read(device, test_images, monkeypatch):
    ran, run = [], device._backend.run
    monkeypatch.setattr(device._backend, "run", lambda i: (ran.append(i), run(i))[1])
    next(device.stream(test_images[0][0]))
    assert ran == [0]


def test_pixels_are_standardized_as_the_file_says(device, digits, test_images):
    pixels, _ = digits.images("test", 10)
    for image, standardized in zip(pixels, test_images[0], strict=False):
        np.testing.assert_allclose(
            device.classify(image).probabilities,
            device.classify(standardized).probabilities,
            atol=1e-5,
        )


@pytest.fixture(scope="module")
def plain(once, test_images):
    """A file without preprocessing, one of whose exits is closed, its policy and its logits."""
    keras.utils.set_random_seed(0)
    network, temperatures = three_exits(), [1.0, 2.0, 3.0]
    logits = np.stack(network.predict(test_images[0], verbose=0))
    middle = np.median(ka.policy.confidence(logits, "max_prob", temperatures)[1])
    policy = ka.ExitPolicy([np.inf, middle, 0], temperatures=temperatures)
    path = once("plain.tflite", lambda path: ka.export_tflite(network, path, policy))
    return AnytimeModel(path), policy, logits


def test_exits_keep_their_numbers_and_temperatures_when_some_are_closed(
    plain, test_images, far_from_thresholds
):
    device, policy, logits = plain
    answers = [device.classify(image) for image in test_images[0][:100]]
    exits = np.array([answer.exit for answer in answers])
    far = far_from_thresholds(policy, logits)[:100]
    np.testing.assert_array_equal(exits[far], policy.decide(logits)[:100][far])
    assert set(exits) == {1, 2}
    scaled = logits[exits, np.arange(100)] / policy.temperatures[exits][:, None]
    found = [answer.probabilities for answer in answers]
    np.testing.assert_allclose(found, ka.policy.softmax(scaled), atol=1e-5)
    with pytest.raises(ValueError, match=r"must be \+inf for exits \[0\]"):
        device.classify(test_images[0][0], thresholds=[0.5, 0.5, 0])


@pytest.mark.parametrize(
    ("image", "message"),
    [
        (np.zeros((8, 8)), r"must be of shape \(8, 8, 1\). Received: shape \(8, 8\)"),
        (np.zeros((1, 8, 8, 1)), r"Received: shape \(1, 8, 8, 1\)"),
        (np.zeros((8, 8, 1), "int64"), "Received: dtype int64"),
        (np.full((8, 8, 1), np.nan), "`image` must be finite"),
        (np.full((8, 8, 1), 1e39), "`image` must be finite in float32"),
        (np.ma.masked_array(np.zeros((8, 8, 1)), True), "`image` must be without a mask"),
        (np.full((8, 8, 1), 255.0), "floats from 255 to 255, which no pixel becomes"),
    ],
)
def test_rejects_impossible_images(device, image, message):
    with pytest.raises(ValueError, match=message):
        device.classify(image)


@pytest.mark.parametrize("name", ["patience", "single_call", "learned"])
def test_logits_that_are_not_finite_are_no_answer(rng, name):
    """Finite numbers that are too large for the network are refused, not answered by class 0."""
    path = file_vectors.FOLDER / f"{name}.tflite"
    x = rng.uniform(1e37, 3e38, size=(3, 8, 8, 1)).astype("float32")
    with AnytimeModel(path, num_threads=1) as model:
        for call in (model.classify, lambda x: list(model.stream(x))):
            with pytest.raises(ValueError, match="The logits must be finite"):
                call(x[0])
    with BatchPredictor(path, workers=1) as predictor:
        for given in (x, x[:1]):
            with pytest.raises(RuntimeError, match="Sample 0 of `x` .* must be finite"):
                predictor.predict(given)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
@pytest.mark.parametrize("threads", [None, 1, 4])
def test_a_forked_process_has_no_threads_of_its_parent(threads):
    """With them the interpreter would crash."""
    x = np.zeros((8, 8, 1), "float32")
    model = AnytimeModel(file_vectors.FOLDER / "gated.tflite", threads)
    reads, writes = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        try:
            with model:
                writes.send(str(model.classify(x).label))
        except BaseException as error:
            writes.send(repr(error))
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    expected = str(model.classify(x).label) if threads != 4 else "in the process that opened it"
    assert expected in reads.recv()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"deadline_ms": -1}, "`deadline_ms` must be a number of at least 0"),
        ({"deadline_ms": np.nan}, "`deadline_ms` must be a number of at least 0"),
        ({"deadline_ms": True}, "`deadline_ms` must be a number of at least 0"),
        ({"deadline_ms": "soon"}, "`deadline_ms` must be a number of at least 0"),
        ({"thresholds": [0.5]}, "`thresholds` must be 3 numbers"),
        ({"thresholds": [np.nan, 0, 0]}, "`thresholds` must be 3 numbers"),
        ({"thresholds": [None, 0, 0]}, "`thresholds` must be 3 numbers"),
        ({"thresholds": [0.5, True, 0]}, "`thresholds` must be 3 numbers"),
        ({"patience": 1}, "`patience` must be an integer of at least 2"),
    ],
)
def test_rejects_impossible_arguments(device, arguments, message):
    with pytest.raises(ValueError, match=message):
        device.classify(np.zeros((8, 8, 1), "float32"), **arguments)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"deadline_ms": "5"}, "`deadline_ms` must be a number of at least 0, or None"),
        ({"deadline_ms": [5]}, "`deadline_ms` must be a number"),
        ({"deadline_ms": {}}, "`deadline_ms` must be a number"),
        ({"deadline_ms": np.array([1, 2])}, "`deadline_ms` must be a number"),
        ({"deadline_ms": True}, "`deadline_ms` must be a number"),
        ({"deadline_ms": 1j}, "`deadline_ms` must be a number"),
        ({"thresholds": 0.5}, "`thresholds` must be 3 numbers, one per exit"),
        ({"thresholds": "0.5"}, "`thresholds` must be 3 numbers"),
        ({"thresholds": ["0.5", "0.5", "0"]}, "`thresholds` must be 3 numbers"),
        ({"thresholds": [None, 0, 0]}, "`thresholds` must be 3 numbers"),
        ({"thresholds": [[0.5], [0.5], [0]]}, "`thresholds` must be 3 numbers"),
    ],
)
def test_arguments_of_a_wrong_type_are_type_errors(device, arguments, message):
    with pytest.raises(TypeError, match=message):
        device.classify(np.zeros((8, 8, 1), "float32"), **arguments)


def test_the_thresholds_of_a_file_can_be_given_back(device, test_images):
    own = device.info["thresholds"]
    for image in test_images[0][:30]:
        assert device.classify(image, thresholds=own).exit == device.classify(image).exit


def test_numpy_numbers_are_numbers(exported):
    image = np.zeros((8, 8, 1), "float32")
    with AnytimeModel(exported, num_threads=np.int64(1)) as device:
        answer = device.classify(image, np.float32(0), np.full(3, np.inf, "float32"))
        assert (answer.exit, answer.stopped_by) == (0, "deadline")
        answer = device.classify(image, np.int64(10**6), [np.float64(np.inf), np.int8(0), 0])
        assert (answer.exit, answer.stopped_by) == (1, "confidence")
        assert device.classify(image, patience=np.int32(3)).exit in (0, 1, 2)


def test_rejects_pixels_where_the_file_does_not_standardize(plain):
    with pytest.raises(ValueError, match="`image` must be of floats"):
        plain[0].classify(np.zeros((8, 8, 1), "uint8"))
    plain[0].classify(np.full((8, 8, 1), 255.0))  # nothing is known of their range


@pytest.fixture
def in_one_call():
    path = Path(__file__).parents[2] / "tflite" / "testdata" / "files" / "single_call.tflite"
    with AnytimeModel(path, num_threads=1) as device:
        yield device, np.zeros(device.input_shape, "float32"), [np.inf, np.inf, -np.inf]


def test_without_a_deadline_an_image_takes_the_single_call(in_one_call, monkeypatch):
    device, image, never = in_one_call
    stages, whole = [], []
    run, predict = device._backend.run, device._backend.predict
    monkeypatch.setattr(device._backend, "run", lambda i: (stages.append(i), run(i))[1])
    monkeypatch.setattr(device._backend, "predict", lambda t: (whole.append(1), predict(t))[1])
    assert device.classify(image, thresholds=never).stopped_by == "end"
    assert (stages, whole) == ([], [1])
    for arguments in ({"deadline_ms": np.inf}, {"deadline_ms": 1e6}, {"patience": 3}):
        stages.clear()
        assert device.classify(image, thresholds=never, **arguments).exit == 2
        assert (stages, whole) == ([0, 1, 2], [1])


def test_an_image_that_was_cancelled_while_it_waited_does_not_take_the_single_call(in_one_call):
    device, image, never = in_one_call
    with ThreadPoolExecutor(1) as pool:
        with device._lock:  # as another image does
            waits = pool.submit(device.classify, image, None, never)
            time.sleep(0.05)
            device.cancel()
        answer = waits.result(10)
    assert (answer.exit, answer.stopped_by) == (0, "cancelled")
    assert device.classify(image, None, never).stopped_by == "end"


@pytest.mark.slow
@pytest.mark.subprocess
def test_a_network_whose_shapes_depend_on_values(tmp_path):
    """Its tensors, inputs too, move when a sample needs more memory than those before."""
    command = [sys.executable, str(Path(__file__).parent / "dynamic_shapes.py"), str(tmp_path)]
    run = subprocess.run(command, capture_output=True, text=True)
    assert run.returncode == 0, run.stderr[-2000:]
    assert run.stdout.split() == ["0", "of", "23"]


def test_rejects_what_is_no_exported_file(tmp_path, exported):
    path = tmp_path / "model.tflite"
    with pytest.raises(ValueError, match="`path` must be a file"):
        AnytimeModel(path)
    path.write_bytes(b"not a model")
    with pytest.raises(ValueError, match="must be a TFLite model"):
        AnytimeModel(path)
    path.write_bytes(b"")
    with pytest.raises(ValueError, match="must be a TFLite model"):
        AnytimeModel(path)
    path.write_bytes(exported.read_bytes()[: exported.stat().st_size // 2])
    with pytest.raises(ValueError, match="must be a whole TFLite model"):
        AnytimeModel(path)


def test_rejects_a_tflite_file_of_another_kind(tmp_path):
    import tensorflow as tf

    function = tf.function(lambda x: x + 1).get_concrete_function(tf.TensorSpec((1, 2)))
    content = tf.lite.TFLiteConverter.from_concrete_functions([function]).convert()
    (tmp_path / "model.tflite").write_bytes(content)
    with pytest.raises(ValueError, match="which is another TFLite model"):
        AnytimeModel(tmp_path / "model.tflite")


@pytest.mark.subprocess
def test_runs_without_tensorflow_and_keras(exported):
    program = f"""
import sys
import numpy as np
from anytime_tflite import AnytimeModel, read_info
answer = AnytimeModel({str(exported)!r}).classify(np.zeros((8, 8, 1), "uint8"), deadline_ms=50)
assert 0 <= answer.label < 10
print(sorted({{name.split(".")[0] for name in sys.modules}} & {{"tensorflow", "keras", "jax"}}))
"""
    run = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert run.stdout.strip() == "[]"
