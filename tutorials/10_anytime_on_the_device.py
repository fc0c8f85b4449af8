# %% [markdown]
"""
# 10. Anytime on the device

One .tflite file that answers after every stage: it stops when it is confident, when time is
up, or when you say so, and always has an answer. The program that runs it needs numpy and a TFLite
interpreter, and no TensorFlow.

Set `CIFAR10_DIR` to a folder or tar file of CIFAR-10 as images to start from the trained network
of the library; `--full` downloads them. Otherwise a small network learns handwritten digits.
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
CIFAR10 = os.environ.get("CIFAR10_DIR")
OUT = Path("tutorial_runs")
OUT.mkdir(exist_ok=True)
IMAGES = 2000 if FULL else 300
keras.utils.set_random_seed(0)

if FULL or CIFAR10:
    data = ka.data.load("cifar10", data_dir=CIFAR10)
    model = ka.build_msdnet(weights="cifar10")
else:
    data = ka.data.load("digits")
    model = ka.build_msdnet(data.input_shape, 10, blocks=3, channels=4, growth_rate=4)
    model.fit(*data.arrays("train"), epochs=6, batch_size=64, verbose=2)

# %% [markdown]
"""
## Export

The policy goes into the file, so that the app needs to know nothing about thresholds. So do
class names and how pixels are standardized: the app hands over raw uint8 pixels. What was
written is read back and compared with Keras, exit by exit, before it gets its name.
"""

# %%
x, y = data.arrays("calibrate")
policy = model.calibrate(x, y, budget=0.5 * model.exit_costs()[-1], verbose=0)
path = OUT / "model.tflite"
ka.export_tflite(
    model,
    path,
    policy,
    class_names=data.class_names,
    preprocessing={"mean": data.mean, "std": data.std},
)
print(f"{path}: {path.stat().st_size:,} bytes, exits {AnytimeModel(path).exits}")

# %% [markdown]
"""
## Stop when it is confident
"""

# %%
images, labels = data.images("test", IMAGES)  # uint8, as a camera gives them
device = AnytimeModel(path, num_threads=1)
for image in images[:20]:  # the first calls are slower
    device.classify(image)
answers = [device.classify(image) for image in images]
right = np.array([answer.label for answer in answers]) == labels
exits = np.array([answer.exit for answer in answers])
print(f"accuracy {right.mean():.1%}; fraction leaving at each exit:", np.bincount(exits) / IMAGES)
print("first:", answers[0].class_name, answers[0].stopped_by, f"{answers[0].elapsed_ms:.2f} ms")

# %% [markdown]
"""
## Stop when time is up

With a deadline the model learns how long its stages take on this device and does not begin one
that it cannot finish. The first stage always runs: there is always an answer.
"""

# %%
times = np.array([[a.elapsed_ms for a in device.stream(image)] for image in images[:100]])
typical = np.median(times, axis=0)
print("milliseconds until each exit:", typical.round(2))
accuracies, spent = [], []
closed = [np.inf] * model.exits  # then time alone decides
deadlines = np.linspace(0.8 * typical[0], 1.2 * typical[-1], 6)
for deadline in deadlines:
    found = [device.classify(image, deadline, closed) for image in images]
    accuracies.append(np.mean([a.label for a in found] == labels))
    spent.append(np.median([a.elapsed_ms for a in found]))
    print(f"deadline {deadline:6.2f} ms: accuracy {accuracies[-1]:.1%}, median {spent[-1]:.2f} ms")

# %% [markdown]
"""
## Stop when you say so

`stream` gives an answer after every stage; stop reading when it is good enough for you. From
another thread, `device.cancel()` ends the image under way with the best answer so far.
"""

# %%
for answer in device.stream(images[0]):
    confidence = answer.probabilities[answer.label]
    print(f"exit {answer.exit}: {answer.class_name} ({confidence:.0%}), {answer.elapsed_ms:.2f} ms")
device.close()

# %%
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.plot(spent, 100 * np.array(accuracies), "-o", label="by deadline alone")
ax.plot(
    np.median([a.elapsed_ms for a in answers]),
    100 * right.mean(),
    "*",
    ms=14,
    label="by confidence",
)
ax.set_xlabel("median milliseconds per image, on this machine")
ax.set_ylim(min(70, *(100 * np.array(accuracies))), 100)
ax.set_ylabel("test accuracy (%)")
ax.grid(alpha=0.3)
ax.legend()
figure.savefig(OUT / "10_anytime.png", dpi=100)
print(f"picture: {OUT / '10_anytime.png'}")
