"""The options of `ridgeline trace` and of its `diff`."""

from pathlib import Path
from typing import Annotated

import typer

Recordings = Annotated[
    list[Path],
    typer.Argument(
        metavar="FILE|FOLDER...",
        help="Recordings of torch.profiler, Nsight Systems or XLA, one file per rank.",
    ),
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
Dcgm = Annotated[
    Path | None, typer.Option(help="A log of DCGM from the same time: averages per step and rank.")
]
DcgmStart = Annotated[
    float | None, typer.Option(help="When its first sample was taken, seconds since 1970.")
]
DcgmPeriod = Annotated[
    float | None, typer.Option(min=1e-3, help="Seconds between samples. Default: 1.")
]

Before = Annotated[Path, typer.Argument(metavar="BEFORE", help="A recording, or a folder of them.")]
After = Annotated[Path, typer.Argument(metavar="AFTER", help="Another of the same program.")]
FailIf = Annotated[
    str | None,
    typer.Option(
        "--fail-if", metavar="slower=3%", help="Exit 1 where it is more than that slower."
    ),
]
AsRecorded = Annotated[
    bool, typer.Option("--as-recorded", help="Compare spans even if they hold unequal work.")
]
ExecutionTraces = Annotated[
    list[Path] | None,
    typer.Option(
        metavar="FILE",
        help="What ExecutionTraceObserver wrote in the same process: who wrote and read each "
        "operand (sizes in bytes, times in ns). Those beside the recordings are found.",
    ),
]
