# %% [markdown]
"""
# 9. Compress and export

A phone wants a small file. Three things make it smaller: fewer weights (pruning), fewer different
weights (clustering), and shorter weights (quantization). This tutorial prunes a network with
early exits, exports it four ways, and measures each file: its size, its time and its accuracy.

With `--full` it starts from the trained network of the library and CIFAR-10 (downloaded, or in the
folder or tar file that `CIFAR10_DIR` names); otherwise a small network learns handwritten digits.
Needs `pip install 'keras_adaptive[compress]'`.
"""

# %%
import os
import sys
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np

import keras_adaptive as ka
from anytime_tflite import AnytimeModel

FULL = "--full" in sys.argv
OUT = Path("tutorial_runs")
OUT.mkdir(exist_ok=True)
TRAIN, TEST = (20_000, 2_000) if FULL else (640, 200)
keras.utils.set_random_seed(0)

if FULL:
    data = ka.data.load("cifar10", data_dir=os.environ.get("CIFAR10_DIR"), train_limit=TRAIN)
    model = ka.build_msdnet(weights="cifar10")
else:
    data = ka.data.load("digits")
    convolutions = [
        keras.layers.Conv2D(width, 3, padding="same", activation="relu", name=f"convolution_{i}")
        for i, width in enumerate((8, 32, 32, 128, 128))
    ]
    plain = keras.Sequential(
        [
            keras.Input(data.input_shape),
            *convolutions,
            keras.layers.GlobalAveragePooling2D(),
            keras.layers.Dense(10, activation="softmax"),
        ]
    )
    model = ka.add_exits(plain, at=["convolution_1", "convolution_2"])
    model.compile(keras.optimizers.Adam(3e-3), jit_compile=False)  # XLA is for long trainings
    model.fit(*data.arrays("train"), epochs=10, batch_size=32, verbose=0)
x, y = (part[:TEST] for part in data.arrays("test"))


def accuracies(logits):
    return [float((z.argmax(axis=1) == y).mean()) for z in logits]


print("as it is:", [f"{a:.1%}" for a in accuracies(model.predict(x, verbose=0))])

# %% [markdown]
"""
## Prune

`MagnitudePruning` is a callback: while the network goes on learning, the smallest weights of every
kernel become zero, more of them as training goes on. Give it time to recover: here it gets little.
"""

# %%
optimizer = keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True)
model.compile(optimizer, jit_compile=FULL)
model.fit(
    data.batches("train", training=True, augmentation="pad_crop_flip" if FULL else None),
    epochs=3,
    callbacks=[ka.compression.MagnitudePruning(sparsity=0.5)],
    shuffle=False,
    verbose=2,
)
print(f"{ka.compression.sparsity(model):.0%} of the weights are zero")
print("pruned:", [f"{a:.1%}" for a in accuracies(model.predict(x, verbose=0))])

# %% [markdown]
"""
## Quantize

`quantize=` stores weights in float16 or int8. For `"int8"` features are int8 too, and
`calibration_data` tells their ranges; thresholds are moved so that as many images leave at each
exit as before. What changed at each exit is in the file's `info`. Zeros make a file no smaller
until it is zipped, as apps are.

`ka.compression.cluster` and `ka.compression.quantization_aware` train for it; try plain
quantization first, it often costs nothing.
"""

# %%
calibration = tuple(part[:TEST] for part in data.arrays("calibrate"))
policy = model.calibrate(*calibration, budget=0.5 * model.exit_costs()[-1], verbose=0)
sizes, times, accuracy = {}, {}, {}
for kind in (None, "float16", "dynamic", "int8"):
    name = kind or "float32"
    path = OUT / f"model_{name}.tflite"
    ka.export_tflite(model, path, policy, quantize=kind, calibration_data=calibration)
    with AnytimeModel(path, num_threads=1) as device:
        answers = [list(device.stream(image)) for image in x]
    labels = np.array([[answer.label for answer in each] for each in answers])
    accuracy[name] = 100 * (labels == y[:, None]).mean(axis=0)
    times[name] = np.median([[answer.elapsed_ms for answer in each] for each in answers], axis=0)
    sizes[name] = np.array([path.stat().st_size, ka.compression.gzipped_size(path)]) / 1000
    print(f"{name:8} kilobytes, zipped: {sizes[name].round()}, ms: {times[name].round(3)}")
    print(f"         accuracy by exit: {accuracy[name].round(1)}")

# %% [markdown]
"""
## Which file?

From left to right: how large the files are; how long an image takes until each exit, on one thread
of this machine (a phone differs: measure there); and how good each exit of each file is. float16
is half as large and computes in float32. "dynamic" and int8 are a quarter as large, and faster
where the processor multiplies bytes quickly. Bars of one exit that are equally high: there shorter
weights cost nothing.
"""

# %%
figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
exits = [f"exit {k}" for k in range(model.num_exits)]
panels = (
    (sizes, ["file", "zipped"], "kilobytes"),
    (times, exits, "milliseconds per image"),
    (accuracy, exits, "test accuracy (%)"),
)
for ax, (rows, names, label) in zip(axes, panels, strict=True):
    for i, (kind, values) in enumerate(rows.items()):
        ax.bar(np.arange(len(names)) + 0.2 * i, values, 0.2, label=kind)
    ax.set_xticks(np.arange(len(names)) + 0.3, names)
    ax.set_ylabel(label)
axes[0].legend(fontsize="small")
axes[2].set_ylim(max(min(map(min, accuracy.values())) - 20, 0), 100)
figure.savefig(OUT / "09_files.png", dpi=100)
print(f"picture: {OUT / '09_files.png'}")
