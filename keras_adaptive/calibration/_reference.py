"""What a policy does on its calibration data, for `anytime_tflite.Monitor` to compare with."""

import numpy as np

from keras_adaptive._files import to_json
from keras_adaptive.policy.confidence import blocks

BINS = 16  # of the confidence, about equally full


def reference(confidences, log_odds, logits, temperatures, costs):
    """Returns how samples left and how confident their answers were.

    Args:
        confidences: Array `(exits, samples)`, in log-odds.
        log_odds: Array `(exits,)`, the thresholds in log-odds.
        logits: Array `(exits, samples, classes)`.
        temperatures: Array `(exits,)`.
        costs: Array `(exits, samples)` in multiply-accumulates, where samples cost different
            amounts; else `None`.

    Returns:
        Dictionary of numbers and lists. `log_odds` are the thresholds that it holds for;
        `mean_cost` is `None` where an exit costs the same for every sample.
    """
    exits = confidences >= log_odds[:, None]
    exits[-1] = True
    exits = exits.argmax(axis=0)
    found = np.empty(len(exits))
    everybody = np.arange(len(exits))
    for rows in blocks(logits.shape[1:]):
        part = exits[rows]
        answers = np.asarray(logits[part, everybody[rows]], "float64") / temperatures[part, None]
        below = np.exp(answers - answers.max(axis=1, keepdims=True))
        found[rows] = 1 / below.sum(axis=1)
    return {
        "log_odds": [to_json(t) for t in log_odds],
        "mean_cost": None if costs is None else float(costs[exits, np.arange(len(exits))].mean()),
        **summary(exits, found, len(log_odds)),
    }


def summary(exits, confidences, count):
    """Returns how many samples left at each exit, and how confident their answers were.

    Args:
        exits: Integer array `(samples,)`.
        confidences: Array `(samples,)`, the probability of each answer's label.
        count: Integer, how many exits there are.
    """
    # rounded, so that float32 and float64 agree where answers are nearly certain
    confidences = np.round(np.asarray(confidences, "float64"), 4)
    shares = np.arange(1, BINS) / BINS
    bounds = np.unique(np.quantile(confidences, shares, method="inverted_cdf"))
    places = np.searchsorted(bounds, confidences, side="right")
    return {
        "exits": np.bincount(exits, minlength=count).tolist(),
        "mean_confidence": float(confidences.mean()),
        "confidence_bounds": bounds.tolist(),
        "confidence_counts": np.bincount(places, minlength=len(bounds) + 1).tolist(),
    }
