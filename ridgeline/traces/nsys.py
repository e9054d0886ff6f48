"""Nsight Systems exports (`nsys export --type sqlite`) -> one recording per process and device."""

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from ridgeline.traces.columns import (
    ABSENT,
    DEVICE_KINDS,
    Device,
    Dialect,
    Json,
    Kind,
    Metadata,
    Recording,
)
from ridgeline.traces.nsys_database import Database, Store, store
from ridgeline.traces.nsys_events import SOURCES, AllEvents, nvtx_domains, read_events
from ridgeline.traces.nsys_tables import GRAPHS, NVTX
from ridgeline.units import counted

Mask = NDArray[np.bool_]
_DEVICE_ROWS = (*DEVICE_KINDS, Kind.SYNC, Kind.MEMORY)
_SIZES = re.compile(r", sizes = (\[[\[\]\d, ]{0,4000}\])")
_GROUPS = {  # argument as torch.profiler spells it -> columns
    "grid": ("gridX", "gridY", "gridZ"),
    "block": ("blockX", "blockY", "blockZ"),
}


class NsysArguments:
    """The arguments of events: rows of a database, found by row number and table. `args_start` is
    the row, `args_nbytes` the table's place in `SOURCES`. The database is opened at the first
    question and stays open; a copy in another process opens its own."""

    def __init__(self, store: Store, domains: Mapping[tuple[int, int], str]) -> None:
        self._store = store
        self._domains = domains
        self._connection: sqlite3.Connection | None = None

    def __getstate__(self) -> tuple[Store, Mapping[tuple[int, int], str]]:
        return self._store, self._domains

    def __setstate__(self, state: tuple[Store, Mapping[tuple[int, int], str]]) -> None:
        self._store, self._domains = state
        self._connection = None

    def __del__(self) -> None:
        if self._connection is not None:
            self._connection.close()

    def decode(self, start: int, nbytes: int) -> Mapping[str, Json]:
        """Everything the row holds that is set; grid and block as lists, an NVTX domain by name,
        and the shapes in an operator's range as "Input Dims"."""
        table = SOURCES[nbytes]
        with self._store.guarded():
            if self._connection is None:
                self._connection = self._store.connect()
            row = Database(path=self._store.path, connection=self._connection).row(table, start)
        found = {name: value for name, value in row.items() if value is not None}
        if table == NVTX:
            return dict(_grouped(found)) | _domain(found, self._domains) | _shapes(found)
        return dict(_grouped(found))


def _shapes(row: Mapping[str, object]) -> dict[str, Json]:
    """The shapes that `emit_nvtx(record_shapes=True)` writes: "sizes = [[2, 3], [3, 4]]"."""
    found = _SIZES.search(str(row.get("text", "")))
    try:
        return {"Input Dims": json.loads(found[1])} if found else {}
    except ValueError:
        return {}


def _grouped(row: Mapping[str, object]) -> Iterator[tuple[str, Json]]:
    """The row's values, three columns of one group as one list, bytes as hexadecimal."""
    rest = dict(row)
    for name, columns in _GROUPS.items():
        if all(column in rest for column in columns):
            yield name, [_json(rest.pop(column)) for column in columns]
    yield from ((name, _json(value)) for name, value in rest.items())


def _json(value: object) -> Json:
    if isinstance(value, bytes):
        return value.hex()
    return value if isinstance(value, int | float | str) else str(value)


def _domain(row: Mapping[str, object], domains: Mapping[tuple[int, int], str]) -> dict[str, Json]:
    tid, domain = row.get("globalTid"), row.get("domainId")
    if not isinstance(tid, int) or not isinstance(domain, int):
        return {}
    name = domains.get((tid & ~0xFFFFFF, domain))
    return {"domain": name} if name else {}


def _devices(database: Database) -> tuple[Device, ...]:
    """The devices, from TARGET_INFO_GPU; none where the export lacks it."""
    if "TARGET_INFO_GPU" not in database.tables():
        return ()
    numbers = (
        "cuDevice", "totalMemory", "smCount", "computeMajor", "computeMinor", "memoryBandwidth",
        "l2CacheSize",
    )  # fmt: skip
    table = database.integers("TARGET_INFO_GPU", ("id",), numbers)
    names = database.texts("TARGET_INFO_GPU", "rowid", "name")
    rows = (
        {name: int(column[row]) for name, column in table.items()}
        for row in range(len(table["id"]))
    )
    return tuple(_device(row, names.get(row["rowid"], "")) for row in rows)


def _device(row: Mapping[str, int], name: str) -> Device:
    given = {key: None if value <= 0 else value for key, value in row.items()}
    major, minor = row["computeMajor"], row["computeMinor"]
    return Device(
        id=row["id"] if row["cuDevice"] == ABSENT else row["cuDevice"],
        name=name,
        memory_bytes=given["totalMemory"],
        num_multiprocessors=given["smCount"],
        compute_capability=None if ABSENT in (major, minor) else (major, minor),
        bandwidth_bytes_per_s=given["memoryBandwidth"],
        l2_bytes=given["l2CacheSize"],
    )


def _start_ns(database: Database) -> int:
    """The time since 1970 of time 0; 0 where the export lacks it."""
    table = "TARGET_INFO_SESSION_START_TIME"
    if table not in database.tables():
        return 0
    times = database.integers(table, (), ("utcEpochNs",))["utcEpochNs"]
    return max(int(times[0]), 0) if len(times) else 0


def _ranks(found: AllEvents) -> list[tuple[int, int]]:
    """Device and process of every rank, by device: those that ran a kernel, or anything on the
    device where none did; a recording without a device has one rank per process."""
    kind, device = found.events.kind, found.events.device.astype(np.int64)
    for kinds in ((Kind.KERNEL,), DEVICE_KINDS):
        rows = np.flatnonzero(np.isin(kind, kinds))
        if len(rows):
            pairs = np.column_stack((device[rows], found.process[rows]))
            return [(one, two) for one, two in np.unique(pairs, axis=0).tolist()]
    return [(ABSENT, process) for process in np.unique(found.process).tolist()]


def _belongs(found: AllEvents, ranks: list[tuple[int, int]], rank: int) -> Mask:
    """Which events are of one rank: those of its device and process; those of its process on the
    host, but for calls that launched work on another of its devices; and for the first rank of a
    process, those on devices where it runs no kernel."""
    device, process = ranks[rank]
    is_device = np.isin(found.events.kind, _DEVICE_ROWS)
    is_ours = found.process == process
    own = [one for one, owner in ranks if owner == process]
    others = [one for one in own if one != device]
    is_here = found.events.device == device
    if device == own[0]:
        is_here |= ~np.isin(found.events.device, others)
    return np.asarray(
        is_ours & np.where(is_device, is_here, ~_is_elsewhere(found, is_ours, device))
    )


def _is_elsewhere(found: AllEvents, is_ours: Mask, device: int) -> Mask:
    """Which host events of a process launched work on other devices than this one, and only there:
    a call and its work share a correlation."""
    correlation = found.events.correlation
    is_work = is_ours & np.isin(found.events.kind, DEVICE_KINDS) & (correlation != ABSENT)
    is_here = found.events.device == device
    only_there = np.setdiff1d(correlation[is_work & ~is_here], correlation[is_work & is_here])
    return np.asarray(np.isin(correlation, only_there))


def _notes(found: AllEvents, ranks: list[tuple[int, int]]) -> Iterator[str]:
    """What the export does not hold, or was read in a way worth knowing."""
    num_graphs = int((found.events.args_nbytes == SOURCES.index(GRAPHS.table)).sum())
    if num_graphs:
        yield (
            f"{counted(num_graphs, 'CUDA graph launch')} were traced whole: the kernels inside are"
            " not recorded; record with --cuda-graph-trace=node to see them."
        )
    if found.num_open:
        yield f"{counted(found.num_open, 'NVTX range')} never ended: taken to the last one's end."
    if len({process for _, process in ranks}) < len(ranks):
        yield (
            "a process drives several devices: what it did for none of them in particular stands in"
            " the recording of each."
        )
    lost = ~np.isin(found.process, [process for _, process in ranks])
    if lost.any():
        yield f"{counted(int(lost.sum()), 'event')} of processes without a kernel are left out."


def read_nsys(path: Path) -> tuple[Recording, ...]:
    """The recordings of one export, plain or packed by gzip: one per process and device that ran
    kernels, ranked by device. Times are ns since the session's start.

    Raises TraceError for a file that is none, or whose tables do not hold what Nsight Systems
    writes.
    """
    where = store(path)
    with where.open() as database:
        found = read_events(database)
        devices, start_ns = _devices(database), _start_ns(database)
        arguments = NsysArguments(where, nvtx_domains(database))
    ranks = _ranks(found)
    notes = tuple(_notes(found, ranks))
    return tuple(
        Recording(
            source=str(path),
            metadata=Metadata(
                dialect=Dialect.NSYS,
                rank=rank,
                base_time_ns=start_ns,
                devices=devices,
                num_recorded=len(found.events),
            ),
            events=found.events.take(_belongs(found, ranks, rank)),
            names=found.names,
            threads=found.threads,
            arguments=arguments,
            notes=notes,
        )
        for rank in range(len(ranks))
    )
