import keras
import numpy as np
import pytest

import keras_adaptive as ka
from keras_adaptive.costs import EnergyModel

L = keras.layers


def test_energy_counts_numbers_moved_and_macs():
    x = keras.Input((4, 4, 3))
    outputs = [L.Dense(2)(L.Flatten()(L.Conv2D(5, 3, padding="same")(x)))]
    model = EnergyModel(main=10, cache=4, register=2, mac=1, reuse=8)
    conv, dense = 16 * 9 * 3 * 5, 80 * 2
    moved = (48 + 9 * 3 * 5 + 5 + 80) + (80 + 160 + 2 + 2)
    by_hand = 10 * moved + (conv + dense) * (2 / 8 * 4 + 3 * 2 + 1)
    assert ka.costs.exit_costs([x], outputs, model)[0] == by_hand
    assert ka.costs.exit_costs([x], outputs, "energy")[0] > 0


def test_counts_of_a_simulator_take_the_place_of_the_formula(tmp_path):
    x = keras.Input((4, 4, 3))
    outputs = [L.Dense(2)(L.Flatten()(L.Conv2D(5, 3, name="first")(x)))]
    path = tmp_path / "counts.csv"
    path.write_text("layer,main,cache,register,mac\nfirst,7,5,3,2\nelsewhere,1,1,1,1\n")
    how = {"main": 10, "cache": 4, "register": 2, "mac": 1, "reuse": 8}
    model = EnergyModel.from_counts(path, **how)
    dense = 10 * (20 + 40 + 2 + 2) + 40 * (2 / 8 * 4 + 3 * 2 + 1)
    assert ka.costs.exit_costs([x], outputs, model)[0] == 70 + 20 + 6 + 2 + dense


@pytest.mark.parametrize(
    "text", ["", "layer,main\na,1\n", "layer,main,cache,register,mac\na,1,1,1,x\n"]
)
def test_refuses_files_of_other_columns(text, tmp_path):
    path = tmp_path / "counts.csv"
    path.write_text(text)
    with pytest.raises(ValueError, match="`path` must be a CSV file with the columns layer, main"):
        EnergyModel.from_counts(path)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"main": -1}, "`main` must be at least 0. Received: main=-1"),
        ({"cache": "a"}, "`cache` must be a finite number. Received: cache='a'"),
        ({"register": np.nan}, "`register` must be a finite number"),
        ({"mac": np.inf}, "`mac` must be a finite number"),
        ({"mac": True}, "`mac` must be a finite number"),
        ({"reuse": 0}, "`reuse` must be greater than 0. Received: reuse=0"),
        ({"reuse": -2}, "`reuse` must be greater than 0"),
        ({"counts": ("x",)}, "`counts` must be tuples"),
        ({"counts": 3}, "`counts` must be tuples"),
        ({"counts": [("x", 1, 2, 3)]}, "`counts` must be tuples"),
        ({"counts": [("x", 1, 2, 3, -4)]}, "`counts` must be tuples"),
        ({"counts": [("x", 1, 2, 3, "4")]}, "`counts` must be tuples"),
        ({"counts": [(5, 1, 2, 3, 4)]}, "`counts` must be tuples"),
    ],
)
def test_refuses_energies_that_are_impossible(arguments, message):
    with pytest.raises(ValueError, match=message):
        EnergyModel(**arguments)


def test_numpy_numbers_are_numbers():
    model = EnergyModel(main=np.float32(3), mac=0, counts=[["x", *np.arange(4)]])
    assert (model.main, model.counts) == (3.0, (("x", 0.0, 1.0, 2.0, 3.0),))
    assert type(model.main) is type(model.counts[0][1]) is float
