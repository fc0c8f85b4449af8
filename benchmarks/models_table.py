"""Which models people bring, and how far each goes: the page "Supported models and layers".

Every row takes one model the whole way, each in a process of its own: `add_exits`, one step of
`fit`, costs against the graph that TensorFlow runs, `calibrate`, `AdaptivePredictor`, and a file of
each quantization, whose answers are compared with the network's. Weights are random.

    python -m benchmarks.models_table [--row NAME ...] [--again]
"""

import argparse
import json
import subprocess
import sys
import tempfile
import time
import traceback
from pathlib import Path

import numpy as np

from benchmarks._rows import RESULTS, Rows
from keras_adaptive._files import write_whole

ROOT = Path(__file__).parent.parent
FOLDER = RESULTS / "models_table"
SAMPLES = 24
QUANTIZE = (None, "float16", "dynamic", "int8")


def _keras():
    import keras

    return keras


# --- models of keras.applications

FAMILIES = {
    "MobileNet": 64,
    "MobileNetV2": 64,
    "MobileNetV3Small": 64,
    "EfficientNetB0": 64,
    "EfficientNetV2B0": 64,
    "ResNet50": 64,
    "ResNet50V2": 64,
    "DenseNet121": 64,
    "Xception": 75,
    "InceptionV3": 75,
    "InceptionResNetV2": 75,
    "VGG16": 64,
    "NASNetMobile": 64,
    "ConvNeXtTiny": 64,
}


def _application(name):
    def make():
        size = FAMILIES[name]
        build = getattr(_keras().applications, name)
        return build(weights=None, input_shape=(size, size, 3), classes=10)

    return make


# --- classifiers of KerasHub, built small


def _hub_images(name, **how):
    def make():
        import keras_hub

        classifier = getattr(keras_hub.models, f"{name}ImageClassifier")
        backbone = getattr(keras_hub.models, f"{name}Backbone")(**how)
        return classifier(backbone=backbone, num_classes=5, preprocessor=None)

    return make


def _hub_text(name, **how):
    def make():
        import keras_hub

        small = {
            "vocabulary_size": 50,
            "num_layers": 3,
            "num_heads": 2,
            "hidden_dim": 16,
            "intermediate_dim": 32,
            "max_sequence_length": 12,
        }
        backbone = getattr(keras_hub.models, f"{name}Backbone")(**{**small, **how})
        classifier = getattr(keras_hub.models, f"{name}TextClassifier")
        return classifier(backbone=backbone, num_classes=5, preprocessor=None)

    return make


_VIT = {
    "image_shape": (32, 32, 3),
    "patch_size": 8,
    "num_layers": 3,
    "num_heads": 2,
    "hidden_dim": 16,
    "mlp_dim": 32,
}

HUB = {
    "ViT": _hub_images("ViT", **_VIT),
    "DeiT": _hub_images(
        "DeiT",
        **{k: v for k, v in _VIT.items() if k != "mlp_dim"},
        intermediate_dim=32,
    ),
    "ResNet": _hub_images(
        "ResNet",
        input_conv_filters=[64],
        input_conv_kernel_sizes=[3],
        stackwise_num_filters=[64, 64, 64],
        stackwise_num_blocks=[2, 2, 2],
        stackwise_num_strides=[1, 2, 2],
        block_type="basic_block",
        image_shape=(32, 32, 3),
    ),
    "MobileNet": _hub_images(
        "MobileNet",
        stackwise_expansion=[[40, 56], [64, 144, 144]],
        stackwise_num_blocks=[2, 3],
        stackwise_num_filters=[[16, 16], [24, 24, 24]],
        stackwise_kernel_size=[[3, 3], [5, 5, 5]],
        stackwise_num_strides=[[2, 1], [2, 1, 1]],
        stackwise_se_ratio=[[None, None], [0.25, 0.25, 0.25]],
        stackwise_activation=[["relu", "relu"], ["hard_swish"] * 3],
        stackwise_padding=[[1, 1], [2, 2, 2]],
        output_num_filters=48,
        input_num_filters=16,
        input_activation="hard_swish",
        output_activation="hard_swish",
        image_shape=(32, 32, 3),
        depthwise_filters=8,
        depthwise_stride=2,
        depthwise_residual=False,
        squeeze_and_excite=0.5,
        last_layer_filter=48,
    ),
    "EfficientNet": _hub_images(
        "EfficientNet",
        stackwise_width_coefficients=[1.0] * 3,
        stackwise_depth_coefficients=[1.0] * 3,
        stackwise_kernel_sizes=[3, 3, 5],
        stackwise_num_repeats=[1, 2, 2],
        stackwise_input_filters=[16, 8, 16],
        stackwise_output_filters=[8, 16, 24],
        stackwise_expansion_ratios=[1, 4, 4],
        stackwise_squeeze_and_excite_ratios=[0.25] * 3,
        stackwise_strides=[1, 2, 2],
        stackwise_block_types=["v1"] * 3,
        stackwise_nores_option=[False] * 3,
        dropout=0.0,
        input_shape=(32, 32, 3),
    ),
    "BERT": _hub_text("Bert"),
    "RoBERTa": _hub_text("Roberta"),
    "DistilBERT": _hub_text("DistilBert"),
}


# --- models of one's own


def _model(inputs, outputs):
    return _keras().Model(inputs, outputs)


def _convolutional(x, widths=(8, 16, 24)):
    layers = _keras().layers
    for width in widths:
        x = layers.Conv2D(width, 3, padding="same", strides=2)(x)
        x = layers.BatchNormalization()(x)
        x = layers.ReLU()(x)
    return layers.GlobalAveragePooling2D()(x)


def _images(shape=(24, 24, 3), ending=None, **how):
    def make():
        keras = _keras()
        image = keras.Input(shape, **how)
        x = keras.layers.Rescaling(1 / 255)(image) if how.get("dtype") else image
        x = _convolutional(x)
        last = ending(keras) if ending else keras.layers.Dense(5)
        return _model(image, last(x))

    return make


def _softmax(keras):
    return keras.layers.Dense(5, activation="softmax")


def _binary(keras):
    return keras.layers.Dense(1, activation="sigmoid")


def _sequence(stack, length=16, features=4):
    def make():
        keras = _keras()
        x = series = keras.Input((length, features))
        for layer in stack(keras.layers):
            x = layer(x)
        return _model(series, keras.layers.Dense(5)(x))

    return make


def _text(masked):
    def make():
        keras = _keras()
        layers = keras.layers
        tokens = keras.Input((12,), dtype="int32")
        x = layers.Embedding(40, 16, mask_zero=masked)(tokens)
        for _ in range(3):
            attended = layers.MultiHeadAttention(2, 8)(x, x)
            x = layers.LayerNormalization()(layers.Add()([x, attended]))
            wide = layers.Dense(32, activation="gelu")(x)
            x = layers.LayerNormalization()(layers.Add()([x, layers.Dense(16)(wide)]))
        x = layers.GlobalAveragePooling1D()(x)
        return _model(tokens, layers.Dense(5)(x))

    return make


def _patches():
    keras = _keras()
    layers = keras.layers

    class Positions(layers.Layer):
        def build(self, shape):
            self.table = self.add_weight(shape=(1, *shape[1:]), name="table")

        def call(self, x):
            return x + self.table

    class Scale(layers.Layer):
        def build(self, shape):
            self.factor = self.add_weight(shape=(shape[-1],), initializer="ones", name="factor")

        def call(self, x):
            return self.factor * x

    image = keras.Input((24, 24, 3))
    x = layers.Conv2D(16, 6, strides=6)(image)
    x = Positions()(layers.Reshape((16, 16))(x))
    for _ in range(3):
        y = layers.LayerNormalization()(x)
        x = layers.Add()([x, Scale()(layers.MultiHeadAttention(2, 8)(y, y))])
        y = layers.Dense(32, activation="gelu")(layers.LayerNormalization()(x))
        x = layers.Add()([x, Scale()(layers.Dense(16)(y))])
    return _model(image, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


def _two_inputs(by_name):
    def make():
        keras = _keras()
        image, facts = keras.Input((24, 24, 3), name="image"), keras.Input((4,), name="facts")
        x = _convolutional(image)
        x = keras.layers.Concatenate()([x, keras.layers.Dense(8, activation="relu")(facts)])
        x = keras.layers.Dense(16, activation="relu")(x)
        inputs = {"image": image, "facts": facts} if by_name else [image, facts]
        return _model(inputs, keras.layers.Dense(5)(x))

    return make


def _nested():
    keras = _keras()
    layers = keras.layers
    inner = keras.Sequential(
        [keras.Input((24, 24, 3)), layers.Conv2D(8, 3), layers.ReLU(), layers.Conv2D(8, 3)]
    )
    image = keras.Input((24, 24, 3))
    x = layers.MaxPooling2D()(layers.Dropout(0.2)(inner(image)))
    x = layers.Conv2D(16, 3, activation="relu")(x)
    x = layers.Dense(5)(layers.Flatten()(layers.MaxPooling2D()(x)))
    return _model(image, layers.Softmax()(x))


def _video():
    keras = _keras()
    layers = keras.layers
    clip = keras.Input((4, 12, 12, 2))
    x = layers.ConvLSTM2D(4, 3, return_sequences=True)(clip)
    x = layers.TimeDistributed(layers.Conv2D(6, 3, activation="relu"))(x)
    x = layers.Conv3D(8, 2, activation="relu")(x)
    return _model(clip, layers.Dense(5)(layers.GlobalAveragePooling3D()(x)))


def _mixer():
    keras = _keras()
    layers = keras.layers
    x = series = keras.Input((16, 8))
    for _ in range(3):
        y = layers.Permute((2, 1))(layers.LayerNormalization()(x))
        y = layers.Permute((2, 1))(layers.Dense(16, activation="gelu")(y))
        x = layers.Add()([x, y])
        x = layers.Add()([x, layers.EinsumDense("abc,cd->abd", (16, 8))(x)])
    return _model(series, layers.Dense(5)(layers.GlobalAveragePooling1D()(x)))


def _group_normalized():
    keras = _keras()
    layers = keras.layers
    x = image = keras.Input((24, 24, 3))
    for width in (8, 16, 16):
        x = layers.Conv2D(width, 3, padding="same", strides=2)(x)
        y = layers.SpectralNormalization(layers.Conv2D(width, 3, padding="same"))(x)
        x = layers.Add()([x, layers.GroupNormalization(4)(layers.LeakyReLU()(y))])
    return _model(image, layers.Dense(5)(layers.GlobalMaxPooling2D()(x)))


def _mixed(policy):
    def make():
        keras = _keras()
        keras.config.set_dtype_policy(policy)
        try:
            return _images()()
        finally:
            keras.config.set_dtype_policy("float32")

    return make


OWN = {
    "images": _images(),
    "images, softmax": _images(ending=_softmax),
    "images, binary": _images(ending=_binary),
    "images, uint8": _images(dtype="uint8"),
    "images, open size": _images((None, None, 3)),
    "images, mixed_float16": _mixed("mixed_float16"),
    "images, mixed_bfloat16": _mixed("mixed_bfloat16"),
    "image and facts, a list": _two_inputs(False),
    "image and facts, by name": _two_inputs(True),
    "a model in a model": _nested,
    "group and spectral normalization": _group_normalized,
    "ViT with own layers": _patches,
    "MLP mixer": _mixer,
    "text, transformer": _text(False),
    "text, transformer, padding": _text(True),
    "ECG, Conv1D": _sequence(
        lambda L: [
            L.Conv1D(8, 3, activation="relu"),
            L.MaxPooling1D(),
            L.Conv1D(16, 3, activation="relu"),
            L.SeparableConv1D(16, 3, activation="relu"),
            L.GlobalMaxPooling1D(),
        ]
    ),
    "LSTM": _sequence(lambda L: [L.LSTM(8, return_sequences=True), L.LSTM(8)]),
    "GRU": _sequence(lambda L: [L.GRU(8, return_sequences=True), L.GRU(8)]),
    "both ways": _sequence(
        lambda L: [L.Bidirectional(L.LSTM(6, return_sequences=True)), L.SimpleRNN(8)]
    ),
    "video, ConvLSTM": _video,
}

ROWS = {
    **{f"keras.applications.{name}": _application(name) for name in FAMILIES},
    **{f"keras_hub {name}": make for name, make in HUB.items()},
    **OWN,
}


# `at`, where blocks are too few or too unlike for three at equal distances
EXITS = {
    # each cell reads the two before it: no tensor stands alone between them
    "keras.applications.NASNetMobile": ["normal_concat_3", "normal_concat_8"],
    "ECG, Conv1D": [0.32, 0.77],
    "LSTM": 2,
    "GRU": 2,
    "both ways": [0.75],
    "video, ConvLSTM": [0.75, 0.88],
    "a model in a model": [0.25, 0.8],
    "group and spectral normalization": [0.4, 0.85],
}


# --- the way of one model


def samples(model, count, seed=0):
    """Returns random inputs of a model, as it takes them."""
    rng = np.random.default_rng(seed)
    keras = _keras()

    def one(tensor):
        usual = 24 if len(tensor.shape) == 4 else 12  # pixels of a side, or tokens
        shape = [count, *(size or usual for size in tensor.shape[1:])]
        if tensor.dtype == "bool" or "mask" in tensor.name:
            lengths = rng.integers(4, shape[1] + 1, (count, 1))
            return (np.arange(shape[1])[None] < lengths).astype(tensor.dtype)
        if tensor.dtype == "uint8":
            return rng.integers(0, 256, shape, "uint8")
        if "segment" in tensor.name:
            return np.zeros(shape, tensor.dtype)
        if tensor.dtype.startswith("int"):
            tokens = rng.integers(1, 40, shape)
            lengths = rng.integers(4, shape[1] + 1, (count, 1))
            return np.where(np.arange(shape[1])[None] < lengths, tokens, 0).astype(tensor.dtype)
        return rng.normal(size=shape).astype(tensor.dtype)

    return keras.tree.map_structure(one, model.input)


def rows_of(x, chosen):
    return _keras().tree.map_structure(lambda each: each[chosen], x)


def whole_way(name):
    """Returns the row of one model: what worked, and the differences."""
    import keras

    sys.path.insert(0, str(ROOT / "tests"))
    import keras_adaptive as ka
    from tests.graph_macs import graph_macs

    keras.utils.set_random_seed(0)
    row = {"model": name, "parameters": None}

    def step(column, function):
        try:
            found = function()
        except Exception as error:  # whatever a step raises is the row's content
            row[column] = f"{type(error).__name__}: {str(error).strip().splitlines()[0][:300]}"
            row.setdefault("traceback", traceback.format_exc()[-3000:])
            raise _StopError from error
        row[column] = found if found is not None else "yes"
        return found

    made = {}

    def add():
        model = made["model"] = ROWS[name]()
        row["parameters"] = model.count_params()
        made["x"] = samples(model, SAMPLES)
        before = np.asarray(model.predict(made["x"], verbose=0), "float64")
        made["adaptive"] = adaptive = ka.add_exits(model, at=EXITS.get(name, 3))
        after = np.asarray(adaptive.predict(made["x"], verbose=0)[-1], "float64")
        row["exits"] = adaptive.num_exits
        return float(_difference(before, after))

    def fit():
        labels = np.random.default_rng(1).integers(0, made["adaptive"].outputs[0].shape[-1], 8)
        adaptive = made["adaptive"]
        # a step so small that answers do not saturate; tracing takes longer than one
        adaptive.compile(keras.optimizers.SGD(1e-4), run_eagerly=True)
        adaptive.fit(rows_of(made["x"], slice(8)), labels, batch_size=8, verbose=0)

    def costs():
        adaptive = made["adaptive"]
        shapes = [np.shape(each)[1:] for each in keras.tree.flatten(made["x"])]
        counted = adaptive.exit_costs(input_shape=shapes)
        graph = graph_macs(adaptive.inputs, adaptive.outputs, shapes)
        row["macs"], row["macs_in_graph"] = float(counted[-1]), float(graph)
        return "equal" if counted[-1] == graph else f"{counted[-1] / graph:.4f} of the graph's"

    def host():
        adaptive, x = made["adaptive"], made["x"]
        logits, price = adaptive.predict_with_costs(x, verbose=0)
        made["logits"] = logits
        answers = logits[-1].argmax(-1)
        # the answers are their own labels: a temperature would make them as sharp as it can
        how = {"budget_share": 0.8, "temperature": False}
        made["policy"] = ka.calibrate(logits, answers, price[:, 0], **how)
        predictor = ka.AdaptivePredictor(adaptive, made["policy"], engine="keras")
        result = predictor.predict(x, verbose=0)
        wrong = int((result.exits != made["policy"].decide(logits)).sum())
        if wrong:
            raise RuntimeError(f"{wrong} of {SAMPLES} samples leave elsewhere")

    def file(quantize):
        from anytime_tflite import AnytimeModel

        adaptive, x = made["adaptive"], made["x"]
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "model.tflite"
            how = {"quantize": quantize}
            if quantize == "int8":
                how["calibration_data"] = x
            if None in keras.tree.flatten([t.shape[1:] for t in adaptive.inputs]):
                how["input_shape"] = [np.shape(each)[1:] for each in keras.tree.flatten(x)]
            # every exit stays in the file, also one that the policy closes
            open_to_all = made["policy"].with_thresholds([0.5] * (adaptive.num_exits - 1) + [0])
            ka.export_tflite(adaptive, path, open_to_all, **how)
            with AnytimeModel(path) as device:
                last = []
                closed = [np.inf] * (adaptive.num_exits - 1) + [-np.inf]
                for i in range(8):
                    last.append(device.classify(_one(adaptive, x, i), thresholds=closed))
        wanted = _softmax_of(made["logits"][-1][:8])
        found = np.stack([answer.probabilities for answer in last])
        return float(np.abs(wanted - found).max())

    try:
        step("add_exits", add)
        step("fit", fit)
        step("costs", costs)
        step("host", host)
    except _StopError:
        return row
    for quantize in QUANTIZE:
        try:
            step(quantize or "float32", lambda quantize=quantize: file(quantize))
        except _StopError:
            continue
    return row


class _StopError(Exception):
    """A step failed; its message is in the row."""


def _one(model, x, i):
    """Returns one sample as `classify` takes it: an array, or a dictionary by name."""
    flat = _keras().tree.flatten(x)
    if len(flat) == 1:
        return flat[0][i]
    return {t.name: each[i] for t, each in zip(model.inputs, flat, strict=True)}


def _softmax_of(logits):
    exponentials = np.exp(np.asarray(logits, "float64") - logits.max(-1, keepdims=True))
    return exponentials / exponentials.sum(-1, keepdims=True)


def _difference(before, logits):
    """Returns the largest difference of the last exit's answers from the model's own."""
    if before.shape[-1] == 1:
        return np.abs(_softmax_of(logits)[:, 1:] - before).max()
    if before.min() >= 0 and np.allclose(before.sum(-1), 1, atol=1e-2):
        return np.abs(_softmax_of(logits) - before).max()
    return np.abs(logits - before).max()


# --- the table


COLUMNS = ("add_exits", "fit", "costs", "host", *(each or "float32" for each in QUANTIZE))
PAGE = ROOT / "docs" / "guides" / "supported_models.md"
START, END = "<!-- written by make models-table -->", "<!-- end of what is written -->"


def table(rows):
    """Returns the table, one line per model, and what was said where something did not work."""
    lines = [
        "| model | exits | " + " | ".join(COLUMNS) + " |",
        "|---" * (len(COLUMNS) + 2) + "|",
    ]
    refused = []
    for row in rows:
        cells = []
        for column in COLUMNS:
            value = row.get(column, "-")
            if isinstance(value, float):
                value = f"{value:.0e}" if value else "0"
            elif ": " in str(value):
                refused.append((row["model"], column, value))
                value = "no"
            cells.append(str(value))
        lines.append(f"| {row['model']} | {row.get('exits', '-')} | " + " | ".join(cells) + " |")
    if refused:
        lines += ["", "What did not work, and what was said:", ""]
        lines += [f"- {model}, {column}: {text}" for model, column, text in refused]
    return "\n".join(lines) + "\n"


def page(text, rows):
    """Returns the guide's text with the table of these rows in its place."""
    before, _, rest = text.partition(START)
    _, end, after = rest.partition(END)
    if not end:
        raise ValueError(f"The page must hold {START!r} and {END!r}. Received: {text[:80]!r}")
    return f"{before}{START}\n\n{table(rows)}\n{END}{after}"


def _child(name):
    """Returns the row of a model, made in a process of its own."""
    started = time.perf_counter()
    done = subprocess.run(
        [sys.executable, "-m", "benchmarks.models_table", "--child", name],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    try:
        row = json.loads(done.stdout.strip().splitlines()[-1])
    except (IndexError, json.JSONDecodeError):
        row = {"model": name, "add_exits": f"Crash: exit status {done.returncode}"}
        row["traceback"] = done.stderr[-3000:]
    print(row.pop("traceback", ""), file=sys.stderr)  # names places of this machine
    row["seconds"] = round(time.perf_counter() - started)
    return row


def main(arguments=None):
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--row", nargs="*", choices=list(ROWS), help="only these models")
    parser.add_argument("--again", action="store_true", help="also where there is a row already")
    parser.add_argument("--child", choices=list(ROWS), help=argparse.SUPPRESS)
    options = parser.parse_args(arguments)
    if options.child:
        print(json.dumps(whole_way(options.child)))
        return
    rows = Rows(FOLDER)
    for name in options.row or ROWS:
        if options.again:
            rows.path(name).unlink(missing_ok=True)
        row = rows.measure(name, _child, name)
        print({k: v for k, v in row.items() if k in ("model", "exits", *COLUMNS)}, flush=True)
    kept = [row for row in map(rows.find, ROWS) if row]
    write_whole(RESULTS / "models_table.md", f"# Models that went the whole way\n\n{table(kept)}")
    write_whole(PAGE, page(PAGE.read_text(), kept))


if __name__ == "__main__":
    main()
