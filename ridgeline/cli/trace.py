"""`ridgeline trace`: where the time went in what a machine recorded."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli.options import AsJson, HtmlFile, Top

if TYPE_CHECKING:
    from ridgeline.traces.sampled import RankSamples
    from ridgeline.traces.trace import Trace
    from ridgeline.traces.work import Work

Recordings = Annotated[
    list[Path],
    typer.Argument(metavar="FILE|FOLDER...", help="Recordings of torch.profiler, one per rank."),
]
NoStacks = Annotated[
    bool, typer.Option("--no-stacks", help="Leave calls of Python functions out: reads faster.")
]
Roofline = Annotated[
    bool, typer.Option("--roofline", help="Operators beside their bound, from recorded shapes.")
]
MachineName = Annotated[
    str | None, typer.Option("--machine", help="For --roofline. Default: as the recording says.")
]
PerfettoFile = Annotated[
    Path | None,
    typer.Option(help="Also write the events with every gap and its cause, for ui.perfetto.dev."),
]

_MOST_SECONDS = 4e9  # of 1970 to 2096; nanoseconds then fit 64 bits, and sums of two too
Dcgm = Annotated[
    Path | None, typer.Option(help="A log of DCGM from the same time: averages per step and rank.")
]
DcgmStart = Annotated[
    float | None, typer.Option(help="When its first sample was taken, seconds since 1970.")
]
DcgmPeriod = Annotated[
    float | None, typer.Option(min=1e-3, help="Seconds between samples. Default: 1.")
]


def trace_command(
    recordings: Recordings,
    no_stacks: NoStacks = False,
    roofline: Roofline = False,
    machine: MachineName = None,
    dcgm: Dcgm = None,
    dcgm_start: DcgmStart = None,
    dcgm_period: DcgmPeriod = None,
    top: Top = 12,
    as_json: AsJson = False,
    html: HtmlFile = None,
    perfetto: PerfettoFile = None,
) -> None:
    """Where the device's time went, and why it was idle, from what torch.profiler recorded.

    Reads .json and .json.gz, one file or a folder of one file per rank. Examples:

      ridgeline trace trace.json.gz

      ridgeline trace traces/ --json > traces.json

      ridgeline trace trace.json.gz --roofline --machine h100

      ridgeline trace traces/ --html report.html --perfetto gaps.json.gz

      ridgeline trace diff before.json.gz after.json.gz
    """
    from ridgeline.cli.optimize import progress_on_stderr
    from ridgeline.report.files import require_place
    from ridgeline.traces.counters import join_counters
    from ridgeline.traces.trace import trace

    require_place(html)
    require_place(perfetto)
    found = trace(recordings, has_stacks=not no_stacks, progress=progress_on_stderr())
    work = work_in(found, machine) if roofline or machine else None
    sampled = samples_in(found, dcgm, dcgm_start, dcgm_period) if dcgm else None
    counters = join_counters(found.ranks)
    if html is not None:
        from ridgeline.report.files import write_text
        from ridgeline.report.trace_html import trace_page

        print(f"report: {write_text(html, trace_page(found, work))}", file=sys.stderr)
    if perfetto is not None:
        from ridgeline.report.trace_perfetto import write_perfetto

        write_perfetto(perfetto, recordings, has_stacks=not no_stacks)
        print(f"for ui.perfetto.dev: {perfetto}", file=sys.stderr)
    if as_json:
        from ridgeline.report.trace_record import trace_json

        print(trace_json(found, work, sampled, counters))
        return
    from ridgeline.report.trace import print_trace
    from ridgeline.report.trace_ranks import print_ranks

    print_trace(sys.stdout, found, top=top)
    print_ranks(sys.stdout, found, top=top)
    if sampled or counters:
        from ridgeline.report.trace_samples import print_samples

        if sampled:
            print_samples(sys.stdout, sampled, monitor="DCGM")
        if counters:
            print_samples(sys.stdout, counters, monitor="Nsight Systems")
    if work is not None:
        from ridgeline.report.trace_work import print_work

        print_work(sys.stdout, work, top=top)


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
