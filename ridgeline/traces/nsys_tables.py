"""The tables of an Nsight Systems export that hold events, and how their rows are named.

Source: the schema that exports carry themselves (comments in `sqlite_master`), of versions 2024.5
to 2026.2, and CUPTI's enumerations, which the tables ENUM_* repeat."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

from ridgeline.traces.columns import Kind


@dataclass(frozen=True, slots=True, kw_only=True)
class EventTable:
    """One table of events. name_column: refers to StringIds; "" where the numbers in `code_columns`
    say the name, as `name_of_codes` has it, or else all rows are called `name`."""

    table: str
    kind: Kind
    is_device: bool
    name_column: str = ""
    code_columns: tuple[str, ...] = ()
    name: str = ""
    has_end: bool = True

    @property
    def time_columns(self) -> tuple[str, ...]:
        """The columns of its times; an instant has a start only."""
        return ("start", "end") if self.has_end else ("start",)


COPIES = {
    0: "Memcpy",
    1: "Memcpy HtoD",
    2: "Memcpy DtoH",
    3: "Memcpy HtoA",
    4: "Memcpy AtoH",
    5: "Memcpy AtoA",
    6: "Memcpy AtoD",
    7: "Memcpy DtoA",
    8: "Memcpy DtoD",
    9: "Memcpy HtoH",
    10: "Memcpy PtoP",
    11: "Memcpy HtoD (unified)",
    12: "Memcpy DtoH (unified)",
    13: "Memcpy DtoD (unified)",
}
"""ENUM_CUDA_MEMCPY_OPER, in the words of torch.profiler."""
SYNCS = {
    0: "Sync",
    1: "Event Sync",
    2: "Stream Wait Event",
    3: "Stream Sync",
    4: "Context Sync",
}
"""ENUM_CUPTI_SYNC_TYPE, in the words of torch.profiler."""
MEMORY_KINDS = {0: "Pageable", 1: "Pinned", 2: "Device", 3: "Array", 4: "Managed"}
"""ENUM_CUDA_MEM_KIND."""

GRAPHS = EventTable(
    table="CUPTI_ACTIVITY_KIND_GRAPH_TRACE",
    kind=Kind.KERNEL,
    is_device=True,
    name="CUDA graph, traced whole",
)
KERNELS = EventTable(
    table="CUPTI_ACTIVITY_KIND_KERNEL",
    kind=Kind.KERNEL,
    is_device=True,
    name_column="demangledName",
)
CALLS = EventTable(
    table="CUPTI_ACTIVITY_KIND_RUNTIME",
    kind=Kind.RUNTIME,
    is_device=False,
    name_column="nameId",
)
TABLES: tuple[EventTable, ...] = (
    KERNELS,
    EventTable(
        table="CUPTI_ACTIVITY_KIND_MEMCPY",
        kind=Kind.MEMCPY,
        is_device=True,
        code_columns=("copyKind", "srcKind", "dstKind"),
        name="Memcpy",
    ),
    EventTable(
        table="CUPTI_ACTIVITY_KIND_MEMSET",
        kind=Kind.MEMSET,
        is_device=True,
        name="Memset (Device)",
    ),
    GRAPHS,
    EventTable(
        table="CUPTI_ACTIVITY_KIND_SYNCHRONIZATION",
        kind=Kind.SYNC,
        is_device=True,
        code_columns=("syncType",),
        name="Sync",
    ),
    CALLS,
    EventTable(
        table="CUPTI_ACTIVITY_KIND_OVERHEAD",
        kind=Kind.OVERHEAD,
        is_device=False,
        name_column="nameId",
    ),
    EventTable(
        table="PROFILER_OVERHEAD", kind=Kind.OVERHEAD, is_device=False, name_column="nameId"
    ),
    EventTable(table="OSRT_API", kind=Kind.OTHER, is_device=False, name_column="nameId"),
    EventTable(
        table="CUDA_GPU_MEMORY_USAGE_EVENTS",
        kind=Kind.MEMORY,
        is_device=True,
        name="[memory]",
        has_end=False,
    ),
)
"""In this order they make a recording."""

NVTX = "NVTX_EVENTS"
NVTX_KINDS: Mapping[int, Kind] = {
    34: Kind.INSTANT,  # a mark
    59: Kind.ANNOTATION,  # push and pop
    60: Kind.ANNOTATION,  # start and end
}
"""`eventType` -> what it is; other types name threads, categories and domains."""
NVTX_DOMAIN = 75

NO_STREAM = 2**32 - 1
"""The `streamId` of what waits for a whole context."""

_VERSION = re.compile(r"(?:_ptsz|_ptds)?(?:_v\d{4,5})?$")
_OPERATOR = re.compile(r", (?:seq|op_id|sizes|input_op_ids) = ")


def plain_call(name: str) -> str:
    """A runtime call as it is written in a program: cudaLaunchKernel_v7000 without the version."""
    return _VERSION.sub("", name)


def operator_of(text: str) -> tuple[str, bool]:
    """The name in an NVTX range and whether it is one of PyTorch's operators, whose ranges
    (`torch.autograd.profiler.emit_nvtx`) carry numbers: "aten::mm, seq = 7, op_id = 9"."""
    found = _OPERATOR.search(text)
    return (text[: found.start()], True) if found else (text, False)


def name_of_codes(kind: Kind, codes: tuple[int, ...]) -> str:
    """The name of a copy or a synchronisation, in the words of torch.profiler: "Memcpy HtoD
    (Pinned -> Device)"."""
    if kind is Kind.SYNC:
        return SYNCS.get(codes[0], SYNCS[0])
    copy = COPIES.get(codes[0], COPIES[0])
    ends = [MEMORY_KINDS.get(code, "") for code in codes[1:]]
    return f"{copy} ({' -> '.join(ends)})" if all(ends) else copy
