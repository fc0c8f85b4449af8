import json

import keras
import numpy as np
import pytest
import write_vectors

import keras_adaptive as ka
from keras_adaptive.policy.confidence import confidence
from keras_adaptive.policy.exit_policy import first_exit
from keras_adaptive.policy.learned_policy import unpack


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


def test_dense_confidence_is_the_mean_over_the_confident_pixels():
    high, middle, low = np.log([0.9, 0.1]), np.log([0.6, 0.4]), np.log([0.5, 0.5])
    cells = np.array([[[high, low]], [[high, middle]], [[low, low]]])[None]
    found = confidence(cells, pixel_floor=0.5)
    np.testing.assert_allclose(found, [[0.9, 0.75, -np.inf]])
    np.testing.assert_allclose(confidence(cells, pixel_floor=0.7), [[0.9, 0.9, -np.inf]])
    policy = ka.ExitPolicy([0.2, 0], pixel_floor=0.7)
    assert policy.decide(np.repeat(cells, 2, axis=0)).tolist() == [0, 0, 1]


@pytest.mark.parametrize("xp", [np, keras.ops], ids=["numpy", "keras.ops"])
@pytest.mark.parametrize("name", write_vectors.FILES)
def test_the_rule_follows_the_vectors_in_every_namespace(name, xp):
    cases = json.loads((write_vectors.FOLDER / f"{name}.json").read_text())["cases"]
    tensor = np.asarray if xp is np else keras.ops.convert_to_tensor
    decided = set()
    for case in cases:
        thresholds = [float(t) for t in case["thresholds"]]
        if case["confidence"] == "learned":
            policy = ka.LearnedPolicy(unpack(case["stopping"]), thresholds)
        else:
            policy = ka.ExitPolicy(thresholds, case["confidence"], case["temperatures"])
        logits = np.array(case["logits"], "float64" if xp is np else "float32")[:, None]
        found = [policy.confidence_of(k, tensor(z), xp) for k, z in enumerate(logits)]
        values = np.array([keras.ops.convert_to_numpy(v)[0] for v in found])
        expected = np.array(case["expected"]["confidences"])
        tolerance = 1e-12 if xp is np else 2e-6
        np.testing.assert_allclose(
            values[: len(expected)], expected, rtol=tolerance, atol=tolerance
        )
        if case["expected"]["stopped_by"] in ("confidence", "end"):
            decided.add(int(first_exit(found, thresholds, xp)[0]) - case["expected"]["exit"])
    assert decided == {0}


def test_dense_confidence_is_the_same_in_a_graph(rng):
    cells = rng.normal(size=(3, 2, 2, 4)).astype("float32")
    policy = ka.ExitPolicy([0.5, 0], temperatures=[2, 1], pixel_floor=0.3)
    found = policy.confidence_of(0, keras.ops.convert_to_tensor(cells), keras.ops)
    np.testing.assert_allclose(found, policy.confidence_of(0, cells), rtol=1e-5)


def test_an_unknown_confidence_is_refused():
    with pytest.raises(ValueError, match="`confidence` must be one of .* Received: .*=loudest"):
        confidence(np.zeros((1, 2, 3)), "loudest")
