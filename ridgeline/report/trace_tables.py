"""The tables of a trace's page: ranks, steps, gaps, kernels, operators."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from ridgeline.report.markup import Html
from ridgeline.report.page import Cell, table
from ridgeline.report.trace_colours import CAUSES, kernel_style
from ridgeline.report.trace_words import (
    device_name,
    rank_name,
    share_of,
    shorter_shapes,
    time_of,
    unit_words,
)
from ridgeline.traces.host_operators import HostOperator
from ridgeline.traces.matrix_time import MatrixTime
from ridgeline.traces.rank import NamedGap, RankTrace
from ridgeline.traces.split import Split
from ridgeline.traces.tensor_cores import FIXES
from ridgeline.traces.usage import KernelUse, OperatorUse
from ridgeline.units import format_count, format_percent

if TYPE_CHECKING:
    from ridgeline.traces.work import OperatorWork, Work

_NONE = "–"
_SPLIT = ("span", "compute", "exposed comm.", "memory", "idle", "communication", "overlapped")


def _time(ns: float) -> Cell:
    return Cell(text=time_of(ns), sort=ns)


def _share(share: float) -> Cell:
    return Cell(text=format_percent(share), sort=share, share=share)


def _count(count: int) -> Cell:
    return Cell(text=f"{count:,}", sort=count)


def _part(part_ns: int, whole_ns: int) -> Cell:
    return Cell(
        text=share_of(part_ns, whole_ns), sort=part_ns, share=part_ns / whole_ns if whole_ns else 0
    )


def _split_cells(split: Split) -> list[Cell]:
    span_ns, overlap = split.span_ns, split.overlap_share
    return [
        _time(span_ns),
        _part(split.compute_ns, span_ns),
        _part(split.exposed_communication_ns, span_ns),
        _part(split.memory_ns, span_ns),
        _part(split.idle_ns, span_ns),
        Cell(
            text=time_of(split.communication_ns) if split.communication_ns else _NONE,
            sort=split.communication_ns,
        ),
        Cell(text=_NONE if overlap is None else format_percent(overlap), sort=overlap or 0.0),
    ]


def ranks_table(ranks: Sequence[RankTrace], most: int) -> Html:
    """A row per rank."""
    rows = [
        [Cell(text=rank_name(rank)), Cell(text=device_name(rank)), *_split_cells(rank.split)]
        for rank in ranks[:most]
    ]
    return table(["rank", "device", *_SPLIT], rows, foot=_rest(len(ranks), most))


def steps_table(rank: RankTrace, most: int) -> Html:
    """A row per step."""
    rows = [[Cell(text=step.name), *_split_cells(step.split)] for step in rank.steps[:most]]
    return table(["step", *_SPLIT], rows, foot=_rest(len(rank.steps), most))


def gaps_table(gaps: Sequence[NamedGap]) -> Html:
    """The longest gaps, what ended them and who was the cause."""
    headers = ["idle for", "at", "cause", "until", "operator", "call", "line"]
    rows = [
        [
            _time(gap.duration_ns),
            Cell(text=f"+{gap.start_ns / 1e6:,.3f} ms", sort=gap.start_ns),
            Cell(text=gap.cause.value, style=f"cause {CAUSES[gap.cause]}"),
            Cell(text=gap.next or _NONE),
            Cell(text=gap.op or _NONE),
            Cell(text=gap.call or _NONE),
            Cell(text=gap.line or _NONE),
        ]
        for gap in gaps
    ]
    return _filled(headers, rows, f"The {len(rows)} longest.")


_KERNEL_HEADERS = (
    *("time", "share", "kernel", "what", "unit", "precision", "operator", "module"),
    *("shapes", "count", "mean", "min", "max", "could use tensor cores"),
)


def kernels_table(kernels: Sequence[KernelUse], most: int) -> Html:
    """A row per kernel, copy and fill, the longest first."""
    rows = [_kernel_row(use) for use in kernels[:most]]
    return _filled(_KERNEL_HEADERS, rows, _rest(len(kernels), most))


def _kernel_row(use: KernelUse) -> list[Cell]:
    why = use.tensor_core.why if use.tensor_core.reason.is_eligible else ""
    return [
        _time(use.total_ns),
        _share(use.share),
        Cell(text=use.name, style=f"cause {kernel_style(use.what)}", tip=use.what.reason),
        Cell(text=use.what.op.value),
        Cell(text=unit_words(use.what)),
        Cell(text=use.what.precision.value),
        Cell(text=use.op or _NONE),
        Cell(text=use.module or _NONE),
        Cell(text=shorter_shapes(use.shapes) or _NONE),
        _count(use.count),
        _time(use.mean_ns),
        _time(use.min_ns),
        _time(use.max_ns),
        Cell(text=why or _NONE, style="long" if why else ""),
    ]


def operators_table(operators: Sequence[OperatorUse], work: "Work | None", most: int) -> Html:
    """A row per operator and shapes; beside its bound where that was computed."""
    headers = ["time", "share", "operator", "shapes", "calls", "kernels"]
    beside: Mapping[int, OperatorWork] = {}
    if work is not None:
        headers += ["dtype", "FLOP/s", "bytes/s", "of achievable", "of datasheet", "bound"]
        beside = {id(one.use): one for one in work.operators}
    rows = []
    for use in operators[:most]:
        cells = [
            _time(use.total_ns),
            _share(use.share),
            Cell(text=use.name),
            Cell(text=shorter_shapes(use.shapes) or _NONE),
            _count(use.count),
            _count(use.num_kernels),
        ]
        rows.append(cells + (_work_cells(beside.get(id(use))) if work is not None else []))
    return _filled(headers, rows, _rest(len(operators), most))


def _work_cells(one: "OperatorWork | None") -> list[Cell]:
    if one is None:
        missing = Cell(text=_NONE, sort=-1.0)
        return [Cell(text=_NONE), *[missing] * 4, Cell(text=_NONE)]
    return [
        Cell(text=one.dtype),
        Cell(text=format_count(one.flops_per_s) if one.cost.flops else _NONE, sort=one.flops_per_s),
        Cell(text=format_count(one.bytes_per_s), sort=one.bytes_per_s),
        Cell(text=format_percent(one.achievable_fraction), sort=one.achievable_fraction),
        Cell(text=format_percent(one.datasheet_fraction), sort=one.datasheet_fraction),
        Cell(text=one.bound.value, style=one.bound.value),
    ]


def host_operators_table(operators: Sequence[HostOperator], most: int) -> Html:
    """A row per operator of the host, by own time."""
    rows = [
        [
            _time(one.self_ns),
            _share(one.share),
            Cell(text=one.name),
            _count(one.count),
            _time(one.mean_self_ns),
            _time(one.total_ns),
        ]
        for one in operators[:most]
    ]
    headers = ["own time", "share", "operator", "calls", "own, each", "with what it calls"]
    return _filled(headers, rows, _rest(len(operators), most))


def matrix_table(found: MatrixTime) -> Html:
    """A row per reason why products were not on tensor cores though they could be."""
    headers = ["time", "share", "why not", "to change it", "kernels", "the longest", "of which"]
    rows = [
        [
            _time(one.time_ns),
            _share(one.time_ns / found.device_ns),
            Cell(text=one.reason.value, style="long"),
            Cell(text=FIXES[one.reason], style="long"),
            _count(one.num_kernels),
            Cell(text=one.example.name),
            Cell(text=one.example.tensor_core.why, style="long"),
        ]
        for one in found.eligible
    ]
    return table(headers, rows)


def _filled(headers: Sequence[str], rows: Sequence[Sequence[Cell]], foot: str) -> Html:
    """A searchable table without the columns in which nothing was recorded."""
    kept = [i for i in range(len(headers)) if any(row[i].text != _NONE for row in rows)]
    return table(
        [headers[i] for i in kept],
        [[row[i] for i in kept] for row in rows],
        is_searchable=True,
        foot=foot,
    )


def _rest(count: int, most: int) -> str:
    return f"The first {most} of {count:,}; ridgeline trace --json has all." if count > most else ""
