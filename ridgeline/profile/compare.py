"""Predicted against measured, per op kind and in total."""

import statistics
from collections.abc import Iterable
from dataclasses import dataclass

from ridgeline.profile.breakdown import Profile


@dataclass(frozen=True, slots=True, kw_only=True)
class ErrorRow:
    """A prediction and what was observed. error: predicted/measured - 1. share: of the measured
    total.
    """

    what: str
    count: int
    predicted_s: float
    measured_s: float
    share: float

    @property
    def error(self) -> float:
        """How far off the prediction is; above 0 where it is too slow."""
        return self.predicted_s / self.measured_s - 1 if self.measured_s else 0.0


@dataclass(frozen=True, slots=True, kw_only=True)
class Comparison:
    """The total (the whole program, called at once) and every op kind, longest first."""

    total: ErrorRow
    kinds: tuple[ErrorRow, ...]

    @property
    def median_absolute_error(self) -> float:
        """Of the op kinds, each weighing as much as the time it takes."""
        return weighted_median([(abs(row.error), row.measured_s) for row in self.kinds])


def compare(profile: Profile) -> Comparison:
    """The profile as predictions and their errors."""
    return Comparison(
        total=ErrorRow(
            what=profile.graph,
            count=len(profile.nodes),
            predicted_s=profile.predicted_s,
            measured_s=profile.measured_s,
            share=1.0,
        ),
        kinds=tuple(
            ErrorRow(
                what=kind.op,
                count=kind.count,
                predicted_s=kind.predicted_s,
                measured_s=kind.measured_s,
                share=kind.share,
            )
            for kind in profile.kinds
        ),
    )


def median_absolute_error(rows: Iterable[ErrorRow]) -> float:
    """The median of the rows' absolute errors, each row counting once (models, say)."""
    return statistics.median(abs(row.error) for row in rows)


def weighted_median(values: Iterable[tuple[float, float]]) -> float:
    """The least value such that those up to it carry half of all weight; (value, weight) pairs."""
    ordered = sorted(values)
    half, carried = sum(weight for _, weight in ordered) / 2, 0.0
    for value, weight in ordered:
        carried += weight
        if carried >= half:
            return value
    raise ValueError("no values to take the median of")
