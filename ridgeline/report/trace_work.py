"""Operators beside their bound: the terminal's table, the page's roofline."""

from collections import Counter
from typing import TextIO

from ridgeline.report.console import console_on, grid, line
from ridgeline.report.markup import Html, element, elided
from ridgeline.report.roofline import Dot, roofline, roofs_of
from ridgeline.report.trace_words import share_of, shortened, shorter_shapes, time_of
from ridgeline.traces.work import OperatorWork, Work
from ridgeline.units import counted, format_count, format_percent, format_rate


def print_work(stream: TextIO, work: Work, *, top: int) -> None:
    """Prints what was counted, how much of it at which rate, and what was not."""
    console = console_on(stream)
    console.print()
    line(console, f"Operators beside their bound on {work.machine.name}", "bold")
    headers = ["operator", "shapes", "dtype", "calls", "time", "FLOPs", "bytes"]
    headers += ["of datasheet", "of achievable"]
    grid(console, headers, [_row(one) for one in work.operators[:top]], left=2)
    line(console, work_words(work))
    if len(work.steps) > 1:
        rows = [
            [
                shortened(s.name),
                time_of(s.span_ns),
                format_count(s.flops, "FLOP"),
                format_percent(s.mfu),
            ]
            for s in work.steps[:top]
        ]
        grid(console, ["step", "span", "matrix work", "MFU"], rows, left=1)
        if len(work.steps) > top:
            more = counted(len(work.steps) - top, "more step")
            line(console, f"{more} in --json.", "dim")


def work_words(work: Work) -> str:
    """How much matrix work was counted, and in which part of the time."""
    both_ns = work.counted_ns + work.uncounted_ns
    return (
        f"Matrix work of {format_count(work.flops, 'FLOP')} in all: MFU "
        f"{format_percent(work.mfu)}, of what the datasheet's peak of each type "
        f"would do in the span. Counted: {share_of(work.counted_ns, both_ns)} of the time on the "
        "device; not: operators without shapes or cost rule, communication, copies over the link."
    )


def _row(one: OperatorWork) -> list[str]:
    return [
        shortened(one.use.name, 48),
        shorter_shapes(one.use.shapes),
        one.dtype,
        f"{one.use.count:,}",
        time_of(one.use.total_ns),
        format_rate(one.flops_per_s, "FLOP") if one.cost.flops else "-",
        format_rate(one.bytes_per_s, "B"),
        format_percent(one.datasheet_fraction),
        format_percent(one.achievable_fraction),
    ]


def work_roofline(work: Work, most: int) -> Html:
    """A dot for each of the `most` longest operators with matrix work, under both ceilings of the
    type that most of that time was in.
    """
    products = [one for one in work.operators if one.cost.flops and one.cost.nbytes]
    if not products:
        return element("p", "No operator with recorded shapes does matrix work.")
    times: Counter[str] = Counter()
    for one in products:
        times[one.dtype] += one.use.total_ns
    ((dtype, _),) = times.most_common(1)
    return roofline(roofs_of(work.machine, dtype), [_dot(one) for one in products[:most]])


def _dot(one: OperatorWork) -> Dot:
    tip = (
        f"{elided(one.use.name)}\n{elided(shorter_shapes(one.use.shapes))} {one.dtype}\n"
        f"{one.use.count:,} calls, {time_of(one.use.total_ns)}\n"
        f"{format_rate(one.flops_per_s, 'FLOP')}, {format_rate(one.bytes_per_s, 'B')}\n"
        f"{format_percent(one.achievable_fraction)} of achievable"
    )
    return Dot(
        intensity=one.cost.flops / one.cost.nbytes,
        flops_per_s=one.flops_per_s,
        share=one.use.share,
        bound=one.bound.value,
        tip=tip,
    )
