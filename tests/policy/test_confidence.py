import numpy as np
import pytest

import keras_adaptive as ka
from keras_adaptive.policy.confidence import confidence


def test_confidences_are_what_their_names_say(rng):
    logits = rng.normal(size=(2, 50, 5)) * 5
    p = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
    top = np.sort(p, axis=-1)[..., ::-1]
    by_logit = np.sort(logits, axis=-1)[..., ::-1]
    expected = {
        "max_prob": top[..., 0],
        "prob_margin": top[..., 0] - top[..., 1],
        "logit_margin": by_logit[..., 0] - by_logit[..., 1],
        "entropy": (p * np.log(p)).sum(-1),
    }
    for kind, values in expected.items():
        np.testing.assert_allclose(confidence(logits, kind), values, atol=1e-12)


@pytest.mark.parametrize("kind", ["max_prob", "prob_margin", "logit_margin", "entropy"])
def test_confidence_survives_huge_logits_and_ignores_a_shift(kind):
    logits = np.array([[[1e4, 0.0, -1e4], [3.0, 2.0, 1.0]]])
    np.testing.assert_allclose(
        confidence(logits, kind), confidence(logits + 100, kind), rtol=1e-9, atol=1e-9
    )


def test_temperature_divides_the_logits(rng):
    logits = rng.normal(size=(2, 9, 3))
    found = confidence(logits, temperatures=[1.0, 2.0])
    np.testing.assert_allclose(found[1], confidence(logits / 2)[1])
    np.testing.assert_allclose(found[0], confidence(logits)[0])


def test_dense_confidence_is_the_mean_over_the_sure_pixels():
    sure, middling, unsure = np.log([0.9, 0.1]), np.log([0.6, 0.4]), np.log([0.5, 0.5])
    cells = np.array([[[sure, unsure]], [[sure, middling]], [[unsure, unsure]]])[None]
    found = confidence(cells, pixel_floor=0.5)
    np.testing.assert_allclose(found, [[0.9, 0.75, -np.inf]])
    np.testing.assert_allclose(confidence(cells, pixel_floor=0.7), [[0.9, 0.9, -np.inf]])
    policy = ka.ExitPolicy([0.2, 0], pixel_floor=0.7)
    assert policy.decide(np.repeat(cells, 2, axis=0)).tolist() == [0, 0, 1]
