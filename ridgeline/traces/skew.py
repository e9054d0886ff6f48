"""Collectives matched over ranks: how long the transfer took, who came last, who waited for whom.

Ranks are matched by process group and order. A collective ends for all at about the same time, so
the rank that came last is in it for the shortest time, which is that of the transfer; what others
are in it for longer they wait. No clock of two ranks is compared, so that clocks may differ.
"""

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from ridgeline.traces.collectives import Collective, bus_bytes
from ridgeline.traces.rank import RankTrace

_NS = 1e-9
_UNEVEN = frozenset({"all_to_all", "gather", "scatter"})  # ranks may give and get unlike amounts


@dataclass(frozen=True, slots=True, kw_only=True)
class Arrival:
    """One rank in a collective. wait_ns: what it spent in it beyond the transfer."""

    rank: int
    start_ns: int
    end_ns: int
    wait_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Matched:
    """One collective over the ranks that were recorded. transfer_ns: the shortest time that any was
    in it; skew_ns: the longest wait. last: the rank that came last. is_whole: every member was
    recorded; otherwise transfer_ns is an upper bound, and there is no saying who came last.
    """

    name: str
    group: str
    size: int | None
    sequence: int
    nbytes: int | None
    transfer_ns: int
    skew_ns: int
    last: int
    is_whole: bool
    arrivals: tuple[Arrival, ...]

    @property
    def bus_bytes_per_s(self) -> float | None:
        """By the definition of nccl-tests; None where size or bytes were not recorded."""
        if self.nbytes is None or self.size is None or not self.transfer_ns:
            return None
        moved = bus_bytes(self.name, self.nbytes, self.size)
        return None if moved is None else moved / (self.transfer_ns * _NS)


@dataclass(frozen=True, slots=True, kw_only=True)
class Wait:
    """All that one rank waited in collectives for another to come."""

    rank: int
    on: int
    wait_ns: int
    num_collectives: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Skew:
    """What the collectives of all ranks show. waits: who waited for whom, the longest first;
    num_unmatched: of how many collectives the ranks do not say the same, so that they are left out.
    """

    matched: tuple[Matched, ...]
    waits: tuple[Wait, ...]
    num_unmatched: int


def match_collectives(ranks: Sequence[RankTrace]) -> Skew:
    """The collectives of all ranks, matched, in the order in which the first rank came to them."""
    together: dict[tuple[str, tuple[int, ...], int], list[tuple[int, Collective]]]
    together = defaultdict(list)
    for rank in ranks:
        for one in rank.collectives:
            together[one.group, one.ranks, one.sequence].append((rank.rank or 0, one))
    alike = [seen for seen in together.values() if _is_one(seen)]
    matched = sorted((_match(seen) for seen in alike), key=lambda one: one.arrivals[0].start_ns)
    return Skew(
        matched=tuple(matched),
        waits=_waits(matched),
        num_unmatched=len(together) - len(alike),
    )


def _is_one(seen: Sequence[tuple[int, Collective]]) -> bool:
    """Whether what ranks saw at one place of a group's order can be one collective."""
    sizes = {one.nbytes for _, one in seen}
    names = {one.name for _, one in seen}
    return len(names) == 1 and (len(sizes) == 1 or names <= _UNEVEN)


def _match(seen: Sequence[tuple[int, Collective]]) -> Matched:
    first = seen[0][1]
    transfer_ns = min(one.duration_ns for _, one in seen)
    arrivals = [
        Arrival(
            rank=rank,
            start_ns=one.start_ns,
            end_ns=one.end_ns,
            wait_ns=one.duration_ns - transfer_ns,
        )
        for rank, one in seen
    ]
    return Matched(
        name=first.name,
        group=first.group,
        size=first.size,
        sequence=first.sequence,
        nbytes=max((one.nbytes for _, one in seen if one.nbytes is not None), default=None),
        transfer_ns=transfer_ns,
        skew_ns=max(one.wait_ns for one in arrivals),
        last=min(arrivals, key=lambda one: one.wait_ns).rank,
        is_whole=len(seen) == first.size and len(seen) > 1,
        arrivals=tuple(sorted(arrivals, key=lambda one: one.start_ns)),
    )


def _waits(matched: Sequence[Matched]) -> tuple[Wait, ...]:
    sums: dict[tuple[int, int], list[int]] = defaultdict(lambda: [0, 0])
    for one in matched:
        for arrival in one.arrivals if one.is_whole else ():
            if arrival.wait_ns:
                sums[arrival.rank, one.last][0] += arrival.wait_ns
                sums[arrival.rank, one.last][1] += 1
    waits = [
        Wait(rank=r, on=on, wait_ns=ns, num_collectives=n) for (r, on), (ns, n) in sums.items()
    ]
    return tuple(sorted(waits, key=lambda one: -one.wait_ns))
