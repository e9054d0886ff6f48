"""JAX and XLA profiles (`*.xplane.pb`) -> one recording per device, without protobuf."""

import re
from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import TraceError
from ridgeline.traces.columns import (
    ABSENT,
    Columns,
    Device,
    Dialect,
    Json,
    Kind,
    Metadata,
    Recording,
    Thread,
    columns,
)
from ridgeline.traces.files import read_file
from ridgeline.traces.protobuf import Span, Torn, fields, signed
from ridgeline.traces.xspace import (
    EVENT_DURATION,
    EVENT_METADATA,
    EVENT_OFFSET,
    EVENT_STAT,
    STAT_METADATA,
    Line,
    Plane,
    planes,
    stats,
)
from ridgeline.units import counted

_DEVICE = re.compile(r"^/device:(?:GPU|TPU|CUSTOM\w*):(\d{1,9})\b")
_STREAM = re.compile(r"^Stream #(\d{1,18})\b")
_PS_PER_NS = 1000
_MAX_NS = 2**61
_EPOCH_NS = 10**15  # later than 12 days after 1970, a line's time is no count from a start
_HOST = -1

# A device's lines that sum up others: ranges over kernels, never busy time.
_DERIVED = re.compile(
    r"^(Steps|XLA Modules|Framework|TensorFlow|Source|Launch Stats|XLA TraceMe|Scope)"
)
_ON_DEVICE = (
    (re.compile(r"(?i)memcpy|rocclr_copy|^copy(HtoD|DtoH|DtoD)"), Kind.MEMCPY),
    (re.compile(r"(?i)memset|rocclr_fill"), Kind.MEMSET),
)
_ON_HOST = (
    (re.compile(r"^(cu|hip|cuda)[A-Z]\w+$"), Kind.RUNTIME),
    (re.compile(r"^\$"), Kind.PYTHON),  # TraceMe of the Python tracer: "$file.py:12 function"
)


@dataclass(frozen=True, slots=True, kw_only=True)
class XplaneArguments:
    """The arguments of events: statistics, which lie in `data` beside their planes' names."""

    data: bytes
    starts: tuple[int, ...]
    names: tuple[Mapping[int, str], ...]

    def decode(self, start: int, nbytes: int) -> Mapping[str, Json]:
        """The statistics of the event at that place."""
        names = self.names[bisect_right(self.starts, start) - 1]
        found = (
            value
            for number, value in fields(self.data, Span(start, start + nbytes))
            if number == EVENT_STAT and isinstance(value, Span)
        )
        return stats(self.data, found, names)


@dataclass(slots=True)
class _Rows:
    """Events as they are read: one tuple each, of the columns in `_ORDER`."""

    names: dict[str, int] = field(default_factory=dict)
    threads: dict[Thread, int] = field(default_factory=dict)
    rows: list[tuple[int, ...]] = field(default_factory=list)


_ORDER = ("start_ns", "duration_ns", "kind", "name", "thread", "device", "stream", "correlation",
          "args_start", "args_nbytes")  # fmt: skip


def _kind(name: str, line: str, device: int) -> Kind:
    if device == _HOST:
        return next((kind for words, kind in _ON_HOST if words.search(name)), Kind.CPU_OP)
    if _DERIVED.search(line):
        return Kind.DEVICE_ANNOTATION
    return next((kind for words, kind in _ON_DEVICE if words.search(name)), Kind.KERNEL)


def _correlation(data: bytes, span: Span, wanted: frozenset[int]) -> int:
    """The correlation id in one statistic; ABSENT if it is another."""
    which, value = 0, ABSENT
    for number, found in fields(data, span):
        if isinstance(found, int):
            which, value = (signed(found), value) if number == STAT_METADATA else (which, found)
    return value if which in wanted else ABSENT


def _event(data: bytes, span: Span, wanted: frozenset[int]) -> tuple[int, int, int, int]:
    """Name, offset and duration in ps, and correlation of one event."""
    numbers, correlation = {EVENT_METADATA: 0, EVENT_OFFSET: 0, EVENT_DURATION: 0}, ABSENT
    for number, value in fields(data, span):
        if isinstance(value, int):
            numbers[number] = signed(value)
        elif number == EVENT_STAT and correlation == ABSENT and wanted:
            correlation = _correlation(data, value, wanted)
    fits = 0 <= correlation < 2**63
    return (
        numbers[EVENT_METADATA],
        numbers[EVENT_OFFSET],
        numbers[EVENT_DURATION],
        correlation if fits else ABSENT,
    )


def _nearest_ns(time_ps: int) -> int:
    return (time_ps + _PS_PER_NS // 2) // _PS_PER_NS


def _read_line(data: bytes, plane: Plane, line: Line, device: int, rows: _Rows) -> None:
    """Appends the events of one line. Times are rounded to the nearest ns, ends as well, so that
    what touches still touches."""
    wanted = frozenset(key for key, name in plane.stat_names.items() if name == "correlation_id")
    stream = _STREAM.search(line.name)
    number = int(stream[1]) if stream else line.id & 0x7FFFFFFF
    process = plane.name if device == _HOST else str(device)
    thread = Thread(process=process, thread=line.name if device == _HOST else str(number))
    row = rows.threads.setdefault(thread, len(rows.threads))
    for span in line.events:
        metadata, offset_ps, duration_ps, correlation = _event(data, span, wanted)
        name = plane.event_names.get(metadata, f"event {metadata}")
        start_ps = line.time_ns * _PS_PER_NS + offset_ps
        start, end = _nearest_ns(start_ps), _nearest_ns(start_ps + duration_ps)
        if not (-_MAX_NS < start <= end < _MAX_NS):
            raise TraceError(f"the event at byte {span.start:,} lasts from {start} to {end} ns.")
        where = (device, ABSENT if device == _HOST else number, correlation)
        which = (_kind(name, line.name, device), rows.names.setdefault(name, len(rows.names)), row)
        rows.rows.append((start, end - start, *which, *where, span.start, span.nbytes))


def _device_of(plane: Plane) -> int:
    """The number of a plane's device; _HOST for any other plane."""
    found = _DEVICE.match(plane.name)
    return int(found[1]) & 0x7FFFFFFF if found else _HOST


def _described(data: bytes, plane: Plane) -> Device:
    """What a device's plane says about it; XLA does not record its name, only its vendor."""
    found = stats(data, iter(plane.stats), plane.stat_names)
    major, minor = found.get("compute_cap_major"), found.get("compute_cap_minor")
    has_capability = isinstance(major, int) and isinstance(minor, int)
    name = found.get("device_type_string") or found.get("device_vendor")
    return Device(
        id=_device_of(plane),
        name=name if isinstance(name, str) else "",
        memory_bytes=_positive(found.get("memory_size")),
        num_multiprocessors=_positive(found.get("core_count")),
        compute_capability=(major, minor) if has_capability else None,  # type: ignore[arg-type]
        bandwidth_bytes_per_s=_positive(found.get("memory_bandwidth")),
    )


def _positive(value: Json) -> int | None:
    return value if isinstance(value, int) and value > 0 else None


def _of_rank(matrix: NDArray[np.int64], device: int) -> NDArray[np.bool_]:
    """The rows of one device and of the host, without the calls that launched work elsewhere."""
    where, correlation = (matrix[:, _ORDER.index(name)] for name in ("device", "correlation"))
    ours, others = (correlation[where == device], correlation[(where != device) & (where != _HOST)])
    elsewhere = np.setdiff1d(others[others != ABSENT], ours)
    is_host = (where == _HOST) & ~np.isin(correlation, elsewhere)
    return np.asarray((where == device) | is_host)


def _rows(data: bytes, found: Sequence[Plane]) -> _Rows:
    rows = _Rows()
    for plane in found:
        for line in plane.lines:
            _read_line(data, plane, line, _device_of(plane), rows)
    return rows


def _notes(torn: str, devices: Sequence[int]) -> Iterator[str]:
    if torn:
        yield f"the file is torn off or damaged ({torn.rstrip('.')}): this is what stands before."
    if len(devices) > 1:
        yield (
            f"one process drives {counted(len(devices), 'device')}: what the host did for none of"
            " them in particular stands in the recording of each."
        )


def _read(path: Path, data: bytes) -> tuple[_Rows, tuple[Plane, ...], str]:
    found, torn = planes(data)
    try:
        rows = _rows(data, found)
    except Torn as error:
        raise TraceError(f"{path} is damaged: {error}") from None
    except TraceError as error:
        raise TraceError(f"{path}: {error}") from None
    if not rows.rows:
        why = f": {torn}" if torn else "; was anything run while it recorded?"
        raise TraceError(f"{path} holds no event of an XLA profile{why}")
    return rows, found, torn


def read_xplane(path: Path) -> tuple[Recording, ...]:
    """The recordings of one profile: one per device that ran anything, in the order of their
    numbers; one of the host alone where none did. Times are ns, rounded from ps.

    A file that is torn off gives the planes before that, and a note. Raises TraceError where there
    is none.
    """
    data = bytes(read_file(path).data)
    rows, found, torn = _read(path, data)
    matrix = np.array(rows.rows, np.int64)
    base = min(line.time_ns for plane in found for line in plane.lines if line.events)
    base = base if base > _EPOCH_NS else 0
    matrix[:, 0] -= base
    where = matrix[:, _ORDER.index("device")]
    devices = [int(one) for one in np.unique(where) if one != _HOST] or [_HOST]
    arguments = XplaneArguments(
        data=data,
        starts=tuple(plane.span.start for plane in found),
        names=tuple(plane.stat_names for plane in found),
    )
    described = tuple(_described(data, plane) for plane in found if _device_of(plane) != _HOST)
    notes = tuple(_notes(torn, devices))
    return tuple(
        Recording(
            source=str(path),
            metadata=Metadata(
                dialect=Dialect.XPLANE,
                rank=rank,
                base_time_ns=base,
                devices=described,
                num_recorded=len(matrix),
            ),
            events=_columns(matrix[_of_rank(matrix, device)]),
            names=tuple(rows.names),
            threads=tuple(rows.threads),
            arguments=arguments,
            notes=notes,
        )
        for rank, device in enumerate(devices)
    )


def _columns(matrix: NDArray[np.int64]) -> Columns:
    """The rows as columns."""
    return columns(len(matrix), **dict(zip(_ORDER, matrix.T, strict=True)))
