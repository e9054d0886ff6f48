"""A recording as columns: one NumPy array per field, integer nanoseconds, names in a string table.

Every reader (Kineto, Nsight Systems, XPlane) gives the same noun, `Recording`, and every analysis
takes it. What a reader fills in:

- `events`: the columns, one row per event that is kept, in the order of the file. Times are
  nanoseconds since `metadata.base_time_ns`; instants have duration 0. ABSENT (-1) stands where
  a file has no value: a host event has no stream, a kernel of a CUDA graph may have no correlation.
- `names` and `threads`: the tables that the columns `name` and `thread` index.
- `metadata`: what the file says about itself. One recording is one rank; a file that holds several
  (an Nsight export of two devices) is read into several recordings.
- `arguments`: how to read the arguments of one event when they are to be shown. A reader decides
  what `args_start` and `args_nbytes` mean to it (a byte range, a row number).
- `notes`: one sentence for each thing that is not in the file or could not be read, to be printed.
"""

from collections.abc import Mapping
from dataclasses import dataclass, fields
from enum import IntEnum
from typing import TYPE_CHECKING, Protocol, runtime_checkable

import numpy as np
from numpy.typing import NDArray

from ridgeline.errors import TraceError
from ridgeline.traces.arrow_extra import require_arrow

if TYPE_CHECKING:
    import pyarrow

ABSENT = -1

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]


class Kind(IntEnum):
    """What an event is. The numbers are those in the column `kind`."""

    OTHER = 0
    CPU_OP = 1  # an operator on the host: aten::mm
    ANNOTATION = 2  # a range that the program named: ProfilerStep#3, NVTX
    PYTHON = 3  # a call of a Python function
    RUNTIME = 4  # a call into the device's runtime or driver: cudaLaunchKernel, hipMemcpyAsync
    KERNEL = 5
    MEMCPY = 6
    MEMSET = 7
    SYNC = 8  # the device's or a stream's synchronisation, as the device's recorder saw it
    DEVICE_ANNOTATION = 9  # a host range projected onto a stream; overlaps kernels, never busy
    MEMORY = 10  # an instant: bytes allocated or freed
    COUNTER = 11
    INSTANT = 12
    OVERHEAD = 13  # the profiler's own work


DEVICE_KINDS = (Kind.KERNEL, Kind.MEMCPY, Kind.MEMSET)
"""What keeps a device busy."""


class Dialect(IntEnum):
    """Which tool wrote a recording."""

    KINETO = 0
    NSYS = 1
    XPLANE = 2


class Arguments(Protocol):
    """Reads the arguments of one event."""

    def decode(self, start: int, nbytes: int) -> Mapping[str, Json]:
        """The arguments at the place that the columns `args_start` and `args_nbytes` name."""
        ...


@runtime_checkable
class Digests(Protocol):
    """Tells apart what many events were given without reading it; what `arguments` may also do."""

    def digests(
        self, start: NDArray[np.int64], nbytes: NDArray[np.int64]
    ) -> NDArray[np.uint64] | None:
        """Numbers that are equal where the inputs of operators are; None where it cannot tell."""
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Thread:
    """A row of a timeline: process and thread as the file writes them; they need not be numbers."""

    process: str
    thread: str


@dataclass(frozen=True, slots=True, kw_only=True)
class Device:
    """What a recording says about a device. name: "" where it is not recorded (AMD)."""

    id: int
    name: str
    memory_bytes: int | None = None
    num_multiprocessors: int | None = None
    compute_capability: tuple[int, int] | None = None
    bandwidth_bytes_per_s: int | None = None
    l2_bytes: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Metadata:
    """What a recording says about itself. base_time_ns: the time since 1970 at which its clock is
    zero; 0 where times are absolute or the file does not say. num_recorded: events in the file,
    kept or not; num_python: calls of Python functions among those not kept. process_groups: ranks
    of the world, of each that the rank was in.
    """

    dialect: Dialect
    rank: int | None = None
    world_size: int | None = None
    base_time_ns: int = 0
    devices: tuple[Device, ...] = ()
    num_recorded: int = 0
    num_python: int = 0
    process_groups: tuple[tuple[int, ...], ...] = ()

    def __post_init__(self) -> None:
        if self.rank is not None and self.rank < 0:
            raise TraceError(f"a rank is 0 or more, not {self.rank}.")
        if self.world_size is not None and self.world_size < 1:
            raise TraceError(f"a world has 1 rank or more, not {self.world_size}.")


@dataclass(frozen=True, slots=True, kw_only=True)
class Columns:
    """One array per field, all of one length. `args_start` is ABSENT where an event has no
    arguments.
    """

    start_ns: NDArray[np.int64]
    duration_ns: NDArray[np.int64]
    kind: NDArray[np.uint8]
    name: NDArray[np.int32]
    thread: NDArray[np.int32]
    device: NDArray[np.int32]
    stream: NDArray[np.int64]
    correlation: NDArray[np.int64]
    external_id: NDArray[np.int64]
    args_start: NDArray[np.int64]
    args_nbytes: NDArray[np.int64]

    def __post_init__(self) -> None:
        for name, dtype in DTYPES.items():
            column = getattr(self, name)
            if column.dtype != dtype or column.shape != self.start_ns.shape:
                raise TraceError(
                    f"column {name} is {column.dtype}{list(column.shape)}, not "
                    f"{dtype}{list(self.start_ns.shape)}."
                )

    def __len__(self) -> int:
        return len(self.start_ns)

    @property
    def end_ns(self) -> NDArray[np.int64]:
        """When each event ends."""
        return self.start_ns + self.duration_ns

    def take(self, rows: NDArray[np.intp] | NDArray[np.bool_]) -> "Columns":
        """The rows of those numbers, or where a mask is true, in order."""
        return Columns(**{name: getattr(self, name)[rows] for name in DTYPES})

    def where(self, *kinds: Kind) -> NDArray[np.intp]:
        """Row numbers of the events of these kinds, in the order of the file."""
        is_wanted = np.zeros(256, bool)  # one look-up per event: all analyses ask this
        is_wanted[list(kinds)] = True
        return np.flatnonzero(is_wanted[self.kind])


DTYPES: Mapping[str, np.dtype[np.generic]] = {
    "start_ns": np.dtype(np.int64),
    "duration_ns": np.dtype(np.int64),
    "kind": np.dtype(np.uint8),
    "name": np.dtype(np.int32),
    "thread": np.dtype(np.int32),
    "device": np.dtype(np.int32),
    "stream": np.dtype(np.int64),
    "correlation": np.dtype(np.int64),
    "external_id": np.dtype(np.int64),
    "args_start": np.dtype(np.int64),
    "args_nbytes": np.dtype(np.int64),
}
"""Every column and the type of its numbers."""

assert tuple(DTYPES) == tuple(field.name for field in fields(Columns))


def columns(num_events: int, **given: NDArray[np.generic]) -> Columns:
    """Columns of `num_events` rows: those given, converted to their type, and what a file that
    lacks the others has: ABSENT, and for times, kind and length 0.
    """
    filled = {
        name: np.asarray(given.pop(name)).astype(dtype, copy=False)
        if name in given
        else np.full(num_events, ABSENT if name in _MAY_BE_ABSENT else 0, dtype)
        for name, dtype in DTYPES.items()
    }
    if given:
        raise TraceError(f"no columns {sorted(given)}; there are {', '.join(DTYPES)}.")
    return Columns(**filled)


_MAY_BE_ABSENT = ("device", "stream", "correlation", "external_id", "args_start")


@dataclass(frozen=True, slots=True, kw_only=True)
class Recording:
    """What one rank's recorder saw. source: where it was read, for messages."""

    source: str
    metadata: Metadata
    events: Columns
    names: tuple[str, ...]
    threads: tuple[Thread, ...]
    arguments: Arguments | None = None
    notes: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for column, table in ((self.events.name, self.names), (self.events.thread, self.threads)):
            if len(column) and not 0 <= column.min() <= column.max() < len(table):
                raise TraceError(f"{self.source}: an event names row {column.max()} of no table.")
        if len(self.events) and self.events.duration_ns.min() < 0:
            raise TraceError(f"{self.source}: an event ends before it starts.")

    def __len__(self) -> int:
        return len(self.events)

    def name_of(self, row: int) -> str:
        """The name of the event in row `row`."""
        return self.names[int(self.events.name[row])]

    def thread_of(self, row: int) -> Thread:
        """The thread of the event in row `row`; of a kernel, the row of its stream."""
        return self.threads[int(self.events.thread[row])]

    def args_of(self, row: int) -> Mapping[str, Json]:
        """The arguments of the event in row `row`, read now; empty where it has none."""
        start = int(self.events.args_start[row])
        if self.arguments is None or start == ABSENT:
            return {}
        return self.arguments.decode(start, int(self.events.args_nbytes[row]))

    def to_arrow(self) -> "pyarrow.Table":
        """The events as an Arrow table: every column, names and kinds as dictionaries of text,
        null where a value is absent. Raises MissingExtra without pyarrow.
        """
        pa = require_arrow()
        table = {name: getattr(self.events, name) for name in DTYPES}
        arrays = {
            name: pa.array(column, mask=column == ABSENT if name in _MAY_BE_ABSENT else None)
            for name, column in table.items()
        }
        texts = {
            "name": (self.events.name, self.names),
            "kind": (self.events.kind.astype(np.int32), [kind.name.lower() for kind in Kind]),
            "thread": (self.events.thread, [f"{t.process}/{t.thread}" for t in self.threads]),
        }
        for name, (codes, words) in texts.items():
            arrays[name] = pa.DictionaryArray.from_arrays(codes, pa.array(words, pa.string()))
        return pa.table(arrays)
