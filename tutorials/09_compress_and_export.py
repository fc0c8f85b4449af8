# %% [markdown]
"""
# 9. Compress and export

A phone wants a small file. Three things make it smaller: fewer weights (pruning), fewer different
weights (clustering), and shorter weights (quantization). This tutorial prunes a network with
early exits, exports it four ways, and asks what each costs at every exit.

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
    model = ka.build_msdnet(data.input_shape, 10, blocks=2, channels=4, growth_rate=4)
    model.fit(*data.arrays("train"), epochs=6, batch_size=64, verbose=0)
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
model.compile(keras.optimizers.SGD(0.01 if FULL else 0.003, momentum=0.9, nesterov=True))
model.fit(
    data.batches("train", training=True, augmentation="pad_crop_flip" if FULL else None),
    epochs=3 if FULL else 1,
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
exit as before. What changed at each exit is in the file's `info`.

`ka.compression.cluster` and `ka.compression.quantization_aware` train for it; try plain
quantization first, it often costs nothing.
"""

# %%
calibration = tuple(part[:TEST] for part in data.arrays("calibrate"))
policy = model.calibrate(*calibration, budget=0.5 * model.exit_costs()[-1], verbose=0)
rows = {}
for kind in (None, "float16", "dynamic", "int8"):
    path = OUT / f"model_{kind or 'float32'}.tflite"
    ka.export_tflite(model, path, policy, quantize=kind, calibration_data=calibration)
    with AnytimeModel(path, num_threads=1) as device:
        answers = [list(device.stream(image)) for image in x]
    labels = np.array([[answer.label for answer in each] for each in answers])
    right = (labels == y[:, None]).mean(axis=0)
    small = ka.compression.gzipped_size(path)
    rows[kind or "float32"] = right
    print(
        f"{kind or 'float32':8} {path.stat().st_size:10,} bytes, {small:10,} gzipped:",
        *(f"{a:6.1%}" for a in right),
    )

# %% [markdown]
"""
## What each file costs in accuracy

Compare bars of one exit: what differs there is what shorter weights have cost.
"""

# %%
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for i, (kind, right) in enumerate(rows.items()):
    ax.bar(np.arange(len(right)) + 0.2 * i, 100 * right, 0.2, label=kind)
ax.set_xticks(np.arange(len(right)) + 0.3, [f"exit {k}" for k in range(len(right))])
ax.set_ylim(max(100 * min(map(min, rows.values())) - 10, 0), 100)
ax.set_ylabel("test accuracy (%)")
ax.legend(ncols=4, fontsize="small")
figure.savefig(OUT / "09_files.png", dpi=100)
print(f"picture: {OUT / '09_files.png'}")
