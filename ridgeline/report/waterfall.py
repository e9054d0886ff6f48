"""The waterfall of `optimize`: from eager to the bound, measured beside predicted."""

from collections.abc import Sequence
from typing import TextIO

from rich.box import SIMPLE_HEAD
from rich.console import Console
from rich.table import Table
from rich.text import Text

from ridgeline.backends.measure import ENOUGH_CLEAN
from ridgeline.backends.result import Candidate, Optimized, Step
from ridgeline.machines import Machine
from ridgeline.passes.fuse import fuse
from ridgeline.report.fusion import fusion_line
from ridgeline.units import format_percent, format_time, significant

_BAR_WIDTH = 28
_PLAIN_WIDTH = 160
_NONE = "–"
NOISE = (
    "Other programs use this machine: some candidates have hardly a clean sample, so their times "
    "are those of their faster half and the order may be wrong. Run it again when it is quiet."
)


def print_waterfall(stream: TextIO, optimized: Optimized, machine: Machine | None = None) -> None:
    """Prints the verdict, the waterfall, the candidates and what fusion leaves, on `machine` where
    one is given; bars and columns without colour where `stream` is no terminal.
    """
    is_terminal = stream.isatty()
    console = Console(
        file=stream,
        width=None if is_terminal else _PLAIN_WIDTH,
        no_color=not is_terminal,
        highlight=False,
        markup=False,
        emoji=False,
    )
    console.print(Text(verdict(optimized), style="bold"))
    console.print(_steps_table(optimized, "█" if is_terminal else "#"))
    console.print(_candidates_table([optimized.baseline, *optimized.candidates], optimized.best))
    for candidate in (optimized.baseline, *optimized.candidates):
        if candidate.skipped:
            console.print(f"  {candidate.backend} {candidate.dtype} skipped: {candidate.skipped}")
    console.print(f"  {fusion_line(fuse(optimized.graph, machine))}")
    if is_noisy(optimized):
        console.print(f"  {NOISE}")


def is_noisy(optimized: Optimized) -> bool:
    """Whether a candidate that ran has too few clean samples to trust its place."""
    return any(
        c.skipped is None and c.clean_samples < ENOUGH_CLEAN
        for c in (optimized.baseline, *optimized.candidates)
    )


def verdict(optimized: Optimized) -> str:
    """One line: how fast, by what, how much faster, what is left, how exact."""
    best = optimized.best
    head = f"{optimized.graph.name} runs in {_time(best.time_s)} with {best.backend} {best.dtype}"
    gains = []
    if optimized.speedup is not None:
        gains.append(f"{significant(optimized.speedup)}x eager")
    if optimized.roofline_s is not None and best.time_s:
        share = format_percent(optimized.roofline_s / best.time_s)
        gains.append(f"{share} of the achievable roofline")
    if gains:
        head += f": {', '.join(gains)}"
    if best.max_error is not None:
        head += f"; outputs within {best.max_error:.1g} of the reference"
    return f"{head}."


def _steps_table(optimized: Optimized, block: str) -> Table:
    eager = optimized.baseline.time_s
    longest = max((s for step in optimized.waterfall for s in _times(step)), default=0.0)
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("step")
    for name in ("measured", "predicted", "vs eager"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for step in optimized.waterfall:
        time_s = step.measured_s if step.measured_s is not None else step.predicted_s
        table.add_row(
            step.step,
            _time(step.measured_s),
            _time(step.predicted_s),
            f"{significant(eager / time_s)}×" if eager and time_s else _NONE,
            _bar(step, longest, block),
        )
    return table


def _times(step: Step) -> tuple[float, ...]:
    return tuple(t for t in (step.measured_s, step.predicted_s) if t is not None)


def _bar(step: Step, longest: float, block: str) -> Text:
    """Measured as blocks; where the prediction is larger, dots up to it."""
    if longest <= 0:
        return Text("")
    measured, predicted = (
        round(_BAR_WIDTH * (t or 0.0) / longest) for t in (step.measured_s, step.predicted_s)
    )
    bar = Text(block * max(measured, 1 if step.measured_s else 0), style="green")
    return bar.append("·" * max(0, predicted - measured), style="dim")


def _candidates_table(candidates: Sequence[Candidate], best: Candidate) -> Table:
    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    table.add_column("candidate")
    for name in ("median", "spread", "clean samples", "max error", "cosine", "same top-1"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("")
    for candidate in candidates:
        table.add_row(
            f"{candidate.backend} {candidate.dtype}",
            _time(candidate.time_s),
            _time(candidate.spread_s),
            f"{candidate.clean_samples} of {candidate.samples}",
            _NONE if candidate.max_error is None else f"{candidate.max_error:.1e}",
            _NONE if candidate.cosine is None else f"{candidate.cosine:.6f}",
            _NONE if candidate.top1 is None else format_percent(candidate.top1),
            "chosen" if candidate is best else "skipped" if candidate.skipped else "",
        )
    return table


def _time(time_s: float | None) -> str:
    return _NONE if time_s is None else format_time(time_s)
