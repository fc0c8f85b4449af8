"""Writes tflite/testdata: what every program on a device must do, in any language.

    python -m tests.write_vectors

What is expected comes from the host's policies (`keras_adaptive.policy`), not from the
device's program.
"""

import json
from pathlib import Path

import numpy as np

import keras_adaptive as ka
from keras_adaptive._files import to_json
from keras_adaptive.policy.confidence import from_log_odds
from keras_adaptive.policy.learned_policy import pack

FOLDER = Path(__file__).parent.parent / "tflite" / "testdata"
CLASSES = 5
KINDS = ("max_prob", "prob_margin", "logit_margin", "entropy")


def _logits(rng, stages, strength=2.0):
    z = rng.normal(size=(stages, CLASSES))
    z[:, rng.integers(CLASSES)] += np.linspace(0, strength, stages)
    return z.round(3)


def _case(policy, logits, **more):
    """A case that an `ExitPolicy` decides."""
    return {
        "confidence": policy.confidence,
        "logits": logits.tolist(),
        "thresholds": [to_json(t) for t in policy.thresholds],
        "log_odds": [to_json(t) for t in policy.log_odds],
        "temperatures": policy.temperatures.tolist(),
        "patience": None,
        "agreement": None,
        "stage_ms": [1.0] * len(logits),
        "deadline_ms": None,
        "cancelled_during": None,
        **more,
    }


def _expect(policy, case, exit=None, stopped_by=None):
    """Adds what is expected: by default what the policy decides."""
    logits = np.array(case["logits"])
    if exit is None:
        exit = int(policy.decide(logits[:, None])[0])
        stopped_by = "end" if exit == len(logits) - 1 else "confidence"
    reached = range(exit + 1)
    case["expected"] = {
        "exit": exit,
        "stopped_by": stopped_by,
        "label": int(logits[exit].argmax()),
        "confidences": [policy.confidence_of(k, logits[k][None]).item() for k in reached],
        "log_odds": [to_json(policy.compared(k, logits[k][None]).item()) for k in reached],
        "probabilities": ka.policy.softmax(logits[exit] / case["temperatures"][exit]).tolist(),
    }
    return case


def _never(exits):
    return ka.ExitPolicy([np.inf] * exits)


def confidences():
    rng = np.random.default_rng(0)
    for kind in KINDS:
        for _ in range(12):
            logits = _logits(rng, 4)
            temperatures = rng.uniform(0.5, 2, 4).round(2)
            values = ka.policy.confidence(logits[:, None], kind, temperatures)[:, 0]
            thresholds = np.append(values[:3] + rng.choice([-0.01, 0.01, np.inf], 3), -np.inf)
            policy = ka.ExitPolicy(thresholds, kind, temperatures)
            yield _expect(policy, _case(policy, logits))
    # at least the threshold is enough; equal logits; no probability is as high as 1
    equal = np.zeros((2, CLASSES))
    large = np.array([[1000.0, 0, 0, 0, -1000], [0, 0, 0, 0, 0]])
    for kind, logits, threshold in (
        ("max_prob", equal, 0.2),
        ("logit_margin", equal, 0.0),
        ("logit_margin", large, 1000.0),
        ("max_prob", large, 1.0),
        ("entropy", large, 0.0),
    ):
        policy = ka.ExitPolicy([threshold, -np.inf], kind)
        yield _expect(policy, _case(policy, logits))
    yield _expect(_never(1), _case(_never(1), equal[:1]))  # one stage only


def saturated():
    """Very confident answers: in float32 most of their probabilities are 1."""
    rng = np.random.default_rng(4)
    for kind in KINDS:
        for scale in (8, 16, 32, 64):
            for _ in range(3):
                logits = (scale * _logits(rng, 3)).round(3)
                temperatures = rng.uniform(0.5, 2, 3).round(2)
                odds = ka.policy.log_odds(logits[:, None], kind, temperatures)[:, 0]
                odds = odds + rng.choice([-0.01, 0.01], 3)
                odds[-1] = -np.inf
                thresholds = from_log_odds(odds, kind)
                policy = ka.ExitPolicy(thresholds, kind, temperatures, log_odds=odds)
                yield _expect(policy, _case(policy, logits))


def patience():
    rng = np.random.default_rng(1)
    for needed in (2, 3):
        for _ in range(8):
            logits = _logits(rng, 4, strength=1.0)
            exit = int(ka.PatiencePolicy(needed).decide(logits[:, None])[0])
            case = _case(_never(4), logits, patience=needed)
            yield _expect(_never(4), case, exit, "end" if exit == 3 else "patience")
    values = np.array([[9.0, 0, 0, 0, 0]] * 3)  # both at once: confidence is named
    policy = ka.ExitPolicy([np.inf, 0.5, -np.inf])
    yield _expect(policy, _case(policy, values, patience=2), 1, "confidence")


def agreement():
    rng = np.random.default_rng(5)
    for members, share in ((2, 1.0), (2, 0.6), (3, 2 / 3), (3, 1 / 3), (4, 0.5)):
        for _ in range(5):
            logits = _logits(rng, 5, strength=1.0)
            exit = int(ka.AgreementPolicy(members, share).decide(logits[:, None])[0])
            case = _case(_never(5), logits, agreement={"members": members, "share": share})
            yield _expect(_never(5), case, exit, "end" if exit == 4 else "patience")


def deadlines():
    rng = np.random.default_rng(2)
    never = _never(4)
    # every stage takes 1, 2, 4 and 8 ms, as expected; a stage that would end late is not begun
    times = [1.0, 2.0, 4.0, 8.0]
    for deadline, exit in ((0, 0), (0.5, 0), (1, 0), (2.9, 0), (3, 1), (6.9, 1), (7, 2), (14.9, 2)):
        logits = _logits(rng, 4)
        case = _case(never, logits, stage_ms=times, deadline_ms=deadline)
        yield _expect(never, case, exit, "deadline")
    yield _expect(never, _case(never, logits, stage_ms=times, deadline_ms=15), 3, "end")
    # confident and late at once: confidence is named
    policy = ka.ExitPolicy([0.0, np.inf, np.inf, np.inf])
    case = _case(policy, logits, stage_ms=times, deadline_ms=0)
    yield _expect(policy, case, 0, "confidence")
    for stage in range(4):  # cancelled while a stage runs; the last one ends by itself
        case = _case(never, logits, cancelled_during=stage)
        yield _expect(never, case, stage, "end" if stage == 3 else "cancelled")
    # cancelled and late at once: cancelled is named
    case = _case(never, logits, cancelled_during=0, deadline_ms=0)
    yield _expect(never, case, 0, "cancelled")


def learned():
    rng = np.random.default_rng(3)
    for scale in (1, 20):  # of the answers' and of the policy's own confidence
        for _ in range(12):
            shapes = ((CLASSES, 6), (6, 6), (6, 2))
            networks = [
                [(rng.normal(0, 2, shape), rng.normal(0, 0.5, shape[1])) for shape in shapes]
                for _ in range(3)
            ]
            for network in networks:
                network[-1] = tuple(scale * part for part in network[-1])
            policy = ka.LearnedPolicy(networks)
            logits = _logits(rng, 4)
            case = _case(policy, logits, stopping=pack(policy.networks))
            yield _expect(policy, case)


FILES = {
    "confidence": confidences,
    "saturated": saturated,
    "patience": patience,
    "agreement": agreement,
    "deadline": deadlines,
    "learned": learned,
}


def content(name):
    """Returns the text of a file."""
    cases = ",\n    ".join(json.dumps(case, allow_nan=False) for case in FILES[name]())
    return (
        '{\n  "format": "keras_adaptive.vectors",\n  "version": 2,\n'
        f'  "cases": [\n    {cases}\n  ]\n}}\n'
    )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in FILES:
        (FOLDER / f"{name}.json").write_text(content(name))
