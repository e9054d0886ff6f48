"""`ridgeline place`: a model on two or more devices at once."""

import sys
from pathlib import Path
from typing import Annotated

import typer

from ridgeline.cli.options import (
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


def place_command(
    target: Target,
    fleet: Annotated[Path, typer.Option(help="TOML: devices and the links between them.")],
    phase: RunPhase = "forward",
    batch: Batch = None,
    seq: Seq = None,
    cache: Cache = None,
    dtype: Dtype = None,
    evaluations: Annotated[
        int, typer.Option(min=1, max=1_000_000, help="Schedules to try at most.")
    ] = 2_000,
    seed: Annotated[int, typer.Option(help="Of the search.")] = 0,
    top: Top = 14,
    as_json: AsJson = False,
    html: HtmlFile = None,
) -> None:
    """Which device runs each part of a model, when there is more than one; predicted.

    Never slower than one device alone, nor than HEFT's schedule. `docs/place.md` shows a fleet's
    file. Examples:

      ridgeline place zoo:bcnn --fleet cpu+gpu.toml

      ridgeline place zoo:sd-v1-unet --fleet cpu+gpu.toml --html place.html
    """
    from ridgeline.cli.optimize import progress_on_stderr
    from ridgeline.frontends import Request, capture_target
    from ridgeline.graph import Phase
    from ridgeline.machines.fleet import load_fleet
    from ridgeline.passes.placement import place
    from ridgeline.report.files import require_place, write_text
    from ridgeline.report.placement import placement_json, placement_page, print_placement

    require_place(html)
    devices = load_fleet(fleet)
    tell = progress_on_stderr()
    tell("capture", 0.0)
    graph = capture_target(
        Request(target=target, phase=Phase(phase), batch=batch, seq=seq, cache=cache, dtype=dtype)
    )
    placement = place(
        graph,
        devices,
        seed=seed,
        max_evaluations=evaluations,
        progress=lambda fraction: tell("search", fraction),
    )
    if html is not None:
        print(f"report: {write_text(html, placement_page(placement))}", file=sys.stderr)
    if as_json:
        print(placement_json(placement))
        return
    print_placement(sys.stdout, placement, top=top)
