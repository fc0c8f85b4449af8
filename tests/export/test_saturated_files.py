"""Very confident networks: host, stages and single call against float64 with many digits."""

import keras
import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter

import keras_adaptive as ka
from anytime_tflite import AnytimeModel
from anytime_tflite.rule import LOG_ODDS, Run
from keras_adaptive.export import _writer
from keras_adaptive.export._single_call import _rule

KINDS = tuple(LOG_ODDS)
CLASSES = 7
NEAR = 1e-4  # in log-odds


def oracle(kind, z):
    """Returns the log-odds of answers `(..., classes)` from sums without the largest logit.

    Of probabilities, whose differences from 1 are lost below 1e-16, nothing is computed.
    """
    z = np.sort(z.astype("float64"), axis=-1)[..., ::-1]
    d = z[..., 1:] - z[..., :1]
    log_r = np.logaddexp.reduce(d, axis=-1)
    if kind == "max_prob":
        return -log_r
    if kind == "prob_margin":
        return np.log1p(np.exp(log_r)) - np.logaddexp(log_r, d[..., 0])
    if kind == "logit_margin":
        return -d[..., 0]
    log_whole = np.log1p(np.exp(log_r))
    # H = log(1 + r) + sum p_i (-d_i); of both terms the logarithm
    small = np.where(log_r < -30, log_r, np.log(np.maximum(log_whole, 1e-300)))
    terms = d + np.log(np.maximum(-d, 1e-300)) - log_whole[..., None]
    return -np.logaddexp(small, np.logaddexp.reduce(terms, axis=-1))


def answers(rng, samples, exits=3):
    """Returns logits `(exits, samples, classes)` times 1 to 64, float32, and temperatures."""
    scale = rng.choice([1, 2, 4, 8, 16, 32, 64], samples)[:, None]
    logits = scale * rng.normal(size=(exits, samples, CLASSES))
    return logits.astype("float32"), np.array([0.5, 1.0, 2.0])[:exits]


def problem(rng, kind, samples, exits=3):
    """Returns logits, a policy that splits them, the right exits, and who is near."""
    logits, temperatures = answers(rng, samples, exits)
    values = oracle(kind, logits / temperatures[:, None, None])
    odds = np.quantile(values, 0.6, axis=1)
    odds[-1] = -np.inf
    thresholds = np.full(exits, 0.5)  # what is compared are the log-odds
    policy = ka.ExitPolicy(thresholds, kind, temperatures, log_odds=odds)
    expected = (values >= odds[:, None]).argmax(axis=0)
    near = (np.abs(values - odds[:, None])[:-1] < NEAR).any(axis=0)
    return logits, policy, expected, near


@pytest.mark.parametrize("kind", KINDS)
def test_host_and_device_leave_where_many_digits_say(kind, rng):
    logits, policy, expected, near = problem(rng, kind, 5000)
    host = policy.decide(logits)
    assert (host == expected)[~near].all()
    device = []
    for answer in logits.swapaxes(0, 1)[:1000]:
        run = Run(kind, policy.log_odds.tolist())
        for k, z in enumerate(answer / policy.temperatures[:, None]):
            if run.stopped_by(k, z, 0.0, 1.0 if k < 2 else None):
                device.append(k)
                break
    assert (np.array(device) == expected[:1000])[~near[:1000]].all()
    assert len(np.unique(expected)) == 3


@pytest.mark.parametrize("kind", KINDS)
def test_the_rule_of_the_single_call_leaves_where_many_digits_say(kind, rng):
    logits, policy, expected, near = problem(rng, kind, 600, exits=2)
    content = _writer.write(_rule(policy, 0, 0, 2, CLASSES))
    rule = Interpreter(model_content=content).get_signature_runner("rule")
    thresholds = policy.log_odds.astype("float32")
    found = [rule(logits=z[None], thresholds=thresholds)["leaves"][0] for z in logits[0]]
    assert (np.array(found) == (expected == 0))[~near].all()


@pytest.mark.slow
@pytest.mark.parametrize("kind", KINDS)
def test_a_whole_file_leaves_where_many_digits_say(kind, rng, tmp_path):
    logits, policy, expected, near = problem(rng, kind, 5000)
    x = keras.Input((3, CLASSES))
    model = ka.AdaptiveModel(x, [1.0 * x[:, k] for k in range(3)])  # gives what it is given
    path = tmp_path / "model.tflite"
    ka.export_tflite(model, path, policy, single_call=True)
    images = logits.swapaxes(0, 1)
    with AnytimeModel(path, num_threads=1) as device:
        assert device.info["log_odds"] == policy.log_odds.tolist()
        for way in (device.classify, device.predict):
            wrong = np.array([way(image).exit for image in images]) != expected
            assert not wrong[~near].any()
            assert wrong.sum() <= 5
