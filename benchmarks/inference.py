"""Is early exit faster on the host? Time of the predictor against plain networks.

    make bench-inference

Everything is compiled and frozen by the same code and fed the same numpy images, in
turns whose order changes, in one process. Each network and batch size is a row of its own, kept
in runs/inference_rows, so that an interrupted run resumes; published rows that are not measured
anew stay.
"""

import functools
import itertools
import multiprocessing
import os
from concurrent.futures import ProcessPoolExecutor

import numpy as np
import tensorflow as tf

import keras_adaptive as ka
from benchmarks import _rows, common, networks
from keras_adaptive import _graph as graph
from keras_adaptive.inference._compiled import chain, compiled
from keras_adaptive.inference._timings import median_seconds

FIVE = "cifar10_budgeted_5"
SEVEN = "cifar10_budgeted_7"  # measured where it has been trained: `benchmarks.networks`
THREADS = 2
SHARES = (0.3, 0.5, 0.8)
# batch size: how many images are predicted
IMAGES = {1: 100, 8: 480, 32: 960, 64: 2560, 256: 5000}
REPEATS = 5
# one image that leaves at a given exit: many short turns, for what is compared is close; once
# more with one thread, on one core, where a head cannot run beside the stage that follows
EXITS, EXITS_ALONE = "exits", "exits_one_thread"
EXITS_IMAGES, EXITS_REPEATS = 50, 60
ROWS = _rows.Rows(common.RUNS / "inference_rows")
TITLES = {
    "cost": "budget",
    "cost_share": "MACs",
    "accuracy": "accuracy",
    "ms": "ms per image",
    "spread": "+-",
    "over_full": "of full",
    "over_every": "of every exit",
    "over_ideal": "of ideal",
    "ideal_over_full": "ideal, of full",
    "alone_over_full": "alone, of full",
    "static": "static cut",
    "over_static": "of static cut",
    "way": "way taken",
}


def nets():
    found = {FIVE: common.cifar_net}
    if networks.weights(SEVEN).exists():
        found[SEVEN] = functools.partial(networks.trained, SEVEN)
    return found


def batches(images, size):
    return [images[i : i + size] for i in range(0, len(images), size)]


def plain(function, images, size):
    """Runs one function on every batch and chooses labels, as a program without exits does."""
    logits = np.concatenate([np.asarray(function(x)) for x in batches(images, size)])
    return ka.policy.softmax(logits).argmax(-1)


def answers(stages, size):
    """Returns the function that computes every exit, made as the predictor makes its own."""
    if size > 1:
        return stages.together
    return stages.for_one(lambda apply: lambda images: every(apply, stages, images))


def every(apply, stages, images):
    return chain(apply, stages, images, len(stages))[0]


def in_order(apply, stages, images):
    """As `every`, but a stage waits for the head of the one before, as who decides must."""

    def one_by_one(k, tensors):
        if k > 0:
            never = tf.reduce_max(found[-1]) > 1e30
            tensors = [tf.where(never, 2 * tensor, tensor) for tensor in tensors]
        answer, *features = apply(k, tensors)
        found.append(answer)
        return [answer, *features]

    found = []
    return every(one_by_one, stages, images)


def every_exit(function, policy, images, size):
    found = [np.stack([np.asarray(z) for z in function(x)]) for x in batches(images, size)]
    logits = np.concatenate(found, axis=1)
    exits = policy.decide(logits)
    return ka.policy.softmax(logits[exits, np.arange(len(images))]).argmax(-1)


def only(model, exits):
    return compiled(graph.minimal_stages(model.inputs, [model.outputs[k] for k in exits]))


def over(ours, theirs):
    """Returns the median over the turns of the ratio, and half of its interval of 95 %."""
    ratios = np.sort(ours / theirs)
    around = np.sqrt(len(ratios))  # 1.96 standard deviations of the median's rank
    low, high = (ratios[round((len(ratios) - 1) / 2 + side * around)] for side in (-1, 1))
    return float(np.median(ratios)), float((high - low) / 2)


def full_batches(stages, x):
    """Returns a function for each stage that runs it on a full batch of real features."""
    tensors, found = {stages.inputs[0][0]: x}, []
    for k in range(len(stages)):
        inputs = [tensors[name] for name in stages.inputs[k]]
        found.append(lambda k=k, inputs=inputs: np.asarray(stages.stage(k, inputs)[0]))
        tensors.update(zip(stages.outputs[k], stages.stage(k, inputs)[1:], strict=True))
    return found


def operating_points(model, splits):
    """Returns the costs of the exits and a function that solves for budgets in any costs."""
    held_out, test = common.answers(model, splits).values()

    def solve(costs, full):
        budgets = [max(share * full, costs[0]) for share in SHARES]  # at least the first exit
        policies = ka.calibration.calibrate_budgets(*held_out, costs, budgets, method="geometric")
        return [(policy, ka.evaluate(policy, *test, costs)) for policy in policies]

    return model.exit_costs(), solve


def earliest(report):
    """Returns the first exit that alone is as accurate as a policy, or the last."""
    enough = np.flatnonzero(report.exit_accuracies >= report.accuracy)
    return int(enough[0]) if len(enough) else len(report.exit_accuracies) - 1


def row_at_batch_size(model, points, images, size):
    """Measures one network at one batch size."""
    costs, solve = points
    count = model.exits
    images = images[: IMAGES[size]]
    whole, stages = only(model, [count - 1]), only(model, range(count))
    full = answers(whole, size)
    full_ms = 1000 * median_seconds(lambda: plain(lambda x: full(x)[0], images[:size], size)) / size
    found = solve(costs, costs[-1]) + solve(ka.measure_latency(model, size), full_ms)
    names = [f"{share:.0%}{of}" for of in ("", " of the time") for share in SHARES]
    policies, reports = zip(*found, strict=True)
    # the exits that alone are as accurate as the policies
    exits_alone = [earliest(report) for report in reports]
    cuts = {k: only(model, [k]) for k in set(exits_alone)}
    predictors = [ka.AdaptivePredictor(model, policy) for policy in policies]
    every = answers(stages, size)
    cuts = {k: answers(cut, size) for k, cut in cuts.items()} | {count - 1: full}
    contenders = {
        "every": lambda: every_exit(every, policies[1], images, size),
        **{
            ("cut", k): lambda cut=cut: plain(lambda x: cut(x)[0], images, size)
            for k, cut in cuts.items()
        },
        **{
            ("ours", i): lambda p=p: p.predict(images, batch_size=size, verbose=0)
            for i, p in enumerate(predictors)
        },
        **{
            ("alone", i): lambda p=p: list(p.stream(batches(images, size), size, waiting=0))
            for i, p in enumerate(predictors[: len(SHARES)])
            if size > 1
        },
    }
    parts = full_batches(stages, images[:size]) if size > 1 else []  # one sample fills no batch
    contenders.update({("stage", k): run for k, run in enumerate(parts)})
    taken = common.in_turns(contenders, REPEATS, shuffle=True)
    per_image = {
        name: 1000 * values / (size if name[0] == "stage" else len(images))
        for name, values in taken.items()
    }
    middle = {name: float(np.median(values)) for name, values in per_image.items()}
    middle["full"] = middle["cut", count - 1]
    each = [middle["stage", k] for k in range(len(parts))]
    found = []
    for i, report in enumerate(reports):
        exits = predictors[i].predict(images, batch_size=size, verbose=0).exits
        arriving = [(exits >= k).mean() for k in range(count)]
        ours, alone = middle["ours", i], middle.get(("alone", i))
        found.append(
            {
                "cost": names[i],
                "cost_share": float(costs[exits].mean() / costs[-1]),
                "accuracy": float(report.accuracy),
                "ms": ours,
                "spread": float(np.ptp(per_image["ours", i]) / 2),
                "over_full": ours / middle["full"],
                "over_every": ours / middle["every"],
                "over_ideal": ours / float(np.dot(arriving, each)) if parts else None,
                "alone_over_full": alone and alone / middle["full"],
                "static": f"exit {exits_alone[i]}",
                "over_static": ours / middle["cut", exits_alone[i]],
                "way": way(predictors[i]._runners[0].plan(size), count),
            }
        )
    return {
        "batch_size": size,
        "images": len(images),
        "full_ms": middle["full"],
        "every_exit_ms": middle["every"],
        "stage_ms": each,
        "points": found,
    }


def way(plan, count):
    first = plan.choose()
    if first in (0, 1):
        return ("one by one", "stages")[first]
    return "together" if first == count else f"first {first} together"


def row_at_exits(model, images):
    """Batch 1: a sample that leaves at exit `k` against the network up to there."""
    images, count = images[:EXITS_IMAGES], model.exits
    # heads are computed, but never confident enough before exit `k`; `budget` picks the policy
    policies = [
        ka.ExitPolicy([2.0] * k + [-1.0] * (count - 1 - k) + [-np.inf], details={"mean_cost": k})
        for k in range(count)
    ]
    predictor = ka.AdaptivePredictor(model, policies)
    exits = []
    for k in range(count):
        stages, cut = only(model, range(k + 1)), answers(only(model, [k]), 1)
        prefix = answers(stages, 1)
        ordered = stages.for_one(lambda apply, s=stages: lambda images: in_order(apply, s, images))
        contenders = {
            "ms": lambda k=k: predictor.predict(images, batch_size=1, budget=k, verbose=0),
            "prefix_ms": lambda p=prefix: plain(lambda x: p(x)[-1], images, 1),
            "in_order_ms": lambda p=ordered: plain(lambda x: p(x)[-1], images, 1),
            "cut_ms": lambda c=cut: plain(lambda x: c(x)[0], images, 1),
        }
        assert set(contenders["ms"]().exits) == {k}
        taken = common.in_turns(contenders, EXITS_REPEATS, shuffle=True)
        middle = {n: float(1000 * np.median(v) / len(images)) for n, v in taken.items()}
        over_prefix, error = over(taken["ms"], taken["prefix_ms"])
        exits.append(
            {
                "exit": k,
                **middle,
                "over_prefix": over_prefix,
                "over_prefix_error": error,
                "over_in_order": over(taken["ms"], taken["in_order_ms"])[0],
                "order_over_prefix": over(taken["in_order_ms"], taken["prefix_ms"])[0],
                "over_cut": over(taken["ms"], taken["cut_ms"])[0],
            }
        )
    return {"batch_size": 1, "images": len(images), "repeats": EXITS_REPEATS, "exits": exits}


def page(rows):
    return _rows.page(
        "# Time on the host",
        f"CIFAR-10 (JPEG) test images, {THREADS} threads unless said otherwise, medians of "
        f"{REPEATS} repeats interleaved in changing order (many more for one image that leaves "
        "at a given exit), every contender "
        "compiled and frozen alike (single images: by XLA where that is "
        "faster, ours and the others). `of full`: our time over that of "
        "the full network without early heads; `of every exit`: over computing all exits and "
        "then choosing; `of ideal`: over the sum over stages of the share that arrives times the "
        "stage's time on full batches, without any regrouping; `ideal, of full`: where it is "
        "above 1, early heads cost more than leaving early saves, whoever computes them; "
        "`alone`: every batch answered "
        "before the next is read; `static cut`: the earliest exit that alone is as accurate, "
        "without other heads. Thresholds: geometric, on held-out images; budgets are "
        "shares of the full network's MACs, or of its time with costs by `measure_latency`. "
        "+- is half the range. With batches of 8 and 32, stages may put 64 images of several "
        "batches together. Single images: `in order` is the prefix in "
        "which no stage begins before the head of the one before has answered, as it must be "
        "for one who decides there, with one more pass over the features; the prefix itself "
        "computes both at once, on two cores; with one thread it cannot. All images in one call "
        "of the predictor, which takes for all exits the compiler that is faster in all. There, "
        "ratios are medians of those within each turn, +- half of the interval of 95 % of the "
        "first. "
        "`of the time`: the full network and the stages "
        "are measured one after the other, so that what is reached may differ from what was "
        "asked by as much as the machine's speed does.",
        *(part for r in rows for part in (at_exits(r) if "exits" in r else at_batch_size(r))),
    )


def at_batch_size(r):
    return [
        f"## {r['net']}, batch {r['batch_size']}",
        f"Full network {r['full_ms']:.3f} ms per image; every exit {r['every_exit_ms']:.3f}; "
        f"stages {', '.join(f'{t:.3f}' for t in r['stage_ms']) or 'not alone'}; "
        f"{r['images']:,} images; {r['date']}{r.get('note', '')}.",
        _rows.table(TITLES, [_with_ideal(point) for point in r["points"]]),
    ]


def at_exits(r):
    titles = {
        "exit": "exit",
        "ms": "ours, ms",
        "prefix_ms": "prefix with heads, ms",
        "in_order_ms": "the same in order, ms",
        "cut_ms": "bare cut, ms",
        "over_prefix": "of prefix",
        "over_prefix_error": "+-",
        "over_in_order": "of the same in order",
        "order_over_prefix": "in order, of prefix",
        "over_cut": "of bare cut",
    }
    threads = "one thread" if r["threads"] == 1 else f"{r['threads']} threads"
    title = f"## {r['net']}, one image that leaves at a given exit, {threads}"
    measured = f"{r['images']} images, {r['repeats']} repeats; {r['date']}."
    return [title, measured, _rows.table(titles, r["exits"])]


def _with_ideal(point):
    ideal = point["over_ideal"] and point["over_full"] / point["over_ideal"]
    return {**point, "ideal_over_full": ideal}


def threads_of(row):
    return 1 if row == EXITS_ALONE else THREADS


def main():
    wanted = (*map(str, IMAGES), EXITS, EXITS_ALONE)
    parser = _rows.parser(__doc__, wanted)
    parser.add_argument("--net", choices=tuple(nets()), nargs="*")
    given = parser.parse_args()
    order = list(itertools.product((FIVE, SEVEN), wanted))
    rows = {(row["net"], row["row"]): row for row in published()}
    if not given.table:
        chosen = itertools.product(given.net or nets(), given.row or wanted)
        missing = [(net, n) for net, n in chosen if not stored(net, n)]
        for threads in sorted({threads_of(n) for _, n in missing}, reverse=True):
            mine = [(net, n) for net, n in missing if threads_of(n) == threads]
            # threads can be set once a process
            with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
                process.submit(measure, mine, threads).result()
        found = {(net, n): stored(net, n) for net, n in order}
        rows |= {key: row for key, row in found.items() if row}
    rows = [rows[key] for key in sorted(rows, key=order.index)]
    results = {"rows": [_rows.values(row) for row in rows]}
    _rows.publish("inference", results, page(rows), rows)


def published():
    path = common.RESULTS / "inference.json"
    return _rows.read("inference")["rows"] if path.exists() else []


def settings(n):
    """Returns what a row depends on."""
    if n in (EXITS, EXITS_ALONE):
        return {"threads": threads_of(n), "images": EXITS_IMAGES, "repeats": EXITS_REPEATS}
    return {"threads": THREADS, "images": IMAGES[int(n)], "repeats": REPEATS}


def stored(net, n):
    return ROWS.find(f"{net}_{n}", **settings(n))


def measure(rows, threads):
    """Measures rows of `(network, batch size or by exit)`; each is written when it is done."""
    if threads == 1 and hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:1])
    _rows.set_threads(threads)
    splits = common.cifar()
    images = splits.arrays("test")[0]
    for name in dict.fromkeys(name for name, _ in rows):
        model, points = nets()[name](), None
        for n in [n for net, n in rows if net == name]:
            if n in (EXITS, EXITS_ALONE):
                found = row_at_exits(model, images)
            else:
                points = points or operating_points(model, splits)
                found = row_at_batch_size(model, points, images, int(n))
            found = {"net": name, "row": n, "threads": threads, **found}
            print(ROWS.save(f"{name}_{n}", found, **settings(n)), flush=True)


if __name__ == "__main__":
    main()
