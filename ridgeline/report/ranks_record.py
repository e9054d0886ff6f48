"""The JSON record of what concerns several ranks; without what prints tables."""

from dataclasses import asdict

from ridgeline.report.plain import Json
from ridgeline.traces.bubbles import Bubble, PipelineStep, pipeline_steps
from ridgeline.traces.idle_waits import idle_waits
from ridgeline.traces.skew import Matched, match_collectives
from ridgeline.traces.stragglers import stragglers
from ridgeline.traces.trace import Trace


def ranks_record(trace: Trace) -> dict[str, Json]:
    """The keys of collectives, waits, stragglers, pipelines, bubbles and memory."""
    skew, steps = match_collectives(trace.ranks), pipeline_steps(trace.ranks)
    return {
        "collectives": [_collective(one) for one in skew.matched],
        "num_unmatched_collectives": skew.num_unmatched,
        "waits": [asdict(one) for one in skew.waits],
        "idle_waits": [asdict(one) for one in idle_waits(trace.ranks, skew)],
        "stragglers": [
            {**asdict(one), "reason": one.reason.value} for one in stragglers(trace.ranks, skew)
        ],
        "pipeline": [_step(step) for step in steps],
        "bubbles": [_bubble(step, one) for step in steps for one in step.bubbles],
        "memory": [
            {"rank": rank.rank, **asdict(rank.memory)} for rank in trace.ranks if rank.memory
        ],
    }


def _collective(one: Matched) -> dict[str, Json]:
    return {**asdict(one), "bus_bytes_per_s": one.bus_bytes_per_s}


def _step(step: PipelineStep) -> dict[str, Json]:
    ran = step.schedule
    return {
        "step": step.name,
        "pipeline": step.pipeline,
        "start_ns": step.start_ns,
        "span_ns": step.span_ns,
        "schedule": ran.kind.value if ran else None,
        "num_virtual": ran.num_virtual if ran else None,
        "num_microbatches": ran.num_microbatches if ran else None,
        "bubble_share": step.bubble_share,
        "schedule_share": ran.share if ran else None,
        "uneven_share": ran.uneven_share if ran else None,
        "stages": [asdict(stage) for stage in step.stages],
    }


def _bubble(step: PipelineStep, one: Bubble) -> dict[str, Json]:
    place = {"step": step.name, "pipeline": step.pipeline}
    return {**place, **asdict(one), "phase": one.phase.value}
