"""Averages of samples over windows of time: DCGM's counters per training step."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import TraceError
from ridgeline.traces.samples import Entity, Field, Samples

_GAP = 1.5  # a sample later than so many periods after the one before covers one period only


@dataclass(frozen=True, slots=True, kw_only=True)
class Averages:
    """Averages per window (row) and series (column): `mean` in the field's unit, NaN where no
    sample covers any of the window, and `covered_ns`, how much of the window they cover."""

    series: tuple[tuple[Entity, Field], ...]
    mean: NDArray[np.float64]
    covered_ns: NDArray[np.int64]


def _periods(time_ns: NDArray[np.int64], period_ns: int | None) -> NDArray[np.int64]:
    """How long before its time each sample of one series reaches back, in ns."""
    steps = np.diff(time_ns)
    if period_ns is None:
        period_ns = int(np.median(steps)) if len(steps) else 0
    back = np.minimum(np.concatenate(([period_ns], steps)), int(_GAP * period_ns) + 1)
    return np.where(back > _GAP * period_ns, period_ns, back).astype(np.int64)


def _integrals(
    ends: NDArray[np.int64], back: NDArray[np.int64], weight: NDArray[np.float64]
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Knots in time and the running integral of `weight` over the covered time at each of them."""
    knots = np.column_stack((ends - back, ends)).ravel().astype(np.float64)
    gained = np.column_stack((np.zeros(len(ends)), weight * back)).ravel()
    return knots, np.cumsum(gained)


def _between(
    knots: NDArray[np.float64],
    integral: NDArray[np.float64],
    starts: NDArray[np.int64],
    ends: NDArray[np.int64],
) -> NDArray[np.float64]:
    upper = np.interp(ends.astype(np.float64), knots, integral)
    lower = np.interp(starts.astype(np.float64), knots, integral)
    return np.asarray(upper - lower, np.float64)


def _average(
    time_ns: NDArray[np.int64],
    value: NDArray[np.float64],
    windows: tuple[NDArray[np.int64], NDArray[np.int64]],
    period_ns: int | None,
) -> tuple[NDArray[np.float64], NDArray[np.int64]]:
    """Mean and covered ns of one series in every window."""
    zero = time_ns[0]  # times since 1970 in ns do not fit a float64 exactly; differences do
    starts, ends = windows[0] - zero, windows[1] - zero
    back = _periods(time_ns, period_ns)
    covered = _between(*_integrals(time_ns - zero, back, np.ones(len(value))), starts, ends)
    total = _between(*_integrals(time_ns - zero, back, value), starts, ends)
    covered_ns = np.rint(covered).astype(np.int64)
    mean = np.divide(total, covered, out=np.full(len(total), np.nan), where=covered_ns > 0)
    return mean, covered_ns


def average_over(
    samples: Samples,
    starts_ns: NDArray[np.int64],
    ends_ns: NDArray[np.int64],
    *,
    period_ns: int | None = None,
    offset_ns: int = 0,
) -> Averages:
    """The time-weighted average of every series in every window.

    starts_ns, ends_ns: of the windows, as a recording has them; offset_ns is added to bring them to
    the samples' clock (a recording's `base_time_ns`, for samples since 1970). period_ns: how long
    a sample averages; None: the median distance of its series.
    """
    if len(starts_ns) != len(ends_ns) or np.any(ends_ns < starts_ns):
        raise TraceError(f"{samples.source}: windows need as many ends as starts, none before it.")
    windows = (starts_ns + offset_ns, ends_ns + offset_ns)
    names, means, covers = [], [], []
    for entity, sampled, time_ns, value in samples.all_series():
        mean, covered_ns = _average(time_ns, value, windows, period_ns)
        names.append((entity, sampled))
        means.append(mean)
        covers.append(covered_ns)
    shape = (len(names), len(starts_ns))
    return Averages(
        series=tuple(names),
        mean=np.array(means, np.float64).reshape(shape).T,
        covered_ns=np.array(covers, np.int64).reshape(shape).T,
    )
