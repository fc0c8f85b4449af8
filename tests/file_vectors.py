"""Writes tflite/testdata/files: tiny exported files, what they answer, and what damage is refused.

    python -m tests.file_vectors [damage]

Logits come from the interpreter, exits from the host's policies on those logits, costs from
Keras, refusals from `anytime_tflite`. With `damage`, only the latter are written anew.
"""

import base64
import itertools
import json
import struct
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).parent))
import mutants

from anytime_tflite import flatbuffer
from anytime_tflite.file import check_content

FOLDER = Path(__file__).parent.parent / "tflite" / "testdata" / "files"
SHAPE, CLASSES = (8, 8, 1), 5
IMAGES = 12  # per file
FAR = 0.02  # in log-odds, from every threshold: rounding on no device moves an image


def pack(array):
    """Returns an array as JSON can hold it: little-endian, in base64."""
    array = np.asarray(array)
    array = array.astype(array.dtype.newbyteorder("<"))
    text = base64.b64encode(array.tobytes()).decode()
    return {"shape": list(array.shape), "dtype": array.dtype.name, "base64": text}


def unpack(packed):
    """Returns the array that `pack` wrote."""
    values = np.frombuffer(base64.b64decode(packed["base64"]), np.dtype(packed["dtype"]))
    return values.reshape(packed["shape"])


# ---- networks and policies


def network(sharpness=1.0, dtype="float32", two_inputs=False):
    """A small network whose exits know more and more of the same."""
    import keras

    import keras_adaptive as ka

    rng = np.random.default_rng(0)

    def conv(x, name):
        layer = keras.layers.Conv2D(4, 3, padding="same", activation="relu", name=name)
        found = layer(x)
        layer.set_weights([rng.normal(0, 0.4, w.shape) for w in layer.get_weights()])
        return found

    inputs = [keras.Input(SHAPE, dtype=dtype, name="pixels" if dtype == "uint8" else "image")]
    x = keras.layers.Rescaling(1 / 128, -1)(inputs[0]) if dtype == "uint8" else inputs[0]
    x = conv(x, "stem")
    if two_inputs:
        inputs.append(keras.Input((3,), dtype="int32", name="tokens"))
        table = keras.layers.Embedding(6, 4, name="table")
        words = keras.layers.GlobalAveragePooling1D()(table(inputs[1]))
        table.set_weights([rng.normal(0, 1, (6, 4))])
    kernel, logits = rng.normal(0, 3, (4, CLASSES)), []
    for k in range(3):
        if k > 0:
            x = keras.layers.Add()([x, conv(x, f"block_{k}")])
        features = keras.layers.GlobalAveragePooling2D()(x)
        if two_inputs and k == 2:
            features = keras.layers.Add()([features, words])
        head = keras.layers.Dense(CLASSES, name=f"exit_{k}")
        logits.append(head(features))
        head.set_weights([kernel + rng.normal(0, 1, kernel.shape), np.zeros(CLASSES)])
    model = ka.AdaptiveModel(inputs, logits, name="tiny")
    data = list(candidates(model, np.random.default_rng(2)).values())
    for k, z in enumerate(model.predict(data, verbose=0)):
        head = model.get_layer(f"exit_{k}")
        spread = z - z.mean(axis=0)  # so that different classes win
        scale = sharpness * (k + 1) / spread.std()
        head.set_weights([scale * head.get_weights()[0], -scale * z.mean(axis=0)])
    return model


def gated():
    from shared import half_open

    return half_open("resnet", "layer", classes=CLASSES)


def candidates(model, rng, count=150):
    """Returns inputs among which some leave at each exit, by name as in the file."""
    strength = np.geomspace(0.2, 4, count)[:, None, None, None]
    patterns = rng.normal(0.3, 1, (count, 2, 2, 1)).repeat(4, axis=1).repeat(4, axis=2)
    images = strength * (patterns + rng.normal(0, 0.3, (count, *SHAPE)))
    found = {}
    for tensor in model.inputs:
        if tensor.name == "tokens":
            found["tokens"] = rng.integers(6, size=(count, 3)).astype("int32")
        elif tensor.name == "pixels":
            found["pixels"] = (128 + 40 * images).clip(0, 255).astype("uint8")
        else:
            found["image"] = images.astype("float32")
    return found


def by_medians(kind, closed=(), always=(), temperatures=None):
    """Returns a function of logits: the policy whose thresholds are medians of confidences."""

    def made(logits):
        import keras_adaptive as ka
        from keras_adaptive.policy.confidence import from_log_odds

        divisors = np.ones(len(logits)) if temperatures is None else np.array(temperatures)
        odds = np.median(ka.policy.log_odds(logits, kind, divisors), axis=1)
        odds[list(closed)], odds[list(always)] = np.inf, -np.inf
        odds[-1] = -np.inf
        thresholds = from_log_odds(odds, kind)
        return ka.ExitPolicy(thresholds, kind, divisors, log_odds=odds)

    return made


def learned(logits):
    import keras_adaptive as ka

    rng = np.random.default_rng(1)
    networks = []
    for k in range(len(logits) - 1):
        network = [(rng.normal(0, 1, s), np.zeros(s[1])) for s in ((CLASSES, 6), (6, 6), (6, 2))]
        values = ka.LearnedPolicy([network]).compared(0, logits[k])
        network[-1] = (network[-1][0], np.array([-np.median(values), 0.0]))  # half of them stop
        networks.append(network)
    return ka.LearnedPolicy(networks)


def files():
    """Returns what each file is made of: network, policy of its logits, arguments of export."""
    import keras_adaptive as ka

    names = ["cat", "dog", "fox", "owl", "élan"]
    pixels = {"preprocessing": {"mean": [0.5], "std": [0.25]}, "class_names": names}
    plain, single = network(), {"single_call": True}
    return {
        "float32": (plain, by_medians("max_prob"), {**pixels, "stage_ms": [1.5, 2.5, 3.5]}),
        "int8": (plain, by_medians("entropy"), {"quantize": "int8", **single}),
        "single_call": (plain, by_medians("prob_margin", temperatures=[0.5, 1, 2]), single),
        "saturated": (network(400.0), by_medians("max_prob"), single),
        "first_exit_closed": (plain, by_medians("logit_margin", closed=[0]), single),
        "last_exits_closed": (plain, by_medians("max_prob", always=[1]), single),
        "patience": (plain, lambda logits: ka.PatiencePolicy(2), single),
        "agreement": (plain, lambda logits: ka.AgreementPolicy(2, 0.6), single),
        "learned": (plain, learned, single),
        "gated": (gated(), by_medians("max_prob"), single),
        "integers": (network(dtype="uint8"), by_medians("max_prob"), single),
        "two_inputs": (network(two_inputs=True), by_medians("max_prob"), single),
    }


# ---- files and answers


def stage_answers(device, data):
    """Returns logits `(stages, samples, classes)` and costs `(stages, samples)` of a file."""
    logits, costs = [], []
    for row in range(len(next(iter(data.values())))):
        backend = device._backend
        backend.start(device._prepare({name: array[row] for name, array in data.items()}))
        answers = [(backend.run(i), backend.cost) for i in range(len(device.exits))]
        logits.append([z for z, _ in answers])
        costs.append(
            [m if c is None else c for m, (_, c) in zip(device._macs, answers, strict=True)]
        )
    return np.swapaxes(logits, 0, 1), np.transpose(costs)


def write(name, model, policy_of, arguments):
    """Writes a file; returns what it must answer."""
    import keras_adaptive as ka
    from anytime_tflite import AnytimeModel

    data = candidates(model, np.random.default_rng(2))
    before, costs = model.predict_with_costs(list(data.values()), verbose=0)
    path = FOLDER / f"{name}.tflite"
    policy = ka.export_tflite(model, path, policy_of(before), calibration_data=data, **arguments)
    if "preprocessing" in arguments:
        data = {"image": (128 + 40 * data["image"]).clip(0, 255).astype("uint8")}
    with AnytimeModel(path, num_threads=1) as device:
        used, info = device.exits, device.info
        logits, _ = stage_answers(device, data)
    every = np.zeros((model.num_exits, *logits.shape[1:]))
    every[used] = logits
    exits, costs = policy.decide(every), costs[used]
    if len(used) < model.num_exits:  # without the heads that are closed
        costs = np.repeat(model.exit_costs(exits=used)[:, None], len(exits), axis=1)
    rows = chosen(policy, used, every, exits)
    stages = [used.index(k) for k in exits[rows]]
    answers = logits[stages, rows] / np.array(info["temperatures"])[exits[rows], None]
    by = "confidence" if isinstance(policy, ka.ExitPolicy) else "patience"
    return {
        "file": path.name,
        "sha256": info["sha256"],
        "single_call": "predict" in str(path.read_bytes()),
        "inputs": {name: pack(array[rows]) for name, array in data.items()},
        "logits": pack(logits[:, rows].swapaxes(0, 1).astype("float32")),
        "costs": pack(costs[:, rows].T.astype("float32")),
        "expected": [
            {
                "exit": int(k),
                "label": int(z.argmax()),
                "stopped_by": "end" if k == used[-1] else by,
                "probabilities": ka.policy.softmax(z).tolist(),
            }
            for k, z in zip(exits[rows], answers, strict=True)
        ],
    }


def chosen(policy, used, logits, exits):
    """Returns rows that leave at different exits, far from where rounding decides."""
    import keras_adaptive as ka

    ordered = np.sort(logits[used], axis=-1)
    far = (ordered[..., -1] - ordered[..., -2] > FAR).all(axis=0)
    if isinstance(policy, ka.ExitPolicy):
        for k in used[:-1]:
            far &= np.abs(policy.compared(k, logits[k]) - policy.log_odds[k]) > FAR
    each = [np.flatnonzero(far & (exits == k)) for k in used]
    turns = [row for turn in itertools.zip_longest(*each) for row in turn if row is not None]
    assert sum(map(bool, map(len, each))) > 1, [len(rows) for rows in each]
    return np.sort(turns[:IMAGES])


# ---- damage


def number_edits(content):
    """Yields what a forged file says and the 4 bytes that say it: place, value."""
    model = flatbuffer.root(content)
    graph = model.tables(2)[0]
    tensors, operators = graph.tables(0), graph.tables(3)
    convolution = next(o for o in operators if o.number(3, "<B") == 1)
    kernel = tensors[convolution.numbers(1)[1]]
    options = convolution.table(4)
    yield "an operation reads a tensor that is not there", operators[1].vector(1)[0], 10**6
    yield "a convolution without weights", convolution.vector(1)[0] + 4, -1
    yield (
        "an operation that writes its own input",
        operators[0].vector(2)[0],
        operators[0].numbers(1)[0],
    )
    yield "an operation of a kind that is not there", operators[-1]._at(0), 77
    yield "a constant whose buffer is not there", kernel._at(2), 10**6
    yield "a constant longer than its buffer", kernel.vector(0)[0], kernel.numbers(0)[0] + 1
    yield "a tensor of an impossible size", kernel.vector(0)[0], 2**30
    yield "an output that is not there", graph.vector(2)[0], 10**6
    yield "a signature of a subgraph that is not there", model.tables(7)[-1]._at(4), 77
    yield "a signature whose tensor is not there", _number_of(model.tables(7)), 10**6
    yield "a stride of 0", options._at(1), 0
    yield "operations behind the end of the file", graph._at(3), 2**31 - 1
    yield "a list longer than the file", graph.vector(0)[0] - 4, 2**28


def _number_of(signatures):
    """Returns the place of the number of some signature's tensor; 0 is not written."""
    entries = (entry for s in signatures for field in (0, 1) for entry in s.tables(field))
    return next(place for place in (entry._at(1) for entry in entries) if place)


INFO_EDITS = [
    ('"version": 3', '"version": 1'),
    ('"version": 3', '"version": 9'),
    ('"format": "keras_adaptive.tflite"', '"format": "keras_adaptive.tfmite"'),
    ('"confidence": "max_prob"', '"confidence": "min_prob"'),
    ('"patience": null', '"patience": 1   '),
    ('"agreement": null', '"agreement": 1234'),
    ('"thresholds": [', '"thresholdz": ['),
    ('"log_odds": [', '"log_oddz": ['),
    ('"temperatures": [1.0', '"temperatures": [0.0'),
    ('"exits": [0, 1, 2]', '"exits": [0, 1, 9]'),
    ('"exits": [0, 1, 2]', '"exits": [0, 0, 2]'),
    ('"dtype": "float32"', '"dtype": "float99"'),
    ('"std": [0.25]', '"std": [0.00]'),
    ('"stage_ms": [1.5', '"stage_ms": [0.0'),
    ('"class_names": ["cat"', '"class_names": [12345'),
    ('{"format"', '["format"'),
]


def edits(content):
    """Yields what is done to the file: its name, and lists of places and bytes."""
    size = len(content)
    for left in (0, 3, 7, 8, 40, size // 4, size // 2, 3 * size // 4, size - 100, size - 1):
        yield {"what": f"cut after {left} bytes", "cut": left}
    for what, start in (("text", b"not a model, but a text"), ("HTML", b"<!doctype html>")):
        yield {"what": what, "write": [_at(0, start)], "cut": len(start)}
    rng = np.random.default_rng(3)
    for at in np.sort(rng.integers(8, size, 12)):
        yield {"what": "one bit", "write": [_at(at, bytes([content[at] ^ 4]))]}
    for what, at, value in number_edits(content):
        yield {"what": what, "write": [_at(at, struct.pack("<i", value))], "reseal": True}
    for before, after in INFO_EDITS:
        at = content.index(before.encode())
        yield {"what": after, "write": [_at(at, after.encode())], "reseal": True}
    for at in np.sort(rng.integers(8, size, 30)):
        yield {"what": "bytes", "write": [_at(at, rng.bytes(4)[: size - at])], "reseal": True}


def _at(at, content):
    return {"at": int(at), "base64": base64.b64encode(content).decode()}


def edited(content, edit):
    """Returns the file after an edit."""
    changed = bytearray(content)
    for part in edit.get("write", ()):
        new = base64.b64decode(part["base64"])
        changed[part["at"] : part["at"] + len(new)] = new
    del changed[edit.get("cut", len(changed)) :]
    return mutants.reseal(bytes(changed)) if edit.get("reseal") else bytes(changed)


def refusal(content):
    """Returns the words with which a file is refused, or `None` if it is not."""
    try:
        check_content(content, "PATH")
    except ValueError as error:
        return str(error)
    return None


def damage():
    """Returns the text of damage.json."""
    name = "float32.tflite"
    content = (FOLDER / name).read_bytes()
    cases = [{**edit, "refusal": refusal(edited(content, edit))} for edit in edits(content)]
    return _text("keras_adaptive.damage", name, cases)


def _text(format, name, cases):
    lines = ",\n    ".join(json.dumps(case, allow_nan=False) for case in cases)
    start = {"format": format, "version": 1, **({"file": name} if name else {})}
    return f'{json.dumps(start, indent=2)[:-2]},\n  "cases": [\n    {lines}\n  ]\n}}\n'


if __name__ == "__main__":
    if "damage" not in sys.argv[1:]:
        FOLDER.mkdir(exist_ok=True)
        answers = [write(name, *what) for name, what in files().items()]
        (FOLDER / "answers.json").write_text(_text("keras_adaptive.answers", None, answers))
    (FOLDER / "damage.json").write_text(damage())
