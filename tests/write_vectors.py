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
from keras_adaptive.policy.learned_policy import pack

FOLDER = Path(__file__).parent.parent / "tflite" / "testdata"
CLASSES = 5


def _logits(rng, stages, strength=2.0):
    z = rng.normal(size=(stages, CLASSES))
    z[:, rng.integers(CLASSES)] += np.linspace(0, strength, stages)
    return z.round(3)


def _case(confidence, logits, thresholds, temperatures, **more):
    stages = len(logits)
    return {
        "confidence": confidence,
        "logits": logits.tolist(),
        "thresholds": [to_json(t) for t in thresholds],
        "temperatures": [float(t) for t in temperatures],
        "patience": None,
        "stage_ms": [1.0] * stages,
        "deadline_ms": None,
        "cancelled_during": None,
        **more,
    }


def _expect(case, exit, stopped_by, values=None):
    logits = np.array(case["logits"])
    if values is None:
        kind, temperatures = case["confidence"], case["temperatures"]
        values = ka.policy.confidence(logits[:, None], kind, temperatures)[:, 0]
    divided = logits[exit] / case["temperatures"][exit]
    case["expected"] = {
        "exit": int(exit),
        "stopped_by": stopped_by,
        "label": int(logits[exit].argmax()),
        "confidences": values[: exit + 1].tolist(),
        "probabilities": ka.policy.softmax(divided).tolist(),
    }
    return case


def confidences():
    rng = np.random.default_rng(0)
    for kind in ("max_prob", "prob_margin", "logit_margin", "entropy"):
        for _ in range(12):
            logits = _logits(rng, 4)
            temperatures = rng.uniform(0.5, 2, 4).round(2)
            values = ka.policy.confidence(logits[:, None], kind, temperatures)[:, 0]
            thresholds = np.append(values[:3] + rng.choice([-0.01, 0.01, np.inf], 3), -np.inf)
            policy = ka.ExitPolicy(thresholds, kind, temperatures)
            exit = int(policy.decide(logits[:, None])[0])
            case = _case(kind, logits, thresholds, temperatures)
            yield _expect(case, exit, "end" if exit == 3 else "confidence")
    # at least the threshold is enough; equal logits; very large ones
    equal = np.zeros((2, CLASSES))
    yield _expect(_case("max_prob", equal, [0.2, -np.inf], [1, 1]), 0, "confidence")
    yield _expect(_case("logit_margin", equal, [0.0, -np.inf], [1, 1]), 0, "confidence")
    large = np.array([[1000.0, 0, 0, 0, -1000], [0, 0, 0, 0, 0]])
    yield _expect(_case("max_prob", large, [1.0, -np.inf], [1, 1]), 0, "confidence")
    yield _expect(_case("entropy", large, [0.0, -np.inf], [1, 1]), 0, "confidence")
    # one stage only
    yield _expect(_case("max_prob", equal[:1], [-np.inf], [1]), 0, "end")


def patience():
    rng = np.random.default_rng(1)
    never = [np.inf, np.inf, np.inf, -np.inf]
    for needed in (2, 3):
        for _ in range(8):
            logits = _logits(rng, 4, strength=1.0)
            exit = int(ka.PatiencePolicy(needed).decide(logits[:, None])[0])
            case = _case("max_prob", logits, never, np.ones(4), patience=needed)
            yield _expect(case, exit, "end" if exit == 3 else "patience")
    values = np.array([[9.0, 0, 0, 0, 0]] * 3)  # both at once: confidence is named
    case = _case("max_prob", values, [np.inf, 0.5, -np.inf], np.ones(3), patience=2)
    yield _expect(case, 1, "confidence")


def deadlines():
    rng = np.random.default_rng(2)
    never = [np.inf, np.inf, np.inf, -np.inf]
    ones = np.ones(4)
    # every stage takes 1, 2, 4 and 8 ms, as expected; a stage that would end late is not begun
    times = [1.0, 2.0, 4.0, 8.0]
    for deadline, exit in ((0, 0), (0.5, 0), (1, 0), (2.9, 0), (3, 1), (6.9, 1), (7, 2), (14.9, 2)):
        logits = _logits(rng, 4)
        case = _case("max_prob", logits, never, ones, stage_ms=times, deadline_ms=deadline)
        yield _expect(case, exit, "deadline")
    case = _case("max_prob", logits, never, ones, stage_ms=times, deadline_ms=15)
    yield _expect(case, 3, "end")
    # confident and late at once: confidence is named
    case = _case("max_prob", logits, [0.0, *never[1:]], ones, stage_ms=times, deadline_ms=0)
    yield _expect(case, 0, "confidence")
    for stage in range(4):  # cancelled while a stage runs; the last one ends by itself
        case = _case("max_prob", logits, never, ones, cancelled_during=stage)
        yield _expect(case, stage, "end" if stage == 3 else "cancelled")
    # cancelled and late at once: cancelled is named
    case = _case("max_prob", logits, never, ones, cancelled_during=0, deadline_ms=0)
    yield _expect(case, 0, "cancelled")


def learned():
    rng = np.random.default_rng(3)
    for _ in range(12):
        shapes = ((CLASSES, 6), (6, 6), (6, 2))
        networks = [
            [(rng.normal(0, 2, shape), rng.normal(0, 0.5, shape[1])) for shape in shapes]
            for _ in range(3)
        ]
        policy = ka.LearnedPolicy(networks)
        logits = _logits(rng, 4)
        exit = int(policy.decide(logits[:, None])[0])
        case = _case("learned", logits, policy.thresholds, np.ones(4))
        case["stopping"] = pack(policy.networks)
        values = policy.confidences(logits[:, None])[:, 0]
        yield _expect(case, exit, "end" if exit == 3 else "confidence", values)


FILES = {
    "confidence": confidences,
    "patience": patience,
    "deadline": deadlines,
    "learned": learned,
}


def content(name):
    """Returns the text of a file."""
    cases = ",\n    ".join(json.dumps(case, allow_nan=False) for case in FILES[name]())
    return (
        '{\n  "format": "keras_adaptive.vectors",\n  "version": 1,\n'
        f'  "cases": [\n    {cases}\n  ]\n}}\n'
    )


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name in FILES:
        (FOLDER / f"{name}.json").write_text(content(name))
