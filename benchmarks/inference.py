"""The predictor on the host: CPU time against the ideal, the full network and an older version.

    make bench-inference
    make bench-inference BEFORE=FOLDER    (beside another version, with a .venv inside)

All contenders of a row are measured in turn, in one run: wall and CPU time, of all threads. Each
row, a network and a budget, is kept in runs/inference_rows, so that an interrupted run resumes;
published rows that are not measured anew stay.
"""

import functools
import itertools
import json
import subprocess
import tempfile
import time
from pathlib import Path

import keras
import numpy as np
import tensorflow as tf

import keras_adaptive as ka
from benchmarks import _rows, common, networks

THREADS = 2
SHARES = (0.3, 0.5, 0.8)
IMAGES = {1: 128, 8: 128, 64: 128, 256: 256}  # batch size: how many images are predicted
ROUNDS = 4
REST = 0.1  # seconds in which TensorFlow's threads, which wait by computing, fall asleep
CALIBRATE = 1000
ROWS = _rows.Rows(common.RUNS / "inference_rows", images=IMAGES, rounds=ROUNDS, single_calls=True)
VIT = """(lambda L: (lambda image: (lambda tokens: ka.add_exits(keras.Model(image, L.Dense(10)(
    L.GlobalAveragePooling1D()(tokens[-1]))), at=["block_1", "block_3"], classes=10))(
    __import__("itertools").accumulate(range(6), lambda x, i: L.Add(name=f"block_{i}")([x,
    L.Dense(96)(L.Dense(192, "gelu")(L.MultiHeadAttention(3, 32)(*[L.LayerNormalization()(x)] * 2)
    ))]), initial=L.Reshape((64, 96))(L.Conv2D(96, 4, 4)(image)))))(
    keras.Input((32, 32, 3))))(keras.layers)"""
# name: an expression, which both versions of the library can build
NETWORKS = {
    "five exits": 'ka.build_msdnet(preset="cifar_budgeted_5")',
    "seven exits": 'ka.build_msdnet(preset="cifar_budgeted_7", head_channels=64)',
    "gated ResNet": 'ka.build_resnet(depth=38, gates="layer", exits=(0.3, 0.6))',
    "MobileNetV2": "ka.add_exits(keras.applications.MobileNetV2((96, 96, 3), weights=None, "
    "classes=10), at=[0.3, 0.6], classes=10)",
    "ViT": VIT.replace("tokens[-1]", "list(tokens)[-1]"),
}
TITLES = {
    "batch": "batch",
    "macs": "MACs, of full",
    "cpu_ms": "CPU ms per image",
    "wall_ms": "wall ms per image",
    "over_before": "CPU, of before",
    "over_ideal": "CPU, of ideal",
    "over_full": "CPU, of LiteRT's full",
    "over_full_tf": "CPU, of TensorFlow's full",
    "before_ms": "before, CPU ms",
    "same_exits": "same exits as before",
}


class Before:
    """The predictor of another version, in a process of its own.

    Args:
        folder: Path of that version, with its environment in `.venv`.
        given: Dictionary, see `benchmarks._before`.
    """

    def __init__(self, folder, given):
        program = Path(__file__).with_name("_before.py")
        self._process = subprocess.Popen(
            [Path(folder) / ".venv/bin/python", "-P", program],
            cwd=folder,
            env={"PYTHONPATH": str(folder), "TF_CPP_MIN_LOG_LEVEL": "3", "PATH": "/usr/bin:/bin"},
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._ask(given)

    def _ask(self, what):
        self._process.stdin.write(json.dumps(what) + "\n")
        self._process.stdin.flush()
        while True:  # what others print is not for us
            line = self._process.stdout.readline()
            if not line:
                raise RuntimeError("The other version has ended; see its message above")
            if line[0] in '{"':
                return json.loads(line)

    def measure(self, policy, batch, images):
        return self._ask({"policy": policy, "batch": batch, "images": images})

    def close(self):
        self._process.stdin.close()
        self._process.wait()


def measured(*calls):
    """Returns CPU and wall time of calls, and the exits that they returned."""
    wall, cpu = time.perf_counter(), time.process_time()
    found = [call() for call in calls]
    cpu, wall = time.process_time() - cpu, time.perf_counter() - wall
    exits = [part.exits for part in found if hasattr(part, "exits")]
    return {"cpu": cpu, "wall": wall, "exits": np.concatenate(exits) if exits else None}


def frozen(model):
    """Returns the network with all its exits as one function of batches, weights as constants."""
    values = [(variable, variable.numpy()) for variable in model.variables]

    def run(x):
        with keras.StatelessScope([(variable, tf.constant(v)) for variable, v in values]):
            return model(x, training=False)

    return tf.function(run, [tf.TensorSpec((None, *model.inputs[0].shape[1:]))], autograph=False)


def settle(model, images):
    """Gives batch normalization the statistics of some images.

    Without these the features of deep networks of random weights are all but equal for all images,
    and rounding decides where they leave.
    """
    layers = [layer for layer in model._flatten_layers() if hasattr(layer, "moving_variance")]
    momenta = [layer.momentum for layer in layers]
    for layer in layers:
        layer.momentum = 0.0
    model(images, training=True)
    for layer, momentum in zip(layers, momenta, strict=True):
        layer.momentum = momentum


def network(name):
    """Returns a network and images: trained where there are weights; time does not depend on it."""
    keras.utils.set_random_seed(0)
    model = eval(NETWORKS[name], {"ka": ka, "keras": keras})
    trained = {
        "five exits": common.MODELS / "cifar10_budgeted_5.weights.h5",
        "seven exits": networks.weights("cifar10_budgeted_7"),
    }
    trained = {name: path for name, path in trained.items() if path.exists()}
    if name in trained:
        model.load_weights(trained[name])
    count = CALIBRATE + max(IMAGES.values())
    shape = model.inputs[0].shape[1:]
    if shape == (32, 32, 3):
        images = common.cifar().arrays("test")[0][:count]
    else:
        images = np.random.default_rng(0).normal(size=(count, *shape)).astype("float32")
    if name not in trained:
        settle(model, images[:250])
    return model, images


def measure(name, before):
    """Measures one network at all budgets and batch sizes; returns a row for each budget."""
    model, images = network(name)
    logits, costs = model.predict_with_costs(images[:CALIBRATE], batch_size=250, verbose=0)
    images = images[CALIBRATE:]
    full = costs[-1].mean()
    labels = logits[-1].argmax(-1)
    policies = []
    for share in SHARES:
        budget = max(share * full, 1.001 * costs[0].mean())
        policies.append(ka.calibrate(logits, labels, costs, budget=budget, method="geometric"))
        policies[-1].details["mean_cost"] = len(policies) - 1
    predictor = ka.AdaptivePredictor(model, policies, engine="litert")
    first = measured(lambda: predictor.predict(images[:1], budget=0))
    predictor.warm_up()
    exits = model.num_exits
    forced = [
        ka.ExitPolicy([1e30] * k + [-1e30] * (exits - k), "logit_margin") for k in range(exits)
    ]
    by_exit = [ka.AdaptivePredictor(model, policy, engine="litert") for policy in forced]
    whole = frozen(model)
    other = None
    with tempfile.TemporaryDirectory() as folder:
        if before is not None:
            np.savez(Path(folder, "weights.npz"), *model.get_weights())
            np.save(Path(folder, "images.npy"), images)
            given = {"weights": f"{folder}/weights.npz", "images": f"{folder}/images.npy"}
            given |= {"network": NETWORKS[name], "threads": THREADS}
            given["thresholds"] = [policy.thresholds.tolist() for policy in policies]
            other = Before(before, given)
        taken = in_turns(predictor, by_exit, whole, other, images)
        if other is not None:
            other.close()
    return [row(name, i, taken, full, first) for i in range(len(SHARES))]


def in_turns(predictor, by_exit, whole, other, images):
    """Returns what every contender took in every round, by name."""
    contenders, others = {}, {}
    for size, count in IMAGES.items():
        x = images[:count]
        parts = [x[i : i + size] for i in range(0, count, size)]
        others["full", size] = lambda parts=parts: measured(
            lambda: [np.stack(whole(part)) for part in parts]
        )
        for i in range(len(SHARES)):
            given = parts if size == 1 else [x]
            calls = [functools.partial(predictor.predict, g, size, i, 0) for g in given]
            contenders["ours", size, i] = functools.partial(measured, *calls)
            if other is not None:
                others["before", size, i] = lambda size=size, i=i, n=count: other.measure(
                    i, size, n
                )
    for k, each in enumerate(by_exit):
        contenders["exit", k] = lambda each=each: measured(
            lambda: each.predict(images[: IMAGES[8]], verbose=0)
        )
    contenders |= others
    taken = {key: [] for key in contenders}
    for number in range(-1, ROUNDS):
        for key, contender in contenders.items():
            time.sleep(REST)
            found = contender()
            if number >= 0:
                taken[key].append(found)
    return taken


def row(name, i, taken, full, first):
    """Returns what is published of one budget."""

    def ms(key, count, what="cpu"):
        return 1000 * float(np.median([each[what] for each in taken[key]])) / count

    exits_ms = [ms(key, IMAGES[8]) for key in sorted(k for k in taken if k[0] == "exit")]
    points = []
    for size, count in IMAGES.items():
        found = taken["ours", size, i][0]["exits"]
        shares = np.bincount(found, minlength=len(exits_ms)) / count
        ours = ms(("ours", size, i), count)
        point = {
            "batch": size,
            "cpu_ms": ours,
            "wall_ms": ms(("ours", size, i), count, "wall"),
            "over_ideal": ours / float(shares @ exits_ms),
            "over_full": ours / exits_ms[-1],
            "over_full_tf": ours / ms(("full", size), count),
        }
        if ("before", size, i) in taken:
            older = taken["before", size, i]
            point["before_ms"] = ms(("before", size, i), count)
            point["over_before"] = ours / point["before_ms"]
            point["same_exits"] = float(np.mean(np.asarray(older[0]["exits"]) == found))
        points.append(point)
    return {
        "net": name,
        "share": SHARES[i],
        "exits_ms": exits_ms,
        "first_answer_cpu_s": first["cpu"],
        "points": points,
    }


def page(rows):
    return _rows.page(
        "# Time on the host",
        f"`AdaptivePredictor` with the engine LiteRT, {THREADS} workers; all contenders of a "
        f"network in turn, medians of {ROUNDS} rounds, CPU time of all threads. Batch 1: a "
        "call of `predict` for each image; the others: one call for all, with this "
        "`batch_size`. `before`: the predictor of the version before, which regrouped batches "
        "and chose between TensorFlow and XLA. `ideal`: the sum over exits of the share that "
        "leaves there times the CPU time of the single call that is forced to that exit. "
        "`full`: all exits computed for every image, in LiteRT one image at a time, in "
        "TensorFlow in batches of this size, weights as constants. Thresholds: geometric, on "
        "other images; budgets are shares of the full network's MACs, at least the first "
        "exit. Networks without trained weights are timed with random ones, and with the "
        "statistics of some images in batch normalization.",
        *(part for r in rows for part in part_of(r)),
    )


def part_of(r):
    shown = {k: v for k, v in TITLES.items() if any(k in point for point in r["points"])}
    each = ", ".join(f"{ms:.3f}" for ms in r["exits_ms"])
    return [
        f"## {r['net']}, {r['share']:.0%} of the MACs",
        f"CPU ms of an image that leaves at each exit: {each}; {r['date']}.",
        _rows.table(shown, r["points"]),
    ]


def key_of(row):
    return list(NETWORKS).index(row["net"]), row["share"]


def main():
    parser = _rows.parser(__doc__)
    parser.add_argument("--net", choices=tuple(NETWORKS), nargs="*", default=list(NETWORKS))
    parser.add_argument("--before", help="folder of another version, with its .venv inside")
    given = parser.parse_args()
    path = common.RESULTS / "inference.json"
    rows = {}
    if path.exists():
        found = _rows.read("inference")["rows"]
        rows = {(r["net"], r["share"]): r for r in found if "points" in r and "share" in r}
    if not given.table:
        _rows.set_threads(THREADS)
    for name, share in itertools.product(NETWORKS, SHARES):
        stored = f"{name} {share:.0%}".replace(" ", "_").replace("%", "")
        found = ROWS.find(stored)
        if found is None and not given.table and name in given.net:
            for each in measure(name, given.before):
                place = f"{name} {each['share']:.0%}".replace(" ", "_").replace("%", "")
                ROWS.save(place, each)
                print(json.dumps(each), flush=True)
            found = ROWS.find(stored)
        if found is not None:
            rows[name, share] = found
    rows = sorted(rows.values(), key=key_of)
    _rows.publish("inference", {"rows": [_rows.values(r) for r in rows]}, page(rows), rows)


if __name__ == "__main__":
    main()
