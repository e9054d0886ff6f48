"""What fixing a cause would gain: the recording run again without it, never idle time subtracted.

What is gained in one place may be lost in the next: work that no longer waits for the host waits
for what runs before it. So each fix changes lags between what depends on one another, and the
recording is replayed. Two replays bound the truth, which a recording of one rank does not tell: one
in which work on different streams keeps its order, and one in which only what is seen to have
waited for another stream does. Other ranks are taken to be as they were.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import TraceError
from ridgeline.traces.columns import Recording
from ridgeline.traces.communication import is_communication
from ridgeline.traces.idle import Cause, blocking_rows
from ridgeline.traces.intervals import Times, union
from ridgeline.traces.launches import Launches
from ridgeline.traces.replay import NEVER, Dependencies, Edge, dependencies
from ridgeline.units import counted

_LEAST_SHARE = 0.001  # of the span; below that nothing is worth the work
_HALF = 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Fix:
    """A change and what it gains. low_ns, high_ns: by how much the span becomes shorter, by the two
    replays.
    """

    what: str
    low_ns: int
    high_ns: int

    def __post_init__(self) -> None:
        if not 0 <= self.low_ns <= self.high_ns:
            raise TraceError(f"{self.what} gains {self.low_ns} to {self.high_ns} ns.")


def _without_sync(recording: Recording, found: Dependencies) -> Times:
    return np.where(found.kind == Edge.BLOCK, NEVER, found.lag)


def _without_host(recording: Recording, found: Dependencies) -> Times:
    """Calls follow each other at once, but for allocations and waiting for input."""
    is_call = (found.kind == Edge.CALL) & ~_allocates(found)
    is_pace = (found.kind == Edge.HOST) | is_call
    return np.where(is_pace, np.minimum(found.lag, _input_ns(recording, found)), found.lag)


def _without_input(recording: Recording, found: Dependencies) -> Times:
    return found.lag - _input_ns(recording, found)


def _without_allocation(recording: Recording, found: Dependencies) -> Times:
    return np.where(_allocates(found), 0, found.lag)


def _faster_communication(recording: Recording, found: Dependencies) -> Times:
    names = recording.events.name[found.rows]
    is_talk = np.array([is_communication(name) for name in recording.names], bool)[names]
    row = found.source // 2 - len(found.calls)
    is_chosen = (found.kind == Edge.RUN) & is_talk[np.maximum(row, 0)]
    return np.where(is_chosen, found.lag // _HALF, found.lag)


def _allocates(found: Dependencies) -> NDArray[np.bool_]:
    is_call = np.isin(found.calls, found.blocking[Cause.ALLOCATOR])
    chosen = np.zeros(len(found.source), bool)
    edges = np.flatnonzero(found.kind == Edge.CALL)
    chosen[edges] = is_call[found.source[edges] // 2]
    return chosen


def _input_ns(recording: Recording, found: Dependencies) -> Times:
    """How long the host waited for input on each edge of its own pace; 0 on others."""
    rows, events = found.blocking[Cause.INPUT], recording.events
    waits = union(events.start_ns[rows], events.end_ns[rows])
    start, end = found.time[found.source], found.time[found.target]
    waited = waits.overlap_ns(start, end)
    return np.where(found.kind == Edge.HOST, np.minimum(waited, found.lag), 0)


Change = Callable[[Recording, Dependencies], Times]
_CHANGES: Sequence[tuple[str, Change]] = (
    ("launch without waiting for the host (CUDA graph, torch.compile)", _without_host),
    ("load the next batch ahead of time", _without_input),
    ("allocate nothing on the device while it runs", _without_allocation),
    ("communication twice as fast", _faster_communication),
)


def fixes(recording: Recording, found: Launches) -> tuple[Fix, ...]:
    """Every change that would gain something, the largest first."""
    blocking = blocking_rows(recording)
    strict, loose = (
        dependencies(recording, found, is_strict=is_strict, blocking=blocking)
        for is_strict in (True, False)
    )
    num_blocked = int((strict.kind == Edge.BLOCK).sum())
    changes = [
        (f"remove the {counted(num_blocked, 'host synchronisation')}", _without_sync),
        *_CHANGES,
    ]
    gains = [
        (what, sorted(gain_ns(made, change(recording, made)) for made in (strict, loose)))
        for what, change in changes
    ]
    least_ns = strict.span_ns(strict.time) * _LEAST_SHARE
    kept = [
        Fix(what=what, low_ns=low, high_ns=high) for what, (low, high) in gains if high > least_ns
    ]
    return tuple(sorted(kept, key=lambda fix: (-fix.low_ns, -fix.high_ns)))


def gain_ns(found: Dependencies, lag: Times) -> int:
    """By how much the span becomes shorter with these lags."""
    return max(0, found.span_ns(found.time) - found.span_ns(found.replay(lag)))
