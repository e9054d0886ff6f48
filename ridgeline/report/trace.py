"""The terminal report of a trace: verdict, ranks, steps, kernels, operators, why it was idle."""

from collections.abc import Sequence
from typing import TextIO

from rich.console import Console

from ridgeline.report.console import console_on, grid, line
from ridgeline.report.trace_words import (
    DEFINITIONS,
    HOST_HEADERS,
    SPLIT_HEADERS,
    device_name,
    host_cells,
    launch_words,
    matrix_words,
    notes,
    rank_name,
    share_of,
    shortened,
    shorter_shapes,
    slowest,
    span_range,
    split_cells,
    time_of,
    unit_words,
    verdict,
)
from ridgeline.traces.idle import EXPLANATIONS
from ridgeline.traces.launches import LaunchStatistics
from ridgeline.traces.matrix_time import matrix_time
from ridgeline.traces.rank import RankTrace
from ridgeline.traces.tensor_cores import FIXES
from ridgeline.traces.trace import Trace
from ridgeline.units import format_percent

_LEAST_NAME, _MOST_NAME = 24, 72  # characters of a kernel's name


def print_trace(stream: TextIO, trace: Trace, *, top: int) -> None:
    """Prints the whole report; `top` rows per table. Tables below that of the ranks are of the one
    whose recording is the longest.
    """
    console = console_on(stream)
    rank = slowest(trace.ranks)
    line(console, verdict(trace), "bold")
    for note in notes(trace):
        line(console, note, "yellow")
    _ranks(console, trace)
    title = f"rank {rank_name(rank)}: " if len(trace.ranks) > 1 else ""
    _steps(console, title, rank)
    _host(console, title, rank, top)
    _kernels(console, title, rank, top)
    _matrix(console, title, rank, top)
    _operators(console, title, rank, top)
    _launches(console, title, rank.launches)
    _idle(console, title, rank)
    _gaps(console, title, rank, top)
    _fixes(console, title, rank)
    console.print()
    line(console, DEFINITIONS, "dim")


def _title(console: Console, text: str) -> None:
    console.print()
    line(console, text[:1].upper() + text[1:], "bold")


def _more(rows: Sequence[object], top: int, num_columns: int) -> list[list[str]]:
    """A last row that says how many are not shown."""
    rest = len(rows) - top
    return [[f"{rest:,} more", *[""] * (num_columns - 1)]] if rest > 0 else []


def _ranks(console: Console, trace: Trace) -> None:
    console.print()
    rows = [[rank_name(rank), device_name(rank), *split_cells(rank.split)] for rank in trace.ranks]
    grid(console, ["rank", "device", *SPLIT_HEADERS], rows, left=2)


def _steps(console: Console, title: str, rank: RankTrace) -> None:
    if not rank.steps:
        return
    _title(console, f"{title}by step")
    grid(
        console,
        ["step", *SPLIT_HEADERS],
        [[shortened(step.name), *split_cells(step.split)] for step in rank.steps],
    )


def _host(console: Console, title: str, rank: RankTrace, top: int) -> None:
    if not rank.host_operators:
        return
    _title(console, f"{title}operators of the host, by their own time")
    rows = [host_cells(one) for one in rank.host_operators[:top]]
    more = _more(rank.host_operators, top, len(HOST_HEADERS))
    grid(console, HOST_HEADERS, rows + more, left=1)


def _kernels(console: Console, title: str, rank: RankTrace, top: int) -> None:
    if not rank.kernels:
        return
    _title(console, f"{title}kernels, copies and fills")
    # what has no room goes from the right: what decides stands to the left
    headers = ["kernel", "total", "share", "count", "what", "unit", "precision"]
    headers += ["operator", "module", "min", "mean", "max"]
    most = max(_LEAST_NAME, min(_MOST_NAME, console.width // 3))
    rows = [
        [
            shortened(use.name, most),
            time_of(use.total_ns),
            format_percent(use.share),
            f"{use.count:,}",
            use.what.op.value,
            unit_words(use.what),
            use.what.precision.value,
            shortened(use.op, min(32, most)) or "-",
            shortened(use.module, 24) or "-",
            time_of(use.min_ns),
            time_of(use.mean_ns),
            time_of(use.max_ns),
        ]
        for use in rank.kernels[:top]
    ]
    more = _more(rank.kernels, top, len(headers))
    grid(console, headers, rows + more, left=1, text=range(4, 9))


def _matrix(console: Console, title: str, rank: RankTrace, top: int) -> None:
    found = matrix_time(rank.kernels)
    if not found.product_ns:
        return
    _title(console, f"{title}tensor cores")
    line(console, matrix_words(found))
    if not found.eligible:
        return
    rows = [
        [
            one.reason.value,
            FIXES[one.reason],
            f"{one.num_kernels:,}",
            time_of(one.time_ns),
            share_of(one.time_ns, found.device_ns),
            shortened(one.example.name, 48),
            shortened(one.example.tensor_core.why, 80),
        ]
        for one in found.eligible[:top]
    ]
    headers = ["not on them because", "to change", "kernels", "time", "share", "longest", "why"]
    grid(console, headers, rows, left=2, text=(5, 6))


def _operators(console: Console, title: str, rank: RankTrace, top: int) -> None:
    if not rank.operators:
        return
    _title(console, f"{title}operators, by what they launched")
    headers = ["operator", "shapes", "calls", "kernels", "time", "share"]
    rows = [
        [
            shortened(use.name, 48),
            shorter_shapes(use.shapes) or "-",
            f"{use.count:,}",
            f"{use.num_kernels:,}",
            time_of(use.total_ns),
            format_percent(use.share),
        ]
        for use in rank.operators[:top]
    ]
    grid(console, headers, rows + _more(rank.operators, top, len(headers)), left=2)


def _launches(console: Console, title: str, found: LaunchStatistics | None) -> None:
    if found is None:
        return
    _title(console, f"{title}launches")
    line(console, launch_words(found))


def _idle(console: Console, title: str, rank: RankTrace) -> None:
    if not rank.idle_causes:
        return
    _title(console, f"{title}idle, by cause")
    rows = [
        [
            found.cause.value,
            EXPLANATIONS[found.cause],
            f"{found.num_gaps:,}",
            time_of(found.idle_ns),
            format_percent(found.share),
            share_of(found.idle_ns, rank.split.span_ns),
        ]
        for found in rank.idle_causes
    ]
    grid(console, ["cause", "what it is", "gaps", "time", "of idle", "of span"], rows, left=2)


def _gaps(console: Console, title: str, rank: RankTrace, top: int) -> None:
    if not rank.gaps:
        return
    _title(console, f"{title}longest gaps")
    has_lines = any(gap.line for gap in rank.gaps)
    headers = ["at", "idle for", "cause", "until", "operator", "call", *["line"] * has_lines]
    rows = [
        [
            f"+{gap.start_ns / 1e6:,.3f} ms",
            time_of(gap.duration_ns),
            gap.cause.value,
            shortened(gap.next, 40),
            shortened(gap.op, 32) or "-",
            shortened(gap.call) or "-",
            *[shortened(gap.line, 100) or "-"] * has_lines,
        ]
        for gap in rank.gaps[:top]
    ]
    grid(console, headers, rows, left=0, text=range(2, len(headers)))


def _fixes(console: Console, title: str, rank: RankTrace) -> None:
    if not rank.fixes:
        return
    _title(console, f"{title}what fixing it would gain, by replay")
    rows = [[fix.what, *span_range(fix, rank.split.span_ns)] for fix in rank.fixes]
    grid(console, ["fix", "gain", "of span", "span then"], rows)
    line(
        console,
        "Each alone. The range is of two replays: with the order of work on different streams "
        "kept, and with only the waits that were seen. Other ranks are taken as they were.",
        "dim",
    )
