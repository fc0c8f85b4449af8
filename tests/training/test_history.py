import csv

import keras
import numpy as np
import pytest
from test_adaptive_model import two_exits

from keras_adaptive.training import ExitHistory


@pytest.fixture
def data(rng):
    return rng.normal(size=(12, 4)).astype("float32"), rng.integers(0, 3, 12)


@pytest.fixture
def model():
    model = two_exits()
    model.compile("sgd")
    return model


def test_keeps_every_exit_of_training_and_validation(model, data, tmp_path):
    logger = keras.callbacks.CSVLogger(tmp_path / "exits.csv")
    how = {"epochs": 2, "validation_data": data, "verbose": 0}
    history = model.fit(*data, callbacks=[ExitHistory(), logger], **how).history
    answers = [z.argmax(-1) for z in model.predict(data[0], verbose=0)]
    for k, answer in enumerate(answers):
        expected = (answer == data[1]).mean()
        assert history[f"val_exit_{k}_accuracy"][-1] == pytest.approx(expected)
    rows = list(csv.DictReader((tmp_path / "exits.csv").read_text().splitlines()))
    for name in ("exit_0_accuracy", "exit_1_accuracy", "val_exit_0_accuracy", "last_accuracy"):
        assert [float(row[name]) for row in rows] == pytest.approx(history[name])


@pytest.mark.parametrize("validated", [True, False])
def test_first_mean_and_last_are_of_the_same_values(model, data, validated):
    how = {"validation_data": data if validated else None, "verbose": 0}
    logs = model.fit(*data, epochs=1, callbacks=[ExitHistory()], **how).history
    values = [logs[f"exit_{k}_accuracy"][0] for k in range(2)]
    assert logs["first_accuracy"][0] == pytest.approx(values[0])
    assert logs["mean_accuracy"][0] == pytest.approx(np.mean(values))
    assert logs["last_accuracy"][0] == pytest.approx(values[1])
