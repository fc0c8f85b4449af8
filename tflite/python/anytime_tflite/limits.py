"""Brings the thresholds that users give into the form that the rule compares."""

from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from anytime_tflite.inputs import WrongTypeError
from anytime_tflite.rule import to_log_odds


class Limits:
    """The thresholds of a file, and those that are given in their place.

    Args:
        info: Dictionary, what the file says of itself, with thresholds that are floats.
    """

    def __init__(self, info: dict[str, Any]) -> None:
        self.plain = info["version"] < 3
        self._info = info
        self._exits: list[int] = info["exits"]

    def of_stages(
        self,
        thresholds: Sequence[float] | None = None,
        log_odds: Sequence[float] | None = None,
    ) -> list[float]:
        """Returns one threshold per stage of the file: in log-odds, but for version 2.

        Args:
            thresholds: Numbers as users know them, one per exit of the network. `None`: those
                of the file.
            log_odds: The same in log-odds, as they are compared.
        """
        written: list[float] = self._info["thresholds"]
        own: list[float] = written if self.plain else self._info["log_odds"]
        if log_odds is not None:
            if thresholds is not None:
                raise ValueError(
                    "Only one of `thresholds` and `log_odds` must be given. Received: both"
                )
            if self.plain:
                raise ValueError(
                    "`log_odds` must be None for a file of version 2, which compares "
                    f"`thresholds`: export it again. Received: {log_odds=}"
                )
            given = self._checked(log_odds, "log_odds", own)
            return [given[k] for k in self._exits]
        if thresholds is None:
            return [own[k] for k in self._exits]
        given = self._checked(thresholds, "thresholds", written)
        if self.plain:
            return [given[k] for k in self._exits]
        kind = self._info["confidence"]
        # the file's own keep the digits that the users' unit does not show
        return [
            own[k] if given[k] == written[k] else to_log_odds(kind, given[k]) for k in self._exits
        ]

    def _checked(self, given: Sequence[float], called: str, written: list[float]) -> list[float]:
        total = len(written)
        is_array = isinstance(given, Iterable) and not isinstance(given, str | bytes)
        found = [as_float(t) for t in given] if is_array else [None]
        if None in found or len(found) != total or any(t != t for t in found):
            raise (WrongTypeError if None in found else ValueError)(
                f"`{called}` must be {total} numbers, one per exit. Received: {called}={given}"
            )
        # behind an exit where every image leaves, and at the last, nothing is looked at
        ends = next((k for k in self._exits if found[k] == -np.inf), total - 1)
        missing = [
            k
            for k in range(ends)
            if k not in self._exits and found[k] < np.inf and found[k] != written[k]
        ]
        if missing:
            raise ValueError(
                f"`{called}` must be +inf for exits {missing}, which were closed when the "
                f"file was written. Received: {called}={found}"
            )
        return found


def as_float(value: Any) -> float | None:
    """Returns a number of Python or numpy as a float, and `None` for anything else."""
    if isinstance(value, bool | np.bool_ | str | bytes):
        return None
    try:
        return float(value)
    except (TypeError, ValueError, OverflowError):
        return None


def is_integer(value: object, at_least: int) -> bool:
    """Returns whether a value is an integer of Python or numpy, and large enough."""
    if isinstance(value, bool) or not isinstance(value, int | np.integer):
        return False
    return int(value) >= at_least
