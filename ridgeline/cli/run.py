"""`ridgeline run`: what a saved model computes."""

import json
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ridgeline.cli.options import AsJson, Threads

if TYPE_CHECKING:
    from torch import Tensor

    from ridgeline.backends.artifact import Loaded

Model = Annotated[Path, typer.Argument(metavar="MODEL.ridge", help="As `optimize -o` wrote it.")]
Source = Annotated[
    str, typer.Option("--input", help="A .npz, .npy or .pt file, or random.", metavar="FILE")
]
Trust = Annotated[
    bool, typer.Option("--trust", help="Run native code that someone else saved, as it is.")
]


def run_command(
    model: Model,
    source: Source = "random",
    out: Annotated[
        Path | None, typer.Option("--out", "-o", help="The .npz file to write the outputs to.")
    ] = None,
    threads: Threads = None,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Run a saved model once and say what comes out.

    Examples:

      ridgeline run resnet50.ridge

      ridgeline run bert.ridge --input tokens.npz --out hidden.npz
    """
    from ridgeline.machines.cpu import num_logical_cores
    from ridgeline.machines.threads import torch_threads
    from ridgeline.report.files import require_place
    from ridgeline.report.saved_model import describe, print_outputs

    require_place(out)
    with torch_threads(threads or num_logical_cores()):
        loaded, inputs = loaded_with_inputs(model, source, is_trusted=trust)
        outputs = loaded(*inputs)
    if out is not None:
        from ridgeline.backends.inputs import write_arrays

        write_arrays(out, outputs)
        print(f"saved: {out}", file=sys.stderr)
    if as_json:
        found = {
            "backend": loaded.backend,
            "dtype": loaded.dtype,
            "note": loaded.note,
            "outputs": [describe(o) for o in outputs],
        }
        print(json.dumps(found, indent=1, allow_nan=False))
        return
    print_outputs(sys.stdout, outputs)


def loaded_with_inputs(
    model: Path, source: str, *, is_trusted: bool
) -> "tuple[Loaded, tuple[Tensor, ...]]":
    """The model and what to run it on; a note goes to stderr."""
    from ridgeline.backends.artifact import load
    from ridgeline.backends.inputs import random_inputs, read_inputs
    from ridgeline.graph.flat import example_inputs

    loaded = load(model, is_trusted=is_trusted)
    if loaded.note:
        print(loaded.note, file=sys.stderr)
    if source == "random":
        return loaded, random_inputs(loaded.graph, example_inputs(loaded.graph))
    return loaded, read_inputs(Path(source), loaded.graph)
