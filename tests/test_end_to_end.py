"""From calibration to the device: every class of policy and every target, at the same exits.

calibrate -> AdaptivePredictor -> export_tflite -> AnytimeModel
"""

import functools

import keras
import numpy as np
import oracle
import pytest
from shared import half_open

import keras_adaptive as ka
from anytime_tflite import AnytimeModel

SAMPLES, CLASSES = 160, 10


def plain():
    """Dense layers with an answer after each; all are converted in a moment."""
    keras.utils.set_random_seed(0)
    layers, outputs = keras.layers, []
    x = image = keras.Input((6,))
    for k in range(3):
        x = layers.Dense(12, activation="tanh", kernel_initializer="orthogonal")(x)
        outputs.append(layers.Dense(CLASSES, kernel_initializer="orthogonal", name=f"exit_{k}")(x))
    model = ka.AdaptiveModel(image, outputs, name="plain")
    for k in range(3):  # as confident as a network that has learned
        kernel, bias = model.get_layer(f"exit_{k}").get_weights()
        model.get_layer(f"exit_{k}").set_weights([(3 + 2 * k) * kernel, bias])
    return model


def gated():
    """A network whose gates disagree about the images."""
    return half_open("resnet", "layer", depth=8, exits=3)


def product():
    """A network whose exits answer with those before them."""
    return ka.combine_exits(plain())


def weighted():
    """The same, with weights that were learned."""
    _, _, y, logits, _ = made("plain")
    return ka.combine_exits(plain(), "weighted", logits=logits, labels=y)


NETWORKS = {"plain": plain, "gated": gated, "product": product, "weighted": weighted}


@functools.cache
def made(network):
    """A network, images with labels, and its answers with their costs."""
    rng = np.random.default_rng(1)
    model = NETWORKS[network]()
    shape = (SAMPLES, *model.inputs[0].shape[1:])
    strength = rng.uniform(0.3, 3, (SAMPLES, *[1] * (len(shape) - 1)))
    x = (strength * rng.normal(size=shape)).astype("float32")
    logits, costs = model.predict_with_costs(x, verbose=0)
    # every exit knows some of the labels, so that each is of use
    y = logits.argmax(-1)[rng.integers(0, len(logits), SAMPLES), np.arange(SAMPLES)]
    return model, x, y, logits, costs


def learned(network):
    model = made(network)[0]
    rng = np.random.default_rng(2)
    shapes = ((CLASSES, 4), (4, 4), (4, 2))
    networks = [
        [(rng.normal(0, 2, shape), rng.normal(0, 0.5, shape[1])) for shape in shapes]
        for _ in model.outputs[1:]
    ]
    return calibrated(network, "budget", confidence=ka.LearnedPolicy(networks))


def calibrated(network, target, **how):
    """The policy for a target that is neither met by the first exit nor needs the last."""
    model, x, y, logits, costs = made(network)
    means = costs.mean(axis=1)
    if target in ("budget", "worst case"):
        how["budget"] = float(means[0] + means[-1]) / 2
    if target == "accuracy":
        how["accuracy"] = (logits[0].argmax(-1) == y).mean() + 0.03
    if target == "worst case":  # above it are the last exit, or the dearest samples there
        how["worst_case"] = float(np.median(costs[-1]) if network == "gated" else costs[1, 0])
    return model.calibrate(x, y, verbose=0, **how)


RISK = ka.RiskControl("disagreement", 0.6, delta=0.2)
POLICIES = {
    "budget": lambda network: calibrated(network, "budget"),
    "accuracy": lambda network: calibrated(network, "accuracy", confidence="entropy"),
    "risk": lambda network: calibrated(network, "risk", risk=RISK, confidence="prob_margin"),
    "worst case": lambda network: calibrated(network, "worst case", temperature=False),
    "published": lambda network: calibrated(
        network, "budget", method="geometric", confidence="logit_margin"
    ),
    "learned": learned,
    "patience": lambda network: ka.PatiencePolicy(2),
    "agreement": lambda network: ka.AgreementPolicy(2, 0.6),
}
FILES = {
    "float32": {},
    "int8": {"quantize": "int8"},
    "single call": {"single_call": True},
}
DIAGONAL = {
    ("plain", "budget", "float32"),
    ("plain", "risk", "single call"),
    ("plain", "learned", "int8"),
    ("plain", "patience", "single call"),
    ("plain", "agreement", "float32"),
    ("gated", "worst case", "float32"),
    ("product", "budget", "single call"),
    ("weighted", "budget", "float32"),
}
CELLS = [
    pytest.param(*cell, marks=[] if cell in DIAGONAL else pytest.mark.slow, id="-".join(cell))
    for cell in (
        *((n, p, f) for n in ("plain", "gated") for p in POLICIES for f in FILES),
        *((n, "budget", f) for n in ("product", "weighted") for f in FILES),
    )
    if (cell[0], cell[2]) != ("product", "int8")  # refused; see `combine_exits`
]


def expected_exits(policy, logits, costs):
    """Where samples leave and which are far from every threshold, without `policy.decide`."""
    exits, samples = logits.shape[:2]
    if isinstance(policy, (ka.PatiencePolicy, ka.AgreementPolicy)):
        answers, found = logits.argmax(-1), np.full(samples, exits - 1)
        for i in range(samples):
            for k in reversed(range(1, exits)):
                so_far = answers[: k + 1, i].tolist()
                most = max(map(so_far.count, so_far))
                patient = len(set(so_far[-2:])) == 1
                agreed = most >= 0.6 * len(so_far) - 1e-9
                if patient if isinstance(policy, ka.PatiencePolicy) else agreed:
                    found[i] = k
        return found, np.full(samples, True)
    if isinstance(policy, ka.LearnedPolicy):
        odds = np.log(stop := policy.confidences(logits)[:-1]) - np.log1p(-stop)
    else:
        odds = np.stack(
            [
                oracle.log_odds(z, policy.confidence, t)
                for z, t in zip(logits, policy.temperatures, strict=True)
            ]
        )[:-1]
    bars = policy.log_odds[:-1, None]
    far = (np.abs(odds - bars) > 1e-4).all(axis=0)
    found = np.vstack([odds >= bars, np.full(samples, True)]).argmax(axis=0)
    if policy.worst_case is not None:
        found = np.minimum(found, (costs <= policy.worst_case).sum(axis=0) - 1)
    return found, far


def answers_of_file(device, x, exits):
    """The log-probabilities at every exit of the file, `(exits, samples, classes)`."""
    found = np.zeros((exits, len(x), CLASSES))
    for i, image in enumerate(x):
        for answer in device.stream(image):
            found[answer.exit, i] = np.log(answer.probabilities.astype("float64"))
    return found


@pytest.mark.parametrize(("network", "target", "file"), CELLS)
def test_samples_leave_at_the_same_exits_everywhere(network, target, file, tmp_path):
    model, x, y, logits, costs = made(network)
    policy = POLICIES[target](network)
    expected, far = expected_exits(policy, logits, costs)
    assert far.mean() > 0.9
    assert len(set(expected.tolist())) > 1
    np.testing.assert_array_equal(policy.decide(logits, costs)[far], expected[far])
    few = np.arange(40)

    predictor = ka.AdaptivePredictor(model, policy, engine="keras")
    result = predictor.predict(x[few], batch_size=16)
    np.testing.assert_array_equal(result.exits[far[few]], expected[few][far[few]])
    np.testing.assert_allclose(result.costs, costs[result.exits, few], rtol=1e-5)

    path = tmp_path / "model.tflite"
    how = {"calibration_data": x} if file == "int8" else {}
    if policy.worst_case is not None:  # the device does not know beforehand what a sample costs
        with pytest.raises(ValueError, match="`policy` must have no `worst_case`"):
            ka.export_tflite(model, path, policy, **FILES[file], **how)
        return
    kept = ka.export_tflite(model, path, policy, **FILES[file], **how)
    assert type(kept) is type(policy)
    with AnytimeModel(path) as device:
        if file == "int8":  # the policy in the file, on the file's own answers
            logits = answers_of_file(device, x[few], model.num_exits)
            judged = kept
            if isinstance(kept, ka.ExitPolicy) and not isinstance(kept, ka.LearnedPolicy):
                judged = ka.ExitPolicy(kept.thresholds, kept.confidence, log_odds=kept.log_odds)
            expected, far = expected_exits(judged, logits, costs[:, few])
        given = few[far[few]]
        found = [device.classify(x[i]).exit for i in given]
        assert found == expected[given].tolist()
        if file == "single call":
            assert [device.predict(x[i]).exit for i in given] == expected[given].tolist()
