"""`ridgeline inspect`: what a model costs on a machine, without running it."""

import sys
from typing import Annotated, Literal

import typer

from ridgeline.cli.collector import rare_collections
from ridgeline.cli.options import (
    AllowUncounted,
    AsJson,
    Batch,
    Cache,
    Dtype,
    HtmlFile,
    Seq,
    Target,
    Top,
)


@rare_collections()
def inspect_command(
    context: typer.Context,
    target: Target,
    machine: Annotated[
        str,
        typer.Option(help="Names with commas between, 'this', or a TOML file. Default: this one."),
    ] = "",
    phase: Annotated[
        Literal["forward", "train", "prefill", "decode"] | None,
        typer.Option(help="Default: prefill and decode for a language model, else forward."),
    ] = None,
    batch: Batch = None,
    seq: Seq = None,
    cache: Cache = None,
    dtype: Dtype = None,
    ceiling: Annotated[
        Literal["achievable", "datasheet"], typer.Option(help="Measured rates, or the vendor's.")
    ] = "achievable",
    execution: Annotated[
        Literal["compiled", "eager"], typer.Option(help="Fused, or op by op.")
    ] = "compiled",
    optimizer: Annotated[
        Literal["adamw", "sgd", "momentum"], typer.Option(help="For --phase train.")
    ] = "adamw",
    recompute: Annotated[
        Literal["none", "full"],
        typer.Option(help="What backward computes again, for --phase train."),
    ] = "none",
    allow_uncounted: AllowUncounted = False,
    op_list: Annotated[
        bool, typer.Option("--op-list", help="Also list the op kinds and the engines they need.")
    ] = False,
    compare: Annotated[
        str | None, typer.Option(metavar="OTHER_TARGET", help="A second target, side by side.")
    ] = None,
    top: Top = 14,
    as_json: AsJson = False,
    html: HtmlFile = None,
) -> None:
    """What a model costs on a machine, what bounds it, and how fast it could be.

    Nothing runs and no weights are needed. Examples:

      ridgeline inspect zoo:resnet50 --machine H100

      ridgeline inspect path/to/config.json --machine H100,MI300X --dtype bf16 --html report.html

      ridgeline inspect zoo:gpt2 --phase train --batch 8 --json
    """
    from ridgeline.cli.preload import load_torch_beside

    load_torch_beside()
    from ridgeline.cli.readings import Options, read_all
    from ridgeline.report.files import require_place, write_text

    require_place(html)

    options = Options(
        targets=(target,) if compare is None else (target, compare),
        machine=machine,
        phase=phase,
        batch=batch,
        seq=seq,
        cache=cache,
        dtype=dtype,
        ceiling=ceiling,
        execution=execution,
        optimizer=optimizer,
        recompute=recompute,
        allow_uncounted=allow_uncounted,
        is_alone=bool(context.obj),
    )
    readings = read_all(options)
    if html is not None:
        from ridgeline.report.html import inspect_page

        print(f"report: {write_text(html, inspect_page(readings))}", file=sys.stderr)
    if as_json:
        from ridgeline.report.record import to_json

        print(to_json(readings))
        return
    from ridgeline.report.console import console_on
    from ridgeline.report.table import print_readings

    print_readings(console_on(sys.stdout), readings, top=top, has_op_list=op_list)
