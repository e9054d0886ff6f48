"""`ridgeline optimize`: make a model as fast as it gets here, checked, and save it."""

import json
import sys
from enum import StrEnum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

if TYPE_CHECKING:
    from ridgeline.backends.choose import Predict, Progress


class DtypeOption(StrEnum):
    """Precisions as the command line spells them."""

    FP32 = "fp32"
    BF16 = "bf16"


class PhaseOption(StrEnum):
    """The phases that run without an optimizer, as the command line spells them."""

    FORWARD = "forward"
    PREFILL = "prefill"
    DECODE = "decode"


def optimize_command(
    target: Annotated[
        str,
        typer.Argument(
            metavar="TARGET",
            help="zoo:NAME, FILE.py:FUNCTION, FILE.pt2, or a Hugging Face folder, config or id.",
        ),
    ],
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The .ridge file to write.")
    ] = None,
    machine: Annotated[
        str, typer.Option(help="For the predictions: a name or a TOML file. Default: this one.")
    ] = "",
    phase: Annotated[PhaseOption, typer.Option()] = PhaseOption.FORWARD,
    batch: Annotated[int | None, typer.Option(help="Samples at once.")] = None,
    seq: Annotated[int | None, typer.Option(help="Tokens, or pixels per side.")] = None,
    cache: Annotated[int | None, typer.Option(help="Tokens already in the KV cache.")] = None,
    dtype: Annotated[
        list[DtypeOption] | None, typer.Option(help="Precisions to try; may be repeated.")
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="Backends to try; may be repeated.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(min=0.0, help="Largest error over largest output. Default: 1e-4, bf16 5e-2."),
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Passes to leave out.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Default: all cores.")] = None,
    repeats: Annotated[int, typer.Option(min=2, help="Clean samples per candidate.")] = 10,
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON object on stdout, nothing else.")
    ] = False,
) -> None:
    """Fold, compile and lower the precision, keep the fastest whose outputs stay right.

    Every candidate is measured on this machine and checked against the op-by-op reference.
    Loading the written file runs native code. Examples:

      ridgeline optimize zoo:resnet50 -o resnet50.ridge

      ridgeline optimize zoo:bert-base --seq 128 --dtype fp32 --json
    """
    from ridgeline.backends.artifact import save
    from ridgeline.backends.choose import optimize
    from ridgeline.frontends import Request, capture, load_model
    from ridgeline.graph import Phase
    from ridgeline.graph.flat import example_inputs
    from ridgeline.report.files import require_place
    from ridgeline.report.waterfall import print_waterfall

    require_place(out)
    predict = prediction(machine)
    request = Request(target=target, phase=Phase(phase.value), batch=batch, seq=seq, cache=cache)
    model = load_model(request)
    graph = capture(
        model.module, model.inputs, kwargs=model.kwargs, phase=request.phase, name=model.name
    )
    result = optimize(
        graph,
        example_inputs(graph),
        machine=machine or "this",
        tolerance=tolerance,
        dtypes=[d.value for d in dtype] if dtype else ("fp32", "bf16"),
        backends=backend,
        skip=skip or (),
        repeats=repeats,
        threads=threads,
        progress=progress_on_stderr(),
        predict=predict,
    )
    if out is not None:
        save(result, out)
        print(f"saved: {out}", file=sys.stderr)
    if as_json:
        print(json.dumps(result.as_dict(), indent=1, allow_nan=False))
        return
    print_waterfall(sys.stdout, result)


def prediction(machine: str) -> "Predict | None":
    """Predictions for the machine named, or for this one where it is calibrated; else none, and
    says so.
    """
    from ridgeline import machines
    from ridgeline.backends.predict import predictor

    if machine or machines.this_path().is_file():
        return predictor(machines.load(machine or "this"))
    print(
        "This machine is not calibrated, so nothing is predicted: `ridgeline machines calibrate`.",
        file=sys.stderr,
    )
    return None


def progress_on_stderr() -> "Progress":
    """A callback that shows each stage: a line that updates on a terminal, else one per stage."""
    shown: set[str] = set()

    def show(stage: str, fraction: float) -> None:
        if sys.stderr.isatty():
            end = "\n" if fraction >= 1 else ""
            print(f"\r{stage}: {fraction:4.0%}", end=end, file=sys.stderr, flush=True)
        elif stage not in shown:
            shown.add(stage)
            print(f"{stage} …", file=sys.stderr, flush=True)

    return show
