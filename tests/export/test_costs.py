"""What an answer has cost, where gates decide what is computed."""

import numpy as np
import pytest
from shared import GATED_ROWS, half_open

import keras_adaptive as ka
from anytime_tflite import AnytimeModel


@pytest.mark.slow  # one that was exported earlier is in tflite/testdata
@pytest.mark.parametrize("row", GATED_ROWS, ids="-".join)
def test_a_file_says_what_each_image_has_cost(row, images, tmp_path):
    model = half_open(*row)
    logits, costs = model.predict_with_costs(images, verbose=0)
    assert len(np.unique(costs[-1])) > 1
    middle = np.median(ka.policy.confidence(logits), axis=1)
    path = tmp_path / "model.tflite"
    ka.export_tflite(model, path, ka.ExitPolicy(middle), single_call=True)
    with AnytimeModel(path, num_threads=1) as device:
        for i, image in enumerate(images):
            found = [answer.cost for answer in device.stream(image)]
            np.testing.assert_allclose(found, costs[:, i], rtol=1e-4)
            for answer in (device.classify(image), device.predict(image)):
                assert answer.cost == found[answer.exit]


@pytest.mark.slow
def test_a_quantized_file_counts_what_it_has_opened_itself(images, tmp_path):
    model = half_open("resnet-pre", "layer")
    path = tmp_path / "model.tflite"
    how = {"quantize": "int8", "calibration_data": images, "single_call": True}
    policy = ka.export_tflite(model, path, ka.ExitPolicy([0.5, 0.0]), **how)
    _, costs = model.predict_with_costs(images, verbose=0)
    assert policy.details["recalibrated_on"] == len(images)
    with AnytimeModel(path, num_threads=1) as device:
        for image in images:
            for k, answer in enumerate(device.stream(image)):
                assert 0.5 * costs[k].min() < answer.cost <= model.exit_costs()[k]
                assert answer.cost == round(answer.cost)
            single = device.predict(image)
            assert single.cost == list(device.stream(image))[single.exit].cost
