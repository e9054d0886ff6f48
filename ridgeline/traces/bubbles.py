"""The bubbles of pipelines: where their stages stood still, beside what the schedule costs anyway.
Stage here is all that one rank holds, by its place in the pipeline.

A step's window is from the first work of any stage of the pipeline to the last, on the clock that
the recordings share. Up to its own first work a stage is in warm-up, after its last in drain; what
lies between is a bubble where the stage waited to receive, and otherwise time of its own that no
schedule asks for.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import Enum

from ridgeline.traces.pipelines import Pipeline, pipelines
from ridgeline.traces.rank import RankTrace
from ridgeline.traces.schedule import Schedule, schedule_of
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
    """One step of a pipeline. pipeline: the place of this one among those side by side, from 0.
    start_ns: of its window, since 1970. schedule: None where nobody marked it and the transfers are
    of none that is known.
    """

    name: str
    pipeline: int
    start_ns: int
    span_ns: int
    schedule: Schedule | None
    stages: tuple[StageTime, ...]
    bubbles: tuple[Bubble, ...]

    @property
    def bubble_share(self) -> float:
        """The share of all stages' time that is bubbles."""
        return sum(one.bubble_ns for one in self.stages) / (len(self.stages) * self.span_ns)


def pipeline_steps(ranks: Sequence[RankTrace]) -> tuple[PipelineStep, ...]:
    """Every step that all ranks of a pipeline recorded, one pipeline after the other."""
    return tuple(
        step
        for number, pipeline in enumerate(pipelines(ranks))
        for step in _steps_of(number, pipeline)
    )


def _steps_of(number: int, pipeline: Pipeline) -> list[PipelineStep]:
    named = [{step.name: step for step in steps} for steps in pipeline.steps]
    shared = [name for name in named[0] if all(name in steps for steps in named)]
    return [
        _pipeline_step(name, number, pipeline, [steps[name] for steps in named]) for name in shared
    ]


def _pipeline_step(
    name: str, number: int, pipeline: Pipeline, steps: Sequence[StageStep]
) -> PipelineStep:
    start_ns, end_ns = min(s.start_ns for s in steps), max(s.end_ns for s in steps)
    bubbles: list[Bubble] = []
    times: list[StageTime] = []
    for stage, (rank, step) in enumerate(zip(pipeline.ranks, steps, strict=True)):
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
        pipeline=number,
        start_ns=start_ns,
        span_ns=end_ns - start_ns,
        schedule=_schedule(pipeline, steps),
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


def _schedule(pipeline: Pipeline, steps: Sequence[StageStep]) -> Schedule | None:
    if not pipeline.is_whole:
        return None
    places = {rank: place for place, rank in enumerate(pipeline.ranks)}
    return schedule_of([_by_place(step, places) for step in steps])


def _by_place(step: StageStep, places: Mapping[int | None, int]) -> StageStep:
    """The step with places in the pipeline as peers."""
    return replace(
        step,
        transfers=tuple(replace(one, peer=places.get(one.peer)) for one in step.transfers),
    )
