"""Cuts splits off labeled samples, class by class."""

import numbers

import numpy as np


def check_part(calibrate):
    """Returns a share between 0 and 1 as a float, or a number of samples as an integer."""
    if isinstance(calibrate, numbers.Integral) and not isinstance(calibrate, bool):
        if calibrate >= 1:
            return int(calibrate)
    elif isinstance(calibrate, numbers.Real) and 0 < calibrate < 1:
        return float(calibrate)
    raise ValueError(
        "`calibrate` must be a share of the training samples between 0 and 1, or an integer, the "
        f"number of samples. Received: calibrate={calibrate!r}"
    )


def check_split(split):
    """Returns shares of train, calibrate and test that add up to 1."""
    try:
        shares = tuple(float(share) for share in split)
    except (TypeError, ValueError):
        shares = ()
    if len(shares) != 3 or not all(0 < s < 1 for s in shares) or abs(sum(shares) - 1) > 1e-6:
        raise ValueError(
            "`split` must be three shares, of train, calibrate and test, that add up to 1. "
            f"Received: split={split!r}"
        )
    return shares


def held_out(labels, part, left=1):
    """Returns which samples are cut off: of every class the last ones, its share of them.

    Classes get `part * n_c` samples, rounded by largest remainders, but at least one, and keep
    at least `left`.

    Args:
        labels: Integer array `(samples,)`; every class has more than `left`.
        part: Share of the samples, as a float, or their number, as an integer.
        left: Integer.

    Returns:
        Boolean array `(samples,)`, or `None` if that many samples cannot be cut off so.
    """
    labels = np.asarray(labels)
    _, numbers_of, counts = np.unique(labels, return_inverse=True, return_counts=True)
    most = counts - left
    if isinstance(part, float):
        shares = part * counts
        small = shares < 1  # these get one more than their share
        wanted = min(round(shares[~small].sum()) + small.sum(), most.sum())
    else:
        shares, wanted = part * counts / len(labels), part
    if not len(counts) <= wanted <= most.sum():
        return None
    cut = np.clip(np.floor(shares), 1, most).astype(int)
    while cut.sum() != wanted:
        step = 1 if cut.sum() < wanted else -1
        possible = cut < most if step > 0 else cut > 1
        cut[np.where(possible, step * (shares - cut), -np.inf).argmax()] += step
    from_behind = np.zeros(len(labels), int)
    seen = np.zeros(len(counts), int)
    for i in range(len(labels) - 1, -1, -1):
        from_behind[i] = seen[numbers_of[i]]
        seen[numbers_of[i]] += 1
    return from_behind < cut[numbers_of]
