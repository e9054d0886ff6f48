"""Idle time after collectives, by the rank that came last to them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.traces.rank import RankTrace
from ridgeline.traces.skew import Skew


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleWait:
    """All the time that a rank's device was idle after collectives that it waited for, to which one
    rank came last. on: that rank, which need not be why the gap lasted; None where it is the rank
    itself, where all came together or not all were recorded, and after sends and receives.
    """

    rank: int
    on: int | None
    idle_ns: int
    num_gaps: int


def idle_waits(ranks: Sequence[RankTrace], skew: Skew) -> tuple[IdleWait, ...]:
    """Idle time after collectives by who came last to them, the longest first. A gap of the cause
    "waiting on communication" begins where a rank's part in a collective ends.
    """
    lasts = {
        (arrival.rank, arrival.end_ns): one.last
        for one in skew.matched
        if one.is_whole and one.skew_ns
        for arrival in one.arrivals
        if arrival.rank != one.last
    }
    sums: dict[tuple[int, int | None], list[int]] = defaultdict(lambda: [0, 0])
    for rank in ranks:
        number = rank.rank or 0
        for start_ns, duration_ns in rank.after_communication:
            total = sums[number, lasts.get((number, start_ns))]
            total[0] += duration_ns
            total[1] += 1
    waits = [
        IdleWait(rank=rank, on=on, idle_ns=idle_ns, num_gaps=num)
        for (rank, on), (idle_ns, num) in sums.items()
    ]
    return tuple(sorted(waits, key=lambda one: -one.idle_ns))
