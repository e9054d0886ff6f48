"""The trace scanner: a Chrome trace as columns, by the built library; None where there is none."""

import ctypes
from collections.abc import Mapping
from dataclasses import dataclass
from enum import IntEnum
from functools import cache
from mmap import mmap

import numpy as np
from numpy.typing import NDArray

from ridgeline.native.optional import POINTER, WORD, Signature, functions

Text = bytes | bytearray | mmap
"""The bytes of a file, in memory or mapped."""

_VERSION = 2
_SIGNATURES: Mapping[str, Signature] = {
    "rl_scan_trace": (POINTER, (POINTER, WORD, WORD)),
    "rl_scan_number": (WORD, (POINTER, WORD)),
    "rl_scan_table_size": (WORD, (POINTER, WORD)),
    "rl_scan_table": (None, (POINTER, WORD, POINTER)),
    "rl_scan_column": (None, (POINTER, WORD, POINTER)),
    "rl_scan_inputs": (None, (POINTER, WORD, POINTER, POINTER, POINTER)),
    "rl_scan_free": (None, (POINTER,)),
}
COLUMNS: Mapping[str, type[np.generic]] = {
    "start_ns": np.int64,
    "duration_ns": np.int64,
    "phase": np.uint8,
    "name": np.int32,
    "category": np.int32,
    "process": np.int32,
    "thread": np.int32,
    "device": np.int32,
    "stream": np.int64,
    "correlation": np.int64,
    "external_id": np.int64,
    "args_start": np.int64,
    "args_nbytes": np.int64,
}
"""What a scan gives for every event, and the type of its numbers. -1 where an event has none."""
TABLES = ("names", "categories", "processes", "threads")


class End(IntEnum):
    """How the text ended."""

    WHOLE = 0
    CUT = 1  # in the middle: the file is longer than what is there of it
    BROKEN = 2  # at a byte that no JSON has there


@dataclass(frozen=True, slots=True, kw_only=True)
class Scan:
    """The events of a Chrome trace that have a name and a time.

    columns: as COLUMNS says. tables: what the columns of that name number, as bytes of the file,
    without quotes, escapes as they are written. header: every key and value beside the events.
    offset: where reading ended. Not among the columns, but counted: python: calls of Python
    functions, unless asked for; flows: flow and metadata events; untimed: events without a name, a
    time or with times beyond 2**61 ns; unread: events of a phase that torch.profiler does not use.
    """

    columns: Mapping[str, NDArray[np.generic]]
    tables: Mapping[str, list[bytes]]
    header: list[tuple[bytes, bytes]]
    end: End
    offset: int
    num_recorded: int
    num_python: int
    num_flows: int
    num_untimed: int
    num_unread: int


_HEADER_TABLE = len(TABLES)
_STATUS, _OFFSET, _KEPT, _RECORDED, _PYTHON, _FLOWS, _UNTIMED, _UNREAD = range(8)


_library = cache(lambda: functions(_SIGNATURES, "rl_scan_version", _VERSION))


def has_scanner() -> bool:
    """Whether the scanner was built."""
    return _library() is not None


def scan(data: Text, *, keeps_python: bool = False) -> Scan | None:
    """What `data`, the text of a Chrome trace, holds; None where the scanner was not built."""
    library = _library()
    if library is None:
        return None
    text = np.frombuffer(data, np.uint8) if len(data) else np.zeros(0, np.uint8)
    handle = library.rl_scan_trace(text.ctypes.data, text.size, keeps_python)
    if handle is None:
        raise MemoryError
    try:
        return _collected(library, handle, text)
    finally:
        library.rl_scan_free(handle)


def _collected(library: ctypes.CDLL, handle: int, text: NDArray[np.uint8]) -> Scan:
    numbers = [library.rl_scan_number(handle, i) for i in range(8)]
    tables = {name: _table(library, handle, i, text) for i, name in enumerate(TABLES)}
    header = _table(library, handle, _HEADER_TABLE, text)
    return Scan(
        columns={
            name: _column(library, handle, i, np.empty(numbers[_KEPT], dtype))
            for i, (name, dtype) in enumerate(COLUMNS.items())
        },
        tables=tables,
        header=list(zip(header[::2], header[1::2], strict=True)),
        end=End(numbers[_STATUS]),
        offset=numbers[_OFFSET],
        num_recorded=numbers[_RECORDED],
        num_python=numbers[_PYTHON],
        num_flows=numbers[_FLOWS],
        num_untimed=numbers[_UNTIMED],
        num_unread=numbers[_UNREAD],
    )


def _column(
    library: ctypes.CDLL, handle: int, number: int, target: NDArray[np.generic]
) -> NDArray[np.generic]:
    library.rl_scan_column(handle, number, target.ctypes.data)
    return target


def _table(library: ctypes.CDLL, handle: int, number: int, text: NDArray[np.uint8]) -> list[bytes]:
    spans = np.empty((library.rl_scan_table_size(handle, number), 2), np.int64)
    library.rl_scan_table(handle, number, spans.ctypes.data)
    view = memoryview(text.data)
    return [bytes(view[start : start + n]) if start >= 0 else b"" for start, n in spans.tolist()]


def inputs_digests(
    data: Text, start: NDArray[np.int64], nbytes: NDArray[np.int64]
) -> NDArray[np.uint64] | None:
    """For each of the objects at these places in `data`, a number that is equal where the inputs
    that torch.profiler recorded are written alike, and else is not (but for one in 2**64); None
    where the scanner was not built.
    """
    library = _library()
    if library is None:
        return None
    within = (start >= 0) & (nbytes >= 0) & (nbytes <= len(data)) & (start <= len(data) - nbytes)
    if not within.all():
        raise ValueError("an object lies outside the text.")
    text = np.frombuffer(data, np.uint8)
    places = [np.ascontiguousarray(a, np.int64) for a in (start, nbytes)]
    digests = np.empty(len(start), np.uint64)
    library.rl_scan_inputs(
        text.ctypes.data, len(start), *(a.ctypes.data for a in places), digests.ctypes.data
    )
    return digests
