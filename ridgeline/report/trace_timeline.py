"""Every rank's time as lanes of bins: what ran, and the colour of why nothing did.

Shapes stretch to the width of the page, text does not: lanes are SVG without text.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum

from ridgeline.report.markup import Html, element, join
from ridgeline.report.trace_colours import CAUSES, colour_key
from ridgeline.report.trace_words import device_name, rank_name, share_of, time_of
from ridgeline.traces.idle import Cause
from ridgeline.traces.rank import RankTrace
from ridgeline.traces.timeline import Timeline

MOST_RANKS = 64
# Of all ranks together: a lane takes about 12 bytes per bin, a strip with its text 250.
_MOST_BINS, _MOST_STRIPS = 4000, 640
_LEAST_BINS, _LEAST_STRIPS = 60, 10
_MOST_MARKS = 60
_LANE, _PITCH = 16, 20  # heights of a lane, and with the space to the next
_NUM_TICKS = 5


@dataclass(frozen=True, slots=True, kw_only=True)
class _Lane:
    """One row of a rank. values: ns of each bin, by CSS class, from the bottom upwards."""

    label: str
    values: tuple[tuple[str, Sequence[int]], ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Axis:
    """The time that all ranks are drawn over. starts_ns: where on it each of them begins."""

    length_ns: int
    starts_ns: tuple[int, ...]


def timeline(ranks: Sequence[RankTrace]) -> Html:
    """The key, a row per rank, and the time below them."""
    shown = ranks[:MOST_RANKS]
    bins = max(_LEAST_BINS, _MOST_BINS // len(shown))
    strips = max(_LEAST_STRIPS, _MOST_STRIPS // len(shown))
    axis = _axis(shown)
    lines = [rank.timeline.coarser(bins) for rank in shown]
    lanes = _lanes_in(lines)
    rows = [
        _rank(rank, line, axis.starts_ns[i], axis.length_ns, lanes, strips)
        for i, (rank, line) in enumerate(zip(shown, lines, strict=True))
    ]
    causes = [cause for cause in Cause if any(cause in line.idle_ns for line in lines)]
    return join([_key(lanes, causes), element("div", *rows, _ticks(axis), class_="timeline")])


class _Sort(Enum):
    """What has a lane, from the top; values are their labels."""

    COMPUTE = "compute"
    TALK = "comm."
    MEMORY = "memory"
    IDLE = "idle"


_KEY = {
    _Sort.COMPUTE: ("compute", "compute"),
    _Sort.TALK: ("talk", "communication"),
    _Sort.MEMORY: ("memory", "copies and fills"),
}


def _lanes_in(lines: Sequence[Timeline]) -> list[_Sort]:
    """The lanes that any rank fills, and compute."""
    found = {
        _Sort.COMPUTE: True,
        _Sort.TALK: any(any(line.communication_ns) for line in lines),
        _Sort.MEMORY: any(any(line.memory_ns) for line in lines),
        _Sort.IDLE: any(line.idle_ns for line in lines),
    }
    return [sort for sort in _Sort if found[sort]]


def _key(lanes: Sequence[_Sort], causes: Sequence[Cause]) -> Html:
    return join(
        [
            colour_key(_KEY[sort] for sort in lanes if sort in _KEY),
            colour_key((CAUSES[cause], f"idle: {cause.value}") for cause in causes),
        ]
    )


def _axis(ranks: Sequence[RankTrace]) -> _Axis:
    """One clock where the recordings say when they began and overlap; else all start at once."""
    begins = [rank.base_time_ns + rank.split.start_ns for rank in ranks]
    ends = [begin + rank.split.span_ns for begin, rank in zip(begins, ranks, strict=True)]
    longest = max(rank.split.span_ns for rank in ranks)
    if max(begins) < min(ends) and max(ends) - min(begins) <= 2 * longest:
        starts = tuple(begin - min(begins) for begin in begins)
        return _Axis(length_ns=max(ends) - min(begins), starts_ns=starts)
    return _Axis(length_ns=longest, starts_ns=(0,) * len(ranks))


def _rank(
    rank: RankTrace,
    line: Timeline,
    start_ns: int,
    length_ns: int,
    sorts: Sequence[_Sort],
    strips: int,
) -> Html:
    lanes = [_lane(sort, line) for sort in sorts]
    height = _PITCH * len(lanes)
    shapes = [_bars(lane, line.edges_ns, _PITCH * i) for i, lane in enumerate(lanes)]
    shapes += _marks(rank, height)
    shapes += _strips(line, strips, height, start_ns)
    left = 100 * start_ns / length_ns
    width = 100 * rank.split.span_ns / length_ns
    drawing = element(
        "svg",
        *shapes,
        viewBox=f"0 0 {_X_UNITS} {height}",
        preserveAspectRatio="none",
        role="img",
        aria_label=f"rank {rank_name(rank)} over time",
        style=f"margin-left:{left:.2f}%;width:{width:.2f}%;height:{height}px",
    )
    labels = element("div", *(element("span", lane.label) for lane in lanes), class_="lanes")
    return element(
        "div", element("p", _title(rank)), labels, element("div", drawing), class_="rank"
    )


def _title(rank: RankTrace) -> str:
    split = rank.split
    who = "" if rank.rank is None else f"rank {rank.rank} · "
    idle = share_of(split.idle_ns, split.span_ns)
    return f"{who}{device_name(rank)} · {time_of(split.span_ns)} · idle {idle}"


def _lane(sort: _Sort, line: Timeline) -> _Lane:
    values: Mapping[_Sort, tuple[tuple[str, Sequence[int]], ...]] = {
        _Sort.COMPUTE: (("compute", line.compute_ns),),
        _Sort.TALK: (("talk", line.communication_ns),),
        _Sort.MEMORY: (("memory", line.memory_ns),),
        _Sort.IDLE: tuple((CAUSES[c], line.idle_ns[c]) for c in Cause if c in line.idle_ns),
    }
    return _Lane(label=sort.value, values=values[sort])


_X_UNITS = 10_000


def _bars(lane: _Lane, edges_ns: Sequence[int], top: int) -> Html:
    """A shape per class, as high in each bin as its share of it, on top of those before."""
    base = [0.0] * (len(edges_ns) - 1)
    parts = [element("rect", x=0, y=top, width=_X_UNITS, height=_LANE, class_="rest")]
    xs = [round(_X_UNITS * edge / edges_ns[-1]) for edge in edges_ns]
    for style, values in lane.values:
        words = []
        for i, value in enumerate(values):
            if not value:
                continue
            height = _LANE * value / (edges_ns[i + 1] - edges_ns[i])
            y, base[i] = top + _LANE - base[i], base[i] + height
            words.append(f"M{xs[i]} {y:.1f}V{y - height:.1f}H{xs[i + 1]}V{y:.1f}Z")
        parts.append(element("path", d="".join(words), class_=style))
    return join(parts)


def _marks(rank: RankTrace, height: int) -> list[Html]:
    """A line where each step begins, unless they would cover everything."""
    if len(rank.steps) > _MOST_MARKS:
        return []
    whole = rank.split
    places = (
        round(_X_UNITS * (s.split.start_ns - whole.start_ns) / whole.span_ns) for s in rank.steps
    )
    return [
        element("path", d=f"M{x} 0V{height}", class_="rule", vector_effect="non-scaling-stroke")
        for x in places
    ]


def _strips(line: Timeline, most: int, height: int, start_ns: int) -> list[Html]:
    """Invisible strips that say what is in them."""
    coarse = line.coarser(most)
    scale = _X_UNITS / coarse.edges_ns[-1]
    return [
        element(
            "rect",
            x=round(scale * coarse.edges_ns[i]),
            y=0,
            width=round(scale * (coarse.edges_ns[i + 1] - coarse.edges_ns[i])),
            height=height,
            class_="hit",
            data_tip=_tip(coarse, i, start_ns),
        )
        for i in range(len(coarse))
    ]


def _tip(line: Timeline, i: int, start_ns: int) -> str:
    low, high = line.edges_ns[i], line.edges_ns[i + 1]
    lanes = (
        ("compute", line.compute_ns),
        ("communication", line.communication_ns),
        ("copies, fills", line.memory_ns),
    )
    ran = [f"{what} {share_of(lane[i], high - low)}" for what, lane in lanes if lane[i]]
    idle = sorted(((lane[i], cause) for cause, lane in line.idle_ns.items()), key=lambda p: -p[0])
    why = [f"idle {share_of(t, high - low)}: {cause.value}" for t, cause in idle[:3] if t]
    at = f"+{(start_ns + low) / 1e6:,.3f} to {(start_ns + high) / 1e6:,.3f} ms"
    return "\n".join([at, *ran, *why])


def _ticks(axis: _Axis) -> Html:
    marks = (i / (_NUM_TICKS - 1) for i in range(_NUM_TICKS))
    return element(
        "div",
        *(
            element("span", time_of(axis.length_ns * at), style=f"left:{100 * at:.0f}%")
            for at in marks
        ),
        class_="ticks",
    )
