import keras

import keras_adaptive as ka

L = keras.layers


def test_energy_counts_numbers_moved_and_macs():
    from keras_adaptive.costs.energy_model import EnergyModel

    x = keras.Input((4, 4, 3))
    outputs = [L.Dense(2)(L.Flatten()(L.Conv2D(5, 3, padding="same")(x)))]
    model = EnergyModel(main=10, cache=4, register=2, mac=1, reuse=8)
    conv, dense = 16 * 9 * 3 * 5, 80 * 2
    moved = (48 + 9 * 3 * 5 + 5 + 80) + (80 + 160 + 2 + 2)
    by_hand = 10 * moved + (conv + dense) * (2 / 8 * 4 + 3 * 2 + 1)
    assert ka.costs.exit_costs([x], outputs, model)[0] == by_hand
    assert ka.costs.exit_costs([x], outputs, "energy")[0] > 0
