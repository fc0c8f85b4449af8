# %% [markdown]
"""
# 2. Choose thresholds: for a budget, for an accuracy, or with a guarantee

When should a network stop? This tutorial starts from a trained network that comes with the
library and from its answers to 10,000 images, so it needs no training and no data:
thresholds are chosen on arrays.
"""

# %%
import sys
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np

import keras_adaptive as ka

FULL = "--full" in sys.argv
OUT = Path("tutorial_runs")
OUT.mkdir(exist_ok=True)

# %% [markdown]
"""
## Logits, labels, costs

Everything after training is written on three arrays: the answer of every exit to every image,
`(exits, samples, classes)`; the labels; and the cost of leaving at each exit.

Thresholds are chosen on `calibrate`, which the network was not trained on, and results come
from `test`, which was used for neither. Networks are overconfident on their training images.
"""

# %%
model = ka.build_msdnet(weights="cifar10")
trained = ka.models.pretrained("cifar10")
costs = model.exit_costs()
logits, labels = trained.answers("calibrate")
test = (*trained.answers("test"), costs)
print("logits", logits.shape, "labels", labels.shape, "costs", costs.tolist())

# %% [markdown]
"""
## For a budget

A sample leaves at the first exit whose confidence reaches that exit's threshold. `calibrate`
searches all combinations for the most accurate one whose mean cost is within the budget.
`method="geometric"` is MSDNet's published rule, `"percentile"` a coarser search.
"""

# %%
full = costs[-1]
for method in ("optimal", "geometric"):
    policy = ka.calibrate(logits, labels, costs, budget=0.4 * full, method=method)
    report = ka.evaluate(policy, *test)
    print(f"{method:10} {report.accuracy:.2%} at {report.mean_cost / full:.1%} of the full cost")
policy = ka.calibrate(logits, labels, costs, budget=0.4 * full)
print(policy)
print("always the last exit:", f"{ka.evaluate(policy, *test).exit_accuracies[-1]:.2%}")

# %% [markdown]
"""
## For an accuracy, or with a worst case

The other way round: the lowest cost that still reaches an accuracy. It is reached on the images
on which the thresholds were chosen, and approximately on others. With `worst_case=` no sample
ever costs more than you allow, however low its confidence.
"""

# %%
goal = ka.calibrate(logits, labels, costs, accuracy=0.8)
report = ka.evaluate(goal, *test)
print(f"80 % wanted: {report.accuracy:.2%} at {report.mean_cost / full:.1%}")
limited = ka.calibrate(logits, labels, costs, budget=0.3 * full, worst_case=0.7 * full)
report = ka.evaluate(limited, *test)
print(f"worst case 70 %: {report.accuracy:.2%}, worst {report.worst_cost / full:.1%}")

# %% [markdown]
"""
## With a guarantee

A threshold that did well on 5,000 images may do a little worse on the next. `RiskControl` asks
for more: with a probability of 95 % over the choice of the calibration images, accuracy on new
images falls by at most one point against the full network. It holds for finite samples and
for one threshold per exit.
"""

# %%
risk = ka.RiskControl(metric="accuracy_drop", level=0.01, delta=0.05)
safe = ka.calibrate(logits, labels, costs, risk=risk)
report = ka.evaluate(safe, *test)
drop = report.exit_accuracies[-1] - report.accuracy
print(
    f"guarantee: at most 1 point lost; on test {100 * drop:+.2f} at {report.mean_cost / full:.1%}"
)

# %% [markdown]
"""
## Is the confidence right?

Of the answers with a confidence of 90 %, nine of ten should be correct. Temperature scaling, one
temperature per exit, sees to that: `calibrate` fits them where labels are given. A threshold
then means the same at every exit. Below, the guarantee is tested repeatedly on other images.
"""

# %%
print("temperatures:", policy.temperatures.round(2))
print("exit 0, accuracy by confidence:")
table = ka.calibration.reliability(logits, labels, policy.temperatures, 5)
for confidence, accuracy in zip(table.confidences[0], table.accuracies[0], strict=True):
    if np.isfinite(confidence):
        print(f"  confidence {confidence:4.0%}, accuracy {accuracy:4.0%}")

# %%
repeats, size = (200, 5000) if FULL else (8, 2000)
rng = np.random.default_rng(0)
drops = []
for _ in range(repeats):  # the guarantee, tested on other halves of the same images
    rows = rng.permutation(len(labels))[:size]
    half, rest = np.split(rows, 2)
    tried = ka.calibrate(logits[:, half], labels[half], costs, risk=risk)
    found = ka.evaluate(tried, logits[:, rest], labels[rest], costs)
    drops.append(found.exit_accuracies[-1] - found.accuracy)
print(f"on other halves: mean {100 * np.mean(drops):+.2f} points, worst {100 * max(drops):+.2f}")

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
curve = ka.accuracy_cost_curve(logits, labels, costs, test=test, points=30 if FULL else 8)
ka.plotting.accuracy_cost_curve(curve, ax=left)
found = (report.mean_cost / 1e6, 100 * report.accuracy)
left.plot(*found, "*", ms=13, mfc="none", color="tab:purple", label="with the guarantee")
left.legend()
right.hist(100 * np.array(drops), bins=np.linspace(-1, 1.5, 26))
right.axvline(1.0, color="tab:red", ls="--", label="guarantee: at most")
right.legend()
right.set_xlabel("points lost on held-out images")
right.set_ylabel("repetitions")
figure.savefig(OUT / "02_thresholds.png", dpi=100)
policy.save(OUT / "policy.json")
print(f"picture: {OUT / '02_thresholds.png'}; policy: {OUT / 'policy.json'}")
