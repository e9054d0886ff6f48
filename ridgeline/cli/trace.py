"""`ridgeline trace`: where the time went in what a machine recorded."""

import sys

from ridgeline.cli.options import AsJson, HtmlFile, Top
from ridgeline.cli.trace_answers import print_answers, samples_in, work_in, write_page
from ridgeline.cli.trace_options import (
    Dcgm,
    DcgmPeriod,
    DcgmStart,
    ExecutionTraces,
    MachineName,
    NoStacks,
    PerfettoFile,
    Recordings,
    Roofline,
)


def trace_command(
    recordings: Recordings,
    no_stacks: NoStacks = False,
    roofline: Roofline = False,
    machine: MachineName = None,
    dcgm: Dcgm = None,
    dcgm_start: DcgmStart = None,
    dcgm_period: DcgmPeriod = None,
    top: Top = 12,
    execution_trace: ExecutionTraces = None,
    as_json: AsJson = False,
    html: HtmlFile = None,
    perfetto: PerfettoFile = None,
) -> None:
    """Where the device's time went, and why it was idle, from what a machine recorded.

    Reads what torch.profiler (.json, .json.gz), Nsight Systems (.sqlite, .csv) and XLA (.xplane.pb)
    wrote, one file or a folder of one file per rank. Examples:

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
    found = trace(
        recordings,
        has_stacks=not no_stacks,
        execution_traces=execution_trace or (),
        progress=progress_on_stderr(),
    )
    work = work_in(found, machine) if roofline or machine else None
    sampled = samples_in(found, dcgm, dcgm_start, dcgm_period) if dcgm else None
    counters = join_counters(found.ranks)
    if html is not None:
        write_page(html, found, work, sampled, counters)
    if perfetto is not None:
        from ridgeline.report.trace_perfetto import write_perfetto

        write_perfetto(perfetto, recordings, has_stacks=not no_stacks)
        print(f"for ui.perfetto.dev: {perfetto}", file=sys.stderr)
    if as_json:
        from ridgeline.report.trace_record import trace_json

        print(trace_json(found, work, sampled, counters))
    else:
        print_answers(found, work, sampled, counters, top=top)
