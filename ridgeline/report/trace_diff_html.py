"""The page of `trace diff`: the verdict, from one span to the other, operators by change."""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from pathlib import Path

from ridgeline.report.markup import Html, element, elided, join
from ridgeline.report.page import Cell, Group, Page, Section, render, table
from ridgeline.report.trace_colours import colour_key
from ridgeline.report.trace_definitions import TERMS, definitions_section
from ridgeline.report.trace_diff import diff_notes, diff_verdict, runs_of
from ridgeline.report.trace_tables import ranks_table
from ridgeline.report.trace_words import changed_by, shortened, time_of
from ridgeline.traces.diff import Change, Difference, OperatorChange
from ridgeline.units import format_percent

_MEGABYTE = 1_000_000
_ROWS = (250, 120, 60, 25, 10)
"""Operators listed, fewer where names are so long that the page would pass a megabyte."""
_MOST_BARS, _MOST_LABEL = 12, 44
_NONE = "–"
_KEY = (("compute", "span"), ("c-host", "takes longer"), ("talk", "takes less"))


def diff_page(found: Difference) -> str:
    """One offline HTML page, under a megabyte."""
    page = ""
    for most in _ROWS:
        page = _page(found, most)
        if len(page.encode()) < _MEGABYTE:
            break
    return page


def _page(found: Difference, most: int) -> str:
    sections = (_waterfall(found), *_changes(found), _sides(found), *_operators(found, most))
    group = Group(id="diff", title="What changed", verdict="", sections=sections)
    return render(
        Page(
            title="ridgeline trace diff",
            verdict=diff_verdict(found),
            notes=tuple(diff_notes(found)),
            groups=(group,),
            sections=(definitions_section(TERMS),),
        )
    )


def _waterfall(found: Difference) -> Section:
    """Bars of categories, each from where the one above it ended."""
    levels = [*accumulate((part.change_ns for part in found.categories), initial=found.before_ns)]
    floor_ns, most_ns = _axis(levels)
    steps = zip(found.categories, pairwise(levels), strict=True)
    spans = (("before", found.before_ns), ("after", found.after_ns))
    before, after = (
        _bar(name, 0.0, (ns - floor_ns) / (most_ns - floor_ns), "compute", time_of(ns), "")
        for name, ns in spans
    )
    rows = [before, *(_step(part, ends, floor_ns, most_ns) for part, ends in steps), after]
    body = join([colour_key(_KEY), element("div", *rows, class_="bars changes")])
    lead = "Categories make up the span: idle time by cause, and what ran."
    if floor_ns:
        lead += f" The axis begins at {time_of(floor_ns)}, not at zero."
    return Section(id="diff-waterfall", title="From before to after", lead=lead, body=body)


def _axis(levels: Sequence[float]) -> tuple[float, float]:
    """From where to where bars are drawn: cut where the changes would be too small to see."""
    low, high = min(levels), max(1.0, *levels)
    return (low - (high - low) if low > high / 2 and high > low else 0.0), high


def _step(part: Change, ends: tuple[float, float], floor_ns: float, most_ns: float) -> Html:
    style = "c-host" if part.change_ns > 0 else "talk"
    tip = f"{time_of(part.before_ns)} before, {time_of(part.after_ns)} after"
    start, end = ((ns - floor_ns) / (most_ns - floor_ns) for ns in ends)
    return _bar(part.what, start, end, style, changed_by(part.change_ns), tip)


def _bar(label: str, start: float, end: float, style: str, words: str, tip: str) -> Html:
    """One bar between two shares of the axis."""
    low, high = sorted((100 * start, 100 * end))
    place = f"left:{low:.2f}%;width:{high - low:.2f}%"
    fill = element("span", class_=f"fill {style}", style=place)
    return element(
        "div",
        element("span", shortened(label, _MOST_LABEL)),
        element("span", fill, class_="track"),
        element("span", words),
        class_="bar-row",
        data_tip=f"{elided(label)}\n{tip}" if tip else None,
    )


def _changes(found: Difference) -> list[Section]:
    """The operators that changed most, to both sides of a middle line."""
    changed = [one for one in found.operators if one.change_ns][:_MOST_BARS]
    if not changed:
        return []
    most = max(abs(one.change_ns) for one in changed)
    rows = [_change(one, most) for one in changed]
    return [
        Section(
            id="diff-changes",
            title="What changed most",
            lead="Time on the device, by operator: less to the left, more to the right.",
            body=element("div", *rows, class_="bars changes"),
        )
    ]


def _change(one: OperatorChange, most: float) -> Html:
    reach = 0.5 + one.change_ns / (2 * most)  # on an axis from -most to most
    style = "c-host" if one.change_ns > 0 else "talk"
    tip = f"{time_of(one.before_ns)} before, {time_of(one.after_ns)} after"
    if one.module:
        tip = f"{one.module}\n{tip}"
    return _bar(one.op, 0.5, reach, style, changed_by(one.change_ns), tip)


def _sides(found: Difference) -> Section:
    """Both recordings as they are, whatever work they hold."""
    sides = (("before", found.before), ("after", found.after))
    body = join(
        [
            join([element("p", f"{name}: {Path(rank.source).name}"), ranks_table((rank,), 1)])
            for name, rank in sides
        ]
    )
    return Section(id="diff-sides", title="Both as recorded", body=body)


def _operators(found: Difference, most: int) -> list[Section]:
    if not found.operators:
        return []
    headers = ["change", "of span", "module", "operator", "time before", "after"]
    headers += ["runs before", "after", "kernel before", "after"]
    rows = [_cells(one, found.before_ns) for one in found.operators[:most]]
    kept = [i for i in range(len(headers)) if any(row[i].text != _NONE for row in rows)]
    count = len(found.operators)
    foot = f"The first {most} of {count:,}; --json has all." if count > most else ""
    return [
        Section(
            id="diff-operators",
            title="Operators by change",
            body=table(
                [headers[i] for i in kept],
                [[row[i] for i in kept] for row in rows],
                is_searchable=True,
                foot=foot,
            ),
        )
    ]


def _cells(one: OperatorChange, before_ns: float) -> Sequence[Cell]:
    style = "cause c-host" if one.change_ns > 0 else "cause talk"
    share = abs(one.change_ns) / before_ns
    return [
        Cell(text=changed_by(one.change_ns), sort=one.change_ns),
        Cell(text=format_percent(share), sort=share, share=share),
        Cell(text=one.module or _NONE),
        Cell(text=one.op, style=style if one.change_ns else ""),
        _time(one.before_ns, one.before_count),
        _time(one.after_ns, one.after_count),
        Cell(text=runs_of(one.before_count), sort=one.before_count),
        Cell(text=runs_of(one.after_count), sort=one.after_count),
        Cell(text=one.before_kernel or _NONE),
        Cell(text=one.after_kernel or _NONE),
    ]


def _time(ns: float, count: float) -> Cell:
    return Cell(text=time_of(ns) if count else "-", sort=ns)
