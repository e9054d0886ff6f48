"""`ridgeline trace diff`: whether a change helped, from recordings before and after it."""

import re
import sys

import typer

from ridgeline.cli.options import AsJson, HtmlFile, Top
from ridgeline.cli.trace_options import After, AsRecorded, Before, FailIf

_LIMIT = re.compile(r"slower=(\d+(?:\.\d+)?)%")
EXIT_CHECK_FAILED = 1


def trace_diff_command(
    before: Before,
    after: After,
    fail_if: FailIf = None,
    as_recorded: AsRecorded = False,
    top: Top = 12,
    as_json: AsJson = False,
    html: HtmlFile = None,
) -> None:
    """What changed from one recording to another: by category, by module and operator.

    Of several ranks, the longest recordings are compared. Examples:

      ridgeline trace diff before.json.gz after.json.gz

      ridgeline trace diff before/ after/ --fail-if slower=3% --json

      ridgeline trace diff before.json.gz after.json.gz --html change.html
    """
    from ridgeline.cli.optimize import progress_on_stderr
    from ridgeline.report.files import require_place
    from ridgeline.report.trace_diff import diff_json, print_diff
    from ridgeline.report.trace_words import slowest
    from ridgeline.traces.diff import diff
    from ridgeline.traces.trace import trace
    from ridgeline.units import format_percent

    require_place(html)
    most = None if fail_if is None else limit(fail_if)
    progress = progress_on_stderr()
    old, new = (
        slowest(trace([path], has_stacks=True, progress=progress).ranks) for path in (before, after)
    )
    found = diff(old, new, is_as_recorded=as_recorded)
    if html is not None:
        from ridgeline.report.files import write_text
        from ridgeline.report.trace_diff_html import diff_page

        print(f"report: {write_text(html, diff_page(found))}", file=sys.stderr)
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
