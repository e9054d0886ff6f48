"""`ridgeline profile`: where the time of a model really goes, measured here."""

import sys
from typing import Annotated

import typer

from ridgeline.cli.options import (
    AllowUncounted,
    AsJson,
    Batch,
    Cache,
    Dtype,
    HtmlFile,
    RunPhase,
    Seq,
    Target,
    Top,
)


def profile_command(
    target: Target,
    machine: Annotated[str, typer.Option(help="'this', a name, or a TOML file.")] = "this",
    threads: Annotated[int | None, typer.Option(min=1, help="Default: as torch chooses.")] = None,
    dtype: Dtype = None,
    phase: RunPhase = "forward",
    batch: Batch = None,
    seq: Seq = None,
    cache: Cache = None,
    repeats: Annotated[
        int | None, typer.Option(min=1, help="Default: as many as take ten seconds, 5 to 50.")
    ] = None,
    allow_uncounted: AllowUncounted = False,
    top: Top = 12,
    as_json: AsJson = False,
    html: HtmlFile = None,
) -> None:
    """Run the model here and measure every node, beside what it should take.

    Says what stands between the measurement and the roofline, largest first. Examples:

      ridgeline profile zoo:resnet50

      ridgeline profile zoo:llama-tiny --phase decode --cache 512 --threads 1 --html report.html
    """
    from ridgeline import machines
    from ridgeline.cli.optimize import progress_on_stderr
    from ridgeline.frontends import Request
    from ridgeline.graph import Phase
    from ridgeline.machines.threads import require_threads
    from ridgeline.profile.target import profile_target
    from ridgeline.report.files import require_place, write_text

    require_place(html)
    require_threads(threads)

    request = Request(
        target=target, phase=Phase(phase), batch=batch, seq=seq, cache=cache, dtype=dtype
    )
    found = profile_target(
        request,
        machines.load(machine),
        threads=threads,
        repeats=repeats,
        allow_uncounted=allow_uncounted,
        progress=progress_on_stderr(),
    )
    if html is not None:
        from ridgeline.report.profile_html import profile_page

        print(f"report: {write_text(html, profile_page(found))}", file=sys.stderr)
    if as_json:
        from ridgeline.report.profile_record import profile_json

        print(profile_json(found))
        return
    from ridgeline.report.profile import print_profile

    print_profile(sys.stdout, found, top=top)
