"""Idle time after collectives, by the rank that came last to them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.traces.rank import RankTrace
from ridgeline.traces.skew import Skew


@dataclass(frozen=True, slots=True, kw_only=True)
class IdleWait:
    """All the time that a rank's device was idle because it waited for collectives to which one
    rank came last. on: None where not every member was recorded, or it was a send or receive.
    """

    rank: int
    on: int | None
    idle_ns: int
    num_gaps: int


def idle_waits(ranks: Sequence[RankTrace], skew: Skew) -> tuple[IdleWait, ...]:
    """Who waited for whom with nothing to do, the longest first. A gap of the cause "waiting on
    communication" begins where a rank's part in a collective ends.
    """
    lasts = {
        (arrival.rank, arrival.end_ns): one.last
        for one in skew.matched
        if one.is_whole
        for arrival in one.arrivals
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
