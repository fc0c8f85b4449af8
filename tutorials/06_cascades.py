# %% [markdown]
"""
# 6. Cascades of whole models

You have several models of the same task, small and large. A cascade asks the small one first
and passes on only what it is not confident about. No training is needed: thresholds are chosen from
the models' answers.
"""

# %%
import sys
from pathlib import Path

import keras
import numpy as np

import keras_adaptive as ka

FULL = "--full" in sys.argv
OUT = Path("tutorial_runs")
OUT.mkdir(exist_ok=True)
keras.utils.set_random_seed(0)
data = ka.data.load("cifar10" if FULL else "digits")

# %% [markdown]
"""
## Members

Members are used as they are. With `--full` they are networks of `keras.applications` (random
weights here; give `weights="imagenet"` and your own images for the real thing). Otherwise they
are two small networks on digits, one at a fifteenth of the other's cost.
"""

# %%
if FULL:
    applications = keras.applications
    members = [
        build(input_shape=data.input_shape, weights=None, classes=10)
        for build in (applications.MobileNetV2, applications.EfficientNetB0)
    ]
else:
    members = [ka.build_resnet(data.input_shape, 10, depth=8, width=width) for width in (0.25, 1)]
for member in members:
    loss = keras.losses.SparseCategoricalCrossentropy(from_logits=not FULL)
    member.compile(keras.optimizers.Adam(1e-3 if FULL else 3e-3), loss, jit_compile=FULL)
    member.fit(*data.arrays("train"), epochs=30 if FULL else 7, batch_size=64, verbose=0)

# %% [markdown]
"""
## The cascade

An exit after each member. With `combine="last"` each answers for itself; without it the answer is
the mean of the members' logits so far, an ensemble, which suits members that are about equally
good. Costs add up: an image that reaches the second exit pays for both.
"""

# %%
cascade = ka.build_cascade(members, combine="last")
costs = cascade.exit_costs()
x, y = data.arrays("calibrate")
policy = cascade.calibrate(x, y, budget_share=0.4, verbose=0)

x_test, y_test = data.arrays("test")
result = ka.AdaptivePredictor(cascade, policy).predict(x_test)
print(f"cascade: {(result.labels == y_test).mean():.1%} at {result.costs.mean() / costs[-1]:.0%}")
for k, answers in enumerate(cascade.predict(x_test, verbose=0)):
    accuracy = (answers.argmax(axis=1) == y_test).mean()
    print(f"exit {k}: {accuracy:.1%} at {costs[k] / costs[-1]:.0%}")

# %% [markdown]
"""
## Which models make the best cascade?

`select_cascade` tries every ordered choice out of a pool, with every threshold, on answers that
are computed once. Here the pool is the two members; ten models are no problem.
"""

# %%
pool = [ka.build_cascade([member]) for member in members]  # a softmax is read as logits
logits = [np.stack(one.predict(x, verbose=0)) for one in pool]  # (copies, samples, classes)
alone = [float(one.exit_costs()[0]) for one in pool]
best = ka.select_cascade(logits, y, alone, budget=alone[-1])
print(
    f"best within the large model's cost: members {best.members}, {best.accuracy:.1%} at "
    f"{best.mean_cost / alone[-1]:.0%} of it"
)

# %% [markdown]
"""
## One model, twice

A network that takes images of any size can be its own cascade: first on a smaller image, then,
where it is not confident, on the full-size one. (Train it as you would; this one is not.)
"""

# %%
size = data.input_shape[0]
image = keras.Input((None, None, data.input_shape[-1]))
z = keras.layers.Conv2D(16, 3, activation="relu")(image)
z = keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(32, 3, activation="relu")(z))
any_size = keras.Model(image, keras.layers.Dense(10)(z))
twice = ka.build_self_cascade(any_size, [size, 2 * size])
print("costs of the two sizes:", [f"{c:,.0f}" for c in twice.exit_costs()])

# %% [markdown]
"""
## Does it win?

A cascade pays where the small model is nearly as good as the large one, at a fraction of its cost.
Here it does: the curve climbs to about the accuracy of the large model at a fraction of its cost,
since the small one is confident of most images. Where models cost about the same it does not pay:
hard images pay for both.
"""

# %%
curve = ka.accuracy_cost_curve(
    np.stack(cascade.predict(x, verbose=0)),
    y,
    costs,
    test=(np.stack(cascade.predict(x_test, verbose=0)), y_test, costs),
    points=15,
)
large = pool[-1].predict(x_test, verbose=0)[0]
static = {"the large model": (alone[-1], (large.argmax(axis=1) == y_test).mean())}
ax = ka.plotting.accuracy_cost_curve(curve, label="cascade", static=static)
ax.figure.savefig(OUT / "06_cascade.png", dpi=100)
print(f"picture: {OUT / '06_cascade.png'}")
