"""What waits for what in a recording, so that it can be run again with a cause taken out.

Points are the starts and ends of the host's calls and of the events on the device. One comes a lag
after another: calls follow calls, an event follows its launch, the one before it on its stream, and
what it waited for on another; a call that blocked follows the event that it waited for. Lags are as
recorded, so that running it unchanged gives back the recorded times.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum

import numpy as np
from numpy.typing import NDArray

from ridgeline.native.replay import earliest
from ridgeline.traces.columns import ABSENT, Columns, Recording
from ridgeline.traces.idle import Cause, blocking_rows
from ridgeline.traces.intervals import Times
from ridgeline.traces.launches import Launches
from ridgeline.traces.nesting import Rows

LAUNCH_NS = 5_000
"""From the call to the start of an event on a device that waits for it; about this on every GPU
recorded here. Shorter latencies are kept as recorded."""
_FOLLOWS_NS = 5_000  # an event that starts so soon after another has been waiting for it
_RETURN_NS = 2_000  # what a call takes that would block but finds nothing to wait for
_MOST_STREAMS = 16
NEVER = -(2**61)
"""The lag of an edge that is taken out."""


class Edge(IntEnum):
    """Why a point waits for another."""

    HOST = 0  # the host's own pace from one call to the next
    CALL = 1  # how long a call takes
    LAUNCH = 2
    STREAM = 3
    EVENT = 4  # an event on another stream
    RUN = 5  # how long an event takes
    BLOCK = 6  # a call returns once an event has ended


@dataclass(frozen=True, slots=True, kw_only=True)
class Dependencies:
    """Edges from point to point, each `lag` ns, sorted by source. time: when each point came;
    is_root: whether it waits for none. calls, rows: the events whose start and end are the points
    2i and 2i + 1, calls of the host before events on the device. blocking: as `blocking_rows`
    gives it.
    """

    source: Rows
    target: Rows
    lag: Times
    kind: NDArray[np.uint8]
    time: Times
    is_root: NDArray[np.bool_]
    calls: Rows
    rows: Rows
    blocking: Mapping[Cause, Rows]

    def span_ns(self, time: Times) -> int:
        """From the first start to the last end of events on the device."""
        device = time[2 * len(self.calls) :]
        return int(device[1::2].max() - device[::2].min())

    def replay(self, lag: Times | None = None) -> Times:
        """When each point comes, with these lags instead of those recorded."""
        first = np.searchsorted(self.source, np.arange(len(self.time) + 1))
        start = np.where(self.is_root, self.time, NEVER)
        come = earliest(first, self.target, self.lag if lag is None else lag, start)
        return np.where(come > NEVER // 2, come, self.time)


class _Edges:
    """Edges as they are found."""

    def __init__(self, time: Times) -> None:
        self.time = time
        self._parts: list[tuple[Rows, Rows, Times, NDArray[np.uint8]]] = []

    def add(self, kind: Edge, source: Rows, target: Rows, lag: Times) -> None:
        """Edges of one kind; those against the order of time are left out: clocks disagree."""
        kept = (source != target) & (self.time[source] + lag <= self.time[target])
        count = int(kept.sum())
        self._parts.append((source[kept], target[kept], lag[kept], np.full(count, kind, np.uint8)))

    def joined(self) -> tuple[Rows, Rows, Times, NDArray[np.uint8]]:
        """All of them."""
        source, target, lag, kind = zip(*self._parts, strict=True)
        return (
            np.concatenate(source),
            np.concatenate(target),
            np.concatenate(lag),
            np.concatenate(kind),
        )


def _sorted(
    parts: tuple[Rows, Rows, Times, NDArray[np.uint8]],
) -> tuple[Rows, Rows, Times, NDArray[np.uint8]]:
    source, target, lag, kind = parts
    order = np.argsort(source, kind="stable")
    return source[order], target[order], lag[order], kind[order]


def dependencies(
    recording: Recording,
    found: Launches,
    *,
    is_strict: bool,
    blocking: Mapping[Cause, Rows] | None = None,
) -> Dependencies:
    """What waited for what. is_strict: an event also waits for the last one to end before it on
    another stream, whether or not it did; the truth lies between this and not. blocking: the
    recording's `blocking_rows`, where they are known already.
    """
    events = recording.events
    blocking = blocking_rows(recording) if blocking is None else blocking
    calls = _calls(recording, found, blocking)
    time = _interleaved(events, np.concatenate([calls, found.rows]))
    edges = _Edges(time)
    _host_edges(edges, len(calls))
    _call_edges(edges, blocking[Cause.SYNC], calls, found)
    _device_edges(edges, events, calls, found, is_strict=is_strict)
    source, target, lag, kind = _sorted(edges.joined())
    is_bound = np.zeros(len(time), bool)
    is_bound[target[time[source] + lag == time[target]]] = True
    return Dependencies(
        source=source,
        target=target,
        lag=lag,
        kind=kind,
        time=time,
        is_root=~is_bound,
        calls=calls,
        rows=found.rows,
        blocking=blocking,
    )


def _calls(recording: Recording, found: Launches, blocking: Mapping[Cause, Rows]) -> Rows:
    """The calls that launch or block, in the order in which they start."""
    some = [found.calls[found.calls != ABSENT], blocking[Cause.SYNC], blocking[Cause.ALLOCATOR]]
    calls = np.unique(np.concatenate(some))
    events = recording.events
    order: Rows = calls[np.lexsort((events.end_ns[calls], events.start_ns[calls]))]
    return order


def _interleaved(events: Columns, rows: Rows) -> Times:
    time = np.empty(2 * len(rows), np.int64)
    time[::2] = events.start_ns[rows]
    time[1::2] = time[::2] + events.duration_ns[rows]
    return time


def _host_edges(edges: _Edges, num_calls: int) -> None:
    """Each call follows the last to have returned, on any thread: threads of one program take
    turns, forward on one and backward on another.
    """
    start, end = edges.time[: 2 * num_calls : 2], edges.time[1 : 2 * num_calls : 2]
    before = _last_to_end(end, np.arange(num_calls), start)
    has = np.flatnonzero(before != ABSENT)
    before = before[has]
    edges.add(Edge.HOST, 2 * before + 1, 2 * has, start[has] - end[before])


def _last_to_end(end: Times, among: Rows, start: Times) -> Rows:
    """For each start, the last of `among` to end before it; ABSENT where none did. All are numbered
    in the order in which they start; what takes no time, at the same time, comes in that order too.
    """
    ends, rank = np.unique(end[among], return_inverse=True)
    count = len(start)
    key = rank.astype(np.int64) * count + among
    order = np.argsort(key)
    place = np.searchsorted(ends, start, side="left")
    is_tie = (place < len(ends)) & (ends[np.minimum(place, max(0, len(ends) - 1))] == start)
    wanted = place * count + np.where(is_tie, np.arange(count), 0)
    found = np.searchsorted(key[order], wanted, side="left") - 1
    return np.where(found >= 0, among[order[np.maximum(found, 0)]], ABSENT)


def _call_edges(edges: _Edges, syncs: Rows, calls: Rows, found: Launches) -> None:
    """How long each call takes; those that block wait for the last event to end before they return,
    if they were waiting when it did.
    """
    start, end = edges.time[: 2 * len(calls) : 2], edges.time[1 : 2 * len(calls) : 2]
    device_end = edges.time[2 * len(calls) + 1 :: 2]
    by_end = np.argsort(device_end, kind="stable")
    place = np.searchsorted(device_end[by_end], end, side="right") - 1
    waited = by_end[np.maximum(place, 0)]
    is_sync = np.isin(calls, syncs)
    launched_by = _index_of(found.calls[waited], calls)  # ABSENT, that is earlier, if not known
    is_waiting = (place >= 0) & is_sync & (device_end[waited] >= start)
    is_waiting &= launched_by <= np.arange(len(calls))
    waiting = np.flatnonzero(is_waiting)
    duration = end - start
    edges.add(
        Edge.BLOCK,
        2 * (len(calls) + waited[waiting]) + 1,
        2 * waiting + 1,
        end[waiting] - device_end[waited[waiting]],
    )
    every = np.arange(len(calls))
    takes = np.where(is_waiting, np.minimum(duration, _RETURN_NS), duration)
    edges.add(Edge.CALL, 2 * every, 2 * every + 1, takes)


def _device_edges(
    edges: _Edges, events: Columns, calls: Rows, found: Launches, *, is_strict: bool
) -> None:
    """An event takes its time, after the one before it on its stream, its launch, and another
    stream's where it started as soon as that had ended. What else it waited counts to its launch.
    """
    base, count = 2 * len(calls), len(found.rows)
    every = base + 2 * np.arange(count)
    start, end = edges.time[base::2], edges.time[base + 1 :: 2]
    edges.add(Edge.RUN, every, every + 1, end - start)
    before, other = _before_on_stream(events, found, start, end)
    follows = (before != ABSENT) & (start - end[before] <= _FOLLOWS_NS)
    call = _index_of(found.calls, calls)
    latency = np.where(call == ABSENT, ABSENT, start - edges.time[2 * np.maximum(call, 0)])
    has_call = latency >= 0  # clocks may disagree: what starts before its launch waits for none
    waits = (other != ABSENT) & ~follows & (start - end[other] <= _FOLLOWS_NS)
    waits &= latency > LAUNCH_NS
    is_late = has_call & ~follows & ~waits
    launch_lag = np.where(is_late, latency, np.minimum(latency, LAUNCH_NS))
    some = np.flatnonzero(has_call)
    edges.add(Edge.LAUNCH, 2 * call[some], every[some], launch_lag[some])
    some = np.flatnonzero(before != ABSENT)
    overlaps = start[some] < end[before[some]]  # kernels of one stream may overlap a little
    source = every[before[some]] + ~overlaps
    is_bound = follows[some] | ~has_call[some] | overlaps
    edges.add(
        Edge.STREAM, source, every[some], np.where(is_bound, start[some] - edges.time[source], 0)
    )
    some = np.flatnonzero(waits | ((other != ABSENT) & is_strict))
    edges.add(
        Edge.EVENT,
        every[other[some]] + 1,
        every[some],
        np.where(waits[some], start[some] - end[other[some]], 0),
    )


def _before_on_stream(
    events: Columns, found: Launches, start: Times, end: Times
) -> tuple[Rows, Rows]:
    """For each event, the one before it on its stream, and of other streams the one that ended last
    before it started; ABSENT where there is none. Indices into `found.rows`.
    """
    device = events.device[found.rows].astype(np.int64)
    _, stream = np.unique(
        np.stack([device, events.stream[found.rows]]), axis=1, return_inverse=True
    )
    stream = stream.ravel()
    before = np.full(len(start), ABSENT, np.intp)
    other, other_end = before.copy(), np.full(len(start), NEVER)
    busiest = np.argsort(-np.bincount(stream), kind="stable")
    for rank, number in enumerate(busiest.tolist()):
        mine = np.flatnonzero(stream == number)
        before[mine[1:]] = mine[:-1]
        if rank < _MOST_STREAMS:
            candidate = _last_to_end(end, mine, start)
            is_later = (candidate != ABSENT) & (stream != number) & (end[candidate] > other_end)
            other[is_later], other_end[is_later] = candidate[is_later], end[candidate[is_later]]
    return before, other


def _index_of(rows: Rows, calls: Rows) -> Rows:
    """Where each row stands among the calls; ABSENT where it does not."""
    if not len(calls):
        return np.full(len(rows), ABSENT, np.intp)
    sorter = np.argsort(calls)
    place = sorter[np.minimum(np.searchsorted(calls, rows, sorter=sorter), len(calls) - 1)]
    return np.where(calls[place] == rows, place, ABSENT)
