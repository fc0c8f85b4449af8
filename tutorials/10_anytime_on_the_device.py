# %% [markdown]
"""
# 10. Anytime on the device

One .tflite file that answers after every stage: it stops when it is confident, when time is
up, or when you say so, and always has an answer. The program that runs it needs numpy and a TFLite
interpreter, and no TensorFlow.

With `--full` it starts from the trained network of the library and CIFAR-10 (downloaded, or in the
folder or tar file that `CIFAR10_DIR` names); otherwise a small network learns handwritten digits.
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
IMAGES = 2000 if FULL else 300
keras.utils.set_random_seed(0)

if FULL:
    data = ka.data.load("cifar10", data_dir=os.environ.get("CIFAR10_DIR"))
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
streams = [list(device.stream(image)) for image in images]
typical = np.median([[a.elapsed_ms for a in stages] for stages in streams], axis=0)
alone = np.mean([[a.label for a in stages] for stages in streams] == labels[:, None], axis=0)
print("milliseconds until each exit:", typical.round(2), "accuracy there:", alone.round(3))
accuracies, spent = [], []
closed = [np.inf] * model.exits  # then time alone decides
deadlines = np.geomspace(0.8 * typical[0], 2 * typical[-1], 8)
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

# %% [markdown]
"""
## Accuracy against time

The later an image may leave, the better the answer: longer deadlines reach one exit after the
other, each a little late, since a stage that might not be done in time is not begun. With
confidence most images leave early and the hard ones do not, so that it is about as good as the last
exit in much less time. Times are of one thread of this machine; an exit's is the median over the
images, the star's the mean of those of the exits where its images left.
"""

# %%
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
ax.plot(deadlines, 100 * np.array(accuracies), "-o", label="by deadline alone")
ax.plot(typical, 100 * alone, "s", ms=9, mfc="none", mew=2, label="each exit alone")
ax.plot(typical[exits].mean(), 100 * right.mean(), "*", ms=15, label="by confidence")
ax.set_xlabel("milliseconds per image: deadline, or time taken")
ax.set_ylabel("test accuracy (%)")
ax.grid(alpha=0.3)
ax.legend()
figure.savefig(OUT / "10_anytime.png", dpi=100)
print(f"picture: {OUT / '10_anytime.png'}")
