"""The terminal table of operators beside their bound."""

from typing import TextIO

from ridgeline.machines import Ceiling
from ridgeline.report.console import console_on, grid, line
from ridgeline.report.trace_words import share_of, shortened, shorter_shapes, time_of
from ridgeline.traces.work import OperatorWork, Work
from ridgeline.units import format_count, format_percent, format_rate


def print_work(stream: TextIO, work: Work, *, top: int) -> None:
    """Prints what was counted, how much of it at which rate, and what was not."""
    console = console_on(stream)
    console.print()
    line(console, f"Operators beside their bound on {work.machine.name}", "bold")
    headers = ["operator", "shapes", "dtype", "calls", "time", "FLOPs", "bytes"]
    headers += ["of datasheet", "of achievable"]
    grid(console, headers, [_row(one) for one in work.operators[:top]], left=2)
    both_ns = work.counted_ns + work.uncounted_ns
    line(
        console,
        f"Matrix work of {format_count(work.flops, 'FLOP')} in all: "
        f"{format_percent(work.peak_fraction(Ceiling.DATASHEET))} of what the datasheet's peak "
        f"would do in the span. Counted: {share_of(work.counted_ns, both_ns)} of the time on the "
        "device; not: operators without shapes or cost rule, communication, copies over the link.",
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
