"""`ridgeline trace`: where the time went in what a machine recorded."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ridgeline.cli.options import AsJson, Top

Recordings = Annotated[
    list[Path],
    typer.Argument(metavar="FILE|FOLDER...", help="Recordings of torch.profiler, one per rank."),
]
NoStacks = Annotated[
    bool, typer.Option("--no-stacks", help="Leave calls of Python functions out: reads faster.")
]


def trace_command(
    recordings: Recordings,
    no_stacks: NoStacks = False,
    top: Top = 12,
    as_json: AsJson = False,
) -> None:
    """Where the device's time went, and why it was idle, from what torch.profiler recorded.

    Reads .json and .json.gz, one file or a folder of one file per rank. Examples:

      ridgeline trace trace.json.gz

      ridgeline trace traces/ --json > traces.json
    """
    from ridgeline.cli.optimize import progress_on_stderr
    from ridgeline.traces.trace import trace

    found = trace(recordings, has_stacks=not no_stacks, progress=progress_on_stderr())
    if as_json:
        from ridgeline.report.trace_record import trace_json

        print(trace_json(found))
        return
    from ridgeline.report.trace import print_trace

    print_trace(sys.stdout, found, top=top)
