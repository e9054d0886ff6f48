"""What launched each event on the device: the call into the runtime, and the operator around it."""

from dataclasses import dataclass

import numpy as np

from ridgeline.traces.columns import ABSENT, DEVICE_KINDS, Columns, Kind, Recording
from ridgeline.traces.intervals import Times
from ridgeline.traces.nesting import Rows, innermost


@dataclass(frozen=True, slots=True, kw_only=True)
class Launches:
    """The events on the device in the order in which they start.

    rows: which events they are. calls: the row of the runtime's call that launched each; ops: that
    of the innermost operator around the call, or where there is none, of the range that the program
    named (Optimizer.step). ABSENT where it was not recorded.
    """

    rows: Rows
    calls: Rows
    ops: Rows


def launches(recording: Recording) -> Launches:
    """What launched every event on the device: by correlation to the call, from there to the
    operator that runs on its thread, else the one with the same External id.
    """
    events = recording.events
    rows = events.where(*DEVICE_KINDS)
    rows = rows[np.argsort(events.start_ns[rows], kind="stable")]
    calls = _joined(events.correlation, events.where(Kind.RUNTIME), rows)
    operators = events.where(Kind.CPU_OP)
    ops = np.full(len(rows), ABSENT, np.intp)
    known = calls != ABSENT
    ops[known] = innermost(events, operators, calls[known])
    ops = np.where(ops == ABSENT, _joined(events.external_id, operators, rows), ops)
    nameless = known & (ops == ABSENT)
    ops[nameless] = innermost(events, events.where(Kind.ANNOTATION), calls[nameless])
    return Launches(rows=rows, calls=calls, ops=ops)


def _joined(key: Times, candidates: Rows, of: Rows) -> Rows:
    """For each row of `of`, the first of `candidates` with the same key; ABSENT without one."""
    candidates = candidates[key[candidates] > 0]  # 0 is what recorders write for none
    candidates = candidates[np.argsort(key[candidates], kind="stable")]
    if not len(candidates):
        return np.full(len(of), ABSENT, np.intp)
    keys, wanted = key[candidates], key[of]
    place = np.minimum(np.searchsorted(keys, wanted), len(keys) - 1)
    return np.where(keys[place] == wanted, candidates[place], ABSENT)


@dataclass(frozen=True, slots=True, kw_only=True)
class LaunchStatistics:
    """How far ahead of the device the host is.

    num_launches: events whose launch was recorded; num_unknown: others. *_latency_ns: from the
    start of the call to that of the event. num_immediate: events that started within
    IMMEDIATE_NS, that is, that the device waited for. *_queue: events launched but not finished
    when a launch starts.
    """

    num_launches: int
    num_unknown: int
    median_latency_ns: int
    p90_latency_ns: int
    max_latency_ns: int
    num_immediate: int
    mean_queue: float
    max_queue: int


IMMEDIATE_NS = 10_000
"""A launch takes about 5 µs on an idle device; what starts within twice that was not queued."""


def launch_statistics(events: Columns, found: Launches) -> LaunchStatistics | None:
    """How far ahead the host was; None where no launch was recorded."""
    known = found.calls != ABSENT
    if not known.any():
        return None
    rows, calls = found.rows[known], found.calls[known]
    called = events.start_ns[calls]
    latency = np.sort(events.start_ns[rows] - called)
    queue = _queue(called, events.start_ns[rows] + events.duration_ns[rows])
    return LaunchStatistics(
        num_launches=len(rows),
        num_unknown=len(found.rows) - len(rows),
        median_latency_ns=int(latency[len(latency) // 2]),
        p90_latency_ns=int(latency[min(len(latency) - 1, len(latency) * 9 // 10)]),
        max_latency_ns=int(latency[-1]),
        num_immediate=int(np.searchsorted(latency, IMMEDIATE_NS)),
        mean_queue=float(queue.mean()),
        max_queue=int(queue.max()),
    )


def _queue(called: Times, ended: Times) -> Times:
    """At each launch, how many events were launched before it and have not finished. Clocks of
    host and device may disagree: an event that ends before its launch waits no longer.
    """
    called, ended = np.sort(called), np.sort(np.maximum(ended, called))
    waiting: Times = np.arange(len(called)) - np.searchsorted(ended, called, side="right")
    return np.clip(waiting, 0, None)
