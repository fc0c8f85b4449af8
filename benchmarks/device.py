"""What a phone would get: exits of the exported files against networks cut there.

    make bench-device

On CIFAR-10 with the trained five-exit MSDNet, one thread. Files and accuracies are kept in
runs/device, so that the timing can be repeated alone.
"""

import time
from functools import partial

import keras
import numpy as np

import keras_adaptive as ka
from anytime_tflite import AnytimeModel
from anytime_tflite.backends import interpreter_class
from anytime_tflite.bench import memory_mb
from benchmarks import _rows, common
from keras_adaptive import _graph

FOLDER = common.RUNS / "device"
KINDS = (None, "dynamic", "int8")
EXPORTED = (None, "float16", "dynamic", "int8")
ROUNDS = 50
WARM, KEPT = 5, 15  # runs in a turn: not counted, counted
DEADLINES = 1000
CALIBRATE = 2000
ACCURACY = _rows.Rows(FOLDER, calibrate=CALIBRATE)
BOUNDS = {None: 1.12, "dynamic": 1.20, "int8": 1.20}
SINGLE_BOUND = 1.10
SIZE_BOUND = 1.01
NEVER = 1.02  # a threshold above any probability, close enough to be quantized well


def name(kind):
    return kind or "float32"


# ---- files


def prepare():
    """Writes what is timed; returns what each exit of it is worth, by kind."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    model, data = common.cifar_net(), common.cifar()
    policy = ka.ExitPolicy.load(common.RESULTS / "cifar10_budgeted_5" / "policy.json")
    x, y = (part[:CALIBRATE] for part in data.arrays("calibrate"))
    test, labels = data.arrays("test")
    accuracies = {"keras": _right(np.stack(model.predict(test, verbose=0)), labels)}
    for kind in EXPORTED:
        for single in (False, True) if kind in KINDS else (False,):
            path = FOLDER / f"{name(kind)}_{'single' if single else 'staged'}.tflite"
            ka.export_tflite(
                model, path, policy, quantize=kind, calibration_data=(x, y), single_call=single
            )
        path = FOLDER / f"{name(kind)}_staged.tflite"
        accuracies[name(kind)] = _right(common.stage_logits(AnytimeModel(path, 1), test), labels)
        print(name(kind), accuracies[name(kind)], flush=True)
    for kind in KINDS:
        for k in range(model.exits):
            _write_static(model, model.outputs[: k + 1], f"{name(kind)}_static_{k}", kind, x)
            _write_static(model, [model.outputs[k]], f"{name(kind)}_cut_{k}", kind, x)
        _write_conditional(model, f"{name(kind)}_conditional", kind, x)
    return accuracies


def _right(logits, labels):
    return (logits.argmax(-1) == labels).mean(axis=1).tolist()


def _write_static(model, outputs, file, kind, images):
    """Converts a part of the network as anybody would, without us."""
    import tensorflow as tf

    part = _graph.ListModel(model.inputs, outputs)
    spec = tf.TensorSpec((1, *model.inputs[0].shape[1:]), tf.float32, name="x")
    function = tf.function(
        lambda x: {f"logits_{i}": z for i, z in enumerate(part(x, training=False))}
    ).get_concrete_function(spec)
    _convert(function, part, file, kind, lambda: ([x[None]] for x in images[:200]))


def _write_conditional(model, file, kind, images):
    """Converts the network with one conditional in the other, as TensorFlow does it."""
    import tensorflow as tf

    exits = model.exits
    stages = _graph.minimal_stages(model.inputs, model.outputs)
    policy = ka.ExitPolicy([0.0] * exits)

    def from_stage(k, tensors, thresholds):
        stage, reads, adds = stages[k]
        logits, *features = stage([tensors[name] for name in reads], training=False)
        if k == exits - 1:
            return logits, tf.constant(k)
        later = {**tensors, **dict(zip(adds, features, strict=True))}
        leaves, _ = policy.step(k, logits, (), keras.ops, thresholds[k])
        return tf.cond(
            leaves[0],
            lambda: (logits, tf.constant(k)),
            lambda: from_stage(k + 1, later, thresholds),
        )

    function = tf.function(
        lambda x, thresholds: from_stage(0, {"input_0": x}, thresholds)
    ).get_concrete_function(
        tf.TensorSpec((1, *model.inputs[0].shape[1:]), tf.float32, name="x"),
        tf.TensorSpec((exits,), tf.float32, name="thresholds"),
    )
    never = np.full(exits, NEVER, "float32")
    _convert(
        function,
        model,
        file,
        kind,
        lambda: ({"x": x[None], "thresholds": never} for x in images[:200]),
    )


def _convert(function, model, file, kind, examples):
    import tensorflow as tf

    module = tf.Module()
    module.values = [v.value for v in model.variables]
    converter = tf.lite.TFLiteConverter.from_concrete_functions([function], module)
    if kind is not None:
        converter.optimizations = [tf.lite.Optimize.DEFAULT]
    if kind == "int8":
        converter.representative_dataset = examples
    (FOLDER / f"{file}.tflite").write_bytes(converter.convert())


# ---- times


class Static:
    """A file with one signature, run as its documentation says.

    Args:
        file: Name of the file.
        thresholds: Array, which it takes beside the image. `None`: it takes none.
    """

    def __init__(self, file, thresholds=None):
        self.interpreter = interpreter_class()(str(FOLDER / f"{file}.tflite"), num_threads=1)
        self.interpreter.allocate_tensors()
        inputs = {len(d["shape"]): d["index"] for d in self.interpreter.get_input_details()}
        self.input = inputs[4]
        if thresholds is not None:
            self.interpreter.set_tensor(inputs[1], thresholds)
        self.outputs = [d["index"] for d in self.interpreter.get_output_details()]

    def __call__(self, image):
        self.interpreter.set_tensor(self.input, image)
        self.interpreter.invoke()
        return [self.interpreter.get_tensor(i) for i in self.outputs]


def ways(kind, exits):
    """Returns what is timed, by name: functions of one image."""
    staged = FOLDER / f"{name(kind)}_staged.tflite"
    found = {}
    for k in range(exits):
        # an instance each, as the static files are: shared ones would find their weights cached
        runs, whole = AnytimeModel(staged, 1), AnytimeModel(staged, 1)
        single = AnytimeModel(FOLDER / f"{name(kind)}_single.tflite", 1)
        compiled = AnytimeModel(staged, 1, backend="compiled_model")
        assert runs._backend.direct
        thresholds = np.full(exits, np.inf, "float32")
        thresholds[k] = -np.inf
        found[f"static_{k}"] = Static(f"{name(kind)}_static_{k}")
        found[f"cut_{k}"] = Static(f"{name(kind)}_cut_{k}")
        leaving = np.minimum(thresholds, NEVER).clip(0)
        found[f"tf.cond_{k}"] = Static(f"{name(kind)}_conditional", leaving)
        found[f"staged_{k}"] = partial(_stages, runs._backend, k)
        found[f"compiled_{k}"] = partial(_stages, compiled._backend, k)
        found[f"single_{k}"] = partial(_single, single._backend, thresholds)
        found[f"classify_{k}"] = partial(_classify, whole, thresholds)
    return found


def _stages(backend, last, image):
    backend.start({"image": image})
    for i in range(last + 1):
        logits = backend.run(i)
    return logits


def _single(backend, thresholds, image):
    return backend.predict({"image": image, "thresholds": thresholds})


def _classify(model, thresholds, image):
    return model.classify(image[0], thresholds=thresholds)


def measure(functions, image, rounds):
    """Returns milliseconds, `(rounds,)` each; in turn, in another order every round.

    All ways to one exit follow one another: what is compared is measured within a second. In
    its turn a way takes one image after another, as a camera gives them; the first ones bring
    its weights and what it keeps about its tensors into the caches and are not counted. The
    others' median is the round's time.
    """
    rng = np.random.default_rng(0)
    times = {key: [] for key in functions}
    exits = {}
    for key in functions:
        exits.setdefault(key.rpartition("_")[2], []).append(key)
    for _ in range(rounds):
        for k in rng.permutation(list(exits)):
            for key in rng.permutation(exits[k]):
                run, turn = functions[key], []
                for _ in range(WARM + KEPT):
                    start = time.perf_counter()
                    run(image)
                    turn.append(1000 * (time.perf_counter() - start))
                times[key].append(np.median(turn[WARM:]))
    return {key: np.array(values) for key, values in times.items()}


def against_static(times, way, k):
    """Returns quartiles over the rounds: a way's time as a multiple of the static file's."""
    return np.quantile(times[f"{way}_{k}"] / times[f"static_{k}"], (0.25, 0.5, 0.75))


def undisturbed(times, way, k):
    """Returns the same median over the quarter of the rounds in which `static` was fastest."""
    static = times[f"static_{k}"]
    rounds = static <= np.quantile(static, 0.25)
    return float(np.median(times[f"{way}_{k}"][rounds] / static[rounds]))


def deadlines(exits):
    """1,000 images at random deadlines; everybody would go to the end."""
    device = AnytimeModel(FOLDER / "float32_staged.tflite", 1)
    rng = np.random.default_rng(0)
    images = rng.normal(size=(50, *device.input_shape)).astype("float32")
    never = [np.inf] * exits
    stages = []
    for i in range(300):
        before, row = 0.0, []
        for answer in device.stream(images[i % 50]):
            row.append(answer.elapsed_ms - before)
            before = answer.elapsed_ms
        stages.append(row)
    p99 = np.quantile(stages, 0.99, axis=0)
    full = float(np.median(np.sum(stages, axis=1)))
    given = rng.uniform(p99[0], full, DEADLINES)
    over, exits_left, answers = [], [], 0
    for i, deadline in enumerate(given):
        start = time.perf_counter()
        answer = device.classify(images[i % 50], deadline_ms=deadline, thresholds=never)
        over.append(1000 * (time.perf_counter() - start) - deadline)
        exits_left.append(answer.exit)
        answers += np.isfinite(answer.probabilities).all()
    return {
        "calls": DEADLINES,
        "answers": int(answers),
        "from_ms": float(p99[0]),
        "to_ms": full,
        "kept_share": float(np.mean(np.array(over) <= 0)),
        "overrun_p99_ms": float(max(0.0, np.quantile(over, 0.99))),
        "overrun_max_ms": float(max(over)),
        "stage_p99_ms": p99.tolist(),
        "mean_exit": float(np.mean(exits_left)),
    }


def compared(kind, times, exits):
    """Returns one row per exit: times as multiples of the static file's."""
    rows = []
    for k in range(exits):
        static = float(np.median(times[f"static_{k}"]))
        row = {"kind": name(kind), "exit": k, "static (ms)": static}
        for way in ("staged", "single", "tf.cond", "classify", "compiled", "cut"):
            low, row[way], high = against_static(times, way, k).tolist()
            row[f"{way} quartiles"] = f"{low:.2f} to {high:.2f}"
            row[f"{way} undisturbed"] = undisturbed(times, way, k)
        row["staged bound"], row["single bound"] = BOUNDS[kind], SINGLE_BOUND
        rows.append(row)
    return rows


def sizes(kind, exits):
    """Returns the sizes of the files, on disk and in memory."""
    files = {"static": f"static_{exits - 1}", "staged": "staged", "with single call": "single"}
    files = {way: FOLDER / f"{name(kind)}_{file}.tflite" for way, file in files.items()}
    size = {way: path.stat().st_size for way, path in files.items()}
    return {
        "kind": name(kind),
        "static (bytes)": size["static"],
        "staged": size["staged"] / size["static"],
        "with single call": size["with single call"] / size["static"],
        **{f"{way} (MB in memory)": memory_mb(path) for way, path in files.items()},
    }


def measured():
    accuracies = ACCURACY.measure("accuracy", prepare)
    accuracies = {key: accuracies[key] for key in ("keras", *map(name, EXPORTED))}
    exits = len(accuracies["keras"])
    image = np.random.default_rng(0).normal(size=(1, 32, 32, 3)).astype("float32")
    rows = []
    for kind in KINDS:
        rows += compared(kind, measure(ways(kind, exits), image, ROUNDS), exits)
    return {
        "times": rows,
        "files": [sizes(kind, exits) for kind in KINDS],
        "deadlines": deadlines(exits),
        "accuracy": accuracies,
    }


def page(results):
    rows, sizes, kept, accuracies = (
        results[key] for key in ("times", "files", "deadlines", "accuracy")
    )
    columns = ("kind", "exit", "static (ms)", "staged", "staged quartiles", "single")
    columns += ("single quartiles", "single undisturbed", "tf.cond", "classify", "compiled", "cut")

    def most(column):
        return {k: max(r[column] for r in rows if r["kind"] == name(k)) for k in KINDS}

    worst, single, quiet = most("staged"), most("single"), most("single undisturbed")
    users = most("classify")
    exits = range(len(accuracies["keras"]))
    accuracy_rows = [
        {"file": key, **{f"exit {k} accuracy": values[k] for k in exits}}
        for key, values in accuracies.items()
    ]
    stage = max(kept["stage_p99_ms"])
    return _rows.page(
        "# Exported files on the device's runtime: cifar_budgeted_5, one thread",
        f"Medians over {ROUNDS} rounds, in each all ways in turn: {KEPT} runs (their median) "
        f"after {WARM} that are not counted; the others as multiples of `static` in the same "
        "round: a "
        ".tflite of the network up to the exit, its earlier heads included. `staged`: the stages "
        "up to the exit, logits on the host. `single`: the single call. `tf.cond`: the network "
        "with nested conditionals, converted by TensorFlow alone. `classify`: all that "
        "`AnytimeModel.classify` does. `compiled`: the stages in CompiledModel. `cut`: the "
        "network up to the exit without earlier heads, which has no answer on the way. "
        "`undisturbed`: over the quarter of the rounds in which `static` was fastest.",
        _rows.table(columns, rows),
        "Largest staged: "
        + ", ".join(f"{name(k)} {worst[k]:.3f} (bound {BOUNDS[k]:.2f})" for k in KINDS)
        + ". Largest single: "
        + ", ".join(f"{name(k)} {single[k]:.3f} (bound {SINGLE_BOUND:.2f})" for k in KINDS)
        + "; undisturbed: "
        + ", ".join(f"{name(k)} {quiet[k]:.3f}" for k in KINDS)
        + ". What users pay is `classify`, largest: "
        + ", ".join(f"{name(k)} {users[k]:.3f}" for k in KINDS)
        + "; what it adds to the stages, about 0.05 ms each, weighs most "
        "at the first exit.",
        "The runtime prepares a branch anew at every run of an `IF`, and all branches inside of "
        "it. With `tf.cond`, one conditional in the other, who goes on after the first exit "
        "waits until the whole rest of the network is prepared. In `single` they stand one "
        "after another: a stage is prepared when it runs, and who has left passes by the "
        "others.",
        "The static int8 files are not what they should be: where a feature goes to a padding, a "
        "concatenation and a convolution, the converter leaves the padded convolution in float32, "
        "which makes them larger and slower. Cut into stages, the network has no such place.",
        "## Files",
        f"Sizes against the static file of all exits (bound {SIZE_BOUND} for the stages alone), "
        "and what a program grows by when it loads and runs every signature.",
        _rows.table(list(sizes[0]), sizes),
        "## Deadlines",
        f"{kept['calls']:,} calls of `classify`, nobody leaving by confidence, at random deadlines "
        f"from {kept['from_ms']:.2f} ms (the first stage's p99) to {kept['to_ms']:.2f} ms (the "
        f"whole network's median): {kept['answers']:,} answers; {kept['kept_share']:.1%} in time; "
        f"overrun p99 {kept['overrun_p99_ms']:.2f} ms, longest {kept['overrun_max_ms']:.2f} ms; "
        f"the slowest stage's p99 is {stage:.2f} ms; mean exit {kept['mean_exit']:.2f}.",
        "## Accuracy",
        "Of every exit on the 5,000 test images.",
        _rows.table(list(accuracy_rows[0]), accuracy_rows),
    )


if __name__ == "__main__":
    _rows.run("device", __doc__, measured, page, rounds=ROUNDS)
