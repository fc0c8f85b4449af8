"""Exits that samples leave at, computed otherwise than the library does, in float64."""

import numpy as np
from scipy.special import logsumexp

KINDS = ("max_prob", "prob_margin", "logit_margin", "entropy")


def log_odds(logits, kind, temperature=1.0):
    """The log-odds of answers `(samples, classes)`, from log-probabilities."""
    z = np.sort(np.asarray(logits, "float64") / temperature, axis=-1)[..., ::-1]
    if kind == "logit_margin":
        return z[..., 0] - z[..., 1]
    whole = logsumexp(z, axis=-1)
    others = logsumexp(z[..., 1:], axis=-1)
    if kind == "max_prob":
        return z[..., 0] - others
    if kind == "prob_margin":  # 1 - p_1 + p_2, where 1 - p_1 is the sum of the others
        return whole - np.logaddexp(others, z[..., 1])
    log_r = others - z[..., 0]
    with np.errstate(divide="ignore"):
        first = np.where(log_r < -30, log_r, np.log(np.log1p(np.exp(log_r))))  # log(-log p_1)
        rest = np.log(whole[..., None] - z[..., 1:])
    terms = np.concatenate([first[..., None], rest], axis=-1) + z - whole[..., None]
    return -logsumexp(terms, axis=-1)


def exits(logits, kind, bars, temperatures=None):
    """First exits that reach their bar, and which samples are further than 1e-4 from all.

    Args:
        logits: Array `(exits, samples, classes)`.
        bars: Log-odds `(exits,)`; the last counts as `-inf`.
    """
    temperatures = np.ones(len(logits)) if temperatures is None else temperatures
    found = np.stack([log_odds(z, kind, t) for z, t in zip(logits, temperatures, strict=True)])
    bars = np.append(bars[:-1], -np.inf)[:, None]
    far = (np.abs(found - bars) > 1e-4)[:-1].all(axis=0)
    return (found >= bars).argmax(axis=0), far
