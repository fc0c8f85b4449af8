"""The same training step on TensorFlow and on JAX."""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

PROGRAM = """
import json
import keras
import numpy as np
import keras_adaptive as ka
from keras_adaptive.training import Distillation

rng = np.random.default_rng(0)
x, y = rng.normal(size=(48, 8, 8, 1)).astype("float32"), rng.integers(0, 10, 48)
model = ka.build_msdnet(
    (8, 8, 1), 10, blocks=2, channels=4, growth_rate=2, head_channels=4,
    gradient_equilibrium=True, collaboration="dense",
)
for variable in model.variables:
    if len(variable.shape) > 1:
        variable.assign(0.2 * rng.normal(size=variable.shape))
model.compile(
    keras.optimizers.SGD(0.01, momentum=0.9, nesterov=True),
    distillation=Distillation("last", 2.0, 0.3),
)
history = model.fit(x, y, batch_size=48, epochs=3, shuffle=False, verbose=0).history
policy = model.calibrate(x, y, budget=model.exit_costs().mean(), verbose=0)
predictor = ka.AdaptivePredictor(model, policy, engine="keras")
expected = policy.decide(np.stack(model.predict(x, verbose=0)))
agree = []
for batch_size in (1, 7, 20):
    agree.append(float((predictor.predict(x, batch_size=batch_size).exits == expected).mean()))
milliseconds = ka.measure_latency(model, batch_size=2, engine="keras")
result = {
    "loss": history["loss"], "agree": min(agree), "rising": bool((np.diff(milliseconds) > 0).all())
}
print(json.dumps({"backend": keras.backend.backend(), **result}))
"""


def run(backend):
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM],
        env={**os.environ, "KERAS_BACKEND": backend},
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout.splitlines()[-1])


@pytest.mark.slow
@pytest.mark.jax
@pytest.mark.subprocess
def test_three_steps_on_jax_equal_three_on_tensorflow():
    pytest.importorskip("jax", reason="the test extra is not installed")
    found = {backend: run(backend) for backend in ("tensorflow", "jax")}
    for backend, result in found.items():
        assert result["backend"] == backend
        assert result["agree"] == 1
        assert result["rising"]
    losses = [result["loss"] for result in found.values()]
    np.testing.assert_allclose(*losses, atol=1e-3)
    assert losses[0][0] > losses[0][2]
