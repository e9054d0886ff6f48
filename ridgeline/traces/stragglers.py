"""The ranks that others wait for in collectives: how often, how long, and what keeps them."""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from statistics import median

from ridgeline.traces.rank import RankTrace
from ridgeline.traces.skew import Matched, Skew


class Reason(Enum):
    """What a rank that comes last does for longer than the others."""

    COMPUTE = "computes longer"
    IDLE = "is idle longer"
    MEMORY = "copies longer"
    UNKNOWN = "no longer in anything"


@dataclass(frozen=True, slots=True, kw_only=True)
class Straggler:
    """A rank that came last to collectives. num_last: to how many of the num_collectives that it
    took part in and of which every member was recorded. late_ns: what the others waited for it, the
    median of them in each collective, added up; late_per_step_ns: None where no steps are marked.
    excess_ns: how much longer it is in what `reason` names than the median of the others in those.
    """

    rank: int
    num_last: int
    num_collectives: int
    late_ns: int
    late_per_step_ns: int | None
    reason: Reason
    excess_ns: int


def stragglers(ranks: Sequence[RankTrace], skew: Skew) -> tuple[Straggler, ...]:
    """Every rank that others waited for, the one that they waited for longest first."""
    late: dict[int, list[int]] = defaultdict(list)
    peers: dict[int, set[int]] = defaultdict(set)
    count: dict[int, int] = defaultdict(int)
    for one in skew.matched:
        if not one.is_whole:
            continue
        for arrival in one.arrivals:
            count[arrival.rank] += 1
        if one.skew_ns:
            late[one.last].append(_late_ns(one))
            peers[one.last] |= {arrival.rank for arrival in one.arrivals} - {one.last}
    by_number = {rank.rank or 0: rank for rank in ranks}
    found = [
        _straggler(by_number[n], [by_number[other] for other in peers[n]], times, count[n])
        for n, times in late.items()
    ]
    return tuple(sorted(found, key=lambda one: (-one.late_ns, one.rank)))


def _late_ns(one: Matched) -> int:
    return round(median(a.wait_ns for a in one.arrivals if a.rank != one.last))


def _straggler(
    mine: RankTrace, others: Sequence[RankTrace], late_ns: Sequence[int], num_collectives: int
) -> Straggler:
    """others: the members of the collectives to which it came last."""
    beyond = {
        Reason.COMPUTE: mine.split.compute_ns - median(r.split.compute_ns for r in others),
        Reason.IDLE: mine.split.idle_ns - median(r.split.idle_ns for r in others),
        Reason.MEMORY: mine.split.memory_ns - median(r.split.memory_ns for r in others),
    }
    reason = max(beyond, key=lambda one: beyond[one])
    excess_ns = max(0, round(beyond[reason]))
    total_ns = sum(late_ns)
    return Straggler(
        rank=mine.rank or 0,
        num_last=len(late_ns),
        num_collectives=num_collectives,
        late_ns=total_ns,
        late_per_step_ns=total_ns // len(mine.steps) if mine.steps else None,
        reason=reason if excess_ns else Reason.UNKNOWN,
        excess_ns=excess_ns,
    )
