"""A Chrome trace as columns, by the built scanner, or in Python where there is no compiler.

Both give the same columns. In Python, msgspec finds the fields of text that is whole; what is cut
off or damaged is stepped through byte by byte.
"""

from array import array
from collections.abc import Iterator, Mapping, Sequence

import msgspec
import numpy as np

from ridgeline.native import scan as native
from ridgeline.native.scan import COLUMNS, TABLES, End, Scan, Text
from ridgeline.traces.columns import ABSENT
from ridgeline.traces.decimals import nanoseconds, scaled_decimal
from ridgeline.traces.json_cursor import Broken, Cursor, Cut

Fields = Mapping[str, bytes]
_MAX_DURATION_NS = 2**53
_MOST_HEADER = 1024
_CODES: Mapping[type[np.generic], str] = {np.int64: "q", np.int32: "i", np.uint8: "B"}
_IDS = (
    ("device", ("device",), 2**31 - 1),
    ("stream", ("stream",), 2**63 - 1),
    ("correlation", ("correlation",), 2**63 - 1),
    ("external_id", ("External id", "external id"), 2**63 - 1),  # the latter before 2023
)
# phase -> what becomes of the event; of all others: unread
_FATES = {b'"s"': "flows", b'"t"': "flows", b'"f"': "flows", b'"M"': "flows"} | dict.fromkeys(
    (b'"X"', b'"i"', b'"I"', b'"C"'), "kept"
)
_TEXTS = (("name", "names"), ("cat", "categories"), ("pid", "processes"), ("tid", "threads"))
_COLUMN_OF = {"names": "name", "categories": "category", "processes": "process"} | {
    "threads": "thread"
}


def scan(data: Text, *, keeps_python: bool = False) -> Scan:
    """The events of a Chrome trace that have a name and a time, and what stands beside them.

    keeps_python: also calls of Python functions, often most of what is recorded.
    """
    found = native.scan(data, keeps_python=keeps_python)
    return found or scan_in_python(data, keeps_python=keeps_python)


def scan_in_python(data: Text, *, keeps_python: bool = False) -> Scan:
    """As `scan`, without the built library."""
    try:
        return _scan_whole(data, keeps_python)
    except (msgspec.DecodeError, RecursionError):
        return _scan_by_steps(data, keeps_python)


class _Collector:
    """The columns as they grow."""

    def __init__(self, *, keeps_python: bool) -> None:
        self.header: list[tuple[bytes, bytes]] = []
        self._keeps_python = keeps_python
        self._counts = dict.fromkeys(("kept", "python", "flows", "untimed", "unread"), 0)
        self._columns = {name: array(_CODES[dtype]) for name, dtype in COLUMNS.items()}
        self._tables: dict[str, dict[bytes, int]] = {name: {} for name in TABLES}

    def add(self, event: Fields, args: Fields, place: tuple[int, int]) -> None:
        """Counts an event, and keeps it where it is one to keep. place: offset and length of its
        arguments; ABSENT and 0 where it has none.
        """
        fate = self._fate(event)
        if fate == "kept":
            fate = self._keep(event, args, place)
        self._counts[fate] += 1

    def _fate(self, event: Fields) -> str:
        fate = _FATES.get(event.get("ph", b""), "unread")
        is_python = event.get("cat") in (b'"python_function"', b"python_function")
        return "python" if fate == "kept" and is_python and not self._keeps_python else fate

    def _keep(self, event: Fields, args: Fields, place: tuple[int, int]) -> str:
        start_ns = nanoseconds(event.get("ts", b""))
        duration_ns = nanoseconds(event.get("dur", b"0"))
        if start_ns is None or duration_ns is None or "name" not in event:
            return "untimed"
        if not 0 <= duration_ns <= _MAX_DURATION_NS:
            return "untimed"
        row = {"start_ns": start_ns, "duration_ns": duration_ns, "phase": event["ph"][1]}
        row |= {_COLUMN_OF[table]: self._number(table, event.get(key)) for key, table in _TEXTS}
        row |= {name: _id(args, keys, limit) for name, keys, limit in _IDS}
        row |= {"args_start": place[0], "args_nbytes": place[1]}
        for name, value in row.items():
            self._columns[name].append(value)
        return "kept"

    def _number(self, table: str, text: bytes | None) -> int:
        known = self._tables[table]
        inside = unquoted(text or b"")
        return known.setdefault(inside, len(known))

    def finish(self, end: End, offset: int) -> Scan:
        """The scan that ended so."""
        return Scan(
            columns={
                name: np.frombuffer(self._columns[name] or b"", dtype)
                for name, dtype in COLUMNS.items()
            },
            tables={name: list(table) for name, table in self._tables.items()},
            header=self.header[:_MOST_HEADER],
            end=end,
            offset=offset,
            num_recorded=sum(self._counts.values()),
            num_python=self._counts["python"],
            num_flows=self._counts["flows"],
            num_untimed=self._counts["untimed"],
            num_unread=self._counts["unread"],
        )


def unquoted(text: bytes) -> bytes:
    """What stands between the quotes of a string; other values as they are."""
    return text[1:-1] if text.startswith(b'"') else text


def _id(args: Fields, keys: Sequence[str], limit: int) -> int:
    values = (scaled_decimal(args[key], 0, limit) for key in keys if key in args)
    return next((value for value in values if value is not None and value >= 0), ABSENT)


def _scan_whole(data: Text, keeps_python: bool) -> Scan:
    """Raises msgspec.DecodeError where the text is not whole."""
    found = _Collector(keeps_python=keeps_python)
    base = _address(data)
    for event in _events(data, found):
        raw = event.get("args")
        fields = {key: bytes(value) for key, value in event.items() if key != "args"}
        if raw is None:
            found.add(fields, {}, (ABSENT, 0))
        else:
            found.add(fields, _members(raw), (_address(raw) - base, len(bytes(raw))))
    return found.finish(End.WHOLE, len(data))


def _events(data: Text, found: _Collector) -> Iterator[dict[str, msgspec.Raw]]:
    """Every event of the file; what stands beside them goes into the header of `found`."""
    rows = msgspec.json.Decoder(list[msgspec.Raw])
    row = msgspec.json.Decoder(dict[str, msgspec.Raw])
    if data[:64].lstrip()[:1] == b"[":
        arrays: list[Text | msgspec.Raw] = [data]
    else:
        arrays = []
        for key, value in row.decode(data).items():
            if key == "traceEvents" and bytes(value).startswith(b"["):
                arrays.append(value)
            else:
                found.header.append((key.encode(), bytes(value)))
    for text in arrays:
        yield from map(row.decode, rows.decode(text))


_MEMBERS = msgspec.json.Decoder(dict[str, msgspec.Raw])


def _members(raw: msgspec.Raw) -> Fields:
    if not bytes(raw).startswith(b"{"):
        return {}
    return {key: bytes(value) for key, value in _MEMBERS.decode(raw).items()}


def _address(text: Text | msgspec.Raw) -> int:
    """Where the bytes lie in memory: msgspec gives parts of the text without copying them."""
    return int(np.frombuffer(text, np.uint8).__array_interface__["data"][0])


def _scan_by_steps(data: Text, keeps_python: bool) -> Scan:
    """The events up to where the text is cut off or damaged."""
    found, cursor = _Collector(keeps_python=keeps_python), Cursor(data)
    try:
        _step_through(cursor, found)
        cursor.next()
        return found.finish(End.WHOLE if cursor.is_at_end else End.BROKEN, cursor.offset)
    except Cut:
        return found.finish(End.CUT, cursor.offset)
    except Broken:
        return found.finish(End.BROKEN, cursor.offset)


def _step_through(cursor: Cursor, found: _Collector) -> None:
    if cursor.next() == b"[":
        _step_events(cursor, found)
        return
    for key in cursor.members():
        if key == b"traceEvents" and cursor.next() == b"[":
            _step_events(cursor, found)
        else:
            found.header.append((key, cursor.value()))


def _step_events(cursor: Cursor, found: _Collector) -> None:
    cursor.expect(b"[")
    if cursor.take(b"]"):
        return
    while True:
        found.add(*_step_event(cursor))
        if not cursor.take(b","):
            break
    cursor.expect(b"]")


def _step_event(cursor: Cursor) -> tuple[Fields, Fields, tuple[int, int]]:
    event: dict[str, bytes] = {}
    args: dict[str, bytes] = {}
    place = (ABSENT, 0)
    for key in cursor.members():
        if key != b"args":
            event[key.decode(errors="replace")] = cursor.value()
            continue
        is_object, start = cursor.next() == b"{", cursor.offset
        args = _step_members(cursor) if is_object else {}
        if not is_object:
            cursor.value()
        place = (start, cursor.offset - start)
    return event, args, place


def _step_members(cursor: Cursor) -> dict[str, bytes]:
    return {key.decode(errors="replace"): cursor.value() for key in cursor.members()}
