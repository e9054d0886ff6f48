"""The bubbles of a pipeline: where its stages stood still, beside what the schedule costs anyway.

A step's window is from the first work of any stage to the last, on the clock that the recordings
share. Up to its own first work a stage is in warm-up, after its last in drain; what lies between is
a bubble where the stage waited to receive, and otherwise time of its own that no schedule asks for.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum

from ridgeline.errors import TraceError
from ridgeline.traces.rank import RankTrace
from ridgeline.traces.stage import StageStep, Still


class Phase(Enum):
    """Where in a step a bubble is."""

    WARM_UP = "warm-up"
    STEADY = "steady"
    DRAIN = "drain"


@dataclass(frozen=True, slots=True, kw_only=True)
class Bubble:
    """A stretch in which a stage had nothing to compute. start_ns: since the window began. peer:
    the rank that it waited for; allocated_bytes: the most in it, free_bytes: the least; None where
    not recorded.
    """

    rank: int | None
    stage: int
    phase: Phase
    start_ns: int
    duration_ns: int
    peer: int | None
    allocated_bytes: int | None
    free_bytes: int | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StageTime:
    """How one stage spent a step: the three parts make up the window."""

    rank: int | None
    stage: int
    compute_ns: int
    bubble_ns: int
    other_ns: int


@dataclass(frozen=True, slots=True, kw_only=True)
class PipelineStep:
    """One step of a pipeline. start_ns: of its window, since 1970. num_microbatches: as the
    transfers of the stages say; None where those are of no plain schedule (forward to the next
    stage, backward to the one before, one tensor each).
    """

    name: str
    start_ns: int
    span_ns: int
    num_microbatches: int | None
    stages: tuple[StageTime, ...]
    bubbles: tuple[Bubble, ...]

    @property
    def bubble_share(self) -> float:
        """The share of all stages' time that is bubbles."""
        return sum(one.bubble_ns for one in self.stages) / (len(self.stages) * self.span_ns)

    @property
    def schedule_share(self) -> float | None:
        """The share that GPipe and 1F1B cost with equal stages and free links."""
        if self.num_microbatches is None:
            return None
        return schedule_share(len(self.stages), self.num_microbatches)


def schedule_share(num_stages: int, num_microbatches: int) -> float:
    """(p-1)/(m+p-1): the share of a step that each stage of a GPipe or 1F1B schedule stands still.
    Source: Huang et al., GPipe, 2019, section 2.3, as a share of the whole.
    """
    if num_stages < 1 or num_microbatches < 1:
        raise TraceError(
            f"no pipeline has {num_stages} stages and {num_microbatches} microbatches."
        )
    return (num_stages - 1) / (num_microbatches + num_stages - 1)


def pipeline_steps(ranks: Sequence[RankTrace]) -> tuple[PipelineStep, ...]:
    """Every step that all stages recorded. Ranks that send to single others are the stages, in
    their order; fewer than two are no pipeline.
    """
    stages = [rank for rank in ranks if rank.stage_steps]
    if len(stages) < 2:
        return ()
    named = [{step.name: step for step in rank.stage_steps} for rank in stages]
    shared = [name for name in named[0] if all(name in steps for steps in named)]
    numbers = [rank.rank for rank in stages]
    return tuple(_pipeline_step(name, numbers, [steps[name] for steps in named]) for name in shared)


def _pipeline_step(
    name: str, ranks: Sequence[int | None], steps: Sequence[StageStep]
) -> PipelineStep:
    start_ns, end_ns = min(s.start_ns for s in steps), max(s.end_ns for s in steps)
    bubbles: list[Bubble] = []
    times: list[StageTime] = []
    for stage, (rank, step) in enumerate(zip(ranks, steps, strict=True)):
        mine = [
            Bubble(
                rank=rank,
                stage=stage,
                phase=phase,
                start_ns=still.start_ns - start_ns,
                duration_ns=still.duration_ns,
                peer=still.peer,
                allocated_bytes=still.allocated_bytes,
                free_bytes=still.free_bytes,
            )
            for phase, still in _stretches(step, start_ns, end_ns)
        ]
        bubble_ns = sum(one.duration_ns for one in mine)
        compute_ns = step.end_ns - step.start_ns - step.still_ns
        other_ns = end_ns - start_ns - compute_ns - bubble_ns
        bubbles += mine
        times.append(
            StageTime(
                rank=rank,
                stage=stage,
                compute_ns=compute_ns,
                bubble_ns=bubble_ns,
                other_ns=other_ns,
            )
        )
    return PipelineStep(
        name=name,
        start_ns=start_ns,
        span_ns=end_ns - start_ns,
        num_microbatches=_num_microbatches(steps),
        stages=tuple(times),
        bubbles=tuple(bubbles),
    )


def _stretches(step: StageStep, start_ns: int, end_ns: int) -> list[tuple[Phase, Still]]:
    """The bubbles of a stage in order of time."""
    before = _edge(start_ns, step.start_ns, step.before_bytes)
    after = _edge(step.end_ns, end_ns, step.after_bytes)
    steady = [(Phase.STEADY, still) for still in step.still if still.is_waiting]
    found = [(Phase.WARM_UP, before), *steady, (Phase.DRAIN, after)]
    return [(phase, still) for phase, still in found if still.duration_ns > 0]


def _edge(start_ns: int, end_ns: int, nbytes: tuple[int | None, int | None]) -> Still:
    return Still(
        start_ns=start_ns,
        duration_ns=end_ns - start_ns,
        is_waiting=True,
        peer=None,
        allocated_bytes=nbytes[0],
        free_bytes=nbytes[1],
    )


def _num_microbatches(steps: Sequence[StageStep]) -> int | None:
    """As many as the first stage sends and the last receives, if the others fit to that."""
    number = steps[0].num_sent
    inner = [2 * number] * (len(steps) - 2)
    sent = [step.num_sent for step in steps]
    received = [step.num_received for step in steps]
    is_plain = sent == received == [number, *inner, number]
    return number if is_plain and number else None
