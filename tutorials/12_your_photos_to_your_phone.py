# %% [markdown]
"""
# 12. Your photos to your phone

From a folder of photos to an app and a page, end to end: read the folder, put exits on a network
of `keras.applications`, train it, choose thresholds, write one file, ask it what a device would
be asked. What needs Java or Node is shown as a command.

Give your own folder, of `<class>/*` pictures, as `--photos FOLDER`; with `--full` the network
starts from ImageNet's weights, at 96 x 96 pixels. Otherwise 300 pictures are drawn here, and a
small network learns them from nothing.
"""

# %%
import json
import subprocess
import sys
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np
from PIL import Image

import keras_adaptive as ka
from anytime_tflite import AnytimeModel, pixels

FULL = "--full" in sys.argv
OUT = Path("tutorial_runs")
OUT.mkdir(exist_ok=True)
SIZE = 96 if FULL else 32
keras.utils.set_random_seed(0)

# %% [markdown]
"""
## A folder of photos

One folder per class, pictures of any size inside. These are drawn: bricks, grass and water, some
in clear colors, some gray and noisy, so that only their pattern tells.
"""


# %%
def draw(kind, rng):
    """Returns a picture: red blocks, green upright stripes or blue level ones."""
    hard = rng.random()
    height, width = rng.integers(60, 140, 2)
    y, x = np.mgrid[:height, :width] / rng.uniform(14, 26) + rng.uniform(0, 6, 2)[:, None, None]
    across, along = np.sin(2 * y), np.sin(2 * x)
    pattern, color = {
        "bricks": (np.maximum(across, along), (200, 60, 40)),
        "grass": (along, (60, 180, 50)),
        "water": (across, (40, 90, 200)),
    }[kind]
    color = np.array(color) + hard * (110 - np.array(color))
    noise = rng.normal(0, 10 + 150 * hard, (height, width, 1))
    picture = color + (40 - 25 * hard) * pattern[..., None] + noise
    return Image.fromarray(np.clip(picture, 0, 255).astype("uint8"))


if "--photos" in sys.argv:
    photos = Path(sys.argv[sys.argv.index("--photos") + 1])
else:
    photos, rng = OUT / "photos", np.random.default_rng(0)
    for kind in ("bricks", "grass", "water"):
        (photos / kind).mkdir(parents=True, exist_ok=True)
        for number in range(100):
            draw(kind, rng).save(photos / kind / f"{number}.png")

data = ka.data.load(photos, image_size=SIZE, split=(0.6, 0.2, 0.2))
print(data.class_names, {split: data.size(split) for split in ("train", "calibrate", "test")})

# %% [markdown]
"""
## Exits on a network of keras.applications
"""

# %%
shape, classes = data.input_shape, len(data.class_names)
if FULL:
    network = keras.applications.MobileNetV2(shape, include_top=False, weights="imagenet")
    at = ["block_3_expand_relu", "block_6_expand_relu", "block_13_expand_relu"]
else:
    network = keras.applications.MobileNet(shape, 0.25, include_top=False, weights=None)
    at = ["conv1_relu", "conv_pw_3_relu"]
    for layer in network.layers:
        if isinstance(layer, keras.layers.BatchNormalization):
            layer.momentum = 0.9  # its averages must follow so short a training
model = ka.add_exits(network, at=at, classes=classes)
model.compile(keras.optimizers.Adam(1e-4 if FULL else 3e-3), jit_compile=FULL)
batches = data.batches("train", 16, training=True)
model.fit(batches, epochs=15 if FULL else 25, shuffle=False, verbose=0)

# %% [markdown]
"""
## Thresholds, then one file

Thresholds are chosen on the calibrate split. Into the file go, with the network, the names of
the classes and how a photo of any size becomes its pixels: the app needs to know none of it.
"""

# %%
policy = model.calibrate(*data.arrays("calibrate"), budget_share=0.5, verbose=0)
path = OUT / "photos.tflite"
ka.export_tflite(
    model,
    path,
    policy,
    quantize="dynamic",
    class_names=data.class_names,
    preprocessing={"mean": data.mean, "std": data.std},
    pixels=pixels.rule(SIZE, SIZE, 3),
)
print(f"{path}: {path.stat().st_size:,} bytes")

# %% [markdown]
"""
## As the device does it

`anytime_tflite` needs numpy and an interpreter. Its command shows what the file says of itself; the
pictures of the test split are asked for in Python.
"""

# %%
command = [sys.executable, "-m", "anytime_tflite", "info", path]
info = json.loads(subprocess.run(command, check=True, capture_output=True).stdout)
print({name: info[name] for name in ("class_names", "exits", "thresholds", "macs", "pixels")})
images, labels = data.images("test", data.size("test"))
with AnytimeModel(path, num_threads=1) as device:
    alone = [[answer.label for answer in device.stream(image)] for image in images]
    answers = [device.classify(image, deadline_ms=50) for image in images]
right = np.array([answer.label for answer in answers]) == labels
exits = np.array([answer.exit for answer in answers])
costs = model.exit_costs()
print("each exit alone:", (np.array(alone) == labels[:, None]).mean(axis=0).round(3))
print(f"{right.mean():.1%} right, at {costs[exits].mean() / costs[-1]:.0%} of the full cost")

# %% [markdown]
"""
## To the phone, and to the page

```
keras-adaptive run tutorial_runs/photos.tflite tutorial_runs/photos/grass
make apk MODEL=tutorial_runs/photos.tflite     # Android: tflite/android/sample/target/sample.apk
adb install tflite/android/sample/target/sample.apk
npm install anytime-tflite                     # a page of your own: tflite/web/README.md
```

In a page, `AnytimeModel.load("photos.tflite", { wasm: "/litert/" })` opens the same file, and
`model.classify(document.querySelector("img"))` answers; `make web` serves a page that shows how.

The picture shows test photos at the exit where they left: clear ones left early.
"""

# %%
figure, axes = plt.subplots(len(costs), 8, figsize=(9, 1.3 * len(costs)), layout="constrained")
for k, row in enumerate(axes):
    here = np.flatnonzero(exits == k)
    for i, ax in enumerate(row):
        ax.axis("off")
        if i < len(here):
            ax.imshow(images[here[i]])
            ax.set_title(answers[here[i]].class_name, color="g" if right[here[i]] else "r", size=8)
    row[0].text(-0.1, 0.5, f"exit {k}: {len(here)}", ha="right", transform=row[0].transAxes)
figure.savefig(OUT / "12_photos.png", dpi=100)
print(f"picture: {OUT / '12_photos.png'}")
