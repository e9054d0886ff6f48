"""Nsight Systems exports (`nsys export --type sqlite`) -> one recording per process and device."""

import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

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
from ridgeline.traces.nsys_about import (
    KNOWN_SCHEMA,
    described_devices,
    newer_schema,
    session_start_ns,
)
from ridgeline.traces.nsys_database import Database, Store, store
from ridgeline.traces.nsys_events import SOURCES, AllEvents, nvtx_domains, read_events
from ridgeline.traces.nsys_nccl import Member, kernel_arguments, read_nccl
from ridgeline.traces.nsys_tables import CALLS, GRAPHS, KERNELS, NVTX
from ridgeline.units import counted

Mask = NDArray[np.bool_]
_DEVICE_ROWS = (*DEVICE_KINDS, Kind.SYNC, Kind.MEMORY)
_NAMELESS = "the export does not name its devices; --machine says what they are."
_SIZES = re.compile(r", sizes = (\[[\[\]\d, ]{0,4000}\])")
_GROUPS = {  # argument as torch.profiler spells it -> columns
    "grid": ("gridX", "gridY", "gridZ"),
    "block": ("blockX", "blockY", "blockZ"),
}


class NsysArguments:
    """The arguments of events: rows of a database, found by row number and table. `args_start` is
    the row, `args_nbytes` the table's place in `SOURCES`. The database is opened at the first
    question and stays open; a copy in another process opens its own. collectives: what NCCL said of
    its kernels, by row."""

    def __init__(
        self,
        store: Store,
        domains: Mapping[tuple[int, int], str],
        collectives: Mapping[int, Mapping[str, Json]],
    ) -> None:
        self._store = store
        self._domains = domains
        self._collectives = collectives
        self._connection: sqlite3.Connection | None = None

    def __getstate__(self) -> tuple[object, ...]:
        return self._store, self._domains, self._collectives

    def __setstate__(self, state: tuple[Any, ...]) -> None:
        self._store, self._domains, self._collectives = state
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
        told = self._collectives.get(start, {}) if table == KERNELS.table else {}
        return dict(_grouped(found)) | dict(told)


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


def _notes(found: AllEvents, ranks: list[tuple[int, int]], newer: str) -> Iterator[str]:
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
    if newer:
        known = ".".join(map(str, KNOWN_SCHEMA))
        yield (
            f"the export's schema is {newer}, newer than {known}, the newest one known here: what"
            " only newer ones hold is not read."
        )
    lost = ~np.isin(found.process, [process for _, process in ranks])
    if lost.any():
        yield f"{counted(int(lost.sum()), 'event')} of processes without a kernel are left out."


def _members(
    ranks: list[tuple[int, int]], members: Mapping[tuple[int, int], Member]
) -> list[Member | None]:
    """What NCCL says each rank is. None for all where it does not say it of all, or says the same
    of two: they are then numbered by device.
    """
    found = [members.get((process, device)) for device, process in ranks]
    known = {one.rank for one in found if one is not None}
    return found if len(known) == len(ranks) else [None] * len(ranks)


def _used(found: AllEvents, devices: tuple[Device, ...]) -> tuple[Device, ...]:
    """The devices described, else those that anything ran on, whose names are not known."""
    if devices:
        return devices
    on_device = found.events.device[found.events.where(*DEVICE_KINDS)]
    return tuple(Device(id=one, name="") for one in np.unique(on_device).tolist() if one >= 0)


def read_nsys(path: Path) -> tuple[Recording, ...]:
    """The recordings of one export, plain or packed by gzip: one per process and device that ran
    kernels. Ranked as NCCL's payloads say, else by device. Times are ns since the session's start.

    Raises TraceError for a file that is none, or whose tables do not hold what Nsight Systems
    writes.
    """
    where = store(path)
    with where.open() as database:
        found = read_events(database)
        devices, start_ns = described_devices(database), session_start_ns(database)
        domains = nvtx_domains(database)
        nccl = read_nccl(database, domains)
        told = kernel_arguments(database, nccl, KERNELS.table, CALLS.table)
        newer = newer_schema(database)
    ranks = _ranks(found)
    notes = (*_notes(found, ranks, newer), *[_NAMELESS] * (not devices))
    arguments, devices = NsysArguments(where, domains, told), _used(found, devices)
    return tuple(
        Recording(
            source=str(path),
            metadata=Metadata(
                dialect=Dialect.NSYS,
                rank=number if member is None else member.rank,
                world_size=None if member is None else member.world_size,
                base_time_ns=start_ns,
                devices=devices,
                num_recorded=len(found.events),
            ),
            events=found.events.take(_belongs(found, ranks, number)),
            names=found.names,
            threads=found.threads,
            arguments=arguments,
            notes=notes,
        )
        for number, member in enumerate(_members(ranks, nccl.members))
    )
