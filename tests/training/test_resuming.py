import json

import keras
import numpy as np
import pytest

from keras_adaptive.training import resuming


@pytest.fixture
def model():
    image = keras.Input((3,))
    return keras.Model(image, keras.layers.Dense(2)(image))


def test_a_phase_is_done_when_the_file_says_so(model, tmp_path):
    assert not resuming.restore_if_done(model, tmp_path)
    weights = [w + 1 for w in model.get_weights()]
    model.set_weights(weights)
    resuming.mark_done(model, tmp_path, phase="all", epochs=3)
    assert json.loads((tmp_path / "done.json").read_text()) == {"phase": "all", "epochs": 3}
    model.set_weights([0 * w for w in weights])
    model.compile("adam")
    optimizer = model.optimizer
    assert resuming.restore_if_done(model, tmp_path)
    for found, expected in zip(model.get_weights(), weights, strict=True):
        np.testing.assert_array_equal(found, expected)
    assert model.optimizer is optimizer


def test_weights_alone_are_not_a_phase_that_is_done(model, tmp_path):
    resuming.mark_done(model, tmp_path)
    (tmp_path / "done.json").unlink()
    assert not resuming.restore_if_done(model, tmp_path)


def test_the_backup_makes_its_folder(tmp_path):
    resuming.backup(tmp_path / "runs" / "phase_0")
    assert (tmp_path / "runs" / "phase_0").is_dir()
