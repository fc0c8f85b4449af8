# %% [markdown]
"""
# 4. Train better

How a network with several exits is trained matters as much as its architecture. Early exits pull
the first layers toward features that classify well now, late exits toward features that
classify well later. This tutorial trains one network in several ways and compares the exits:

- **joint**: the sum of all losses;
- **gradient equilibrium**: each block gets the mean of the gradients that reach it, not their
  sum (IMTA);
- **collaboration**: an exit reads the answer of the exit before it (IMTA);
- **distillation**: the last exit teaches the others (IMTA's one-for-all);
- **mixed**: the network by its last exit first, then everything.

Three of them run here, all five with `--full`. On so small a task and so few epochs differences are
mostly chance, and "mixed" has only half of the epochs for its early exits; what each way is worth
on CIFAR-10 is measured by `make bench-training`.
"""

# %%
import sys
from pathlib import Path

import keras
import matplotlib.pyplot as plt

import keras_adaptive as ka

FULL = "--full" in sys.argv
OUT = Path("tutorial_runs")
OUT.mkdir(exist_ok=True)
EPOCHS = 60 if FULL else 20
data = ka.data.load("cifar10" if FULL else "digits")
x, y = data.arrays("test")

# %% [markdown]
"""
Some techniques change the network: they take one and return another with the same layers (for an
MSDNet they are arguments of its builder, too). The others are arguments of `ka.training.fit`, which
runs the phases of a regime one after the other.
"""

# %%
teacher = ka.training.Distillation(teacher="last", temperature=1.0, weight=0.1)
WAYS = {
    "joint": (None, {}),
    "gradient equilibrium": (ka.training.add_gradient_equilibrium, {}),
    "collaboration": (ka.training.add_collaboration, {}),
    "distillation": (None, {"distillation": teacher}),
    "mixed": (None, {"regime": "mixed"}),
}
if not FULL:  # all five with --full
    WAYS = {name: WAYS[name] for name in ("joint", "distillation", "mixed")}


def build():
    if FULL:
        return ka.build_msdnet(preset="cifar_budgeted_4")
    network = keras.Sequential([keras.Input(data.input_shape)])
    for i, width in enumerate((8, 16, 32, 64)):
        name = f"convolution_{i}"
        network.add(keras.layers.Conv2D(width, 3, padding="same", activation="relu", name=name))
    return ka.add_exits(network, at=["convolution_1", "convolution_2"], classes=10)


# %% [markdown]
"""
A `Recipe` holds what a paper says about the optimizer; the schedule `"one_cycle"` suits short
trainings. With `backup_dir=` an interrupted training resumes from its last complete epoch.
"""

# %%
rate, size = (0.1, 64) if FULL else (0.05, 32)
recipe = ka.training.Recipe(learning_rate=rate, batch_size=size, schedule="one_cycle")
accuracies = {}
for name, (change, training) in WAYS.items():
    keras.utils.set_random_seed(0)
    model = change(build()) if change else build()
    model = ka.training.fit(model, data, epochs=EPOCHS, recipe=recipe, verbose=0, **training)
    logits = model.predict(x, verbose=0)
    accuracies[name] = [(z.argmax(axis=1) == y).mean() for z in logits]
    print(f"{name:22}", *(f"{accuracy:6.1%}" for accuracy in accuracies[name]))

# %% [markdown]
"""
## Frozen layers do not change

`regime="disjoint"` trains the network by its last exit and then the earlier heads alone. What
is frozen keeps its weights and its batch statistics to the bit, so the last exit is as good
as without early exits.

`regime="imta"` does the paper's two phases and returns a new model: balanced gradients first,
then new heads that read each other, taught by the first network.
"""

# %%
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
for name, values in accuracies.items():
    ax.plot(range(len(values)), [100 * value for value in values], "-o", label=name)
ax.set_xticks(range(model.exits))
ax.set_xlabel("exit")
ax.set_ylabel("test accuracy (%)")
ax.grid(alpha=0.3)
ax.legend()
figure.savefig(OUT / "04_ways.png", dpi=100)
print(f"picture: {OUT / '04_ways.png'}")
