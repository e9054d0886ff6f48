"""`ridgeline zoo`: the models that come along."""

import json
import sys
from typing import Annotated

import typer


def zoo_command(
    as_json: Annotated[
        bool, typer.Option("--json", help="One JSON array on stdout, nothing else.")
    ] = False,
) -> None:
    """List the models that come with Ridgeline, with published facts. Use one as zoo:NAME.

    ridgeline zoo

    ridgeline inspect zoo:vit-b-16 --machine H100
    """
    from ridgeline import zoo

    workloads = [zoo.get(name) for name in zoo.names()]
    if as_json:
        keys = ("parameters", "flops", "causal_flops", "source")
        records = [
            {"name": w.name, "phases": list(w.forms), "runs_here": w.runs_here}
            | {key: getattr(w.facts, key) for key in keys}
            for w in workloads
        ]
        print(json.dumps(records, indent=1))
        return
    from ridgeline.report.console import console_on, grid
    from ridgeline.units import format_count

    rows = [
        [
            f"zoo:{w.name}",
            format_count(w.facts.parameters) if w.facts.parameters else "-",
            format_count(w.facts.flops, "FLOP") if w.facts.flops else "-",
            ", ".join([*w.forms, "train"]),
            "yes" if w.runs_here else "inspect only",
            w.facts.source,
        ]
        for w in workloads
    ]
    headers = ["target", "parameters", "FLOPs", "phases", "runs here", "source of the facts"]
    grid(console_on(sys.stdout), headers, rows, text=(3, 4, 5))
