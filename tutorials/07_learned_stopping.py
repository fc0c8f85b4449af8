# %% [markdown]
"""
# 7. Learned stopping

A threshold reads one number, the confidence of the answer. A learned policy reads all class
probabilities and learns when going on is worth its cost. This tutorial trains one
on a cascade and compares it with thresholds chosen on the same images.
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
## A cascade whose exits have policies

Three dense layers at every exit but the last take the class probabilities and give the
probability of stopping. `combine="last"` lets every member answer for itself, as in the paper.
"""

# %%
depths = (8, 20, 32) if FULL else (10, 16)
width = 1 if FULL else 0.25
members = [
    ka.build_resnet(data.input_shape, 10, depth=depth, style="pre", width=width) for depth in depths
]
for member in members:
    ka.training.fit(
        member,
        data,
        epochs=30 if FULL else 5,
        recipe=ka.training.Recipe(schedule="one_cycle"),
        verbose=0,
    )
cascade = ka.build_cascade(
    members, combine="last", stopping=ka.layers.StoppingPolicy(units=64), cost_weight=1e-3
)
costs = cascade.stopping_costs()  # with the policies' own
print("cost of leaving at each exit:", [f"{cost:,.0f}" for cost in costs])

# %% [markdown]
"""
## What is learned

The reward of a sample is 1 for a correct answer, minus `cost_weight` times its cost. The gradient
of the mean reward is estimated by drawing stops (`estimator="sampled"`, REINFORCE) or
computed as a sum over the exits (`"expected"`), which has no noise and is affordable here.

With frozen members the policies learn from answers that are computed once, in seconds. To train
members and policies together, use `ka.training.fit(..., regime="stopping")`.
"""

# %%
weights = (1e-3, 3e-3, 1e-2, 3e-2) if FULL else (0.03, 0.1, 0.2, 0.3)
x, y = data.arrays("calibrate")  # held out: members are overconfident on their training images
test = data.arrays("test")
found = ka.sweep(
    cascade,
    (x, y),
    test,
    cost_weights=weights,
    epochs=30,
    estimator="expected",
    optimizer=keras.optimizers.Adam(0.003),  # the published one often sends all to one exit
    folder=OUT / "sweep" if FULL else None,  # finished rows are kept
)
for weight, report in zip(weights, found.reports, strict=True):
    fractions = ", ".join(f"{fraction:.0%}" for fraction in report.exit_fractions)
    print(f"cost weight {weight:g}: {report.accuracy:.1%} at {report.mean_cost:,.0f} ({fractions})")

# %% [markdown]
"""
## Beside calibrated thresholds

The same cascade, the same images to choose on, the same test images. On CIFAR-10, at length
(`make bench-stopping`), no learned policy beat calibrated thresholds: try those first.
"""

# %%
logits = np.stack(cascade.predict(x, verbose=0))
test_logits = np.stack(cascade.predict(test[0], verbose=0))
macs = cascade.exit_costs()
curve = ka.accuracy_cost_curve(logits, y, macs, test=(test_logits, test[1], macs), points=15)
policy = found.policies[2]
exits = policy.decide(test_logits)
print("accuracy of row exit on the samples that leave at column exit:")
print(ka.evaluation.accuracy_matrix(exits, test_logits, test[1]).round(3))

# %%
figure, ax = plt.subplots(figsize=(6, 4), layout="constrained")
alone = {
    f"ResNet-{depth}": (member.exit_costs()[-1], report)
    for depth, member, report in zip(depths, members, found.reports[0].exit_accuracies, strict=True)
}
ka.plotting.sweep({"learned": found, "thresholds": curve}, alone, ax=ax)
figure.savefig(OUT / "07_stopping.png", dpi=100)
print(f"picture: {OUT / '07_stopping.png'}")
