"""A Chrome trace as columns, by the built scanner, or in Python where there is no compiler.

Both give the same columns. In Python, msgspec finds the fields of text that is whole; what is cut
off or damaged is stepped through byte by byte.
"""

import re
from array import array
from collections.abc import Iterator

import msgspec
import numpy as np

from ridgeline.native import scan as native
from ridgeline.native.scan import COLUMNS, TABLES, End, Scan, Text
from ridgeline.traces.columns import ABSENT
from ridgeline.traces.decimals import nanoseconds, scaled_decimal
from ridgeline.traces.json_cursor import Broken, Cursor, Cut

_MAX_DURATION_NS = 2**53
_MOST_HEADER = 1024
# phase -> what becomes of the event; of all others: unread
_FATES = {b'"s"': "flows", b'"t"': "flows", b'"f"': "flows", b'"M"': "flows"} | dict.fromkeys(
    (b'"X"', b'"i"', b'"I"', b'"C"'), "kept"
)
_PYTHON = (b'"python_function"', b"python_function")
_EVENTS = re.compile(rb'"traceEvents"')
_NONE = msgspec.Raw(b"")


class _Args(msgspec.Struct, gc=False):
    """What is looked at of an event's arguments, as it is written; empty where it has none."""

    device: msgspec.Raw = _NONE
    stream: msgspec.Raw = _NONE
    correlation: msgspec.Raw = _NONE
    external_id: msgspec.Raw = msgspec.field(default=_NONE, name="External id")
    lower: msgspec.Raw = msgspec.field(default=_NONE, name="external id")  # before 2023


class _Event(msgspec.Struct, gc=False):
    """What is looked at of an event, as it is written; empty where it has none."""

    ph: msgspec.Raw = _NONE
    cat: msgspec.Raw = _NONE
    name: msgspec.Raw = _NONE
    pid: msgspec.Raw = _NONE
    tid: msgspec.Raw = _NONE
    ts: msgspec.Raw = _NONE
    dur: msgspec.Raw = _NONE
    args: msgspec.Raw = _NONE


_EVENT = msgspec.json.Decoder(_Event)
_ARGS = msgspec.json.Decoder(_Args)
_ROWS = msgspec.json.Decoder(list[msgspec.Raw])
_FILE = msgspec.json.Decoder(dict[str, msgspec.Raw])
_NO_ARGS = _Args()
_EVENT_KEYS = frozenset(name.encode() for name in _Event.__struct_fields__)
_ARGS_KEYS = {
    encoded.encode(): name
    for encoded, name in zip(_Args.__struct_encode_fields__, _Args.__struct_fields__, strict=True)
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
    except (msgspec.DecodeError, ValueError, RecursionError):
        return _scan_by_steps(data, keeps_python)


class _Collector:
    """The columns as they grow."""

    def __init__(self, *, keeps_python: bool) -> None:
        self.header: list[tuple[bytes, bytes]] = []
        self._keeps_python = keeps_python
        self.counts = dict.fromkeys(("kept", "python", "flows", "untimed", "unread"), 0)
        self._rows = array("q")  # one after another: one call per event, not one per column
        self._tables: dict[str, dict[bytes, int]] = {name: {} for name in TABLES}
        self._numbers: dict[str, dict[bytes, int]] = {name: {} for name in TABLES}

    def add(self, event: _Event, args: _Args, start: int) -> None:
        """Counts an event, and keeps it where it is one to keep. start: where its arguments are,
        ABSENT where it has none.
        """
        fate = self.fate(event)
        if fate == "kept":
            fate = self._keep(event, args, start)
        self.counts[fate] += 1

    def fate(self, event: _Event) -> str:
        """What becomes of an event, as far as its kind tells."""
        fate = _FATES.get(bytes(event.ph), "unread")
        is_python = fate == "kept" and not self._keeps_python and bytes(event.cat) in _PYTHON
        return "python" if is_python else fate

    def _keep(self, event: _Event, args: _Args, start: int) -> str:
        start_ns = nanoseconds(bytes(event.ts))
        duration_ns = nanoseconds(bytes(event.dur)) if event.dur is not _NONE else 0
        name = bytes(event.name)
        if start_ns is None or duration_ns is None or not name:
            return "untimed"
        if not 0 <= duration_ns <= _MAX_DURATION_NS:
            return "untimed"
        external_id = _id(args.external_id, 2**63 - 1)
        row = (
            start_ns,
            duration_ns,
            bytes(event.ph)[1],
            self._number("names", name),
            self._number("categories", bytes(event.cat)),
            self._number("processes", bytes(event.pid)),
            self._number("threads", bytes(event.tid)),
            _id(args.device, 2**31 - 1),
            _id(args.stream, 2**63 - 1),
            _id(args.correlation, 2**63 - 1),
            _id(args.lower, 2**63 - 1) if external_id == ABSENT else external_id,
            start,
            len(bytes(event.args)),
        )
        self._rows.extend(row)
        return "kept"

    def _number(self, table: str, text: bytes) -> int:
        found = self._numbers[table].get(text)
        if found is None:  # `1` and `"1"` are one: a number for each spelling
            known = self._tables[table]
            inside = text[1:-1] if text.startswith(b'"') else text
            found = self._numbers[table][text] = known.setdefault(inside, len(known))
        return found

    def finish(self, end: End, offset: int) -> Scan:
        """The scan that ended so."""
        rows = np.frombuffer(self._rows or b"", np.int64).reshape(-1, len(COLUMNS))
        return Scan(
            columns={
                name: np.ascontiguousarray(rows[:, i], dtype)
                for i, (name, dtype) in enumerate(COLUMNS.items())
            },
            tables={name: list(table) for name, table in self._tables.items()},
            header=self.header[:_MOST_HEADER],
            end=end,
            offset=offset,
            num_recorded=sum(self.counts.values()),
            num_python=self.counts["python"],
            num_flows=self.counts["flows"],
            num_untimed=self.counts["untimed"],
            num_unread=self.counts["unread"],
        )


def _id(text: msgspec.Raw, limit: int) -> int:
    if text is _NONE:
        return ABSENT
    written = bytes(text)
    if len(written) < 10 and written.isdigit():
        return int(written)
    value = scaled_decimal(written, 0, limit)
    return ABSENT if value is None or value < 0 else value


def _scan_whole(data: Text, keeps_python: bool) -> Scan:
    """Raises msgspec.DecodeError or ValueError where the text is not whole."""
    found = _Collector(keeps_python=keeps_python)
    base = _address(data)
    for text in _arrays(data, found):
        for row in _ROWS.decode(text):
            event = _EVENT.decode(row)
            if found.fate(event) != "kept" or event.args is _NONE:
                found.add(event, _NO_ARGS, ABSENT)
                continue
            is_object = bytes(event.args).startswith(b"{")
            args = _ARGS.decode(event.args) if is_object else _NO_ARGS
            found.add(event, args, _address(event.args) - base)
    return found.finish(End.WHOLE, len(data))


def _arrays(data: Text, found: _Collector) -> Iterator[Text | msgspec.Raw]:
    """The text of the array of events; what stands beside it goes into the header of `found`."""
    if data[:64].lstrip()[:1] == b"[":
        yield data
        return
    if len(_EVENTS.findall(data)) > 1:  # a dictionary has only the last of them
        raise ValueError
    for key, value in _FILE.decode(data).items():
        if key == "traceEvents" and bytes(value).startswith(b"["):
            yield value
        else:
            found.header.append((key.encode(), bytes(value)))


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


def _step_event(cursor: Cursor) -> tuple[_Event, _Args, int]:
    fields: dict[str, msgspec.Raw] = {}
    args, start = _NO_ARGS, ABSENT
    for key in cursor.members():
        if key == b"args":
            is_object, start = cursor.next() == b"{", cursor.offset
            args = _step_args(cursor) if is_object else _NO_ARGS
            if not is_object:
                cursor.value()
            fields["args"] = msgspec.Raw(bytes(cursor.data[start : cursor.offset]))
            continue
        value = msgspec.Raw(cursor.value())
        if key in _EVENT_KEYS:
            fields[key.decode()] = value
    return _Event(**fields), args, start


def _step_args(cursor: Cursor) -> _Args:
    fields: dict[str, msgspec.Raw] = {}
    for key in cursor.members():
        value = msgspec.Raw(cursor.value())
        if key in _ARGS_KEYS:
            fields[_ARGS_KEYS[key]] = value
    return _Args(**fields)
