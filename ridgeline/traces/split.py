"""Where the time of a device went: computing, communicating, copying, idle. Exact, in ns."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import TraceError
from ridgeline.traces.columns import DEVICE_KINDS, Kind, Recording
from ridgeline.traces.communication import is_communication
from ridgeline.traces.host import host_communication, host_compute, is_host_only
from ridgeline.traces.intervals import Intervals, union
from ridgeline.units import counted


@dataclass(frozen=True, slots=True, kw_only=True)
class Split:
    """A stretch of time of one rank, divided: the first four parts make up the span.

    compute_ns: any kernel but communication runs. exposed_communication_ns: communication runs, and
    neither does any other kernel nor a fill (memset). memory_ns: of the rest, copies or fills run.
    idle_ns: nothing runs, on any stream. communication_ns: all communication; overlap_ns: what of
    it computing hides. memcpy_ns: all copies; exposed_memcpy_ns: what of them nothing hides.
    """

    start_ns: int
    span_ns: int
    compute_ns: int
    exposed_communication_ns: int
    memory_ns: int
    idle_ns: int
    communication_ns: int
    overlap_ns: int
    memcpy_ns: int
    exposed_memcpy_ns: int

    def __post_init__(self) -> None:
        parts = self.compute_ns + self.exposed_communication_ns + self.memory_ns + self.idle_ns
        if parts != self.span_ns:
            raise TraceError(f"parts of {parts} ns do not make up a span of {self.span_ns} ns.")

    @property
    def busy_ns(self) -> int:
        """Anything runs."""
        return self.span_ns - self.idle_ns

    @property
    def overlap_share(self) -> float | None:
        """The share of communication that computing hides; None where there is none."""
        return self.overlap_ns / self.communication_ns if self.communication_ns else None


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """When a device did what, whatever the stream."""

    compute: Intervals
    communication: Intervals
    memcpy: Intervals
    memset: Intervals
    busy: Intervals

    @property
    def start_ns(self) -> int:
        """When the first event on the device starts."""
        return int(self.busy.start[0])

    @property
    def end_ns(self) -> int:
        """When the last event on the device ends."""
        return int(self.busy.end[-1])


def activity(recording: Recording) -> Activity:
    """When the device of a recording did what; where the host did all the work, when the host did.
    Raises TraceError where nothing ran on a device otherwise.
    """
    if is_host_only(recording):
        return _host_activity(recording)
    events = recording.events
    is_named = np.array([is_communication(name) for name in recording.names], bool)
    is_kernel = events.kind == Kind.KERNEL
    is_talk = is_kernel & is_named[events.name]
    masks = {
        "compute": is_kernel & ~is_talk,
        "communication": is_talk,
        "memcpy": events.kind == Kind.MEMCPY,
        "memset": events.kind == Kind.MEMSET,
        "busy": np.isin(events.kind, DEVICE_KINDS),
    }
    found = {name: _covered(recording, mask) for name, mask in masks.items()}
    if not len(found["busy"]):
        if num := int(masks["busy"].sum()):
            raise TraceError(
                f"{recording.source} records {counted(num, 'event')} on the device, of no duration "
                "at all: there is no time to account for."
            )
        raise TraceError(
            f"{recording.source} records nothing that ran on a device, only "
            f"{counted(len(events), 'event')} of the host; record with "
            "profile(activities=[ProfilerActivity.CPU, ProfilerActivity.CUDA])."
        )
    return Activity(**found)


def _host_activity(recording: Recording) -> Activity:
    compute, talk = host_compute(recording), host_communication(recording)
    none = talk - talk
    return Activity(
        compute=compute, communication=talk, memcpy=none, memset=none, busy=compute | talk
    )


def _covered(recording: Recording, mask: NDArray[np.bool_]) -> Intervals:
    start = recording.events.start_ns[mask]
    return union(start, start + recording.events.duration_ns[mask])


def split(found: Activity, start_ns: int | None = None, end_ns: int | None = None) -> Split:
    """How the time from start_ns to end_ns went; by default from the first event on the device to
    the last.
    """
    first = found.start_ns if start_ns is None else start_ns
    last = found.end_ns if end_ns is None else end_ns
    compute, talk, memcpy, memset, busy = (
        part.clip(first, last)
        for part in (found.compute, found.communication, found.memcpy, found.memset, found.busy)
    )
    exposed_ns = (talk - (compute | memset)).total_ns
    return Split(
        start_ns=first,
        span_ns=last - first,
        compute_ns=compute.total_ns,
        exposed_communication_ns=exposed_ns,
        memory_ns=busy.total_ns - compute.total_ns - exposed_ns,
        idle_ns=last - first - busy.total_ns,
        communication_ns=talk.total_ns,
        overlap_ns=(talk & compute).total_ns,
        memcpy_ns=memcpy.total_ns,
        exposed_memcpy_ns=(memcpy - (compute | talk | memset)).total_ns,
    )
