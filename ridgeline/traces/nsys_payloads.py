"""What programs attach to their NVTX ranges beyond a text: NVTX's extended payloads.

An export made with `--include-blobs` holds them as they lay in memory, after a header of 32 bytes:
domain, schema (uint32 each, 4 bytes apart), the payload's size and the size of both (uint64).
Source: NVTX_PAYLOAD_SCHEMA_ENTRIES of exports, and nvToolsExtPayload.h for the numbers of types.
"""

import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from ridgeline.traces.nsys_database import Database
from ridgeline.traces.nsys_tables import NVTX

ENTRIES = "NVTX_PAYLOAD_SCHEMA_ENTRIES"
HEADER = struct.Struct("<IIIIQQ")
_FORMATS: Mapping[int, struct.Struct] = {  # NVTX_PAYLOAD_ENTRY_TYPE_...
    5: struct.Struct("<i"),  # INT
    6: struct.Struct("<I"),
    9: struct.Struct("<q"),  # LONGLONG
    10: struct.Struct("<Q"),
    15: struct.Struct("<i"),  # INT32
    16: struct.Struct("<I"),
    17: struct.Struct("<q"),  # INT64
    18: struct.Struct("<Q"),
    22: struct.Struct("<Q"),  # SIZE
}


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A number in a payload: what it is called, and where and how it lies there."""

    name: str
    offset: int
    format: struct.Struct


Schemas = Mapping[int, tuple[_Entry, ...]]
"""The numbers in payloads of each schema, by its id."""


def payload_schemas(database: Database, domains: frozenset[int]) -> Schemas:
    """The schemas that these NVTX domains registered; none where the export has none."""
    if ENTRIES not in database.tables():
        return {}
    columns = ("domainId", "schemaId", "type", "offset")
    table = database.integers(ENTRIES, (), columns)
    names = database.texts(ENTRIES, "rowid", "name")
    found: dict[int, dict[str, _Entry]] = {}
    for row, domain, schema, kind, offset in zip(
        *(table[column].tolist() for column in ("rowid", *columns)), strict=True
    ):
        name = names.get(row)
        if domain in domains and kind in _FORMATS and name:
            entry = _Entry(name=name, offset=max(offset, 0), format=_FORMATS[kind])
            found.setdefault(schema, {})[name] = entry  # once per process, all alike
    return {schema: tuple(entries.values()) for schema, entries in found.items()}


def decode_payload(data: bytes, schemas: Schemas) -> dict[str, int]:
    """The numbers in one payload by name; empty where it is torn off or of an unknown schema."""
    if len(data) < HEADER.size:
        return {}
    entries = schemas.get(HEADER.unpack_from(data)[2], ())
    return dict(_numbers(data[HEADER.size :], entries))


def _numbers(data: bytes, entries: tuple[_Entry, ...]) -> Iterator[tuple[str, int]]:
    for entry in entries:
        if entry.offset + entry.format.size <= len(data):
            (value,) = entry.format.unpack_from(data, entry.offset)
            yield entry.name, value


def payloads(database: Database, schemas: Schemas) -> Mapping[int, Mapping[str, int]]:
    """The numbers attached to each NVTX row, by rowid; only of rows that have some."""
    if not schemas:
        return {}
    blobs = database.blobs(NVTX, "binaryData")
    found = {row: decode_payload(data, schemas) for row, data in blobs.items()}
    return {row: numbers for row, numbers in found.items() if numbers}
