"""`ridgeline inspect`: what a model costs on a machine, without running it."""

import sys
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from ridgeline.cli.collector import rare_collections


class PhaseOption(StrEnum):
    """Phases as the command line spells them."""

    FORWARD = "forward"
    TRAIN = "train"
    PREFILL = "prefill"
    DECODE = "decode"


class CeilingOption(StrEnum):
    """Ceilings as the command line spells them."""

    ACHIEVABLE = "achievable"
    DATASHEET = "datasheet"


class ExecutionOption(StrEnum):
    """Executions as the command line spells them."""

    COMPILED = "compiled"
    EAGER = "eager"


class RecomputeOption(StrEnum):
    """Recomputations as the command line spells them."""

    NONE = "none"
    FULL = "full"


class OptimizerOption(StrEnum):
    """Optimizers as the command line spells them."""

    ADAMW = "adamw"
    SGD = "sgd"
    MOMENTUM = "momentum"


@rare_collections()
def inspect_command(
    context: typer.Context,
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="zoo:NAME, FILE.py:FUNCTION, FILE.pt2, a Hugging Face folder, config.json or id.",
        ),
    ],
    machine: Annotated[
        str,
        typer.Option(help="Names with commas between, 'this', or a TOML file. Default: this one."),
    ] = "",
    phase: Annotated[
        PhaseOption | None,
        typer.Option(help="Default: prefill and decode for a language model, else forward."),
    ] = None,
    batch: Annotated[int | None, typer.Option(help="Samples at once.")] = None,
    seq: Annotated[int | None, typer.Option(help="Tokens, or pixels per side.")] = None,
    cache: Annotated[int | None, typer.Option(help="Tokens already in the KV cache.")] = None,
    dtype: Annotated[str | None, typer.Option(help="fp32, bf16 or fp16.")] = None,
    ceiling: Annotated[
        CeilingOption, typer.Option(help="Measured rates, or the vendor's.")
    ] = CeilingOption.ACHIEVABLE,
    execution: Annotated[
        ExecutionOption, typer.Option(help="Fused, or op by op.")
    ] = ExecutionOption.COMPILED,
    optimizer: Annotated[
        OptimizerOption, typer.Option(help="For --phase train.")
    ] = OptimizerOption.ADAMW,
    recompute: Annotated[
        RecomputeOption, typer.Option(help="What backward computes again, for --phase train.")
    ] = RecomputeOption.NONE,
    allow_uncounted: Annotated[
        bool, typer.Option("--allow-uncounted", help="List ops without a cost rule, do not fail.")
    ] = False,
    op_list: Annotated[
        bool, typer.Option("--op-list", help="Also list the op kinds and the engines they need.")
    ] = False,
    compare: Annotated[
        str | None, typer.Option(metavar="OTHER_TARGET", help="A second target, side by side.")
    ] = None,
    top: Annotated[int, typer.Option(min=1, help="Rows per table.")] = 14,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")
    ] = False,
    html: Annotated[Path | None, typer.Option(help="Also write one offline HTML page.")] = None,
) -> None:
    """What a model costs on a machine, what bounds it, and how fast it could be.

    Nothing runs and no weights are needed. Examples:

      ridgeline inspect zoo:resnet50 --machine H100

      ridgeline inspect path/to/config.json --machine H100,MI300X --dtype bf16 --html report.html

      ridgeline inspect zoo:gpt2 --phase train --batch 8 --json
    """
    from ridgeline.cli.readings import Options, read_all
    from ridgeline.report.files import require_place, write_text

    require_place(html)

    options = Options(
        targets=(target,) if compare is None else (target, compare),
        machine=machine,
        phase=phase.value if phase else None,
        batch=batch,
        seq=seq,
        cache=cache,
        dtype=dtype,
        ceiling=ceiling.value,
        execution=execution.value,
        optimizer=optimizer.value,
        recompute=recompute.value,
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
    from ridgeline.report.table import console_on, print_readings

    print_readings(console_on(sys.stdout), readings, top=top, has_op_list=op_list)
