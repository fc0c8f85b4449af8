"""The device's rule against the shared vectors, which come from the host's policies."""

import json

import numpy as np
import pytest
import write_vectors

from anytime_tflite.file import stopping_networks
from anytime_tflite.rule import Run, softmax


def cases(name):
    return json.loads((write_vectors.FOLDER / f"{name}.json").read_text())["cases"]


@pytest.mark.parametrize("name", write_vectors.FILES)
def test_the_vectors_are_those_the_script_writes(name):
    found, expected = cases(name), json.loads(write_vectors.content(name))["cases"]
    assert len(found) == len(expected)
    for a, b in zip(found, expected, strict=True):
        for key in ("confidences", "probabilities"):
            np.testing.assert_allclose(a["expected"].pop(key), b["expected"].pop(key), atol=1e-12)
        # some lie beside a confidence, whose last digits depend on the processor
        thresholds = [np.array(case.pop("thresholds"), float) for case in (a, b)]
        np.testing.assert_allclose(*thresholds, atol=1e-12)
        assert a == b


def follow(case):
    """Runs a case with the device's rule, the clock being what the case says."""
    thresholds = [float(t) for t in case["thresholds"]]
    networks = stopping_networks(case)
    run = Run(case["confidence"], thresholds, case["patience"], case["deadline_ms"], networks)
    last, elapsed, confidences = len(case["logits"]) - 1, 0.0, []
    for stage, logits in enumerate(case["logits"]):
        logits = np.array(logits) / case["temperatures"][stage]
        elapsed += case["stage_ms"][stage]
        next_ms = case["stage_ms"][stage + 1] if stage < last else None
        cancelled = case["cancelled_during"] is not None and stage >= case["cancelled_during"]
        confidences.append(run.confidence_of(stage, logits, softmax(logits)))
        stopped_by = run.stopped_by(stage, logits, elapsed, next_ms, cancelled)
        if stopped_by:
            return stage, stopped_by, confidences, logits
    raise AssertionError("the last stage must stop")


@pytest.mark.parametrize("name", write_vectors.FILES)
def test_follows_the_vectors(name):
    reasons = set()
    for case in cases(name):
        exit, stopped_by, confidences, logits = follow(case)
        expected = case["expected"]
        assert (exit, stopped_by) == (expected["exit"], expected["stopped_by"]), case
        assert logits.argmax() == expected["label"]
        np.testing.assert_allclose(confidences, expected["confidences"], atol=1e-12)
        np.testing.assert_allclose(softmax(logits), expected["probabilities"], atol=1e-12)
        reasons.add(stopped_by)
    by_confidence = {"confidence", "end"}
    assert (
        reasons
        >= {
            "confidence": by_confidence,
            "learned": by_confidence,
            "patience": {"patience", "end"},
            "deadline": {"deadline", "cancelled", "end"},
        }[name]
    )
