"""Collectives on a trace's page: who came when, what was transfer and what was waiting."""

from collections.abc import Sequence

from ridgeline.report.markup import Html, element, elided, join
from ridgeline.report.page import Cell, Section, table
from ridgeline.report.trace_colours import colour_key
from ridgeline.report.trace_words import time_of
from ridgeline.traces.skew import Arrival, Matched, Skew, Wait
from ridgeline.units import counted, format_bytes, format_rate

_MOST_CARDS, _MOST_ARRIVALS = 12, 16
_MOST_WAITS = 60
_NONE = "–"
_KEY = (("wait", "waits for the last rank"), ("talk", "transfer"))


def collective_sections(skew: Skew, most: int) -> list[Section]:
    """What collectives show, each part where it was recorded; at most `most` rows per table."""
    return [*_arrivals(skew), *_waits(skew.waits), *_collectives(skew, most)]


def _arrivals(skew: Skew) -> list[Section]:
    whole = [one for one in skew.matched if one.is_whole and one.skew_ns]
    if not whole:
        return []
    worst = sorted(whole, key=lambda one: -one.skew_ns)[:_MOST_CARDS]
    waited_ns = sum(arrival.wait_ns for one in whole for arrival in one.arrivals)
    which = f" Below, the {len(worst)} of most skew." if len(worst) < len(whole) else ""
    lead = (
        f"Ranks waited {time_of(waited_ns)} in all in {counted(len(whole), 'collective')}.{which} "
        "A row per rank, from its arrival to the end, which is the same for all, so that no clocks "
        "are compared. Each has its own scale."
    )
    cards = element("div", *(_card(one) for one in worst), class_="cards")
    return [
        Section(
            id="run-arrivals",
            title="Arrivals at collectives",
            lead=lead,
            body=join([colour_key(_KEY), cards]),
        )
    ]


def _card(one: Matched) -> Html:
    """A collective: its ranks in order of arrival, the last named."""
    longest_ns = one.transfer_ns + one.skew_ns
    ordered = sorted(one.arrivals, key=lambda arrival: -arrival.wait_ns)
    head = _MOST_ARRIVALS // 2
    is_cut = len(ordered) > _MOST_ARRIVALS
    shown = [*ordered[:head], *ordered[-head:]] if is_cut else ordered
    rows = [_row(one, arrival, longest_ns) for arrival in shown]
    if is_cut:
        rows.insert(head, element("p", f"{len(ordered) - 2 * head} ranks between", class_="foot"))
    size = "" if one.nbytes is None else f" · {format_bytes(one.nbytes)}"
    title = f"{one.name} #{one.sequence}{size}"
    last = f"skew {time_of(one.skew_ns)}, transfer {time_of(one.transfer_ns)}"
    return element(
        "div",
        element("p", element("strong", elided(title, 60)), element("span", last)),
        *rows,
        class_="card",
    )


def _row(one: Matched, arrival: Arrival, longest_ns: int) -> Html:
    wait, transfer = (100 * ns / longest_ns for ns in (arrival.wait_ns, one.transfer_ns))
    is_last = arrival.rank == one.last
    label = f"rank {arrival.rank}"
    bars = (
        element(
            "span",
            class_="fill wait",
            style=f"left:{100 - wait - transfer:.2f}%;width:{wait:.2f}%",
        ),
        element(
            "span", class_="fill talk", style=f"left:{100 - transfer:.2f}%;width:{transfer:.2f}%"
        ),
    )
    return element(
        "div",
        element("span", label),
        element("span", *(bars if arrival.wait_ns else bars[1:]), class_="track"),
        element("span", "last" if is_last else time_of(arrival.wait_ns)),
        class_="bar-row last" if is_last else "bar-row",
        data_tip=f"{label} {'came last' if is_last else f'waited {time_of(arrival.wait_ns)}'}\n"
        f"transfer {time_of(one.transfer_ns)}",
    )


def _waits(waits: Sequence[Wait]) -> list[Section]:
    if not waits:
        return []
    longest_ns = waits[0].wait_ns
    rows = [
        [
            Cell(text=f"rank {one.rank}", sort=one.rank),
            Cell(text=f"rank {one.on}", sort=one.on),
            Cell(text=time_of(one.wait_ns), sort=one.wait_ns, share=one.wait_ns / longest_ns),
            Cell(text=f"{one.num_collectives:,}", sort=one.num_collectives),
        ]
        for one in waits[:_MOST_WAITS]
    ]
    foot = f"The first {_MOST_WAITS} of {len(waits):,}." if len(waits) > _MOST_WAITS else ""
    headers = ["rank", "waited for", "time", "collectives"]
    body = element("div", table(headers, rows, foot=foot), class_="slim")
    return [Section(id="run-waits", title="Who waited for whom", body=body)]


def _collectives(skew: Skew, most: int) -> list[Section]:
    if not skew.matched:
        return []
    longest = sorted(skew.matched, key=lambda one: -one.transfer_ns)
    lead = "Transfer: the shortest time that a rank was in it; of one not seen whole, at most that."
    if skew.num_unmatched:
        lead += f" Left out: {counted(skew.num_unmatched, 'place')} where ranks differ."
    headers = ["collective", "group", "ranks seen", "size", "transfer", "bus", "skew", "last"]
    rows = [_cells(one) for one in longest[:most]]
    foot = f"The first {most} of {len(longest):,}." if len(longest) > most else ""
    return [
        Section(
            id="run-collectives",
            title="Collectives",
            lead=lead,
            body=table(headers, rows, is_searchable=True, foot=foot),
        )
    ]


def _cells(one: Matched) -> list[Cell]:
    bus = one.bus_bytes_per_s
    is_known = one.is_whole and one.skew_ns > 0
    return [
        Cell(text=f"{one.name} #{one.sequence}"),
        Cell(text=elided(one.group, 40) or _NONE),
        Cell(text=f"{len(one.arrivals)} of {one.size or '?'}"),
        Cell(
            text=_NONE if one.nbytes is None else format_bytes(one.nbytes),
            sort=-1.0 if one.nbytes is None else one.nbytes,
        ),
        Cell(text=time_of(one.transfer_ns), sort=one.transfer_ns),
        Cell(text=_NONE if bus is None else format_rate(bus, "B"), sort=bus or -1.0),
        Cell(text=time_of(one.skew_ns) if one.is_whole else _NONE, sort=one.skew_ns),
        Cell(text=f"rank {one.last}" if is_known else _NONE),
    ]
