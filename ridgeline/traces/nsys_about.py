"""What an Nsight Systems export says about itself: devices, start of the session, version."""

from collections.abc import Mapping

from ridgeline.traces.columns import ABSENT, Device
from ridgeline.traces.nsys_database import Database

KNOWN_SCHEMA = (3, 25)
"""The newest schema these readers were checked against: Nsight Systems 2026.2."""
_ABOUT = ("META_DATA_EXPORT", "EXPORT_META_DATA")  # as it is called since 2021, and before
_DEVICES = "TARGET_INFO_GPU"


def described_devices(database: Database) -> tuple[Device, ...]:
    """The devices, from TARGET_INFO_GPU; none where the export lacks it."""
    if _DEVICES not in database.tables():
        return ()
    numbers = (
        "cuDevice", "totalMemory", "smCount", "computeMajor", "computeMinor", "memoryBandwidth",
        "l2CacheSize",
    )  # fmt: skip
    table = database.integers(_DEVICES, ("id",), numbers)
    names = database.texts(_DEVICES, "rowid", "name")
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


def session_start_ns(database: Database) -> int:
    """The time since 1970 of time 0; 0 where the export lacks it."""
    table = "TARGET_INFO_SESSION_START_TIME"
    if table not in database.tables():
        return 0
    times = database.integers(table, (), ("utcEpochNs",))["utcEpochNs"]
    return max(int(times[0]), 0) if len(times) else 0


def schema_of(database: Database) -> str:
    """The version of the export's schema, as "3.25.0"; "" where it does not say."""
    for table in _ABOUT:
        if table in database.tables() and "name" in database.columns_of(table):
            names = database.texts(table, "rowid", "name")
            values = database.texts(table, "rowid", "value")
            found = {name: values.get(row, "") for row, name in names.items()}
            return found.get("EXPORT_SCHEMA_VERSION", "")
    return ""


def newer_schema(database: Database) -> str:
    """The version of the export's schema where it is newer than we know; else ""."""
    found = schema_of(database)
    major, _, rest = found.partition(".")
    minor = rest.partition(".")[0]
    is_number = all(one.isascii() and one.isdigit() and len(one) < 9 for one in (major, minor))
    return found[:40] if is_number and (int(major), int(minor)) > KNOWN_SCHEMA else ""
