"""What `ridgeline trace` works out beside the recordings, and how it tells the answers."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from ridgeline.traces.sampled import RankSamples
    from ridgeline.traces.trace import Trace
    from ridgeline.traces.work import Work


_MOST_SECONDS = 4e9  # of 1970 to 2096; nanoseconds then fit 64 bits, and sums of two too


def work_in(found: "Trace", machine: str | None) -> "Work":
    """What the operators of the longest recording had to do; this loads torch."""
    from ridgeline.report.trace_words import slowest
    from ridgeline.traces.work import machine_of, work_of

    rank = slowest(found.ranks)
    return work_of(rank, machine_of(rank, machine))


def samples_in(
    found: "Trace", log: Path, start_s: float | None, period_s: float | None
) -> "tuple[RankSamples, ...]":
    """What DCGM sampled in the steps of every rank."""
    from ridgeline.traces.dcgm import read_dcgm
    from ridgeline.traces.sampled import join_samples

    start_ns, period_ns = whole_ns("--dcgm-start", start_s), whole_ns("--dcgm-period", period_s)
    return join_samples(read_dcgm(log, start_ns=start_ns, period_ns=period_ns), found.ranks)


def whole_ns(option: str, time_s: float | None) -> int | None:
    """Seconds as ns. Raises TraceError for what is no time of this era."""
    from ridgeline.errors import TraceError

    if time_s is None:
        return None
    if not abs(time_s) < _MOST_SECONDS:
        raise TraceError(f"{option} {time_s:g} is no number of seconds below {_MOST_SECONDS:g}.")
    return round(time_s * 1e9)


def write_page(
    html: Path,
    found: "Trace",
    work: "Work | None",
    sampled: "tuple[RankSamples, ...] | None",
    counters: "tuple[RankSamples, ...]",
) -> None:
    """Writes the page, and says where."""
    from ridgeline.report.files import write_text
    from ridgeline.report.trace_html import trace_page

    page = trace_page(found, work, sampled or (), counters)
    print(f"report: {write_text(html, page)}", file=sys.stderr)


def print_answers(
    found: "Trace",
    work: "Work | None",
    sampled: "tuple[RankSamples, ...] | None",
    counters: "tuple[RankSamples, ...]",
    *,
    top: int,
) -> None:
    """Prints all tables, `top` rows each, on stdout."""
    from ridgeline.report.trace import print_trace
    from ridgeline.report.trace_operands import print_operands
    from ridgeline.report.trace_ranks import print_ranks

    print_trace(sys.stdout, found, top=top)
    print_ranks(sys.stdout, found, top=top)
    print_operands(sys.stdout, found, top=top)
    if sampled or counters:
        from ridgeline.report.trace_samples import print_samples

        if sampled:
            print_samples(sys.stdout, sampled, monitor="DCGM")
        if counters:
            print_samples(sys.stdout, counters, monitor="Nsight Systems")
    if work is not None:
        from ridgeline.report.trace_work import print_work

        print_work(sys.stdout, work, top=top)
