"""What a pipeline's runtime says it does: forward or backward of one microbatch on one stage."""

import re
from dataclasses import dataclass
from enum import Enum

import numpy as np

from ridgeline.traces.columns import Kind, Recording
from ridgeline.traces.host import named
from ridgeline.traces.intervals import Intervals


class Work(Enum):
    """What an action computes, by the letter that torch.distributed.pipelining has for it."""

    FORWARD = "F"
    BACKWARD = "B"
    INPUT = "I"  # the backward's part that the stage before waits for
    WEIGHT = "W"  # the rest of it, for which nobody waits


_MARK = re.compile(r"PP:(\d{1,4})([FBIW])(\d{1,6})$")
_OVERLAPPED = re.compile(r"PP:\(")
"""Source: _get_profiler_function_name in torch/distributed/pipelining/schedules.py. Of two actions
that share a mark nobody says how long each took."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Action:
    """One action of a stage. compute_ns: what was computed within its mark, without the waits."""

    stage: int
    work: Work
    microbatch: int
    start_ns: int
    compute_ns: int


def actions(recording: Recording, compute: Intervals) -> tuple[Action, ...]:
    """Every action in the order in which they started; empty where none is marked, or two share
    one mark.
    """
    events = recording.events
    if named(recording, _OVERLAPPED).any():
        return ()
    is_mark = named(recording, _MARK)
    # the device's ranges hold what the host's only launch
    on_device, on_host = (
        rows[is_mark[events.name[rows]]]
        for rows in (events.where(Kind.DEVICE_ANNOTATION), events.where(Kind.ANNOTATION))
    )
    rows = on_device if len(on_device) else on_host
    rows = rows[np.argsort(events.start_ns[rows], kind="stable")]
    spent = compute.overlap_ns(events.start_ns[rows], events.end_ns[rows])
    found = []
    for row, compute_ns in zip(rows.tolist(), spent.tolist(), strict=True):
        mark = _MARK.match(recording.name_of(row))
        assert mark
        found.append(
            Action(
                stage=int(mark[1]),
                work=Work(mark[2]),
                microbatch=int(mark[3]),
                start_ns=int(events.start_ns[row]),
                compute_ns=compute_ns,
            )
        )
    return tuple(found)
