# %% [markdown]
"""
# 3. Make your own Keras model adaptive

You have a Keras model that works. `add_exits` puts heads on its inner layers, so that
easy images can be answered before the end. Weights are kept: the last exit
gives the same answers as the model did.
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

# %% [markdown]
"""
## The model

Any functional or Sequential model does. With `--full` it is a MobileNetV3 of
`keras.applications`; otherwise a small network on handwritten digits. It is trained first,
as you would without this library.
"""

# %%
data = ka.data.load("cifar10" if FULL else "digits")
if FULL:
    plain = keras.applications.MobileNetV3Small(
        data.input_shape, weights=None, classes=10, include_preprocessing=False
    )
    places = 4  # exits in all, at equal shares of the cost
else:
    layers = keras.layers
    plain = keras.Sequential(
        [
            keras.Input(data.input_shape),
            layers.Conv2D(8, 3, padding="same", activation="relu", name="first"),
            layers.Conv2D(16, 3, padding="same", strides=2, activation="relu", name="second"),
            layers.Conv2D(64, 3, padding="same", activation="relu", name="third"),
            layers.Conv2D(64, 3, padding="same", activation="relu", name="fourth"),
            layers.GlobalAveragePooling2D(),
            layers.Dense(10, activation="softmax"),
        ]
    )
    places = ["second", "third"]  # names of layers
plain.compile("adam", "sparse_categorical_crossentropy", metrics=["accuracy"])
plain.fit(*data.arrays("train"), epochs=30 if FULL else 10, batch_size=32, verbose=2)
x, y = data.arrays("test")
before = plain.predict(x, verbose=0)
print(f"the plain model: {(before.argmax(axis=1) == y).mean():.1%}")

# %% [markdown]
"""
## Add exits and train them

The heads are new, so they must learn: alone first, while the network is frozen. Stop there to
leave the model exactly as it is.
"""

# %%
model = ka.add_exits(plain, at=places, classes=10, trainable=False)
after = model.predict(x, verbose=0)[-1]
same = np.abs(ka.policy.softmax(after) - before).max()
print(f"the last exit still answers as the model did: largest difference {same:.1e}")
assert same < 1e-4

batches = data.batches("train", training=True, augmentation="pad_crop_flip" if FULL else None)
model.compile(keras.optimizers.Adam(3e-2))
model.fit(batches, epochs=4, shuffle=False, verbose=2)
assert (model.predict(x, verbose=0)[-1] == after).all()

# %% [markdown]
"""
Then all together: `trainable`, Keras's own switch, thaws the network (compile after it, as
always). Its layers are shared, so that `plain` learns too; `plain.trainable = True` would do the
same.
"""

# %%
model.trainable = True
model.compile(keras.optimizers.Adam(1e-3 if FULL else 4e-3))
model.fit(batches, epochs=8, shuffle=False, verbose=2)
shared = ka.policy.softmax(model.predict(x, verbose=0)[-1]) - plain.predict(x, verbose=0)
assert np.abs(shared).max() < 1e-4

# %% [markdown]
"""
## Stop where it is confident enough

Half of the full cost on average: `calibrate` chooses one threshold per exit on held-out
images; the predictor computes no further than each image needs.
"""

# %%
costs = model.exit_costs()
policy = model.calibrate(*data.arrays("calibrate"), budget=0.5 * costs[-1], verbose=0)
result = ka.AdaptivePredictor(model, policy).predict(x)
logits, _ = model.predict_with_costs(x, verbose=0)
print(f"adaptive:  {(result.labels == y).mean():.1%} at {result.costs.mean() / costs[-1]:.0%}")
for k in range(model.exits):
    accuracy, share = (logits[k].argmax(axis=1) == y).mean(), (result.exits == k).mean()
    print(f"exit {k}: {accuracy:6.1%} alone at {costs[k] / costs[-1]:4.0%}; {share:4.0%} leave")

# %%
calibration = model.predict_with_costs(data.arrays("calibrate")[0], verbose=0)[0]
curve = ka.accuracy_cost_curve(
    calibration, data.arrays("calibrate")[1], costs, test=(logits, y, costs), points=15
)
ax = ka.plotting.accuracy_cost_curve(curve)
ax.figure.savefig(OUT / "03_curve.png", dpi=100)
print(f"picture: {OUT / '03_curve.png'}")
