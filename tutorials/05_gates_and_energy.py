# %% [markdown]
"""
# 5. Gates and energy

An early exit decides how far to go. A gate decides what to leave out on the way: before each
block a tiny network looks at the features and says whether this image needs the block. Easy
images then cost less than hard ones, with a single exit at the end.
"""

# %%
import sys
from pathlib import Path

import keras
import matplotlib.pyplot as plt
import numpy as np

import keras_adaptive as ka

FULL = "--full" in sys.argv
OUT = Path("tutorial_runs")
OUT.mkdir(exist_ok=True)
keras.utils.set_random_seed(0)
data = ka.data.load("cifar10" if FULL else "digits")

# %% [markdown]
"""
## A residual network with gates

`gates="layer"` skips whole blocks (SkipNet); `"channel"` closes channels inside them;
`"both"` does both (Dual Dynamic Inference). A skipped block is really skipped, on the host
and in the exported file. A closed channel lowers the MAC count only; latency does not change.
"""

# %%
depth, width = (38, 1) if FULL else (14, 0.5)
model = ka.build_resnet(data.input_shape, 10, depth=depth, width=width, gates="layer")

# %% [markdown]
"""
## Training in phases

First the network with all gates open; then the gates alone, until they let everything
through; then both together, with a cost term on what is let through. Its weight decides how much
is skipped: try others.
"""

# %%
model = ka.training.fit(
    model,
    data,
    regime="gated",
    epochs=60 if FULL else 12,
    recipe=ka.training.Recipe(schedule="one_cycle"),
    gate_loss=ka.training.GateLoss(weight=2e-4 if FULL else 3.0),
    verbose=0,
)

# %% [markdown]
"""
## Every image has its own cost

`predict_with_costs` counts what was executed, gates included.
"""

# %%
x, y = data.arrays("test")
logits, macs = model.predict_with_costs(x, verbose=0)
_, energy = model.predict_with_costs(x, unit="energy", verbose=0)
full = model.exit_costs()[-1]
accuracy = (logits[-1].argmax(axis=1) == y).mean()
print(f"accuracy {accuracy:.1%}, {macs[-1].mean() / full:.1%} of the MACs on average")
print(f"from {macs[-1].min() / full:.1%} for the easiest to {macs[-1].max() / full:.1%}")

# %% [markdown]
"""
## Energy

Multiply-accumulates are not the whole cost: moving numbers costs more than multiplying them.
`unit="energy"` counts accesses to three levels of memory too, with the constants of an
accelerator. Replace them by those of your device.
"""

# %%
eyeriss, mine = ka.costs.EnergyModel(), ka.costs.EnergyModel(main=50)
for name, unit in (("Eyeriss", eyeriss), ("four times cheaper memory", mine)):
    print(f"{name}: at most {model.exit_costs(unit)[-1]:,.0f} MAC equivalents per image")

# %% [markdown]
"""
Left: how many test images cost how much. Right: what each image spends in both units, a larger
circle for more images; with the same MACs energy still differs, since other blocks move more.
"""

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5), layout="constrained")
left.hist(macs[-1] / full, bins=20)
left.set_xlabel("share of the full MACs")
left.set_ylabel("test images")
pairs, counts = np.unique(np.stack([macs[-1], energy[-1]]), axis=1, return_counts=True)
right.scatter(*pairs / 1e6, s=12 + 4 * counts, alpha=0.6)
right.set_xlabel("million MACs per image")
right.set_ylabel("energy (million MAC equivalents)")
figure.savefig(OUT / "05_gates.png", dpi=100)
print(f"picture: {OUT / '05_gates.png'}")
