# %% [markdown]
"""
# 2. Choose thresholds you can defend

"Half the cost, and about the same accuracy": how do you know? This tutorial chooses thresholds
for a budget, for an accuracy, and with a guarantee, and says what each of them allows you to
claim. It starts from a trained network that comes with the library and from its answers to
10,000 images, so it needs no training and no data.
"""

# %%
import sys
import warnings
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
from `test`, which was used for neither. Three of the five exits are used here, since the search
then takes a moment; `--full` uses all, at seconds per search.
"""

# %%
exits = [0, 1, 2, 3, 4] if FULL else [0, 2, 4]
trained = ka.models.pretrained("cifar10")
costs = ka.build_msdnet(weights="cifar10").exit_costs()[exits]
logits, labels = trained.answers("calibrate")
test_logits, test_labels = trained.answers("test")
logits, test = logits[exits], (test_logits[exits], test_labels, costs)
full = costs[-1]
print("logits", logits.shape, "labels", labels.shape, "costs", costs.tolist())

# %% [markdown]
"""
## For a budget, for an accuracy, for the worst case

A sample leaves at the first exit whose confidence reaches that exit's threshold. `calibrate`
searches all combinations: for the most accurate one within a budget, or the cheapest one that
reaches an accuracy. With `worst_case=` no sample ever costs more than you allow.

What you may claim: "on the calibrate split the target was met, and on 5,000 other images we
measured this". The next images may do a little worse.
"""

# %%
wishes = {
    "40 % of the cost": {"budget_share": 0.4},
    "an accuracy of 80 %": {"accuracy": 0.8},
    "30 % of the cost, 70 % at worst": {"budget_share": 0.3, "worst_case": 0.7 * full},
}
for name, wish in wishes.items():
    policy = ka.calibrate(logits, labels, costs, **wish)
    report = ka.evaluate(policy, *test)
    print(
        f"{name:32} {report.accuracy:.2%} at {report.mean_cost / full:.1%}, "
        f"at worst {report.worst_cost / full:.0%}"
    )
print(f"{'always the last exit':32} {report.exit_accuracies[-1]:.2%} at 100%")

# %% [markdown]
"""
## Is the confidence right?

Of the answers with a confidence of 90 %, nine of ten should be correct. Temperature scaling, one
temperature per exit, sees to that: `calibrate` fits them where labels are given. A threshold
then means the same at every exit, and can be explained to those who have to live with it.
"""

# %%
print("temperatures:", policy.temperatures.round(2), "; exit 0, accuracy by confidence:")
table = ka.calibration.reliability(logits, labels, policy.temperatures, 5)
for confidence, accuracy in zip(table.confidences[0], table.accuracies[0], strict=True):
    if np.isfinite(confidence):
        print(f"  confidence {confidence:4.0%}, accuracy {accuracy:4.0%}")

# %% [markdown]
"""
## With a guarantee

`RiskControl` lets you claim more: with a probability of 95 % over the choice of the calibration
images, accuracy on new images of the same kind falls by at most one point against the full
network. It holds for finite samples, for any network, and for one threshold per exit.

Such a proof needs images. From 5,000 it saves more than half of the cost. From 400 nothing can be
proved: everything goes to the last exit, and `NoSavingWarning` says how many images would do.
"""

# %%
risk = ka.RiskControl(metric="accuracy_drop", level=0.01, delta=0.05)
proved = {}
for images in (5000, 400):
    policy = ka.calibrate(logits[:, :images], labels[:images], costs, risk=risk)
    report = proved[images] = ka.evaluate(policy, *test)
    lost = 100 * (report.exit_accuracies[-1] - report.accuracy)
    print(f"{images} images: {report.mean_cost / full:.0%} of the cost, {lost:+.2f} points lost")

# %% [markdown]
"""
## Does the guarantee hold?

Only repetition can show it: choose on some of the images, look at the others, again and again.
At most one policy in twenty may lose more than a point on all images there are; on the few that
are left over here, chance adds a little to both sides.
"""

# %%
rng = np.random.default_rng(0)
repeats = 100 if FULL else 40
both = np.concatenate([logits, test[0]], axis=1), np.concatenate([labels, test_labels])
found = {5000: [], 400: []}
warnings.simplefilter("ignore", ka.calibration.NoSavingWarning)
for size, points in found.items():
    for _ in range(repeats):
        chosen, others = np.split(rng.permutation(len(both[1])), [size])
        policy = ka.calibrate(both[0][:, chosen], both[1][chosen], costs, risk=risk)
        report = ka.evaluate(policy, both[0][:, others], both[1][others], costs)
        lost = 100 * (report.exit_accuracies[-1] - report.accuracy)
        points.append((100 * report.mean_cost / full, lost))
    share, lost = np.array(points).T
    print(f"{size} images: {share.mean():.0f}% of the cost, {lost.mean():+.2f} points lost")
    print(f"  more than one point lost: {(lost > 1).sum()} of {repeats} times")

# %% [markdown]
"""
On the left, accuracy against cost on the test split: the star with the guarantee lies on the curve,
the one that could not be proved lies where the full network does. On the right, each repetition is
a point: what it costs, and what it loses on held-out images.
"""

# %%
figure, (left, right) = plt.subplots(1, 2, figsize=(11, 4), layout="constrained")
curve = ka.accuracy_cost_curve(logits, labels, costs, test=test, points=30)
ka.plotting.accuracy_cost_curve(curve, ax=left)
for size, color in ((5000, "tab:purple"), (400, "tab:gray")):
    style = {"mfc": "none", "color": color, "ls": "", "label": f"guarantee, {size:,} images"}
    left.plot(proved[size].mean_cost / 1e6, 100 * proved[size].accuracy, "*", ms=14, mew=2, **style)
    right.plot(*np.array(found[size]).T, "o", **style)
right.axhline(1.0, color="tab:red", ls="--", label="at most one point")
right.set(xlabel="cost (% of the full network's)", ylabel="points lost on held-out images")
right.set_ylim(-0.3, 1.2)
for ax, place in ((left, "lower right"), (right, "center right")):
    ax.legend(loc=place, fontsize="small")
figure.savefig(OUT / "02_thresholds.png", dpi=100)
print(f"picture: {OUT / '02_thresholds.png'}")
