"""What one rank does as the stage of a pipeline: when it computed, when it stood still, and what it
waited for then."""

from dataclasses import dataclass, replace

import numpy as np

from ridgeline.traces.actions import Action, actions
from ridgeline.traces.columns import Recording
from ridgeline.traces.intervals import Intervals
from ridgeline.traces.memory_timeline import MemoryEvents
from ridgeline.traces.steps import Step, host_steps
from ridgeline.traces.transfers import Direction, Transfer, received_from, transfers

_SLIVER = 0.002
"""The share of a stage's compute that may lie before its first or after its last piece of work: a
split of the batch, a barrier's tensor."""
_LEAST_GAP = 0.001  # of the stage's time; shorter ones are summed, not listed


@dataclass(frozen=True, slots=True, kw_only=True)
class Still:
    """A stretch in which a stage did not compute. start_ns: since 1970 where the recording says
    so. is_waiting: for most of it the stage waited to receive, from rank `peer` if that was
    recorded. allocated_bytes: the most in it; free_bytes: the least. None where not recorded.
    """

    start_ns: int
    duration_ns: int
    is_waiting: bool
    peer: int | None
    allocated_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageStep:
    """One step of one stage. start_ns, end_ns: of its first and last piece of work, on the clock of
    Still; still: the longer stretches between those, still_ns: all of them. transfers: those asked
    for in the step, actions: those that the pipeline's runtime marked in it. before_bytes,
    after_bytes: allocated and free outside of these.
    """

    name: str
    start_ns: int
    end_ns: int
    still: tuple[Still, ...]
    still_ns: int
    transfers: tuple[Transfer, ...]
    actions: tuple[Action, ...]
    before_bytes: tuple[int | None, int | None]
    after_bytes: tuple[int | None, int | None]

    @property
    def sends(self) -> tuple[Transfer, ...]:
        """The transfers that leave the stage."""
        return tuple(one for one in self.transfers if one.direction is Direction.SEND)

    def num_to(self, peer: int, direction: Direction) -> int:
        """How many transfers it has with one other, in one direction."""
        return sum(one.peer == peer and one.direction is direction for one in self.transfers)


def stage_steps(
    recording: Recording, compute: Intervals, memory: MemoryEvents
) -> tuple[StageStep, ...]:
    """Every step of a rank that sends to and receives from single others; empty for one that does
    not. Where no steps are marked the recording is one.
    """
    found = transfers(recording)
    if not found or not len(compute):
        return ()
    marked = actions(recording, compute)
    whole = Step(name="all", start_ns=int(compute.start[0]), end_ns=int(compute.end[-1]))
    return tuple(
        _stage_step(step, inside, found, marked, memory, recording.metadata.base_time_ns)
        for step in host_steps(recording) or (whole,)
        if len(inside := compute.clip(step.start_ns, step.end_ns))
    )


def _stage_step(
    step: Step,
    compute: Intervals,
    found: tuple[Transfer, ...],
    marked: tuple[Action, ...],
    memory: MemoryEvents,
    zero_ns: int,
) -> StageStep:
    start_ns, end_ns = _work_span(compute)
    gaps = compute.gaps(start_ns, end_ns)
    is_long = gaps.end - gaps.start >= _LEAST_GAP * (end_ns - start_ns)
    edges = zip(gaps.start[is_long].tolist(), gaps.end[is_long].tolist(), strict=True)
    return StageStep(
        name=step.name,
        start_ns=zero_ns + start_ns,
        end_ns=zero_ns + end_ns,
        still=tuple(_still(first, last, found, memory, zero_ns) for first, last in edges),
        still_ns=gaps.total_ns,
        transfers=tuple(
            replace(one, start_ns=zero_ns + one.start_ns, end_ns=zero_ns + one.end_ns)
            for one in found
            if step.start_ns <= one.start_ns < step.end_ns
        ),
        actions=tuple(one for one in marked if step.start_ns <= one.start_ns < step.end_ns),
        before_bytes=memory.most_between(step.start_ns, start_ns),
        after_bytes=memory.most_between(end_ns, max(end_ns + 1, step.end_ns)),
    )


def _work_span(compute: Intervals) -> tuple[int, int]:
    """When the piece of work starts, and ends, before and after which only slivers are computed."""
    done = np.cumsum(compute.end - compute.start)
    first = np.searchsorted(done, _SLIVER * done[-1], side="right")
    last = np.searchsorted(done, (1 - _SLIVER) * done[-1], side="left")
    return int(compute.start[first]), int(compute.end[last])


def _still(
    start_ns: int, end_ns: int, found: tuple[Transfer, ...], memory: MemoryEvents, zero_ns: int
) -> Still:
    awaited = received_from(found, start_ns, end_ns)
    allocated, free = memory.most_between(start_ns, end_ns)
    return Still(
        start_ns=zero_ns + start_ns,
        duration_ns=end_ns - start_ns,
        is_waiting=awaited is not None,
        peer=awaited.peer if awaited else None,
        allocated_bytes=allocated,
        free_bytes=free,
    )
