"""What skipped blocks save on the clock: gates forced open to a quarter, half, three quarters.

    make bench-gate-time

ResNet-38 with a recurrent gate before every block but the first, weights untrained (the time
does not depend on them). The blocks left open are spread evenly. Against the network without
gates; both compiled and frozen alike, interleaved.
"""

import statistics
import time

import keras
import numpy as np
import tensorflow as tf

import keras_adaptive as ka
from benchmarks import common
from keras_adaptive import graph
from keras_adaptive.gated_costs import gated_costs
from keras_adaptive.inference.compiled import compiled
from keras_adaptive.layers import GatedBlock

DEPTH, THREADS, ROUNDS = 38, 2, 30
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
BATCHES = {1: "cond", 256: "gather"}


def forced(model, share, skipping):
    """Returns the frozen network with so large a share of its gates open, and its MACs."""
    nodes = graph.nodes_between(model.inputs, model.outputs)
    gated = [node for node in nodes if isinstance(node.operation, GatedBlock)]
    wanted = round(share * len(gated))
    chosen = np.linspace(0, len(gated) - 1, wanted).round().astype(int)
    is_open = {id(gated[i]) for i in chosen}
    image = keras.Input(model.inputs[0].shape[1:])
    tensors = {id(model.inputs[0]): image}
    gates = [layer for layer in model.layers if isinstance(layer, ka.layers.SkipGate)]
    lean = {id(gate): gate.lean() for gate in gates}
    for node in nodes:
        args, kwargs = node.arguments.fill_in(tensors)
        operation = node.operation
        if id(node) in {id(g) for g in gated}:
            x, instead, gate = args  # gates are forced open; computed, so nothing folds them
            args = (x, instead, gate if id(node) in is_open else 1.0 - gate)
            operation = operation.skipping(skipping)
        operation = lean.get(id(operation), operation)
        outputs = keras.tree.flatten(operation(*args, **kwargs))
        tensors.update((id(a), b) for a, b in zip(node.outputs, outputs, strict=True))
    net = keras.Model(image, [tensors[id(t)] for t in model.outputs])
    found = gated_costs(model.inputs, model.outputs)
    macs = found.fixed[-1] + sum(found.blocks[i].executed(1, 1) for i in chosen)
    return frozen(net), macs


def frozen(net):
    stages = compiled([(net, ["input_0"], [])])
    return lambda x: stages.stage(0, [x])[0]


def open_gates(model):
    for layer in model.layers:
        if isinstance(layer, ka.layers.SkipGate):
            layer.forced = True
    return model


def main():
    tf.config.threading.set_intra_op_parallelism_threads(THREADS)
    tf.config.threading.set_inter_op_parallelism_threads(THREADS)
    plain = ka.build_resnet(depth=DEPTH)
    model = open_gates(ka.build_resnet(depth=DEPTH, gates="layer"))
    base = plain.exit_costs()[-1]
    results, rows = [], []
    for batch, skipping in BATCHES.items():
        x = np.random.default_rng(0).normal(size=(batch, 32, 32, 3)).astype("float32")
        ways = {share: forced(model, share, skipping) for share in SHARES}
        run = {"plain": frozen(plain), **{share: way for share, (way, _) in ways.items()}}
        times = {name: [] for name in run}
        rounds = ROUNDS if batch == 1 else ROUNDS // 3
        for number in range(rounds + 2):
            for name, way in run.items():
                start = time.perf_counter()
                np.asarray(way(x))
                if number >= 2:
                    times[name].append(time.perf_counter() - start)
        for share, (_, macs) in ways.items():
            ratios = [a / b for a, b in zip(times[share], times["plain"], strict=True)]
            quarters = statistics.quantiles(ratios, n=4)
            row = {
                "batch": batch,
                "open": share,
                "macs_of_plain": macs / base,
                "time_of_plain": statistics.median(ratios),
                "quartiles": [quarters[0], quarters[2]],
                "plain_ms": 1000 * statistics.median(times["plain"]) / batch,
            }
            results.append(row)
            rows.append(
                [
                    batch,
                    f"{share:.0%}",
                    f"{row['macs_of_plain']:.3f}",
                    f"{row['time_of_plain']:.3f}",
                    f"{quarters[0]:.3f} to {quarters[2]:.3f}",
                    f"{row['time_of_plain'] - row['macs_of_plain']:+.3f}",
                ]
            )
    text = [
        "# What skipped blocks save on the clock",
        "",
        f"ResNet-{DEPTH} with gates on all of its blocks but the first, {THREADS}",
        "threads; MACs and time as multiples of the network without gates; medians of rounds in",
        "turn. Batch 1: a conditional a block; batch 256: gather, compute, scatter, for which",
        "every image needs the same blocks here.",
        "",
        *common.table(["batch", "gates open", "MACs", "time", "quartiles", "time - MACs"], rows),
    ]
    common.write("gate_time", {"rows": results}, text, "make bench-gate-time")


if __name__ == "__main__":
    main()
