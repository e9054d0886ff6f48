"""Writes Nsight Systems exports with the tables and columns the tool writes, from known events."""

import sqlite3
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

# As in exports of schema 3.25 (Nsight Systems 2026.2); tables without rows are not created.
_DEVICE = "deviceId INTEGER NOT NULL, contextId INTEGER NOT NULL, greenContextId INTEGER,"
_STREAM = "streamId INTEGER NOT NULL, correlationId INTEGER, globalPid INTEGER"
_TIMES = "start INTEGER NOT NULL, end INTEGER NOT NULL,"
DDL: Mapping[str, str] = {
    "StringIds": "id INTEGER NOT NULL PRIMARY KEY, value TEXT NOT NULL",
    "CUPTI_ACTIVITY_KIND_KERNEL": f"""{_TIMES} {_DEVICE} {_STREAM},
        demangledName INTEGER NOT NULL, shortName INTEGER NOT NULL, mangledName INTEGER,
        launchType INTEGER, cacheConfig INTEGER, registersPerThread INTEGER NOT NULL,
        gridX INTEGER NOT NULL, gridY INTEGER NOT NULL, gridZ INTEGER NOT NULL,
        blockX INTEGER NOT NULL, blockY INTEGER NOT NULL, blockZ INTEGER NOT NULL,
        staticSharedMemory INTEGER NOT NULL, dynamicSharedMemory INTEGER NOT NULL,
        localMemoryPerThread INTEGER NOT NULL, localMemoryTotal INTEGER NOT NULL,
        gridId INTEGER NOT NULL, sharedMemoryExecuted INTEGER, graphNodeId INTEGER,
        sharedMemoryLimitConfig INTEGER""",
    "CUPTI_ACTIVITY_KIND_MEMCPY": f"""{_TIMES} {_DEVICE} {_STREAM},
        bytes INTEGER NOT NULL, copyKind INTEGER NOT NULL, deprecatedSrcId INTEGER,
        srcKind INTEGER, dstKind INTEGER, srcDeviceId INTEGER, srcContextId INTEGER,
        dstDeviceId INTEGER, dstContextId INTEGER, migrationCause INTEGER, graphNodeId INTEGER,
        virtualAddress INTEGER, copyCount INTEGER""",
    "CUPTI_ACTIVITY_KIND_MEMSET": f"""{_TIMES} {_DEVICE} {_STREAM},
        value INTEGER NOT NULL, bytes INTEGER NOT NULL, graphNodeId INTEGER, memKind INTEGER""",
    "CUPTI_ACTIVITY_KIND_GRAPH_TRACE": f"""{_TIMES} {_DEVICE} {_STREAM},
        graphId INTEGER NOT NULL, graphExecId INTEGER NOT NULL""",
    "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION": f"""{_TIMES} {_DEVICE} {_STREAM},
        deprecatedSyncType INTEGER, syncType INTEGER NOT NULL, eventId INTEGER NOT NULL,
        eventSyncId INTEGER""",
    "CUPTI_ACTIVITY_KIND_RUNTIME": f"""{_TIMES} eventClass INTEGER NOT NULL, globalTid INTEGER,
        correlationId INTEGER, nameId INTEGER NOT NULL, returnValue INTEGER NOT NULL,
        callchainId INTEGER""",
    "NVTX_EVENTS": """start INTEGER NOT NULL, end INTEGER, eventType INTEGER NOT NULL,
        rangeId INTEGER, category INTEGER, color INTEGER, text TEXT, globalTid INTEGER,
        endGlobalTid INTEGER, textId INTEGER, domainId INTEGER, uint64Value INTEGER,
        int64Value INTEGER, doubleValue REAL, uint32Value INTEGER, int32Value INTEGER,
        floatValue REAL, jsonTextId INTEGER, jsonText TEXT, binaryData TEXT""",
    "NVTX_PAYLOAD_SCHEMA_ENTRIES": """domainId INTEGER NOT NULL, schemaId INTEGER NOT NULL,
        idx INTEGER NOT NULL, flags INTEGER, type INTEGER, name TEXT, description TEXT,
        arrayOrUnionDetail INTEGER, offset INTEGER""",
    "META_DATA_EXPORT": "name TEXT, value TEXT",
    "EXPORT_META_DATA": "name TEXT, value TEXT",
    "GPU_METRICS": """timestamp INTEGER NOT NULL, typeId INTEGER NOT NULL,
        metricId INTEGER NOT NULL, value INTEGER NOT NULL""",
    "TARGET_INFO_GPU_METRICS": """typeId INTEGER NOT NULL, sourceId INTEGER NOT NULL,
        typeName TEXT NOT NULL, metricId INTEGER NOT NULL, metricName TEXT NOT NULL""",
    "TARGET_INFO_GPU": """vmId INTEGER NOT NULL, id INTEGER NOT NULL, name TEXT,
        busLocation TEXT, isDiscrete INTEGER, l2CacheSize INTEGER, totalMemory INTEGER,
        memoryBandwidth INTEGER, clockRate INTEGER, smCount INTEGER, computeMajor INTEGER,
        computeMinor INTEGER, uuid TEXT, cuDevice INTEGER""",
    "TARGET_INFO_SESSION_START_TIME": """utcEpochNs INTEGER, utcTime TEXT, localTime TEXT,
        systemClockNs INTEGER""",
}
KERNEL, MEMCPY = "CUPTI_ACTIVITY_KIND_KERNEL", "CUPTI_ACTIVITY_KIND_MEMCPY"
MEMSET, SYNC = "CUPTI_ACTIVITY_KIND_MEMSET", "CUPTI_ACTIVITY_KIND_SYNCHRONIZATION"
RUNTIME, NVTX = "CUPTI_ACTIVITY_KIND_RUNTIME", "NVTX_EVENTS"
Value = int | float | str | bytes | None
_HOST_ID = 0x1 << 48


def global_pid(pid: int) -> int:
    """A process as exports number it."""
    return _HOST_ID | pid << 24


@dataclass(slots=True)
class Export:
    """The tables of an export, filled row by row."""

    rows: dict[str, list[dict[str, Value]]] = field(default_factory=dict)
    strings: dict[str, int] = field(default_factory=dict)

    def string(self, text: str) -> int:
        """The number of a text in StringIds."""
        return self.strings.setdefault(text, len(self.strings) + 1)

    def add(self, table: str, **cells: Value) -> None:
        """Appends a row; columns that must be set and are not given are 0."""
        self.rows.setdefault(table, []).append(cells)

    def on_device(
        self, table: str, start: int, end: int, device: int, pid: int, **cells: Value
    ) -> None:
        """Appends an event of a device: stream 7 and context 1 unless said."""
        placed: dict[str, Value] = {"streamId": 7, "contextId": 1} | cells
        self.add(table, start=start, end=end, deviceId=device, globalPid=global_pid(pid), **placed)

    def kernel(
        self, name: str, start: int, end: int, device: int, pid: int, **cells: Value
    ) -> None:
        """Appends a kernel."""
        number = self.string(name)
        self.on_device(
            KERNEL, start, end, device, pid, demangledName=number, shortName=number, **cells
        )

    def call(self, name: str, start: int, end: int, pid: int, correlation: int) -> None:
        """Appends a runtime call of the process's main thread."""
        self.add(
            RUNTIME,
            start=start,
            end=end,
            globalTid=global_pid(pid) | pid,
            correlationId=correlation,
            nameId=self.string(name),
        )

    def nvtx(self, text: str, start: int, end: int | None, pid: int, **cells: Value) -> None:
        """Appends a range of the process's main thread; its text is its own unless `textId` is
        given."""
        own = None if "textId" in cells else text
        placed: dict[str, Value] = {"eventType": 59, "domainId": 0} | cells
        self.add(NVTX, start=start, end=end, text=own, globalTid=global_pid(pid) | pid, **placed)

    def write(self, path: Path, *, without: Sequence[tuple[str, str]] = ()) -> Path:
        """Writes the export; `without` names columns that this version lacks."""
        with closing(sqlite3.connect(path)) as database:
            tables = self.rows | {
                "StringIds": [
                    {"id": number, "value": text} for text, number in self.strings.items()
                ]
            }
            for table, rows in tables.items():
                dropped = {column for name, column in without if name == table}
                _create(database, table, rows, dropped)
            database.commit()
        return path


def _create(
    database: sqlite3.Connection,
    table: str,
    rows: Sequence[Mapping[str, Value]],
    dropped: set[str],
) -> None:
    columns = [" ".join(one.split()) for one in DDL[table].split(",")]
    kept = [one for one in columns if one.partition(" ")[0] not in dropped]
    database.execute(f'CREATE TABLE "{table}" ({", ".join(kept)})')
    names = [one.partition(" ")[0] for one in kept]
    needed = {one.partition(" ")[0] for one in kept if "NOT NULL" in one}
    marks = ", ".join("?" * len(names))
    database.executemany(
        f'INSERT INTO "{table}" VALUES ({marks})',
        [[row.get(name, 0 if name in needed else None) for name in names] for row in rows],
    )
