"""Two recordings side by side, in the terminal and as JSON."""

import json
from dataclasses import asdict
from typing import TextIO

from rich.console import Console

from ridgeline.report.console import console_on, grid, line
from ridgeline.report.plain import Json
from ridgeline.report.trace_words import changed_by, rank_name, shortened, time_of
from ridgeline.traces.diff import Change, Difference, OperatorChange
from ridgeline.traces.rank import RankTrace
from ridgeline.units import format_percent, significant

SCHEMA = 1
_BAR_WIDTH = 30
_LEAST_NAMED = 0.01  # of the first span: what the verdict names
_SAME = 0.005  # below half a percent nobody calls it a change


def print_diff(stream: TextIO, found: Difference, *, top: int) -> None:
    """Prints the verdict, the waterfall by category, and what changed most."""
    console = console_on(stream)
    line(console, diff_verdict(found), "bold")
    for note in diff_notes(found):
        line(console, note, "yellow")
    _waterfall(console, found)
    _operators(console, found, top)


def diff_verdict(found: Difference) -> str:
    """One sentence: faster or slower, by how much, and what made it so."""
    change = found.slowdown
    spans = f"{time_of(found.before_ns)} before, {time_of(found.after_ns)} after"
    if abs(change) < _SAME:
        return f"No slower and no faster: {spans}."
    word, sign = ("slower", 1) if change > 0 else ("faster", -1)
    parts = sorted(found.categories, key=lambda part: -sign * part.change_ns)
    named = [
        f"{part.what} {changed_by(part.change_ns)}"
        for part in parts[:3]
        if sign * part.change_ns > _LEAST_NAMED * found.before_ns
    ]
    why = f"; {', '.join(named)}" if named else ""
    return f"{format_percent(abs(change))} {word}: {spans}{why}."


def diff_notes(found: Difference) -> list[str]:
    """How the recordings were made comparable, and whether their ranks are the same."""
    notes = []
    if found.work_ratio != 1:
        notes.append(
            f"The second did {significant(found.work_ratio)} times the work of the first, by "
            f"{found.basis.value}; its times are for the work of the first. --as-recorded leaves "
            "them."
        )
    if found.before.rank != found.after.rank:
        notes.append(
            f"The longest recording is of rank {rank_name(found.before)} before and of rank "
            f"{rank_name(found.after)} after."
        )
    return notes


def _waterfall(console: Console, found: Difference) -> None:
    """From the first span to the second, a category at a time; bars start where the last ended."""
    console.print()
    line(console, "From before to after", "bold")
    block = "█" if console.is_terminal else "#"
    levels = [found.before_ns]
    for part in found.categories:
        levels.append(levels[-1] + part.change_ns)
    most = max(levels)
    rows = [["before", "", "", time_of(found.before_ns), _bar(0, found.before_ns, most, block)]]
    for part, level in zip(found.categories, levels, strict=False):
        low, high = sorted((level, level + part.change_ns))
        rows.append(_part(part, _bar(low, high, most, block)))
    rows.append(["after", "", "", time_of(found.after_ns), _bar(0, found.after_ns, most, block)])
    headers = ["", "before", "after", "change", ""]
    grid(console, headers, rows, styles=["green"] * len(rows))


def _part(part: Change, bar: str) -> list[str]:
    return [
        part.what,
        time_of(part.before_ns),
        time_of(part.after_ns),
        changed_by(part.change_ns),
        bar,
    ]


def _bar(low: float, high: float, most: float, block: str) -> str:
    first, last = (round(_BAR_WIDTH * at / most) for at in (low, high))
    return " " * first + (block * (last - first) or "|")


def _operators(console: Console, found: Difference, top: int) -> None:
    if not found.operators:
        return
    console.print()
    line(console, "Operators, what changed most first (time on the device)", "bold")
    has_modules = any(one.module for one in found.operators)
    headers = [*["module"] * has_modules, "operator", "runs before", "after", "time before"]
    headers += ["after", "change", "longest kernel"]
    rows = [_operator(one, has_modules) for one in found.operators[:top]]
    count = 1 + has_modules
    if len(found.operators) > top:
        rows.append([f"{len(found.operators) - top:,} more", *[""] * (len(headers) - 1)])
    grid(console, headers, rows, left=count, text=(len(headers) - 1,))


def _operator(one: OperatorChange, has_modules: bool) -> list[str]:
    return [
        *[shortened(one.module, 28) or "-"] * has_modules,
        shortened(one.op, 44),
        runs_of(one.before_count),
        runs_of(one.after_count),
        time_of(one.before_ns) if one.before_count else "-",
        time_of(one.after_ns) if one.after_count else "-",
        changed_by(one.change_ns),
        _kernels(one),
    ]


def runs_of(count: float) -> str:
    """How often something ran; of unequal work, that may be no whole number."""
    return f"{count:,.0f}" if count == int(count) else f"{count:,.1f}"


def _kernels(one: OperatorChange) -> str:
    """The longest kernel, or both where it is another."""
    names = [name for name in (one.before_kernel, one.after_kernel) if name]
    if one.before_kernel == one.after_kernel or len(names) == 1:
        return shortened(names[0], 60)
    return f"{shortened(names[0], 40)} -> {shortened(names[1], 40)}"


def diff_json(found: Difference) -> str:
    """The record as one JSON object. Its keys are stable."""
    record: dict[str, Json] = {
        "schema": SCHEMA,
        "verdict": diff_verdict(found),
        "notes": diff_notes(found),
        "before": _side(found.before),
        "after": _side(found.after),
        "work_ratio": found.work_ratio,
        "basis": found.basis.name.lower(),
        "before_ns": found.before_ns,
        "after_ns": found.after_ns,
        "slowdown": found.slowdown,
        "categories": [{**asdict(part), "change_ns": part.change_ns} for part in found.categories],
        "operators": [{**asdict(one), "change_ns": one.change_ns} for one in found.operators],
    }
    return json.dumps(record, indent=1, ensure_ascii=False, allow_nan=False)


def _side(rank: RankTrace) -> Json:
    return {"source": rank.source, "rank": rank.rank, "span_ns": rank.split.span_ns}
