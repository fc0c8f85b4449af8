# %% [markdown]
"""
# 1. Build and fit an MSDNet

A network with early exits gives several answers: the first ones cheap, the later ones better.
This tutorial builds one, trains it with one call to `fit`, and shows what each exit
costs and how good it is.

Run it as a program; `--full` trains on CIFAR-10 for longer.
"""

# %%
import sys
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np

import keras_adaptive as ka

FULL = "--full" in sys.argv
EPOCHS = 20 if FULL else 16
OUT = Path("tutorial_runs")
OUT.mkdir(exist_ok=True)
keras.utils.set_random_seed(0)

# %% [markdown]
"""
## Data in three splits

The network is fitted on `train`. Later, thresholds are chosen on `calibrate`, and
results come from `test`. The library keeps the three apart, and so should you: networks are
overconfident on their training images, and thresholds fitted there stop too early on new ones.
"""

# %%
data = ka.data.load("cifar10" if FULL else "digits")
for split in ("train", "calibrate", "test"):
    print(f"{split:10} {data.size(split):6,} images of {data.input_shape}")

# %% [markdown]
"""
## A network with several exits

An MSDNet keeps features at several scales in every layer, so that even the first layers
have coarse features that suit classification. Each block ends in an exit. The result is a
functional Keras model, compiled with the paper's recipe, whose outputs are the list of the
exits' logits.

Digits are easy. So this one is narrow up to its first exit and wide after it: then there is
something to gain from going on.
"""

# %%
if FULL:
    model = ka.build_msdnet(preset="cifar_budgeted_5", head_channels=64)
else:
    narrow = {"channels": 1, "growth_factors": (1, 2), "bottleneck_factors": (1, 2)}
    model = ka.build_msdnet(
        data.input_shape, 10, blocks=3, step_mode="even", growth_rate=12, head_channels=4, **narrow
    )
print(f"{model.exits} exits, {model.count_params():,} parameters")

# %% [markdown]
"""
## What an answer costs

The cost of an exit is what must be computed to answer there: the multiply-accumulates of
all convolutions and dense layers before it, and of the heads passed on the way. Only what
an exit needs is counted, because only that is computed when the network really stops.
"""

# %%
costs = model.exit_costs()
for k, (macs, parameters) in enumerate(zip(costs, model.exit_costs("params"), strict=True)):
    print(f"exit {k}: {macs:12,.0f} MACs ({macs / costs[-1]:4.0%}), {parameters:9,.0f} parameters")

# %% [markdown]
"""
## Fit

One label trains every exit: the loss is the sum of the exits' losses. `fit` shows the
first, the mean and the last exit's accuracy; `ExitHistory` adds every exit's.

The paper's recipe is for 300 epochs, so the model is compiled again for a few, as in Keras.
`jit_compile=False` leaves XLA out, which takes half a minute to compile: for long trainings.
"""

# %%
if not FULL:
    rate = keras.optimizers.schedules.CosineDecay(0.1, EPOCHS * data.size("train") // 64)
    model.compile(keras.optimizers.SGD(rate, momentum=0.9, nesterov=True), jit_compile=False)
history = model.fit(
    data.batches("train", training=True),
    validation_data=data.batches("calibrate", 500),
    epochs=EPOCHS,
    callbacks=[ka.training.ExitHistory()],
    shuffle=False,  # the batches are shuffled already
    verbose=2,
)

# %% [markdown]
"""
## How good each exit is

`predict` returns one array of logits per exit. Nothing stops early here: everything is
computed, so that thresholds can be chosen from it (tutorial 2).
"""

# %%
x, y = data.arrays("test")
accuracies = [(logits.argmax(axis=1) == y).mean() for logits in model.predict(x, verbose=0)]
for k, accuracy in enumerate(accuracies):
    print(f"exit {k}: {accuracy:6.1%} of {len(y):,} test images at {costs[k] / costs[-1]:4.0%}")
assert accuracies[-1] > accuracies[0], "the last exit should be the better one"

# %% [markdown]
"""
Left: how each exit learned. Right: every exit is better than the one before, and costs more. Most
images do not need the last one: which do is the question of tutorial 2.
"""

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
ka.plotting.exit_history(history, ax=left)
right.plot(costs / 1e6, 100 * np.array(accuracies), "-s")
right.set_xlabel("cost (million MACs)")
right.set_ylabel("test accuracy (%)")
right.grid(alpha=0.3)
figure.savefig(OUT / "01_exits.png", dpi=100)
print(f"picture: {OUT / '01_exits.png'}")
