"""A monitor's averages per step and rank, in the terminal and as plain values."""

from collections.abc import Sequence
from typing import TextIO

from ridgeline.report.console import console_on, grid, line
from ridgeline.report.trace_words import shortened
from ridgeline.traces.sampled import RankSamples
from ridgeline.units import format_percent, significant

_MOST_FIELDS = 6


def print_samples(stream: TextIO, found: Sequence[RankSamples]) -> None:
    """Prints the first fields of every step, beside the share of tensor-core kernels."""
    console = console_on(stream)
    steps = [step for rank in found for step in rank.steps]
    fields = [*dict.fromkeys(key for step in steps for key in step.means)][:_MOST_FIELDS]
    console.print()
    line(console, "Sampled by DCGM, on average", "bold")
    rows = [
        [
            "-" if step.rank is None else str(step.rank),
            shortened(step.device, 24) or "-",
            shortened(step.step),
            *[significant(step.means[key]) if key in step.means else "-" for key in fields],
            format_percent(step.covered_share),
        ]
        for step in steps
    ]
    grid(console, ["rank", "sampled", "step", *fields, "covered"], rows, left=3)
    for rank in found:
        which = "" if rank.rank is None else f" of rank {rank.rank}"
        line(
            console,
            f"Kernels that run on tensor cores by their names{which}: "
            f"{format_percent(rank.tensor_core_share)} of the span.",
        )
