"""`ridgeline bench`: how fast a saved model runs here."""

import json
import sys
from typing import Annotated

import typer

from ridgeline.cli.options import AsJson, Threads
from ridgeline.cli.run import Model, Source, Trust, loaded_with_inputs


def bench_command(
    model: Model,
    source: Source = "random",
    threads: Threads = None,
    repeats: Annotated[int, typer.Option(min=2, help="Samples at least.")] = 10,
    trust: Trust = False,
    as_json: AsJson = False,
) -> None:
    """Measure a saved model, in turns with its graph run eagerly in fp32.

    Example: ridgeline bench resnet50.ridge --threads 1
    """
    from ridgeline.backends.bench import bench
    from ridgeline.machines.cpu import num_logical_cores
    from ridgeline.machines.threads import torch_threads
    from ridgeline.report.saved_model import print_bench

    with torch_threads(threads or num_logical_cores()):
        loaded, inputs = loaded_with_inputs(model, source, is_trusted=trust)
        found = bench(loaded, inputs, repeats=repeats)
    if as_json:
        print(json.dumps(found.as_dict(), indent=1, allow_nan=False))
        return
    print_bench(sys.stdout, found)
