"""What skipped blocks save on the clock: gates forced open to a quarter, half, three quarters.

    make bench-gate-time

ResNets with a recurrent gate before every block but the first, weights untrained (the time
does not depend on them). The blocks left open are spread evenly. Against the network without
gates; both compiled and frozen alike, interleaved. A block of ResNet-38 takes about thirty
microseconds, of which a gate and its conditional are a good part; a wider network and one for
larger images show what is left of that. How much is the gates' own work is seen with gates
that decide by a single number.
"""

import functools
from unittest import mock

import keras
import numpy as np

import keras_adaptive as ka
from benchmarks import _rows, common
from keras_adaptive import _graph as graph
from keras_adaptive.costs.gated_costs import gated_costs
from keras_adaptive.layers import GatedBlock, skip_gate

THREADS, ROUNDS = 2, 30
SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
SMALL, WIDE, LARGE = {"depth": 38}, {"depth": 38, "width": 4}, {"preset": "imagenet_34"}
# network, arguments of its builder, batch, rounds, how blocks are skipped, whether gates are free
CASES = [
    ("ResNet-38, 32 px", SMALL, 1, 10 * ROUNDS, "cond", False),
    ("ResNet-38, 32 px, gates almost free", SMALL, 1, 10 * ROUNDS, "cond", True),
    ("ResNet-38 four times as wide, 32 px", WIDE, 1, 3 * ROUNDS, "cond", False),
    ("ResNet-34, 224 px", LARGE, 1, ROUNDS, "cond", False),
    ("ResNet-38, 32 px", SMALL, 256, ROUNDS // 3, "gather", False),
]


class Closed:
    """A gated block whose gate means the opposite: forced open, but computed all the same."""

    def __init__(self, block):
        self.block = block

    def to_skipping(self, mode):
        layer = self.block.to_skipping(mode)
        return lambda x, instead, gate: layer(x, instead, 1.0 - gate)


def almost_free(gate, features, state=None, projection=None):
    """Decides by one number, in place of a gate's call; the state passes through."""
    value = features[:, :1] if len(features.shape) == 2 else features[:, 0, 0, :1]
    least = {True: -np.inf, False: np.inf}[gate.gate.forced]
    state = state or [keras.ops.zeros((1, gate.gate.units))] * 2
    outputs = [keras.ops.cast(value > least, "float32")]
    outputs += [value] * gate.gate.return_probability + list(state) * gate.gate.return_state
    return outputs if len(outputs) > 1 else outputs[0]


def forced(model, share, skipping):
    """Returns the frozen network with so large a share of its gates open, and its MACs."""
    nodes = graph.nodes_between(model.inputs, model.outputs)
    gated = [node.operation for node in nodes if isinstance(node.operation, GatedBlock)]
    wanted = round(share * len(gated))
    chosen = np.linspace(0, len(gated) - 1, wanted).round().astype(int)
    closed = {id(block): Closed(block) for i, block in enumerate(gated) if i not in chosen}
    image = keras.Input(model.inputs[0].shape[1:])
    tensors = {id(model.inputs[0]): image}
    outputs = graph.call_again(nodes, tensors, model.outputs, skipping, instead=closed)
    found = gated_costs(model.inputs, model.outputs)
    macs = found.fixed[-1] + sum(found.blocks[i].executed(1, 1) for i in chosen)
    return frozen(keras.Model(image, outputs), skipping), macs


def frozen(net, skipping):
    """Returns the network as one function; of one image compiled by XLA, conditionals included."""
    import tensorflow as tf

    shape = (1 if skipping == "cond" else None, *net.inputs[0].shape[1:])
    values = [(variable, variable.numpy()) for variable in net.variables]

    def run(x):
        with keras.StatelessScope([(variable, tf.constant(v)) for variable, v in values]):
            return keras.tree.flatten(net(x, training=False))[0]

    spec = [tf.TensorSpec(shape, tf.float32)]
    return tf.function(run, spec, autograph=False, jit_compile=skipping == "cond")


def open_gates(model):
    for layer in model.layers:
        if isinstance(layer, ka.layers.SkipGate):
            layer.forced = True
    return model


def measured(name, arguments, batch, rounds, skipping, free):
    """Returns a row a share of open gates."""
    plain = ka.build_resnet(**arguments)
    model = open_gates(ka.build_resnet(**arguments, gates="layer"))
    base = plain.exit_costs()[-1]
    x = np.random.default_rng(0).normal(size=(batch, *plain.inputs[0].shape[1:]))
    x = x.astype("float32")
    call = almost_free if free else skip_gate._FusedGate.call
    with mock.patch.object(skip_gate._FusedGate, "call", call):
        ways = {share: forced(model, share, skipping) for share in SHARES}
    functions = {"plain": frozen(plain, skipping)}
    functions |= {share: function for share, (function, _) in ways.items()}
    calls = {way: functools.partial(answer, f, x) for way, f in functions.items()}
    times = common.in_turns(calls, rounds, warm_up=2)
    found = []
    for share, (_, macs) in ways.items():
        low, middle, high = common.quartiles(times[share] / times["plain"])
        found.append(
            {
                "network": name,
                "batch": batch,
                "open": share,
                "macs_of_plain": macs / base,
                "time_of_plain": middle,
                "quartiles": [low, high],
                "plain_ms": 1000 * np.median(times["plain"]) / batch,
            }
        )
    return found


def answer(function, x):
    return np.asarray(function(x))


def measure():
    _rows.set_threads(THREADS)
    return {"rows": [row for case in CASES for row in measured(*case)]}


def page(results):
    heads = "network | batch | plain, ms per image | gates open | MACs | time | quartiles"
    cells = "{network} | {batch} | {plain_ms:.2f} | {open:.0%} | {macs_of_plain:.3f}"
    cells += " | {time_of_plain:.3f} | {quartiles[0]:.3f} to {quartiles[1]:.3f} | {more:+.3f}"
    rows = [{**r, "more": r["time_of_plain"] - r["macs_of_plain"]} for r in results["rows"]]
    return _rows.page(
        "# What skipped blocks save on the clock",
        f"Gates on all blocks but the first, {THREADS} threads; MACs and time as multiples of the\n"
        "network without gates; medians of rounds in turn. Batch 1: a conditional a block, by XLA\n"
        "or by TensorFlow, whichever is faster for the network; batch 256: gather, compute,\n"
        "scatter, for which every image needs the same blocks here. `gates almost free` decide by\n"
        "one number of the features, which shows what the conditionals cost alone.",
        _rows.table(f"{heads} | time - MACs", rows, cells),
    )


if __name__ == "__main__":
    _rows.run("gate_time", __doc__, measure, page, cases=CASES, threads=THREADS)
