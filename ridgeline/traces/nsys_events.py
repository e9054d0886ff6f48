"""The events of an Nsight Systems export as columns, of all processes and devices together."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import TraceError
from ridgeline.traces.columns import ABSENT, Columns, Kind, Thread, columns
from ridgeline.traces.nsys_database import Database
from ridgeline.traces.nsys_tables import (
    NO_STREAM,
    NVTX,
    NVTX_DOMAIN,
    NVTX_KINDS,
    TABLES,
    EventTable,
    name_of_codes,
    operator_of,
    plain_call,
)

Ints = NDArray[np.int64]
Table = Mapping[str, Ints]

_TID_BITS = 24  # a globalTid is host and process in the upper bits, the thread in the lower 24
_TID_MASK = (1 << _TID_BITS) - 1
_MAX_TIME_NS = 2**61  # 73 years: no sum or difference of two such overflows
_NO_NAME = "(no name)"
SOURCES: tuple[str, ...] = (*(table.table for table in TABLES), NVTX)
"""What the column `args_nbytes` of our recordings counts: the table an event came from."""


@dataclass(slots=True)
class Names:
    """Names and their numbers, as they come."""

    number_of: dict[str, int] = field(default_factory=dict)

    def number(self, name: str) -> int:
        """The number of a name."""
        return self.number_of.setdefault(name, len(self.number_of))

    def numbers(self, codes: Ints, name_of: Mapping[int, str], other: str) -> Ints:
        """The number of each code's name; codes that `name_of` does not have are called `other`."""
        kept, inverse = np.unique(codes, return_inverse=True)
        table = [self.number(name_of.get(code, other)) for code in kept.tolist()]
        return np.array(table, np.int64)[inverse] if table else codes


@dataclass(frozen=True, slots=True, kw_only=True)
class AllEvents:
    """Events of every process and device. process: the globalPid of each."""

    events: Columns
    process: Ints
    names: tuple[str, ...]
    threads: tuple[Thread, ...]
    num_open: int


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """The events of one table: what differs between tables, worked out."""

    kind: Ints
    start: Ints
    end: Ints
    name: Ints
    process: Ints
    tid: Ints
    device: Ints
    stream: Ints
    correlation: Ints
    rowid: Ints
    source: Ints


def _check_times(where: str, start: Ints, end: Ints) -> None:
    for times in (start, end):
        if len(times) and max(-int(times.min()), int(times.max())) > _MAX_TIME_NS:
            raise TraceError(f"{where}: a time of {times[np.abs(times).argmax()]} ns is no time.")
    if np.any(end < start):
        row = int(np.flatnonzero(end < start)[0])
        raise TraceError(f"{where}: an event ends at {end[row]}, before its start {start[row]}.")


def _names_of(database: Database, one: EventTable, table: Table, names: Names) -> Ints:
    """The number of each row's name."""
    num_rows = len(table["rowid"])
    if one.code_columns:
        codes = np.column_stack([table[column] for column in one.code_columns])
        kept, inverse = np.unique(codes, axis=0, return_inverse=True)
        found = [names.number(name_of_codes(one.kind, tuple(row))) for row in kept.tolist()]
        return np.array(found, np.int64)[inverse.ravel()]
    if not one.name_column:
        return np.full(num_rows, names.number(one.name) if num_rows else 0, np.int64)
    strings = database.texts("StringIds", "id", "value")
    if one.kind is Kind.RUNTIME:
        strings = {key: plain_call(name) for key, name in strings.items()}
    return names.numbers(table[one.name_column], strings, _NO_NAME)


def _part(database: Database, one: EventTable, names: Names) -> _Part:
    """The events of one table."""
    owner = "globalPid" if one.is_device else "globalTid"
    extra = ("deviceId", "streamId", "correlationId", owner)
    coded = (one.name_column,) if one.name_column else one.code_columns
    table = database.integers(one.table, one.time_columns, (*extra, *coded))
    end = table["end"] if one.has_end else table["start"]
    _check_times(f"{database.path}: {one.table}", table["start"], end)
    num_rows, threads = len(end), table[owner]
    return _Part(
        kind=np.full(num_rows, one.kind, np.int64),
        start=table["start"],
        end=end,
        name=_names_of(database, one, table, names),
        process=np.where(threads == ABSENT, ABSENT, threads & ~_TID_MASK),
        tid=np.full(num_rows, ABSENT, np.int64) if one.is_device else threads & _TID_MASK,
        device=table["deviceId"],
        stream=np.where(table["streamId"] == NO_STREAM, ABSENT, table["streamId"]),
        correlation=table["correlationId"],
        rowid=table["rowid"],
        source=np.full(num_rows, SOURCES.index(one.table), np.int64),
    )


def nvtx_table(database: Database) -> Table:
    """The numbers of every NVTX row, of any type."""
    extra = ("end", "globalTid", "textId", "domainId")
    return database.integers(NVTX, ("start", "eventType"), extra)


def nvtx_names(database: Database, table: Table) -> list[str]:
    """The text of each NVTX row: its own, or the registered string it refers to."""
    own = database.texts(NVTX, "rowid", "text")
    registered = database.texts("StringIds", "id", "value")
    pairs = zip(table["rowid"].tolist(), table["textId"].tolist(), strict=True)
    return [own.get(rowid, registered.get(text, _NO_NAME)) for rowid, text in pairs]


def _nvtx(database: Database, names: Names) -> tuple[_Part, int]:
    """The NVTX ranges and marks, and how many ranges were open when the recording stopped; those
    end with it."""
    table = nvtx_table(database)
    rows = np.flatnonzero(np.isin(table["eventType"], list(NVTX_KINDS)))
    table = {name: column[rows] for name, column in table.items()}
    kind = np.array([NVTX_KINDS[code] for code in table["eventType"].tolist()], np.int64)
    is_open = (table["end"] == ABSENT) & (kind != Kind.INSTANT)
    last = max(table["start"].max(initial=0), table["end"].max(initial=0))
    end = np.where(table["end"] == ABSENT, np.where(is_open, last, table["start"]), table["end"])
    _check_times(f"{database.path}: {NVTX}", table["start"], end)
    texts = [operator_of(text) for text in nvtx_names(database, table)]
    is_operator = np.array([found for _, found in texts], np.bool_)
    blank = np.full(len(rows), ABSENT, np.int64)
    part = _Part(
        kind=np.where(is_operator & (kind == Kind.ANNOTATION), Kind.CPU_OP, kind),
        start=table["start"],
        end=end,
        name=np.array([names.number(text) for text, _ in texts], np.int64),
        process=np.where(table["globalTid"] == ABSENT, ABSENT, table["globalTid"] & ~_TID_MASK),
        tid=table["globalTid"] & _TID_MASK,
        device=blank,
        stream=blank,
        correlation=blank,
        rowid=table["rowid"],
        source=np.full(len(rows), SOURCES.index(NVTX), np.int64),
    )
    return part, int(is_open.sum())


def nvtx_domains(database: Database) -> Mapping[tuple[int, int], str]:
    """The name of each NVTX domain, by globalPid and domain id; none without NVTX."""
    if NVTX not in database.tables():
        return {}
    table = database.integers(NVTX, ("eventType",), ("globalTid", "textId", "domainId"))
    rows = np.flatnonzero(table["eventType"] == NVTX_DOMAIN)
    texts = nvtx_names(database, {name: column[rows] for name, column in table.items()})
    keys = zip(
        (table["globalTid"][rows] & ~_TID_MASK).tolist(),
        table["domainId"][rows].tolist(),
        strict=True,
    )
    return dict(zip(keys, texts, strict=True))


def _threads(parts: Sequence[_Part]) -> tuple[tuple[Thread, ...], Ints]:
    """The rows of the timeline and the number of each event's: device and stream, or process and
    thread."""
    device, stream, process, tid = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("device", "stream", "process", "tid")
    )
    is_host = tid != ABSENT
    first = np.where(is_host, process >> _TID_BITS & _TID_MASK, device)
    keys = np.column_stack((is_host, first, np.where(is_host, tid, stream)))
    kept, numbers = np.unique(keys, axis=0, return_inverse=True)
    rows = tuple(Thread(process=str(one), thread=str(two)) for _, one, two in kept.tolist())
    return rows, numbers.ravel()


def read_events(database: Database) -> AllEvents:
    """All events of all tables that are there. Raises TraceError where there is none."""
    present, names = database.tables(), Names()
    parts = [_part(database, one, names) for one in TABLES if one.table in present]
    num_open = 0
    if NVTX in present:
        part, num_open = _nvtx(database, names)
        parts.append(part)
    if not sum(len(part.start) for part in parts):
        raise TraceError(
            f"{database.path}: no event of CUDA or NVTX; record with `nsys profile -t cuda,nvtx`."
        )
    threads, thread = _threads(parts)
    joined = {
        name: np.concatenate([getattr(part, name) for part in parts])
        for name in _Part.__dataclass_fields__
    }
    if joined["device"].max() >= 2**31:
        raise TraceError(f"{database.path}: {joined['device'].max()} is no number of a device.")
    return AllEvents(
        events=columns(
            len(thread),
            start_ns=joined["start"],
            duration_ns=joined["end"] - joined["start"],
            thread=thread,
            args_start=joined["rowid"],
            args_nbytes=joined["source"],
            **{name: joined[name] for name in ("kind", "name", "device", "stream", "correlation")},
        ),
        process=joined["process"],
        names=tuple(names.number_of),
        threads=threads,
        num_open=num_open,
    )
