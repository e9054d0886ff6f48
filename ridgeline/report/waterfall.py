"""The waterfall of `optimize`: from eager to the bound, measured beside predicted."""

from typing import TextIO

from rich.console import Console

from ridgeline.backends.measure import ENOUGH_CLEAN
from ridgeline.backends.result import Optimized, Step
from ridgeline.machines import Machine
from ridgeline.passes.fuse import fuse
from ridgeline.report.console import console_on, grid, line
from ridgeline.report.fusion import fusion_line
from ridgeline.units import format_percent, format_time, significant

_BAR_WIDTH = 28
_NONE = "–"
NOISE = (
    "Other programs use this machine: some candidates have hardly a clean sample, so their times "
    "are those of their faster half and the order may be wrong. Run it again when it is quiet."
)


def print_waterfall(stream: TextIO, optimized: Optimized, machine: Machine | None = None) -> None:
    """Prints the verdict, the waterfall, the candidates and what fusion leaves, on `machine` where
    one is given; bars and columns without colour where `stream` is no terminal.
    """
    console = console_on(stream)
    line(console, verdict(optimized), "bold")
    console.print()
    _steps(console, optimized)
    console.print()
    _candidates(console, optimized)
    for candidate in (optimized.baseline, *optimized.candidates):
        if candidate.skipped:
            line(console, f"  {candidate.backend} {candidate.dtype} skipped: {candidate.skipped}")
    line(console, f"  {fusion_line(fuse(optimized.graph, machine))}")
    if is_noisy(optimized):
        line(console, f"  {NOISE}")


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
        gains.append(_against_eager(optimized.speedup))
    if optimized.roofline_s is not None and best.time_s:
        share = format_percent(optimized.roofline_s / best.time_s)
        gains.append(f"{share} of the achievable roofline")
    if gains:
        head += f": {', '.join(gains)}"
    if best.max_error is not None:
        head += f"; outputs within {best.max_error:.1g} of the reference"
    return f"{head}."


def _against_eager(speedup: float) -> str:
    if speedup < 1:
        return f"{significant(1 / speedup)} times slower than eager"
    return f"{significant(speedup)}x eager"


def _steps(console: Console, optimized: Optimized) -> None:
    eager = optimized.baseline.time_s
    longest = max((s for step in optimized.waterfall for s in _times(step)), default=0.0)
    rows = []
    for step in optimized.waterfall:
        time_s = step.measured_s if step.measured_s is not None else step.predicted_s
        rows.append(
            [
                step.step,
                _time(step.measured_s),
                _time(step.predicted_s),
                f"{significant(eager / time_s)}×" if eager and time_s else _NONE,
                _bar(step, longest, "█" if console.is_terminal else "#"),
            ]
        )
    headers = ["step", "measured", "predicted", "vs eager", "of the longest"]
    grid(console, headers, rows, styles=["green"] * len(rows))


def _times(step: Step) -> tuple[float, ...]:
    return tuple(t for t in (step.measured_s, step.predicted_s) if t is not None)


def _bar(step: Step, longest: float, block: str) -> str:
    """Measured as blocks; where the prediction is larger, dots up to it."""
    measured, predicted = (
        round(_BAR_WIDTH * (t or 0.0) / longest) if longest > 0 else 0
        for t in (step.measured_s, step.predicted_s)
    )
    blocks = block * max(measured, 1 if step.measured_s else 0)
    return blocks + "·" * max(0, predicted - measured)


def _candidates(console: Console, optimized: Optimized) -> None:
    headers = ["candidate", "median", "spread", "clean samples", "max error", "cosine"]
    headers += ["same top-1", "outcome"]
    rows = [
        [
            f"{candidate.backend} {candidate.dtype}",
            _time(candidate.time_s),
            _time(candidate.spread_s),
            f"{candidate.clean_samples} of {candidate.samples}",
            _NONE if candidate.max_error is None else f"{candidate.max_error:.1e}",
            _NONE if candidate.cosine is None else f"{candidate.cosine:.6f}",
            _NONE if candidate.top1 is None else format_percent(candidate.top1),
            "chosen" if candidate is optimized.best else "skipped" if candidate.skipped else "",
        ]
        for candidate in (optimized.baseline, *optimized.candidates)
    ]
    grid(console, headers, rows, text=[len(headers) - 1])


def _time(time_s: float | None) -> str:
    return _NONE if time_s is None else format_time(time_s)
