"""A monitor's averages per step and rank, in the terminal and as plain values."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from typing import TextIO

from ridgeline.report.console import console_on, grid, line
from ridgeline.report.page import Cell, Section, table
from ridgeline.report.trace_words import shortened
from ridgeline.traces.sampled import RankSamples
from ridgeline.units import format_percent, significant

Json = None | bool | int | float | str | Sequence["Json"] | Mapping[str, "Json"]
_MOST_FIELDS = 6
_MOST_RANKS = 8


def samples_record(found: Sequence[RankSamples]) -> list[Json]:
    """The key `dcgm` of the record."""
    return [asdict(rank) for rank in found]


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


def samples_sections(found: Sequence[RankSamples], most: int) -> list[Section]:
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
            id="run-sampled",
            title="Sampled by DCGM, on average",
            lead="Covered: the share of the step that samples cover. Kernels that run on tensor "
            f"cores by their names take of the span: {shares}.",
            body=table(headers, rows, foot=foot),
        )
    ]


def _mean(value: float | None) -> Cell:
    if value is None:
        return Cell(text="–", sort=-1.0)
    return Cell(text=significant(value), sort=value)
