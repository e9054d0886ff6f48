"""`nsys stats` CSV: the trace of a GPU as recordings, and the summary of its kernels."""

import csv
import io
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from decimal import Decimal, InvalidOperation
from pathlib import Path

import numpy as np

from ridgeline.errors import TraceError
from ridgeline.traces.columns import (
    ABSENT,
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
from ridgeline.units import counted

_NS = {"ns": 1, "us": 10**3, "µs": 10**3, "ms": 10**6, "s": 10**9, "sec": 10**9}
_MAX_DIGITS = 19  # of 2**61, which is asked only then: sums of larger exponents overflow
_TRACE = ("Start", "Duration", "Name")
_SUMS = ("Total Time", "Instances", "Name")
Row = Mapping[str, str]
"""A line of the table: column head without its unit -> cell."""


@dataclass(frozen=True, slots=True, kw_only=True)
class KernelSum:
    """One line of `cuda_gpu_kern_sum`: how often a kernel ran and how long, in ns."""

    name: str
    instances: int
    total_ns: int
    average_ns: float
    median_ns: float
    min_ns: int
    max_ns: int
    deviation_ns: float


@dataclass(frozen=True, slots=True, kw_only=True)
class _Table:
    """A CSV table: its heads without units, the unit of each, and its lines with their numbers."""

    source: str
    units: Mapping[str, str]
    rows: tuple[tuple[int, Row], ...]


def _split(head: str) -> tuple[str, str]:
    """ "Start (ns)" -> "Start", "ns"."""
    name, _, unit = head.strip().partition(" (")
    return name, unit.rstrip(")")


def _tables(path: Path) -> Iterator[_Table]:
    """Every CSV table of a file; `nsys stats` prints several after one another, with words
    between."""
    text = bytes(read_file(path).data).decode("utf-8-sig", "replace")
    heads: list[tuple[str, str]] = []
    rows: list[tuple[int, Row]] = []
    reader = csv.reader(io.StringIO(text, newline=""))
    try:
        for cells in reader:
            found = [_split(cell) for cell in cells]
            if "Name" in {name for name, _ in found}:
                if heads:
                    yield _Table(source=str(path), units=dict(heads), rows=tuple(rows))
                heads, rows = found, []
            elif heads and len(cells) == len(heads):
                row = dict(zip((name for name, _ in heads), cells, strict=True))
                rows.append((reader.line_num, row))
    except csv.Error as error:
        raise TraceError(f"{path}:{reader.line_num}: no CSV: {error}.") from None
    if heads:
        yield _Table(source=str(path), units=dict(heads), rows=tuple(rows))


def _table(path: Path, needed: Sequence[str], report: str) -> _Table:
    """The first table that has the columns of `report`."""
    for table in _tables(path):
        if set(needed) <= set(table.units):
            return table
    raise TraceError(
        f"{path} has no table with {', '.join(needed)}; write one with"
        f" `nsys stats --report {report} --format csv`."
    )


def _number(cell: str, where: str) -> Decimal:
    """A number, which may have thousands separators."""
    try:
        value = Decimal(cell.replace(",", "").strip())
    except InvalidOperation:
        raise TraceError(f"{where}: {cell[:40]!r} is no number.") from None
    if not value.is_finite() or value.adjusted() > _MAX_DIGITS or abs(value) > 2**61:
        raise TraceError(f"{where}: {cell[:40]} is out of range.")
    return value


def _time_ns(table: _Table, line: int, row: Row, column: str) -> Decimal:
    where = f"{table.source}:{line}: {column}"
    unit = table.units[column]
    if unit not in _NS:
        raise TraceError(f"{where}: unknown unit {unit!r}; use --timeunit ns.")
    return _number(row[column], where) * _NS[unit]


def kernel_sums(path: Path) -> tuple[KernelSum, ...]:
    """The kernels of a `cuda_gpu_kern_sum` CSV (older: `gpukernsum`), in its order."""
    table = _table(path, _SUMS, "cuda_gpu_kern_sum")
    times = ("Total Time", "Avg", "Med", "Min", "Max", "StdDev")
    if missing := [column for column in times if column not in table.units]:
        raise TraceError(f"{path}: the table has no column {', '.join(missing)}.")
    found = []
    for line, row in table.rows:
        total, average, median, least, most, deviation = (
            _time_ns(table, line, row, column) for column in times
        )
        found.append(
            KernelSum(
                name=row["Name"],
                instances=int(_number(row["Instances"], f"{path}:{line}: Instances")),
                total_ns=int(total),
                average_ns=float(average),
                median_ns=float(median),
                min_ns=int(least),
                max_ns=int(most),
                deviation_ns=float(deviation),
            )
        )
    return tuple(found)


def _kind(name: str) -> Kind:
    lower = name.lower()
    if "memcpy" in lower[:16]:
        return Kind.MEMCPY
    return Kind.MEMSET if "memset" in lower[:16] else Kind.KERNEL


def _plain(name: str) -> str:
    """ "[CUDA memcpy Host-to-Device]" as torch.profiler writes it; other names as they are."""
    words = {"Host-to-Device": "HtoD", "Device-to-Host": "DtoH", "Device-to-Device": "DtoD"}
    if not name.startswith("[CUDA mem"):
        return name
    inner = name.strip("[]").removeprefix("CUDA ").capitalize()
    for long, short in words.items():
        inner = inner.replace(long, short).replace(long.lower(), short)
    return inner


@dataclass(frozen=True, slots=True, kw_only=True)
class RowArguments:
    """The arguments of events: lines of a table, by their place in it."""

    rows: tuple[Row, ...]

    def decode(self, start: int, nbytes: int) -> Mapping[str, Json]:
        """The cells of the line that are not empty."""
        return {name: cell for name, cell in self.rows[start].items() if cell}


def _device_names(table: _Table) -> tuple[str, ...]:
    """The devices by their number: the order of "NVIDIA H100 (0)", "NVIDIA H100 (1)"."""
    names = {row.get("Device", "") for _, row in table.rows}
    return tuple(sorted(names, key=lambda name: (_number_in(name), name)))


def _number_in(name: str) -> int:
    """The number in brackets at the end of a device's name; -1 without one."""
    found = re.search(r"\((\d{1,6})\)$", name)
    return int(found[1]) if found else -1


def _optional(table: _Table, line: int, row: Row, column: str) -> int:
    cell = row.get(column, "")
    return int(_number(cell, f"{table.source}:{line}: {column}")) if cell else ABSENT


def _recording(table: _Table, device: str, rank: int) -> Recording:
    """The events of one device."""
    lines = [(line, row) for line, row in table.rows if row.get("Device", "") == device]
    names: dict[str, int] = {}
    threads: dict[Thread, int] = {}
    cells = []
    for line, row in lines:
        name, stream = _plain(row["Name"]), _optional(table, line, row, "Strm")
        thread = Thread(process=str(rank), thread=str(stream))
        start, duration = (int(_time_ns(table, line, row, one)) for one in ("Start", "Duration"))
        numbers = (names.setdefault(name, len(names)), threads.setdefault(thread, len(threads)))
        correlation = _optional(table, line, row, "CorrId")
        cells.append((start, duration, _kind(name), *numbers, rank, stream, correlation))
    matrix = np.array(cells, np.int64)
    order = ("start_ns", "duration_ns", "kind", "name", "thread", "device", "stream", "correlation")
    given = dict(zip(order, matrix.T, strict=True))
    return Recording(
        source=table.source,
        metadata=Metadata(
            dialect=Dialect.NSYS,
            rank=rank,
            devices=(Device(id=rank, name=device.rpartition(" (")[0] or device),),
            num_recorded=len(lines),
        ),
        events=columns(len(lines), args_start=np.arange(len(lines)), **given),
        names=tuple(names),
        threads=tuple(threads),
        arguments=RowArguments(rows=tuple(row for _, row in lines)),
        notes=(
            f"a table of {counted(len(lines), 'event')} on the device: no host events, so the cause"
            " of idle time cannot be told.",
        ),
    )


def read_gpu_trace(path: Path) -> tuple[Recording, ...]:
    """The recordings of a `cuda_gpu_trace` CSV (older: `gputrace`), one per device: kernels, copies
    and fills. Times are ns since the session's start."""
    table = _table(path, _TRACE, "cuda_gpu_trace")
    if not table.rows:
        raise TraceError(f"{path}: the table has no rows: nothing ran on a device.")
    return tuple(_recording(table, name, rank) for rank, name in enumerate(_device_names(table)))
