"""`Monitor`: says when what a deployed policy sees is no longer what it was calibrated on."""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Mapping
from typing import Any, NamedTuple

import numpy as np

from anytime_tflite.anytime import Answer
from anytime_tflite.batch import BatchResult
from anytime_tflite.inputs import WrongTypeError
from anytime_tflite.limits import as_float, is_integer
from anytime_tflite.rule import Array
from anytime_tflite.signatures import is_number

_BETS = (-2.0, -1.0, -0.5, -0.25, 0.25, 0.5, 1.0, 2.0)  # on p-values, as slopes
_BINS = 16  # of the confidence
_DIGITS = 4
_SURE = 2.33  # standard errors: 1 of 100 means is farther off on one side


class Status(NamedTuple):
    """What a monitor has seen.

    Attributes:
        samples: Integer, how many samples in all.
        drifted: Boolean, whether the samples are no longer like those of calibration. Once it
            is true, it stays so.
        drifted_at: Integer, after how many samples that was known; or `None`.
        over_budget: Boolean, whether they have drifted, and the mean cost of the latest is above
            the budget by more than chance explains.
        exit_fractions: Float array, the share of the latest samples that left at each exit in
            the file.
        mean_confidence: Float, the mean probability of their answers' labels.
        mean_cost: Float, what they have cost on average.
        evidence: Float, 0 to 1: how much speaks for a drift. It has drifted at 1.
    """

    samples: int
    drifted: bool
    drifted_at: int | None
    over_budget: bool
    exit_fractions: Array
    mean_confidence: float
    mean_cost: float
    evidence: float


class Monitor:
    """Compares what a deployed policy does with what it did when it was calibrated.

    It looks at the exits and at the confidence of answers, needs no labels, and learns nothing
    anew: it says when to calibrate again. Two numbers per sample are drawn from what the file
    holds of its calibration data and from what was seen since: how many answers left as late,
    and how many were as little confident, as this one (ties are broken by chance). As long as
    samples come like those of calibration, in any order, these are uniform and independent of
    the past, however few the calibration samples were. A bet on each, begun anew with every
    sample, then wins 1 / `false_alarm` times its stake with a probability of at most
    `false_alarm`, at any time.

    So **the probability that a stream without drift is ever said to have drifted, however long
    it is, is at most `false_alarm`.** That holds for samples that are independent of each other;
    frames of one video are not: give one in so many. A policy whose thresholds were chosen on
    the same calibration data is a little better adapted to it than to others: give `reference`
    where that matters.

    Args:
        info: Dictionary, what the file says of itself: `.info` of a model, or `read_info`.
        reference: A `BatchResult` of held-out samples under the policy that is watched. `None`:
            what the file says of its calibration.
        false_alarm: Number between 0 and 1.
        budget: Number, the mean cost that must hold, in the unit of the answers' costs. `None`:
            that of the reference.
        window: Integer, how many of the latest samples fractions and means are of.
        seed: Integer, of the chance that breaks ties.

    Attributes:
        expected: A `Status` with fractions and means of the reference.
        status: A `Status` of what was seen.

    Raises:
        TypeError, ValueError: If an argument does not fit, or `reference` is needed.

    Example:

    ```python
    monitor = Monitor(predictor.info)
    for images in stream:
        status = monitor.update(predictor.predict(images))
        if status.drifted:
            print(f"after {status.drifted_at} images; over budget: {status.over_budget}")
            break
    ```

    References:
        [Vovk, Petej, Nouretdinov, Ahlberg, Carlsson, Gammerman: Retrain or not retrain:
        conformal test martingales for change-point detection (2021)](
        https://arxiv.org/abs/2102.10439).
    """

    def __init__(
        self,
        info: Mapping[str, Any],
        reference: BatchResult | None = None,
        *,
        false_alarm: float = 0.01,
        budget: float | None = None,
        window: int = 500,
        seed: int = 0,
    ) -> None:
        if not isinstance(info, Mapping) or "exits" not in info:
            raise WrongTypeError(
                "`info` must be what a file says of itself: `.info` of a model, or `read_info`. "
                f"Received: a {type(info).__name__}"
            )
        self._exits: list[int] = info["exits"]
        if reference is not None:
            if not isinstance(reference, BatchResult):
                raise WrongTypeError(
                    "`reference` must be a BatchResult, or None. Received: a "
                    f"{type(reference).__name__}"
                )
            found: Any = summary(*self._columns(reference), exits=len(self._exits))
        else:
            found = _written(info)
            if found is None:
                raise ValueError(
                    "`reference` must be given, the result of held-out samples: the file does not "
                    "say how its calibration samples left under its thresholds. Received: "
                    "reference=None"
                )
        alarm, limit = as_float(false_alarm), None if budget is None else as_float(budget)
        if alarm is None or not 0 < alarm < 1:
            raise ValueError(
                f"`false_alarm` must be a number between 0 and 1. Received: {false_alarm=}"
            )
        if budget is not None and (limit is None or not 0 < limit < math.inf):
            raise ValueError(f"`budget` must be a positive number, or None. Received: {budget=}")
        if not is_integer(window, at_least=2):
            raise ValueError(f"`window` must be an integer of at least 2. Received: {window=}")
        if not is_integer(seed, at_least=0):
            raise ValueError(f"`seed` must be an integer of at least 0. Received: {seed=}")
        self.false_alarm = alarm
        self.budget = found["mean_cost"] if limit is None else limit
        counts = np.asarray(found["exits"], float)
        self.expected = Status(
            int(counts.sum()),
            False,
            None,
            False,
            counts / counts.sum(),
            found["mean_confidence"],
            found["mean_cost"],
            0.0,
        )
        self._bounds: list[float] = found["confidence_bounds"]
        self._late = _Bets(list(found["exits"]))
        self._unsure = _Bets(list(found["confidence_counts"])[::-1])
        self._rng = np.random.default_rng(int(seed))
        self._latest: deque[tuple[int, float, float]] = deque(maxlen=int(window))
        self._samples = 0
        self._drifted_at: int | None = None
        self._evidence = 0.0

    def update(self, answers: Answer | BatchResult) -> Status:
        """Looks at further answers, in the order in which they came; returns a `Status`.

        Args:
            answers: An `Answer` that stopped by itself, not for a deadline or because it was
                cancelled; or a `BatchResult`.
        """
        if isinstance(answers, Answer):
            if answers.stopped_by not in ("confidence", "patience", "end"):
                raise ValueError(
                    "`answers` must have stopped by themselves: what a deadline ends says "
                    f"nothing of the images. Received: stopped_by={answers.stopped_by!r}"
                )
            cost = np.nan if answers.cost is None else answers.cost
            answers = BatchResult(
                *map(np.array, ([answers.probabilities], [answers.label], [answers.exit], [cost]))
            )
        elif not isinstance(answers, BatchResult):
            raise WrongTypeError(
                "`answers` must be an Answer or a BatchResult. Received: a "
                f"{type(answers).__name__}"
            )
        rows = [column.tolist() for column in self._columns(answers)]
        for stage, confidence, cost, late, unsure in zip(
            *rows, *self._rng.random((2, len(rows[0]))).tolist(), strict=True
        ):
            self._latest.append((stage, confidence, cost))
            self._samples += 1
            # less confident than more bounds: a lower place
            place = len(self._bounds) - bisect_right(self._bounds, confidence)
            wealth = (self._late.bet(stage, late) + self._unsure.bet(place, unsure)) / 2
            self._evidence = max(self._evidence, min(1.0, wealth * self.false_alarm))
            if self._evidence == 1 and self._drifted_at is None:
                self._drifted_at = self._samples
        return self.status

    @property
    def status(self) -> Status:
        if not self._latest:
            nothing = np.full(len(self._exits), np.nan)
            return Status(0, False, None, False, nothing, np.nan, np.nan, 0.0)
        stages, confidences, costs = map(np.array, zip(*self._latest, strict=True))
        fractions = np.bincount(stages, minlength=len(self._exits)) / len(stages)
        mean, error = costs.mean(), costs.std() / math.sqrt(len(costs))
        drifted = self._drifted_at is not None
        return Status(
            self._samples,
            drifted,
            self._drifted_at,
            bool(drifted and mean - _SURE * error > self.budget),
            fractions,
            float(confidences.mean()),
            float(mean),
            self._evidence,
        )

    def _columns(self, answers: BatchResult) -> tuple[Array, Array, Array]:
        """Returns the stages, confidences and costs of answers."""
        exits, costs = np.asarray(answers.exits), np.asarray(answers.costs, "float64")
        probabilities = np.asarray(answers.probabilities, "float64")
        if (
            exits.ndim != 1
            or not len(exits) == len(probabilities) == costs.size
            or probabilities.ndim != 2
            or not np.isfinite(probabilities).all()
        ):
            raise ValueError(
                "The answers must be as `predict` returns them: probabilities (samples, classes), "
                "which are finite, exits and costs (samples,). Received: shapes "
                f"{probabilities.shape}, {exits.shape} and {costs.shape}"
            )
        strange = sorted(set(exits.tolist()) - set(self._exits))
        if strange:
            raise ValueError(
                f"The answers must be of the file, which has the exits {self._exits}. "
                f"Received: exits {strange}"
            )
        stages = np.searchsorted(self._exits, exits)
        # rounded, so that float32 and float64 agree where answers are nearly certain
        return stages, probabilities.max(axis=1).round(_DIGITS), costs


class _Bets:
    """Bets that samples are not like those before: at most as often right as chance allows.

    Args:
        counts: List of integers, how many samples of the reference are at each place.
    """

    def __init__(self, counts: list[int]) -> None:
        self._counts = counts
        self._total = sum(counts)
        self._time = 0
        self._stakes = np.zeros(len(_BETS))
        self._slopes = np.array(_BETS)

    def bet(self, place: int, chance: float) -> float:
        """Takes a sample; returns what 1 at the beginning has become.

        Args:
            place: Integer, the sample's.
            chance: Number, uniform from 0 to 1.
        """
        self._counts[place] += 1
        self._total += 1
        self._time += 1
        later = sum(self._counts[place + 1 :])
        p = (later + chance * self._counts[place]) / self._total
        # of 1, the part 1 / (t (t + 1)) is staked at time t, 1 / (t + 1) is not staked yet
        self._stakes += 1 / (self._time * (self._time + 1) * len(_BETS))
        self._stakes *= 1 + self._slopes * (p - 0.5)
        np.minimum(self._stakes, 1e100, out=self._stakes)
        return float(self._stakes.sum()) + 1 / (self._time + 1)


def summary(stages: Array, confidences: Array, costs: Array, exits: int) -> dict[str, Any]:
    """Returns what a monitor needs of its reference.

    Args:
        stages: Integer array `(samples,)`, the stage at which each sample left.
        confidences: Array `(samples,)`, the probability of each answer's label, rounded.
        costs: Array `(samples,)`.
        exits: Integer, how many exits the file has.
    """
    if not len(stages):
        raise ValueError("`reference` must hold at least one sample. Received: none")
    shares = np.arange(1, _BINS) / _BINS
    bounds = np.unique(np.quantile(confidences, shares, method="inverted_cdf"))
    places = np.searchsorted(bounds, confidences, side="right")
    return {
        "exits": np.bincount(stages, minlength=exits).tolist(),
        "mean_confidence": float(confidences.mean()),
        "mean_cost": float(np.mean(costs)),
        "confidence_bounds": bounds.tolist(),
        "confidence_counts": np.bincount(places, minlength=len(bounds) + 1).tolist(),
    }


def _written(info: Mapping[str, Any]) -> dict[str, Any] | None:
    """Returns what a file says of its calibration samples; `None`: nothing that can be used."""
    policy = info.get("policy")
    found = policy.get("reference") if isinstance(policy, Mapping) else None
    try:
        counts, bounds = found["exits"], found["confidence_bounds"]
        places, mean = found["confidence_counts"], found["mean_confidence"]
        kept = [counts[k] for k in info["exits"]]
        fits = (
            # thresholds that were changed since let other samples leave
            [float(t) for t in found["log_odds"]] == [float(t) for t in info["log_odds"]]
            and all(is_integer(n, at_least=0) for n in (*counts, *places))
            and sum(counts) == sum(kept) == sum(places) > 0
            and len(places) == len(bounds) + 1
            and all(is_number(value) for value in (*bounds, mean))
            and list(bounds) == sorted(set(bounds))
        )
        cost = found["mean_cost"]
        if fits and cost is None:
            cost = sum(n * m for n, m in zip(kept, info["macs"], strict=True)) / sum(kept)
        if not fits or not is_number(cost):
            return None
    except (TypeError, ValueError, KeyError, IndexError):
        return None
    return {**found, "exits": kept, "mean_cost": float(cost)}
