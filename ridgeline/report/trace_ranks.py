"""What recordings of several ranks show together: collectives, who waited for whom, bubbles; and
the memory of one rank. In the terminal and as plain values."""

from typing import TextIO

from rich.console import Console

from ridgeline.report.console import console_on, grid, line
from ridgeline.report.trace_words import rank_name, share_of, shortened, slowest, time_of
from ridgeline.traces.bubbles import PipelineStep, pipeline_steps
from ridgeline.traces.idle_waits import idle_waits
from ridgeline.traces.memory_timeline import MemoryTimeline
from ridgeline.traces.schedule import Schedule
from ridgeline.traces.skew import Skew, match_collectives
from ridgeline.traces.stragglers import stragglers
from ridgeline.traces.trace import Trace
from ridgeline.units import counted, format_bytes, format_percent, format_rate

_UNEVEN = 0.01
"""Of a pipeline's time: what uneven stages cost is said where it is more."""


def print_ranks(stream: TextIO, trace: Trace, *, top: int) -> None:
    """Prints collectives, waits, bubbles and memory, each where it was recorded."""
    console = console_on(stream)
    skew = match_collectives(trace.ranks)
    _collectives(console, skew, top)
    _waits(console, skew, top)
    _idle_waits(console, trace, skew, top)
    _stragglers(console, trace, skew, top)
    steps = pipeline_steps(trace.ranks)
    for step in steps[:top]:
        _pipeline(console, step, top, is_one_of_several=steps[-1].pipeline > 0)
    if len(steps) > top:
        line(console, f"{len(steps) - top:,} more steps of pipelines in --json.", "dim")
    rank = slowest(trace.ranks)
    if rank.memory is not None:
        title = f"rank {rank_name(rank)}: " if len(trace.ranks) > 1 else ""
        _memory(console, title, rank.memory, top)


def _title(console: Console, text: str) -> None:
    console.print()
    line(console, text[:1].upper() + text[1:], "bold")


def _collectives(console: Console, skew: Skew, top: int) -> None:
    if not skew.matched:
        return
    longest = sorted(skew.matched, key=lambda one: -one.transfer_ns)
    _title(console, f"longest of {counted(len(longest), 'collective')}")
    headers = ["collective", "group", "ranks seen", "size", "transfer", "bus", "skew", "last"]
    rows = [
        [
            f"{one.name} #{one.sequence}",
            shortened(one.group, 24) or "-",
            f"{len(one.arrivals)} of {one.size or '?'}",
            "-" if one.nbytes is None else format_bytes(one.nbytes),
            time_of(one.transfer_ns),
            "-" if one.bus_bytes_per_s is None else format_rate(one.bus_bytes_per_s, "B"),
            time_of(one.skew_ns) if one.is_whole else "-",
            f"rank {one.last}" if one.is_whole and one.skew_ns else "-",
        ]
        for one in longest[:top]
    ]
    grid(console, headers, rows, left=2)
    text = "Transfer: the shortest time that a rank was in it; of one not seen whole, at most that."
    if skew.num_unmatched:
        text += f" Left out: {counted(skew.num_unmatched, 'place')} where ranks differ."
    line(console, text, "dim")


def _waits(console: Console, skew: Skew, top: int) -> None:
    if not skew.waits:
        return
    _title(console, "who waited for whom, in collectives")
    rows = [
        [f"rank {one.rank}", f"rank {one.on}", time_of(one.wait_ns), f"{one.num_collectives:,}"]
        for one in skew.waits[:top]
    ]
    grid(console, ["rank", "waited for", "time", "collectives"], rows, left=2)


def _idle_waits(console: Console, trace: Trace, skew: Skew, top: int) -> None:
    found = [one for one in idle_waits(trace.ranks, skew) if one.on is not None]
    if not found:
        return
    _title(console, "idle after collectives, by who came last to them")
    rows = [
        [f"rank {one.rank}", f"rank {one.on}", time_of(one.idle_ns), f"{one.num_gaps:,}"]
        for one in found[:top]
    ]
    grid(console, ["rank", "last to come", "idle", "gaps"], rows, left=2)


def _stragglers(console: Console, trace: Trace, skew: Skew, top: int) -> None:
    found = stragglers(trace.ranks, skew)
    if not found:
        return
    _title(console, "who came last, and what kept it")
    headers = ["rank", "last to", "late by", "per step", "what it does", "longer by"]
    rows = [
        [
            f"rank {one.rank}",
            f"{one.num_last:,} of {one.num_collectives:,}",
            time_of(one.late_ns),
            "-" if one.late_per_step_ns is None else time_of(one.late_per_step_ns),
            one.reason.value,
            time_of(one.excess_ns) if one.excess_ns else "-",
        ]
        for one in found[:top]
    ]
    grid(console, headers, rows, left=1)


def schedule_words(ran: Schedule | None) -> str:
    """What the schedule costs anyway."""
    if ran is None:
        return "its schedule is not marked, and the transfers are of none that is known"
    virtual = f" of {ran.num_virtual} stages each" if ran.num_virtual > 1 else ""
    text = (
        f"{ran.kind.value} costs {format_percent(ran.share)} "
        f"({counted(ran.num_ranks, 'rank')}{virtual}, "
        f"{ran.num_microbatches:,} microbatches)"
    )
    if ran.uneven_share is None or abs(ran.uneven_share - ran.share) < _UNEVEN:
        return text
    return f"{text}; {format_percent(ran.uneven_share)} with stages as uneven as these"


def _pipeline(console: Console, step: PipelineStep, top: int, *, is_one_of_several: bool) -> None:
    number = f" {step.pipeline}" if is_one_of_several else ""
    _title(
        console,
        f"pipeline{number}, {step.name}: bubbles {format_percent(step.bubble_share)} of "
        f"{time_of(step.span_ns)}; {schedule_words(step.schedule)}",
    )
    rows = [
        [
            str(one.stage),
            "-" if one.rank is None else str(one.rank),
            share_of(one.compute_ns, step.span_ns),
            share_of(one.bubble_ns, step.span_ns),
            share_of(one.other_ns, step.span_ns),
        ]
        for one in step.stages
    ]
    grid(console, ["stage", "rank", "compute", "bubbles", "other"], rows, left=0)
    _bubbles(console, step, top)


def _bubbles(console: Console, step: PipelineStep, top: int) -> None:
    longest = sorted(step.bubbles, key=lambda one: -one.duration_ns)[:top]
    rows = [
        [
            f"+{one.start_ns / 1e6:,.3f} ms",
            time_of(one.duration_ns),
            str(one.stage),
            one.phase.value,
            "-" if one.peer is None else f"rank {one.peer}",
            "-" if one.free_bytes is None else format_bytes(one.free_bytes),
        ]
        for one in longest
    ]
    grid(console, ["at", "for", "stage", "phase", "waits for", "free"], rows, left=0)


def _memory(console: Console, title: str, found: MemoryTimeline, top: int) -> None:
    _title(
        console,
        f"{title}memory of the {found.device}: {format_bytes(found.peak_allocated_bytes)} "
        f"allocated at the peak, {time_of(found.peak_ns)} after the first allocation",
    )
    rows = [
        [
            shortened(one.op) or "before the recording, or in no operator",
            format_bytes(one.nbytes),
            f"{one.num_blocks:,}",
            share_of(one.nbytes, found.peak_allocated_bytes),
        ]
        for one in found.live[:top]
    ]
    grid(console, ["lived at the peak, by operator", "size", "blocks", "share"], rows)
