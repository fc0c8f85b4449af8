"""The trained network that the tests share, and how its weights in tests/data came about.

`python -m tests.digits_network` trains it again and writes the weights.
"""

from pathlib import Path

import keras
import numpy as np

import keras_adaptive as ka

WEIGHTS = Path(__file__).parent / "data" / "digits.npy"  # all of them, in order, in half precision
NETWORK = {
    "input_shape": (8, 8, 1),
    "classes": 10,
    "channels": 4,
    "growth_rate": 2,
    "blocks": 3,
    "head_channels": 16,
}


def untrained():
    keras.utils.set_random_seed(0)
    return ka.build_msdnet(**NETWORK)


def train(digits):
    """Returns the network after eight epochs on the digits: a minute or two."""
    model = untrained()
    model.fit(*digits.arrays("train"), epochs=8, batch_size=64, verbose=0)
    return model


def load():
    """Returns the network with the weights that `train` gave once."""
    model = untrained()
    numbers = np.load(WEIGHTS).astype("float32")
    ends = np.cumsum([np.prod(v.shape, dtype=int) for v in model.weights])
    assert ends[-1] == len(numbers)
    parts = np.split(numbers, ends[:-1])
    model.set_weights([part.reshape(v.shape) for part, v in zip(parts, model.weights, strict=True)])
    return model


if __name__ == "__main__":
    weights = train(ka.data.load("digits")).get_weights()
    np.save(WEIGHTS, np.concatenate([w.ravel() for w in weights]).astype("float16"))
