"""What an `xplane.pb` holds: planes (a device, the host), their lines (a stream, a thread), and the
tables that name events and statistics. Source: xplane.proto of OpenXLA (tsl/profiler)."""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ridgeline.traces.columns import Json
from ridgeline.traces.protobuf import Span, Torn, double, fields, signed, text

_SPACE_PLANE = 1
_PLANE_NAME, _PLANE_LINE, _PLANE_EVENTS, _PLANE_STATS, _PLANE_STAT = 2, 3, 4, 5, 6
_LINE_ID, _LINE_NAME, _LINE_TIME, _LINE_EVENT, _LINE_DISPLAY = 1, 2, 3, 4, 11
_MAP_KEY, _MAP_VALUE = 1, 2
_META_NAME, _META_DISPLAY = 2, 4
EVENT_METADATA, EVENT_OFFSET, EVENT_DURATION, EVENT_STAT = 1, 2, 3, 4
STAT_METADATA, STAT_DOUBLE, STAT_UINT, STAT_INT, STAT_TEXT, STAT_BYTES, STAT_REF = range(1, 8)


@dataclass(frozen=True, slots=True, kw_only=True)
class Line:
    """A row of a plane's timeline. time_ns: what its events' offsets count from."""

    id: int
    name: str
    time_ns: int
    events: tuple[Span, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Plane:
    """A plane with its tables: event and statistic names by id, and the statistics of the plane."""

    span: Span
    name: str
    lines: tuple[Line, ...]
    event_names: Mapping[int, str]
    stat_names: Mapping[int, str]
    stats: tuple[Span, ...]


def planes(data: bytes) -> tuple[tuple[Plane, ...], str]:
    """The planes of a file, and what is torn off, in words: "" for a whole file. A plane's names
    stand behind its events, so that one that is torn off is of no use."""
    found: list[Plane] = []
    try:
        for number, value in fields(data, Span(0, len(data))):
            if number == _SPACE_PLANE and isinstance(value, Span):
                found.append(_plane(data, value))
    except Torn as error:
        return tuple(found), str(error)
    return tuple(found), ""


def _plane(data: bytes, span: Span) -> Plane:
    parts: dict[int, list[Span]] = {}
    for number, value in fields(data, span):
        if isinstance(value, Span):
            parts.setdefault(number, []).append(value)
    names = parts.get(_PLANE_NAME, [])
    return Plane(
        span=span,
        name=text(data, names[-1]) if names else "",
        lines=tuple(_line(data, line) for line in parts.get(_PLANE_LINE, ())),
        event_names=dict(_entry(data, one) for one in parts.get(_PLANE_EVENTS, ())),
        stat_names=dict(_entry(data, one) for one in parts.get(_PLANE_STATS, ())),
        stats=tuple(parts.get(_PLANE_STAT, ())),
    )


def _entry(data: bytes, span: Span) -> tuple[int, str]:
    """Key and name of one entry of a table; the short name where there are two."""
    key, texts = 0, dict[int, str]()
    for number, value in fields(data, span):
        if number == _MAP_KEY and isinstance(value, int):
            key = signed(value)
        elif number == _MAP_VALUE and isinstance(value, Span):
            texts |= {one: text(data, at) for one, at in fields(data, value)
                      if one in (_META_NAME, _META_DISPLAY) and isinstance(at, Span)}  # fmt: skip
    return key, texts.get(_META_DISPLAY) or texts.get(_META_NAME, "")


def _line(data: bytes, span: Span) -> Line:
    numbers, texts, events = {}, {}, []
    for number, value in fields(data, span):
        if isinstance(value, int):
            numbers[number] = signed(value)
        elif number == _LINE_EVENT:
            events.append(value)
        elif number in (_LINE_NAME, _LINE_DISPLAY):
            texts[number] = text(data, value)
    return Line(
        id=numbers.get(_LINE_ID, 0),
        name=texts.get(_LINE_DISPLAY) or texts.get(_LINE_NAME, ""),
        time_ns=numbers.get(_LINE_TIME, 0),
        events=tuple(events),
    )


def stat(data: bytes, span: Span, names: Mapping[int, str]) -> tuple[str, Json]:
    """Name and value of one statistic; bytes as hexadecimal."""
    name, value = "", None
    for number, found in fields(data, span):
        if number == STAT_METADATA and isinstance(found, int):
            name = names.get(signed(found), str(signed(found)))
        else:
            value = _value(data, number, found, names)
    return name, value


def _value(data: bytes, number: int, found: int | Span, names: Mapping[int, str]) -> Json:
    if isinstance(found, int):
        refers = number == STAT_REF
        return names.get(found, str(found)) if refers else _whole(number, found)
    if number == STAT_DOUBLE and found.nbytes == 8:
        return double(data, found)
    return text(data, found) if number == STAT_TEXT else data[found.start : found.end].hex()


def _whole(number: int, found: int) -> int:
    return signed(found) if number == STAT_INT else found


def stats(data: bytes, spans: Iterator[Span], names: Mapping[int, str]) -> dict[str, Json]:
    """Statistics by name."""
    return dict(stat(data, span, names) for span in spans)
