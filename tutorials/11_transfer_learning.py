# %% [markdown]
"""
# 11. Transfer learning with exits

## Introduction

A pretrained network knows strokes and shapes; a few hundred images teach it a new task. Most of
those images will be easy, so the network gets exits on the way: heads are trained on the frozen
network first, then everything is fine-tuned, and thresholds are chosen last.

With `--full` it is the MobileNetV2 of `keras.applications`, trained on ImageNet, and the task
CIFAR-10 at 96 x 96 pixels (downloaded, or in the folder or tar file that `CIFAR10_DIR` names).
Otherwise nothing is downloaded: a small network learns the digits 0 to 4, which stands for
pretraining, and the task is to tell the digits 5 to 9 apart, with 200 images.

## Setup
"""

# %%
import os
import sys
from pathlib import Path

import keras
import matplotlib.pyplot as plt
from keras import layers

import keras_adaptive as ka
from anytime_tflite import AnytimeModel

FULL = "--full" in sys.argv
OUT = Path("tutorial_runs")
OUT.mkdir(exist_ok=True)
keras.utils.set_random_seed(0)

# %% [markdown]
"""
## Prepare the data

Three splits: `train` fits, `calibrate` chooses thresholds, `test` is reported on. The network takes
pixels from 0 to 255; what it does with them is its first layer, and so goes where the network
goes. Digits of 8 x 8 pixels become images of 32 x 32, in three equal colors.
"""

# %%
place = {"data_dir": os.environ.get("CIFAR10_DIR"), "image_size": 96} if FULL else {}
data = ka.data.load("cifar10" if FULL else "digits", **place)
names = data.class_names if FULL else list("56789")


def images_of(split, count, first=5):
    """Returns images and labels; of digits, those of five classes from `first` on."""
    images, labels = data.images(split, count if FULL else data.size(split))
    if not FULL:
        wanted = (labels >= first) & (labels < first + 5)
        images, labels = images[wanted], labels[wanted] - first
        images = images.repeat(4, axis=1).repeat(4, axis=2).repeat(3, axis=3)
    return images[:count].astype("float32"), labels[:count]


x, y = images_of("train", 5000 if FULL else 200)
x_test, y_test = images_of("test", 2000)

# %% [markdown]
"""
## Build the network

Any network without its old classes will do: `include_top=False` in `keras.applications`.
"""

# %%
image = keras.Input(x.shape[1:])
z = layers.Rescaling(1 / 127.5, -1)(image)
if FULL:
    base = keras.applications.MobileNetV2(x.shape[1:], include_top=False, weights="imagenet")
    z, at = base(z), ["block_3_expand_relu", "block_6_expand_relu", "block_13_expand_relu"]
else:
    at = ["block_1", "block_2"]
    for i, (width, strides) in enumerate(((16, 2), (16, 2), (32, 1), (64, 1), (96, 1))):
        z = layers.Conv2D(width, 3, strides, "same", activation="relu", name=f"block_{i}")(z)
network = keras.Model(image, z)
if not FULL:
    answers = layers.Dense(5, activation="softmax")(layers.GlobalAveragePooling2D()(z))
    whole = keras.Model(image, answers)
    whole.compile(keras.optimizers.Adam(3e-3), "sparse_categorical_crossentropy", jit_compile=False)
    whole.fit(*images_of("train", 2000, first=0), epochs=15, batch_size=32, verbose=0)

# %% [markdown]
"""
## Freeze it, and train the heads

`trainable=False` freezes the network, batch statistics included. Layers inside of `base` are named
like any others. As the network ends in features, its last exit is a new head as well.
"""

# %%
model = ka.add_exits(network, at=at, classes=len(names), trainable=False)
costs, rows = model.exit_costs(), {}
for name, rate, epochs in (("heads alone", 1e-2, 20), ("fine-tuned", 1e-4 if FULL else 2e-3, 20)):
    if name == "fine-tuned":  # thaws it: counts from the next `compile` on, as always in Keras
        model.trainable = True
    model.compile(keras.optimizers.Adam(rate), jit_compile=FULL)
    model.fit(x, y, epochs=5 if FULL else epochs, batch_size=32, verbose=0)
    logits, _ = model.predict_with_costs(x_test, verbose=0)
    rows[name] = 100 * (logits.argmax(axis=2) == y_test).mean(axis=1)
    print(f"{name:12}", *(f"exit {k}: {value:5.1f} %" for k, value in enumerate(rows[name])))

# %% [markdown]
"""
## Choose thresholds, and evaluate

On held-out images; and on others that nothing was chosen on.
"""

# %%
policy = model.calibrate(*images_of("calibrate", 2000), budget_share=0.5, verbose=0)
report = ka.evaluate(policy, logits, y_test, costs)
print(f"adaptive: {report.accuracy:.1%} at {report.mean_cost / costs[-1]:.0%} of the full cost")

# %% [markdown]
"""
## Export

One file for phone, page and server, its weights in bytes. It takes the same pixels.
"""

# %%
path = OUT / "transferred.tflite"
ka.export_tflite(model, path, policy, quantize="dynamic", class_names=names)
with AnytimeModel(path) as device:
    answer = device.classify(x_test[0])
print(f"{path}: {path.stat().st_size:,} bytes; {answer.class_name} at exit {answer.exit}")

# %% [markdown]
"""
## What it shows

Frozen features of another task do for a start. Fine-tuning helps every exit. The star is the
adaptive network: about as good as the last exit, at the mean cost of its images.
"""

# %%
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for name, values in rows.items():
    ax.plot(100 * costs / costs[-1], values, "-s", label=name)
ax.plot(100 * report.mean_cost / costs[-1], 100 * report.accuracy, "*", ms=15, label="adaptive")
ax.set(xlabel="cost (% of the full network's)", ylabel="test accuracy (%)")
ax.grid(alpha=0.3)
ax.legend()
figure.savefig(OUT / "11_transfer.png", dpi=100)
print(f"picture: {OUT / '11_transfer.png'}")
