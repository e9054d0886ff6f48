"""When the processor computed and communicated, in a recording in which no device took part."""

import re

import numpy as np
from numpy.typing import NDArray

from ridgeline.traces.columns import DEVICE_KINDS, Columns, Kind, Recording
from ridgeline.traces.intervals import Intervals, union
from ridgeline.traces.nesting import Rows

_TRANSPORT = re.compile(r"(?:gloo|mpi|ucc):")
"""The ranges in which the backends of torch.distributed that run on the host transfer, or wait."""
_COMMUNICATION_OP = re.compile(r"c10d::|record_param_comms|_c10d_functional")
HOST_NOTE = (
    "nothing ran on a device: compute is the time in operators of the host, and communication that "
    "of its transport (gloo)."
)


def is_host_only(recording: Recording) -> bool:
    """Whether the host did all the work: it computed and communicated, and no device was used.

    Without communication nothing tells a run on the host from one whose device was not recorded.
    """
    if len(recording.events.where(*DEVICE_KINDS, Kind.RUNTIME)):
        return False
    return len(host_communication(recording)) > 0 and len(host_compute(recording)) > 0


def host_compute(recording: Recording) -> Intervals:
    """The time in which some thread was in an operator, and not in one that communicates."""
    events = recording.events
    is_talk = named(recording, _COMMUNICATION_OP)
    ops = events.where(Kind.CPU_OP)
    found = union(*_edges(events, ops[:0]))
    for thread in np.unique(events.thread[ops]).tolist():
        mine = ops[events.thread[ops] == thread]
        talks = is_talk[events.name[mine]]
        works, talked = (union(*_edges(events, mine[chosen])) for chosen in (~talks, talks))
        found = found | (works - talked)
    return found


def host_communication(recording: Recording) -> Intervals:
    """The time in which a transport had something to send or receive, or waited for it."""
    events = recording.events
    ranges = events.where(Kind.ANNOTATION)
    ranges = ranges[named(recording, _TRANSPORT)[events.name[ranges]]]
    return union(*_edges(events, ranges))


def named(recording: Recording, pattern: re.Pattern[str]) -> NDArray[np.bool_]:
    """Of each name in the recording's table, whether it begins like this."""
    return np.array([pattern.match(name) is not None for name in recording.names], bool)


def _edges(events: Columns, rows: Rows) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    start = events.start_ns[rows]
    return start, start + events.duration_ns[rows]
