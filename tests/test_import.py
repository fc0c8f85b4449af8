"""Networks of ours open with `keras.saving.load_model`, whichever package was imported first."""

import importlib
import subprocess
import sys
from pathlib import Path

import keras
import pytest

import keras_adaptive as ka

FILE = Path(__file__).parent / "data" / "before_layout" / "gated_resnet.keras"
ORDERS = {
    "ours first": "import keras_adaptive\nimport keras",
    "Keras first": "import keras\nimport keras_adaptive",
    "a name of ours": "import keras_adaptive as ka\nka.calibrate\nimport keras",
    "a layer": "from keras_adaptive.layers import EarlyExit\nimport keras",
    "a builder": "import keras_adaptive as ka\nka.build_msdnet\nimport keras",
    "a module": "import keras_adaptive.training.regimes\nimport keras",
    "the graph": "import keras_adaptive._graph\nimport keras",
}


@pytest.mark.slow
@pytest.mark.subprocess
@pytest.mark.parametrize(
    "order",
    [
        name if name == "ours first" else pytest.param(name, marks=pytest.mark.slow)
        for name in ORDERS
    ],
)
def test_a_file_of_ours_opens(order):
    program = f"{ORDERS[order]}\nprint(type(keras.saving.load_model({str(FILE)!r})).__name__)"
    run = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert run.stdout.split() == ["AdaptiveModel"], run.stderr[-2000:]


def test_every_registered_class_is_known_before_it_is_imported():
    for name in ka.__all__:
        getattr(ka, name)
    known = {
        name for name in keras.saving.get_custom_objects() if name.startswith("keras_adaptive>")
    }
    assert known == {f"keras_adaptive>{name}" for name in ka._REGISTERED}
    for name, module in ka._REGISTERED.items():
        found = getattr(importlib.import_module(f"keras_adaptive.{module}"), name)
        assert keras.saving.get_registered_object(f"keras_adaptive>{name}") is found


def test_every_public_name_is_there_and_listed():
    assert set(ka.__all__) <= set(dir(ka))
    for name in ka.__all__:
        assert getattr(ka, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="nothing"):
        _ = ka.nothing
