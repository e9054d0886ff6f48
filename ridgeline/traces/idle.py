"""Why the device was idle: every gap in which nothing ran on it, with one cause."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

import numpy as np
from numpy.typing import NDArray

from ridgeline.traces.columns import ABSENT, Kind, Recording
from ridgeline.traces.communication import is_communication
from ridgeline.traces.intervals import Intervals, Times, union
from ridgeline.traces.launches import Launches
from ridgeline.traces.nesting import Rows


class Cause(Enum):
    """Why nothing ran. The order is that of the numbers within this module."""

    HOST = "host-bound launch"
    SYNC = "synchronisation"
    INPUT = "input pipeline"
    ALLOCATOR = "allocator"
    GRAPH = "inside a graph"
    COMMUNICATION = "waiting on communication"
    DEVICE = "queued, started late"
    LATENCY = "launch latency"
    UNKNOWN = "launch not recorded"


_CAUSES = tuple(Cause)

EXPLANATIONS: Mapping[Cause, str] = {
    Cause.HOST: "the host had not launched what came next",
    Cause.SYNC: "the host waited for the device (item, copies, synchronize), so nothing was queued",
    Cause.INPUT: "the host waited for the next batch",
    Cause.ALLOCATOR: "the host allocated or freed memory of the device",
    Cause.GRAPH: "between two kernels of one graph launch",
    Cause.COMMUNICATION: "it was queued, and waited for communication on another stream",
    Cause.DEVICE: "it was queued but waited: for an event, another stream, a copy engine, a node",
    Cause.LATENCY: "what a device takes to start queued work",
    Cause.UNKNOWN: "no call is recorded for what came next",
}

_CALLS: Mapping[Cause, re.Pattern[str]] = {
    Cause.SYNC: re.compile(
        r"(?:cuda|hip)(?:Stream|Device|Event)Synchronize|cu(?:Stream|Ctx|Event)Synchronize"
        r"|(?:cuda|hip)Memcpy(?:2D|3D|ToSymbol|FromSymbol|Peer|WithStream|DtoH|HtoD)?(?:_v\d.*)?"
    ),
    Cause.ALLOCATOR: re.compile(
        r"(?:cuda|hip)(?:Ext)?(?:Malloc|Free|Host(?:Alloc|Malloc|Free|Register|Unregister))\w*"
        r"|cuMem(?:Alloc|Free|Create|Map|Unmap|Release|SetAccess|Address)\w*"
    ),
}
"""Calls that block the thread that makes them. hipMemcpyWithStream waits for the copy."""
_INPUT = re.compile(r"enumerate\(DataLoader\)|DataLoader|_next_data|next_batch")
_GRAPH_LAUNCH = re.compile(r"(?:cuda|hip|cu)GraphLaunch\w*")

LATENCY_NS = 4_000
"""Up to here a gap before work that was already queued is what any device takes to start it."""
_CLOCK_SLACK_NS = 2_000  # clocks of host and device agree to a microsecond or two


@dataclass(frozen=True, slots=True, kw_only=True)
class Gap:
    """A time in which nothing ran on the device. next_row: the event that ended it, of which
    call_row is the launch and op_row the operator; previous_row: what ran before. blocking_row: the
    call that the host was in, where the cause is a call. ABSENT where there is none.
    """

    start_ns: int
    duration_ns: int
    cause: Cause
    previous_row: int
    next_row: int
    call_row: int
    op_row: int
    blocking_row: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Gaps:
    """Every gap of a recording, as columns; `rows` are those of Launches. cause: a number in the
    order of Cause.
    """

    start_ns: Times
    duration_ns: Times
    cause: NDArray[np.uint8]
    previous: Rows
    next: Rows
    call: Rows
    op: Rows
    blocking: Rows

    def __len__(self) -> int:
        return len(self.start_ns)

    def causes(self) -> dict[Cause, tuple[int, int]]:
        """Idle time in ns and number of gaps by cause, the longest first; what did not occur is
        left out.
        """
        found = {
            cause: (int(self.duration_ns[mine].sum()), int(mine.sum()))
            for number, cause in enumerate(_CAUSES)
            if (mine := self.cause == number).any()
        }
        return dict(sorted(found.items(), key=lambda item: -item[1][0]))

    def of(self, cause: Cause) -> Intervals:
        """When nothing ran for that cause."""
        mine = self.cause == _CAUSES.index(cause)
        start = self.start_ns[mine]
        return Intervals(start, start + self.duration_ns[mine])

    def longest(self, count: int) -> tuple[Gap, ...]:
        """The longest gaps, the longest first."""
        order = np.argsort(-self.duration_ns, kind="stable")[:count]
        return self.at(order.tolist())

    def at(self, places: Sequence[int]) -> tuple[Gap, ...]:
        """The gaps at these places."""
        return tuple(self._gap(i) for i in places)

    def _gap(self, i: int) -> Gap:
        return Gap(
            start_ns=int(self.start_ns[i]),
            duration_ns=int(self.duration_ns[i]),
            cause=_CAUSES[int(self.cause[i])],
            previous_row=int(self.previous[i]),
            next_row=int(self.next[i]),
            call_row=int(self.call[i]),
            op_row=int(self.op[i]),
            blocking_row=int(self.blocking[i]),
        )


def gaps(recording: Recording, busy: Intervals, found: Launches) -> Gaps:
    """Every time between the first and the last event on the device in which nothing ran, and why.

    A gap before work that was queued when it began is latency, a graph's own, or a wait on the
    device. Before all other work the host was late: because it had been waiting for the device
    when the gap began, or because of what it did for most of the gap, else because of its own pace.
    """
    events = recording.events
    start, end = busy.end[:-1], busy.start[1:]
    place = np.searchsorted(events.start_ns[found.rows], end, side="left")
    calls = found.calls[place]
    late = np.where(calls == ABSENT, 0, events.end_ns[calls]) > start
    cause = np.full(len(start), _CAUSES.index(Cause.DEVICE), np.uint8)
    cause[end - start <= LATENCY_NS] = _CAUSES.index(Cause.LATENCY)
    ends = events.end_ns[found.rows]
    by_end = np.argsort(ends, kind="stable")
    previous = by_end[np.searchsorted(ends[by_end], start, side="left")]
    cause[_waits_for_talk(recording, found.rows[previous], found.rows[place], cause)] = (
        _CAUSES.index(Cause.COMMUNICATION)
    )
    is_graph = _is_named(recording, _GRAPH_LAUNCH)[events.name[calls]] & (calls != ABSENT)
    cause[is_graph & ~late & (found.calls[previous] == calls)] = _CAUSES.index(Cause.GRAPH)
    blocking = np.full(len(start), ABSENT, np.intp)
    _blame_host(recording, start, end, np.where(late, calls, ABSENT), cause, blocking)
    cause[calls == ABSENT] = _CAUSES.index(Cause.UNKNOWN)
    return Gaps(
        start_ns=start,
        duration_ns=end - start,
        cause=cause,
        previous=found.rows[previous],
        next=found.rows[place],
        call=calls,
        op=found.ops[place],
        blocking=blocking,
    )


def _waits_for_talk(
    recording: Recording, previous: Rows, following: Rows, cause: NDArray[np.uint8]
) -> NDArray[np.bool_]:
    """Whether what ran before each gap was communication, on another stream than what came next;
    not where the gap is what any start takes.
    """
    events = recording.events
    talks = np.array([is_communication(name) for name in recording.names], bool)
    is_other = events.stream[previous] != events.stream[following]
    found: NDArray[np.bool_] = (
        talks[events.name[previous]] & is_other & (cause == _CAUSES.index(Cause.DEVICE))
    )
    return found


def _is_named(recording: Recording, pattern: re.Pattern[str]) -> NDArray[np.bool_]:
    return np.array([pattern.fullmatch(name) is not None for name in recording.names], bool)


def _blame_host(
    recording: Recording,
    start: Times,
    end: Times,
    calls: Rows,
    cause: NDArray[np.uint8],
    blocking: Rows,
) -> None:
    """Fills in the causes of the gaps whose next work was launched late, by `calls`."""
    events = recording.events
    cause[calls != ABSENT] = _CAUSES.index(Cause.HOST)
    all_blocking = blocking_rows(recording)
    threads = np.where(calls == ABSENT, ABSENT, events.thread[calls])
    for thread in np.unique(threads[threads != ABSENT]).tolist():
        mine = np.flatnonzero(threads == thread)
        until = np.minimum(events.start_ns[calls[mine]], end[mine])
        for blamed_cause, candidates in all_blocking.items():
            rows = candidates[np.equal(events.thread[candidates], thread)]
            if not len(rows):
                continue
            number = _CAUSES.index(blamed_cause)
            held = union(events.start_ns[rows], events.end_ns[rows])
            half = held.overlap_ns(start[mine], until) * 2 > until - start[mine]
            drained = np.zeros(len(mine), bool)
            if blamed_cause is Cause.SYNC:
                drained = _is_inside(held, start[mine])
            blamed = (half | drained) & (cause[mine] == _CAUSES.index(Cause.HOST))
            cause[mine[blamed]] = number
            blocking[mine[blamed]] = _last_before(events.start_ns, rows, until[blamed])


def blocking_rows(recording: Recording) -> dict[Cause, Rows]:
    """The events of the host that block their thread: synchronisation, allocation, input."""
    events = recording.events
    calls = events.where(Kind.RUNTIME)
    found = {
        cause: calls[_is_named(recording, pattern)[events.name[calls]]]
        for cause, pattern in _CALLS.items()
    }
    ranges = events.where(Kind.CPU_OP, Kind.ANNOTATION)
    is_input = np.array([_INPUT.search(name) is not None for name in recording.names], bool)
    found[Cause.INPUT] = ranges[is_input[events.name[ranges]]]
    return found


def _is_inside(held: Intervals, time: Times) -> NDArray[np.bool_]:
    """Whether each time is in the set, or within the clocks' slack of its ends."""
    place = np.searchsorted(held.start, time + _CLOCK_SLACK_NS, side="right") - 1
    is_inside: NDArray[np.bool_] = (place >= 0) & (
        held.end[np.maximum(place, 0)] + _CLOCK_SLACK_NS >= time
    )
    return is_inside


def _last_before(start_ns: Times, rows: Rows, time: Times) -> Rows:
    """Of the events in these rows, the last to start before each time; at least the first."""
    rows = rows[np.argsort(start_ns[rows], kind="stable")]
    return rows[np.maximum(np.searchsorted(start_ns[rows], time, side="left") - 1, 0)]
