"""How much memory was in use over time, and what lived when most was, from `[memory]` instants."""

from collections import Counter
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from ridgeline.traces.columns import ABSENT, Json, Kind, Recording
from ridgeline.traces.host import is_host_only
from ridgeline.traces.intervals import Times
from ridgeline.traces.nesting import Rows, innermost

_MOST_POINTS = 512
_HOST, _DEVICE = 0, 1  # "Device Type" of c10: CPU is 0; of others the one that occurs most counts


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryEvents:
    """What was allocated (nbytes above 0) and freed on one device, as columns in order of time.
    allocated, reserved: what the allocator counted after each; capacity_bytes: of the device, None
    where the recording does not say.
    """

    rows: Rows
    time_ns: Times
    nbytes: Times
    address: Times
    allocated: Times
    reserved: Times
    capacity_bytes: int | None

    def __len__(self) -> int:
        return len(self.rows)

    def most_between(self, start_ns: int, end_ns: int) -> tuple[int | None, int | None]:
        """The most bytes allocated in a stretch of time, and the least that were free: neither
        reserved nor, on the host, allocated. None where it was not recorded.
        """
        first = max(0, int(np.searchsorted(self.time_ns, start_ns, side="right")) - 1)
        last = int(np.searchsorted(self.time_ns, end_ns, side="left"))
        if last <= first:
            return None, None
        held = np.maximum(self.allocated, self.reserved)[first:last]
        free = None if self.capacity_bytes is None else self.capacity_bytes - int(held.max())
        return int(self.allocated[first:last].max()), free


@dataclass(frozen=True, slots=True, kw_only=True)
class LiveMemory:
    """What one operator had allocated that lived at the peak. op: "" for what was allocated before
    the recording began, or in no operator.
    """

    op: str
    nbytes: int
    num_blocks: int


@dataclass(frozen=True, slots=True, kw_only=True)
class MemoryTimeline:
    """Memory over time. Times since the recording's first event of memory; curve: (time_ns,
    allocated, reserved), of which each is the most in its part of the time.
    """

    device: str
    peak_ns: int
    peak_allocated_bytes: int
    peak_reserved_bytes: int
    capacity_bytes: int | None
    num_events: int
    curve: tuple[tuple[int, int, int], ...]
    live: tuple[LiveMemory, ...]


def memory_events(recording: Recording) -> MemoryEvents:
    """Allocations on the device that did the work, empty where none was recorded."""
    events = recording.events
    rows = events.where(Kind.MEMORY)
    rows = rows[np.argsort(events.start_ns[rows], kind="stable")]
    args = [recording.args_of(row) for row in rows.tolist()]
    places = [(one.get("Device Type"), one.get("Device Id")) for one in args]
    place = _place(places, is_on_host=is_host_only(recording))
    kept = [number for number, found in enumerate(places) if found == place]
    table = np.array([[_whole(args[i].get(key)) for key in _KEYS] for i in kept], np.int64)
    columns = table.reshape(-1, len(_KEYS)).T
    chosen = rows[np.array(kept, np.intp)]
    return MemoryEvents(
        rows=chosen,
        time_ns=events.start_ns[chosen],
        nbytes=columns[0],
        address=columns[1],
        allocated=columns[2],
        reserved=columns[3],
        capacity_bytes=_capacity(recording, place),
    )


_KEYS = ("Bytes", "Addr", "Total Allocated", "Total Reserved")
_Place = tuple[Json, Json]


def _place(places: list[_Place], *, is_on_host: bool) -> _Place:
    """The device that memory is followed on: the host where it did the work, else the one with
    most events that is no host."""
    wanted = [one for one in places if (one[0] == _HOST) == is_on_host]
    ((found, _),) = Counter(map(repr, wanted)).most_common(1) or [("", 0)]
    return next((one for one in wanted if repr(one) == found), (None, None))


def _capacity(recording: Recording, place: _Place) -> int | None:
    devices = {device.id: device.memory_bytes for device in recording.metadata.devices}
    is_device = place[0] != _HOST and isinstance(place[1], int)
    return devices.get(place[1]) if is_device else None  # type: ignore[arg-type]


def _whole(value: Json) -> int:
    return value if isinstance(value, int) and -(2**63) <= value < 2**63 else 0


def memory_timeline(recording: Recording, found: MemoryEvents) -> MemoryTimeline | None:
    """Memory over time; None where no allocation was recorded (profile_memory=True records it)."""
    if not len(found):
        return None
    peak = int(found.allocated.argmax())
    args = recording.args_of(int(found.rows[0]))
    is_host = args.get("Device Type") == _HOST
    return MemoryTimeline(
        device="host" if is_host else f"device {args.get('Device Id')}",
        peak_ns=int(found.time_ns[peak] - found.time_ns[0]),
        peak_allocated_bytes=int(found.allocated[peak]),
        peak_reserved_bytes=int(found.reserved.max()),
        capacity_bytes=found.capacity_bytes,
        num_events=len(found),
        curve=_curve(found),
        live=_live(recording, found, peak),
    )


def _curve(found: MemoryEvents) -> tuple[tuple[int, int, int], ...]:
    """At most 512 points; of each bin of time with events, the most."""
    time = found.time_ns - found.time_ns[0]
    if len(found) <= _MOST_POINTS:
        bins: NDArray[np.int64] = np.arange(len(found))
    else:
        bins = time * _MOST_POINTS // (int(time[-1]) + 1)
    firsts = np.flatnonzero(np.diff(bins, prepend=ABSENT))
    most = [np.maximum.reduceat(column, firsts) for column in (found.allocated, found.reserved)]
    return tuple(zip(time[firsts].tolist(), *(column.tolist() for column in most), strict=True))


def _live(recording: Recording, found: MemoryEvents, peak: int) -> tuple[LiveMemory, ...]:
    """What lived at the peak by the operator that allocated it, most bytes first."""
    blocks: dict[int, int] = {}
    for number in range(peak + 1):
        if found.nbytes[number] > 0:
            blocks[int(found.address[number])] = number
        else:
            blocks.pop(int(found.address[number]), None)
    numbers = np.array(sorted(blocks.values()), np.intp)
    rows = found.rows[numbers]
    ops = innermost(recording.events, recording.events.where(Kind.CPU_OP), rows)
    sums: dict[str, list[int]] = {}
    for op, nbytes in zip(ops.tolist(), found.nbytes[numbers].tolist(), strict=True):
        total = sums.setdefault("" if op == ABSENT else recording.name_of(op), [0, 0])
        total[0] += nbytes
        total[1] += 1
    before = int(found.allocated[peak]) - sum(nbytes for nbytes, _ in sums.values())
    if before > 0:  # allocated before the recording began
        sums.setdefault("", [0, 0])[0] += before
    live = [LiveMemory(op=op, nbytes=n, num_blocks=count) for op, (n, count) in sums.items()]
    return tuple(sorted(live, key=lambda one: -one.nbytes))
