"""The steps of a recording, as the device saw them."""

import re
from dataclasses import dataclass

import numpy as np

from ridgeline.traces.columns import ABSENT, Kind, Recording
from ridgeline.traces.launches import Launches
from ridgeline.traces.nesting import Rows

STEP = re.compile(r"ProfilerStep#\d+")
"""How torch.profiler calls the ranges of steps."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Step:
    """One step. start_ns: when the first event starts that the host launched in it; end_ns: when
    that of the next step does, and of the last step when the device has finished.
    """

    name: str
    start_ns: int
    end_ns: int


def step_marks(recording: Recording) -> Rows:
    """The ranges of the host that are steps, in the order in which they start."""
    events = recording.events
    is_step = np.array([STEP.fullmatch(name) is not None for name in recording.names], bool)
    marks = events.where(Kind.ANNOTATION)
    marks = marks[is_step[events.name[marks]]]
    ordered: Rows = marks[np.argsort(events.start_ns[marks], kind="stable")]
    return ordered


def host_steps(recording: Recording) -> tuple[Step, ...]:
    """Every step as the host saw it: from the start of its range to the end of that."""
    events = recording.events
    return tuple(
        Step(
            name=recording.name_of(row),
            start_ns=int(events.start_ns[row]),
            end_ns=int(events.end_ns[row]),
        )
        for row in step_marks(recording).tolist()
    )


def steps(recording: Recording, found: Launches) -> tuple[Step, ...]:
    """Every step in which something was launched, the last one too; empty where the program did
    not mark any (torch.profiler's `step()`).
    """
    events = recording.events
    marks = step_marks(recording)
    known = found.calls != ABSENT
    if not len(marks) or not known.any():
        return ()
    called = events.start_ns[found.calls[known]]
    began = events.start_ns[found.rows[known]]
    number = np.searchsorted(events.start_ns[marks], called, side="right") - 1
    is_inside = (number >= 0) & (called < events.end_ns[marks[number]])
    firsts: dict[int, int] = {}
    for step, start_ns in zip(number[is_inside].tolist(), began[is_inside].tolist(), strict=True):
        firsts.setdefault(step, start_ns)  # events come in the order in which they start
    if not firsts:
        return ()
    numbers = sorted(firsts)
    starts = [firsts[n] for n in numbers]
    ends = [*starts[1:], int(events.end_ns[found.rows].max())]
    return tuple(
        Step(name=recording.name_of(int(marks[n])), start_ns=start, end_ns=end)
        for n, start, end in zip(numbers, starts, ends, strict=True)
        if end > start
    )
