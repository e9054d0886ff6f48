"""`ridgeline optimize`: make a model as fast as it gets here, checked, and save it."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli.options import AsJson, Batch, Cache, HtmlFile, RunPhase, Seq, Target, Threads

if TYPE_CHECKING:
    from ridgeline.backends.backend import Dtype
    from ridgeline.backends.choose import Progress
    from ridgeline.machines import Machine


def optimize_command(
    target: Target,
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The .ridge file to write.")
    ] = None,
    machine: Annotated[
        str, typer.Option(help="For the predictions: a name or a TOML file. Default: this one.")
    ] = "",
    phase: RunPhase = "forward",
    batch: Batch = None,
    seq: Seq = None,
    cache: Cache = None,
    dtypes: Annotated[
        str, typer.Option(help="Precisions to try, in this order: fp32, bf16, int8.")
    ] = "fp32,bf16",
    calibrate: Annotated[
        str | None,
        typer.Option(
            metavar="DIR|random",
            help="Inputs that int8 takes its ranges from. Default: those of the run.",
        ),
    ] = None,
    backend: Annotated[
        list[str] | None, typer.Option(help="Backends to try; may be repeated.")
    ] = None,
    tolerance: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Largest error over largest output. Default: 1e-4, bf16 5e-2, int8 1e-1."
        ),
    ] = None,
    skip: Annotated[list[str] | None, typer.Option(help="Passes to leave out.")] = None,
    threads: Threads = None,
    repeats: Annotated[int, typer.Option(min=2, help="Clean samples per candidate.")] = 10,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Try again what was slower in an earlier run.")
    ] = False,
    split: Annotated[
        bool,
        typer.Option(help="Also try the graph in parts, on the two fastest backends in turns."),
    ] = True,
    as_json: AsJson = False,
    html: HtmlFile = None,
) -> None:
    """Fold, compile and lower the precision, keep the fastest whose outputs stay right.

    Every candidate is measured on this machine and checked against the op-by-op reference.
    The written file holds native code, which runs as it is only for the user who wrote it; for
    others, ridgeline.load compiles it anew from its graph. Examples:

      ridgeline optimize zoo:resnet50 -o resnet50.ridge

      ridgeline optimize zoo:bert-base --seq 128 --dtypes fp32,bf16,int8 --html report.html
    """
    from ridgeline.backends.artifact import save
    from ridgeline.backends.choices import Choices
    from ridgeline.backends.choose import optimize
    from ridgeline.backends.inputs import calibration_sets
    from ridgeline.backends.predict import predictor
    from ridgeline.frontends import Request, capture, load_model
    from ridgeline.graph import Phase
    from ridgeline.graph.flat import example_inputs
    from ridgeline.machines.threads import require_threads
    from ridgeline.report.files import require_place
    from ridgeline.report.waterfall import print_waterfall

    for place in (out, html):
        require_place(place)
    require_threads(threads)
    precisions = parsed_dtypes(dtypes)
    described = predicted_machine(machine)
    request = Request(target=target, phase=Phase(phase), batch=batch, seq=seq, cache=cache)
    model = load_model(request)
    graph = capture(
        model.module, model.inputs, kwargs=model.kwargs, phase=request.phase, name=model.name
    )
    inputs = example_inputs(graph)
    result = optimize(
        graph,
        inputs,
        machine=machine or "this",
        tolerance=tolerance,
        dtypes=precisions,
        backends=backend,
        calibration=calibration_sets(calibrate, graph, inputs) if calibrate else (),
        skip=skip or (),
        repeats=repeats,
        threads=threads,
        progress=progress_on_stderr(),
        predict=predictor(described) if described else None,
        choices=Choices.of_user(),
        is_fresh=fresh,
        may_split=split,
    )
    if out is not None:
        save(result, out)
        print(f"saved: {out}", file=sys.stderr)
    if html is not None:
        from ridgeline.report.files import write_text
        from ridgeline.report.optimize_html import optimize_page

        print(f"report: {write_text(html, optimize_page(result, described))}", file=sys.stderr)
    if as_json:
        print(json.dumps(result.as_dict(), indent=1, allow_nan=False))
        return
    print_waterfall(sys.stdout, result, described)


def parsed_dtypes(text: str) -> "list[Dtype]":
    """The precisions in a list with commas, each once. Raises BackendError for an unknown one."""
    from ridgeline.backends.backend import DTYPE_CHOICES
    from ridgeline.errors import BackendError

    names = list(dict.fromkeys(name.strip() for name in text.split(",")))
    known: list[Dtype] = [dtype for name in names for dtype in DTYPE_CHOICES if dtype == name]
    if len(known) < len(names):
        strange = next(name for name in names if name not in DTYPE_CHOICES)
        raise BackendError(
            f"--dtypes has {strange!r}; it takes {', '.join(DTYPE_CHOICES)}, with commas between."
        )
    return known


def predicted_machine(name: str) -> "Machine | None":
    """The machine named, or this one where it is calibrated; else none, and says so."""
    from ridgeline import machines

    if name or machines.this_path().is_file():
        return machines.load(name or "this")
    print(
        "This machine is not calibrated, so nothing is predicted: `ridgeline machines calibrate`.",
        file=sys.stderr,
    )
    return None


def progress_on_stderr() -> "Progress":
    """A callback that shows each stage: a line that updates on a terminal, else one per stage."""
    shown: set[tuple[str, bool]] = set()

    def show(stage: str, fraction: float) -> None:
        step = (stage, fraction >= 1)
        if (stage, True) in shown:
            return  # what goes on after its end, for want of clean samples, is the same stage
        if sys.stderr.isatty():
            end = "\n" if fraction >= 1 else ""
            print(f"\r{stage}: {fraction:4.0%}{'':24}", end=end, file=sys.stderr, flush=True)
        elif (stage, False) not in shown:
            print(f"{stage} …", file=sys.stderr, flush=True)
        shown.update({step, (stage, False)})

    return show
