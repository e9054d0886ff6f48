"""Memory on a trace's page: the curve over time, and what lived at its peak."""

from collections.abc import Sequence

from ridgeline.report.markup import Html, element, elided, join
from ridgeline.report.page import Section
from ridgeline.report.plots import Frame, Scale, both, line, svg, text
from ridgeline.report.trace_colours import colour_key
from ridgeline.report.trace_words import share_of, time_of
from ridgeline.traces.memory_timeline import LiveMemory, MemoryTimeline
from ridgeline.units import counted, format_bytes

_WIDE = Frame(width=1000, height=250, left=78, top=14)
_NARROW = Frame(width=380, height=220, left=78, right=8, top=14)
_MOST_LIVE = 20
_MOST_HITS = 100
_SHARES = (0.0, 0.25, 0.5, 0.75, 1.0)
_KEY = (("plain", "allocated"), ("reserved", "reserved by the allocator"))


def memory_section(found: MemoryTimeline | None, which: str) -> list[Section]:
    """The memory of one rank; nothing where it was not recorded. which: "" or " of rank 3"."""
    if found is None:
        return []
    peak = format_bytes(found.peak_allocated_bytes)
    lead = (
        f"{peak} allocated at the peak, {time_of(found.peak_ns)} after the first allocation that "
        f"was recorded; {format_bytes(found.peak_reserved_bytes)} reserved at most"
    )
    if found.capacity_bytes:
        lead += f", of {format_bytes(found.capacity_bytes)} that the device has"
    body = [colour_key(_KEY), both(lambda frame: _plot(frame, found), _WIDE, _NARROW)]
    if found.live:
        body += [element("p", f"What lived at the peak{which}, by operator", class_="lead")]
        body += [_live(found.live, found.peak_allocated_bytes)]
    title = f"Memory of the {found.device}{which}"
    return [Section(id="run-memory", title=title, lead=f"{lead}.", body=join(body))]


def _plot(frame: Frame, found: MemoryTimeline) -> Html:
    end_ns = max(1, found.curve[-1][0])
    high = max(1, found.peak_allocated_bytes, found.peak_reserved_bytes)
    x = Scale(low=0, high=end_ns, start=frame.left, end=frame.x1)
    y = Scale(low=0, high=high * 1.05, start=frame.y0, end=frame.top)
    parts = _grid(frame, x, y, high, end_ns)
    allocated = _path([(ns, used) for ns, used, _ in found.curve], x, y)
    reserved = _path([(ns, held) for ns, _, held in found.curve], x, y)
    area = f"{allocated}V{frame.y0}H{frame.left}Z"
    parts += [element("path", d=area, class_="area")]
    parts += [element("path", d=allocated, class_="curve")]
    parts += [element("path", d=reserved, class_="roof thin")] if found.peak_reserved_bytes else []
    at = (x(found.peak_ns), y(found.peak_allocated_bytes))
    parts += [element("circle", cx=at[0], cy=at[1], r=4, class_="mark")]
    parts += _hits(frame, found, x)
    peak = format_bytes(found.peak_allocated_bytes)
    return svg(frame, parts, f"memory over time, {peak} at most")


def _grid(frame: Frame, x: Scale, y: Scale, high: int, end_ns: int) -> list[Html]:
    parts = []
    for share in _SHARES:
        at = y(high * share)
        parts.append(line(frame.left, at, frame.x1, at, "grid"))
        words = format_bytes(round(high * share))
        parts.append(text(frame.left - 6, at + 4, words, anchor="end"))
    for share in _SHARES if frame is _WIDE else _SHARES[::2]:
        anchor = "start" if share == 0 else "end" if share == 1 else "middle"
        parts.append(text(x(end_ns * share), frame.y0 + 18, time_of(end_ns * share), anchor=anchor))
    return parts


def _path(points: Sequence[tuple[int, int]], x: Scale, y: Scale) -> str:
    first, *rest = points
    words = [f"M{x(first[0]):.1f} {y(first[1]):.1f}"]
    return "".join([*words, *(f"H{x(ns):.1f}V{y(nbytes):.1f}" for ns, nbytes in rest)])


def _hits(frame: Frame, found: MemoryTimeline, x: Scale) -> list[Html]:
    """Invisible strips that say the most in them."""
    stride = max(1, -(-len(found.curve) // _MOST_HITS))
    edges = [x(point[0]) for point in found.curve] + [float(frame.x1)]
    strips = []
    for i in range(0, len(found.curve), stride):
        ns, used, held = max(found.curve[i : i + stride], key=lambda point: point[1])
        right = edges[min(i + stride, len(found.curve))]
        strips.append(
            element(
                "rect",
                x=edges[i],
                y=frame.top,
                width=max(1.0, right - edges[i]),
                height=frame.y0 - frame.top,
                class_="hit",
                data_tip=f"+{time_of(ns)}\nallocated {format_bytes(used)}\n"
                f"reserved {format_bytes(held)}",
            )
        )
    return strips


def _live(live: Sequence[LiveMemory], peak_bytes: int) -> Html:
    rows = [
        _row(elided(one.op, 80) or "before the recording, or in no operator", one, peak_bytes)
        for one in live[:_MOST_LIVE]
    ]
    if len(live) > _MOST_LIVE:
        rest = LiveMemory(
            op="",
            nbytes=sum(one.nbytes for one in live[_MOST_LIVE:]),
            num_blocks=sum(one.num_blocks for one in live[_MOST_LIVE:]),
        )
        rows.append(_row(counted(len(live) - _MOST_LIVE, "other operator"), rest, peak_bytes))
    return element("div", *rows, class_="bars causes")


def _row(label: str, one: LiveMemory, peak_bytes: int) -> Html:
    width = 100 * one.nbytes / max(1, peak_bytes)
    fill = element("span", class_="fill plain", style=f"width:{min(100.0, width):.2f}%")
    return element(
        "div",
        element("span", label),
        element("span", fill, class_="track"),
        element("span", f"{format_bytes(one.nbytes)} · {share_of(one.nbytes, peak_bytes)}"),
        class_="bar-row",
        data_tip=f"{label}\n{format_bytes(one.nbytes)} in {counted(one.num_blocks, 'block')}",
    )
