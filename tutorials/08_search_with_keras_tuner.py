# %% [markdown]
"""
# 8. Search with KerasTuner

How many exits, how wide, which learning rate? The best network for half a million
multiply-accumulates is not the best one without a limit. KerasTuner searches; this library
gives the value of a trial: its accuracy at the budget, with thresholds chosen for it.

Needs `pip install 'keras_adaptive[tune]'`.
"""

# %%
import functools
import sys
import tempfile
from pathlib import Path

import keras
import keras_tuner

import keras_adaptive as ka

FULL = "--full" in sys.argv
OUT = Path("tutorial_runs")
OUT.mkdir(exist_ok=True)
keras.utils.set_random_seed(0)
data = ka.data.load("cifar10" if FULL else "digits", train_limit=3000 if FULL else None)

# %% [markdown]
"""
## What is searched

A space is a dictionary: arguments of the builder, arguments of the training. A list holds
choices, a tuple a range. The builder is any function that returns an `AdaptiveModel`: one of the
library's, or your own.
"""


# %%
def small(width):
    """Three dense layers on 64 pixels, with an exit after each."""
    image = keras.Input(data.input_shape)
    x = keras.layers.Flatten()(image)
    for number in (1, 2, 3):
        x = keras.layers.Dense(width, activation="relu", name=f"dense_{number}")(x)
    network = keras.Model(image, keras.layers.Dense(10)(x))
    return ka.add_exits(network, at=["dense_1", "dense_2"], classes=10, from_logits=True)


if FULL:
    builder = functools.partial(ka.build_msdnet, data.input_shape, 10, head_channels=64)
    space = {"blocks": [3, 4, 5], "channels": (8, 24)}
    budget, trials, epochs = 2e7, 12, 3
else:
    builder, space = small, {"width": (8, 64)}
    budget, trials, epochs = 4e3, 6, 8
space["learning_rate"] = (0.02, 0.3, "log")

# %% [markdown]
"""
## Search

`AdaptiveHyperModel` has KerasTuner's two verbs, `build` and `fit`, and works with every tuner.
Thresholds are chosen on one half of the calibrate split and measured on the other. The test
split is not used. An interrupted search resumes when the same lines run again: the folder
holds the finished trials.
"""

# %%
hypermodel = ka.tuning.AdaptiveHyperModel(
    builder, space, budget=budget, recipe=ka.training.Recipe(schedule="one_cycle")
)
tuner = keras_tuner.RandomSearch(
    hypermodel,
    objective=hypermodel.objective,
    max_trials=trials,
    seed=0,
    directory=str(OUT / "search") if FULL else tempfile.mkdtemp(),
    project_name="msdnet",
)
tuner.search(data, epochs=epochs)
best = tuner.get_best_hyperparameters()[0]
print("best:", best.values)

# %% [markdown]
"""
## Accuracy against cost

Every trial was measured at four budgets, so one search shows the whole Pareto front: the points
for which no other is both cheaper and more accurate.
"""

# %%
points, front = ka.tuning.trial_points(tuner), ka.tuning.pareto_front(tuner)
for point in front:
    print(f"trial {point.trial}: {point.accuracy:.1%} at {point.cost:,.0f} MACs")

# %% [markdown]
"""
## And thresholds?

They need no search by trials: for one network and a budget `ka.calibrate` finds the best ones in
seconds, on answers that are computed once.
"""

# %%
ax = ka.plotting.pareto_front(points, front)
ax.figure.savefig(OUT / "08_pareto.png", dpi=100)
print(f"picture: {OUT / '08_pareto.png'}")
