"""`ridgeline trace`: where the time went in what a machine recorded."""

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli.options import AsJson, Top

if TYPE_CHECKING:
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


def trace_command(
    recordings: Recordings,
    no_stacks: NoStacks = False,
    roofline: Roofline = False,
    machine: MachineName = None,
    top: Top = 12,
    as_json: AsJson = False,
) -> None:
    """Where the device's time went, and why it was idle, from what torch.profiler recorded.

    Reads .json and .json.gz, one file or a folder of one file per rank. Examples:

      ridgeline trace trace.json.gz

      ridgeline trace traces/ --json > traces.json

      ridgeline trace trace.json.gz --roofline --machine h100
    """
    from ridgeline.cli.optimize import progress_on_stderr
    from ridgeline.traces.trace import trace

    found = trace(recordings, has_stacks=not no_stacks, progress=progress_on_stderr())
    work = work_in(found, machine) if roofline or machine else None
    if as_json:
        from ridgeline.report.trace_record import trace_json

        print(trace_json(found, work))
        return
    from ridgeline.report.trace import print_trace

    print_trace(sys.stdout, found, top=top)
    if work is not None:
        from ridgeline.report.trace_work import print_work

        print_work(sys.stdout, work, top=top)


def work_in(found: "Trace", machine: str | None) -> "Work":
    """What the operators of the longest recording had to do; this loads torch."""
    from ridgeline.report.trace_words import slowest
    from ridgeline.traces.work import machine_of, work_of

    rank = slowest(found.ranks)
    return work_of(rank, machine_of(rank, machine))
