"""BatchPredictor: the answers of one model, on several interpreters, in the samples' order."""

import io
import json
import multiprocessing
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import file_vectors
import numpy as np
import pytest

from anytime_tflite import AnytimeModel, BatchPredictor, batch, workers
from anytime_tflite.backends import InterpreterBackend

ROOT = Path(__file__).parents[2]
ANSWERS = json.loads((file_vectors.FOLDER / "answers.json").read_text())["cases"]
OLD = ROOT / "tests" / "data" / "before_layout"


def case_of(name):
    return next(case for case in ANSWERS if case["file"] == f"{name}.tflite")


def inputs(case):
    return {name: file_vectors.unpack(packed) for name, packed in case["inputs"].items()}


def opened(name, **how):
    return BatchPredictor(file_vectors.FOLDER / f"{name}.tflite", **how)


@pytest.fixture(scope="module", params=["float32", "single_call"])
def predictor(request):
    with opened(request.param, workers=3) as made:
        made.single, made.expected = (
            request.param == "single_call",
            case_of(request.param)["expected"] * 4,
        )
        yield made


@pytest.fixture
def x(predictor):
    (array,) = inputs(case_of("single_call" if predictor.single else "float32")).values()
    if array.dtype == np.uint8:
        mean, std = (np.float32(predictor.info["preprocessing"][key]) for key in ("mean", "std"))
        array = (array / np.float32(255) - mean) / std
    return np.concatenate([array] * 4)


def check(result, expected):
    assert result.exits.tolist() == [one["exit"] for one in expected]
    assert result.labels.tolist() == [one["label"] for one in expected]
    probabilities = [one["probabilities"] for one in expected]
    np.testing.assert_allclose(result.probabilities, probabilities, atol=1e-4)


@pytest.mark.parametrize("case", ANSWERS, ids=lambda case: case["file"][:-7])
def test_every_kind_of_file_answers_as_is_written(case):
    data, rows = inputs(case), np.arange(len(case["expected"]))
    with BatchPredictor(file_vectors.FOLDER / case["file"], workers=2) as predictor:
        result = predictor.predict(data)
        check(result, case["expected"])
        stages = np.searchsorted(predictor.exits, result.exits)
        costs = file_vectors.unpack(case["costs"])[rows, stages]
        np.testing.assert_allclose(result.costs, costs, rtol=1e-6)
        dtypes = [array.dtype for array in result]
        assert dtypes == ["float32", "int64", "int64", "float64"]
        in_order = list(data.values()) if len(data) > 1 else list(*data.values())
        check(predictor.predict(in_order), case["expected"])
        samples = [{name: array[row] for name, array in data.items()} for row in rows]
        check(predictor.predict(iter(samples)), case["expected"])
        for sample, expected in zip(samples[:5], case["expected"], strict=False):
            for deadline_ms in (None, 1e9):
                answer = predictor.classify(sample, deadline_ms)
                assert (answer.exit, answer.label) == (expected["exit"], expected["label"])
                assert answer.stopped_by == expected["stopped_by"]


WAYS = {
    "array": lambda x: x,
    "samples": lambda x: (sample for sample in x),
    "batches": lambda x: (x[i : i + 7] for i in range(0, len(x), 7)),
    "both": lambda x: iter([x[0], x[1:20], x[20], x[21], x[22:22], x[22:]]),
    "list": list,
    "list of lists": lambda x: x.tolist(),
    "labels beside": lambda x: ((x[i : i + 9], np.zeros(9)) for i in range(0, len(x), 9)),
    "float64": lambda x: x.astype("float64"),
    "not contiguous": lambda x: np.asfortranarray(x),
}


@pytest.mark.parametrize("way", WAYS)
def test_samples_may_come_in_many_ways(predictor, x, way):
    check(predictor.predict(WAYS[way](x)), predictor.expected)


@pytest.mark.parametrize("size", [1, 7])
def test_a_generator_may_fill_one_array_again_and_again(predictor, x, size):
    def filled(array):
        for i in range(0, len(x) - size + 1, size):
            array[...] = x[i : i + size]
            yield array[0] if size == 1 else array

    found = predictor.predict(filled(np.empty_like(x[:size])))
    check(found, predictor.expected[: len(x) // size * size])


def test_a_mapped_array_and_a_file_of_hdf5(predictor, x, tmp_path):
    import h5py

    np.save(tmp_path / "x.npy", x)
    check(predictor.predict(np.load(tmp_path / "x.npy", "r")), predictor.expected)
    with h5py.File(tmp_path / "x.h5", "w") as file:
        file["x"] = x
        check(predictor.predict(file["x"]), predictor.expected)


@pytest.mark.parametrize("size", [1, 2, 3, 5])
def test_few_samples_are_shared_out_too(predictor, x, size):
    check(predictor.predict(x[:size]), predictor.expected[:size])


def test_log_odds_are_the_thresholds_that_are_compared(predictor, x):
    own, written = predictor.info["log_odds"], predictor.info["thresholds"]
    check(predictor.predict(x, log_odds=own), predictor.expected)
    check(predictor.predict(x, written), predictor.expected)
    p = np.array([0.9, 0.6, 1e-9])[: len(own)]
    by_hand = {"max_prob": np.log(p / (1 - p)), "prob_margin": -np.log1p(-p)}
    odds = by_hand[predictor.info["confidence"]]
    by_odds = predictor.predict(x, log_odds=[*odds[:-1], -np.inf])
    assert by_odds.exits.tolist() == predictor.predict(x, p).exits.tolist()
    for k in range(len(own)):
        limits = [np.inf] * len(own)
        limits[k] = -np.inf
        assert set(predictor.predict(x, log_odds=limits).exits) == {k}
        assert predictor.classify(x[0], log_odds=limits).exit == k


def test_many_threads_may_use_one_predictor(predictor, x):
    threads = threading.active_count()
    with ThreadPoolExecutor(8) as pool:
        whole = [pool.submit(predictor.predict, WAYS[way](x)) for way in ("array", "both") * 4]
        answers = list(pool.map(predictor.classify, x))
        for one in whole:
            check(one.result(), predictor.expected)
    assert [a.exit for a in answers] == [one["exit"] for one in predictor.expected]
    assert threading.active_count() == threads  # none is left behind
    assert predictor._pool._made <= 3
    assert len(predictor._pool._free) == predictor._pool._made


def test_what_waits_for_a_worker_counts_against_the_deadline(monkeypatch):
    with opened("float32", workers=1) as predictor:
        (x,) = inputs(case_of("float32")).values()
        never = [np.inf, np.inf, -np.inf]
        predictor.warm_up()
        assert predictor.classify(x[0], 1e6, never).stopped_by == "end"
        with predictor._pool.worker(), ThreadPoolExecutor(1) as pool:
            waits = pool.submit(predictor.classify, x[0], 30, never)
            time.sleep(0.05)
            assert not waits.done()
            first = predictor._pool._waiting[0]
            predictor._pool._give(predictor._pool.first)  # as if it were another's
            assert first.worker is predictor._pool.first
            answer = waits.result()
        assert (answer.exit, answer.stopped_by) == (0, "deadline")
        assert answer.elapsed_ms >= 50


def test_who_waits_longest_is_next():
    pool = workers.Pool(lambda: workers.Worker(file_vectors.FOLDER / "float32.tflite", 1), 1)
    order = []

    def take(number):
        with pool.worker():
            order.append(number)

    with pool.worker():
        threads = [threading.Thread(target=take, args=(i,)) for i in range(5)]
        for number, thread in enumerate(threads, 1):
            thread.start()
            while len(pool._waiting) < number:
                time.sleep(0.001)
    for thread in threads:
        thread.join()
    assert order == [0, 1, 2, 3, 4]
    pool.close()


def test_no_more_is_read_than_the_workers_need(predictor, x, monkeypatch):
    monkeypatch.setattr(batch, "_MOST", 4)
    given, done, answers = [0], [0], workers.Worker.answers

    def counted(self, tensors, samples, limits):
        found = answers(self, tensors, samples, limits)
        done[0] += samples
        return found

    monkeypatch.setattr(workers.Worker, "answers", counted)
    ahead = []

    def samples():
        for _ in range(40):
            for sample in x:
                given[0] += 1
                ahead.append(given[0] - done[0])
                assert threading.current_thread() is threading.main_thread()
                yield sample

    assert len(predictor.predict(samples()).labels) == 40 * len(x)
    assert max(ahead) <= 4 * (3 + 3 + 2)  # at work, waiting, and being put together


# ---- what goes wrong


def test_a_wrong_sample_is_named(predictor, x):
    bad = x.copy()
    bad[17, 0, 0] = np.nan
    for way in ("array", "samples", "batches", "both"):
        with pytest.raises(ValueError, match=r"`x\[17\]` must be finite"):
            predictor.predict(WAYS[way](bad))
    check(predictor.predict(x), predictor.expected)  # and goes on


def test_masks_and_rows_of_different_length_are_refused(predictor, x):
    (name,) = predictor.inputs
    masked = np.ma.masked_array(x, np.ones(x.shape, bool))
    for given in (masked, masked[:1], list(masked), {name: masked}):
        with pytest.raises(ValueError, match="must be without a mask"):
            predictor.predict(given)
    ragged = [x[0], x[0][:4]]
    for given in ({name: ragged}, [ragged]):
        with pytest.raises(ValueError, match=r"`x(\[0\])?` must be an array"):
            predictor.predict(given)


def test_what_a_worker_cannot_compute_is_said_of_its_sample(predictor, x, monkeypatch):
    name = "predict" if predictor.single else "run"
    ran, real = [], getattr(InterpreterBackend, name)

    def fails(self, given):
        ran.append(1)
        if len(ran) > 11:
            raise RuntimeError("out of luck")
        return real(self, given)

    monkeypatch.setattr(InterpreterBackend, name, fails)
    with pytest.raises(RuntimeError, match=r"Sample \d+ of `x` cannot be computed: .*out of luck"):
        predictor.predict(x)
    threads = threading.active_count()
    with pytest.raises(RuntimeError, match=r"Sample \d+ of `x`"):
        predictor.predict(iter(x))
    assert threading.active_count() == threads


def test_an_error_of_the_generator_is_raised_as_it_is(predictor, x):
    def samples():
        yield from x[:9]
        raise ZeroDivisionError("of the user")

    threads = threading.active_count()
    with pytest.raises(ZeroDivisionError, match="of the user"):
        predictor.predict(samples())
    assert threading.active_count() == threads


@pytest.mark.parametrize(
    ("given", "error", "message"),
    [
        (lambda x: x[0], ValueError, r"`x` must be of shape \(samples, "),
        (lambda x: x[:0], ValueError, "at least one sample"),
        (lambda x: iter([]), ValueError, "at least one sample"),
        (lambda x: [], ValueError, "at least one sample"),
        (lambda x: iter([x[0], x[:2, :3]]), ValueError, r"`x\[1\]` must be of shape"),
        (lambda x: iter([x[0], x[None, :2]]), ValueError, r"`x\[1\]` must be a sample or a batch"),
        (lambda x: {"y": x}, ValueError, "must be a dictionary of"),
        (lambda x: 3, TypeError, "must be an array, arrays of every input, or an iterable"),
        (lambda x: "x.npy", TypeError, "Received: a str"),
        (lambda x: None, TypeError, "Received: a NoneType"),
    ],
)
def test_what_is_no_batch_is_refused(predictor, x, given, error, message):
    with pytest.raises(error, match=message):
        predictor.predict(given(x))


def test_inputs_of_different_length_are_refused():
    with opened("two_inputs", workers=1) as predictor:
        data = inputs(case_of("two_inputs"))
        first = next(iter(data))
        data[first] = data[first][:-1]
        with pytest.raises(ValueError, match="as many samples for each input"):
            predictor.predict(data)
        with pytest.raises(TypeError, match="must be a dictionary of the inputs"):
            predictor.predict(data[first])


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"verbose": 2}, "`verbose` must be"),
        ({"verbose": "yes"}, "`verbose` must be"),
        ({"thresholds": [0.5]}, "`thresholds` must be 3 numbers"),
        ({"log_odds": [0.5]}, "`log_odds` must be 3 numbers"),
        ({"log_odds": [0.5, np.nan, 0]}, "`log_odds` must be 3 numbers"),
        ({"thresholds": [0.5] * 3, "log_odds": [0.5] * 3}, "Only one of"),
    ],
)
def test_impossible_arguments_are_refused(predictor, x, arguments, message):
    with pytest.raises(ValueError, match=message):
        predictor.predict(x, **arguments)


@pytest.mark.parametrize("count", [0, -1, 1.5, True, "2"])
def test_impossible_workers_are_refused(count):
    with pytest.raises(ValueError, match="`workers` must be a positive integer"):
        opened("float32", workers=count)


def test_there_is_a_worker_for_each_core_that_may_be_used(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {0, 3, 5}, raising=False)
    with opened("float32") as predictor:
        assert predictor.workers == 3


def test_log_odds_are_no_thresholds_of_version_2():
    path = next(OLD.glob("*.tflite"))
    with BatchPredictor(path, workers=1) as predictor, AnytimeModel(path) as device:
        x = np.random.default_rng(0).normal(size=(20, *device.input_shape)).astype("float32")
        result = predictor.predict(x)
        assert result.exits.tolist() == [device.classify(image).exit for image in x]
        assert np.isnan(result.costs).all()
        with pytest.raises(ValueError, match="`log_odds` must be None for a file of version 2"):
            predictor.predict(x, log_odds=device.info["thresholds"])


def test_a_closed_predictor_says_so(x):
    predictor = opened("float32", workers=2)
    predictor.close()
    predictor.close()
    for use in (predictor.predict, predictor.classify):
        with pytest.raises(ValueError, match="The predictor must be open"):
            use(x)


def test_closing_ends_what_is_under_way(x):
    predictor, begun, go = opened("float32", workers=1), threading.Event(), threading.Event()

    def samples():
        yield from x
        begun.set()
        go.wait(10)
        yield from x

    with ThreadPoolExecutor(1) as pool:
        result = pool.submit(predictor.predict, samples())
        assert begun.wait(10)
        predictor.close()
        go.set()
        with pytest.raises(ValueError, match="The predictor must be open"):
            result.result(10)


@pytest.mark.skipif(not hasattr(os, "fork"), reason="there is no fork here")
def test_a_forked_process_says_so(predictor, x):
    reads, writes = multiprocessing.Pipe(duplex=False)
    child = os.fork()
    if child == 0:
        try:
            predictor.predict(x)
        except BaseException as error:
            writes.send(repr(error))
        os._exit(0)
    os.waitpid(child, 0)
    assert "must be used in the process that opened it" in reads.recv()


INTERRUPTED = """
import random, signal, sys, threading, time
import numpy as np
from anytime_tflite import BatchPredictor
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
predictor = BatchPredictor(sys.argv[1], workers=2)
shape = next(iter(predictor.inputs.values()))[0]
x = np.broadcast_to(np.zeros(1, "float32"), (1_000_000, *shape))
main, count, left = threading.main_thread().ident, 0, 0
for seconds in (1, *map(random.Random(0).uniform, [0.05] * 40, [0.1] * 40)):
    for given in (x, iter(x)):
        threading.Timer(seconds, signal.pthread_kill, [main, signal.SIGINT]).start()
        try:
            predictor.predict(given)
        except KeyboardInterrupt:
            count += 1
        end = time.monotonic() + 5
        while len(sys._current_frames()) > 1 and time.monotonic() < end:
            time.sleep(0.001)
        left += len(sys._current_frames()) - 1
print(count, left)
print(len(predictor.predict(x[:10]).labels))
"""


@pytest.mark.slow
@pytest.mark.subprocess
def test_the_keyboard_ends_it_cleanly():
    path = file_vectors.FOLDER / "single_call.tflite"
    command = [sys.executable, "-c", INTERRUPTED, str(path)]
    run = subprocess.run(command, capture_output=True, text=True, timeout=100)
    assert run.stdout.splitlines() == ["82 0", "10"], run.stderr


ALONE = """
import sys
for name in ("tensorflow", "keras", "keras_adaptive"):
    sys.modules[name] = None  # cannot be imported
from concurrent.futures import ThreadPoolExecutor
import numpy as np
from anytime_tflite import BatchPredictor
from anytime_tflite.bench import resident_mb

predictor = BatchPredictor(sys.argv[1], workers=2)
shape = next(iter(predictor.inputs.values()))[0]
rng, memory = np.random.default_rng(0), []

def samples():
    for i in range(5000):
        if i in (1000, 4999):
            memory.append(resident_mb())
        yield rng.normal(size=shape).astype("float32")

result = predictor.predict(samples())
assert len(result.labels) == 5000
print(memory[1] - memory[0])
rng = np.random.default_rng(0)
x = np.stack([rng.normal(size=shape).astype("float32") for _ in range(5000)])
whole = predictor.predict(x)
print((whole.exits == result.exits).all(), (whole.probabilities == result.probabilities).all())
with ThreadPoolExecutor(8) as pool:
    answers = list(pool.map(predictor.classify, x[:500]))
print([answer.exit for answer in answers] == result.exits[:500].tolist())
"""


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.parametrize("name", ["single_call", "patience"])
def test_without_tensorflow_memory_stays_flat(name):
    command = [sys.executable, "-c", ALONE, str(file_vectors.FOLDER / f"{name}.tflite")]
    run = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert run.returncode == 0, run.stderr
    grown, *same = run.stdout.splitlines()
    assert float(grown) < 3  # megabytes, while 4,000 samples pass
    assert same == ["True True", "True"]


def test_progress_is_shown_where_it_is_wanted(predictor, x, capsys, monkeypatch):
    predictor.predict(x)
    assert capsys.readouterr().err == ""  # no terminal
    predictor.predict(x, verbose=1)
    shown = capsys.readouterr().err
    assert f" of {len(x):,} samples" in shown
    assert shown.endswith("\r")

    class Terminal(io.StringIO):
        def isatty(self):
            return True

    for seconds, some in ((100, False), (0, True)):
        with monkeypatch.context() as patch:
            patch.setattr(sys, "stderr", Terminal())
            patch.setattr(batch, "_SILENT_S", seconds)
            predictor.predict(x)
            assert bool(sys.stderr.getvalue()) == some
            predictor.predict(x, verbose=0)
            assert ("samples" in sys.stderr.getvalue()) == some


class Public:
    """A runner of a version of the interpreter whose insides are others."""

    def __init__(self, runner):
        self._runner = runner

    def __call__(self, **tensors):
        return self._runner(**tensors)


def test_the_single_call_needs_no_insides_of_the_interpreter(monkeypatch):
    (x,) = inputs(case_of("single_call")).values()
    with opened("single_call", workers=1) as predictor:
        expected = predictor.predict(x)
        backend = predictor._pool.first._backend
        runner = backend._interpreter.get_signature_runner
        monkeypatch.setattr(
            backend._interpreter, "get_signature_runner", lambda key: Public(runner(key))
        )
        backend._single = None
        found = predictor.predict(x)
        assert found.exits.tolist() == expected.exits.tolist()
        np.testing.assert_array_equal(found.probabilities, expected.probabilities)
