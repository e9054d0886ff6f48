"""The page of `trace`: what is in each section, from a trace."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from ridgeline.report.markup import Html, element, join
from ridgeline.report.page import Group, Page, Section, definitions, render
from ridgeline.report.trace_colours import CAUSES, KERNELS, colour_key, kernel_style
from ridgeline.report.trace_definitions import TERMS
from ridgeline.report.trace_paths import paths_icicle
from ridgeline.report.trace_tables import (
    gaps_table,
    kernels_table,
    matrix_table,
    operators_table,
    ranks_table,
    steps_table,
)
from ridgeline.report.trace_timeline import MOST_RANKS, timeline
from ridgeline.report.trace_words import (
    launch_words,
    matrix_words,
    notes,
    rank_name,
    share_of,
    slowest,
    span_range,
    time_of,
    verdict,
)
from ridgeline.traces.fixes import Fix
from ridgeline.traces.idle import EXPLANATIONS
from ridgeline.traces.matrix_time import matrix_time
from ridgeline.traces.rank import IdleCause, RankTrace
from ridgeline.traces.trace import Trace
from ridgeline.units import format_percent

if TYPE_CHECKING:
    from ridgeline.traces.work import Work

_MEGABYTE = 1_000_000
_ROWS = (250, 120, 60, 25, 10)
"""Rows per table, fewer where names are so long that the page would pass a megabyte."""
_MOST_DOTS = 160


def trace_page(trace: Trace, work: "Work | None" = None) -> str:
    """One offline HTML page, under a megabyte whatever the number of events; `work` of the longest
    recording where it was computed.
    """
    page = ""
    for most in _ROWS:
        page = _page(trace, work, most)
        if len(page.encode("utf-8", "backslashreplace")) < _MEGABYTE:
            break
    return page


def _page(trace: Trace, work: "Work | None", most: int) -> str:
    rank = slowest(trace.ranks)
    which = f" of rank {rank_name(rank)}" if len(trace.ranks) > 1 else ""
    sections = [
        *_fixes(rank, which),
        _timeline(trace),
        _idle(rank, which),
        _gaps(rank, which),
        _ranks(trace, most),
        *_steps(rank, which, most),
        _paths(rank, which),
        *_roofline(work),
        _matrix(rank, which),
        _kernels(rank, which, most),
        *_operators(rank, which, work, most),
        *_launches(rank, which),
    ]
    group = Group(id="run", title="Where the time went", verdict="", sections=tuple(sections))
    return render(
        Page(
            title=f"ridgeline trace {_sources(trace.ranks)}",
            verdict=verdict(trace),
            notes=tuple(notes(trace)),
            groups=(group,),
            sections=(Section(id="definitions", title="Definitions", body=definitions(TERMS)),),
        )
    )


def _sources(ranks: Sequence[RankTrace]) -> str:
    first = Path(ranks[0].source).name
    return first if len(ranks) == 1 else f"{first} and {len(ranks) - 1} more"


def _fixes(rank: RankTrace, which: str) -> list[Section]:
    if not rank.fixes:
        return []
    rows = [_fix(fix, rank.split.span_ns) for fix in rank.fixes]
    key = colour_key((("fill-left", "span then"), ("fill-range", "between the two replays")))
    return [
        Section(
            id="run-fixes",
            title="What fixing it would gain",
            lead=f"Each alone, by replaying{which or ' the recording'} without the cause: the time "
            "that is left, and the gain. Idle time is never subtracted.",
            body=join([key, element("div", *rows, class_="bars fixes")]),
        )
    ]


def _fix(fix: Fix, span_ns: int) -> Html:
    gain, share, left = span_range(fix, span_ns)
    least, most = 100 * (1 - fix.high_ns / span_ns), 100 * (1 - fix.low_ns / span_ns)
    track = element(
        "span",
        element("span", class_="fill fill-range", style=f"width:{most:.2f}%"),
        element("span", class_="fill fill-left", style=f"width:{least:.2f}%"),
        class_="track",
    )
    return element(
        "div",
        element("span", fix.what),
        track,
        element("span", f"−{gain} ({share})"),
        class_="bar-row",
        data_tip=f"{fix.what}\ngains {gain}, {share} of the span\nspan then {left}",
    )


def _timeline(trace: Trace) -> Section:
    lead = "Each lane is filled as high as the share of that moment in which something of the "
    lead += "sort ran. The last lane is the time in which nothing did, coloured by why."
    if len(trace.ranks) > MOST_RANKS:
        lead += f" The first {MOST_RANKS} of {len(trace.ranks)} ranks."
    return Section(id="run-timeline", title="Over time", lead=lead, body=timeline(trace.ranks))


def _idle(rank: RankTrace, which: str) -> Section:
    longest_ns = max((cause.idle_ns for cause in rank.idle_causes), default=1)
    rows = [_cause(cause, longest_ns, rank.split.span_ns) for cause in rank.idle_causes]
    body = element("div", *rows, class_="bars causes") if rows else element("p", "It never was.")
    return Section(
        id="run-idle",
        title="Why it was idle",
        lead=f"All idle time{which}: each gap has one cause. A click lists the longest of a cause.",
        body=body,
    )


def _cause(cause: IdleCause, longest_ns: int, span_ns: int) -> Html:
    width = f"width:{100 * cause.idle_ns / longest_ns:.2f}%"
    words = f"{time_of(cause.idle_ns)} · {share_of(cause.idle_ns, span_ns)} of span"
    return element(
        "button",
        element("span", cause.cause.value),
        element(
            "span",
            element("span", class_=f"fill {CAUSES[cause.cause]}", style=width),
            class_="track",
        ),
        element("span", words),
        type="button",
        class_="bar-row",
        data_tip=f"{EXPLANATIONS[cause.cause]}\n{cause.num_gaps:,} gaps, "
        f"{format_percent(cause.share)} of idle time",
        data_filter=cause.cause.value,
        data_table="run-gaps",
    )


def _gaps(rank: RankTrace, which: str) -> Section:
    return Section(
        id="run-gaps",
        title="Longest gaps",
        lead=f"Times{which} are after the first event on the device. Call: what blocked the host, "
        "else what launched the next kernel.",
        body=gaps_table(rank.gaps),
    )


def _ranks(trace: Trace, most: int) -> Section:
    title = "Ranks" if len(trace.ranks) > 1 else "Totals"
    lead = "Compute, exposed communication, memory and idle make up the span."
    return Section(id="run-ranks", title=title, lead=lead, body=ranks_table(trace.ranks, most))


def _steps(rank: RankTrace, which: str, most: int) -> list[Section]:
    if not rank.steps:
        return []
    title = f"Steps{which}"
    return [Section(id="run-steps", title=title, body=steps_table(rank, most))]


def _paths(rank: RankTrace, which: str) -> Section:
    return Section(
        id="run-paths",
        title="Who launched it",
        lead=f"Time on the device{which}, by module where recorded, operator and kernel; heights "
        "are times. A click filters the kernels below.",
        body=join([colour_key(_kernel_keys(rank)), paths_icicle(rank.paths, rank.kernels)]),
    )


def _kernel_keys(rank: RankTrace) -> list[tuple[str, str]]:
    used = {kernel_style(use.what) for use in rank.kernels}
    return [(style, words) for style, words in KERNELS.items() if style in used]


def _roofline(work: "Work | None") -> list[Section]:
    if work is None:
        return []
    from ridgeline.report.trace_work import work_roofline, work_words

    return [
        Section(
            id="run-roofline",
            title=f"Operators on {work.machine.name}",
            lead=work_words(work),
            body=work_roofline(work, _MOST_DOTS),
        )
    ]


def _matrix(rank: RankTrace, which: str) -> Section:
    found = matrix_time(rank.kernels)
    return Section(
        id="run-matrix",
        title=f"Tensor cores{which}",
        lead=matrix_words(found),
        body=matrix_table(found) if found.eligible else Html(""),
    )


def _kernels(rank: RankTrace, which: str, most: int) -> Section:
    return Section(
        id="run-kernels",
        title=f"Kernels, copies and fills{which}",
        lead="What a kernel is follows from its name and its operator's types; hover over the name "
        "for the rule. A click on a header sorts.",
        body=kernels_table(rank.kernels, most),
    )


def _operators(rank: RankTrace, which: str, work: "Work | None", most: int) -> list[Section]:
    if not rank.operators:
        return []
    return [
        Section(
            id="run-operators",
            title=f"Operators{which}",
            lead="By what they launched, per name and shapes.",
            body=operators_table(rank.operators, work, most),
        )
    ]


def _launches(rank: RankTrace, which: str) -> list[Section]:
    if rank.launches is None:
        return []
    body = element("p", launch_words(rank.launches))
    return [Section(id="run-launches", title=f"Launches{which}", body=body)]
