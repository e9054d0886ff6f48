"""A monitor's averages per step and rank, in the terminal and as plain values."""

from collections.abc import Sequence
from typing import TextIO

from ridgeline.report.console import console_on, grid, line
from ridgeline.report.page import Cell, Section, table
from ridgeline.report.trace_words import shortened
from ridgeline.traces.sampled import RankSamples
from ridgeline.units import format_percent, significant

_MOST_FIELDS, _MOST_DOUBTS = 4, 5
_MOST_RANKS = 8
_SHOWN = ("tensor_active", "sm_active", "dram_active", "dram_read", "dram_write", "power [W]")


def print_samples(stream: TextIO, found: Sequence[RankSamples], *, monitor: str) -> None:
    """Prints the first fields of every step, beside the share of tensor-core kernels, and where
    the two cannot both be right. monitor: who sampled.
    """
    console = console_on(stream)
    steps = [step for rank in found for step in rank.steps]
    fields = _first([*dict.fromkeys(key for step in steps for key in step.means)])
    console.print()
    line(console, f"Sampled by {monitor}, on average", "bold")
    rows = [
        [
            "-" if step.rank is None else str(step.rank),
            shortened(step.device, 24) or "-",
            shortened(step.step),
            *[significant(step.means[key]) if key in step.means else "-" for key in fields],
            format_percent(step.tensor_core_share),
            format_percent(step.covered_share),
        ]
        for step in steps
    ]
    headers = ["rank", "sampled", "step", *fields, "tensor cores, by name", "covered"]
    grid(console, headers, rows, left=3)
    for rank in found:
        which = "" if rank.rank is None else f" of rank {rank.rank}"
        line(
            console,
            f"Kernels that run on tensor cores by their names{which}: "
            f"{format_percent(rank.tensor_core_share)} of the span.",
        )
    for step in [step for step in steps if step.doubt][:_MOST_DOUBTS]:
        which = "" if step.rank is None else f" of rank {step.rank}"
        line(console, f"In {shortened(step.step)}{which} {step.doubt}.", "yellow")


def _first(fields: Sequence[str]) -> list[str]:
    """Those that are shown: the ones that speak of computing first."""
    ranked = sorted(fields, key=lambda key: _SHOWN.index(key) if key in _SHOWN else len(_SHOWN))
    return ranked[:_MOST_FIELDS]


def samples_sections(found: Sequence[RankSamples], most: int, *, monitor: str) -> list[Section]:
    """The page's table of what was sampled, at most `most` rows; nothing without samples."""
    steps = [step for rank in found for step in rank.steps]
    if not steps:
        return []
    fields = [*dict.fromkeys(key for step in steps for key in step.means)]
    shares = ", ".join(
        f"{format_percent(rank.tensor_core_share)}"
        + ("" if rank.rank is None else f" of rank {rank.rank}")
        for rank in found[:_MOST_RANKS]
    )
    rows = [
        [
            Cell(text="–" if step.rank is None else str(step.rank)),
            Cell(text=step.device or "–"),
            Cell(text=step.step),
            *(_mean(step.means.get(key)) for key in fields),
            Cell(
                text=format_percent(step.covered_share),
                sort=step.covered_share,
                share=step.covered_share,
            ),
        ]
        for step in steps[:most]
    ]
    headers = ["rank", "sampled", "step", *fields, "covered"]
    foot = f"The first {most} of {len(steps):,}." if len(steps) > most else ""
    return [
        Section(
            id=f"run-{monitor.split()[0].lower()}",
            title=f"Sampled by {monitor}, on average",
            lead="Covered: the share of the step that samples cover. Kernels that run on tensor "
            f"cores by their names take of the span: {shares}.",
            body=table(headers, rows, foot=foot),
        )
    ]


def _mean(value: float | None) -> Cell:
    if value is None:
        return Cell(text="–", sort=-1.0)
    return Cell(text=significant(value), sort=value)
