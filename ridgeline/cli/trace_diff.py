"""`ridgeline trace diff`: whether a change helped, from recordings before and after it."""

import re
import sys
from pathlib import Path
from typing import Annotated

import typer

from ridgeline.cli.options import AsJson, Top

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
_LIMIT = re.compile(r"slower=(\d+(?:\.\d+)?)%")
EXIT_CHECK_FAILED = 1


def trace_diff_command(
    before: Before,
    after: After,
    fail_if: FailIf = None,
    as_recorded: AsRecorded = False,
    top: Top = 12,
    as_json: AsJson = False,
) -> None:
    """What changed from one recording to another: by category, by module and operator.

    Of several ranks, the longest recordings are compared. Examples:

      ridgeline trace diff before.json.gz after.json.gz

      ridgeline trace diff before/ after/ --fail-if slower=3% --json
    """
    from ridgeline.cli.optimize import progress_on_stderr
    from ridgeline.report.trace_diff import diff_json, print_diff
    from ridgeline.report.trace_words import slowest
    from ridgeline.traces.diff import diff
    from ridgeline.traces.trace import trace
    from ridgeline.units import format_percent

    most = None if fail_if is None else limit(fail_if)
    progress = progress_on_stderr()
    old, new = (
        slowest(trace([path], has_stacks=True, progress=progress).ranks) for path in (before, after)
    )
    found = diff(old, new, is_as_recorded=as_recorded)
    if as_json:
        print(diff_json(found))
    else:
        print_diff(sys.stdout, found, top=top)
    if most is not None and found.slowdown > most:
        slower = format_percent(found.slowdown)
        print(f"ridgeline: {slower} slower, more than {fail_if} allows.", file=sys.stderr)
        raise typer.Exit(EXIT_CHECK_FAILED)


def limit(text: str) -> float:
    """The share in `slower=3%`. Raises TraceError where it is spelled otherwise."""
    from ridgeline.errors import TraceError

    found = _LIMIT.fullmatch(text.replace(" ", ""))
    if found is None:
        raise TraceError(f"--fail-if {text!r} is no limit; write it as slower=3%.")
    return float(found[1]) / 100
