"""The page of `trace`: what is in each section, from a trace."""

from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING

from ridgeline.report.markup import element, join
from ridgeline.report.page import Group, Page, Section, render
from ridgeline.report.trace_causes import fix_sections, idle_sections
from ridgeline.report.trace_collectives import collective_sections
from ridgeline.report.trace_colours import KERNELS, colour_key, kernel_style
from ridgeline.report.trace_definitions import TERMS, definitions_section
from ridgeline.report.trace_memory import memory_section
from ridgeline.report.trace_paths import paths_icicle
from ridgeline.report.trace_pipeline import pipeline_sections
from ridgeline.report.trace_samples import samples_sections
from ridgeline.report.trace_tables import (
    gaps_table,
    host_operators_table,
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
    slowest,
    verdict,
)
from ridgeline.traces.bubbles import pipeline_steps
from ridgeline.traces.matrix_time import matrix_time
from ridgeline.traces.rank import RankTrace
from ridgeline.traces.sampled import RankSamples
from ridgeline.traces.skew import match_collectives
from ridgeline.traces.trace import Trace

if TYPE_CHECKING:
    from ridgeline.traces.work import Work

_MEGABYTE = 1_000_000
_ROWS = (250, 120, 60, 25, 10)
"""Rows per table, fewer where names are so long that the page would pass a megabyte."""
_MOST_DOTS = 160


def trace_page(
    trace: Trace,
    work: "Work | None" = None,
    sampled: Sequence[RankSamples] = (),
    counters: Sequence[RankSamples] = (),
) -> str:
    """One offline HTML page, under a megabyte whatever the number of events; `work` of the longest
    recording where it was computed, `sampled` where DCGM's log was joined, `counters` where the
    recordings hold samples themselves.
    """
    page = ""
    for most in _ROWS:
        page = _page(trace, work, {"DCGM": sampled, "Nsight Systems": counters}, most)
        if len(page.encode("utf-8", "backslashreplace")) < _MEGABYTE:
            break
    return page


def _page(
    trace: Trace, work: "Work | None", sampled: Mapping[str, Sequence[RankSamples]], most: int
) -> str:
    rank = slowest(trace.ranks)
    which = f" of rank {rank_name(rank)}" if len(trace.ranks) > 1 else ""
    sections = [
        *fix_sections(rank, which),
        _timeline(trace),
        *pipeline_sections(pipeline_steps(trace.ranks)),
        *idle_sections(rank, which),
        *_gaps(rank, which),
        *collective_sections(match_collectives(trace.ranks), most),
        _ranks(trace, most),
        *_steps(rank, which, most),
        *chain.from_iterable(
            samples_sections(found, most, monitor=monitor) for monitor, found in sampled.items()
        ),
        *_paths(rank, which),
        *_roofline(work),
        *_matrix(rank, which),
        *_kernels(rank, which, most),
        *_operators(rank, which, work, most),
        *_host_operators(rank, which, most),
        *memory_section(rank.memory, which),
        *_launches(rank, which),
    ]
    group = Group(id="run", title="Where the time went", verdict="", sections=tuple(sections))
    return render(
        Page(
            title=f"ridgeline trace {_sources(trace.ranks)}",
            verdict=verdict(trace),
            notes=tuple(notes(trace)),
            groups=(group,),
            sections=(definitions_section(TERMS),),
        )
    )


def _sources(ranks: Sequence[RankTrace]) -> str:
    first = Path(ranks[0].source).name
    return first if len(ranks) == 1 else f"{first} and {len(ranks) - 1} more"


def _timeline(trace: Trace) -> Section:
    lead = "Each lane is filled as high as the share of that moment in which something of the "
    lead += "sort ran."
    if any(rank.idle_causes for rank in trace.ranks):
        lead += " The last lane is the time in which nothing did, coloured by why."
    if len(trace.ranks) > MOST_RANKS:
        lead += f" The first {MOST_RANKS} of {len(trace.ranks)} ranks."
    return Section(id="run-timeline", title="Over time", lead=lead, body=timeline(trace.ranks))


def _gaps(rank: RankTrace, which: str) -> list[Section]:
    if not rank.gaps:
        return []
    return [
        Section(
            id="run-gaps",
            title="Longest gaps",
            lead=f"Times{which} are after the first event on the device. Call: what blocked the "
            "host, else what launched the next kernel.",
            body=gaps_table(rank.gaps),
        )
    ]


def _ranks(trace: Trace, most: int) -> Section:
    title = "Ranks" if len(trace.ranks) > 1 else "Totals"
    lead = "Compute, exposed communication, memory and idle make up the span."
    return Section(id="run-ranks", title=title, lead=lead, body=ranks_table(trace.ranks, most))


def _steps(rank: RankTrace, which: str, most: int) -> list[Section]:
    if not rank.steps:
        return []
    title = f"Steps{which}"
    return [Section(id="run-steps", title=title, body=steps_table(rank, most))]


def _paths(rank: RankTrace, which: str) -> list[Section]:
    if not rank.paths:
        return []
    return [
        Section(
            id="run-paths",
            title="Who launched it",
            lead=f"Time on the device{which}, by module where recorded, operator and kernel; "
            "heights are times. A click filters the kernels below.",
            body=join([colour_key(_kernel_keys(rank)), paths_icicle(rank.paths, rank.kernels)]),
        )
    ]


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


def _matrix(rank: RankTrace, which: str) -> list[Section]:
    if not rank.kernels:
        return []
    found = matrix_time(rank.kernels)
    return [
        Section(
            id="run-matrix",
            title=f"Tensor cores{which}",
            lead=matrix_words(found),
            body=matrix_table(found) if found.eligible else join([]),
        )
    ]


def _kernels(rank: RankTrace, which: str, most: int) -> list[Section]:
    if not rank.kernels:
        return []
    return [
        Section(
            id="run-kernels",
            title=f"Kernels, copies and fills{which}",
            lead="What a kernel is follows from its name and its operator's types; hover over the "
            "name for the rule. A click on a header sorts.",
            body=kernels_table(rank.kernels, most),
        )
    ]


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


def _host_operators(rank: RankTrace, which: str, most: int) -> list[Section]:
    if not rank.host_operators:
        return []
    return [
        Section(
            id="run-host-operators",
            title=f"Operators of the host{which}",
            lead="By their own time, that is, without what they call.",
            body=host_operators_table(rank.host_operators, most),
        )
    ]


def _launches(rank: RankTrace, which: str) -> list[Section]:
    if rank.launches is None:
        return []
    body = element("p", launch_words(rank.launches))
    return [Section(id="run-launches", title=f"Launches{which}", body=body)]
